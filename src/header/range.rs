//! The `Range` request field (RFC 9110 §14.2), behind one function: [`select`].
//!
//! `http-range` reads the members; what it leaves open is closed here (each has a test below):
//!
//! - numbers past 64 bits are valid HTTP, not errors: they are clamped before it sees them;
//! - `bytes=` and `bytes=,` come back as an empty list: treated as no `Range`;
//! - a reversed range past the end counts as "no overlap": it is malformed, so ignored;
//! - a suffix of an empty object is a range of no bytes, which `Content-Range` cannot say;
//! - no limit on number or overlap: at most [`MAX_RANGES`], 4 KiB of field, overlaps merged.
//!
//! A malformed field, an unknown unit, or one past the limits is ignored: the whole is sent.

use crate::ranges::{ByteCount, ByteOffset, ByteRange};
use http_range::{HttpRange, HttpRangeParseError};
use std::fmt::Write as _;

/// The most ranges that one request may ask for; a field with more is ignored. A judgement: readers of documents ask
/// for a few, and many small ones are an attack (RFC 9110 §17.15).
pub const MAX_RANGES: usize = 16;

/// The longest field that is looked at, in bytes. A judgement: sixteen ranges of two numbers of 20 digits take 700.
const MAX_FIELD_BYTES: usize = 4096;

/// Offsets at or past this are clamped to it: no object reaches it, and no sum overflows.
const FAR: u64 = i64::MAX as u64;

/// The selection of a `Range` field, of an object of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// There is no field, or none that counts: the whole object.
    Whole,
    /// These ranges, at least one, all inside the object; overlapping and touching ones merged.
    Ranges(Vec<ByteRange>),
    /// Well-formed, and no range begins inside the object: 416.
    Unsatisfiable,
}

/// Where the first range of a field begins, said before the length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstWanted {
    /// The bytes from `start`, to `last` inclusive where it is named.
    From {
        /// The first byte.
        start: ByteOffset,
        /// The last byte, inclusive; `None` means to the end.
        last: Option<ByteOffset>,
    },
    /// The last `count` bytes.
    Suffix(ByteCount),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    From(u64, Option<u64>),
    Suffix(u64),
}

/// The ranges that `field` selects of an object of `size` bytes (RFC 9110 §14.1.2, §14.2).
pub fn select(field: Option<&[u8]>, size: ByteCount) -> Selection {
    let Some(members) = field.and_then(members) else {
        return Selection::Whole;
    };
    if size == 0 && members.iter().any(|member| matches!(member, Member::Suffix(1..))) {
        // The suffix is the whole of nothing; only a 200 can say so.
        return Selection::Whole;
    }
    match HttpRange::parse_bytes(print(&members).as_bytes(), size) {
        Ok(ranges) => {
            let ranges = ranges
                .iter()
                .filter_map(|range| ByteRange::with_len(range.start, range.length));
            merged(ranges.collect()).map_or(Selection::Whole, Selection::Ranges)
        }
        Err(HttpRangeParseError::NoOverlap) => Selection::Unsatisfiable,
        Err(HttpRangeParseError::InvalidRange) => Selection::Whole,
    }
}

/// [`select`] for the commonest field, `bytes=FIRST-LAST` or `bytes=FIRST-`, that lies inside the object. `None` where
/// it is any other.
pub fn select_one(field: &[u8], size: ByteCount) -> Option<ByteRange> {
    let text = field.strip_prefix(b"bytes=")?;
    let (start, rest) = digits(text)?;
    let rest = rest.strip_prefix(b"-")?;
    if rest.is_empty() {
        return ByteRange::new(start, size);
    }
    let (last, rest) = digits(rest)?;
    match rest.is_empty() && start <= last {
        true => ByteRange::new(start, size.min(last + 1)),
        false => None,
    }
}

/// A number of few enough digits that none is larger than [`FAR`], and what follows it.
fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    /// 10^18 - 1 is below [`FAR`], 10^19 - 1 is not.
    const MOST: usize = 18;
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(count);
    let add = |sum: u64, digit: &u8| sum * 10 + u64::from(digit - b'0');
    (1..=MOST).contains(&count).then(|| (number.iter().fold(0, add), rest))
}

/// The first range of `field`, for a fill that must choose where to begin before any length is known.
pub fn first_wanted(field: Option<&[u8]>) -> Option<FirstWanted> {
    Some(match *members(field?)?.first()? {
        Member::From(start, last) => FirstWanted::From { start, last },
        Member::Suffix(count) => FirstWanted::Suffix(count),
    })
}

/// The members of a well-formed `bytes` field within the limits; `None` means ignore the field.
fn members(field: &[u8]) -> Option<Vec<Member>> {
    if field.len() > MAX_FIELD_BYTES {
        return None;
    }
    let text = std::str::from_utf8(field).ok()?;
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let members: Vec<Member> = set
        .split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .map(member)
        .collect::<Option<_>>()?;
    (!members.is_empty() && members.len() <= MAX_RANGES).then_some(members)
}

fn member(text: &str) -> Option<Member> {
    let (first, last) = text.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", count) => Some(Member::Suffix(clamped(count)?)),
        (first, "") => Some(Member::From(clamped(first)?, None)),
        (first, last) => {
            let (first, last) = (clamped(first)?, clamped(last)?);
            (first <= last).then_some(Member::From(first, Some(last)))
        }
    }
}

/// A run of digits as a number, [`FAR`] for all that are larger; `None` for anything but digits.
fn clamped(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only a number too large for 64 bits is left to fail.
    Some(digits.parse().map_or(FAR, |number: u64| number.min(FAR)))
}

fn print(members: &[Member]) -> String {
    let mut field = String::with_capacity(64);
    for (index, member) in members.iter().enumerate() {
        field.push_str(if index == 0 { "bytes=" } else { "," });
        // Writing to a string does not fail.
        let _ = match member {
            Member::From(first, None) => write!(field, "{first}-"),
            Member::From(first, Some(last)) => write!(field, "{first}-{last}"),
            Member::Suffix(count) => write!(field, "-{count}"),
        };
    }
    field
}

/// Overlapping and touching ranges as one (RFC 9110 §15.3.7.2); the client's order where none do.
fn merged(ranges: Vec<ByteRange>) -> Option<Vec<ByteRange>> {
    if ranges.len() <= 1 {
        return (!ranges.is_empty()).then_some(ranges);
    }
    let mut sorted = ranges.clone();
    sorted.sort_unstable();
    let mut merged: Vec<ByteRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if last.touches(range) => *last = last.hull(range),
            _ => merged.push(range),
        }
    }
    Some(if merged.len() == ranges.len() { ranges } else { merged })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn selected(field: &str, size: u64) -> Selection {
        select(Some(field.as_bytes()), size)
    }

    fn ranges(pairs: &[(u64, u64)]) -> Selection {
        Selection::Ranges(
            pairs
                .iter()
                .map(|&(start, end)| ByteRange::new(start, end).expect("not empty"))
                .collect(),
        )
    }

    #[test]
    fn ordinary_range_fields_select_their_bytes() {
        for (field, wanted) in [
            ("bytes=0-", ranges(&[(0, 1000)])),
            ("bytes=0-1", ranges(&[(0, 2)])),
            ("bytes=900-5000", ranges(&[(900, 1000)])),
            ("bytes=-5", ranges(&[(995, 1000)])),
            ("bytes=-5000", ranges(&[(0, 1000)])),
            ("bytes=0-0,-1", ranges(&[(0, 1), (999, 1000)])),
            ("bytes=-1,0-0", ranges(&[(999, 1000), (0, 1)])),
            ("bytes=00001-00002", ranges(&[(1, 3)])),
            ("BYTES= 0-1 ,, 5-6 ,", ranges(&[(0, 2), (5, 7)])),
            ("bytes=0-1,2000-", ranges(&[(0, 2)])),
            ("bytes=1000-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=2000-,3000-", Selection::Unsatisfiable),
        ] {
            assert_eq!(selected(field, 1000), wanted, "{field}");
        }
    }

    #[test]
    fn a_malformed_range_is_ignored() {
        for field in [
            "",
            "bytes",
            "bytes=abc",
            "bytes=1-2-3",
            "bytes=--2",
            "bytes=+1-2",
            "bytes=-",
            "bytes=5-4",
            "bytes=0-1,5-4",
            "bytes=0--1",
            "bytes=0x1-2",
            "bytes=1.0-2",
            "bytes=\u{661}-2",
            "bytes 0-1",
        ] {
            assert_eq!(selected(field, 1000), Selection::Whole, "{field}");
        }
        assert_eq!(select(Some(b"bytes=\xff-"), 1000), Selection::Whole);
        assert_eq!(select(None, 1000), Selection::Whole);
    }

    #[test]
    fn a_range_in_an_unknown_unit_is_ignored() {
        assert_eq!(selected("items=0-1", 1000), Selection::Whole);
        assert_eq!(selected("byte=0-1", 1000), Selection::Whole);
    }

    #[test]
    fn an_empty_set_is_no_range() {
        for field in ["bytes=", "bytes=,", "bytes= , ,"] {
            assert_eq!(selected(field, 1000), Selection::Whole, "{field}");
        }
    }

    #[test]
    fn a_reversed_range_past_the_end_is_ignored_like_any_other() {
        assert_eq!(selected("bytes=2000-1000", 1000), Selection::Whole);
    }

    #[test]
    fn numbers_past_64_bits_are_numbers() {
        let huge = "18446744073709551616";
        assert_eq!(selected(&format!("bytes=0-{huge}"), 1000), ranges(&[(0, 1000)]));
        assert_eq!(selected(&format!("bytes=-{huge}"), 1000), ranges(&[(0, 1000)]));
        assert_eq!(selected(&format!("bytes={huge}-"), 1000), Selection::Unsatisfiable);
        assert_eq!(
            selected(&format!("bytes={huge}-{huge}"), 1000),
            Selection::Unsatisfiable
        );
        let longer = "9".repeat(400);
        assert_eq!(selected(&format!("bytes=5-{longer}"), 1000), ranges(&[(5, 1000)]));
        assert_eq!(selected(&format!("bytes=5-{}", u64::MAX), 1000), ranges(&[(5, 1000)]));
    }

    #[test]
    fn an_empty_object_has_no_ranges() {
        assert_eq!(selected("bytes=-5", 0), Selection::Whole);
        assert_eq!(selected("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(selected("bytes=0-0", 0), Selection::Unsatisfiable);
    }

    #[test]
    fn more_than_sixteen_ranges_or_4_kib_are_ignored() {
        let many = |count: u64| {
            let members: Vec<String> = (0..count).map(|n| format!("{}-{}", n * 10, n * 10)).collect();
            format!("bytes={}", members.join(","))
        };
        assert!(matches!(selected(&many(16), 1000), Selection::Ranges(found) if found.len() == 16));
        assert_eq!(selected(&many(17), 1000), Selection::Whole);
        assert_eq!(
            selected(&format!("bytes=0-{}1", "0".repeat(4090)), 1000),
            Selection::Whole
        );
    }

    #[test]
    fn overlapping_and_touching_ranges_are_merged() {
        assert_eq!(selected("bytes=0-499,100-599,0-", 1000), ranges(&[(0, 1000)]));
        assert_eq!(selected("bytes=20-29,0-9,10-19", 1000), ranges(&[(0, 30)]));
        assert_eq!(selected("bytes=50-59,0-9,5-19", 1000), ranges(&[(0, 20), (50, 60)]));
    }

    #[test]
    fn the_first_wanted_byte_needs_no_length() {
        let first = |field: &str| first_wanted(Some(field.as_bytes()));
        assert_eq!(first("bytes=7-"), Some(FirstWanted::From { start: 7, last: None }));
        assert_eq!(
            first("bytes=7-9,1-2"),
            Some(FirstWanted::From {
                start: 7,
                last: Some(9)
            })
        );
        assert_eq!(first("bytes=-9"), Some(FirstWanted::Suffix(9)));
        assert_eq!(first("bytes=9-7"), None);
        assert_eq!(first_wanted(None), None);
    }

    /// A range as a client writes it.
    fn spec() -> impl Strategy<Value = String> {
        prop_oneof![
            (0u64..2500, 0u64..800).prop_map(|(first, more)| format!("{first}-{}", first + more)),
            (0u64..2500).prop_map(|first| format!("{first}-")),
            (1u64..2500).prop_map(|count| format!("-{count}")),
        ]
    }

    /// Whether a range asks for that byte of `size`.
    fn asks_for(spec: &str, at: u64, size: u64) -> bool {
        let (first, last) = spec.split_once('-').expect("a range");
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&at),
            (Ok(first), Err(_)) => at >= first,
            (Err(_), Ok(count)) => at >= size.saturating_sub(count),
            (Err(_), Err(_)) => false,
        }
    }

    proptest! {
        #[test]
        fn a_valid_field_selects_the_bytes_that_its_ranges_ask_for(
            specs in proptest::collection::vec(spec(), 1..=MAX_RANGES),
            comma in "( ?, ?)",
            size in 1u64..2000,
        ) {
            let found = match selected(&format!("bytes={}", specs.join(&comma)), size) {
                Selection::Ranges(found) => found,
                Selection::Unsatisfiable => Vec::new(),
                Selection::Whole => panic!("a valid field is not ignored"),
            };
            for at in 0..size {
                let is_asked = specs.iter().any(|spec| asks_for(spec, at, size));
                let is_selected = found.iter().filter(|range| range.start() <= at && at < range.end()).count();
                prop_assert_eq!(is_selected, usize::from(is_asked), "{} of {}", at, size);
            }
        }

        #[test]
        fn hostile_fields_select_only_bytes_that_exist(tail in "[-0-9, ]{0,60}", size in 0u64..2000) {
            if let Selection::Ranges(found) = selected(&format!("bytes={tail}"), size) {
                prop_assert!(!found.is_empty() && found.len() <= MAX_RANGES);
                prop_assert!(found.iter().all(|range| range.end() <= size));
                prop_assert!(found.iter().map(|range| range.len()).sum::<u64>() <= size);
            }
        }

        #[test]
        fn the_short_way_agrees_with_the_full_parser(tail in "[0-9]{0,20}-[0-9]{0,20}[,x ]?", size in 0u64..2000) {
            let field = format!("bytes={tail}");
            if let Some(found) = select_one(field.as_bytes(), size) {
                prop_assert_eq!(selected(&field, size), Selection::Ranges(vec![found]));
            }
        }

        #[test]
        fn the_short_way_finds_every_satisfiable_range(first in 0u64..3000, more in 0u64..3000, size in 1u64..2000) {
            let field = format!("bytes={first}-{}", first + more);
            prop_assert_eq!(select_one(field.as_bytes(), size).is_some(), first < size);
        }

        #[test]
        fn arbitrary_range_fields_do_not_panic(field in proptest::collection::vec(any::<u8>(), 0..80), size: u64) {
            let _ = (select(Some(&field), size), first_wanted(Some(&field)));
        }
    }

    #[test]
    fn fuzzed_ranges_stay_within_the_object() {
        crate::fuzzing::fuzz("range", |field| {
            let _ = first_wanted(Some(field));
            for size in [0, 1, 100, u64::MAX >> 1] {
                if let Selection::Ranges(ranges) = select(Some(field), size) {
                    assert!(!ranges.is_empty() && ranges.len() <= MAX_RANGES);
                    assert!(
                        ranges
                            .iter()
                            .all(|range| range.start() < range.end() && range.end() <= size)
                    );
                    assert!(ranges.len() > 1 || select_one(field, size).is_none_or(|one| one == ranges[0]));
                }
            }
        });
    }
}
