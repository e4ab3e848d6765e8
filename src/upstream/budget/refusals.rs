//! The rests that an upstream asks for, by `Retry-After` (RFC 9110 §10.2.3) and by 429 (RFC 6585 §4).
//!
//! ```text
//! 503 with Retry-After      the object rests
//! 429                       the object rests, and for as long the upstream gets one request at a time
//! 429 for another object    the whole upstream rests
//! ```
//!
//! One object that is limited, or that somebody has put there to say so, keeps nobody from the others. Two that are say
//! that it is the client who is limited, and that is this server. A rest of an object lasts an hour at most, and one of
//! the upstream a minute: whoever says it may be one of many who are served there.

use crate::clock::Instant;
use crate::key::ObjectId;
use std::collections::HashMap;
use std::time::Duration;

/// A longer rest of an object is not believed. A judgement: one that is wrong about it is lost for an hour, not for days.
const LONGEST_OF_AN_OBJECT: Duration = Duration::from_secs(3600);

/// The same of the whole upstream. A judgement: limits are mostly counted by the minute.
const LONGEST_OF_ALL: Duration = Duration::from_secs(60);

/// The most objects of one upstream whose rests are remembered. A judgement: each takes some fifty bytes, and one that is
/// forgotten is asked again and says so again.
const MOST_OBJECTS: usize = 1024;

/// The rests of one upstream.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    objects: HashMap<ObjectId, Refusal>,
    one_at_a_time_until: Option<Instant>,
    all_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    until: Instant,
    /// By 429.
    is_limited: bool,
}

impl Refusals {
    /// The upstream has refused a request for the object with that status, and asks for such a rest.
    pub(super) fn add(&mut self, object: ObjectId, status: u16, rest: Duration, now: Instant) {
        self.objects.retain(|_, refusal| refusal.until > now);
        if self.objects.len() >= MOST_OBJECTS
            && let Some(next) = self.objects.iter().min_by_key(|(_, refusal)| refusal.until)
        {
            let next = *next.0;
            self.objects.remove(&next);
        }
        let is_limited = status == 429;
        let is_other = |(id, refusal): (&ObjectId, &Refusal)| *id != object && refusal.is_limited;
        if is_limited {
            let until = Some(now + rest.min(LONGEST_OF_ALL));
            if self.objects.iter().any(is_other) {
                self.all_until = self.all_until.max(until);
            }
            self.one_at_a_time_until = self.one_at_a_time_until.max(until);
        }
        let until = now + rest.min(LONGEST_OF_AN_OBJECT);
        let refusal = self.objects.entry(object).or_insert(Refusal { until, is_limited });
        refusal.until = refusal.until.max(until);
        refusal.is_limited |= is_limited;
    }

    /// When the object's rest ends; `None` where it has none, or one that is over.
    pub(super) fn object_until(&self, object: ObjectId, now: Instant) -> Option<Instant> {
        let refusal = self.objects.get(&object)?;
        Some(refusal.until).filter(|until| *until > now)
    }

    /// When the rest of the whole upstream ends.
    pub(super) fn all_until(&self, now: Instant) -> Option<Instant> {
        self.all_until.filter(|until| *until > now)
    }

    /// Until when the upstream gets one request at a time.
    pub(super) fn one_at_a_time_until(&self, now: Instant) -> Option<Instant> {
        self.one_at_a_time_until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ObjectKey;

    fn object(name: &str) -> ObjectId {
        let url = url::Url::parse(&format!("http://h/{name}")).expect("a URL");
        ObjectKey::of(&url).id()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_503_rests_its_object_and_a_second_429_all() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        refusals.add(object("a"), 503, seconds(3600), now);
        refusals.add(object("b"), 503, seconds(10), now);
        assert_eq!(refusals.object_until(object("a"), now), Some(now + seconds(3600)));
        assert_eq!(refusals.all_until(now).or(refusals.one_at_a_time_until(now)), None);
        refusals.add(object("c"), 429, seconds(3600), now);
        // The same object says nothing new of the upstream.
        refusals.add(object("c"), 429, seconds(3600), now);
        assert_eq!(refusals.all_until(now), None);
        assert_eq!(refusals.one_at_a_time_until(now), Some(now + seconds(60)));
        refusals.add(object("b"), 429, seconds(20), now);
        assert_eq!(refusals.all_until(now), Some(now + seconds(20)));
        let later = now + seconds(60);
        assert_eq!(refusals.object_until(object("b"), later), None);
        assert_eq!(refusals.all_until(later).or(refusals.one_at_a_time_until(later)), None);
        // An object that was limited long ago and has rested is no second one.
        let tomorrow = now + seconds(86_400);
        refusals.add(object("d"), 429, seconds(5), tomorrow);
        assert_eq!(refusals.all_until(tomorrow), None);
    }

    #[test]
    fn rests_are_bounded_in_number_and_in_time() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        for number in 0..2 * MOST_OBJECTS as u64 {
            refusals.add(object(&number.to_string()), 503, seconds(10 + number), now);
        }
        assert_eq!(refusals.objects.len(), MOST_OBJECTS);
        refusals.add(object("x"), 503, Duration::MAX, now);
        assert_eq!(
            refusals.object_until(object("x"), now),
            Some(now + LONGEST_OF_AN_OBJECT)
        );
    }
}
