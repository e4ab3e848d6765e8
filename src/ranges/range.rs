//! One run of bytes: half-open, never empty.
//!
//! There is no way to make an empty or a reversed range: [`ByteRange::new`] returns `None` instead, so no caller has to
//! ask. `start < end` always holds, so `len` is at least 1; a length that would pass the last offset is refused. HTTP's
//! inclusive end is [`ByteRange::last`]; it is printed, never stored.

use super::{ByteCount, ByteOffset};

/// The bytes from `start` up to, not including, `end`; always at least one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    start: ByteOffset,
    end: ByteOffset,
}

impl ByteRange {
    /// The range `start..end`; `None` where it would be empty or reversed.
    pub fn new(start: ByteOffset, end: ByteOffset) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The range of `count` bytes at `start`; `None` where it is empty or passes the last offset.
    pub fn with_len(start: ByteOffset, count: ByteCount) -> Option<Self> {
        Self::new(start, start.checked_add(count)?)
    }

    /// The first byte's offset.
    pub fn start(self) -> ByteOffset {
        self.start
    }

    /// The offset just past the last byte.
    pub fn end(self) -> ByteOffset {
        self.end
    }

    /// The last byte's offset, as HTTP prints it.
    pub fn last(self) -> ByteOffset {
        self.end - 1
    }

    /// The number of bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(self) -> ByteCount {
        self.end - self.start
    }

    /// Whether the byte at `offset` belongs to the range.
    pub fn contains(self, offset: ByteOffset) -> bool {
        self.start <= offset && offset < self.end
    }

    /// The bytes that both ranges have; `None` where there are none.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether the two overlap or stand side by side, so that one range can say both.
    pub fn touches(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// The smallest range that has both.
    pub fn hull(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}
