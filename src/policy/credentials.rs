//! The credentials that a request shows, and whether a reply to them is for others too. Pure.
//!
//! `Authorization` is not the only field by which an upstream knows its client: browsers send cookies, and media servers
//! and APIs have fields of their own. What was fetched with any of them may be that client's alone, and a reply that says
//! nothing of its reuse does not tell. Values are compared by a digest, and never kept.

use super::fields::Fields;
use super::terms::{Lifetime, Terms};
use std::time::Duration;

/// Fields that are credentials: of RFC 9110 and RFC 6265, of Jellyfin and Emby, of Plex, and those that APIs commonly have.
/// In lower case.
const KNOWN: &[&str] = &[
    "authorization",
    "cookie",
    "access-token",
    "api-key",
    "apikey",
    "auth-token",
    "ocp-apim-subscription-key",
    "private-token",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-apikey",
    "x-auth",
    "x-auth-key",
    "x-auth-token",
    "x-authorization",
    "x-emby-authorization",
    "x-emby-token",
    "x-goog-api-key",
    "x-gitlab-token",
    "x-jellyfin-token",
    "x-mediabrowser-token",
    "x-plex-token",
    "x-session-token",
    "x-token",
    "x-user-token",
    "x-vault-token",
];

/// The credentials of a request, as a digest of all of their fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credentials([u8; 16]);

/// Whether a field of that name, in lower case, is a credential; `more` are the operator's own.
pub fn is_credential(name: &str, more: &[String]) -> bool {
    KNOWN.contains(&name) || more.iter().any(|own| own == name)
}

impl Credentials {
    /// The credentials of a request whose names of fields are in lower case; `None` where it shows none.
    pub fn of(fields: &[(String, String)], more: &[String]) -> Option<Self> {
        let mut shown: Vec<&(String, String)> = fields.iter().filter(|(name, _)| is_credential(name, more)).collect();
        if shown.is_empty() {
            return None;
        }
        // Stable: lines of one field stay in their order.
        shown.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut digest = blake3::Hasher::new();
        for (name, value) in shown {
            for part in [name, value] {
                digest.update(&(part.len() as u64).to_le_bytes());
                digest.update(part.as_bytes());
            }
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.finalize().as_bytes()[..16]);
        Some(Self(bytes))
    }
}

/// Whether a reply to a request with credentials says itself that others may have it: `public`, or for how long it may be
/// reused. A shared cache is told by `private` where it may not.
pub fn may_be_anyones(terms: &Terms, fields: &(impl Fields + ?Sized)) -> bool {
    let stated = matches!(terms.lifetime, Lifetime::Explicit(lifetime) if lifetime > Duration::ZERO);
    let control = &terms.control;
    (control.public || control.s_maxage.is_some() || stated) && !fields.has("set-cookie")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_seconds;

    fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn requests_are_told_apart_by_their_credentials_alone() {
        let of = |lines: &[(&str, &str)]| Credentials::of(&fields(lines), &[]);
        assert_eq!(of(&[("accept", "*/*"), ("range", "bytes=0-")]), None);
        let alice = of(&[("cookie", "session=alice"), ("accept", "*/*")]);
        assert_eq!(alice, of(&[("accept", "video/*"), ("cookie", "session=alice")]));
        assert_ne!(alice, of(&[("cookie", "session=mallory")]));
        assert_ne!(of(&[("x-plex-token", "a")]), of(&[("x-emby-token", "a")]));
        assert_ne!(
            of(&[("cookie", "ab"), ("x-token", "c")]),
            of(&[("cookie", "a"), ("x-token", "bc")])
        );
        let own = [String::from("x-house-pass")];
        assert!(Credentials::of(&fields(&[("x-house-pass", "1")]), &own).is_some());
        assert_eq!(of(&[("x-house-pass", "1")]), None);
    }

    #[test]
    fn a_reply_is_anyones_where_it_says_so() {
        let anyones = |reply: &[(&str, &str)]| {
            let terms = Terms::read(200, reply, from_unix_seconds(1_000_000_000));
            may_be_anyones(&terms, reply)
        };
        for control in ["public", "max-age=60", "s-maxage=60", "public, max-age=0"] {
            assert!(anyones(&[("cache-control", control)]), "{control}");
        }
        assert!(!anyones(&[]));
        assert!(!anyones(&[("cache-control", "max-age=0")]));
        assert!(!anyones(&[("last-modified", "Mon, 01 Jan 2001 00:00:00 GMT")]));
        assert!(!anyones(&[("cache-control", "public"), ("set-cookie", "a=b")]));
    }
}
