//! The `wait` preference (RFC 7240 §4.3): how long a client would rather wait than get less.
//!
//! A preference is a wish: one that does not read is passed over, and the next is looked at. Names are compared without
//! regard to case, parameters after a semicolon do not count, and of several the first that reads holds (RFC 7240 §2).

use super::list_members;
use std::time::Duration;

/// The longest wait that is honoured: past this the client may as well ask again. A judgement: nginx as a proxy
/// gives up after as long a silence.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The first `wait=N` among the `Prefer` fields, in seconds, at most a minute; `None` without one.
pub fn preferred_wait<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Duration> {
    fields.flat_map(list_members).find_map(|member| {
        // Parameters of a preference follow a semicolon.
        let preference = member.split(';').next()?;
        let (name, value) = preference.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        let seconds: u32 = value.trim().trim_matches('"').parse().ok()?;
        Some(Duration::from_secs(seconds.into()).min(MAX_WAIT))
    })
}

/// Whether `respond-async` is among the `Prefer` fields (RFC 7240 §4.1).
pub fn prefers_async<'a>(fields: impl Iterator<Item = &'a str>) -> bool {
    let name = |member: &'a str| member.split([';', '=']).next().unwrap_or_default().trim();
    fields
        .flat_map(list_members)
        .any(|member| name(member).eq_ignore_ascii_case("respond-async"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_is_found_among_other_preferences() {
        let wait = |field: &str| preferred_wait([field].into_iter()).map(|wait| wait.as_secs());
        assert_eq!(wait("wait=3"), Some(3));
        assert_eq!(wait("respond-async, Wait = 10; x"), Some(10));
        assert_eq!(wait("wait=0"), Some(0));
        assert_eq!(wait("wait=100000"), Some(60));
        assert_eq!(wait("wait=-1"), None);
        assert_eq!(wait("wait"), None);
    }
}
