//! One adaptive gate, and one back-off: what is tried only while it goes well, and how long to rest after a failure.
//!
//! A [`Gate`] guards a shortcut that is right only under a condition nobody can ask for: that a disk keeps up, that bytes
//! lie in the page cache. It opens after so many successes in a row, closes at the first failure, rests, and doubles its
//! rest each time a failure came while it was open (the *penalty*). A penalty is forgiven, one step at a time, after
//! enough periods that the gate was open throughout.
//!
//! ```text
//!             successes in a row               failure: penalty + 1
//!   Counting ───────────────────────▶ Open ───────────────────────────▶ Resting ──▶ Counting
//!      ▲  │ failure: the count begins   │  period over, and each is to be     rest over
//!      └──┘ again, after a rest         └──▶ Counting, if `is_earned_anew`
//! ```
//!
//! The state is one atomic word, read and written with relaxed ordering: it orders no other memory. Where two threads
//! update it at once a success may be lost, which costs one more success; a failure is stored without comparing, so that
//! it is never lost to a success that was counted before it.

use crate::clock::Instant;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The rules of a gate: which successes open it, and how long a failure closes it.
#[derive(Debug)]
pub(crate) struct GateRules {
    /// Successes in a row that open the gate; at most 4095 (`COUNT_BITS`).
    pub(crate) successes: u64,
    /// The unit in which time of trust is counted.
    pub(crate) period: Duration,
    /// Whether successes count within one period only, and an open gate closes at the end of its period.
    pub(crate) is_earned_anew: bool,
    /// The rest after a first failure.
    pub(crate) rest: Duration,
    /// The most steps of penalty: the longest rest is `rest` doubled one time fewer. At most 15 (`PENALTY_BITS`).
    pub(crate) max_penalty: u64,
    /// Periods of trust that take one step of penalty away; at most 255 (`WELL_BITS`).
    pub(crate) forgiven_after: u64,
}

/// A gate that is closed until it has proved itself. Its times are those of [`millis`], in milliseconds.
#[derive(Debug)]
pub(crate) struct Gate {
    rules: &'static GateRules,
    /// The packed state. Relaxed: it orders no other memory, and what a race loses is told above.
    word: AtomicU64,
}

/// How a success was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// The gate rests: the success was not counted.
    Resting,
    /// The success is the first of a new period.
    First,
    /// The success fell into the period that had begun.
    More,
}

/// The fields of the word.
#[derive(Debug, Clone, Copy)]
struct State {
    /// When the period began; in the future while the gate rests.
    since: u64,
    /// Successes in a row, up to those that open the gate.
    count: u64,
    /// Failures that came while the gate was open and are not forgiven yet.
    penalty: u64,
    /// Periods of trust since the last failure or forgiveness.
    well: u64,
}

// The fields of the word: what the rules in use need, with room to spare. The rest of it, 40 bits, is the time: 34
// years in milliseconds.
const COUNT_BITS: u32 = 12;
const PENALTY_BITS: u32 = 4;
const WELL_BITS: u32 = 8;

/// A moment in milliseconds since some time at which this process ran already.
pub(crate) fn millis(now: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    as_millis(now.saturating_duration_since(*START))
}

fn as_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Gate {
    /// A gate that nothing is known of: open only where its rules ask for no success.
    pub(crate) const fn new(rules: &'static GateRules) -> Self {
        assert!(rules.successes < 1 << COUNT_BITS && rules.max_penalty < 1 << PENALTY_BITS);
        assert!(rules.forgiven_after < 1 << WELL_BITS);
        let word = AtomicU64::new(0);
        Self { rules, word }
    }

    /// Whether the shortcut may be taken now.
    pub(crate) fn is_open(&self, now: u64) -> bool {
        let state = self.state();
        let is_over = self.rules.is_earned_anew && self.is_over(state, now);
        self.is_trusted(state) && now >= state.since && !is_over
    }

    /// Counts a success.
    pub(crate) fn succeeded(&self, now: u64) -> Counted {
        let packed = self.word.load(Ordering::Relaxed);
        let state = State::unpack(packed);
        if now < state.since {
            return Counted::Resting;
        }
        let (next, counted) = if self.is_over(state, now) {
            (self.next_period(state, now), Counted::First)
        } else if self.is_trusted(state) {
            return Counted::More;
        } else {
            let count = state.count + 1;
            // Trust begins with the success that earns it.
            let since = if count == self.rules.successes {
                now
            } else {
                state.since
            };
            (State { since, count, ..state }, Counted::More)
        };
        // A word that was changed meanwhile stays: a failure must not be undone by a success that came before it.
        let _ = self
            .word
            .compare_exchange(packed, next.pack(), Ordering::Relaxed, Ordering::Relaxed);
        counted
    }

    /// Closes the gate. `was_open`: whether it was open when the attempt that failed began, which makes the failure one
    /// of trust.
    pub(crate) fn failed(&self, now: u64, was_open: bool) {
        let penalty = (self.state().penalty + u64::from(was_open)).min(self.rules.max_penalty);
        let rest = as_millis(self.rules.rest) << penalty.saturating_sub(1);
        let next = State {
            since: now + rest,
            count: 0,
            penalty,
            well: 0,
        };
        // Stored, not exchanged: the failure is the latest news, whatever was counted meanwhile.
        self.word.store(next.pack(), Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn penalty(&self) -> u64 {
        self.state().penalty
    }

    fn state(&self) -> State {
        State::unpack(self.word.load(Ordering::Relaxed))
    }

    fn is_trusted(&self, state: State) -> bool {
        state.count >= self.rules.successes
    }

    fn is_over(&self, state: State, now: u64) -> bool {
        now >= state.since.saturating_add(as_millis(self.rules.period))
    }

    /// The period that begins with a success now.
    fn next_period(&self, state: State, now: u64) -> State {
        let well = state.well + u64::from(self.is_trusted(state));
        let is_forgiven = well >= self.rules.forgiven_after;
        let before = if self.rules.is_earned_anew { 0 } else { state.count };
        State {
            since: now,
            count: (before + 1).min(self.rules.successes),
            penalty: state.penalty.saturating_sub(is_forgiven.into()),
            well: if is_forgiven { 0 } else { well },
        }
    }
}

impl State {
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

/// An exponential back-off: rests that double with each failure, up to a bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    /// The rest after the first failure.
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// The rest after so many failures in a row; none counts as one.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        // Thirty doublings exceed any bound in use, and their factor still fits.
        let doublings = failures.saturating_sub(1).min(30);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ONCE_EARNED: GateRules = GateRules {
        successes: 16,
        period: Duration::from_secs(1),
        is_earned_anew: false,
        rest: Duration::from_secs(1),
        max_penalty: 6,
        forgiven_after: 64,
    };
    static EARNED_ANEW: GateRules = GateRules {
        is_earned_anew: true,
        ..ONCE_EARNED
    };

    fn succeed(gate: &Gate, times: u64, now: u64) {
        (0..times).for_each(|_| _ = gate.succeeded(now));
    }

    #[test]
    fn a_gate_opens_after_successes_in_a_row_and_closes_at_a_failure() {
        let gate = Gate::new(&ONCE_EARNED);
        succeed(&gate, 15, 5000);
        assert!(!gate.is_open(5000));
        succeed(&gate, 1, 5000);
        assert!(gate.is_open(5000) && gate.is_open(1_000_000));
        gate.failed(6000, true);
        assert!(!gate.is_open(6000));
        assert_eq!(gate.succeeded(6999), Counted::Resting);
        succeed(&gate, 16, 7000);
        assert!(gate.is_open(7000));
    }

    #[test]
    fn rests_double_while_trust_is_misplaced_and_up_to_a_bound() {
        let gate = Gate::new(&ONCE_EARNED);
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 16, 32, 32] {
            succeed(&gate, 16, now);
            gate.failed(now, true);
            now += seconds * 1000;
            assert_eq!(gate.succeeded(now - 1), Counted::Resting, "{seconds}");
            assert!(!gate.is_open(now));
        }
        // A failure while the gate was closed says nothing new, but that it is not over.
        gate.failed(now, false);
        assert_eq!(gate.penalty(), 6);
        assert_eq!(gate.succeeded(now + 31_999), Counted::Resting);
        assert_ne!(gate.succeeded(now + 32_000), Counted::Resting);
    }

    #[test]
    fn a_penalty_is_forgiven_after_periods_of_trust() {
        for (rules, each_period) in [(&ONCE_EARNED, 1), (&EARNED_ANEW, 16)] {
            let gate = Gate::new(rules);
            gate.failed(0, true);
            gate.failed(0, true);
            let mut now = 5000;
            succeed(&gate, 16, now);
            for _ in 0..64 {
                assert_eq!(gate.penalty(), 2);
                now += 1000;
                succeed(&gate, each_period, now);
            }
            assert_eq!(gate.penalty(), 1);
        }
    }

    #[test]
    fn trust_that_is_earned_anew_lasts_for_one_period() {
        let gate = Gate::new(&EARNED_ANEW);
        succeed(&gate, 15, 50);
        assert_eq!(gate.succeeded(900), Counted::More);
        assert!(gate.is_open(900) && gate.is_open(1899));
        assert!(!gate.is_open(1900));
        assert_eq!(gate.succeeded(1900), Counted::First);
        assert!(!gate.is_open(1900));
        // Fewer in each period never open it.
        for second in 3..10 {
            succeed(&gate, 15, second * 1000);
            assert!(!gate.is_open(second * 1000));
        }
    }

    #[test]
    fn a_gate_whose_rules_ask_for_no_success_is_open_but_after_a_failure() {
        static RULES: GateRules = GateRules {
            successes: 0,
            max_penalty: 1,
            ..ONCE_EARNED
        };
        let gate = Gate::new(&RULES);
        assert!(gate.is_open(0));
        for _ in 0..3 {
            gate.failed(10, true);
            assert!(!gate.is_open(1009) && gate.is_open(1010));
        }
    }

    #[test]
    fn the_state_is_whole_in_its_word() {
        let state = State {
            since: (1 << 40) - 1,
            count: 4095,
            penalty: 15,
            well: 255,
        };
        let back = State::unpack(state.pack());
        assert_eq!(
            (back.since, back.count, back.penalty, back.well),
            ((1 << 40) - 1, 4095, 15, 255)
        );
    }

    #[test]
    fn a_back_off_doubles_up_to_its_bound() {
        let backoff = Backoff {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(15),
        };
        assert_eq!(backoff.after(0), Duration::from_millis(200));
        assert_eq!(backoff.after(1), Duration::from_millis(200));
        assert_eq!(backoff.after(3), Duration::from_millis(800));
        assert_eq!(backoff.after(u32::MAX), Duration::from_secs(15));
    }
}
