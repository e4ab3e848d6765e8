//! `multipart/byteranges` (RFC 9110 §14.6): the text between the ranges, and the exact length of all.
//!
//! The text is made before the header is sent, so the length of the whole is known and kept. One range is no multipart:
//! its bytes are the body. The boundary is made of the tag and the ranges, so the same request gets the same bytes
//! again.

use crate::header::ContentRange;
use crate::ranges::{ByteOffset, ByteRange};
use actix_web::body::BodySize;
use bytes::Bytes;

/// A piece of a body, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Text of ours.
    Text(Bytes),
    /// Bytes of the object.
    Object(ByteRange),
    /// Bytes of the object from there to an end that is not known yet.
    ToEnd(ByteOffset),
}

impl Segment {
    /// How many bytes it sends; `None` where not known.
    pub(crate) fn len(&self) -> Option<u64> {
        match self {
            Self::Text(text) => Some(text.len() as u64),
            Self::Object(range) => Some(range.len()),
            Self::ToEnd(_) => None,
        }
    }
}

/// The size of a body of these segments.
pub(crate) fn size_of(segments: &[Segment]) -> BodySize {
    let size = segments.iter().map(Segment::len).sum::<Option<u64>>();
    size.map_or(BodySize::Stream, BodySize::Sized)
}

/// The body of a 206, and its media type where several ranges make it another than the representation's.
pub(crate) fn parts(
    ranges: &[ByteRange],
    size: u64,
    etag: &str,
    content_type: Option<&str>,
) -> (Vec<Segment>, Option<String>) {
    if let [one] = *ranges {
        return (vec![Segment::Object(one)], None);
    }
    let boundary = boundary(etag, ranges);
    let segments = segments(ranges, size, content_type, &boundary);
    (segments, Some(format!("multipart/byteranges; boundary={boundary}")))
}

/// The segments of a multipart body.
fn segments(ranges: &[ByteRange], size: u64, content_type: Option<&str>, boundary: &str) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(ranges.len() * 2 + 1);
    for (index, &range) in ranges.iter().enumerate() {
        let mut text = String::new();
        if index > 0 {
            text.push_str("\r\n");
        }
        text.push_str(&format!("--{boundary}\r\n"));
        if let Some(content_type) = content_type {
            text.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        let part = ContentRange::Part {
            range,
            size: Some(size),
        };
        text.push_str(&format!("Content-Range: {part}\r\n\r\n"));
        segments.push(Segment::Text(text.into()));
        segments.push(Segment::Object(range));
    }
    segments.push(Segment::Text(format!("\r\n--{boundary}--\r\n").into()));
    segments
}

/// A boundary that no film contains: 128 bits of the object's tag and the ranges, hashed.
fn boundary(etag: &str, ranges: &[ByteRange]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(etag.as_bytes());
    for range in ranges {
        hasher.update(&range.start().to_be_bytes());
        hasher.update(&range.end().to_be_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}
