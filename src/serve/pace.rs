//! How much of a body is read and sent in one go: fairness within a worker, memory a connection, CPU a byte.

use crate::store::BLOCK_BYTES;
use std::task::Context;
use std::time::Instant;

/// What is sent in one go before other connections of the worker get their turn, in bytes.
const TURN_BYTES: u64 = 512 * 1024;

/// The block of an ordinary reader. A connection's write buffer grows to what it once held, so this
/// is what a slow reader costs in memory.
const SMALL_BLOCK_BYTES: usize = 64 * 1024;

/// A reader that has taken this much, at this rate, gets whole blocks: they cost half the CPU a byte.
const FAST_AFTER_BYTES: u64 = 16 << 20;
const FAST_BYTES_PER_SECOND: f64 = 32e6;

/// The pace of one body.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes sent in this turn.
    turn: u64,
    sent: u64,
    begun: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            turn: 0,
            sent: 0,
            begun: Instant::now(),
        }
    }

    /// Whether it is the others' turn; then the body is polled again after them.
    pub(super) fn rests(&mut self, cx: &Context<'_>) -> bool {
        let rests = self.turn >= TURN_BYTES;
        if rests {
            self.turn = 0;
            cx.waker().wake_by_ref();
        }
        rests
    }

    /// So many bytes have been sent.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.turn += bytes;
        self.sent += bytes;
    }

    /// How many bytes are to be read next, at most.
    pub(super) fn block_bytes(&self) -> usize {
        let fast = self.sent >= FAST_AFTER_BYTES
            && self.sent as f64 >= self.begun.elapsed().as_secs_f64() * FAST_BYTES_PER_SECOND;
        if fast { BLOCK_BYTES } else { SMALL_BLOCK_BYTES }
    }
}
