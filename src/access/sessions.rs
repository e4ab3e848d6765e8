//! Sessions of the operator's browser: a one-time code, made by who may rule, becomes a cookie.
//!
//! ```text
//! code      128 random bits, good for CODE_LIFETIME and for one exchange
//! cookie    256 random bits, HttpOnly, SameSite=Strict; good for SESSION_LIFETIME after its last use, and until the
//!           server ends
//! ```
//!
//! Digests are kept, not what they are of. The cookie's name has this server's own part, since browsers send the cookies
//! of one host to all of its ports.

use crate::clock::Instant;
use crate::crypto::digest::{SHA256, digest};
use crate::crypto::{NoRandomness, is_same_secret, random};
use crate::key::Hex;
use crate::sync::lock;
use std::sync::Mutex;
use std::time::Duration;

/// The time within which a code is exchanged. A judgement: to copy it to another machine by hand.
pub(crate) const CODE_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// The time for which a session is open after its last use. A judgement: a working day.
pub(crate) const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// Codes that wait to be exchanged, and sessions that are open: the oldest makes room. A judgement.
const MAX_KEPT: usize = 64;

/// The start of the cookie's name, whichever server's it is.
pub(super) const COOKIE_PREFIX: &[u8] = b"millpond-session";

type SecretDigest = [u8; 32];

/// The codes and sessions of one server.
#[derive(Debug)]
pub(crate) struct Sessions {
    cookie_name: String,
    /// Held for a look and a change in memory.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the time of its end; the oldest first.
    codes: Vec<(SecretDigest, Instant)>,
    open: Vec<(SecretDigest, Instant)>,
}

impl Sessions {
    /// No sessions yet.
    ///
    /// # Errors
    /// Where the operating system gives no random bits.
    pub(super) fn new() -> Result<Self, NoRandomness> {
        let own: [u8; 4] = random()?;
        Ok(Self {
            cookie_name: format!("millpond-session-{}", Hex(&own)),
            state: Mutex::default(),
        })
    }

    /// The name of the cookie.
    pub(crate) fn cookie_name(&self) -> &str {
        &self.cookie_name
    }

    /// A new code.
    ///
    /// # Errors
    /// Where the operating system gives no random bits.
    pub(crate) fn new_code(&self) -> Result<String, NoRandomness> {
        let bits: [u8; 16] = random()?;
        let code = Hex(&bits).to_string();
        push(&mut lock(&self.state).codes, &code, CODE_LIFETIME);
        Ok(code)
    }

    /// Exchanges a code for the value of a cookie; `None` for one that was never made, is too old, or was exchanged.
    ///
    /// # Errors
    /// Where the operating system gives no random bits; the code is good then as before.
    pub(crate) fn redeem(&self, code: &str) -> Result<Option<String>, NoRandomness> {
        let bits: [u8; 32] = random()?;
        let mut state = lock(&self.state);
        let Some(index) = find(&mut state.codes, code) else {
            return Ok(None);
        };
        state.codes.remove(index);
        let value = Hex(&bits).to_string();
        push(&mut state.open, &value, SESSION_LIFETIME);
        Ok(Some(value))
    }

    /// Whether a session of that cookie is open, which it stays from now on for its lifetime.
    pub(crate) fn is_open(&self, cookie: &str) -> bool {
        let mut state = lock(&self.state);
        match find(&mut state.open, cookie) {
            None => false,
            Some(index) => {
                state.open[index].1 = Instant::now() + SESSION_LIFETIME;
                true
            }
        }
    }

    /// Ends the session of that cookie.
    pub(crate) fn close(&self, cookie: &str) {
        let mut state = lock(&self.state);
        if let Some(index) = find(&mut state.open, cookie) {
            state.open.remove(index);
        }
    }
}

fn digest_of(secret: &str) -> SecretDigest {
    let mut bytes = SecretDigest::default();
    bytes.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    bytes
}

fn push(kept: &mut Vec<(SecretDigest, Instant)>, secret: &str, lifetime: Duration) {
    if kept.len() >= MAX_KEPT {
        kept.remove(0);
    }
    kept.push((digest_of(secret), Instant::now() + lifetime));
}

/// The place of the secret among those that are still good. All are compared: the time taken tells nothing of them.
fn find(kept: &mut Vec<(SecretDigest, Instant)>, secret: &str) -> Option<usize> {
    let now = Instant::now();
    kept.retain(|(_, until)| *until > now);
    let wanted = digest_of(secret);
    let mut found = None;
    for (index, (known, _)) in kept.iter().enumerate() {
        if is_same_secret(known, &wanted) {
            found = Some(index);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_code_is_good_once_and_for_its_time() {
        let sessions = Sessions::new().expect("random bits");
        let code = sessions.new_code().expect("made");
        assert_eq!(code.len(), 32);
        let cookie = sessions.redeem(&code).expect("random bits").expect("good");
        assert_eq!(sessions.redeem(&code).expect("random bits"), None);
        assert!(sessions.is_open(&cookie) && !sessions.is_open(&code) && !sessions.is_open(""));
        let late = sessions.new_code().expect("made");
        tokio::time::advance(CODE_LIFETIME).await;
        assert_eq!(sessions.redeem(&late).expect("random bits"), None);
        // A use prolongs a session.
        tokio::time::advance(SESSION_LIFETIME - CODE_LIFETIME - Duration::from_secs(1)).await;
        assert!(sessions.is_open(&cookie));
        tokio::time::advance(SESSION_LIFETIME - Duration::from_secs(1)).await;
        assert!(sessions.is_open(&cookie));
        tokio::time::advance(SESSION_LIFETIME).await;
        assert!(!sessions.is_open(&cookie));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_when_it_is_closed_and_tables_are_bounded() {
        let sessions = Sessions::new().expect("random bits");
        let first = sessions.new_code().expect("made");
        let cookie = sessions.redeem(&first).expect("random bits").expect("good");
        sessions.close(&cookie);
        assert!(!sessions.is_open(&cookie));
        let codes: Vec<String> = (0..=MAX_KEPT).map(|_| sessions.new_code().expect("made")).collect();
        assert_eq!(sessions.redeem(&codes[0]).expect("random bits"), None);
        assert!(sessions.redeem(&codes[1]).expect("random bits").is_some());
    }
}
