//! How bytes that are here become absent: damage, and parts that make room.
//!
//! ```text
//! absent, epoch (memory) ──► manifest, record, sums, flush ──► punched out of the file ──► room given back
//! ```
//!
//! The record forgets the bytes before the file does: after a crash in between they are only fetched
//! again. Readers that were just reading them find the epoch risen and look again.
//!
//! - *Absent before the epoch*: a reader that notes the risen epoch must not find the bytes (presence.rs).
//! - *The manifest first*: it alone says that the object is complete, and a lost catalog would be written anew from it.
//! - *The record before the sums*: bytes that a record names must not lose the sums which tell their damage.
//! - *Flushed before the hole*: after a crash no record may name bytes that read as zeros. After a power cut one may,
//!   since sled's flush does not wait for the disk (catalog/mod.rs); the sums then tell.
//! - *The hole with `io` held alone*, of whole pages in which nothing is present: no write or `sendfile` is under way
//!   there.

use crate::ranges::{ByteOffset, ByteRange, RangeSet};
use crate::store::error::StoreError;
use crate::store::fault;
use crate::store::integrity::run_checksums;
use crate::store::object::Object;
use std::sync::atomic::Ordering;

impl Object {
    /// Makes the range absent and gives its pages back: for a blocking thread. Returns the bytes of room
    /// that this made.
    ///
    /// # Errors
    /// Where the catalog or the disk refuses. The bytes are absent then too, but still take room.
    pub(in crate::store) fn retract(&self, range: ByteRange) -> Result<u64, StoreError> {
        let mut durable = self.durability.recorded();
        self.take_away(&mut durable, range)
    }

    /// [`Object::retract`], to make room.
    ///
    /// # Errors
    /// As there.
    pub(in crate::store) fn punch_out(&self, range: ByteRange) -> Result<u64, StoreError> {
        let freed = self.retract(range)?;
        self.shared.punched_bytes.fetch_add(freed, Ordering::Relaxed);
        tracing::debug!(
            url = self.url,
            start = range.start(),
            end = range.end(),
            "punched out for room"
        );
        Ok(freed)
    }

    /// Drops the bytes before `first` for good: who reads them still is broken. For a blocking thread.
    ///
    /// # Errors
    /// As [`Object::retract`].
    pub(in crate::store) fn drop_before(&self, first: ByteOffset) -> Result<u64, StoreError> {
        match ByteRange::new(self.presence.drop_before(first), first) {
            Some(range) => self.retract(range),
            None => Ok(0),
        }
    }

    /// [`Object::retract`], for who holds the record's lock.
    pub(in crate::store) fn take_away(&self, durable: &mut RangeSet, range: ByteRange) -> Result<u64, StoreError> {
        self.presence.make_absent(range);
        let touched = run_checksums::blocks_of(&RangeSet::from_iter([range]));
        self.integrity.forget(touched.iter().copied());
        // Bytes that were never recorded have no record to take back.
        let was_durable = durable.remove(range) > 0;
        if was_durable && !self.durability.is_discarded() && !self.durability.is_staged() {
            if self.durability.take_complete_manifest() {
                self.write_manifest(durable)?;
                fault::point("manifest-retracted");
            }
            // The record first: bytes that it names must not lose the sums that tell their damage.
            self.shared.catalog.put(self.id, &self.record(durable))?;
            fault::point("record-put-before-sums");
            self.put_sums(durable, durable, &touched)?;
            // Out before the hole: a record that names zeros must not come back with a crash.
            self.shared.catalog.flush()?;
            fault::point("record-retracted");
        }
        let freed = self.punch(range)?;
        fault::point("punched");
        Ok(freed)
    }

    /// Gives back the pages of the range in which nothing is present.
    pub(in crate::store) fn punch(&self, range: ByteRange) -> Result<u64, StoreError> {
        // No write is under way now, and none begins.
        let _alone = self.durability.hold_pages_alone();
        // Neighbours share pages with the range: a page goes when nothing in it is present.
        let absent = self.presence.gaps(crate::store::space::quota::pages(range)).into_iter();
        let mut freed = 0;
        for run in absent.filter_map(whole_pages) {
            let body = self.durability.body();
            body.punch(run)
                .map_err(StoreError::file("punch a hole into", body.path()))?;
            let room = self.presence.release_room(run);
            self.shared.space.release(room);
            freed += room;
        }
        Ok(freed)
    }
}

/// The pages that lie in the range from their first byte to their last.
fn whole_pages(range: ByteRange) -> Option<ByteRange> {
    /// The unit in which file systems hold bodies.
    const PAGE: u64 = crate::store::space::quota::PAGE_BYTES;
    ByteRange::new(range.start().checked_next_multiple_of(PAGE)?, range.end() / PAGE * PAGE)
}
