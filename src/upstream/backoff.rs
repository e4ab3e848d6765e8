//! When to try a failing upstream again: exponential, with full jitter.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// Less would be no rest at all.
const LEAST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(15);

/// How long to rest after `failures` in a row, at least one; `random` is uniform in 0..1.
///
/// Full jitter: anywhere between nothing and the bound, so that many fills do not come back at once.
pub(crate) fn rest(failures: u32, random: f64) -> Duration {
    let bound = FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(LONGEST);
    bound.mul_f64(random.clamp(0.0, 1.0)).max(LEAST)
}

/// A number in 0..1 that differs between calls and processes; not for secrets.
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0u8);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_bound() {
        assert_eq!(rest(1, 1.0), FIRST);
        assert_eq!(rest(2, 1.0), FIRST * 2);
        assert_eq!(rest(3, 1.0), FIRST * 4);
        assert_eq!(rest(3, 0.5), FIRST * 2);
        assert_eq!(rest(3, 0.0), LEAST);
        assert_eq!(rest(1000, 1.0), LONGEST);
        let drawn = random();
        assert!((0.0..1.0).contains(&drawn));
    }
}
