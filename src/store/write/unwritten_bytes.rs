//! In-flight writes: bytes that a session has received and not written yet, which readers have from memory until then.
//!
//! A reader at the head of a fill would else wait for its bytes to be written, and read them back. Nobody waits for
//! the disk to begin: not for its files to be made, not for a page of it. What is here is held for the length of one
//! write, or for the moment until more comes to be written with it, and never more than a session gathers for that.

use crate::ranges::{ByteOffset, ByteRange};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The pieces that are being written, by their offset, with the number of the in-flight write whose they are. Guarded by the
/// object's lock.
#[derive(Debug, Default)]
pub(in crate::store) struct UnwrittenBytes {
    pieces: BTreeMap<ByteOffset, (u64, Bytes)>,
}

impl UnwrittenBytes {
    /// The bytes from `at` on that are held in one piece.
    pub(in crate::store) fn piece_at(&self, at: ByteOffset) -> Option<Bytes> {
        let (start, (_, bytes)) = self.pieces.range(..=at).next_back()?;
        let from = usize::try_from(at - start).ok().filter(|from| *from < bytes.len())?;
        Some(bytes.slice(from..))
    }

    /// The end of the piece that holds `at`.
    pub(in crate::store) fn run_at(&self, at: ByteOffset) -> Option<ByteOffset> {
        self.piece_at(at).map(|bytes| at + bytes.len() as u64)
    }

    /// The ranges in flight.
    pub(in crate::store) fn ranges(&self) -> impl Iterator<Item = ByteRange> {
        let range = |(at, (_, bytes)): (&u64, &(u64, Bytes))| ByteRange::with_len(*at, bytes.len() as u64);
        self.pieces.iter().filter_map(range)
    }

    /// Whether bytes of the range are in other hands.
    pub(in crate::store) fn has_others(&self, number: u64, range: ByteRange) -> bool {
        let mut others = self.pieces.iter().filter(|(_, (whose, _))| *whose != number);
        others.any(|(start, (_, bytes))| *start < range.end() && start + bytes.len() as u64 > range.start())
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Holds pieces that follow one another from `at` on.
    pub(in crate::store) fn insert(&mut self, number: u64, mut at: ByteOffset, pieces: &[Bytes]) {
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            self.pieces.insert(at, (number, piece.clone()));
            at += piece.len() as u64;
        }
    }

    /// Drops the pieces of a write that end at `at` or before.
    pub(in crate::store) fn drop_to(&mut self, number: u64, at: ByteOffset) {
        self.pieces
            .retain(|start, (whose, bytes)| *whose != number || start + bytes.len() as u64 > at);
    }

    /// The ranges that the pieces of a write take.
    pub(in crate::store) fn ranges_of(&self, number: u64) -> impl Iterator<Item = ByteRange> {
        let own = self.pieces.iter().filter(move |(_, (whose, _))| *whose == number);
        own.filter_map(|(at, (_, bytes))| ByteRange::with_len(*at, bytes.len() as u64))
    }

    /// Drops all pieces of a write.
    pub(in crate::store) fn withdraw(&mut self, number: u64) {
        self.pieces.retain(|_, (whose, _)| *whose != number);
    }
}
