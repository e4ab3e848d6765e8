//! The residency probe: whether the bytes of an object have to be probed for in the page cache before each send.
//!
//! The look costs an eighth of what it takes to send 16 KiB. What is asked for a thousand times in a second, and was in
//! memory each time, is asked for again, and stays there: the kernel drops what was not used for longest. So for the
//! second after that only one call in sixteen probes, in those parts of the object where some of the thousand were. A
//! call that finds its bytes absent, or has waited for the disk, ends that: every call looks for a second, and for twice
//! as long each time that trust was misplaced (`docs/decisions/0019-looks-in-hot-objects.md`).

use crate::ranges::ByteOffset;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Probes that must have hit within one period before they are skipped for the next.
const TRUSTED_AFTER: u64 = 1024;
const PERIOD_MILLIS: u64 = 1000;

/// While probes are skipped, one call in this many probes all the same.
const ONE_IN: u32 = 16;

/// The most doubts: every call looks for a period with the first, and for twice as long with each more. One is forgiven
/// after so many periods of trust.
const MAX_PENALTY: u64 = 6;
const FORGIVEN_AFTER: u64 = 64;

/// Into so many parts an object is divided: the bits of a word.
const PARTS: u64 = 64;

/// The outcomes of an object's last probes. Times are in milliseconds of one clock, the caller's.
#[derive(Debug, Default)]
pub(super) struct ResidencyProbe {
    state: AtomicU64,
    /// In which parts something was found since the last period of trust, or the last miss.
    seen: AtomicU64,
}

/// The state, packed into one atomic word.
#[derive(Debug, Clone, Copy)]
struct State {
    /// When the period has begun, or will.
    since: u64,
    /// How many looks have found what they looked for in it.
    count: u64,
    /// How often trust was misplaced lately.
    penalty: u64,
    /// How many periods of trust went well since.
    well: u64,
}

const COUNT_BITS: u32 = 12;
const PENALTY_BITS: u32 = 4;
const WELL_BITS: u32 = 8;

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// The part of an object of `length` bytes in which the byte at `at` lies: its bit.
fn part_of(at: ByteOffset, length: u64) -> u64 {
    1 << (at / length.div_ceil(PARTS).max(1)).min(PARTS - 1)
}

impl ResidencyProbe {
    /// Whether looks are left out now where the byte at `at` lies, but for one in so many.
    pub(super) fn may_skip(&self, now: u64, at: ByteOffset, length: u64) -> bool {
        let state = State::unpack(self.state.load(Ordering::Relaxed));
        state.is_trusted() && !state.is_over(now) && self.seen.load(Ordering::Relaxed) & part_of(at, length) != 0
    }

    /// Whether this call looks although looks are left out.
    pub(super) fn is_turn() -> bool {
        let calls = CALLS.get().wrapping_add(1);
        CALLS.set(calls);
        calls.is_multiple_of(ONE_IN)
    }

    /// A call has looked, and found the byte at `at`.
    pub(super) fn found(&self, now: u64, at: ByteOffset, length: u64) {
        let packed = self.state.load(Ordering::Relaxed);
        let state = State::unpack(packed);
        let part = part_of(at, length);
        let next = if now < state.since {
            return;
        } else if state.is_over(now) {
            // A new period, whose parts are its own.
            self.seen.store(part, Ordering::Relaxed);
            state.next_period(now)
        } else {
            if self.seen.load(Ordering::Relaxed) & part == 0 {
                self.seen.fetch_or(part, Ordering::Relaxed);
            }
            if state.is_trusted() {
                return;
            }
            let count = state.count + 1;
            // The period of trust begins with the last of them.
            let since = if count == TRUSTED_AFTER { now } else { state.since };
            State { since, count, ..state }
        };
        // A lost update means one more probe; another thread's miss, which is the one that matters, stays.
        let _ = self
            .state
            .compare_exchange(packed, next.pack(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Bytes were not in memory; `was_trusted` where looks were left out when the call began.
    pub(super) fn missed(&self, now: u64, was_trusted: bool) {
        let state = State::unpack(self.state.load(Ordering::Relaxed));
        let penalty = (state.penalty + u64::from(was_trusted)).min(MAX_PENALTY);
        let next = State {
            since: now + (PERIOD_MILLIS << penalty.saturating_sub(1)),
            count: 0,
            penalty,
            well: 0,
        };
        self.state.store(next.pack(), Ordering::Relaxed);
        self.seen.store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn penalty(&self) -> u64 {
        State::unpack(self.state.load(Ordering::Relaxed)).penalty
    }
}

impl State {
    fn is_trusted(self) -> bool {
        self.count == TRUSTED_AFTER
    }

    fn is_over(self, now: u64) -> bool {
        now >= self.since.saturating_add(PERIOD_MILLIS)
    }

    /// The period that begins with a look now.
    fn next_period(self, now: u64) -> Self {
        let well = self.well + u64::from(self.is_trusted());
        let forgiven = well >= FORGIVEN_AFTER;
        Self {
            since: now,
            count: 1,
            penalty: self.penalty.saturating_sub(forgiven.into()),
            well: if forgiven { 0 } else { well },
        }
    }

    fn pack(self) -> u64 {
        let Self {
            since,
            count,
            penalty,
            well,
        } = self;
        (((since << COUNT_BITS | count) << PENALTY_BITS | penalty) << WELL_BITS) | well
    }

    fn unpack(word: u64) -> Self {
        let low = |word: u64, bits: u32| word & ((1 << bits) - 1);
        Self {
            since: word >> (WELL_BITS + PENALTY_BITS + COUNT_BITS),
            count: low(word >> (WELL_BITS + PENALTY_BITS), COUNT_BITS),
            penalty: low(word >> WELL_BITS, PENALTY_BITS),
            well: low(word, WELL_BITS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_was_found_a_thousand_times_in_a_second_is_looked_for_now_and_then() {
        let probe = ResidencyProbe::default();
        find(&probe, TRUSTED_AFTER - 1, 50);
        find(&probe, 1, 900);
        assert!(is_trusted(&probe, 1800));
        probe.found(1800, 5, LEN);
        assert!(is_trusted(&probe, 1899));
        find(&probe, TRUSTED_AFTER, 1900);
        assert!(is_trusted(&probe, 1900));
        let turns = (0..1600).filter(|_| ResidencyProbe::is_turn()).count();
        assert_eq!(turns, 100);
    }

    #[test]
    fn what_is_asked_for_less_often_is_always_looked_for() {
        let probe = ResidencyProbe::default();
        for second in 0..10 {
            find(&probe, TRUSTED_AFTER - 1, second * PERIOD_MILLIS);
        }
    }

    #[test]
    fn the_beginning_of_a_film_says_nothing_of_its_end() {
        let probe = ResidencyProbe::default();
        find(&probe, TRUSTED_AFTER, 0);
        assert!(!probe.may_skip(0, LEN - 1, LEN));
        probe.found(0, LEN - 1, LEN);
        assert!(probe.may_skip(0, LEN - 5000, LEN));
        assert!(!probe.may_skip(0, LEN / 2, LEN));
        // What was seen in one period is not known of the next.
        find(&probe, TRUSTED_AFTER, PERIOD_MILLIS);
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

    #[test]
    fn who_was_trusted_wrongly_is_doubted_for_longer_each_time() {
        let probe = ResidencyProbe::default();
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 16, 32, 32] {
            find(&probe, TRUSTED_AFTER, now);
            // A call that began in the time of trust may end long after it.
            now += 5 * PERIOD_MILLIS;
            probe.missed(now, true);
            now += seconds * PERIOD_MILLIS;
            find(&probe, 2 * TRUSTED_AFTER, now - 1);
        }
        // What is missed while everything is looked for says nothing new, but that it is not over.
        probe.missed(now, false);
        now += 32 * PERIOD_MILLIS;
        find(&probe, TRUSTED_AFTER, now - 1);
    }

    #[test]
    fn doubt_is_forgiven_slowly() {
        let probe = ResidencyProbe::default();
        probe.missed(0, true);
        probe.missed(0, true);
        let mut now = 5 * PERIOD_MILLIS;
        for _ in 0..FORGIVEN_AFTER {
            assert_eq!(probe.penalty(), 2);
            find(&probe, TRUSTED_AFTER, now);
            now += PERIOD_MILLIS;
        }
        find(&probe, TRUSTED_AFTER, now);
        assert_eq!(probe.penalty(), 1);
        probe.missed(now, true);
        for _ in 0..FORGIVEN_AFTER {
            now += 5 * PERIOD_MILLIS;
            find(&probe, 1, now);
        }
        assert_eq!(probe.penalty(), 2, "nobody was trusted");
    }
}
