//! A disk that takes no more, and films that are larger than the quota.
//!
//! While room is scarce nothing is fetched for nobody, and for readers no more than they will come to soon;
//! what they wait for is fetched all the same, and passed on where it cannot be stored. Now and then the disk
//! is tried again.

use super::super::reader::position::ReaderProgress;
use super::Owner;
use super::demand::LEAST_AHEAD;
use crate::clock::Instant;
use crate::gate::Backoff;
use crate::store::Object;
use std::time::Duration;

/// When the disk is tried again: a log rotation or another film's eviction is over in seconds, a full disk is not, and
/// half a minute is soon enough for it. A judgement.
const TRIES: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30),
};

/// Tries in a row that are made without a reader. A judgement: with the waits between them some four minutes.
const MOST_TRIES: u32 = 12;

/// The most that is fetched ahead of a reader where the object does not fit. A judgement; docs/filling.md tells it.
const MOST_AHEAD: u64 = 64 << 20;

/// The disk took no more.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskPressure {
    tries: u32,
    /// The quota is reached by objects in use: a fill without readers gives way.
    by_limit: bool,
    pub(super) next_try: Instant,
}

impl DiskPressure {
    pub(super) fn after(before: Option<Self>, by_limit: bool, now: Instant) -> Self {
        let tries = before.map_or(0, |before| before.tries) + 1;
        Self {
            tries,
            by_limit,
            next_try: now + TRIES.after(tries),
        }
    }

    /// Whether another try is not worth while without readers.
    pub(super) fn is_hopeless(&self) -> bool {
        self.by_limit || self.tries >= MOST_TRIES
    }
}

impl Owner {
    /// Whether the object can never be here as a whole.
    pub(super) fn is_oversize(&self) -> bool {
        let length = self.object.as_ref().and_then(|object| object.length());
        let quota = self.context.store.room_of_objects();
        matches!((length, quota), (Some(length), Some(quota)) if length > quota)
    }

    /// Whether nothing is to be fetched but what readers wait for.
    pub(super) fn is_under_pressure(&mut self) -> bool {
        let now = Instant::now();
        let Some(disk_pressure) = self.disk_pressure else {
            return false;
        };
        if now < disk_pressure.next_try {
            return true;
        }
        let can_store = self.context.could_store(&self.shared);
        if !can_store {
            self.disk_pressure = Some(DiskPressure::after(Some(disk_pressure), disk_pressure.by_limit, now));
        }
        !can_store
    }

    /// How far ahead of a reader is fetched at most, in bytes, where room is short.
    pub(super) fn at_most_ahead(&self) -> Option<u64> {
        if !self.is_oversize() && self.disk_pressure.is_none() {
            return None;
        }
        let quota = self.context.store.room_of_objects();
        Some(quota.map_or(MOST_AHEAD, |quota| (quota / 8).clamp(LEAST_AHEAD, MOST_AHEAD)))
    }

    /// Sessions end where they would be too far ahead of the reader that follows them.
    pub(super) fn rein_in(&self, reading: &[ReaderProgress], ahead: u64) {
        for session in self.sessions.iter().filter(|session| !session.is_queued()) {
            let at = session.position.at();
            let follower = reading
                .iter()
                .map(|reader| reader.at)
                .filter(|reader| *reader <= at)
                .max();
            if let Some(reader) = follower {
                let stop = reader.saturating_add(2 * ahead).max(at);
                session.position.lower_stop(stop);
            }
        }
    }

    /// Releases forwarded bytes when all readers have them, once bytes are stored again.
    pub(super) fn release_forwarded(&self) {
        let Some(object) = &self.object else { return };
        if object.presence().has_pass_through() && object.presence().pass_through_reason().is_none() {
            let last = self.shared.readers.reading().iter().map(|reader| reader.at).min();
            object.presence().release_before(last.unwrap_or(u64::MAX));
        }
    }

    /// Whether the disk has room for all that is missing.
    pub(super) fn is_disk_short(&self, object: &Object) -> bool {
        let missing = object
            .length()
            .map_or(0, |length| length.saturating_sub(object.presence().present_bytes()));
        self.context.store.room().is_some_and(|room| room < missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_retries_back_off_and_end() {
        let now = Instant::now();
        let mut disk_pressure = DiskPressure::after(None, false, now);
        assert_eq!(disk_pressure.next_try, now + Duration::from_secs(1));
        disk_pressure = DiskPressure::after(Some(disk_pressure), false, now);
        assert_eq!(disk_pressure.next_try, now + Duration::from_secs(2));
        for _ in 2..MOST_TRIES {
            assert!(!disk_pressure.is_hopeless());
            disk_pressure = DiskPressure::after(Some(disk_pressure), false, now);
        }
        assert!(disk_pressure.is_hopeless());
        assert_eq!(disk_pressure.next_try, now + TRIES.longest);
    }

    #[test]
    fn under_a_full_quota_a_fill_without_readers_is_not_retried() {
        assert!(DiskPressure::after(None, true, Instant::now()).is_hopeless());
    }
}
