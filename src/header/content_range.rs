//! The `Content-Range` field (RFC 9110 §14.4), of replies and of 416 answers.
//!
//! Inclusive ends are read and printed here and become half-open ranges: a value of this type is never reversed, empty
//! or past its own size. Numbers beyond 63 bits are refused rather than cut, since file offsets end there. A field that
//! does not read is `None`: what it would have said of the bytes beside it is not guessed.

use crate::ranges::{ByteCount, ByteRange};
use std::fmt::Write as _;

/// `bytes `, three numbers of 20 digits, and what stands between them.
const MAX_FIELD_BYTES: usize = 68;

/// A `Content-Range` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes a-b/size`, or `bytes a-b/*` where the size is not known.
    Part {
        /// The bytes in the body.
        range: ByteRange,
        /// The complete length; `None` is `*`.
        size: Option<ByteCount>,
    },
    /// `bytes */size`, in a 416.
    Unsatisfied {
        /// The complete length.
        size: ByteCount,
    },
}

impl ContentRange {
    /// Reads a field; `None` for any that is malformed, reversed, past its own size or past 63 bits.
    pub fn parse(field: &str) -> Option<Self> {
        let (unit, rest) = field.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, size) = rest.trim().split_once('/')?;
        let size = match size {
            "*" => None,
            digits => Some(number(digits)?),
        };
        if range == "*" {
            return size.map(|size| Self::Unsatisfied { size });
        }
        let (first, last) = range.split_once('-')?;
        let range = ByteRange::new(number(first)?, number(last)?.checked_add(1)?)?;
        let fits = size.is_none_or(|size| range.end() <= size);
        fits.then_some(Self::Part { range, size })
    }

    /// The field, in a string that is made once: every ranged answer carries one.
    pub fn field(&self) -> String {
        let mut field = String::with_capacity(MAX_FIELD_BYTES);
        // Writing to a string does not fail.
        let _ = write!(field, "{self}");
        field
    }
}

impl std::fmt::Display for ContentRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Part {
                range,
                size: Some(size),
            } => {
                write!(f, "bytes {}-{}/{size}", range.start(), range.last())
            }
            Self::Part { range, size: None } => {
                write!(f, "bytes {}-{}/*", range.start(), range.last())
            }
            Self::Unsatisfied { size } => write!(f, "bytes */{size}"),
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    // Digits and nothing else (RFC 9110 §14.4): `parse` alone would take a plus sign.
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value: u64 = if plain { digits.parse().ok()? } else { return None };
    (value <= i64::MAX as u64).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_prints_as_it_was_read() {
        for field in [
            "bytes 0-9/100",
            "bytes 5-5/*",
            "bytes */100",
            "bytes 4294967296-4294967297/9999999999",
        ] {
            let parsed = ContentRange::parse(field).expect("well-formed");
            assert_eq!(parsed.to_string(), field);
        }
    }

    #[test]
    fn negative_overflowing_and_reversed_fields_are_refused() {
        for field in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "bytes -1-9/100",
            "bytes 0-9/-1",
            "bytes 0-9/+100",
            "bytes */*",
            "bytes 0-18446744073709551615/*",
            "bytes 0-9/18446744073709551616",
            "items 0-9/100",
            "bytes a-b/c",
            "bytes=0-9/100",
        ] {
            assert_eq!(ContentRange::parse(field), None, "{field}");
        }
    }

    #[test]
    fn fuzzed_content_ranges_are_printed_as_they_were_read() {
        crate::fuzzing::fuzz("content_range", |field| {
            if let Some(read) = std::str::from_utf8(field).ok().and_then(ContentRange::parse) {
                assert_eq!(ContentRange::parse(&read.field()), Some(read));
            }
        });
    }
}
