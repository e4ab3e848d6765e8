//! The in-flight write of a session: how bytes that were received reach readers before they are written.
//!
//! ```text
//! publish ──► readers have the bytes from memory ──► written_to: from the body
//!                          └── take_back, drop ──► absent again, where they were not written: the epoch rises
//! ```

use super::object::Object;
use super::presence::wake;
use crate::ranges::{ByteOffset, ByteRange};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of the last in-flight write of all objects: two are told apart also where a fill has ended and another
/// has begun. Relaxed: numbers that differ are all that is asked of it.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// The bytes that a session has published and not yet written; withdrawn when this is dropped.
#[derive(Debug)]
pub struct InFlightWrite {
    object: Arc<Object>,
    number: u64,
    end: ByteOffset,
}

impl Object {
    /// An empty in-flight write, for a session whose bytes no other session brings.
    pub fn in_flight_write(self: &Arc<Self>) -> InFlightWrite {
        InFlightWrite {
            object: Arc::clone(self),
            number: LATEST.fetch_add(1, Ordering::Relaxed),
            end: 0,
        }
    }
}

impl InFlightWrite {
    /// The end of the last published piece.
    pub fn end(&self) -> ByteOffset {
        self.end
    }

    /// Lets readers have the bytes at `at`, which are about to be written, and wakes those who wait for them. `handed`
    /// is called when they can be found, and before anybody is woken to take them.
    pub fn publish(&mut self, at: ByteOffset, pieces: &[Bytes], handed: impl FnOnce()) {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let Some(range) = ByteRange::with_len(at, bytes as u64) else {
            return;
        };
        let woken = {
            let mut progress = self.object.progress();
            if progress.in_flight.has_others(self.number, range) {
                // A shorter piece may hide a longer one of another session: a reader that has looked must look again.
                self.object.raise_epoch();
            }
            progress.in_flight.insert(self.number, at, pieces);
            // Under the lock: a reader that finds the bytes by a look must find the flag too.
            self.object.has_in_flight.store(true, Ordering::Release);
            progress.take_waiters_in(range)
        };
        self.end = range.end();
        // Before the wakers: the session's position must be past these bytes when a reader asks for the next.
        handed();
        wake(woken);
    }

    /// Drops the pieces that end at `at` or before: they were written, and are read from the body.
    pub fn written_to(&mut self, at: ByteOffset) {
        // Nothing was published: no lock is taken for a session whose bytes are not.
        if self.end == 0 {
            return;
        }
        let mut progress = self.object.progress();
        progress.in_flight.drop_to(self.number, at);
        self.object
            .has_in_flight
            .store(!progress.in_flight.is_empty(), Ordering::Release);
    }

    /// Withdraws all pieces. Bytes that were not written are absent again; a reader that has just read them discards them (the epoch changes).
    pub fn take_back(&mut self) {
        if self.end == 0 {
            return;
        }
        let mut progress = self.object.progress();
        let is_written = progress
            .in_flight
            .ranges_of(self.number)
            .all(|range| progress.present.covers(range));
        // Bytes that are in the body stay present; for them the epoch need not rise.
        if !is_written {
            self.object.raise_epoch();
        }
        progress.in_flight.withdraw(self.number);
        self.end = 0;
        self.object
            .has_in_flight
            .store(!progress.in_flight.is_empty(), Ordering::Release);
    }
}

impl Drop for InFlightWrite {
    fn drop(&mut self) {
        self.take_back();
    }
}
