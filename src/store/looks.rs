//! Whether the bytes of an object have to be looked for in memory before each is sent.
//!
//! The look costs an eighth of what it takes to send 16 KiB. What is asked for a thousand times in a second, and was in
//! memory each time, is asked for again, and stays there: the kernel drops what was not used for longest. So for the
//! second after that only one call in sixteen looks. A call that finds its bytes absent, or has waited for the
//! disk, ends that: every call looks for a second, and for twice as long each time that it was too soon
//! (`docs/decisions/0019-looks-in-hot-objects.md`).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// So often within one period it was looked, and found each time, before looks are left out for one.
const TRUSTED_AFTER: u64 = 1024;
const PERIOD_MILLIS: u64 = 1000;

/// One call in so many looks all the same.
const ONE_IN: u32 = 16;

/// So often the time for which every call looks may double.
const MOST_DOUBTS: u64 = 6;

/// What the last looks at an object have come to. Times are in milliseconds of one clock, the caller's.
///
/// One word: when the period has begun, or will; how many looks have found what they looked for in it; how often trust
/// was disappointed lately.
#[derive(Debug, Default)]
pub(super) struct Looks(AtomicU64);

const COUNT_BITS: u32 = 12;
const DOUBT_BITS: u32 = 4;

#[derive(Debug, Clone, Copy)]
struct Word {
    since: u64,
    count: u64,
    doubts: u64,
}

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
        let word = Word::unpack(self.0.load(Ordering::Relaxed));
        word.is_trusted() && !word.is_over(now)
    }

    /// A call has looked, and found its bytes.
    pub(super) fn found(&self, now: u64) {
        let packed = self.0.load(Ordering::Relaxed);
        let word = Word::unpack(packed);
        let next = if now < word.since {
            return;
        } else if word.is_over(now) {
            Word {
                since: now,
                count: 1,
                // Those who were trusted for a whole period were trusted rightly.
                doubts: word.doubts.saturating_sub(word.is_trusted().into()),
            }
        } else if word.is_trusted() {
            return;
        } else {
            let count = word.count + 1;
            // The period of trust begins with the last of them.
            let since = if count == TRUSTED_AFTER { now } else { word.since };
            Word { since, count, ..word }
        };
        // One that is not counted means one more look. What another has just found missing stays.
        let _ = self
            .0
            .compare_exchange(packed, next.pack(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Bytes were not in memory.
    pub(super) fn missed(&self, now: u64) {
        let word = Word::unpack(self.0.load(Ordering::Relaxed));
        let more = u64::from(word.is_trusted() && !word.is_over(now));
        let doubts = (word.doubts + more).min(MOST_DOUBTS);
        let next = Word {
            since: now + (PERIOD_MILLIS << doubts.saturating_sub(1)),
            count: 0,
            doubts,
        };
        self.0.store(next.pack(), Ordering::Relaxed);
    }
}

impl Word {
    fn is_trusted(self) -> bool {
        self.count == TRUSTED_AFTER
    }

    fn is_over(self, now: u64) -> bool {
        now >= self.since.saturating_add(PERIOD_MILLIS)
    }

    fn pack(self) -> u64 {
        (self.since << (COUNT_BITS + DOUBT_BITS)) | (self.count << DOUBT_BITS) | self.doubts
    }

    fn unpack(word: u64) -> Self {
        let low = |word: u64, bits: u32| word & ((1 << bits) - 1);
        Self {
            since: word >> (COUNT_BITS + DOUBT_BITS),
            count: low(word >> DOUBT_BITS, COUNT_BITS),
            doubts: low(word, DOUBT_BITS),
        }
    }
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
    fn who_was_trusted_wrongly_is_doubted_for_longer_each_time() {
        let looks = Looks::default();
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 16, 32, 32] {
            find(&looks, TRUSTED_AFTER, now);
            looks.missed(now + 500);
            now += 500 + seconds * PERIOD_MILLIS;
            find(&looks, 2 * TRUSTED_AFTER, now - 1);
        }
        // What is missed while everything is looked for says nothing new, but that it is not over.
        looks.missed(now - 1);
        now += 32 * PERIOD_MILLIS;
        find(&looks, TRUSTED_AFTER, now - 2);
        for _ in 0..3 {
            find(&looks, TRUSTED_AFTER, now);
            now += PERIOD_MILLIS;
        }
        find(&looks, TRUSTED_AFTER, now);
        looks.missed(now);
        now += 8 * PERIOD_MILLIS;
        find(&looks, TRUSTED_AFTER, now - 1);
        find(&looks, TRUSTED_AFTER, now);
        assert_eq!(due_of(&looks, 1600, now), 100);
    }
}
