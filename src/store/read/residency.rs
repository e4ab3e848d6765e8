//! The residency probe: whether the bytes of an object have to be probed for in the page cache before each send.
//!
//! The look costs an eighth of what it takes to send 16 KiB. What is asked for a thousand times in a second, and was in
//! memory each time, is asked for again, and stays there: the kernel drops what was not used for longest. So for the
//! second after that only one call in sixteen probes, in those parts of the object where some of the thousand were. A
//! call that finds its bytes absent, or has waited for the disk, ends that: every call looks for a second, and for twice
//! as long each time that trust was misplaced (`docs/decisions/0019-looks-in-hot-objects.md`): a [`Gate`] for each object.

use crate::gate::{Counted, Gate, GateRules};
use crate::ranges::ByteOffset;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A thousand probes that hit within a second let the next second's be skipped. What is asked for so often is not what
/// the kernel drops first.
static RULES: GateRules = GateRules {
    successes: 1024,
    period: Duration::from_secs(1),
    is_earned_anew: true,
    rest: Duration::from_secs(1),
    max_penalty: 6,
    forgiven_after: 64,
};

/// While probes are skipped, one call in this many probes all the same. A judgement: the probes that are left cost less
/// than a hundredth of a send, and of a thousand calls a second sixty look.
const ONE_IN: u32 = 16;

/// Into so many parts an object is divided: the bits of the word that `seen` is.
const PARTS: u64 = 64;

/// The outcomes of an object's last probes. Times are those of [`crate::gate::millis`].
#[derive(Debug)]
pub(in crate::store) struct ResidencyProbe {
    gate: Gate,
    /// In which parts something was found since the last period of trust, or the last miss. Relaxed: a bit that another
    /// thread does not see yet costs one probe, and one that it sees too long costs a wait that closes the gate.
    seen: AtomicU64,
}

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// The part of an object of `length` bytes in which the byte at `at` lies: its bit.
fn part_of(at: ByteOffset, length: u64) -> u64 {
    1 << (at / length.div_ceil(PARTS).max(1)).min(PARTS - 1)
}

impl Default for ResidencyProbe {
    fn default() -> Self {
        Self {
            gate: Gate::new(&RULES),
            seen: AtomicU64::new(0),
        }
    }
}

impl ResidencyProbe {
    /// Whether probes are skipped now where the byte at `at` lies, but for one in so many.
    pub(in crate::store) fn may_skip(&self, now: u64, at: ByteOffset, length: u64) -> bool {
        self.gate.is_open(now) && self.seen.load(Ordering::Relaxed) & part_of(at, length) != 0
    }

    /// Whether this call probes although probes are skipped.
    pub(in crate::store) fn is_turn() -> bool {
        let calls = CALLS.get().wrapping_add(1);
        CALLS.set(calls);
        calls.is_multiple_of(ONE_IN)
    }

    /// A probe has found the byte at `at`.
    pub(in crate::store) fn found(&self, now: u64, at: ByteOffset, length: u64) {
        let part = part_of(at, length);
        match self.gate.succeeded(now) {
            Counted::Resting => {}
            // A new period, whose parts are its own.
            Counted::First => self.seen.store(part, Ordering::Relaxed),
            // Loaded first: a word that is only read stays in the caches of all processors.
            Counted::More if self.seen.load(Ordering::Relaxed) & part != 0 => {}
            Counted::More => _ = self.seen.fetch_or(part, Ordering::Relaxed),
        }
    }

    /// Bytes were not in memory; `was_trusted` where probes were skipped when the call began.
    pub(in crate::store) fn missed(&self, now: u64, was_trusted: bool) {
        self.gate.failed(now, was_trusted);
        self.seen.store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(in crate::store) fn penalty(&self) -> u64 {
        self.gate.penalty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD_MILLIS: u64 = 1000;
    const LEN: u64 = 1 << 30;

    fn is_trusted(probe: &ResidencyProbe, now: u64) -> bool {
        probe.may_skip(now, 5, LEN)
    }

    /// Finds the first bytes so often; they are looked for each time.
    fn find(probe: &ResidencyProbe, times: u64, now: u64) {
        for _ in 0..times {
            assert!(!is_trusted(probe, now), "not known well enough yet");
            probe.found(now, 5, LEN);
        }
    }

    #[test]
    fn a_body_often_found_resident_is_probed_now_and_then() {
        let probe = ResidencyProbe::default();
        find(&probe, RULES.successes - 1, 50);
        find(&probe, 1, 900);
        assert!(is_trusted(&probe, 1800));
        probe.found(1800, 5, LEN);
        assert!(is_trusted(&probe, 1899));
        find(&probe, RULES.successes, 1900);
        assert!(is_trusted(&probe, 1900));
        let turns = (0..1600).filter(|_| ResidencyProbe::is_turn()).count();
        assert_eq!(turns, 100);
    }

    #[test]
    fn a_body_seldom_found_resident_is_always_probed() {
        let probe = ResidencyProbe::default();
        for second in 0..10 {
            find(&probe, RULES.successes - 1, second * PERIOD_MILLIS);
        }
    }

    #[test]
    fn residency_of_one_part_is_not_assumed_of_another() {
        let probe = ResidencyProbe::default();
        find(&probe, RULES.successes, 0);
        assert!(!probe.may_skip(0, LEN - 1, LEN));
        probe.found(0, LEN - 1, LEN);
        assert!(probe.may_skip(0, LEN - 5000, LEN));
        assert!(!probe.may_skip(0, LEN / 2, LEN));
        // Parts found resident in one period are not assumed to be so in the next.
        find(&probe, RULES.successes, PERIOD_MILLIS);
        assert!(!probe.may_skip(PERIOD_MILLIS, LEN - 1, LEN));
        for (at, length, part) in [
            (0, 1, 0),
            (0, 0, 0),
            (63, 64, 63),
            (64, 65, 32),
            (99, 100, 49),
            (u64::MAX, 5, 63),
        ] {
            assert_eq!(part_of(at, length), 1 << part, "{at} of {length}");
        }
    }
}
