//! Positions of readers and their rates, by which read-ahead is measured; and the pattern of their visits.
//!
//! A position is written by the reader's body with each block that it has sent, and read by the owner when it plans.
//! Offsets and ends are in bytes of the object, rates in bytes per second. The pattern tells readers in sequence (each
//! begins where another ended, so the next is known beforehand) from those that jump.

use crate::clock::Instant;
use crate::ranges::ByteOffset;
use crate::sync::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The rate is that of the last so long. A judgement: longer than the pauses between the bursts in which players read.
const WINDOW: Duration = Duration::from_secs(4);

/// The position of a reader, written by its body, read by the fill. Its lock is held for a copy or an addition:
/// position, end and rate belong together. No other lock is taken under it.
#[derive(Debug)]
pub(in crate::fill) struct ReaderPosition(Mutex<ReaderProgress>);

#[derive(Debug, Clone, Copy)]
pub(in crate::fill) struct ReaderProgress {
    /// The next byte that the reader will take.
    pub(in crate::fill) at: ByteOffset,
    /// Where what it asked for ends.
    pub(in crate::fill) end: ByteOffset,
    /// Bytes per second, where enough was taken to tell.
    pub(in crate::fill) rate: Option<f64>,
    /// When it last took something.
    pub(in crate::fill) moved: Instant,
    window: (Instant, u64),
}

impl ReaderPosition {
    /// A reader that wants `at..end` and has taken nothing of it.
    pub(in crate::fill) fn new(at: ByteOffset, end: ByteOffset, now: Instant) -> Self {
        Self(Mutex::new(ReaderProgress {
            at,
            end,
            rate: None,
            moved: now,
            window: (now, 0),
        }))
    }

    /// A reader that comes now and asks for that range; one whose bounds are not known wants anything.
    pub(in crate::fill) fn wanting(asked: Option<(ByteOffset, ByteOffset)>) -> Arc<Self> {
        let (start, end) = asked.unwrap_or((0, u64::MAX));
        Arc::new(Self::new(start, end, Instant::now()))
    }

    fn reader(&self) -> MutexGuard<'_, ReaderProgress> {
        lock(&self.0)
    }

    /// The reader has taken `bytes` and is at `at` now, of a range that ends at `end`.
    pub(in crate::fill) fn reached(&self, at: ByteOffset, end: ByteOffset, bytes: u64, now: Instant) {
        let mut reader = self.reader();
        (reader.at, reader.end, reader.moved) = (at, end, now);
        reader.window.1 += bytes;
        let elapsed = now.saturating_duration_since(reader.window.0);
        if elapsed >= WINDOW {
            reader.rate = Some(reader.window.1 as f64 / elapsed.as_secs_f64());
            reader.window = (now, 0);
        }
    }

    /// As it is now.
    pub(in crate::fill) fn now(&self) -> ReaderProgress {
        *self.reader()
    }
}

/// Requested ranges that are remembered. A judgement.
const REMEMBERED: usize = 32;

/// Of these so many are taken for readers that will be back. A judgement: each keeps up to 48 MiB from being punched
/// out (`retention`).
const LATEST: usize = 4;

/// The latest ranges that readers asked for, and whether they come in sequence.
#[derive(Debug, Default)]
pub(in crate::fill) struct AccessPattern {
    ends: VecDeque<ByteOffset>,
    pub(in crate::fill) in_sequence: bool,
    /// When a reader last left.
    pub(in crate::fill) left: Option<Instant>,
}

impl AccessPattern {
    /// The last few of the ends.
    pub(in crate::fill) fn latest_ends(&self) -> Vec<ByteOffset> {
        self.ends.iter().rev().take(LATEST).copied().collect()
    }

    /// A reader has come that wants `start..end`.
    pub(in crate::fill) fn note(&mut self, start: ByteOffset, end: ByteOffset) {
        self.in_sequence = self.ends.contains(&start);
        if self.ends.len() == REMEMBERED {
            self.ends.pop_front();
        }
        self.ends.push_back(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_in_sequence_are_told_from_those_that_jump() {
        let mut access = AccessPattern::default();
        access.note(0, 100);
        assert!(!access.in_sequence);
        access.note(100, 200);
        assert!(access.in_sequence);
        access.note(900, 1000);
        assert!(!access.in_sequence);
    }

    #[test]
    fn a_players_rate_is_measured_over_its_bursts() {
        let start = Instant::now();
        let position = ReaderPosition::new(0, 1 << 40, start);
        for second in 1..=8u64 {
            // A burst every second: the rate is what counts, not the burst.
            let now = start + Duration::from_secs(second);
            position.reached(second * 1000, 1 << 40, 500, now);
            position.reached(second * 1000, 1 << 40, 500, now);
        }
        let rate = position.now().rate.expect("measured");
        assert!((900.0..=1100.0).contains(&rate), "{rate}");
    }
}
