//! In-flight writes: bytes that a session has received and not written yet, which readers have from memory until then.
//!
//! A reader at the head of a fill would else wait for its bytes to be written, and read them back. Nobody waits for
//! the disk to begin: not for its files to be made, not for a page of it. What is here is held for the length of one
//! write, or for the moment until more comes to be written with it, and never more than a session gathers for that.

use super::object::{Object, wake};
use crate::ranges::{ByteOffset, ByteRange};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of the last in-flight write of all objects: two are told apart also where a fill has ended and another
/// has begun. Relaxed: numbers that differ are all that is asked of it.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// The pieces that are being written, by their offset, with the number of the [`InFlightWrite`] whose they are. Guarded by the
/// object's lock.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    pieces: BTreeMap<ByteOffset, (u64, Bytes)>,
}

impl InFlight {
    /// The bytes from `at` on that are held in one piece.
    pub(super) fn piece_at(&self, at: ByteOffset) -> Option<Bytes> {
        let (start, (_, bytes)) = self.pieces.range(..=at).next_back()?;
        let from = usize::try_from(at - start).ok().filter(|from| *from < bytes.len())?;
        Some(bytes.slice(from..))
    }

    /// The end of the piece that holds `at`.
    pub(super) fn run_at(&self, at: ByteOffset) -> Option<ByteOffset> {
        self.piece_at(at).map(|bytes| at + bytes.len() as u64)
    }

    /// The ranges in flight.
    pub(super) fn ranges(&self) -> impl Iterator<Item = ByteRange> {
        let range = |(at, (_, bytes)): (&u64, &(u64, Bytes))| ByteRange::with_len(*at, bytes.len() as u64);
        self.pieces.iter().filter_map(range)
    }

    /// Whether bytes of the range are in other hands.
    fn has_others(&self, number: u64, range: ByteRange) -> bool {
        let mut others = self.pieces.iter().filter(|(_, (whose, _))| *whose != number);
        others.any(|(start, (_, bytes))| *start < range.end() && start + bytes.len() as u64 > range.start())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

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
            let mut at = at;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                progress.in_flight.pieces.insert(at, (self.number, piece.clone()));
                at += piece.len() as u64;
            }
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
        let pieces = &mut progress.in_flight.pieces;
        pieces.retain(|start, (number, bytes)| *number != self.number || start + bytes.len() as u64 > at);
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
        let own = |piece: &(u64, Bytes)| piece.0 == self.number;
        let is_written = progress
            .in_flight
            .pieces
            .iter()
            .filter(|(_, piece)| own(piece))
            .filter_map(|(at, (_, bytes))| ByteRange::with_len(*at, bytes.len() as u64))
            .all(|range| progress.present.covers(range));
        // Bytes that are in the body stay present; for them the epoch need not rise.
        if !is_written {
            self.object.raise_epoch();
        }
        progress.in_flight.pieces.retain(|_, piece| !own(piece));
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
