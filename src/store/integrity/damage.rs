//! Damage: bytes on the disk that do not match their checksums, or do not read, become absent and are fetched again.
//!
//! A block is compared at its first read since the start (object_integrity.rs), by a thread that may wait. Its bad runs are
//! absent before the block counts as checked, and are then retracted in the order of retract.rs. Each is told to the
//! log and counted once.

use super::object_integrity::{BadRuns, blocks, compare};
use super::run_checksums::{self, Group};
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::error::StoreError;
use crate::store::object::Object;
use std::sync::atomic::Ordering;

impl Object {
    /// Compares the blocks of `at..at + len` that nobody has read since the start.
    pub(in crate::store) fn check(&self, at: ByteOffset, len: usize) {
        for block in blocks(at, len) {
            for (bad, what) in self.bad_runs(block) {
                self.drop_damaged(block, bad, &what);
            }
        }
    }

    /// The disk does not give bytes that it has taken: their block goes, aloud.
    pub(in crate::store) fn drop_unreadable(&self, at: ByteOffset, error: &std::io::Error) {
        let block = run_checksums::block_of(at);
        let present = self.presence.present();
        for run in run_checksums::runs_within(&present, block) {
            self.drop_damaged(block, run, &format!("it does not read: {error}"));
        }
    }

    /// Makes a damaged run absent, aloud.
    pub(in crate::store) fn drop_damaged(&self, block: u64, bad: ByteRange, what: &str) {
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

    /// The runs of a block that do not match their checksums, where it was not compared yet.
    pub(in crate::store) fn bad_runs(&self, block: u64) -> BadRuns {
        let make_absent = |bad: &BadRuns| self.presence.make_damaged_absent(bad.iter().map(|(run, _)| *run));
        let bad = self.integrity.check(block, || self.compare(block), make_absent);
        bad.unwrap_or_else(|error| {
            // The block stays unchecked until the catalog is back.
            tracing::debug!(url = self.url, block, %error, "could not read the checksums of a block");
            Vec::new()
        })
    }

    /// The runs of a block that differ from their checksums, and how.
    pub(in crate::store) fn compare(&self, block: u64) -> Result<BadRuns, StoreError> {
        let number = Group::number_of(block);
        let stored = || self.shared.catalog.sums(self.id, self.generation, number);
        let group = self.integrity.group(number, stored)?;
        // After the sums: a sum of bytes that have gone meanwhile is skipped.
        Ok(compare(block, &group, &self.presence.present(), self.durability.body()))
    }
}
