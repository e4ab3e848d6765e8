//! The reservation of room for an object's pages: taken before they are written, given back when they are not.
//!
//! Room is held page by page, so that two sessions which write into one page take it once. Where much follows, more is
//! taken than is written now (preallocate.rs). It is held until it is punched out or the object goes.

use super::quota::pages;
use crate::ranges::{ByteCount, ByteRange};
use crate::store::error::StoreError;
use crate::store::object::Object;
use crate::store::object::progress::Progress;
use crate::store::store::Store;

impl Store {
    /// Reclaims preallocated, unwritten space of all open objects, in bytes: another write needs it now. For a
    /// blocking thread.
    pub(in crate::store) fn reclaim_preallocated(&self) -> ByteCount {
        if !self.shared.preallocation.take_outstanding() {
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

impl Object {
    /// Takes room for the pages of the range that have none, and for some more where much follows. They are held until they are
    /// punched out or the object goes: a write that fails may have used some of them. Called by who has the
    /// right to write.
    pub(in crate::store) fn reserve(&self, range: ByteRange) -> Result<(), StoreError> {
        let pages = pages(range);
        let (preallocation, space) = (&self.shared.preallocation, &self.shared.space);
        let ahead = |progress: &Progress| preallocation.ahead_of(space, progress, pages);
        let Some((new, ahead)) = self.presence.missing_room(pages, ahead) else {
            return Ok(());
        };
        // statvfs and fallocate may block, so they run without the progress lock.
        if let Some(ahead) = ahead
            && space.take(new + ahead.len()).is_ok()
        {
            let all = pages.hull(ahead);
            self.preallocate(all);
            self.has_taken(all, new + ahead.len());
            // Only now: a reclaim that took the flag away before the room is held would pass it over for good.
            preallocation.note_outstanding();
            return Ok(());
        }
        space.take(new).map_err(|shortage| self.no_room(new, shortage))?;
        self.has_taken(pages, new);
        Ok(())
    }

    /// Accounts for `bytes` that were taken for the pages. Those that another session has taken meanwhile go back; none can
    /// have been given back, since the caller has the right to write.
    fn has_taken(&self, pages: ByteRange, bytes: ByteCount) {
        let more = self.presence.hold_room(pages);
        self.shared.space.release(bytes.saturating_sub(more));
    }

    /// Tells the file system of what was taken. Where it does not listen the room stays taken: it may have laid out some of
    /// it, and another session may have written there.
    fn preallocate(&self, all: ByteRange) {
        let Err(error) = self.durability.body().preallocate(self.length(), all) else {
            return;
        };
        tracing::debug!(url = self.url, %error, "no room could be laid out ahead");
        self.shared.preallocation.heed(&error);
    }

    /// Gives back the room that was taken and not written, in bytes: for a blocking thread, when no more comes.
    ///
    /// # Errors
    /// Where the file system does not take it; it is tried again when the object is next opened.
    pub(in crate::store) fn release_preallocated(&self) -> Result<ByteCount, StoreError> {
        let mut freed = 0;
        for run in self.presence.spare_room() {
            freed += self.punch(run).inspect_err(|error| {
                if let StoreError::File { source, .. } = error {
                    self.shared.preallocation.heed(source);
                }
            })?;
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::quota::PAGE_BYTES;
    use super::*;
    use crate::store::body_file::disk_bytes;
    use crate::store::tests::{NOW, close, files, film, key, open, open_at};
    use std::path::Path;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

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
        assert!(object.presence.progress().held.covers(ahead));
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
        assert_eq!(object.presence.present_bytes(), 8 * MIB);
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
        let left = store.room().expect("told");
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
