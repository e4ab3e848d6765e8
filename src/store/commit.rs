//! The one order in which bytes become present: write, wake; later sync, record.
//!
//! ```text
//! write ──► present (memory) ──► wake readers          every piece, as it arrives
//!               └── unsynced ──► fdatasync ──► record  every few MiB or quarter second
//! ```
//!
//! Readers need not wait for the disk, the record must: recorded before the sync, a power cut would
//! turn zeros into film. A crash in between loses work, never truth. What is synced is a copy of
//! the unsynced set taken *before* the sync begins, so bytes that land during it wait for the next.

use super::error::StoreError;
use super::manifest::Manifest;
use super::object::{Object, wake};
use crate::clock::unix_seconds;
use crate::ranges::{ByteOffset, ByteRange};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Object {
    /// Writes the part of `bytes` that is absent, then wakes those who waited for it.
    ///
    /// Blocks as a write to the page cache does. Two calls at once must not share bytes: the fill
    /// gives each session its own range.
    ///
    /// # Errors
    /// Where the disk refuses; what was written before it did is present.
    pub fn write_missing(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(range) = ByteRange::with_len(at, bytes.len() as u64) else {
            return Ok(());
        };
        let gaps: Vec<ByteRange> = self.progress().present.gaps(range).collect();
        for gap in gaps {
            let from = (gap.start() - at) as usize;
            let piece = &bytes[from..from + gap.len() as usize];
            self.shared.space.reserve(gap.len());
            self.body.write(gap.start(), piece).map_err(|source| {
                self.shared.space.release(gap.len());
                StoreError::Write {
                    url: self.url.clone(),
                    at: gap.start(),
                    count: piece.len(),
                    source,
                }
            })?;
            let (surplus, woken) = {
                let mut progress = self.progress();
                let (new, woken) = progress.arrived(gap);
                self.mirror(&progress);
                // What another call brought meanwhile is counted there; what is discarded, nowhere.
                let kept = if self.discarded.load(Ordering::Acquire) { 0 } else { new };
                (gap.len() - kept, woken)
            };
            self.shared.space.release(surplus);
            wake(woken);
        }
        Ok(())
    }

    /// Fixes the length of an object whose reply named none: its framing ended after `length` bytes.
    ///
    /// `unverified` where closing the connection was the only sign of the end.
    pub fn end_at(&self, length: u64, unverified: bool) {
        let woken = {
            let mut progress = self.progress();
            // A length that is known is final: an end elsewhere is a cut, not a length.
            if progress.length.is_some_and(|known| known != length) {
                return;
            }
            progress.unverified = unverified;
            let woken = progress.ended_at(length);
            self.mirror(&progress);
            woken
        };
        wake(woken);
    }

    /// Whether bytes are present that are not yet recorded.
    pub fn has_unrecorded(&self) -> bool {
        !self.progress().unsynced.is_empty()
    }

    /// How many bytes are present that are not yet recorded.
    pub fn unrecorded_bytes(&self) -> u64 {
        self.progress().unsynced.total()
    }

    /// Makes what is present durable and records it: for a blocking thread.
    ///
    /// # Errors
    /// Where the disk or the catalog refuses; nothing is then recorded that is not durable.
    pub fn commit(&self) -> Result<(), StoreError> {
        let mut durable = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, whole) = {
            let mut progress = self.progress();
            (std::mem::take(&mut progress.unsynced), progress.is_whole())
        };
        if let Err(source) = self.body.sync() {
            // Not tried again: after a failed sync the kernel may have dropped the bytes, and the next
            // sync would say that all is well. Readers may have them from memory; the record never will.
            return Err(StoreError::File {
                action: "sync",
                path: self.body.path().to_owned(),
                source,
            });
        }
        durable.union(&batch);
        if self.discarded.load(Ordering::Acquire) {
            return Ok(());
        }
        self.shared.catalog.put(self.id, &self.record(&durable))?;
        if whole && self.length() == Some(durable.total()) {
            self.write_complete_manifest()?;
        }
        Ok(())
    }

    /// Records that the upstream says this is still its representation.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn confirm(&self) -> Result<(), StoreError> {
        self.validated
            .store(unix_seconds(self.shared.clock.now()), Ordering::Relaxed);
        self.record_use()
    }

    /// Records times and hits.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn record_use(&self) -> Result<(), StoreError> {
        let durable = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if self.discarded.load(Ordering::Acquire) {
            return Ok(());
        }
        self.shared.catalog.put(self.id, &self.record(&durable))
    }

    fn write_complete_manifest(&self) -> Result<(), StoreError> {
        let mut manifest = Manifest::new(&self.url, self.generation, self.representation(), self.created);
        {
            let progress = self.progress();
            manifest.complete_length = progress.length;
            manifest.unverified = progress.unverified;
        }
        manifest.complete = true;
        manifest.write(&self.body.path().with_extension("json"))
    }
}
