//! The answer that a request has decided: from the object, as if every byte of it were here.
//!
//! Bytes that are missing change how long the header waits and how the body goes out, not what is said; so this needs the head of
//! the object and the question alone.

use crate::header::Known;
use crate::proxy::hit::hot_headers::HotHeaders;
use crate::proxy::response::decide::{Answer, Facts, Question, answer};
use crate::ranges::ByteRange;
use crate::store::Object;

/// The answer to a question about the object, as if every byte of it were here.
pub(in crate::proxy) fn answer_of(question: Question<'_>, object: &Object) -> Answer {
    let head = object.head();
    let prepared = HotHeaders::of(&head, object);
    let facts = Facts {
        status: head.representation().status,
        length: object.length(),
        known: Known {
            etag: object.etag(),
            weak_etag: prepared.weak_etag.as_deref(),
            modified: prepared.modified,
            strong_date: prepared.strong_date,
            dated: prepared.dated,
        },
        content_encoded: prepared.content_encoded,
    };
    answer(question, facts)
}

/// The range whose first byte an answer waits for.
pub(in crate::proxy) fn first_range(answer: &Answer) -> Option<ByteRange> {
    match answer {
        Answer::Whole(Some(size)) => ByteRange::new(0, *size),
        Answer::Whole(None) => ByteRange::new(0, u64::MAX),
        Answer::Parts(ranges, _) => ranges.first().copied(),
        _ => None,
    }
}
