//! URLs whose replies are for one client each: whoever waited for another's would wait in vain, one behind the
//! other.

use crate::key::ObjectId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For so long it is taken for granted that the next reply will be of the same kind.
const REMEMBERED: Duration = Duration::from_secs(120);

/// So many are remembered; when there are more, all are forgotten, which costs one wait each.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Unshared(HashMap<ObjectId, Instant>);

impl Unshared {
    pub(super) fn note(&mut self, id: ObjectId, now: Instant) {
        if self.0.len() >= MOST {
            self.0
                .retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(id, now);
    }

    pub(super) fn forget(&mut self, id: ObjectId) {
        self.0.remove(&id);
    }

    pub(super) fn has(&self, id: ObjectId, now: Instant) -> bool {
        let since = self.0.get(&id);
        since.is_some_and(|since| now.saturating_duration_since(*since) < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_for_one_client_is_remembered_for_a_while_and_bounded() {
        let id = |number: u128| ObjectId::from_bytes(&number.to_be_bytes()).expect("16 bytes");
        let (mut unshared, now) = (Unshared::default(), Instant::now());
        unshared.note(id(1), now);
        assert!(unshared.has(id(1), now) && !unshared.has(id(2), now));
        assert!(!unshared.has(id(1), now + REMEMBERED));
        unshared.forget(id(1));
        assert!(!unshared.has(id(1), now));
        for number in 0..=MOST as u128 {
            unshared.note(id(number), now);
        }
        assert!(unshared.0.len() <= MOST && unshared.has(id(MOST as u128), now));
    }
}
