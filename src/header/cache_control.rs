//! `Cache-Control` of a reply (RFC 9111 §5.2.2), as far as a shared cache reads it today.

use super::list_members;
use std::time::Duration;

/// The directives that decide whether and how long a reply is reused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `no-store`.
    pub no_store: bool,
    /// `private`, in either form: a shared cache keeps none of it.
    pub private: bool,
    /// `no-cache`, in either form: revalidate before every reuse.
    pub no_cache: bool,
    /// `s-maxage`, else `max-age`.
    pub max_age: Option<Duration>,
}

impl CacheControl {
    /// Reads a field; unknown directives are ignored, malformed ages count as 0 (RFC 9111 §4.2.1).
    pub fn parse(field: &str) -> Self {
        let mut found = Self::default();
        let (mut shared, mut general) = (None, None);
        for directive in list_members(field) {
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim().trim_matches('"')),
                None => (directive, ""),
            };
            match name.to_ascii_lowercase().as_str() {
                "no-store" => found.no_store = true,
                "private" => found.private = true,
                "no-cache" => found.no_cache = true,
                "s-maxage" => shared = shared.or(Some(delta_seconds(value))),
                "max-age" => general = general.or(Some(delta_seconds(value))),
                _ => {}
            }
        }
        found.max_age = shared.or(general);
        found
    }
}

/// RFC 9111 §1.2.2: too large means 2^31, anything but digits is stale.
fn delta_seconds(digits: &str) -> Duration {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if plain {
        digits.parse().unwrap_or(1 << 31).min(1 << 31)
    } else {
        0u64
    };
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_age_outranks_the_general_one() {
        let read = CacheControl::parse("max-age=5, s-maxage=\"7\", No-Cache=\"set-cookie, x\"");
        assert_eq!(read.max_age, Some(Duration::from_secs(7)));
        assert!(read.no_cache && !read.private && !read.no_store);
        assert_eq!(CacheControl::parse("max-age=-5").max_age, Some(Duration::ZERO));
        assert_eq!(
            CacheControl::parse("max-age=99999999999999999999").max_age,
            Some(Duration::from_secs(1 << 31))
        );
    }
}
