//! Whether a complete stored reply is fresh (RFC 9111 §4.2).

use crate::header::{CacheControl, parse_date};
use std::time::{Duration, SystemTime};

/// What may be done with a complete stored reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Answer from the store.
    Fresh,
    /// Ask the upstream whether it is unchanged, then answer; answer anyway if it cannot be reached.
    Revalidate(Reason),
    /// Fetch anew.
    Refetch(Reason),
}

/// Why a reply is not simply reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `no-store` or `private`: it was shared with those who waited for it, and goes with them.
    NotStorable,
    /// `no-cache`.
    NoCache,
    /// Its freshness lifetime is over.
    Stale,
    /// The upstream gave no validator, so there is nothing to ask with.
    NoValidator,
}

/// What a reply says of its own reuse, read once.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// `no-store` or `private`.
    kept_from_others: bool,
    no_cache: bool,
    /// The freshness lifetime, where the reply names one.
    lifetime: Option<Duration>,
    has_validator: bool,
}

impl Terms {
    /// Reads the header fields of a reply; `has_validator` says whether it can be revalidated.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, has_validator: bool) -> Self {
        let control = header("cache-control").map(CacheControl::parse).unwrap_or_default();
        Self {
            kept_from_others: control.no_store || control.private,
            no_cache: control.no_cache,
            lifetime: control
                .max_age
                .or_else(|| lifetime_until_expiry(header("expires"), header("date"))),
            has_validator,
        }
    }

    /// Decides on a complete reply with these terms, received or last validated at `validated`.
    ///
    /// `default_lifetime` serves replies that say nothing of their own freshness but have a validator.
    pub fn reuse(&self, validated: SystemTime, now: SystemTime, default_lifetime: Duration) -> Reuse {
        if self.kept_from_others {
            return Reuse::Refetch(Reason::NotStorable);
        }
        let lifetime = match self.lifetime {
            Some(lifetime) => lifetime,
            None if self.has_validator => default_lifetime,
            None => return Reuse::Refetch(Reason::NoValidator),
        };
        // A clock that went back makes nothing stale: the age is then 0.
        let age = now.duration_since(validated).unwrap_or_default();
        let reason = match (self.no_cache, age < lifetime) {
            (false, true) => return Reuse::Fresh,
            (true, _) => Reason::NoCache,
            (false, false) => Reason::Stale,
        };
        if self.has_validator {
            Reuse::Revalidate(reason)
        } else {
            Reuse::Refetch(reason)
        }
    }
}

/// `Expires` minus `Date`; a malformed `Expires` is in the past (RFC 9111 §5.3).
fn lifetime_until_expiry(expires: Option<&str>, date: Option<&str>) -> Option<Duration> {
    let expires = expires?;
    let lifetime = parse_date(expires)
        .zip(date.and_then(parse_date))
        .and_then(|(end, begin)| end.duration_since(begin).ok());
    Some(lifetime.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_seconds;

    const HOUR: Duration = Duration::from_secs(3600);

    fn decide(headers: &[(&str, &str)], has_validator: bool, age_seconds: u64) -> Reuse {
        let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        Terms::read(header, has_validator).reuse(from_unix_seconds(1000), from_unix_seconds(1000 + age_seconds), HOUR)
    }

    #[test]
    fn a_reply_is_fresh_for_as_long_as_it_says() {
        let says = [("cache-control", "max-age=10")];
        assert_eq!(decide(&says, true, 9), Reuse::Fresh);
        assert_eq!(decide(&says, true, 10), Reuse::Revalidate(Reason::Stale));
        assert_eq!(decide(&says, false, 10), Reuse::Refetch(Reason::Stale));
        assert_eq!(
            decide(&[("cache-control", "no-cache")], true, 0),
            Reuse::Revalidate(Reason::NoCache)
        );
        assert_eq!(
            decide(&[("cache-control", "no-store")], true, 0),
            Reuse::Refetch(Reason::NotStorable)
        );
        assert_eq!(decide(&[("expires", "0")], true, 0), Reuse::Revalidate(Reason::Stale));
    }

    #[test]
    fn a_film_that_says_nothing_is_fresh_for_the_default_and_only_with_a_validator() {
        assert_eq!(decide(&[], true, 3599), Reuse::Fresh);
        assert_eq!(decide(&[], true, 3600), Reuse::Revalidate(Reason::Stale));
        assert_eq!(decide(&[], false, 0), Reuse::Refetch(Reason::NoValidator));
    }
}
