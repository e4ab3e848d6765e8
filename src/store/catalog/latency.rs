//! The latency of the catalog: whether a look-up may be made on a thread that is not to wait.
//!
//! Look-ups are measured wherever they are made. After some in a row that were quick, the next may be made where it is
//! wanted (known_absent.rs); the first that was slow ends that.

use crate::clock::Instant;
use crate::gate::{Gate, GateRules, millis};
use std::time::Duration;

/// A look-up that takes longer may have waited for the disk. A judgement: a look-up in memory takes microseconds, and a
/// thread that waits for a disk, or for its turn on a busy machine, takes longer than this.
const QUICK: Duration = Duration::from_micros(300);

/// One slow look-up ends a row of quick ones, and costs no rest: sixteen quick ones begin the next. Sixteen is a
/// judgement: a slow look-up costs milliseconds, and look-ups on the thread that may wait are counted too, so a row is
/// soon complete.
static RULES: GateRules = GateRules {
    successes: 16,
    period: Duration::from_secs(1),
    is_earned_anew: false,
    rest: Duration::ZERO,
    max_penalty: 0,
    forgiven_after: 1,
};

/// Whether look-ups in the catalog have been quick of late.
#[derive(Debug)]
pub(in crate::store) struct CatalogLatency(Gate);

impl Default for CatalogLatency {
    fn default() -> Self {
        Self(Gate::new(&RULES))
    }
}

impl CatalogLatency {
    pub(in crate::store) fn are_quick(&self, now: Instant) -> bool {
        self.0.is_open(millis(now))
    }

    /// As many quick look-ups as open the gate: for tests of what stands behind it.
    #[cfg(test)]
    pub(in crate::store) fn pretend_quick(&self, now: Instant) {
        (0..RULES.successes).for_each(|_| self.took(now, now));
    }

    pub(in crate::store) fn took(&self, begun: Instant, ended: Instant) {
        let now = millis(ended);
        if ended.saturating_duration_since(begun) > QUICK {
            self.0.failed(now, false);
        } else {
            self.0.succeeded(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_lookup_ends_a_run_of_quick_ones() {
        let (latency, begun) = (CatalogLatency::default(), Instant::now());
        // The gate is asked after the look-ups: it counts whole milliseconds, and one may begin during them.
        let (quick, slow) = (begun + QUICK / 2, begun + QUICK * 2);
        for _ in 0..RULES.successes {
            assert!(!latency.are_quick(slow));
            latency.took(begun, quick);
        }
        assert!(latency.are_quick(slow));
        latency.took(begun, slow);
        assert!(!latency.are_quick(slow));
        latency.took(begun, quick);
        assert!(!latency.are_quick(slow));
    }
}
