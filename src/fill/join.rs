//! What a reply is worth: whether its bytes continue what is stored, begin anew, or are refused. Pure.
//!
//! Nothing is shifted to fit. A reply that contradicts the question or itself brings no byte.

use crate::header::ContentRange;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::Representation;
use crate::upstream::{Framing, Reply, Span};

/// The known representation of an object and its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) representation: &'a Representation,
    pub(super) length: Option<u64>,
}

/// The part of the representation that a body brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Brings {
    pub(super) at: ByteOffset,
    /// Its end; `None` where only the framing will tell.
    pub(super) end: Option<ByteOffset>,
    /// The complete length, where the reply names it.
    pub(super) total: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Bytes of the known representation.
    Continues(Brings),
    /// Bytes of a representation that is not the known one, or the first to be known.
    Begins(Representation, Brings),
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

pub(super) fn join(known: Option<Known<'_>>, asked: Span, reply: &Reply) -> Verdict {
    if let (Some(known), 200 | 206) = (known, reply.status) {
        if is_media(known.representation.header("content-type")) && is_page(reply.header("content-type")) {
            return Verdict::Imposter("an HTML page came where a film was");
        }
        if reply.coded && known.representation.header("content-encoding").is_none() {
            return Verdict::Imposter("a coded body came where a plain one was");
        }
    }
    match reply.status {
        200 => whole(known, reply),
        206 if reply.coded => Verdict::Contradiction("206 with a coded body"),
        206 => part(known, asked, reply),
        304 => Verdict::NotModified,
        416 => Verdict::Unsatisfiable(match reply.content_range {
            Some(Some(ContentRange::Unsatisfied { size })) => Some(size),
            _ => None,
        }),
        status => Verdict::Status(status),
    }
}

fn whole(known: Option<Known<'_>>, reply: &Reply) -> Verdict {
    let total = match reply.framing {
        Framing::Length(length) => Some(length),
        Framing::Delimited | Framing::Close => None,
    };
    let brings = Brings {
        at: 0,
        end: total,
        total,
    };
    judged(known, reply, brings, false)
}

fn part(known: Option<Known<'_>>, asked: Span, reply: &Reply) -> Verdict {
    let Some(Some(ContentRange::Part { range, size })) = reply.content_range else {
        return Verdict::Contradiction("206 without a Content-Range that can be read");
    };
    let known_length = known.and_then(|known| known.length);
    let Some(total) = size.or(known_length) else {
        return Verdict::Contradiction("206 without the complete length");
    };
    if matches!(reply.framing, Framing::Length(length) if length != range.len()) {
        return Verdict::Contradiction("Content-Length and Content-Range differ");
    }
    if range.end() > total || !answers(asked, range, total) {
        return Verdict::Contradiction("206 with another range than was asked for");
    }
    let brings = Brings {
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

fn judged(known: Option<Known<'_>>, reply: &Reply, brings: Brings, partial: bool) -> Verdict {
    let same = known.is_some_and(|known| {
        let validator = known.representation.validators.strong();
        let length_agrees = match (known.length, brings.total) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        length_agrees && validator.is_some_and(|validator| validator.matches(&reply.validators, partial))
    });
    if same {
        return Verdict::Continues(brings);
    }
    let joinable = reply.validators.strong().is_some();
    let representation = Representation {
        complete_length: brings.total,
        validators: reply.validators.clone(),
        headers: reply.headers.clone(),
        // A server that says `Accept-Ranges: none` is believed, even where it has just sent one.
        ranges: joinable && !reply.coded && reply.accepts_ranges.unwrap_or(partial),
        ..Representation::default()
    };
    Verdict::Begins(representation, brings)
}

/// A reply with another status than those of [`join`], as a representation of its own: it says something of
/// the resource, and its body has no ranges.
pub(super) fn statement(reply: &Reply) -> (Representation, Brings) {
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
    let brings = Brings {
        at: 0,
        end: total,
        total,
    };
    (representation, brings)
}

fn is_media(media: Option<&str>) -> bool {
    media.is_some_and(|media| {
        let media = media.trim_start().to_ascii_lowercase();
        ["video/", "audio/", "image/", "application/octet-stream"]
            .iter()
            .any(|kind| media.starts_with(kind))
    })
}

fn is_page(media: Option<&str>) -> bool {
    media.is_some_and(|media| {
        let media = media.trim_start().to_ascii_lowercase();
        media.starts_with("text/html") || media.starts_with("application/xhtml")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Validators;

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
            coded: false,
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

    fn resumed(reply: &Reply) -> Verdict {
        let representation = representation();
        let known = Known {
            representation: &representation,
            length: Some(100),
        };
        join(Some(known), Span::From(40), reply)
    }

    #[test]
    fn a_206_under_the_same_tag_continues() {
        let good = reply(206, Framing::Length(60), Some("bytes 40-99/100"), Some("\"a\""));
        let brings = Brings {
            at: 40,
            end: Some(100),
            total: Some(100),
        };
        assert_eq!(resumed(&good), Verdict::Continues(brings));
    }

    #[test]
    fn another_tag_total_or_a_200_begins_anew() {
        for changed in [
            reply(206, Framing::Length(60), Some("bytes 40-99/100"), Some("\"b\"")),
            reply(206, Framing::Length(61), Some("bytes 40-100/101"), Some("\"a\"")),
            reply(206, Framing::Length(60), Some("bytes 40-99/100"), None),
            reply(206, Framing::Length(60), Some("bytes 40-99/100"), Some("W/\"a\"")),
            reply(200, Framing::Length(100), None, Some("\"b\"")),
            reply(200, Framing::Length(90), None, Some("\"a\"")),
        ] {
            assert!(matches!(resumed(&changed), Verdict::Begins(..)), "{changed:?}");
        }
    }

    #[test]
    fn a_200_under_the_same_tag_continues_from_0() {
        let ignored = reply(200, Framing::Length(100), None, Some("\"a\""));
        let brings = Brings {
            at: 0,
            end: Some(100),
            total: Some(100),
        };
        assert_eq!(resumed(&ignored), Verdict::Continues(brings));
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
            assert!(matches!(resumed(&wrong), Verdict::Contradiction(_)), "{wrong:?}");
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
        let known = Known {
            representation: &film,
            length: Some(100),
        };
        assert!(matches!(join(Some(known), Span::From(40), &page), Verdict::Imposter(_)));
        assert!(matches!(join(None, Span::From(40), &page), Verdict::Begins(..)));
    }

    #[test]
    fn a_coded_body_has_no_ranges_and_is_none() {
        let coded = |status, range| Reply {
            coded: true,
            ..reply(status, Framing::Length(60), range, Some("\"a\""))
        };
        let part = coded(206, Some("bytes 40-99/100"));
        assert!(matches!(join(None, Span::From(40), &part), Verdict::Contradiction(_)));
        assert!(matches!(resumed(&part), Verdict::Imposter(_)));
        let Verdict::Begins(representation, _) = join(None, Span::Whole, &coded(200, None)) else {
            panic!("the first reply begins");
        };
        assert!(!representation.ranges);
    }

    #[test]
    fn without_a_strong_validator_nothing_is_ever_joined() {
        let weak = reply(206, Framing::Length(100), Some("bytes 0-99/100"), Some("W/\"a\""));
        let Verdict::Begins(representation, _) = join(None, Span::From(0), &weak) else {
            panic!("the first reply begins");
        };
        assert!(!representation.ranges);
        let known = Known {
            representation: &representation,
            length: Some(100),
        };
        assert!(matches!(join(Some(known), Span::From(0), &weak), Verdict::Begins(..)));
    }
}
