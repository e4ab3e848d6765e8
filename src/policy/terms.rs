//! A reply's own terms of reuse, read once: how long it is fresh, how old it came, what must be asked.
//!
//! Of two lifetimes the one that is meant for shared caches holds: a targeted field (RFC 9213) before `Cache-Control`,
//! `s-maxage` before `max-age`, either before `Expires` (RFC 9111 §4.2.1). Where a targeted field is there the others
//! are not looked at. Times that the upstream states are compared with its own `Date`, so that its clock need not be
//! right. What does not parse is read as less fresh.

use super::fields::Fields;
use crate::header::{CacheControl, parse_date};
use std::time::{Duration, SystemTime};

/// Final statuses whose meaning for a cache is known here: what `must-understand` asks for.
pub(super) const UNDERSTOOD: &[u16] = &[
    200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501,
];

/// Statuses whose replies may be reused without a word on their freshness (RFC 9110 §15.1).
const HEURISTIC: &[u16] = &[200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501];

/// A reply that says nothing is taken for fresh for this share of the time that it has not changed: a tenth, the
/// typical setting of RFC 9111 §4.2.2.
pub(super) const HEURISTIC_SHARE: u32 = 10;

/// How long a reply is fresh, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The lifetime is explicit.
    Explicit(Duration),
    /// No explicit lifetime, but a validator and a status that allow a heuristic; the guess, where there is something to
    /// guess from.
    Heuristic(Option<Duration>),
    /// No explicit lifetime, and no heuristic is allowed.
    Unknown,
}

/// A reply's own terms of reuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The directives in force: of a targeted field where there is one (RFC 9213), else of `Cache-Control`.
    pub control: CacheControl,
    /// How long it is fresh.
    pub lifetime: Lifetime,
    /// Whether it can be revalidated.
    pub has_validator: bool,
}

impl Terms {
    /// Reads the fields of a reply with that status, received at `received`.
    pub fn read(status: u16, fields: &(impl Fields + ?Sized), received: SystemTime) -> Self {
        let (mut control, targeted) = directives(fields);
        // A cache that understands the status ignores `no-store` beside `must-understand` (RFC 9111 §5.2.2.3).
        control.no_store &= !(control.must_understand && UNDERSTOOD.contains(&status));
        let has_validator = fields.has("etag") || fields.first("last-modified").and_then(parse_date).is_some();
        let explicit = control.s_maxage.or(control.max_age);
        // A targeted field stands for `Expires` too.
        let lifetime = explicit.or_else(|| (!targeted).then(|| until_expiry(fields, received)).flatten());
        let guessable = HEURISTIC.contains(&status) || control.public;
        Self {
            lifetime: match lifetime {
                Some(lifetime) => Lifetime::Explicit(lifetime),
                None if guessable && has_validator => Lifetime::Heuristic(unchanged_for(fields, received)),
                None => Lifetime::Unknown,
            },
            control,
            has_validator,
        }
    }

    /// Whether a stale reply may never be used without the upstream's word (RFC 9111 §4.2.4): for a shared cache
    /// `proxy-revalidate` and `s-maxage` say that too.
    pub fn must_revalidate(&self) -> bool {
        let control = &self.control;
        control.must_revalidate || control.proxy_revalidate || control.s_maxage.is_some() || control.no_cache.is_all()
    }
}

/// The directives in force, and whether they are targeted.
pub(super) fn directives(fields: &(impl Fields + ?Sized)) -> (CacheControl, bool) {
    let targeted = CacheControl::targeted(fields.lines("cdn-cache-control"));
    if let Some(control) = targeted.or_else(|| CacheControl::surrogate(fields.lines("surrogate-control"))) {
        return (control, true);
    }
    let control = fields.lines("cache-control");
    (CacheControl::of(control), false)
}

/// `Expires` minus `Date`. A malformed one is in the past (RFC 9111 §5.3); of several the first counts (§4.2.1).
fn until_expiry(fields: &(impl Fields + ?Sized), received: SystemTime) -> Option<Duration> {
    let expires = fields.first("expires")?;
    let lifetime = parse_date(expires).and_then(|end| end.duration_since(date(fields, received)).ok());
    Some(lifetime.unwrap_or_default())
}

/// A tenth of the time between `Last-Modified` and `Date`.
fn unchanged_for(fields: &(impl Fields + ?Sized), received: SystemTime) -> Option<Duration> {
    let modified = fields.first("last-modified").and_then(parse_date)?;
    let unchanged = date(fields, received).duration_since(modified).ok()?;
    Some(unchanged / HEURISTIC_SHARE)
}

fn date(fields: &(impl Fields + ?Sized), received: SystemTime) -> SystemTime {
    fields.first("date").and_then(parse_date).unwrap_or(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_seconds;
    use crate::header::print_date;

    const NOW: u64 = 1_000_000_000;

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds)
    }

    fn lifetime(status: u16, fields: &[(&str, &str)]) -> Lifetime {
        Terms::read(status, fields, at(NOW)).lifetime
    }

    fn seconds(seconds: u64) -> Lifetime {
        Lifetime::Explicit(Duration::from_secs(seconds))
    }

    #[test]
    fn the_most_specific_freshness_directive_wins() {
        let (date, expires) = (print_date(at(NOW)), print_date(at(NOW + 10)));
        let dated = [("date", date.as_str()), ("expires", expires.as_str())];
        let with = |more: &[(&str, &str)]| {
            let all: Vec<_> = dated.iter().chain(more).copied().collect();
            lifetime(200, &all)
        };
        assert_eq!(with(&[]), seconds(10));
        assert_eq!(with(&[("cache-control", "max-age=20")]), seconds(20));
        assert_eq!(with(&[("cache-control", "max-age=20, s-maxage=30")]), seconds(30));
        let targeted = [("cache-control", "s-maxage=30"), ("cdn-cache-control", "max-age=40")];
        assert_eq!(with(&targeted), seconds(40));
        // A targeted field without a lifetime silences the other fields all the same.
        assert_eq!(with(&[("cdn-cache-control", "no-store")]), Lifetime::Unknown);
        // A directive that does not parse counts as absent.
        assert_eq!(with(&[("cdn-cache-control", "max-age=4, &")]), seconds(10));
    }

    #[test]
    fn an_expiry_that_does_not_read_is_in_the_past() {
        for expires in ["0", "-1", "Thu, 01 Dec 1994 16:00:00 CEST", "soon"] {
            assert_eq!(lifetime(200, &[("expires", expires)]), seconds(0), "{expires}");
        }
        let later = print_date(at(NOW + 10));
        assert_eq!(
            lifetime(200, &[("expires", &later)]),
            seconds(10),
            "without a date it counts from now"
        );
        assert_eq!(lifetime(200, &[("expires", &later), ("expires", "0")]), seconds(10));
        assert_eq!(lifetime(200, &[("expires", "0"), ("expires", &later)]), seconds(0));
    }

    #[test]
    fn heuristic_freshness_needs_a_validator_and_a_status_that_allows_it() {
        let modified = print_date(at(NOW - 1000));
        let says = [("last-modified", modified.as_str())];
        assert_eq!(
            lifetime(200, &says),
            Lifetime::Heuristic(Some(Duration::from_secs(100)))
        );
        assert_eq!(
            lifetime(404, &says),
            Lifetime::Heuristic(Some(Duration::from_secs(100)))
        );
        assert_eq!(lifetime(302, &says), Lifetime::Unknown);
        assert_eq!(lifetime(200, &[]), Lifetime::Unknown);
        assert_eq!(lifetime(200, &[("etag", "\"a\"")]), Lifetime::Heuristic(None));
        let public = [("last-modified", modified.as_str()), ("cache-control", "public")];
        assert_eq!(
            lifetime(302, &public),
            Lifetime::Heuristic(Some(Duration::from_secs(100)))
        );
        assert_eq!(lifetime(200, &[("last-modified", "yesterday")]), Lifetime::Unknown);
    }
}
