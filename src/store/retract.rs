//! How bytes that are here become absent: damage, and parts that make room.
//!
//! ```text
//! absent, epoch (memory) ──► manifest, record, sums, flush ──► punched out of the file ──► room given back
//! ```
//!
//! The record forgets the bytes before the file does: after a crash in between they are only fetched
//! again. Readers that were just reading them find the epoch risen and look again.
//!
//! - *Absent before the epoch*: a reader that notes the risen epoch must not find the bytes (object.rs).
//! - *The manifest first*: it alone says that the object is complete, and a lost catalog would be written anew from it.
//! - *The record before the sums*: bytes that a record names must not lose the sums which tell their damage.
//! - *Flushed before the hole*: after a crash no record may name bytes that read as zeros. After a power cut one may,
//!   since sled's flush does not wait for the disk (catalog.rs); the sums then tell.
//! - *The hole with `io` held alone*, of whole pages in which nothing is present: no write or `sendfile` is under way
//!   there.

use super::error::StoreError;
use super::fault;
use super::object::Object;
use super::presence::wake;
use super::sums::{self, Group};
use crate::ranges::{ByteOffset, ByteRange, RangeSet};
use crate::sync::{lock, write};
use std::sync::atomic::Ordering;

impl Object {
    /// Makes the range absent and gives its pages back: for a blocking thread. Returns the bytes of room
    /// that this made.
    ///
    /// # Errors
    /// Where the catalog or the disk refuses. The bytes are absent then too, but still take room.
    pub fn retract(&self, range: ByteRange) -> Result<u64, StoreError> {
        let mut durable = lock(&self.recorded);
        self.take_away(&mut durable, range)
    }

    /// [`Object::retract`], to make room.
    ///
    /// # Errors
    /// As there.
    pub fn punch_out(&self, range: ByteRange) -> Result<u64, StoreError> {
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
    pub fn drop_before(&self, first: ByteOffset) -> Result<u64, StoreError> {
        let (before, woken) = self.progress().drop_before(first);
        wake(woken);
        match ByteRange::new(before, first) {
            Some(range) => self.retract(range),
            None => Ok(0),
        }
    }

    /// [`Object::retract`], for who holds the record's lock.
    pub(super) fn take_away(&self, durable: &mut RangeSet, range: ByteRange) -> Result<u64, StoreError> {
        {
            let mut progress = self.progress();
            progress.present.remove(range);
            progress.unsynced.remove(range);
            self.mirror(&progress);
            // Last: who finds it risen finds the bytes absent, also without the lock.
            self.raise_epoch();
        }
        let touched = sums::blocks_of(&RangeSet::from_iter([range]));
        {
            let mut arriving = lock(&self.arriving);
            touched.iter().for_each(|block| arriving.forget(*block));
        }
        // Bytes that were never recorded have no record to take back.
        let was_durable = durable.remove(range) > 0;
        if was_durable && !self.discarded.load(Ordering::Acquire) {
            if self.complete_manifest.swap(false, Ordering::AcqRel) {
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
    pub(super) fn punch(&self, range: ByteRange) -> Result<u64, StoreError> {
        // No write is under way now, and none begins.
        let _alone = write(&self.io);
        let empty: Vec<ByteRange> = {
            let progress = self.progress();
            // Neighbours share pages with the range: a page goes when nothing in it is present.
            let absent = progress.present.gaps(super::space::pages(range));
            absent.filter_map(whole_pages).collect()
        };
        let mut freed = 0;
        for run in empty {
            self.body
                .punch(run)
                .map_err(StoreError::file("punch a hole into", self.body.path()))?;
            let room = self.progress().held.remove(run);
            self.shared.space.release(room);
            freed += room;
        }
        Ok(freed)
    }

    /// Compares the blocks of `at..at + len` that nobody has read since the start.
    pub(super) fn check(&self, at: ByteOffset, len: usize) {
        let last = at.saturating_add((len as u64).max(1) - 1);
        for block in sums::block_of(at)..=sums::block_of(last) {
            for (bad, what) in self.bad_runs(block) {
                self.drop_damaged(block, bad, &what);
            }
        }
    }

    /// The disk does not give bytes that it has taken: their block goes, aloud.
    pub(super) fn drop_unreadable(&self, at: ByteOffset, error: &std::io::Error) {
        let block = sums::block_of(at);
        let present = self.present();
        for run in sums::runs_within(&present, block) {
            self.drop_damaged(block, run, &format!("it does not read: {error}"));
        }
    }

    /// Makes a damaged run absent, aloud.
    pub(super) fn drop_damaged(&self, block: u64, bad: ByteRange, what: &str) {
        self.shared.bad_blocks.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            url = self.url,
            block,
            start = bad.start(),
            end = bad.end(),
            what,
            "a block on the disk is damaged: it will be fetched again"
        );
        if let Err(error) = self.retract(bad) {
            tracing::error!(url = self.url, %error, "could not record that a block is gone");
        }
    }

    /// Whether all of these bytes were compared since the start.
    pub(super) fn is_checked(&self, at: ByteOffset, len: usize) -> bool {
        if !self.has_unchecked.load(Ordering::Acquire) {
            return true;
        }
        let unchecked = lock(&self.unchecked);
        let last = at.saturating_add((len as u64).max(1) - 1);
        !(sums::block_of(at)..=sums::block_of(last)).any(|block| unchecked.contains(block))
    }

    /// The runs of a block that do not match their checksums, where it was not compared yet.
    pub(super) fn bad_runs(&self, block: u64) -> Vec<(ByteRange, String)> {
        if !self.has_unchecked.load(Ordering::Acquire) {
            return Vec::new();
        }
        // One comparison at a time, so that a block is read once however many readers ask for it.
        let _one = lock(&self.comparing);
        let unchecked = || lock(&self.unchecked);
        if !unchecked().contains(block) {
            return Vec::new();
        }
        let bad = match self.compare(block) {
            Ok(bad) => bad,
            Err(error) => {
                // The block stays unchecked until the catalog is back.
                tracing::debug!(url = self.url, block, %error, "could not read the checksums of a block");
                return Vec::new();
            }
        };
        let mut left = unchecked();
        if !bad.is_empty() {
            // Between here and the retraction nobody may take the block for a good one.
            let mut progress = self.progress();
            for (run, _) in &bad {
                progress.present.remove(*run);
            }
            self.mirror(&progress);
            self.raise_epoch();
        }
        // Last: a thread that finds the block checked finds its bad runs absent.
        left.checked(block);
        self.has_unchecked.store(!left.is_empty(), Ordering::Release);
        bad
    }

    /// The runs of a block that differ from their checksums, and how.
    pub(super) fn compare(&self, block: u64) -> Result<Vec<(ByteRange, String)>, StoreError> {
        let number = Group::number_of(block);
        let first = lock(&self.first_sums).clone();
        let group = match first.filter(|_| number == 0) {
            Some(first) => first,
            None => self.shared.catalog.sums(self.id, self.generation, number)?,
        };
        let present = self.present();
        let sums = group.get(block).iter();
        // A crash can leave the sum of what was given up, or not yet recorded.
        let sums: Vec<_> = sums
            .filter_map(|sum| Some((sum.range(block).filter(|run| present.covers(*run))?, sum)))
            .collect();
        let mut bad = Vec::new();
        for (run, sum) in &sums {
            // The checksum of a run from before it grew says nothing more.
            let grown = |other: &ByteRange| other != run && other.start() <= run.start() && run.end() <= other.end();
            if sums.iter().any(|(other, _)| grown(other)) {
                continue;
            }
            let run = *run;
            let mut bytes = vec![0; run.len() as usize];
            match self.body.read_exact(run.start(), &mut bytes) {
                Ok(()) if sums::sum_of(&bytes) == sum.sum => {}
                Ok(()) => bad.push((run, "its bytes do not match their checksum".to_owned())),
                Err(error) => bad.push((run, format!("it does not read: {error}"))),
            }
        }
        Ok(bad)
    }
}

/// The pages that lie in the range from their first byte to their last.
fn whole_pages(range: ByteRange) -> Option<ByteRange> {
    /// The unit in which file systems hold bodies.
    const PAGE: u64 = super::space::PAGE_BYTES;
    ByteRange::new(range.start().checked_next_multiple_of(PAGE)?, range.end() / PAGE * PAGE)
}
