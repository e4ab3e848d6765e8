//! Authorization: the caller of a request, and whether that caller may do it, before anything of the directory is
//! revealed.
//!
//! ```text
//! without a file of tokens   everybody reads; programs on this machine write, but not pages of other sites in a
//!                            browser here, nor requests that a proxy here has forwarded for another machine
//! with one                   a token's holder may do what its scopes say; everybody else what [anonymous] says
//! ```
//!
//! A token comes as `Authorization: Bearer`, or as the password of `Basic` for clients that know no better, or in
//! `Millpond-Token`, where `Authorization` is for an upstream. Prefixes of tokens are paths of the server, with the
//! mount's name. The file is read again when its time of change is another; a file that does not read leaves the tokens
//! as they were.
//!
//! What is the server's own of a request ends here ([`Authorizer::admit`]): cache policy, keys, logs and upstreams never
//! see a token, so a hit with one is the hit that it is without.

use super::{DirectoryService, forwarded};
use crate::clock::Instant;
use crate::directory::{Caller, Right, Tokens, TreePath};
use crate::proxy::{Problem, refusal};
use crate::sync::lock;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// The interval at which the file's time of change is looked at. A judgement: a token that was withdrawn is of use for
/// a second more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The field for a token of this server on a request whose `Authorization` is for an upstream.
pub const TOKEN_FIELD: HeaderName = HeaderName::from_static("millpond-token");

/// The cookie that is this server's own, beside those of upstreams.
const COOKIE_NAME: &str = "millpond-session";

/// The tokens in use, or none.
#[derive(Debug)]
pub struct Authorizer {
    file: Option<TokenFile>,
}

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    /// Locked for a look at the file once a second, and while a changed one is read: a small file, of the operator's own.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    written: Option<SystemTime>,
    tokens: Arc<Tokens>,
}

/// A mistake in the file of tokens, met at the start.
#[derive(Debug, thiserror::Error)]
#[error("tokens: {}: {mistake}", path.display())]
pub struct TokenFileError {
    path: PathBuf,
    mistake: String,
}

/// A request that may be answered from the cache.
#[derive(Debug)]
pub struct Admitted<'h> {
    /// The request as policy and the upstream are to see it.
    pub head: Cow<'h, RequestHead>,
    /// The name of the caller's token.
    pub caller: Option<String>,
}

impl Authorizer {
    /// The tokens of that file. Without a file everybody reads, and programs on this machine write.
    ///
    /// # Errors
    /// Where the file does not read.
    pub fn open(path: Option<&Path>) -> Result<Self, TokenFileError> {
        let Some(path) = path else {
            return Ok(Self { file: None });
        };
        let (written, tokens) = read(path).map_err(|mistake| TokenFileError {
            path: path.to_owned(),
            mistake,
        })?;
        let state = State {
            looked: Instant::now(),
            written,
            tokens: Arc::new(tokens),
        };
        Ok(Self {
            file: Some(TokenFile {
                path: path.to_owned(),
                state: Mutex::new(state),
            }),
        })
    }

    /// Whether there is no file of tokens.
    pub fn is_open(&self) -> bool {
        self.file.is_none()
    }

    /// The request for what an upstream has, as policy and the upstream are to see it: without what is this server's own.
    ///
    /// # Errors
    /// 401 for a `Millpond-Token` that is no token, and for a caller who may not read the path; 403 for one whose token
    /// does not allow it.
    pub fn admit<'h>(&self, head: &'h RequestHead) -> Result<Admitted<'h>, Problem> {
        let Some(file) = &self.file else {
            return Ok(Admitted {
                head: without_own(head, false),
                caller: None,
            });
        };
        let tokens = file.tokens();
        let known = |token: String| tokens.caller_of(&token).cloned();
        // Every line of the field: whichever shows a token of ours is taken off.
        let mut shown = head.headers.get_all(header::AUTHORIZATION).filter_map(token_of);
        let in_authorization = shown.find_map(known);
        let is_ours = in_authorization.is_some();
        let caller = match head.headers.get(TOKEN_FIELD) {
            Some(field) => own_token(field)
                .and_then(known)
                .ok_or_else(|| unknown("the Millpond-Token is not one of this server's tokens"))?,
            // Credentials that are no token of ours are for the upstream.
            None => in_authorization.unwrap_or_else(|| tokens.anonymous().clone()),
        };
        allowed(&caller, caller.may(Right::Read, &path_for_scopes(head.uri.path())))?;
        Ok(Admitted {
            head: without_own(head, is_ours),
            caller: caller.name,
        })
    }

    /// Whether a request carries something that ends at this server, whoever its caller is.
    pub fn has_own_fields(headers: &HeaderMap) -> bool {
        headers.contains_key(TOKEN_FIELD) || headers.get_all(header::COOKIE).any(has_own_cookie)
    }

    /// The name of the token that the request shows, for the log.
    pub fn caller_name(&self, head: &RequestHead) -> Option<String> {
        let tokens = self.file.as_ref()?.tokens();
        tokens.caller_of(&shown_token(&head.headers)?)?.name.clone()
    }

    /// Fails unless the caller may do that at every path of the server: what the API tells is of all paths.
    ///
    /// # Errors
    /// 401 and 403.
    pub fn allow_everywhere(&self, right: Right, head: &RequestHead) -> Result<(), Problem> {
        let caller = self.caller(head, right)?;
        allowed(&caller, caller.may(right, &TreePath::root()))
    }

    /// The caller of a request that needs that right.
    ///
    /// # Errors
    /// 401 for credentials that no token has; 403, without a file of tokens, for a change that comes from elsewhere.
    fn caller(&self, head: &RequestHead, right: Right) -> Result<Caller, Problem> {
        let Some(file) = &self.file else {
            let refusal = (right == Right::Write)
                .then(|| {
                    refusal(head.peer_addr, &head.headers).or_else(|| forwarded::refusal_if_forwarded(&head.headers))
                })
                .flatten();
            return match refusal {
                Some(why) => Err(Problem::of_origin(StatusCode::FORBIDDEN, why)),
                None => Ok(Caller::unrestricted()),
            };
        };
        let tokens = file.tokens();
        let shows = [TOKEN_FIELD, header::AUTHORIZATION];
        match shows.iter().any(|field| head.headers.contains_key(field)) {
            false => Ok(tokens.anonymous().clone()),
            true => {
                let token = shown_token(&head.headers);
                let known = token.and_then(|token| tokens.caller_of(&token).cloned());
                known.ok_or_else(|| unknown("the credentials are not those of any token"))
            }
        }
    }
}

impl DirectoryService {
    /// Fails unless the caller has that right to the path.
    ///
    /// # Errors
    /// 401 and 403.
    pub(super) fn authorize_right(&self, right: Right, path: &TreePath, head: &RequestHead) -> Result<(), Problem> {
        let caller = self.authorizer.caller(head, right)?;
        allowed(&caller, caller.may(right, &self.server_path(path)))
    }

    /// The path as the server has it: with the mount's name.
    fn server_path<'a>(&self, path: &'a TreePath) -> Cow<'a, TreePath> {
        match &self.settings.name {
            Some(name) => Cow::Owned(path.beneath(name)),
            None => Cow::Borrowed(path),
        }
    }

    /// Fails unless the caller may do what the request does, at its path and at its `Destination`.
    ///
    /// # Errors
    /// 401 and 403.
    pub(super) fn authorize(&self, path: &TreePath, head: &RequestHead) -> Result<(), Problem> {
        let right = match head.method.as_str() {
            "GET" | "HEAD" | "PROPFIND" | "COPY" => Right::Read,
            _ => Right::Write,
        };
        let other = match head.method.as_str() {
            "MOVE" | "COPY" => Some(self.destination(head)?),
            _ => None,
        };
        // COPY reads at the path and writes at the destination.
        let caller = self
            .authorizer
            .caller(head, if other.is_some() { Right::Write } else { right })?;
        let may = caller.may(right, &self.server_path(path))
            && other.is_none_or(|other| caller.may(Right::Write, &self.server_path(&other)));
        allowed(&caller, may)
    }
}

impl DirectoryService {
    /// Whether the caller sees names that begin with a dot: everybody where the settings say so, else those who may
    /// write them.
    pub(super) fn shows_hidden(&self, path: &TreePath, head: &RequestHead) -> bool {
        let writes = || {
            let caller = self.authorizer.caller(head, Right::Write);
            caller.is_ok_and(|caller| caller.may(Right::Write, &self.server_path(path)))
        };
        self.settings.hidden || (self.writer.is_some() && writes())
    }
}

impl TokenFile {
    fn tokens(&self) -> Arc<Tokens> {
        let mut state = lock(&self.state);
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            let written = std::fs::metadata(&self.path)
                .and_then(|metadata| metadata.modified())
                .ok();
            if written != state.written {
                match read(&self.path) {
                    Ok((written, tokens)) => {
                        state.written = written;
                        state.tokens = Arc::new(tokens);
                        tracing::info!(path = %self.path.display(), "read the tokens again");
                    }
                    Err(mistake) => {
                        // The mistake is logged once, and the file read again when it changes again.
                        state.written = written;
                        tracing::error!(path = %self.path.display(), mistake, "the tokens do not read; those of before count");
                    }
                }
            }
        }
        Arc::clone(&state.tokens)
    }
}

fn read(path: &Path) -> Result<(Option<SystemTime>, Tokens), String> {
    // The time is taken before the text: a change in between has the file read again.
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let text = std::fs::read_to_string(path).map_err(|error| format!("could not read it: {error}"))?;
    Ok((written, Tokens::read(&text)?))
}

/// The path of an upstream's resource, as prefixes of tokens are compared with it. A path that is none in a tree (dots,
/// an escaped slash), and one whose mount is spelled otherwise than it is routed by, is beneath no prefix but the root.
fn path_for_scopes(raw: &str) -> TreePath {
    let mount = raw.split('/').nth(1).unwrap_or_default();
    match mount.contains('%') {
        true => TreePath::root(),
        false => TreePath::parse(raw).unwrap_or_else(|_| TreePath::root()),
    }
}

/// The token that a request shows.
fn shown_token(headers: &HeaderMap) -> Option<String> {
    match headers.get(TOKEN_FIELD) {
        Some(field) => own_token(field),
        None => token_of(headers.get(header::AUTHORIZATION)?),
    }
}

/// The token in a `Millpond-Token`.
fn own_token(field: &HeaderValue) -> Option<String> {
    Some(field.to_str().ok()?.trim().to_owned())
}

/// The request without the server's own fields and, where `Authorization` has a token of ours, without that.
fn without_own(head: &RequestHead, is_ours: bool) -> Cow<'_, RequestHead> {
    if !is_ours && !Authorizer::has_own_fields(&head.headers) {
        return Cow::Borrowed(head);
    }
    let mut head = head.clone();
    head.headers.remove(TOKEN_FIELD);
    if is_ours {
        head.headers.remove(header::AUTHORIZATION);
    }
    let cookies: Vec<HeaderValue> = head.headers.remove(header::COOKIE).collect();
    for cookie in cookies {
        match without_own_cookie(&cookie) {
            None => head.headers.append(header::COOKIE, cookie),
            Some(Some(rest)) => head.headers.append(header::COOKIE, rest),
            Some(None) => {}
        }
    }
    Cow::Owned(head)
}

/// The cookies of a `Cookie` field (RFC 6265 §4.2.1), as bytes: an upstream's own may be no text.
fn cookies(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let pairs = field.as_bytes().split(|byte| *byte == b';');
    pairs.map(<[u8]>::trim_ascii)
}

fn is_own_cookie(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.trim_ascii() == COOKIE_NAME.as_bytes()
}

fn has_own_cookie(field: &HeaderValue) -> bool {
    cookies(field).any(is_own_cookie)
}

/// The field without the server's own cookie: `None` where it has none, and no field at all where it has no other.
fn without_own_cookie(field: &HeaderValue) -> Option<Option<HeaderValue>> {
    has_own_cookie(field).then(|| {
        let others: Vec<&[u8]> = cookies(field).filter(|pair| !is_own_cookie(pair)).collect();
        let rest = HeaderValue::from_bytes(&others.join(&b"; "[..])).ok();
        rest.filter(|rest| !rest.is_empty())
    })
}

/// The token in an `Authorization`.
fn token_of(field: &HeaderValue) -> Option<String> {
    let (scheme, rest) = field.to_str().ok()?.trim().split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(rest.trim().to_owned()),
        "basic" => {
            let decoded = base64(rest.trim())?;
            let (_, password) = decoded.split_once(':')?;
            Some(password.to_owned())
        }
        _ => None,
    }
}

/// Base64 text (RFC 4648 §4).
fn base64(text: &str) -> Option<String> {
    // A structured field's byte sequence is base64 between colons.
    let bytes = crate::header::byte_sequence(&format!(":{text}:"))?;
    String::from_utf8(bytes).ok()
}

fn allowed(caller: &Caller, may: bool) -> Result<(), Problem> {
    match (may, &caller.name) {
        (true, _) => Ok(()),
        (false, None) => Err(unknown("this needs a token that allows it")),
        (false, Some(name)) => {
            let what = format!("the token {name} does not allow that here");
            Err(Problem::of_origin(StatusCode::FORBIDDEN, what))
        }
    }
}

fn unknown(why: &str) -> Problem {
    Problem::of_origin(StatusCode::UNAUTHORIZED, why).challenging()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_cookie_is_removed_and_the_others_stay() {
        let cleaned = |field: &str| {
            let field = HeaderValue::from_str(field).expect("a value");
            without_own_cookie(&field).map(|rest| rest.map(|rest| rest.to_str().expect("text").to_owned()))
        };
        assert_eq!(cleaned("a=1; b=millpond-session"), None);
        assert_eq!(cleaned("millpond-session=x"), Some(None));
        let some = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(cleaned("a=1; millpond-session=x; b=2"), some("a=1; b=2"));
        assert_eq!(cleaned("millpond-session=x;a=1;millpond-session=y"), some("a=1"));
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_a_password() {
        let token = |field: &str| token_of(&HeaderValue::from_str(field).expect("a value"));
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(token("Basic dXNlcjphYmM=").as_deref(), Some("abc"));
        for field in ["abc", "Digest abc", "Basic !!", "Basic YWJj", ""] {
            assert_eq!(token(field), None, "{field}");
        }
    }
}
