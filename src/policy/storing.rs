//! Whether a reply may be kept by a shared cache (RFC 9111 §3).
//!
//! What forbids is asked before what permits, and the answer names what it was. A reply is kept where nothing forbids
//! it and it is fresh by its own word, or its status allows a guess. Where the RFC leaves a choice the more careful one
//! is made for what may be one client's: credentials, cookies, codings that nobody asked for. A verdict against storing
//! is not one against sharing: clients that wait for the same reply may have it where nothing says that it is for one
//! of them.

use super::fields::Fields;
use super::request::RequestDirectives;
use super::terms::{Lifetime, Terms, UNDERSTOOD};
use super::vary::varies_by_all;
use std::fmt;
use std::time::Duration;

/// Why a reply is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// The method is none whose replies are kept.
    Method,
    /// The reply's `no-store`.
    NoStore,
    /// The request's.
    RequestNoStore,
    /// `private`.
    Private,
    /// `must-understand`, with a status that is not understood.
    NotUnderstood,
    /// The request has credentials, and the reply does not say that it is for others too (RFC 9111 §3.5).
    Authorization,
    /// The reply sets a cookie, and is not `public`.
    SetCookie,
    /// `Vary: *`: it never matches a later request.
    VaryAll,
    /// The reply has no explicit freshness, and its status allows no heuristic.
    NoFreshness,
    /// The reply is empty, without explicit freshness: servers that fail answer so too.
    Empty,
    /// The reply is a part that nothing joins to others: it is for the request that it was asked for.
    Part,
    /// The reply has a content coding, although `identity` was asked for, and does not say that it may be reused: who knows for
    /// which client.
    Coded,
}

impl NotStored {
    /// The reason in one word, for `Cache-Status` (RFC 9211 §2.8).
    pub fn token(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::NoStore => "no-store",
            Self::RequestNoStore => "request-no-store",
            Self::Private => "private",
            Self::NotUnderstood => "must-understand",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::VaryAll => "vary",
            Self::NoFreshness => "no-freshness",
            Self::Coded => "content-encoding",
            Self::Empty => "empty",
            Self::Part => "part",
        }
    }
}

impl NotStored {
    /// Whether a later reply of the same URL will hardly be another one's either: the reply said so, not the
    /// request.
    pub fn is_of_the_url(self) -> bool {
        matches!(self, Self::NoStore | Self::Private | Self::SetCookie | Self::VaryAll)
    }

    /// Whether those who wait for the same URL may have the reply as well: nothing says that it is for one
    /// client, only nothing says that it may be kept.
    pub fn may_be_shared(self) -> bool {
        matches!(self, Self::NoFreshness | Self::Coded | Self::Empty)
    }
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// Decides whether a reply to a request with that method and those directives may be kept.
///
/// `authorized` says whether the request carried credentials. A reply without a word on its freshness is kept
/// where its status allows a guess, with a validator or not: a film is played by range requests that would
/// otherwise each fetch it anew.
///
/// # Errors
/// Why it may not.
pub fn storable(
    method: &str,
    asked: &RequestDirectives,
    authorized: bool,
    status: u16,
    fields: &(impl Fields + ?Sized),
    terms: &Terms,
) -> Result<(), NotStored> {
    let control = &terms.control;
    if method != "GET" {
        return Err(NotStored::Method);
    }
    if control.must_understand && !UNDERSTOOD.contains(&status) {
        return Err(NotStored::NotUnderstood);
    }
    if control.no_store {
        return Err(NotStored::NoStore);
    }
    if asked.no_store {
        return Err(NotStored::RequestNoStore);
    }
    if control.private.is_all() {
        return Err(NotStored::Private);
    }
    let for_all = control.public || control.s_maxage.is_some() || control.must_revalidate;
    if authorized && !for_all {
        return Err(NotStored::Authorization);
    }
    let cookie_is_private = control.private.fields().iter().any(|field| field == "set-cookie");
    if fields.has("set-cookie") && !control.public && !cookie_is_private {
        return Err(NotStored::SetCookie);
    }
    if varies_by_all(fields) {
        return Err(NotStored::VaryAll);
    }
    if fields.has("content-encoding") && !matches!(terms.lifetime, Lifetime::Explicit(_)) {
        return Err(NotStored::Coded);
    }
    let guessable = matches!(status, 200 | 203 | 204 | 206) || control.public;
    match terms.lifetime {
        Lifetime::Unknown if !guessable => Err(NotStored::NoFreshness),
        _ => Ok(()),
    }
}

/// Decides whether the reply to a POST may be kept for later GETs of the same URL (RFC 9110 §9.3.3): it says for how
/// long, and its `Content-Location` is that URL.
///
/// # Errors
/// Why it may not.
pub fn storable_for_get(
    asked: &RequestDirectives,
    authorized: bool,
    status: u16,
    fields: &(impl Fields + ?Sized),
    terms: &Terms,
    names_own_url: bool,
) -> Result<(), NotStored> {
    let explicit = matches!(terms.lifetime, Lifetime::Explicit(lifetime) if lifetime > Duration::ZERO);
    if status != 200 || !explicit || !names_own_url {
        return Err(NotStored::Method);
    }
    storable("GET", asked, authorized, status, fields, terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_seconds;

    fn verdict(status: u16, request: &[(&str, &str)], reply: &[(&str, &str)]) -> Result<(), NotStored> {
        let asked = RequestDirectives::read(request);
        let terms = Terms::read(status, reply, from_unix_seconds(1_000_000_000));
        storable("GET", &asked, request.has("authorization"), status, reply, &terms)
    }

    #[test]
    fn a_200_and_any_final_status_with_freshness_are_storable() {
        assert_eq!(verdict(200, &[], &[]), Ok(()));
        assert_eq!(verdict(200, &[], &[("cache-control", "max-age=1")]), Ok(()));
        assert_eq!(verdict(404, &[], &[("cache-control", "max-age=1")]), Ok(()));
        assert_eq!(verdict(599, &[], &[("cache-control", "max-age=1")]), Ok(()));
        assert_eq!(verdict(302, &[], &[("expires", "0")]), Ok(()));
        assert_eq!(verdict(404, &[], &[]), Err(NotStored::NoFreshness));
        assert_eq!(verdict(302, &[], &[]), Err(NotStored::NoFreshness));
    }

    #[test]
    fn no_store_private_and_vary_star_are_not_storable() {
        let no = |control: &str| verdict(200, &[], &[("cache-control", control)]);
        assert_eq!(no("no-store"), Err(NotStored::NoStore));
        assert_eq!(no("private, max-age=5"), Err(NotStored::Private));
        assert_eq!(no("private=\"x\", max-age=5"), Ok(()));
        assert_eq!(
            verdict(200, &[("cache-control", "no-store")], &[]),
            Err(NotStored::RequestNoStore)
        );
        assert_eq!(verdict(200, &[], &[("vary", "accept, *")]), Err(NotStored::VaryAll));
        // A targeted field stands for the other.
        let targeted = [("cache-control", "private"), ("cdn-cache-control", "max-age=60")];
        assert_eq!(verdict(200, &[], &targeted), Ok(()));
    }

    #[test]
    fn a_reply_to_credentials_is_kept_only_where_it_says_that_it_is_for_others_too() {
        let with = |control: &str| verdict(200, &[("authorization", "Basic eA==")], &[("cache-control", control)]);
        assert_eq!(with("max-age=60"), Err(NotStored::Authorization));
        for word in ["public", "s-maxage=60", "must-revalidate"] {
            assert_eq!(with(&format!("max-age=60, {word}")), Ok(()), "{word}");
        }
    }

    #[test]
    fn a_cookie_is_shared_only_where_it_is_public() {
        let with = |control: &str| verdict(200, &[], &[("set-cookie", "a=b"), ("cache-control", control)]);
        assert_eq!(with("max-age=60"), Err(NotStored::SetCookie));
        assert_eq!(with("max-age=60, public"), Ok(()));
        assert_eq!(with("max-age=60, private=\"set-cookie\""), Ok(()));
    }

    #[test]
    fn must_understand_overrides_no_store_for_known_statuses() {
        let with = |status| {
            verdict(
                status,
                &[],
                &[("cache-control", "no-store, must-understand, max-age=60")],
            )
        };
        assert_eq!(with(200), Ok(()));
        assert_eq!(with(499), Err(NotStored::NotUnderstood));
    }
}
