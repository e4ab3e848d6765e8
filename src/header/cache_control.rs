//! `Cache-Control` of requests and replies (RFC 9111 §5.2), and its siblings for shared caches (RFC 9213).
//!
//! Read the strict way: where a directive is malformed or contradicts itself, what follows is that less is
//! reused, never more.

use super::list_members;
use std::time::Duration;

/// A delta-seconds that no cache distinguishes from a greater one (RFC 9111 §1.2.2).
const LONGEST_SECONDS: u64 = 1 << 31;

/// The name by which `Surrogate-Control` may mean us alone; it is what `Surrogate-Capability` says we are called.
pub const SURROGATE: &str = "millpond";

/// `no-cache` or `private`, which may be limited to some fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DirectiveScope {
    /// The directive is not there.
    #[default]
    Nothing,
    /// The directive is for these fields, in lower case.
    Fields(Vec<String>),
    /// The directive is for the whole reply.
    All,
}

impl DirectiveScope {
    /// Whether the directive is meant for the whole reply.
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// The fields that it is limited to.
    pub fn fields(&self) -> &[String] {
        match self {
            Self::Fields(fields) => fields,
            Self::Nothing | Self::All => &[],
        }
    }

    /// Extends what was read by another directive of the same name.
    fn extend(&mut self, argument: Option<&str>) {
        let names = argument.map(|names| list_members(names).map(str::to_ascii_lowercase).collect::<Vec<_>>());
        match (&mut *self, names) {
            // An empty list limits it to nothing, which nobody means.
            (Self::Nothing, Some(names)) if !names.is_empty() => *self = Self::Fields(names),
            (Self::Fields(known), Some(names)) if !names.is_empty() => known.extend(names),
            _ => *self = Self::All,
        }
    }
}

/// The directives that a cache acts on. Unknown ones are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`: not to be reused without asking.
    pub no_cache: DirectiveScope,
    /// `private`: not for shared caches.
    pub private: DirectiveScope,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
    /// `max-age`; where it is there several times, the least.
    pub max_age: Option<Duration>,
    /// `s-maxage`, the same.
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate` (RFC 5861).
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861), in replies and requests.
    pub stale_if_error: Option<Duration>,
    /// `min-fresh` of a request.
    pub min_fresh: Option<Duration>,
    /// `max-stale` of a request; without an argument it is [`Duration::MAX`].
    pub max_stale: Option<Duration>,
    /// `only-if-cached` of a request.
    pub only_if_cached: bool,
}

impl CacheControl {
    /// Reads one field line.
    pub fn parse(line: &str) -> Self {
        Self::of([line])
    }

    /// Reads all lines of the field as one list (RFC 9110 §5.3).
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut read = Self::default();
        for directive in lines.into_iter().flat_map(list_members) {
            match directive.split_once('=') {
                Some((name, value)) => read.take(name, Some(value)),
                None => read.take(directive, None),
            }
        }
        read
    }

    /// Reads a targeted field (RFC 9213 §2.1), a dictionary of structured fields; `None` where it is not one, or
    /// is empty: it then counts as not there.
    pub fn targeted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        // Parameters say nothing here.
        Self::of_dictionary(&lines.into_iter().collect::<Vec<_>>().join(", "), |_| true)
    }

    /// Reads `Surrogate-Control` (the W3C's Edge Architecture), which has the same form but for the case of its
    /// names: what is aimed at another device by name is not there for us.
    pub fn surrogate<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let text = lines.into_iter().collect::<Vec<_>>().join(", ").to_ascii_lowercase();
        Self::of_dictionary(&text, |device| device == SURROGATE)
    }

    fn of_dictionary(text: &str, is_us: impl Fn(&str) -> bool) -> Option<Self> {
        let members: sfv::Dictionary = sfv::Parser::new(text).parse().ok()?;
        let (mut read, mut is_for_us) = (Self::default(), false);
        for (name, member) in &members {
            let sfv::ListEntry::Item(item) = member else { continue };
            if !item.params.iter().all(|(device, _)| is_us(device.as_str())) {
                continue;
            }
            is_for_us = true;
            match &item.bare_item {
                sfv::BareItem::Boolean(true) => read.take(name.as_str(), None),
                sfv::BareItem::Boolean(false) => {}
                sfv::BareItem::Integer(number) => read.take(name.as_str(), Some(&number.to_string())),
                // Only lists of fields are strings: a number in quotes is none (RFC 9213 §2.1).
                sfv::BareItem::String(text) if matches!(name.as_str(), "no-cache" | "private") => {
                    read.take(name.as_str(), Some(text.as_str()));
                }
                // Whatever else is no number of seconds.
                _ => read.take(name.as_str(), Some("?")),
            }
        }
        is_for_us.then_some(read)
    }

    fn take(&mut self, name: &str, value: Option<&str>) {
        // White space around the sign is malformed: the name is known, the value is not.
        let spaced = name.ends_with([' ', '\t']) || value.is_some_and(|value| value.starts_with([' ', '\t']));
        let text = value.map(|value| unquoted(value.trim()));
        let seconds = if spaced {
            Duration::ZERO
        } else {
            delta_seconds(text.unwrap_or_default())
        };
        let least = |known: &mut Option<Duration>| *known = Some(known.map_or(seconds, |known| known.min(seconds)));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache.extend(text),
            "private" => self.private.extend(text),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "immutable" => self.immutable = true,
            "max-age" => least(&mut self.max_age),
            "s-maxage" => least(&mut self.s_maxage),
            "stale-while-revalidate" => least(&mut self.stale_while_revalidate),
            "stale-if-error" => least(&mut self.stale_if_error),
            // A malformed one asks for all there is.
            "min-fresh" => {
                let asked = text.and_then(digits).filter(|_| !spaced).unwrap_or(Duration::MAX);
                self.min_fresh = Some(self.min_fresh.map_or(asked, |known| known.max(asked)));
            }
            "max-stale" if text.is_none() => self.max_stale = self.max_stale.or(Some(Duration::MAX)),
            "max-stale" => least(&mut self.max_stale),
            "only-if-cached" => self.only_if_cached = true,
            _ => {}
        }
    }

    /// Whether a shared cache may not keep the reply.
    pub fn forbids_storing(&self) -> bool {
        self.no_store || self.private.is_all()
    }
}

/// The text of a quoted string; anything else as it is.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text)
}

fn digits(text: &str) -> Option<Duration> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| Duration::from_secs(text.parse().unwrap_or(LONGEST_SECONDS).min(LONGEST_SECONDS)))
}

/// RFC 9111 §1.2.2: too large means 2^31, anything but digits is no time at all.
fn delta_seconds(text: &str) -> Duration {
    digits(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn directives_are_read_whatever_their_case_and_quotes() {
        let read = CacheControl::parse("Max-Age=5, s-maxage=\"7\", NO-STORE,,  public ,immutable");
        assert_eq!((read.max_age, read.s_maxage), (seconds(5), seconds(7)));
        assert!(read.no_store && read.public && read.immutable);
        assert!(!read.must_revalidate && read.private == DirectiveScope::Nothing);
    }

    #[test]
    fn no_cache_and_private_keep_the_field_names_they_list() {
        let read = CacheControl::parse("no-cache=\"Set-Cookie, x\", private=a");
        assert_eq!(read.no_cache.fields(), ["set-cookie", "x"]);
        assert_eq!(read.private.fields(), ["a"]);
        // Beside the unlimited one the limited one means nothing.
        assert!(CacheControl::parse("private=\"a\", private").private.is_all());
        assert!(CacheControl::parse("no-cache, no-cache=\"a\"").no_cache.is_all());
        assert!(CacheControl::parse("private=\"\"").private.is_all());
    }

    #[test]
    fn malformed_or_repeated_directives_take_their_strictest_reading() {
        for (field, expected) in [
            ("max-age=-5", 0),
            ("max-age=5.0", 0),
            ("max-age='5'", 0),
            ("max-age", 0),
            ("max-age=", 0),
            ("max-age = 5", 0),
            ("max-age =5", 0),
            ("max-age=5 6", 0),
            ("max-age=100, max-age=5", 5),
            ("max-age=5, max-age=100", 5),
            ("max-age=099", 99),
            ("max-age=99999999999999999999", 1 << 31),
        ] {
            assert_eq!(CacheControl::parse(field).max_age, seconds(expected), "{field}");
        }
        let two_lines = CacheControl::of(["max-age=100", "s-maxage=1, no-store"]);
        assert!(two_lines.no_store && two_lines.max_age == seconds(100));
        // A directive inside a quoted string is none.
        assert!(!CacheControl::parse("x=\"no-store, a\"").no_store);
    }

    #[test]
    fn request_directives_are_read_with_strict_fallbacks() {
        let read = CacheControl::parse("max-stale, min-fresh=20, only-if-cached, max-age=0");
        assert_eq!(read.max_stale, Some(Duration::MAX));
        assert_eq!((read.min_fresh, read.max_age), (seconds(20), seconds(0)));
        assert!(read.only_if_cached);
        assert_eq!(CacheControl::parse("max-stale=7").max_stale, seconds(7));
        assert_eq!(CacheControl::parse("max-stale=x").max_stale, seconds(0));
        assert_eq!(CacheControl::parse("min-fresh=x").min_fresh, Some(Duration::MAX));
    }

    #[test]
    fn a_targeted_field_is_a_dictionary_or_nothing() {
        let read = CacheControl::targeted(["max-age=60, no-cache", "must-revalidate"]).expect("a dictionary");
        assert_eq!(read.max_age, seconds(60));
        assert!(read.no_cache.is_all() && read.must_revalidate);
        assert_eq!(CacheControl::targeted(["max-age=60, &"]), None);
        assert_eq!(CacheControl::targeted(["Max-Age=60"]), None, "keys are in lower case");
        assert_eq!(CacheControl::targeted([""]), None);
        let odd = CacheControl::targeted(["max-age=60.5, private=?0"]).expect("a dictionary");
        assert_eq!(odd.max_age, seconds(0));
        assert_eq!(odd.private, DirectiveScope::Nothing);
    }

    #[test]
    fn fuzzed_directives_are_read_as_one_list_or_as_several() {
        crate::fuzzing::fuzz("cache_control", |field| {
            let field = String::from_utf8_lossy(field);
            let one = CacheControl::parse(&field);
            assert_eq!(format!("{:?}", CacheControl::of([&*field])), format!("{one:?}"));
            let _ = (CacheControl::targeted([&*field]), CacheControl::surrogate([&*field]));
        });
    }
}
