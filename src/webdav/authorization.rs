//! Authorization: the caller of a request, and whether that caller may do it, before anything of the directory is
//! revealed.
//!
//! ```text
//! without a file of tokens   everybody reads; programs on this machine write, but not pages of other sites in a
//!                            browser here, nor requests that a proxy here has forwarded for another machine
//! with one                   a token's holder may do what its scopes say; everybody else what [anonymous] says
//! ```
//!
//! A token comes as `Authorization: Bearer`, or as the password of `Basic` for clients that know no better. The file
//! is read again when its time of change is another; a file that does not read leaves the tokens as they were.

use super::{DirectoryService, forwarded};
use crate::directory::{Caller, Right, Tokens, TreePath};
use crate::serve::{Problem, refusal};
use crate::sync::lock;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// The interval at which the file's time of change is looked at. A judgement: a token that was withdrawn is of use for
/// a second more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
        match head.headers.get(header::AUTHORIZATION) {
            None => Ok(tokens.anonymous().clone()),
            Some(field) => {
                let token = token_of(field);
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
        allowed(&caller, caller.may(right, path))
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
        let may = caller.may(right, path) && other.is_none_or(|other| caller.may(Right::Write, &other));
        allowed(&caller, may)
    }
}

impl DirectoryService {
    /// Whether the caller sees names that begin with a dot: everybody where the settings say so, else those who may
    /// write them.
    pub(super) fn shows_hidden(&self, path: &TreePath, head: &RequestHead) -> bool {
        let writes = || {
            let caller = self.authorizer.caller(head, Right::Write);
            caller.is_ok_and(|caller| caller.may(Right::Write, path))
        };
        self.settings.hidden || (self.writer.is_some() && writes())
    }

    /// The name of the token that the request shows, for the log.
    pub(super) fn caller_name(&self, head: &RequestHead) -> Option<String> {
        let token = token_of(head.headers.get(header::AUTHORIZATION)?)?;
        self.authorizer.file.as_ref()?.tokens().caller_of(&token)?.name.clone()
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
