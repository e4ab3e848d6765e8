//! Whether the bytes of an object have to be looked for in memory before each is sent.
//!
//! The look costs an eighth of what it takes to send 16 KiB. What is asked for a thousand times in a second, and was in
//! memory each time, is asked for again, and stays there: the kernel drops what was not used for longest. So for the
//! rest of such a second only one call in sixteen looks. A call that finds its bytes absent, or has waited for the
//! disk, ends that, and for ten seconds every call looks (`docs/decisions/0019-looks-in-hot-objects.md`).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// So often within one period it was looked, and found each time, before looks are left out for one.
const TRUSTED_AFTER: u64 = 1024;
const PERIOD_MILLIS: u64 = 1000;

/// One call in so many looks all the same.
const ONE_IN: u32 = 16;

/// How long every call looks after something was not in memory.
const WARY_MILLIS: u64 = 10_000;

/// What the last looks at an object have come to. Times are in milliseconds of one clock, the caller's.
///
/// One word: when the period has begun, or will, and how many looks have found what they looked for in it.
#[derive(Debug, Default)]
pub(super) struct Looks(AtomicU64);

/// The bits of the number of looks.
const COUNT_BITS: u32 = 16;

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl Looks {
    /// Whether a call has to look.
    pub(super) fn are_due(&self, now: u64) -> bool {
        if !self.are_left_out(now) {
            return true;
        }
        let calls = CALLS.get().wrapping_add(1);
        CALLS.set(calls);
        calls.is_multiple_of(ONE_IN)
    }

    /// Whether most calls do not look.
    pub(super) fn are_left_out(&self, now: u64) -> bool {
        let (since, count) = unpack(self.0.load(Ordering::Relaxed));
        count == TRUSTED_AFTER && !is_over(since, now)
    }

    /// A call has looked, and found its bytes.
    pub(super) fn found(&self, now: u64) {
        let word = self.0.load(Ordering::Relaxed);
        let (since, count) = unpack(word);
        let next = match count {
            _ if now < since => return,
            _ if is_over(since, now) => pack(now, 1),
            TRUSTED_AFTER => return,
            // The period of trust begins with the last of them.
            _ if count + 1 == TRUSTED_AFTER => pack(now, TRUSTED_AFTER),
            _ => pack(since, count + 1),
        };
        // One that is not counted means one more look. What another has just found missing stays.
        let _ = self
            .0
            .compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Bytes were not in memory.
    pub(super) fn missed(&self, now: u64) {
        self.0.store(pack(now + WARY_MILLIS, 0), Ordering::Relaxed);
    }
}

fn is_over(since: u64, now: u64) -> bool {
    now >= since.saturating_add(PERIOD_MILLIS)
}

fn pack(since: u64, count: u64) -> u64 {
    (since << COUNT_BITS) | count
}

fn unpack(word: u64) -> (u64, u64) {
    (word >> COUNT_BITS, word & ((1 << COUNT_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_of(looks: &Looks, calls: usize, now: u64) -> usize {
        (0..calls).filter(|_| looks.are_due(now)).count()
    }

    fn find(looks: &Looks, times: u64, now: u64) {
        for _ in 0..times {
            assert!(looks.are_due(now), "not known well enough yet");
            looks.found(now);
        }
    }

    #[test]
    fn what_was_found_a_thousand_times_in_a_second_is_looked_for_now_and_then() {
        let looks = Looks::default();
        find(&looks, TRUSTED_AFTER - 1, 50);
        find(&looks, 1, 900);
        assert_eq!(due_of(&looks, 1600, 1800), 100);
        looks.found(1800);
        assert_eq!(due_of(&looks, 1600, 1900), 1600, "its second is over");
        find(&looks, TRUSTED_AFTER, 1900);
        assert_eq!(due_of(&looks, 1600, 1900), 100);
    }

    #[test]
    fn what_is_asked_for_less_often_is_always_looked_for() {
        let looks = Looks::default();
        for second in 0..10 {
            find(&looks, TRUSTED_AFTER - 1, second * PERIOD_MILLIS);
        }
    }

    #[test]
    fn what_was_missed_once_is_looked_for_ten_seconds_long() {
        let looks = Looks::default();
        find(&looks, TRUSTED_AFTER, 0);
        looks.missed(500);
        find(&looks, 5 * TRUSTED_AFTER, 500 + WARY_MILLIS - 1);
        find(&looks, TRUSTED_AFTER, 500 + WARY_MILLIS);
        assert_eq!(due_of(&looks, 1600, 500 + WARY_MILLIS), 100);
    }
}
