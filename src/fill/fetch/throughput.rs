//! The rate at which a fill proceeds, for honest `Retry-After` and for judging distances.
//!
//! Bytes are counted when a batch of them has been taken, in windows: the rate is that of the window under way, and of
//! the one before while that has just begun. It is begun anew where the first session of a fill begins, so that a rest
//! is not averaged in.

use crate::clock::Instant;
use std::time::Duration;

/// The length of a window: a judgement.
const WINDOW: Duration = Duration::from_secs(2);

/// Shorter samples say more about the first packet than about the line. A judgement.
const SHORTEST: Duration = Duration::from_millis(100);

/// Bytes per second over the last seconds.
#[derive(Debug)]
pub(in crate::fill) struct Throughput {
    since: Instant,
    bytes: u64,
    previous: Option<f64>,
    last: Option<Instant>,
}

impl Throughput {
    pub(in crate::fill) fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
            previous: None,
            last: None,
        }
    }

    pub(in crate::fill) fn add(&mut self, bytes: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed > WINDOW {
            self.previous = Some(self.bytes as f64 / elapsed.as_secs_f64());
            self.since = now;
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.last = Some(now);
    }

    /// When bytes last came.
    pub(in crate::fill) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Bytes per second; `None` where too little has come to tell.
    pub(in crate::fill) fn rate(&self, now: Instant) -> Option<f64> {
        let elapsed = now.saturating_duration_since(self.since);
        let current = self.bytes as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
        match self.previous {
            // A window that has just begun tells less than the one before.
            Some(previous) if elapsed < WINDOW / 4 => Some(previous),
            _ if elapsed < SHORTEST || self.bytes == 0 => None,
            _ => Some(current),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_throughput_is_measured_at_every_step() {
        let start = Instant::now();
        let mut throughput = Throughput::new(start);
        assert_eq!(throughput.rate(start), None);
        for step in 1..100 {
            let now = start + Duration::from_millis(step * 100);
            throughput.add(10_000, now);
            let rate = throughput.rate(now).unwrap_or(100_000.0);
            assert!((80_000.0..=125_000.0).contains(&rate), "{rate} at step {step}");
        }
    }
}
