//! The in-flight write of a session: how bytes that were received reach readers before they are written.
//!
//! ```text
//! publish ──► readers have the bytes from memory ──► written_to: from the body
//!                          └── take_back, drop ──► absent again, where they were not written: the epoch rises
//! ```

use crate::ranges::{ByteOffset, ByteRange};
use crate::store::object::Object;
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

impl InFlightWrite {
    /// Nothing is in flight yet.
    pub(in crate::store) fn new(object: Arc<Object>) -> Self {
        Self {
            object,
            number: LATEST.fetch_add(1, Ordering::Relaxed),
            end: 0,
        }
    }

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
        // Readers find the bytes, then the session's position passes them, then those who wait are woken.
        let end = &mut self.end;
        let presence = &self.object.presence;
        presence.publish_in_flight(self.number, range, pieces, || {
            *end = range.end();
            handed();
        });
    }

    /// Drops the pieces that end at `at` or before: they were written, and are read from the body.
    pub fn written_to(&mut self, at: ByteOffset) {
        // Nothing was published: no lock is taken for a session whose bytes are not.
        if self.end == 0 {
            return;
        }
        self.object.presence.written_to(self.number, at);
    }

    /// Withdraws all pieces. Bytes that were not written are absent again; a reader that has just read them discards them (the epoch changes).
    pub fn take_back(&mut self) {
        if self.end == 0 {
            return;
        }
        self.object.presence.withdraw_in_flight(self.number);
        self.end = 0;
    }
}

impl Drop for InFlightWrite {
    fn drop(&mut self) {
        self.take_back();
    }
}
