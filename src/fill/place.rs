//! Where a reader is and how fast it goes: what read-ahead is measured by.

use crate::ranges::ByteOffset;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The rate is that of the last so long.
const WINDOW: Duration = Duration::from_secs(4);

/// One reader's place, written by its body, read by the fill.
#[derive(Debug)]
pub(super) struct Place(Mutex<Pace>);

#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The next byte that the reader will take.
    pub(super) at: ByteOffset,
    /// Where its wish ends.
    pub(super) end: ByteOffset,
    /// Bytes per second, where enough was taken to tell.
    pub(super) rate: Option<f64>,
    /// When it last took something.
    pub(super) moved: Instant,
    window: (Instant, u64),
}

impl Place {
    /// A reader that wants `at..end` and has taken nothing of it.
    pub(super) fn new(at: ByteOffset, end: ByteOffset, now: Instant) -> Self {
        Self(Mutex::new(Pace {
            at,
            end,
            rate: None,
            moved: now,
            window: (now, 0),
        }))
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader has taken `bytes` and is at `at` now, of a wish that ends at `end`.
    pub(super) fn reached(&self, at: ByteOffset, end: ByteOffset, bytes: u64, now: Instant) {
        let mut pace = self.pace();
        (pace.at, pace.end, pace.moved) = (at, end, now);
        pace.window.1 += bytes;
        let elapsed = now.saturating_duration_since(pace.window.0);
        if elapsed >= WINDOW {
            pace.rate = Some(pace.window.1 as f64 / elapsed.as_secs_f64());
            pace.window = (now, 0);
        }
    }

    /// As it is now.
    pub(super) fn now(&self) -> Pace {
        *self.pace()
    }
}

/// So many wishes are remembered.
const REMEMBERED: usize = 32;

/// Of these so many are taken for readers that will be back.
const LATEST: usize = 4;

/// The latest wishes of all readers, and whether they come in sequence.
#[derive(Debug, Default)]
pub(super) struct Visits {
    ends: VecDeque<ByteOffset>,
    pub(super) in_sequence: bool,
    /// When a reader last left.
    pub(super) left: Option<Instant>,
}

impl Visits {
    /// The last few of the ends.
    pub(super) fn latest_ends(&self) -> Vec<ByteOffset> {
        self.ends.iter().rev().take(LATEST).copied().collect()
    }

    /// A reader has come that wants `start..end`.
    pub(super) fn note(&mut self, start: ByteOffset, end: ByteOffset) {
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
        let mut visits = Visits::default();
        visits.note(0, 100);
        assert!(!visits.in_sequence);
        visits.note(100, 200);
        assert!(visits.in_sequence);
        visits.note(900, 1000);
        assert!(!visits.in_sequence);
    }

    #[test]
    fn a_players_rate_is_measured_over_its_bursts() {
        let start = Instant::now();
        let place = Place::new(0, 1 << 40, start);
        for second in 1..=8u64 {
            // A burst every second: the rate is what counts, not the burst.
            let now = start + Duration::from_secs(second);
            place.reached(second * 1000, 1 << 40, 500, now);
            place.reached(second * 1000, 1 << 40, 500, now);
        }
        let rate = place.now().rate.expect("measured");
        assert!((900.0..=1100.0).contains(&rate), "{rate}");
    }
}
