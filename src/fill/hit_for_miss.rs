//! Hit-for-miss: URLs whose replies are for one client each, so that requests for them are not coalesced: those that
//! waited for another's reply would wait in vain, one behind the other.
//!
//! A URL is noted when its reply turns out to be one client's (docs/decisions/0011), and forgotten with the next reply
//! that may be shared. An entry that is missing costs one wait, an entry too many costs one coalescing; so the table
//! may lose any of them.

use crate::clock::Instant;
use crate::key::ObjectId;
use std::collections::HashMap;
use std::time::Duration;

/// How long the next reply of a URL is taken to be of the same kind. Two minutes: a judgement (docs/decisions/0011).
const REMEMBERED: Duration = Duration::from_secs(120);

/// The most URLs that are remembered; when there are more, all are forgotten, which costs one wait each. A judgement:
/// half a megabyte of ids and times.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct HitForMiss(HashMap<ObjectId, Instant>);

impl HitForMiss {
    pub(super) fn note(&mut self, id: ObjectId, now: Instant) {
        // Expired entries go first.
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
    fn hit_for_miss_entries_expire_and_are_bounded() {
        let id = |number: u128| ObjectId::from_bytes(&number.to_be_bytes()).expect("16 bytes");
        let (mut hit_for_miss, now) = (HitForMiss::default(), Instant::now());
        hit_for_miss.note(id(1), now);
        assert!(hit_for_miss.has(id(1), now) && !hit_for_miss.has(id(2), now));
        assert!(!hit_for_miss.has(id(1), now + REMEMBERED));
        hit_for_miss.forget(id(1));
        assert!(!hit_for_miss.has(id(1), now));
        for number in 0..=MOST as u128 {
            hit_for_miss.note(id(number), now);
        }
        assert!(hit_for_miss.0.len() <= MOST && hit_for_miss.has(id(MOST as u128), now));
    }
}
