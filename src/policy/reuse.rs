//! Whether a stored reply may answer a request (RFC 9111 §4).
//!
//! ```text
//! may not be stored ──────────────────────────────────▶ refetch
//! `no-cache` of the request or the reply ─────────────▶ ask
//! no lifetime, or older than the request takes ───────▶ ask
//! fresh, and for as long as `min-fresh` wants ────────▶ the store
//! stale, and the reply insists (or `min-fresh`) ──────▶ ask
//! stale by no more than `max-stale` ──────────────────▶ the store
//! stale by less than `stale-while-revalidate` ────────▶ the store, and ask meanwhile
//! else ───────────────────────────────────────────────▶ ask
//! ```
//!
//! To ask is to revalidate where there is a validator, else to fetch anew. What forbids reuse is looked at before what
//! permits it. A lifetime that nobody stated is guessed, unless the status or the want of a validator forbids a guess.
//! A verdict carries its reason, for the log and `Cache-Status`. Pure: the age is handed in.

use super::request::RequestDirectives;
use super::terms::{HEURISTIC_SHARE, Lifetime, Terms};
use std::time::Duration;

/// The permitted reuse of a complete stored reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Answer from the store.
    Fresh,
    /// The reply is stale, and the request takes it all the same (`max-stale`).
    Stale,
    /// The reply is stale: answer from the store, and ask the upstream meanwhile (RFC 5861 §3).
    StaleMeanwhile,
    /// Ask the upstream whether it is unchanged, then answer.
    Revalidate(Reason),
    /// Fetch anew.
    Refetch(Reason),
}

/// Why a reply is not simply reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The reply may not be stored: it was shared with the requests that waited for it, and goes with them.
    NotStorable,
    /// The reply's `no-cache`.
    NoCache,
    /// The reply's freshness lifetime is over.
    Stale,
    /// The request asks for one that the upstream vouches for now: `no-cache`, `max-age`, `min-fresh`.
    Request,
    /// The reply has no explicit freshness, and no basis for a heuristic one.
    Unknown,
}

/// The defaults of this server, beyond the replies' own directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreshnessDefaults {
    /// How long a reply is fresh that says nothing of that, has a validator, and is nothing that changes often;
    /// the most that is guessed for others.
    pub fresh_for: Duration,
    /// Whether the reply is the body of a film or a song, which do not change.
    pub lasting: bool,
    /// By how much a stale reply is used where the upstream fails.
    pub stale_if_error: Duration,
}

impl Terms {
    /// How long it is fresh.
    pub fn lifetime(&self, leeway: FreshnessDefaults) -> Option<Duration> {
        match self.lifetime {
            Lifetime::Explicit(lifetime) => Some(lifetime),
            // Media that was modified a moment ago may be a recording that grows: not taken for fresh yet.
            Lifetime::Heuristic(Some(guess)) if leeway.lasting && guess * HEURISTIC_SHARE < leeway.fresh_for => {
                Some(guess)
            }
            Lifetime::Heuristic(_) if leeway.lasting => Some(leeway.fresh_for),
            Lifetime::Heuristic(Some(guess)) => Some(guess.min(leeway.fresh_for)),
            Lifetime::Heuristic(None) => Some(Duration::ZERO),
            Lifetime::Unknown => None,
        }
    }

    /// Decides on a complete reply with these terms that is `age` old.
    pub fn reuse(&self, asked: &RequestDirectives, age: Duration, leeway: FreshnessDefaults) -> Reuse {
        if self.control.forbids_storing() {
            return Reuse::Refetch(Reason::NotStorable);
        }
        let again = |reason| match self.has_validator {
            true => Reuse::Revalidate(reason),
            false => Reuse::Refetch(reason),
        };
        if asked.no_cache {
            return again(Reason::Request);
        }
        if self.control.no_cache.is_all() {
            return again(Reason::NoCache);
        }
        let Some(lifetime) = self.lifetime(leeway) else {
            return again(Reason::Unknown);
        };
        if asked.max_age.is_some_and(|most| age > most) {
            return again(Reason::Request);
        }
        if age < lifetime {
            let left = lifetime - age;
            return match asked.min_fresh.is_some_and(|least| left < least) {
                true => again(Reason::Request),
                false => Reuse::Fresh,
            };
        }
        let staleness = age - lifetime;
        if self.must_revalidate() || asked.min_fresh.is_some() {
            return again(Reason::Stale);
        }
        if asked.max_stale.is_some_and(|most| staleness <= most) {
            return Reuse::Stale;
        }
        match self.control.stale_while_revalidate {
            Some(most) if staleness < most => Reuse::StaleMeanwhile,
            _ => again(Reason::Stale),
        }
    }

    /// Whether a reply that is `age` old may answer where the upstream cannot be asked or fails (RFC 9111
    /// §4.2.4, RFC 5861 §4).
    pub fn may_outlive_errors(&self, asked: &RequestDirectives, age: Duration, leeway: FreshnessDefaults) -> bool {
        if self.must_revalidate() || self.control.forbids_storing() || asked.no_cache {
            return false;
        }
        let staleness = age.saturating_sub(self.lifetime(leeway).unwrap_or_default());
        let stated = asked.stale_if_error.or(self.control.stale_if_error);
        staleness <= stated.unwrap_or(leeway.stale_if_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_seconds;

    const LEEWAY: FreshnessDefaults = FreshnessDefaults {
        fresh_for: Duration::from_secs(3600),
        lasting: false,
        stale_if_error: Duration::from_secs(86_400),
    };

    fn terms(fields: &[(&str, &str)]) -> Terms {
        Terms::read(200, fields, from_unix_seconds(1_000_000_000))
    }

    fn decide(reply: &str, request: &str, age: u64) -> Reuse {
        let terms = terms(&[("cache-control", reply), ("etag", "\"a\"")]);
        let asked = RequestDirectives::read(&[("cache-control", request)][..]);
        terms.reuse(&asked, Duration::from_secs(age), LEEWAY)
    }

    #[test]
    fn a_reply_is_fresh_for_as_long_as_it_says() {
        assert_eq!(decide("max-age=10", "", 9), Reuse::Fresh);
        assert_eq!(decide("max-age=10", "", 10), Reuse::Revalidate(Reason::Stale));
        assert_eq!(
            decide("no-cache, max-age=10", "", 0),
            Reuse::Revalidate(Reason::NoCache)
        );
        assert_eq!(decide("no-store", "", 0), Reuse::Refetch(Reason::NotStorable));
        assert_eq!(decide("private", "", 0), Reuse::Refetch(Reason::NotStorable));
        let unvalidated = terms(&[("cache-control", "max-age=10")]);
        let asked = RequestDirectives::default();
        let reuse = unvalidated.reuse(&asked, Duration::from_secs(10), LEEWAY);
        assert_eq!(reuse, Reuse::Refetch(Reason::Stale));
    }

    #[test]
    fn a_reply_without_freshness_is_stale_unless_it_is_lasting_media() {
        let asked = RequestDirectives::default();
        let tagged = terms(&[("etag", "\"a\"")]);
        let lasting = FreshnessDefaults {
            lasting: true,
            ..LEEWAY
        };
        let after = |seconds| Duration::from_secs(seconds);
        assert_eq!(tagged.reuse(&asked, after(0), LEEWAY), Reuse::Revalidate(Reason::Stale));
        assert_eq!(tagged.reuse(&asked, after(3599), lasting), Reuse::Fresh);
        assert_eq!(
            tagged.reuse(&asked, after(3600), lasting),
            Reuse::Revalidate(Reason::Stale)
        );
        assert_eq!(
            terms(&[]).reuse(&asked, after(0), lasting),
            Reuse::Refetch(Reason::Unknown)
        );
    }

    #[test]
    fn request_directives_tighten_or_relax_freshness() {
        let reload = Reuse::Revalidate(Reason::Request);
        assert_eq!(decide("max-age=100", "no-cache", 1), reload);
        assert_eq!(decide("max-age=100", "max-age=5", 5), Reuse::Fresh);
        assert_eq!(decide("max-age=100", "max-age=5", 6), reload);
        assert_eq!(decide("max-age=100", "min-fresh=20", 80), Reuse::Fresh);
        assert_eq!(decide("max-age=100", "min-fresh=20", 81), reload);
        assert_eq!(decide("max-age=100", "max-stale=20", 120), Reuse::Stale);
        assert_eq!(decide("max-age=100", "max-stale", 10_000), Reuse::Stale);
        assert_eq!(
            decide("max-age=100", "max-stale=20", 121),
            Reuse::Revalidate(Reason::Stale)
        );
        // The reply's word is above the request's.
        for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=100"] {
            let reply = format!("max-age=100, {strict}");
            assert_eq!(
                decide(&reply, "max-stale", 101),
                Reuse::Revalidate(Reason::Stale),
                "{strict}"
            );
        }
    }

    #[test]
    fn a_stale_reply_may_answer_while_the_upstream_is_asked() {
        let reply = "max-age=100, stale-while-revalidate=50";
        assert_eq!(decide(reply, "", 149), Reuse::StaleMeanwhile);
        assert_eq!(decide(reply, "", 150), Reuse::Revalidate(Reason::Stale));
        let strict = format!("{reply}, must-revalidate");
        assert_eq!(decide(&strict, "", 149), Reuse::Revalidate(Reason::Stale));
        assert_eq!(decide(reply, "max-age=120", 130), Reuse::Revalidate(Reason::Request));
    }

    #[test]
    fn stale_if_error_bounds_reuse_while_the_upstream_fails() {
        let outlives = |reply: &str, request: &str, age: u64| {
            let asked = RequestDirectives::read(&[("cache-control", request)][..]);
            terms(&[("cache-control", reply)]).may_outlive_errors(&asked, Duration::from_secs(age), LEEWAY)
        };
        assert!(outlives("max-age=10", "", 86_410));
        assert!(!outlives("max-age=10", "", 86_411));
        assert!(outlives("max-age=10, stale-if-error=5", "", 15));
        assert!(!outlives("max-age=10, stale-if-error=5", "", 16));
        assert!(outlives("max-age=10, stale-if-error=5", "stale-if-error=50", 60));
        assert!(!outlives("max-age=10, must-revalidate", "", 11));
        assert!(!outlives("max-age=10", "no-cache", 5));
    }
}
