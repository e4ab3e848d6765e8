//! Cache directives of requests (RFC 9111 §5.2.1).
//!
//! `Pragma` is read where there is no `Cache-Control`, and not otherwise (§5.4). A directive that does not parse is
//! read the strict way by `header::CacheControl`: it makes less reusable, never more. A directive says what its client
//! takes, and never widens what the reply's own terms allow.

use super::fields::Fields;
use crate::header::CacheControl;
use std::time::Duration;

/// The directives of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// Nothing is to be answered from the store without asking: `no-cache`, `max-age=0`, or `Pragma: no-cache`
    /// where there is no `Cache-Control` (RFC 9111 §5.4).
    pub no_cache: bool,
    /// The reply is not to be stored.
    pub no_store: bool,
    /// The greatest age that is taken.
    pub max_age: Option<Duration>,
    /// For how long it must still be fresh.
    pub min_fresh: Option<Duration>,
    /// By how much it may be stale.
    pub max_stale: Option<Duration>,
    /// By how much it may be stale where the upstream fails (RFC 5861 §4).
    pub stale_if_error: Option<Duration>,
    /// The upstream is not to be asked.
    pub only_if_cached: bool,
}

impl RequestDirectives {
    /// Reads a request's fields.
    pub fn read(fields: &(impl Fields + ?Sized)) -> Self {
        if !fields.has("cache-control") {
            let no_cache = fields
                .lines("pragma")
                .any(|line| line.split(',').any(|word| word.trim().eq_ignore_ascii_case("no-cache")));
            return Self {
                no_cache,
                ..Self::default()
            };
        }
        let control = CacheControl::of(fields.lines("cache-control"));
        Self {
            // An answer that is not a second old would pass as of age 0, which is not what anybody means by it.
            no_cache: control.no_cache.is_all() || control.max_age == Some(Duration::ZERO),
            no_store: control.no_store,
            max_age: control.max_age,
            min_fresh: control.min_fresh,
            max_stale: control.max_stale,
            stale_if_error: control.stale_if_error,
            only_if_cached: control.only_if_cached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> RequestDirectives {
        RequestDirectives::read(fields)
    }

    #[test]
    fn pragma_counts_only_alone() {
        assert!(read(&[("pragma", "x, No-Cache")]).no_cache);
        assert!(!read(&[("pragma", "no-cache"), ("cache-control", "max-age=9")]).no_cache);
        assert!(!read(&[("pragma", "cache")]).no_cache);
        assert_eq!(read(&[]), RequestDirectives::default());
    }

    #[test]
    fn max_age_0_in_a_request_is_no_cache() {
        assert!(read(&[("cache-control", "max-age=0")]).no_cache);
        let asked = read(&[
            ("cache-control", "max-age=5, max-stale=6"),
            ("cache-control", "only-if-cached"),
        ]);
        assert_eq!(asked.max_age, Some(Duration::from_secs(5)));
        assert_eq!(asked.max_stale, Some(Duration::from_secs(6)));
        assert!(asked.only_if_cached && !asked.no_cache);
    }
}
