//! Bytes that the disk would not take, on their way to readers through memory.
//!
//! A session that cannot store what it brings lays it into a lane of its own: the last few hundred
//! kilobytes, which readers find like bytes on the disk. A lane is bounded, and so is their number; what
//! leaves one is absent again. Guarded by the object's lock, like everything that decides presence.

use crate::ranges::ByteOffset;
use bytes::Bytes;
use std::collections::VecDeque;

/// The most that one lane holds, in bytes; a piece larger than that is held alone.
const LANE_BYTES: usize = 1 << 20;

/// The most lanes of one object: one for each session, and what a few before them left.
const LANES: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Transit {
    lanes: VecDeque<Lane>,
}

#[derive(Debug)]
struct Lane {
    session: u64,
    pieces: VecDeque<(ByteOffset, Bytes)>,
    bytes: usize,
}

impl Transit {
    /// Adds a piece to the lane of `session`; `true` where other bytes had to leave for it.
    pub(super) fn offer(&mut self, session: u64, at: ByteOffset, bytes: Bytes) -> bool {
        let mut left = false;
        let index = match self.lanes.iter().position(|lane| lane.session == session) {
            Some(index) => index,
            None => {
                if self.lanes.len() == LANES {
                    self.lanes.pop_front();
                    left = true;
                }
                self.lanes.push_back(Lane {
                    session,
                    pieces: VecDeque::new(),
                    bytes: 0,
                });
                self.lanes.len() - 1
            }
        };
        let lane = &mut self.lanes[index];
        while lane.bytes > 0 && lane.bytes + bytes.len() > LANE_BYTES {
            if let Some((_, gone)) = lane.pieces.pop_front() {
                lane.bytes -= gone.len();
                left = true;
            }
        }
        lane.bytes += bytes.len();
        lane.pieces.push_back((at, bytes));
        left
    }

    /// The bytes from `at` on that are held in one piece.
    pub(super) fn piece_at(&self, at: ByteOffset) -> Option<Bytes> {
        let mut pieces = self.lanes.iter().flat_map(|lane| &lane.pieces);
        let (start, bytes) = pieces.find(|(start, bytes)| (*start..start + bytes.len() as u64).contains(&at))?;
        Some(bytes.slice((at - start) as usize..))
    }

    /// The end of the piece that holds `at`.
    pub(super) fn run_at(&self, at: ByteOffset) -> Option<ByteOffset> {
        self.piece_at(at).map(|bytes| at + bytes.len() as u64)
    }

    /// Lets go of what ends before `at`; `true` where there was something.
    pub(super) fn let_go_before(&mut self, at: ByteOffset) -> bool {
        let mut left = false;
        for lane in &mut self.lanes {
            let bytes = &mut lane.bytes;
            lane.pieces.retain(|(start, piece)| {
                let stays = start + piece.len() as u64 > at;
                if !stays {
                    *bytes -= piece.len();
                    left = true;
                }
                stays
            });
        }
        self.lanes.retain(|lane| !lane.pieces.is_empty());
        left
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_keeps_its_latest_bytes_and_no_more_than_its_bound() {
        let mut transit = Transit::default();
        let piece = |byte| Bytes::from(vec![byte; LANE_BYTES / 2]);
        let half = (LANE_BYTES / 2) as u64;
        assert!(!transit.offer(1, 0, piece(0)));
        assert!(!transit.offer(1, half, piece(1)));
        assert_eq!(transit.run_at(3), Some(half));
        assert!(transit.offer(1, 2 * half, piece(2)), "the first piece leaves");
        assert_eq!(transit.piece_at(3), None);
        assert_eq!(transit.piece_at(2 * half + 5).map(|bytes| bytes[0]), Some(2));
    }

    #[test]
    fn the_oldest_lane_leaves_for_one_too_many() {
        let mut transit = Transit::default();
        for session in 0..=LANES as u64 {
            let left = transit.offer(session, session * 100, Bytes::from_static(b"abc"));
            assert_eq!(left, session == LANES as u64);
        }
        assert_eq!(transit.run_at(0), None);
        assert_eq!(transit.run_at(101), Some(103));
        assert!(transit.let_go_before(203));
        assert_eq!(transit.run_at(201), None);
        assert_eq!(transit.run_at(301), Some(303));
        assert!(transit.let_go_before(u64::MAX) && transit.is_empty());
    }
}
