//! Telling at once that nothing is stored under a URL.
//!
//! A catalog that is read from the disk makes whoever asks wait, so it is asked on a thread that may. But most catalogs lie in
//! memory, and who asks for a film that is not here waits for two threads to change places before anything is asked of the
//! upstream. So it is measured: after some look-ups in a row that were quick, the next is made where it is wanted; the
//! first that was slow ends that.

use super::index::Store;
use crate::key::ObjectKey;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A look-up that takes longer may have waited for the disk.
const QUICK: Duration = Duration::from_micros(300);

/// So many in a row must have been quick.
const ENOUGH: u32 = 16;

/// How many look-ups in a row were quick.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    quick: AtomicU32,
}

impl Lookups {
    fn are_quick(&self) -> bool {
        self.quick.load(Ordering::Relaxed) >= ENOUGH
    }

    pub(super) fn took(&self, time: Duration) {
        if time > QUICK {
            self.quick.store(0, Ordering::Relaxed);
        } else if !self.are_quick() {
            self.quick.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Store {
    /// Whether it is certain, without waiting for the disk, that nothing is stored under that URL. Where it is not,
    /// [`Store::load`] tells.
    pub fn is_absent_now(&self, key: &ObjectKey) -> bool {
        if !self.lookups.are_quick() || self.is_restoring() {
            return false;
        }
        let begun = Instant::now();
        // In this order: an object is open before it has a record.
        let is_absent = self.shared.catalog.has_none_now(key.id()) && self.open.get(key.id()).is_none();
        self.lookups.took(begun.elapsed());
        is_absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_look_up_ends_a_row_of_quick_ones() {
        let lookups = Lookups::default();
        for _ in 0..ENOUGH {
            assert!(!lookups.are_quick());
            lookups.took(QUICK / 2);
        }
        assert!(lookups.are_quick());
        lookups.took(QUICK * 2);
        assert!(!lookups.are_quick());
        lookups.took(QUICK / 2);
        assert!(!lookups.are_quick());
    }
}
