//! Request conditions in the order of RFC 9110 §13.2.2.
//!
//! ```text
//! If-Match ── else If-Unmodified-Since ──▶ 412, or on
//! If-None-Match ── else If-Modified-Since ──▶ 304 (412 where something is changed), or on
//! If-Range ──▶ the Range counts, or the whole is sent
//! ```
//!
//! A tag outranks the date beside it: where the tag's field is there, the date is not looked at. `If-Match` and
//! `If-Range` compare strongly, `If-None-Match` weakly. Reading ignores a condition that does not parse, as the RFC
//! says; a change refuses it ([`Preconditions`]), since a dropped condition is a lost update. Pure: the validators are
//! handed in.

use super::{EntityTag, list_members, parse_date};
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// The conditional fields of a request, as they came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// `If-Match`.
    pub if_match: Option<&'a str>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<&'a str>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<&'a str>,
    /// `If-Range`.
    pub if_range: Option<&'a str>,
}

/// The verdict of a GET's or HEAD's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer; a `Range` counts.
    Proceed,
    /// Answer with the whole: `If-Range` names another representation.
    ProceedWithoutRange,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// The validators that conditions are evaluated against.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The tag that clients are given.
    pub etag: &'a EntityTag,
    /// The weak tag that the upstream gave, in whose place that one stands; `If-None-Match` compares weakly.
    pub weak_etag: Option<&'a str>,
    /// `Last-Modified`.
    pub modified: Option<SystemTime>,
    /// Whether that is a strong validator (RFC 9110 §8.8.2.2), which `If-Range` demands.
    pub strong_date: bool,
    /// `Date`: what a reply that does not say when it was modified was not modified after (RFC 9111 §4.3.2).
    pub dated: Option<SystemTime>,
}

impl Conditions<'_> {
    /// Evaluates the conditions of a GET or HEAD against the selected representation.
    pub fn evaluate(&self, known: &Known<'_>) -> Verdict {
        let Known {
            etag,
            modified,
            strong_date,
            ..
        } = *known;
        if let Some(field) = self.if_match {
            if !any_tag(field, |tag| tag.strong_eq(etag)) {
                return Verdict::Failed;
            }
        } else if let (Some(limit), Some(modified)) = (date(self.if_unmodified_since), modified)
            && modified > limit
        {
            return Verdict::Failed;
        }
        if let Some(field) = self.if_none_match {
            let is_upstreams = |tag: &EntityTag| {
                known
                    .weak_etag
                    .is_some_and(|weak| EntityTag::parse(weak).is_some_and(|weak| tag.weak_eq(&weak)))
            };
            if any_tag(field, |tag| tag.weak_eq(etag) || is_upstreams(tag)) {
                return Verdict::NotModified;
            }
        } else if let (Some(since), Some(modified)) = (date(self.if_modified_since), modified.or(known.dated))
            && modified <= since
        {
            return Verdict::NotModified;
        }
        match self.if_range {
            Some(field) if !if_range_holds(field, etag, modified.filter(|_| strong_date)) => {
                Verdict::ProceedWithoutRange
            }
            _ => Verdict::Proceed,
        }
    }
}

/// The preconditions of a request that changes something, with what they need to outlive it.
///
/// A condition that does not parse is refused, never ignored: a dropped condition is a lost update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preconditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
    if_unmodified_since: Option<String>,
}

/// The current representation, for preconditions to be evaluated against.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// The representation's tags; one without any is matched by `*` alone.
    pub etags: &'a [EntityTag],
    /// When it was last modified, in whole seconds.
    pub modified: SystemTime,
}

/// A conditional field that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is neither * nor a list of entity tags like \"abc\"")]
pub struct MalformedCondition {
    field: &'static str,
}

impl Preconditions {
    /// Reads the fields' lines. `If-Unmodified-Since` that is no date is no condition (RFC 9110 §13.1.4).
    ///
    /// # Errors
    /// Where a list of tags has anything but tags.
    pub fn read(
        if_match: Option<String>,
        if_none_match: Option<String>,
        if_unmodified_since: Option<String>,
    ) -> Result<Self, MalformedCondition> {
        for (field, value) in [("If-Match", &if_match), ("If-None-Match", &if_none_match)] {
            if value.as_deref().is_some_and(|value| !is_tag_list(value)) {
                return Err(MalformedCondition { field });
            }
        }
        Ok(Self {
            if_match,
            if_none_match,
            if_unmodified_since: if_unmodified_since.filter(|text| parse_date(text).is_some()),
        })
    }

    /// The condition that nothing is there.
    pub fn only_new() -> Self {
        Self {
            if_none_match: Some("*".to_owned()),
            ..Self::default()
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a tag has to be known to evaluate them.
    pub fn need_tag(&self) -> bool {
        let names_tags = |field: &Option<String>| field.as_deref().is_some_and(|field| field.trim() != "*");
        names_tags(&self.if_match) || names_tags(&self.if_none_match)
    }

    /// Whether the request may act on what is there, or on its absence (RFC 9110 §13.2.2).
    pub fn hold(&self, current: Option<Current<'_>>) -> bool {
        let names = |field: &str, same: &dyn Fn(&EntityTag, &EntityTag) -> bool| {
            current.is_some_and(|current| any_tag(field, |tag| current.etags.iter().any(|etag| same(tag, etag))))
        };
        let unchanged = match (&self.if_match, &self.if_unmodified_since) {
            (Some(field), _) => names(field, &EntityTag::strong_eq),
            // Without a representation there is nothing that was modified.
            (None, Some(limit)) => match (parse_date(limit), current) {
                (Some(limit), Some(current)) => current.modified <= limit,
                _ => true,
            },
            (None, None) => true,
        };
        let other = self.if_none_match.as_deref();
        unchanged && !other.is_some_and(|field| names(field, &EntityTag::weak_eq))
    }
}

fn is_tag_list(field: &str) -> bool {
    let mut members = list_members(field).peekable();
    field.trim() == "*" || (members.peek().is_some() && members.all(|member| EntityTag::parse(member).is_some()))
}

fn date(field: Option<&str>) -> Option<SystemTime> {
    parse_date(field?)
}

fn any_tag(field: &str, matches: impl Fn(&EntityTag) -> bool) -> bool {
    field.trim() == "*"
        || list_members(field)
            .filter_map(EntityTag::parse)
            .any(|tag| matches(&tag))
}

/// Strong comparison for tags, exact equality of a strong date (RFC 9110 §13.1.5).
fn if_range_holds(field: &str, etag: &EntityTag, strong_modified: Option<SystemTime>) -> bool {
    match EntityTag::parse(field) {
        Some(tag) => tag.strong_eq(etag),
        None => parse_date(field).is_some_and(|date| Some(date) == strong_modified),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn known(strong_date: bool) -> Known<'static> {
        static TAG: LazyLock<EntityTag> = LazyLock::new(|| EntityTag::strong("a"));
        Known {
            etag: &TAG,
            weak_etag: None,
            modified: parse_date(THEN),
            strong_date,
            dated: None,
        }
    }

    #[test]
    fn weak_tags_and_reply_dates_can_give_304() {
        let weak = Known {
            weak_etag: Some("W/\"w\""),
            modified: None,
            dated: parse_date(THEN),
            ..known(false)
        };
        let tag = |if_none_match| Conditions {
            if_none_match: Some(if_none_match),
            ..Default::default()
        };
        assert_eq!(tag("W/\"w\"").evaluate(&weak), Verdict::NotModified);
        assert_eq!(tag("\"v\"").evaluate(&weak), Verdict::Proceed);
        let since = |if_modified_since| Conditions {
            if_modified_since: Some(if_modified_since),
            ..Default::default()
        };
        assert_eq!(since(THEN).evaluate(&weak), Verdict::NotModified);
        assert_eq!(since(BEFORE).evaluate(&weak), Verdict::Proceed);
        // `If-Unmodified-Since` is compared with `Last-Modified` alone, never with the date of the reply.
        let unmodified = Conditions {
            if_unmodified_since: Some(BEFORE),
            ..Default::default()
        };
        assert_eq!(unmodified.evaluate(&weak), Verdict::Proceed);
    }

    fn verdict(conditions: Conditions<'_>) -> Verdict {
        conditions.evaluate(&known(true))
    }

    #[test]
    fn if_match_compares_strongly_and_silences_the_date() {
        let with = |if_match| Conditions {
            if_match: Some(if_match),
            if_unmodified_since: Some(BEFORE),
            ..Default::default()
        };
        assert_eq!(verdict(with("\"x\", \"a\"")), Verdict::Proceed);
        assert_eq!(verdict(with("*")), Verdict::Proceed);
        assert_eq!(verdict(with("W/\"a\"")), Verdict::Failed);
        assert_eq!(verdict(with("\"b\"")), Verdict::Failed);
    }

    #[test]
    fn if_unmodified_since_fails_after_a_later_change() {
        let with = |date| Conditions {
            if_unmodified_since: Some(date),
            ..Default::default()
        };
        assert_eq!(verdict(with(BEFORE)), Verdict::Failed);
        assert_eq!(verdict(with(THEN)), Verdict::Proceed);
        assert_eq!(verdict(with("not a date")), Verdict::Proceed);
    }

    #[test]
    fn if_none_match_compares_weakly_and_silences_the_date() {
        let with = |tags| Conditions {
            if_none_match: Some(tags),
            if_modified_since: Some(AFTER),
            ..Default::default()
        };
        assert_eq!(verdict(with("W/\"a\"")), Verdict::NotModified);
        assert_eq!(verdict(with("\"b\"")), Verdict::Proceed);
        assert_eq!(verdict(with("\"comma,inside\", \"a\"")), Verdict::NotModified);
    }

    #[test]
    fn if_modified_since_alone_decides_on_304() {
        let with = |date| Conditions {
            if_modified_since: Some(date),
            ..Default::default()
        };
        assert_eq!(verdict(with(AFTER)), Verdict::NotModified);
        assert_eq!(verdict(with(THEN)), Verdict::NotModified);
        assert_eq!(verdict(with(BEFORE)), Verdict::Proceed);
    }

    #[test]
    fn a_failed_if_match_outranks_a_matching_if_none_match() {
        let both = Conditions {
            if_match: Some("\"b\""),
            if_none_match: Some("\"a\""),
            ..Default::default()
        };
        assert_eq!(verdict(both), Verdict::Failed);
    }

    #[test]
    fn if_range_with_a_weak_tag_or_another_date_sends_the_whole() {
        let with = |if_range| Conditions {
            if_range: Some(if_range),
            ..Default::default()
        };
        assert_eq!(verdict(with("\"a\"")), Verdict::Proceed);
        assert_eq!(verdict(with(THEN)), Verdict::Proceed);
        for field in ["W/\"a\"", "\"b\"", BEFORE, AFTER, "rubbish"] {
            assert_eq!(verdict(with(field)), Verdict::ProceedWithoutRange, "{field}");
        }
        let weak_date = with(THEN).evaluate(&known(false));
        assert_eq!(weak_date, Verdict::ProceedWithoutRange);
    }

    fn changing(if_match: Option<&str>, if_none_match: Option<&str>, since: Option<&str>) -> Preconditions {
        let text = |field: Option<&str>| field.map(str::to_owned);
        Preconditions::read(text(if_match), text(if_none_match), text(since)).expect("well-formed")
    }

    #[test]
    fn a_change_proceeds_only_where_its_preconditions_hold() {
        let etag = EntityTag::strong("a");
        let there = Some(Current {
            etags: std::slice::from_ref(&etag),
            modified: parse_date(THEN).expect("a date"),
        });
        for (if_match, if_none_match, since, on_what_is_there, on_nothing) in [
            (None, None, None, true, true),
            (Some("\"a\""), None, None, true, false),
            (Some("\"b\", \"a\""), None, None, true, false),
            (Some("W/\"a\""), None, None, false, false),
            (Some("*"), None, None, true, false),
            // If-Match silences the date.
            (Some("\"a\""), None, Some(BEFORE), true, false),
            (None, None, Some(BEFORE), false, true),
            (None, None, Some(THEN), true, true),
            (None, None, Some("soon"), true, true),
            (None, Some("*"), None, false, true),
            (None, Some("W/\"a\""), None, false, true),
            (None, Some("\"b\""), None, true, true),
            (Some("\"a\""), Some("\"a\""), None, false, false),
            (None, Some("*"), Some(AFTER), false, true),
        ] {
            let conditions = changing(if_match, if_none_match, since);
            assert_eq!(conditions.hold(there), on_what_is_there, "{conditions:?}");
            assert_eq!(conditions.hold(None), on_nothing, "{conditions:?}");
        }
    }

    #[test]
    fn a_collection_is_named_by_the_star_alone() {
        let collection = Some(Current {
            etags: &[],
            modified: parse_date(THEN).expect("a date"),
        });
        assert!(changing(Some("*"), None, None).hold(collection));
        assert!(!changing(Some("\"a\""), None, None).hold(collection));
        assert!(!changing(None, Some("*"), None).hold(collection));
    }

    #[test]
    fn a_condition_that_does_not_read_is_refused_not_dropped() {
        for field in ["a", "", "\"a\", b", "\"a", "*, \"a\""] {
            assert!(
                Preconditions::read(Some(field.to_owned()), None, None).is_err(),
                "{field}"
            );
            assert!(
                Preconditions::read(None, Some(field.to_owned()), None).is_err(),
                "{field}"
            );
        }
    }
}
