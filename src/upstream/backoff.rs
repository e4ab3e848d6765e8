//! When to try a failing upstream again: exponential, with full jitter.
//!
//! The rest is drawn anew for each failure, anywhere between nothing and a bound that doubles with each failure in a
//! row and does not grow past [`RESTS`]: fills that failed together do not come back together. Pure but for the random
//! number, which the caller hands in. One success ends the row; what a failure is, the budget decides (budget.rs).

use crate::gate::Backoff;
use std::time::Duration;

/// Judgements. A server that restarts is back in a few hundred milliseconds; one that is down is asked four times a
/// minute, so that a film goes on soon after it is back.
const RESTS: Backoff = Backoff {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(15),
};

/// Less would be no rest at all. A judgement: some round trips, so that a draw near nothing is no loop.
const LEAST: Duration = Duration::from_millis(20);

/// How long to rest after `failures` in a row, at least one; `random` is uniform in 0..1.
///
/// Full jitter: anywhere between nothing and the bound, so that many fills do not come back at once.
pub(crate) fn rest(failures: u32, random: f64) -> Duration {
    RESTS.after(failures).mul_f64(random.clamp(0.0, 1.0)).max(LEAST)
}

/// A number in 0..1 that differs between calls and processes; not for secrets.
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0u8);
    // 53 bits are what the mantissa of an `f64` holds: every value is exact, and 1 is never reached.
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_a_bound() {
        assert_eq!(rest(1, 1.0), RESTS.first);
        assert_eq!(rest(2, 1.0), RESTS.first * 2);
        assert_eq!(rest(3, 1.0), RESTS.first * 4);
        assert_eq!(rest(3, 0.5), RESTS.first * 2);
        assert_eq!(rest(3, 0.0), LEAST);
        assert_eq!(rest(1000, 1.0), RESTS.longest);
        let drawn = random();
        assert!((0.0..1.0).contains(&drawn));
    }
}
