//! The answer to a request, once the representation is known. Pure.
//!
//! Conditions come first, in the order of RFC 9110 §13.2.2, and `If-Range` belongs to them; then the
//! range. What is on the disk matters only to the capped delivery, as the last step.

use crate::header::{Conditions, Known, Selection, Verdict, select};
use crate::ranges::{ByteRange, RangeSet};

/// The parts of a request that decide the answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Question<'a> {
    pub(crate) range: Option<&'a [u8]>,
    pub(crate) conditions: Conditions<'a>,
}

/// The parts of a representation that decide the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) status: u16,
    pub(crate) length: Option<u64>,
    /// The validators that conditions are evaluated against.
    pub(crate) known: Known<'a>,
    /// Whether the body has a content coding; a range would then be one of coded bytes.
    pub(crate) content_encoded: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    NotModified,
    PreconditionFailed,
    /// 416; the complete length.
    Unsatisfiable(u64),
    /// 200; the complete length, where known.
    Whole(Option<u64>),
    /// 206; at least one range, and the complete length.
    Parts(Vec<ByteRange>, u64),
}

/// The answer to a GET or HEAD, as if every byte were here.
pub(crate) fn answer(question: Question<'_>, facts: Facts<'_>) -> Answer {
    if facts.status != 200 {
        // Conditions and ranges are of what would be a 200 (RFC 9110 §13.2.1, §14.2).
        return Answer::Whole(facts.length);
    }
    let verdict = question.conditions.evaluate(&facts.known);
    let range = match verdict {
        Verdict::Failed => return Answer::PreconditionFailed,
        Verdict::NotModified => return Answer::NotModified,
        Verdict::Proceed => question.range,
        Verdict::ProceedWithoutRange => None,
    };
    // Without a length no range can be said truly: 206 with `*` fails in every player.
    let Some(length) = facts.length else {
        return Answer::Whole(None);
    };
    if facts.content_encoded {
        return Answer::Whole(Some(length));
    }
    match select(range, length) {
        Selection::Whole => Answer::Whole(Some(length)),
        Selection::Ranges(ranges) => Answer::Parts(ranges, length),
        Selection::Unsatisfiable => Answer::Unsatisfiable(length),
    }
}

/// The part of the answer that may be sent at once: each range up to its last contiguous byte that is here.
///
/// `Err` names the first byte that is missed when nothing can be sent.
pub(in crate::proxy) fn capped(answer: Answer, present: &RangeSet) -> Result<Answer, u64> {
    match answer {
        Answer::Whole(Some(0)) => Ok(answer),
        Answer::Whole(length) => {
            let whole = length.and_then(|length| ByteRange::new(0, length));
            match whole {
                Some(whole) if present.covers(whole) => Ok(answer),
                Some(whole) => Err(present.gaps(whole).next().map_or(0, ByteRange::start)),
                None => Err(0),
            }
        }
        Answer::Parts(ranges, length) => {
            let here: Vec<ByteRange> = ranges
                .iter()
                .filter_map(|range| ByteRange::new(range.start(), range.end().min(present.run_at(range.start())?)))
                .collect();
            if here.is_empty() {
                Err(ranges.first().map_or(0, |range| range.start()))
            } else {
                Ok(Answer::Parts(here, length))
            }
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::EntityTag;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).expect("not empty")
    }

    fn tagged(etag: &EntityTag) -> Known<'_> {
        Known {
            etag,
            weak_etag: None,
            modified: None,
            strong_date: false,
            dated: None,
        }
    }

    fn ask(field: &str, length: Option<u64>) -> Answer {
        let etag = EntityTag::strong("a");
        let question = Question {
            range: Some(field.as_bytes()),
            ..Question::default()
        };
        answer(
            question,
            Facts {
                status: 200,
                length,
                known: tagged(&etag),
                content_encoded: false,
            },
        )
    }

    #[test]
    fn a_failed_precondition_outranks_an_unsatisfiable_range() {
        let etag = EntityTag::strong("a");
        let question = Question {
            range: Some(b"bytes=5000-"),
            conditions: Conditions {
                if_match: Some("\"b\""),
                ..Conditions::default()
            },
        };
        let facts = Facts {
            status: 200,
            length: Some(1000),
            known: tagged(&etag),
            content_encoded: false,
        };
        assert_eq!(answer(question, facts), Answer::PreconditionFailed);
    }

    #[test]
    fn without_a_length_a_range_is_ignored() {
        assert_eq!(ask("bytes=5-", None), Answer::Whole(None));
        assert_eq!(ask("bytes=5-", Some(1000)), Answer::Parts(vec![range(5, 1000)], 1000));
        assert_eq!(ask("bytes=1000-", Some(1000)), Answer::Unsatisfiable(1000));
    }

    #[test]
    fn capped_delivery_ends_at_the_last_contiguous_byte() {
        let present: RangeSet = [range(0, 100), range(900, 1000)].into_iter().collect();
        let cap = |field: &str| capped(ask(field, Some(1000)), &present);
        assert_eq!(cap("bytes=0-"), Ok(Answer::Parts(vec![range(0, 100)], 1000)));
        assert_eq!(cap("bytes=50-59"), Ok(Answer::Parts(vec![range(50, 60)], 1000)));
        assert_eq!(cap("bytes=-50"), Ok(Answer::Parts(vec![range(950, 1000)], 1000)));
        assert_eq!(
            cap("bytes=0-199,300-399,950-"),
            Ok(Answer::Parts(vec![range(0, 100), range(950, 1000)], 1000))
        );
        assert_eq!(cap("bytes=100-"), Err(100));
        assert_eq!(capped(Answer::Whole(Some(1000)), &present), Err(100));
        assert_eq!(capped(Answer::Whole(None), &present), Err(0));
        assert_eq!(
            capped(Answer::Whole(Some(0)), &RangeSet::new()),
            Ok(Answer::Whole(Some(0)))
        );
    }
}
