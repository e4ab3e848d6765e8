//! Preallocation: disk space that is taken ahead of what is written.
//!
//! A file system that hears of a stretch before its bytes come lays it in one piece, however many fills write beside
//! it, and keeps its books once for all of it instead of once a page. So a sequential writer is given as much ahead as
//! it has written: the first megabyte of a seek costs what it takes, a film that fills takes the most there is at a time. It counts
//! as room like any other, only where there is plenty, and what was not written goes back when the fill is over; after a
//! crash, when the object is next opened.

use super::quota::{PAGE_BYTES, Space};
use crate::ranges::{ByteCount, ByteRange};
use crate::store::body_file::Body;
use crate::store::object::progress::Progress;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most that is taken ahead at once, in bytes. Measured beside all of an object at once, with the same gain
/// (`docs/decisions/0018-room-ahead-of-a-fill.md`).
const MOST_BYTES: u64 = 16 << 20;

/// Less is not worth a call; also the grain of what is taken. A judgement: the first megabyte of a seek then costs what
/// it takes, and most seeks bring no more.
const LEAST_BYTES: u64 = 1 << 20;

/// One write preallocates at most the room that is left, divided by this. A judgement: 64 fills at once leave some.
const PART_OF_ROOM: u64 = 64;

/// Whether the file system of the data directory takes room ahead.
#[derive(Debug, Default)]
pub(in crate::store) struct Preallocation {
    /// The file system has refused to preallocate, or to release. Relaxed: orders nothing; a thread that misses it is
    /// refused once more.
    refused: AtomicBool,
    /// Room may have been preallocated since it was last reclaimed. Release, when the room is held; AcqRel, before the
    /// open objects are gone through: a reclaim that finds the flag finds the room.
    outstanding: AtomicBool,
}

impl Preallocation {
    pub(in crate::store) fn heed(&self, error: &io::Error) {
        if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) {
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    /// Room was preallocated, and is held.
    pub(in crate::store) fn note_outstanding(&self) {
        self.outstanding.store(true, Ordering::Release);
    }

    /// Whether room may have been preallocated since this was last asked.
    pub(in crate::store) fn take_outstanding(&self) -> bool {
        self.outstanding.swap(false, Ordering::AcqRel)
    }

    /// The range to preallocate beyond `pages`, which are about to be written, where the file system takes it and there
    /// is plenty of room.
    pub(in crate::store) fn ahead_of(&self, space: &Space, progress: &Progress, pages: ByteRange) -> Option<ByteRange> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        // No `statvfs` of this thread's here: the caller has the progress locked.
        let most = space.believed_room() / PART_OF_ROOM;
        progress.ahead_of(pages, most.min(MOST_BYTES))
    }
}

impl Progress {
    /// The range to preallocate beyond `pages`, which are about to be written: no more than `most`, nor than lies before them without a
    /// gap, and nothing that is held already.
    fn ahead_of(&self, pages: ByteRange, most: ByteCount) -> Option<ByteRange> {
        // The run of present bytes that ends where this write begins: that much was written in sequence.
        let behind = match ByteRange::new(pages.start().saturating_sub(most), pages.start()) {
            Some(before) => {
                let gap = self.present.gaps(before).last();
                pages.start() - gap.map_or(before.start(), ByteRange::end)
            }
            None => 0,
        };
        if behind < LEAST_BYTES {
            return None;
        }
        let length = self.length?.checked_next_multiple_of(PAGE_BYTES)?;
        let end = (pages.end().checked_add(behind)? / LEAST_BYTES * LEAST_BYTES).min(length);
        let free = self.held.gaps(ByteRange::new(pages.end(), end)?).next()?;
        // Adjacent or nothing: what another session has taken lies between.
        Some(free).filter(|free| free.start() == pages.end())
    }
}

impl Body {
    /// Has the file system lay out the range, which ends where the body does at the latest.
    pub(in crate::store) fn preallocate(&self, length: Option<u64>, range: ByteRange) -> io::Result<()> {
        // Room behind the end of a file is not given back with a hole.
        let end = length.map_or(range.end(), |length| length.min(range.end()));
        let bytes = end.saturating_sub(range.start());
        Ok(fallocate(self.file()?, FallocateFlags::empty(), range.start(), bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::RangeSet;

    const MIB: u64 = 1 << 20;

    fn progress(present: &[(u64, u64)], length: u64) -> Progress {
        let present: RangeSet = present.iter().map(|(start, end)| range(*start, *end)).collect();
        Progress::recorded(present, Some(length), false)
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).expect("a range")
    }

    #[test]
    fn preallocation_is_as_long_as_the_contiguous_run_behind() {
        let step = |at: u64| range(at, at + 128 * 1024);
        let ahead = |of: &Progress, at: u64| of.ahead_of(step(at), MOST_BYTES);
        assert_eq!(ahead(&progress(&[], 100 * MIB), 0), None);
        assert_eq!(
            ahead(&progress(&[(0, MIB - PAGE_BYTES)], 100 * MIB), MIB - PAGE_BYTES),
            None
        );
        let end = |at: u64| at + 128 * 1024;
        assert_eq!(
            ahead(&progress(&[(0, 3 * MIB)], 100 * MIB), 3 * MIB),
            Some(range(end(3 * MIB), 6 * MIB))
        );
        assert_eq!(
            ahead(&progress(&[(0, 40 * MIB)], 100 * MIB), 40 * MIB),
            Some(range(end(40 * MIB), 56 * MIB))
        );
        let seek = progress(&[(0, 40 * MIB), (60 * MIB, 62 * MIB)], 100 * MIB);
        assert_eq!(
            ahead(&seek, 62 * MIB),
            Some(range(end(62 * MIB), 64 * MIB)),
            "what lies behind a gap does not count"
        );
        assert_eq!(
            ahead(&progress(&[(0, 40 * MIB)], 41 * MIB + 5), 40 * MIB),
            Some(range(end(40 * MIB), 41 * MIB + PAGE_BYTES))
        );
        assert_eq!(ahead(&progress(&[(0, 40 * MIB)], 40 * MIB + 5), 40 * MIB), None);
    }

    #[test]
    fn pages_held_by_another_session_are_not_preallocated_again() {
        let held = progress(&[(0, 8 * MIB), (10 * MIB, 11 * MIB)], 100 * MIB);
        let pages = range(8 * MIB, 8 * MIB + PAGE_BYTES);
        assert_eq!(
            held.ahead_of(pages, MOST_BYTES),
            Some(range(8 * MIB + PAGE_BYTES, 10 * MIB))
        );
        let next = progress(&[(0, 8 * MIB), (8 * MIB + PAGE_BYTES, 9 * MIB)], 100 * MIB);
        assert_eq!(next.ahead_of(pages, MOST_BYTES), None);
    }
}
