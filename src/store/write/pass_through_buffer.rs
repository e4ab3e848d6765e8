//! The pass-through buffer: bytes that the disk would not take, on their way to readers through memory.
//!
//! A session that cannot store what it brings keeps a tail of it here: the last few hundred kilobytes,
//! which readers find like bytes on the disk. A tail is bounded, and so is the number of tails; bytes that
//! leave one are absent again. Guarded by the object's lock, like everything that decides presence.

use crate::ranges::ByteOffset;
use bytes::Bytes;
use std::collections::VecDeque;

/// The most bytes of one tail; a piece larger than that is held alone. A judgement: readers that share a session stay
/// together within it, and one that does not waits for a session of its own (`docs/decisions/0009-passing-on.md`).
const TAIL_BYTES: usize = 1 << 20;

/// The most tails of one object: one for each session, and those of a few before them. A judgement, which bounds an
/// object's memory at 4 MiB.
const MAX_TAILS: usize = 4;

#[derive(Debug, Default)]
pub(in crate::store) struct PassThroughBuffer {
    tails: VecDeque<SessionTail>,
}

#[derive(Debug)]
struct SessionTail {
    session: u64,
    pieces: VecDeque<(ByteOffset, Bytes)>,
    bytes: usize,
}

impl PassThroughBuffer {
    /// Adds a piece to the tail of `session`; `true` where other bytes had to leave for it.
    pub(in crate::store) fn offer(&mut self, session: u64, at: ByteOffset, bytes: Bytes) -> bool {
        let mut left = false;
        let index = match self.tails.iter().position(|tail| tail.session == session) {
            Some(index) => index,
            None => {
                if self.tails.len() == MAX_TAILS {
                    self.tails.pop_front();
                    left = true;
                }
                self.tails.push_back(SessionTail {
                    session,
                    pieces: VecDeque::new(),
                    bytes: 0,
                });
                self.tails.len() - 1
            }
        };
        let tail = &mut self.tails[index];
        while tail.bytes > 0 && tail.bytes + bytes.len() > TAIL_BYTES {
            if let Some((_, gone)) = tail.pieces.pop_front() {
                tail.bytes -= gone.len();
                left = true;
            }
        }
        tail.bytes += bytes.len();
        tail.pieces.push_back((at, bytes));
        left
    }

    /// The bytes from `at` on that are held in one piece.
    pub(in crate::store) fn piece_at(&self, at: ByteOffset) -> Option<Bytes> {
        let mut pieces = self.tails.iter().flat_map(|tail| &tail.pieces);
        let (start, bytes) = pieces.find(|(start, bytes)| (*start..start + bytes.len() as u64).contains(&at))?;
        Some(bytes.slice((at - start) as usize..))
    }

    /// The end of the piece that holds `at`.
    pub(in crate::store) fn run_at(&self, at: ByteOffset) -> Option<ByteOffset> {
        self.piece_at(at).map(|bytes| at + bytes.len() as u64)
    }

    /// Lets go of what ends before `at`; `true` where there was something.
    pub(in crate::store) fn let_go_before(&mut self, at: ByteOffset) -> bool {
        let mut left = false;
        for tail in &mut self.tails {
            let bytes = &mut tail.bytes;
            tail.pieces.retain(|(start, piece)| {
                let stays = start + piece.len() as u64 > at;
                if !stays {
                    *bytes -= piece.len();
                    left = true;
                }
                stays
            });
        }
        self.tails.retain(|tail| !tail.pieces.is_empty());
        left
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_its_latest_bytes_and_no_more_than_its_bound() {
        let mut buffer = PassThroughBuffer::default();
        let piece = |byte| Bytes::from(vec![byte; TAIL_BYTES / 2]);
        let half = (TAIL_BYTES / 2) as u64;
        assert!(!buffer.offer(1, 0, piece(0)));
        assert!(!buffer.offer(1, half, piece(1)));
        assert_eq!(buffer.run_at(3), Some(half));
        assert!(buffer.offer(1, 2 * half, piece(2)), "the first piece leaves");
        assert_eq!(buffer.piece_at(3), None);
        assert_eq!(buffer.piece_at(2 * half + 5).map(|bytes| bytes[0]), Some(2));
    }

    #[test]
    fn the_oldest_tail_is_dropped_beyond_the_limit() {
        let mut buffer = PassThroughBuffer::default();
        for session in 0..=MAX_TAILS as u64 {
            let left = buffer.offer(session, session * 100, Bytes::from_static(b"abc"));
            assert_eq!(left, session == MAX_TAILS as u64);
        }
        assert_eq!(buffer.run_at(0), None);
        assert_eq!(buffer.run_at(101), Some(103));
        assert!(buffer.let_go_before(203));
        assert_eq!(buffer.run_at(201), None);
        assert_eq!(buffer.run_at(301), Some(303));
        assert!(buffer.let_go_before(u64::MAX) && buffer.is_empty());
    }
}
