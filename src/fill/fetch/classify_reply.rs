//! Classification of replies: whether a reply's bytes continue what is stored, begin anew, or are refused. Pure.
//!
//! Nothing is shifted to fit. A reply that contradicts the question or itself brings no byte.
//!
//! ```text
//! 200 206 ─ a page, nothing, or coded bytes where a film is known ──► Imposter: what is stored stays
//!         ├ another range than was asked, lengths that differ ──────► Contradiction
//!         ├ the known strong validator ─────────────────────────────► Continues: joined anywhere
//!         ├ the known weak tag and an old date, the same length ────► Agrees: joined where the bytes agree
//!         ├ another strong tag, the same date and length ───────────► OtherNode: asked again
//!         └ else ───────────────────────────────────────────────────► Begins
//! 304 ──► NotModified      416 ──► Unsatisfiable      any other ──► Status
//! ```
//!
//! The order matters. An imposter is found before validators are compared: a page in the place of a film has a tag of
//! its own, and would begin a generation. A contradiction is found before them too: the right tag on another range
//! would put bytes in the wrong place.

use crate::header::{ContentRange, Validators, codes_content, parse_date};
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::Representation;
use crate::upstream::{Framing, Reply, Span};

/// The known representation of an object and its length.
#[derive(Debug, Clone, Copy)]
pub(in crate::fill) struct KnownObject<'a> {
    pub(in crate::fill) representation: &'a Representation,
    pub(in crate::fill) length: Option<u64>,
}

/// The part of the representation that a body brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fill) struct BodySpan {
    pub(in crate::fill) at: ByteOffset,
    /// The end of the body's bytes; `None` where only the framing will tell.
    pub(in crate::fill) end: Option<ByteOffset>,
    /// The complete length, where the reply names it.
    pub(in crate::fill) total: Option<u64>,
}

impl BodySpan {
    /// Whether it is all of the representation.
    pub(in crate::fill) fn is_all(&self) -> bool {
        self.at == 0 && self.end == self.total
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fill) enum ReplyClass {
    /// Bytes of the known representation.
    Continues(BodySpan),
    /// Bytes of the known representation by all that a weak tag and an old date can tell: they are joined where those
    /// that are here already agree.
    Agrees(BodySpan),
    /// Another strong tag with the same length and date, as a second node behind one name gives it: the representation
    /// that it would begin.
    OtherNode(Representation, BodySpan),
    /// Bytes of a representation that is not the known one, or the first to be known.
    Begins(Representation, BodySpan),
    /// 304.
    NotModified,
    /// 416, with the complete length where it says so.
    Unsatisfiable(Option<u64>),
    /// Any other status: nothing of the representation.
    Status(u16),
    /// A reply that does not fit the question or itself.
    Contradiction(&'static str),
    /// A success that can hardly be the object that is known: what is stored stays.
    Imposter(&'static str),
}

pub(in crate::fill) fn classify_reply(known: Option<KnownObject<'_>>, asked: Span, reply: &Reply) -> ReplyClass {
    if let (Some(known), 200 | 206) = (known, reply.status) {
        if is_media(known.representation.header("content-type")) && is_page(reply.header("content-type")) {
            return ReplyClass::Imposter("an HTML page came where a film was");
        }
        if reply.framing == Framing::Length(0) && known.length.is_some_and(|length| length > 0) {
            return ReplyClass::Imposter("an empty reply came where there were bytes");
        }
        if reply.content_encoded
            && !known
                .representation
                .header("content-encoding")
                .is_some_and(codes_content)
        {
            return ReplyClass::Imposter("a content_encoded body came where a plain one was");
        }
    }
    match reply.status {
        // Some servers send a part under 200 with its `Content-Range`; taken for the whole, it would be a shorter film.
        200 if is_part(reply) => part(known, asked, reply),
        200 => whole(known, reply),
        206 if reply.content_encoded => ReplyClass::Contradiction("206 with a content_encoded body"),
        206 => part(known, asked, reply),
        304 => ReplyClass::NotModified,
        416 => ReplyClass::Unsatisfiable(match reply.content_range {
            Some(Some(ContentRange::Unsatisfied { size })) => Some(size),
            _ => None,
        }),
        status => ReplyClass::Status(status),
    }
}

/// Whether a 200 says of itself that it is a part: its `Content-Range` names as many bytes as its body has, and more of
/// them all.
fn is_part(reply: &Reply) -> bool {
    match reply.content_range {
        Some(Some(ContentRange::Part { range, size })) => {
            let has_all = size == Some(range.len());
            reply.framing == Framing::Length(range.len()) && !has_all
        }
        _ => false,
    }
}

fn whole(known: Option<KnownObject<'_>>, reply: &Reply) -> ReplyClass {
    let total = match reply.framing {
        Framing::Length(length) => Some(length),
        Framing::Delimited | Framing::Close => None,
    };
    let brings = BodySpan {
        at: 0,
        end: total,
        total,
    };
    judged(known, reply, brings, false)
}

fn part(known: Option<KnownObject<'_>>, asked: Span, reply: &Reply) -> ReplyClass {
    let Some(Some(ContentRange::Part { range, size })) = reply.content_range else {
        return ReplyClass::Contradiction("206 without a Content-Range that can be read");
    };
    let known_length = known.and_then(|known| known.length);
    let Some(total) = size.or(known_length) else {
        return ReplyClass::Contradiction("206 without the complete length");
    };
    if matches!(reply.framing, Framing::Length(length) if length != range.len()) {
        return ReplyClass::Contradiction("Content-Length and Content-Range differ");
    }
    if range.end() > total || !answers(asked, range, total) {
        return ReplyClass::Contradiction("206 with another range than was asked for");
    }
    let brings = BodySpan {
        at: range.start(),
        end: Some(range.end()),
        total: Some(total),
    };
    judged(known, reply, brings, true)
}

/// A server may send less than was asked, but must begin where it was asked to.
fn answers(asked: Span, range: ByteRange, total: u64) -> bool {
    match asked {
        Span::Whole => false,
        Span::From(start) => range.start() == start,
        Span::Range(wanted) => range.start() == wanted.start(),
        Span::Suffix(count) => range.start() == total.saturating_sub(count),
    }
}

fn judged(known: Option<KnownObject<'_>>, reply: &Reply, brings: BodySpan, partial: bool) -> ReplyClass {
    if let Some(known) = known {
        let lengths = (known.length, brings.total);
        let length_agrees = !matches!(lengths, (Some(ours), Some(theirs)) if ours != theirs);
        let validator = known.representation.validators.strong();
        if length_agrees && validator.is_some_and(|validator| validator.matches(&reply.validators, partial)) {
            return ReplyClass::Continues(brings);
        }
        let same_length = matches!(lengths, (Some(ours), Some(theirs)) if ours == theirs);
        let overlap = known.representation.overlap_validator();
        if same_length && !reply.content_encoded && overlap.is_some_and(|overlap| overlap.matches(&reply.validators)) {
            return ReplyClass::Agrees(brings);
        }
        if same_length && is_other_node(&known.representation.validators, &reply.validators) {
            return ReplyClass::OtherNode(begun(reply, brings, partial), brings);
        }
    }
    ReplyClass::Begins(begun(reply, brings, partial), brings)
}

/// The representation that a reply is the first of.
fn begun(reply: &Reply, brings: BodySpan, partial: bool) -> Representation {
    let joinable = reply.validators.strong().is_some();
    // A server that says `Accept-Ranges: none` is believed, even where it has just sent one.
    let gives_parts = !reply.content_encoded && reply.accepts_ranges.unwrap_or(partial);
    Representation {
        complete_length: brings.total,
        validators: reply.validators.clone(),
        headers: reply.headers.clone(),
        ranges: joinable && gives_parts,
        gives_parts: gives_parts && partial,
        ..Representation::default()
    }
}

/// Whether two strong tags are those of two nodes that have one file each: all else that is said of it is the same.
fn is_other_node(known: &Validators, reply: &Validators) -> bool {
    let strong = |validators: &Validators| validators.entity_tag().is_some_and(|tag| !tag.is_weak());
    let date = |validators: &Validators| validators.last_modified.as_deref().and_then(parse_date);
    strong(known) && strong(reply) && date(known) == date(reply)
}

/// A reply with another status than those that [`classify_reply`] takes for bytes, as a representation of its own: it
/// says something of the resource, and its body has no ranges.
pub(in crate::fill) fn statement(reply: &Reply) -> (Representation, BodySpan) {
    let total = match reply.framing {
        Framing::Length(length) => Some(length),
        Framing::Delimited | Framing::Close => None,
    };
    let representation = Representation {
        status: reply.status,
        complete_length: total,
        validators: reply.validators.clone(),
        headers: reply.headers.clone(),
        ..Representation::default()
    };
    let brings = BodySpan {
        at: 0,
        end: total,
        total,
    };
    (representation, brings)
}

pub(in crate::fill) fn is_media(media: Option<&str>) -> bool {
    media.is_some_and(|media| {
        let media = media.trim_start().to_ascii_lowercase();
        ["video/", "audio/", "image/", "application/octet-stream"]
            .iter()
            .any(|kind| media.starts_with(kind))
    })
}

pub(in crate::fill) fn is_page(media: Option<&str>) -> bool {
    media.is_some_and(|media| {
        let media = media.trim_start().to_ascii_lowercase();
        media.starts_with("text/html") || media.starts_with("application/xhtml")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, framing: Framing, content_range: Option<&str>, etag: Option<&str>) -> Reply {
        Reply {
            status,
            framing,
            content_range: content_range.map(ContentRange::parse),
            validators: Validators {
                etag: etag.map(str::to_owned),
                ..Validators::default()
            },
            accepts_ranges: None,
            retry_after: None,
            content_encoded: false,
            age: None,
            delay: std::time::Duration::ZERO,
            headers: Vec::new(),
        }
    }

    fn representation() -> Representation {
        Representation {
            complete_length: Some(100),
            validators: Validators {
                etag: Some("\"a\"".to_owned()),
                ..Validators::default()
            },
            headers: Vec::new(),
            ranges: true,
            ..Representation::default()
        }
    }

    fn resumed(reply: &Reply) -> ReplyClass {
        let representation = representation();
        let known = KnownObject {
            representation: &representation,
            length: Some(100),
        };
        classify_reply(Some(known), Span::From(40), reply)
    }

    #[test]
    fn a_206_under_the_same_tag_continues() {
        let good = reply(206, Framing::Length(60), Some("bytes 40-99/100"), Some("\"a\""));
        let brings = BodySpan {
            at: 40,
            end: Some(100),
            total: Some(100),
        };
        assert_eq!(resumed(&good), ReplyClass::Continues(brings));
    }

    #[test]
    fn another_tag_total_or_a_200_begins_anew() {
        for changed in [
            reply(206, Framing::Length(61), Some("bytes 40-100/101"), Some("\"a\"")),
            reply(206, Framing::Length(60), Some("bytes 40-99/100"), None),
            reply(206, Framing::Length(60), Some("bytes 40-99/100"), Some("W/\"a\"")),
            reply(200, Framing::Length(90), None, Some("\"a\"")),
        ] {
            assert!(matches!(resumed(&changed), ReplyClass::Begins(..)), "{changed:?}");
        }
    }

    #[test]
    fn another_strong_tag_with_the_same_length_and_date_may_be_another_node() {
        for other in [
            reply(206, Framing::Length(60), Some("bytes 40-99/100"), Some("\"b\"")),
            reply(200, Framing::Length(100), None, Some("\"b\"")),
        ] {
            assert!(matches!(resumed(&other), ReplyClass::OtherNode(..)), "{other:?}");
            let mut dated = other.clone();
            dated.validators.last_modified = Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned());
            assert!(matches!(resumed(&dated), ReplyClass::Begins(..)), "{dated:?}");
        }
    }

    #[test]
    fn a_weak_tag_beside_an_old_date_agrees_where_the_length_does() {
        let validators = |tag: &str, date: &str| Validators {
            etag: Some(tag.to_owned()),
            last_modified: Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
            date: Some(date.to_owned()),
        };
        let (old, young) = ("Sun, 06 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1994 08:49:39 GMT");
        let weak = |tag: &str, date: &str| Representation {
            validators: validators(tag, date),
            ..representation()
        };
        let resumed = |known: &Representation, reply: &Reply| {
            let known = KnownObject {
                representation: known,
                length: Some(100),
            };
            classify_reply(Some(known), Span::From(40), reply)
        };
        let part = |tag: &str| Reply {
            validators: validators(tag, old),
            ..reply(206, Framing::Length(60), Some("bytes 40-99/100"), None)
        };
        let known = weak("W/\"a\"", old);
        assert!(matches!(resumed(&known, &part("W/\"a\"")), ReplyClass::Agrees(_)));
        assert!(matches!(resumed(&known, &part("W/\"b\"")), ReplyClass::Begins(..)));
        let longer = Reply {
            validators: validators("W/\"a\"", old),
            ..reply(206, Framing::Length(61), Some("bytes 40-100/101"), None)
        };
        assert!(matches!(resumed(&known, &longer), ReplyClass::Begins(..)));
        assert!(matches!(
            resumed(&weak("W/\"a\"", young), &part("W/\"a\"")),
            ReplyClass::Begins(..)
        ));
        let distrusted = Representation {
            joined: crate::store::Joined::Distrusted,
            ..known.clone()
        };
        assert!(matches!(resumed(&distrusted, &part("W/\"a\"")), ReplyClass::Begins(..)));
    }

    #[test]
    fn a_200_that_names_the_part_it_brings_is_that_part() {
        let part = reply(200, Framing::Length(60), Some("bytes 40-99/100"), Some("\"a\""));
        let brings = BodySpan {
            at: 40,
            end: Some(100),
            total: Some(100),
        };
        assert_eq!(resumed(&part), ReplyClass::Continues(brings));
        let unasked = classify_reply(None, Span::Whole, &part);
        assert!(matches!(unasked, ReplyClass::Contradiction(_)), "{unasked:?}");
        let first = reply(200, Framing::Length(1), Some("bytes 0-0/100"), None);
        let ReplyClass::Begins(_, brings) =
            classify_reply(None, Span::Range(ByteRange::new(0, 1).expect("a byte")), &first)
        else {
            panic!("the first reply begins");
        };
        assert_eq!((brings.end, brings.total), (Some(1), Some(100)));
        let whole = reply(200, Framing::Length(100), Some("bytes 0-99/100"), Some("\"a\""));
        assert!(matches!(resumed(&whole), ReplyClass::Continues(BodySpan { at: 0, .. })));
    }

    #[test]
    fn an_empty_reply_is_an_imposter_where_bytes_are_known() {
        let empty = reply(200, Framing::Length(0), None, None);
        assert!(matches!(resumed(&empty), ReplyClass::Imposter(_)));
        assert!(matches!(
            classify_reply(None, Span::Whole, &empty),
            ReplyClass::Begins(..)
        ));
    }

    #[test]
    fn accept_ranges_says_no_by_the_word_none_alone() {
        let mut odd = reply(206, Framing::Length(60), Some("bytes 40-99/100"), Some("\"a\""));
        odd.accepts_ranges = None;
        let ReplyClass::Begins(representation, _) = classify_reply(None, Span::From(40), &odd) else {
            panic!("the first reply begins");
        };
        assert!(representation.ranges && representation.gives_parts);
        odd.accepts_ranges = Some(false);
        let ReplyClass::Begins(representation, _) = classify_reply(None, Span::From(40), &odd) else {
            panic!("the first reply begins");
        };
        assert!(!representation.ranges && !representation.gives_parts);
    }

    #[test]
    fn a_200_under_the_same_tag_continues_from_0() {
        let ignored = reply(200, Framing::Length(100), None, Some("\"a\""));
        let brings = BodySpan {
            at: 0,
            end: Some(100),
            total: Some(100),
        };
        assert_eq!(resumed(&ignored), ReplyClass::Continues(brings));
    }

    #[test]
    fn a_reply_that_contradicts_the_question_brings_nothing() {
        for wrong in [
            reply(206, Framing::Length(60), Some("bytes 39-98/100"), Some("\"a\"")),
            reply(206, Framing::Length(50), Some("bytes 40-99/100"), Some("\"a\"")),
            reply(206, Framing::Length(60), Some("bytes 40-99/-1"), Some("\"a\"")),
            reply(
                206,
                Framing::Length(60),
                Some("bytes 40-18446744073709551615/*"),
                Some("\"a\""),
            ),
            reply(206, Framing::Length(60), None, Some("\"a\"")),
        ] {
            assert!(matches!(resumed(&wrong), ReplyClass::Contradiction(_)), "{wrong:?}");
        }
    }

    #[test]
    fn an_error_page_with_200_is_an_imposter_where_a_film_is_known() {
        let film = Representation {
            headers: vec![("content-type".to_owned(), "video/mp4".to_owned())],
            ..representation()
        };
        let page = Reply {
            headers: vec![("content-type".to_owned(), "text/html; charset=utf-8".to_owned())],
            ..reply(200, Framing::Length(900), None, Some("\"b\""))
        };
        let known = KnownObject {
            representation: &film,
            length: Some(100),
        };
        assert!(matches!(
            classify_reply(Some(known), Span::From(40), &page),
            ReplyClass::Imposter(_)
        ));
        assert!(matches!(
            classify_reply(None, Span::From(40), &page),
            ReplyClass::Begins(..)
        ));
    }

    #[test]
    fn a_content_encoded_reply_has_no_ranges() {
        let coded = |status, range| Reply {
            content_encoded: true,
            ..reply(status, Framing::Length(60), range, Some("\"a\""))
        };
        let part = coded(206, Some("bytes 40-99/100"));
        assert!(matches!(
            classify_reply(None, Span::From(40), &part),
            ReplyClass::Contradiction(_)
        ));
        assert!(matches!(resumed(&part), ReplyClass::Imposter(_)));
        let ReplyClass::Begins(representation, _) = classify_reply(None, Span::Whole, &coded(200, None)) else {
            panic!("the first reply begins");
        };
        assert!(!representation.ranges);
    }

    #[test]
    fn replies_without_a_strong_validator_are_never_joined() {
        let weak = reply(206, Framing::Length(100), Some("bytes 0-99/100"), Some("W/\"a\""));
        let ReplyClass::Begins(representation, _) = classify_reply(None, Span::From(0), &weak) else {
            panic!("the first reply begins");
        };
        assert!(!representation.ranges);
        let known = KnownObject {
            representation: &representation,
            length: Some(100),
        };
        assert!(matches!(
            classify_reply(Some(known), Span::From(0), &weak),
            ReplyClass::Begins(..)
        ));
    }
}
