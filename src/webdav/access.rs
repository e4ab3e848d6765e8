//! Who asks, and whether that one may: before anything of the directory is revealed, its conditions included.
//!
//! ```text
//! without a file of tokens   everybody reads; programs on this machine write, pages of other sites do not, and nor does
//!                            a request that a proxy here has forwarded for another machine
//! with one                   who has a token does what its scopes say; who has none what [anonymous] says
//! ```
//!
//! A token comes as `Authorization: Bearer`, or as the password of `Basic` for clients that know no better. The file
//! is read again when it changes; one that does not read leaves the tokens as they were.

use super::{Origin, forwarded};
use crate::directory::{Caller, Right, Tokens, TreePath};
use crate::serve::{Problem, refusal};
use crate::sync::lock;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How often it is looked whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The tokens in use.
#[derive(Debug)]
pub struct Access {
    file: Option<TokenFile>,
}

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    written: Option<SystemTime>,
    tokens: Arc<Tokens>,
}

/// What may be wrong with a file of tokens at the start.
#[derive(Debug, thiserror::Error)]
#[error("tokens: {}: {mistake}", path.display())]
pub struct BadTokens {
    path: PathBuf,
    mistake: String,
}

impl Access {
    /// Access as that file says; without one everybody reads, and who is on this machine writes.
    ///
    /// # Errors
    /// Where the file does not read.
    pub fn open(path: Option<&Path>) -> Result<Self, BadTokens> {
        let Some(path) = path else {
            return Ok(Self { file: None });
        };
        let (written, tokens) = read(path).map_err(|mistake| BadTokens {
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

    /// Who asks.
    ///
    /// # Errors
    /// 401 where credentials are shown that nobody has, 403 where a page of another site asks for a change.
    fn caller(&self, head: &RequestHead, right: Right) -> Result<Caller, Problem> {
        let Some(file) = &self.file else {
            let refusal = (right == Right::Write)
                .then(|| refusal(head.peer_addr, &head.headers).or_else(|| forwarded::stranger(&head.headers)))
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

impl Origin {
    /// Lets through who may do that there.
    ///
    /// # Errors
    /// 401 and 403.
    pub(super) fn admit_to(&self, right: Right, path: &TreePath, head: &RequestHead) -> Result<(), Problem> {
        let caller = self.access.caller(head, right)?;
        allowed(&caller, caller.may(right, path))
    }

    /// Lets through who may do what the request does there.
    ///
    /// # Errors
    /// 401 and 403.
    pub(super) fn admit(&self, path: &TreePath, head: &RequestHead) -> Result<(), Problem> {
        let right = match head.method.as_str() {
            "GET" | "HEAD" | "PROPFIND" | "COPY" => Right::Read,
            _ => Right::Write,
        };
        let other = match head.method.as_str() {
            "MOVE" | "COPY" => Some(self.destination(head)?),
            _ => None,
        };
        // COPY reads here and writes there.
        let caller = self
            .access
            .caller(head, if other.is_some() { Right::Write } else { right })?;
        let may = caller.may(right, path) && other.is_none_or(|other| caller.may(Right::Write, &other));
        allowed(&caller, may)
    }
}

impl Origin {
    /// Whether hidden names are there for that caller: for all where the operator says so, else for those who may write
    /// them.
    pub(super) fn shows_hidden(&self, path: &TreePath, head: &RequestHead) -> bool {
        let writes = || {
            let caller = self.access.caller(head, Right::Write);
            caller.is_ok_and(|caller| caller.may(Right::Write, path))
        };
        self.settings.hidden || (self.writer.is_some() && writes())
    }

    /// The name of the token that the request shows, for the log.
    pub(super) fn caller_name(&self, head: &RequestHead) -> Option<String> {
        let token = token_of(head.headers.get(header::AUTHORIZATION)?)?;
        self.access.file.as_ref()?.tokens().caller_of(&token)?.name.clone()
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
                        // Told once, and tried again when it changes again.
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
    // Before the text: what is written in between is read again.
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let text = std::fs::read_to_string(path).map_err(|error| format!("could not read it: {error}"))?;
    Ok((written, Tokens::read(&text)?))
}

/// The token that an `Authorization` holds.
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

/// Text that comes as base64 (RFC 4648 §4).
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
