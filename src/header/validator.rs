//! Validators: which representation bytes belong to (RFC 9110 §8.8).
//!
//! A *strong* validator lets pieces be joined: a strong entity tag, or, where there is no tag, a `Last-Modified` that
//! was a minute or more in the past when the reply was made (§8.8.2.2 says a second at least; a recording that grows
//! is written to more often than that). Equal weak tags prove nothing about bytes, so there is no way here to make a
//! [`StrongValidator`] from one: together with such a date they make an [`OverlapValidator`], under which bytes are
//! joined only where some of them were compared.

use super::parse_date;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How much older than `Date` a `Last-Modified` must be to be believed of bytes: the minute of RFC 7232 §2.2.2, where
/// RFC 9110 §8.8.2.2 has a second, for the reason above.
const OLD: Duration = Duration::from_secs(60);

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    weak: bool,
    opaque: String,
}

impl EntityTag {
    /// Reads `"opaque"` or `W/"opaque"`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (weak, quoted) = match text.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let opaque = quoted.strip_prefix('"')?.strip_suffix('"')?;
        let allowed = |byte: u8| byte == 0x21 || (0x23..=0x7e).contains(&byte) || byte >= 0x80;
        opaque.bytes().all(allowed).then(|| Self {
            weak,
            opaque: opaque.to_owned(),
        })
    }

    /// A strong tag of plain ASCII letters and digits.
    pub fn strong(opaque: &str) -> Self {
        debug_assert!(opaque.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
        Self {
            weak: false,
            opaque: opaque.to_owned(),
        }
    }

    /// A weak tag of plain ASCII letters and digits.
    pub fn weak(opaque: &str) -> Self {
        Self {
            weak: true,
            ..Self::strong(opaque)
        }
    }

    /// Whether the tag is weak.
    pub fn is_weak(&self) -> bool {
        self.weak
    }

    /// Equal and neither weak (RFC 9110 §8.8.3.2).
    pub fn strong_eq(&self, other: &Self) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Equal, weak or not (RFC 9110 §8.8.3.2).
    pub fn weak_eq(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }
}

impl std::fmt::Display for EntityTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\"{}\"", if self.weak { "W/" } else { "" }, self.opaque)
    }
}

/// The validator fields of one reply, as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
    /// `Date`: tells whether `Last-Modified` is strong.
    pub date: Option<String>,
}

impl Validators {
    /// The entity tag, where it is well-formed.
    pub fn entity_tag(&self) -> Option<EntityTag> {
        EntityTag::parse(self.etag.as_deref()?)
    }

    /// The validator under which pieces may be joined; `None` where there is none to trust.
    pub fn strong(&self) -> Option<StrongValidator> {
        match self.entity_tag() {
            Some(tag) if !tag.is_weak() => Some(StrongValidator::Tag(tag)),
            // The server says itself that bytes may differ under it; a date knows no better.
            Some(_) => None,
            None => self.old_date().map(StrongValidator::Date),
        }
    }

    /// Whether there is neither a tag nor a date.
    pub fn says_nothing(&self) -> bool {
        self.entity_tag().is_none() && self.last_modified.as_deref().and_then(parse_date).is_none()
    }

    /// A weak tag beside an old date; `None` where either is missing.
    pub fn overlap(&self) -> Option<OverlapValidator> {
        let tag = self.entity_tag().filter(EntityTag::is_weak)?;
        let date = self.old_date()?;
        Some(OverlapValidator { tag, date })
    }

    /// Whether two replies say the same of what they are replies of, as far as a weak comparison tells
    /// (RFC 9110 §8.8.3.2): equal tags, or equal dates where neither has a tag. `None` where there is nothing to
    /// compare.
    pub fn weakly_agrees(&self, other: &Self) -> Option<bool> {
        match (self.entity_tag(), other.entity_tag()) {
            (Some(ours), Some(theirs)) => Some(ours.weak_eq(&theirs)),
            // A young date may stay the same while bytes change.
            (None, None) => Some(parse_date(&self.old_date()?)? == parse_date(other.last_modified.as_deref()?)?),
            _ => None,
        }
    }

    /// `Last-Modified`, where it is a minute older than `Date` at least.
    fn old_date(&self) -> Option<String> {
        let text = self.last_modified.as_deref()?;
        let (modified, date) = (parse_date(text)?, parse_date(self.date.as_deref()?)?);
        (modified + OLD <= date).then(|| text.to_owned())
    }

    /// The same without a weak tag, where `Last-Modified` is so much older than `Date` that it can be
    /// taken for one of the bytes: for operators who know their upstream's weak tags.
    #[must_use]
    pub fn by_old_date(mut self) -> Self {
        if self.entity_tag().is_some_and(|tag| tag.is_weak()) && self.old_date().is_some() {
            self.etag = None;
        }
        self
    }

    /// `Last-Modified`, where it is strong: at least one second before `Date` (RFC 9110 §8.8.2.2).
    pub fn strong_date(&self) -> Option<String> {
        let text = self.last_modified.as_deref()?;
        let modified = parse_date(text)?;
        let date = parse_date(self.date.as_deref()?)?;
        (modified + Duration::from_secs(1) <= date).then(|| text.to_owned())
    }
}

/// A validator that two replies with the same bytes share, and no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrongValidator {
    /// A strong entity tag.
    Tag(EntityTag),
    /// A strong `Last-Modified`, as it came.
    Date(String),
}

impl StrongValidator {
    /// The value to send in `If-Range` (RFC 9110 §13.1.5).
    pub fn if_range(&self) -> String {
        match self {
            Self::Tag(tag) => tag.to_string(),
            Self::Date(date) => date.clone(),
        }
    }

    /// Whether a reply to a request with our `If-Range` is of this representation.
    ///
    /// A 206 must repeat `ETag` (RFC 9110 §15.3.7) but may leave out `Last-Modified`: its status then
    /// says that the date matched. A 200 must show the same validator itself.
    pub fn matches(&self, reply: &Validators, partial: bool) -> bool {
        match self {
            Self::Tag(tag) => reply.entity_tag().is_some_and(|theirs| theirs.strong_eq(tag)),
            Self::Date(date) => match reply.last_modified.as_deref() {
                Some(theirs) => parse_date(theirs) == parse_date(date),
                None => partial,
            },
        }
    }
}

/// A weak tag and an old date. Two replies that show the same have the same bytes as far as the upstream knows; whoever
/// joins them compares some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlapValidator {
    tag: EntityTag,
    date: String,
}

impl OverlapValidator {
    /// The value to send in `If-Range`: a weak tag must not stand there (RFC 9110 §13.1.5).
    pub fn if_range(&self) -> String {
        self.date.clone()
    }

    /// Whether a reply shows both.
    pub fn matches(&self, reply: &Validators) -> bool {
        let same_tag = reply.entity_tag().is_some_and(|theirs| theirs.weak_eq(&self.tag));
        let theirs = reply.last_modified.as_deref().and_then(parse_date);
        same_tag && theirs == parse_date(&self.date)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEXT: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const MINUTE_LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

    fn validators(etag: Option<&str>, modified: Option<&str>, date: Option<&str>) -> Validators {
        Validators {
            etag: etag.map(str::to_owned),
            last_modified: modified.map(str::to_owned),
            date: date.map(str::to_owned),
        }
    }

    #[test]
    fn weak_tags_are_never_strong_validators() {
        assert_eq!(validators(Some("W/\"a\""), None, None).strong(), None);
        let weak = EntityTag::parse("W/\"a\"").expect("a tag");
        assert!(!weak.strong_eq(&weak));
        assert!(weak.weak_eq(&EntityTag::strong("a")));
    }

    #[test]
    fn last_modified_joins_bytes_a_minute_later() {
        assert!(validators(None, Some(OLD), Some(MINUTE_LATER)).strong().is_some());
        assert!(validators(None, Some(OLD), Some(NEXT)).strong().is_none());
        assert!(validators(None, Some(OLD), Some(OLD)).strong().is_none());
        assert!(validators(None, Some(OLD), None).strong().is_none());
        assert!(
            validators(None, Some("yesterday"), Some(MINUTE_LATER))
                .strong()
                .is_none()
        );
    }

    #[test]
    fn a_weak_tag_and_an_old_date_join_bytes_that_are_compared() {
        let weak = validators(Some("W/\"a\""), Some(OLD), Some(MINUTE_LATER));
        let overlap = weak.overlap().expect("both are there");
        assert_eq!(overlap.if_range(), OLD);
        assert!(overlap.matches(&weak));
        assert!(!overlap.matches(&validators(Some("W/\"b\""), Some(OLD), None)));
        assert!(!overlap.matches(&validators(Some("W/\"a\""), Some(NEXT), None)));
        assert!(!overlap.matches(&validators(Some("W/\"a\""), None, None)));
        for less in [
            validators(Some("W/\"a\""), Some(OLD), Some(NEXT)),
            validators(Some("W/\"a\""), None, Some(NEXT)),
            validators(Some("\"a\""), Some(OLD), Some(MINUTE_LATER)),
            validators(None, Some(OLD), Some(MINUTE_LATER)),
        ] {
            assert_eq!(less.overlap(), None, "{less:?}");
        }
    }

    #[test]
    fn a_weak_tag_outranks_its_date_unless_the_operator_says_otherwise() {
        let weak = validators(Some("W/\"a\""), Some(OLD), Some(MINUTE_LATER));
        assert_eq!(weak.strong(), None);
        assert!(weak.by_old_date().strong().is_some());
        let young = validators(Some("W/\"a\""), Some(OLD), Some(NEXT));
        assert_eq!(young.by_old_date().strong(), None);
        let strong = validators(Some("\"a\""), Some(OLD), Some(MINUTE_LATER));
        assert_eq!(strong.clone().by_old_date(), strong);
    }

    #[test]
    fn malformed_tags_are_no_tags() {
        for text in ["a", "\"a", "w/\"a\"", "\"a\"b\"", "", "\"a b\""] {
            assert_eq!(EntityTag::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_206_without_the_tag_is_not_believed() {
        let tag = StrongValidator::Tag(EntityTag::strong("a"));
        assert!(!tag.matches(&Validators::default(), true));
        let date = StrongValidator::Date(OLD.to_owned());
        assert!(date.matches(&Validators::default(), true));
        assert!(!date.matches(&Validators::default(), false));
    }
}
