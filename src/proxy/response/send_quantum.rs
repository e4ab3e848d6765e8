//! How much of a body is read and sent in one go: fairness within a worker, memory a connection, CPU a byte.
//!
//! A body sends a turn and then lets the others of its worker have theirs. A reader begins with small blocks, since
//! most connections are slow and a block is what each of them holds; one that has proved fast gets large ones
//! (docs/decisions/0003).

use crate::clock::Instant;
use crate::http1::TURN_BYTES;
use crate::store::BLOCK_BYTES;
use std::task::Context;

/// Bytes that are read at once, by how much a reader has taken and how fast: from so many bytes on, at so many a
/// second, blocks of so many. A connection's write buffer grows to what it once held, so this is what a reader costs in
/// memory; one that is fast gets blocks that cost less CPU a byte. The first row is measured (docs/decisions/0003), the
/// others are judgements.
const BLOCKS: [(u64, f64, usize); 3] = [
    (16 << 20, 32e6, BLOCK_BYTES),
    (1 << 20, 4e6, 64 * 1024),
    (0, 0.0, 16 * 1024),
];

/// The pace of one body.
#[derive(Debug)]
pub(in crate::proxy) struct SendQuantum {
    /// Bytes sent in this turn.
    turn: u64,
    sent: u64,
    begun: Instant,
}

impl SendQuantum {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            turn: 0,
            sent: 0,
            begun: Instant::now(),
        }
    }

    /// Whether it is the others' turn; then the body is polled again after them.
    pub(in crate::proxy) fn rests(&mut self, cx: &Context<'_>) -> bool {
        let rests = self.turn >= TURN_BYTES;
        if rests {
            self.turn = 0;
            cx.waker().wake_by_ref();
        }
        rests
    }

    /// Notes that `bytes` have been sent.
    pub(in crate::proxy) fn sent(&mut self, bytes: u64) {
        self.turn += bytes;
        self.sent += bytes;
    }

    /// How many bytes are to be read next, at most.
    pub(in crate::proxy) fn block_bytes(&self) -> usize {
        let seconds = self.begun.elapsed().as_secs_f64();
        let is_theirs =
            |(after, rate, _): &&(u64, f64, usize)| self.sent >= *after && self.sent as f64 >= seconds * rate;
        BLOCKS
            .iter()
            .find(is_theirs)
            .map_or(BLOCK_BYTES, |(_, _, block)| *block)
    }
}
