//! Preallocation: disk space that is taken ahead of what is written.
//!
//! A file system that hears of a stretch before its bytes come lays it in one piece, however many fills write beside
//! it, and keeps its books once for all of it instead of once a page. So a sequential writer is given as much ahead as
//! it has written: the first megabyte of a seek costs what it takes, a film that fills takes the most there is at a time. It counts
//! as room like any other, only where there is plenty, and what was not written goes back when the fill is over; after a
//! crash, when the object is next opened.

use super::body::Body;
use super::error::StoreError;
use super::object::Object;
use super::presence::Progress;
use super::space::{PAGE_BYTES, pages, pages_of};
use super::store::Store;
use crate::ranges::{ByteCount, ByteRange};
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
pub(super) struct Preallocation {
    /// The file system has refused to preallocate, or to release. Relaxed: orders nothing; a thread that misses it is
    /// refused once more.
    refused: AtomicBool,
    /// Room may have been preallocated since it was last reclaimed. Release, when the room is held; AcqRel, before the
    /// open objects are gone through: a reclaim that finds the flag finds the room.
    outstanding: AtomicBool,
}

impl Preallocation {
    fn heed(&self, error: &io::Error) {
        if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) {
            self.refused.store(true, Ordering::Relaxed);
        }
    }
}

impl Store {
    /// Reclaims preallocated, unwritten space of all open objects, in bytes: another write needs it now. For a
    /// blocking thread.
    pub(super) fn reclaim_preallocated(&self) -> ByteCount {
        if !self.shared.preallocation.outstanding.swap(false, Ordering::AcqRel) {
            return 0;
        }
        let mut freed = 0;
        for object in self.open.all() {
            match object.release_preallocated() {
                Ok(bytes) => freed += bytes,
                Err(error) => tracing::debug!(url = object.url, %error, "could not give back what was taken ahead"),
            }
        }
        freed
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

impl Object {
    /// Takes room for the pages of the range that have none, and for some more where much follows. They are held until they are
    /// punched out or the object goes: a write that fails may have used some of them. Called by who has the
    /// right to write.
    pub(super) fn reserve(&self, range: ByteRange) -> Result<(), StoreError> {
        let pages = pages(range);
        let (new, ahead) = {
            let progress = self.progress();
            let new = pages.len() - progress.held.covered(pages);
            if new == 0 {
                return Ok(());
            }
            (new, self.ahead_of(&progress, pages))
        };
        // statvfs and fallocate may block, so they run without the progress lock.
        if let Some(ahead) = ahead
            && self.shared.space.take(new + ahead.len()).is_ok()
        {
            let all = pages.hull(ahead);
            self.preallocate(all);
            self.has_taken(all, new + ahead.len());
            // Only now: a reclaim that took the flag away before the room is held would pass it over for good.
            self.shared.preallocation.outstanding.store(true, Ordering::Release);
            return Ok(());
        }
        self.shared
            .space
            .take(new)
            .map_err(|shortage| self.no_room(new, shortage))?;
        self.has_taken(pages, new);
        Ok(())
    }

    /// Accounts for `bytes` that were taken for the pages. Those that another session has taken meanwhile go back; none can
    /// have been given back, since the caller has the right to write.
    fn has_taken(&self, pages: ByteRange, bytes: ByteCount) {
        let more = {
            let mut progress = self.progress();
            let more = pages.len() - progress.held.covered(pages);
            progress.held.insert(pages);
            more
        };
        self.shared.space.release(bytes.saturating_sub(more));
    }

    fn ahead_of(&self, progress: &Progress, pages: ByteRange) -> Option<ByteRange> {
        if self.shared.preallocation.refused.load(Ordering::Relaxed) {
            return None;
        }
        // No `statvfs` of this thread's here: the caller holds `progress`.
        let most = self.shared.space.believed_room() / PART_OF_ROOM;
        progress.ahead_of(pages, most.min(MOST_BYTES))
    }

    /// Tells the file system of what was taken. Where it does not listen the room stays taken: it may have laid out some of
    /// it, and another session may have written there.
    fn preallocate(&self, all: ByteRange) {
        let Err(error) = self.body.preallocate(self.length(), all) else {
            return;
        };
        tracing::debug!(url = self.url, %error, "no room could be laid out ahead");
        self.shared.preallocation.heed(&error);
    }

    /// Gives back the room that was taken and not written, in bytes: for a blocking thread, when no more comes.
    ///
    /// # Errors
    /// Where the file system does not take it; it is tried again when the object is next opened.
    pub fn release_preallocated(&self) -> Result<ByteCount, StoreError> {
        let spare: Vec<ByteRange> = {
            let progress = self.progress();
            let written = pages_of(&progress.present);
            let spare = progress
                .held
                .iter()
                .flat_map(|run| written.gaps(run).collect::<Vec<_>>());
            spare.collect()
        };
        let mut freed = 0;
        for run in spare {
            freed += self.punch(run).inspect_err(|error| {
                if let StoreError::File { source, .. } = error {
                    self.shared.preallocation.heed(source);
                }
            })?;
        }
        Ok(freed)
    }
}

impl Body {
    /// Has the file system lay out the range, which ends where the body does at the latest.
    fn preallocate(&self, length: Option<u64>, range: ByteRange) -> io::Result<()> {
        // Room behind the end of a file is not given back with a hole.
        let end = length.map_or(range.end(), |length| length.min(range.end()));
        let bytes = end.saturating_sub(range.start());
        Ok(fallocate(self.file()?, FallocateFlags::empty(), range.start(), bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::disk_bytes;
    use super::super::tests::{NOW, close, files, film, key, open, open_at};
    use super::*;
    use crate::ranges::RangeSet;
    use std::path::Path;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    fn progress(present: &[(u64, u64)], length: u64) -> Progress {
        let present: RangeSet = present.iter().map(|(start, end)| range(*start, *end)).collect();
        Progress::recorded(present, Some(length), false)
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).expect("a range")
    }

    /// Disk space of the bodies in the directory.
    fn on_disk(dir: &Path) -> u64 {
        let bodies = files(dir)
            .into_iter()
            .filter(|path| path.extension().is_some_and(|kind| kind == "body"));
        bodies.map(|path| disk_bytes(&path.metadata().expect("a file"))).sum()
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
    fn room_that_two_sessions_took_for_the_same_pages_is_counted_once() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, MIB, 8 * MIB);
        let before = store.used_bytes();
        let (pages, ahead) = (range(MIB, MIB + PAGE_BYTES), range(MIB, 3 * MIB));
        store.shared.space.take(pages.len()).expect("room");
        store.shared.space.take(ahead.len()).expect("room");
        object.has_taken(pages, pages.len());
        object.has_taken(ahead, ahead.len());
        assert_eq!(store.used_bytes(), before + ahead.len());
        assert!(object.progress().held.covers(ahead));
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

    #[test]
    fn preallocation_counts_as_used_and_is_released() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, 3 * MIB, 64 * MIB);
        let (used, body) = (store.used_bytes(), on_disk(dir.path()));
        store.write(&object, 3 * MIB, &[vec![7; 1000]]).expect("room");
        assert_eq!(store.used_bytes(), used + 3 * MIB, "up to 6 MiB");
        assert!(on_disk(dir.path()) >= body + 3 * MIB);
        store.write(&object, 3 * MIB + 1000, &[vec![7; 5000]]).expect("room");
        assert_eq!(store.used_bytes(), used + 3 * MIB, "this room was taken");
        assert_eq!(
            object.release_preallocated().expect("given back"),
            3 * MIB - 2 * PAGE_BYTES
        );
        assert_eq!(store.used_bytes(), used + 2 * PAGE_BYTES);
        assert!(on_disk(dir.path()) < body + MIB);
        object.commit().expect("recorded");
        assert_eq!(object.release_preallocated().expect("nothing"), 0);
        let bytes = object.read_blocking(3 * MIB, 6000).expect("read");
        assert!(bytes.len() == 6000 && bytes.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn preallocation_left_by_a_crash_is_released_on_open() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, 8 * MIB, 64 * MIB);
        store.write(&object, 8 * MIB, &[vec![7; 1000]]).expect("room");
        assert!(on_disk(dir.path()) >= 16 * MIB);
        drop(object);
        close(store, false);
        let store = open(dir.path());
        let object = store.load(&key(1)).expect("asked").expect("found");
        assert_eq!(object.present_bytes(), 8 * MIB);
        assert!(on_disk(dir.path()) < 9 * MIB);
    }

    #[test]
    fn scarce_room_prevents_preallocation() {
        let dir = TempDir::new().expect("a directory");
        let store = open_at(dir.path(), Some(70 * MIB), NOW);
        let object = film(&store, 1, 8 * MIB, 64 * MIB);
        let used = store.used_bytes();
        store.write(&object, 8 * MIB, &[vec![7; 1000]]).expect("room");
        assert_eq!(store.used_bytes(), used + PAGE_BYTES);
    }

    #[test]
    fn preallocation_is_reclaimed_before_any_object_is_evicted() {
        let dir = TempDir::new().expect("a directory");
        let store = open_at(dir.path(), Some(120 * MIB), NOW);
        drop(film(&store, 1, MIB, MIB));
        let watched = film(&store, 2, 8 * MIB, 64 * MIB);
        store.write(&watched, 8 * MIB, &[vec![7; 1000]]).expect("room");
        let ahead = watched.disk_bytes();
        let other = film(&store, 3, PAGE_BYTES, 128 * MIB);
        let left = 120 * MIB - store.used_bytes();
        store
            .write(&other, PAGE_BYTES, &[vec![7; (left + 100 * PAGE_BYTES) as usize]])
            .expect("room");
        assert!(watched.disk_bytes() < ahead);
        assert!(
            store.load(&key(1)).expect("readable").is_some(),
            "nobody reads it, but it is somebody's"
        );
        assert!(store.used_bytes() <= 120 * MIB);
    }

    #[test]
    fn closing_an_object_with_preallocation_forces_a_recount() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        store.look_after();
        let object = film(&store, 1, 8 * MIB, 64 * MIB);
        store.write(&object, 8 * MIB, &[vec![7; 1000]]).expect("room");
        object.commit().expect("recorded");
        store.open.changing().remove(&object);
        drop(object);
        close(store, true);
        let store = open(dir.path());
        assert!(!store.recount().is_exact);
        store.look_after();
        assert!(on_disk(dir.path()) < 9 * MIB);
        assert_eq!(store.used_bytes(), 8 * MIB + 2 * PAGE_BYTES);
    }

    #[test]
    fn preallocation_of_a_crash_is_subtracted_once_if_the_catalog_fails() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, 8 * MIB, 64 * MIB);
        drop(film(&store, 2, 4 * MIB, 4 * MIB));
        store.write(&object, 8 * MIB, &[vec![7; 1000]]).expect("room");
        drop(object);
        close(store, false);
        let store = open(dir.path());
        store.shared.catalog.close();
        store.look_after();
        store.look_after();
        assert_eq!(store.used_bytes(), 12 * MIB + 2 * PAGE_BYTES);
    }
}
