//! How often and when an object was asked for, apart from the object: who answers from its small body alone counts
//! here too.

use super::record::Record;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// When they are worth a record: so many seconds after the last one, or with more than twice its hits and these.
const NEWS_AFTER: u64 = 600;
const NEWS_BEYOND: u64 = 2;

/// The uses of an object.
#[derive(Debug, Default)]
pub(super) struct Uses {
    last: AtomicU64,
    hits: AtomicU64,
    /// What its record says of those two.
    told_last: AtomicU64,
    told_hits: AtomicU64,
}

impl Uses {
    /// Those that a record tells of.
    pub(super) fn of(record: &Record) -> Self {
        Self {
            last: AtomicU64::new(record.last_used),
            hits: AtomicU64::new(record.hits),
            told_last: AtomicU64::new(record.last_used),
            told_hits: AtomicU64::new(record.hits),
        }
    }

    /// One more, at `now`, in seconds since 1970.
    pub(super) fn add(&self, now: u64) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
    }

    /// So many more, each within a second of one that was noted.
    pub(super) fn add_hits(&self, more: u64) {
        self.hits.fetch_add(more, Ordering::Relaxed);
    }

    /// When the last was, in seconds since 1970.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// How many there were.
    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// They are being written down.
    pub(super) fn told(&self) {
        self.told_last.store(self.last(), Ordering::Relaxed);
        self.told_hits.store(self.hits(), Ordering::Relaxed);
    }

    /// Whether those since the last record change when it is evicted: not a few hits more within minutes. To
    /// write each of them would cost the catalog as much as the bytes cost the disk.
    pub(super) fn are_news(&self) -> bool {
        let later = self.last().saturating_sub(self.told_last.load(Ordering::Relaxed)) >= NEWS_AFTER;
        let told = self.told_hits.load(Ordering::Relaxed);
        later || self.hits() > told.saturating_mul(2).saturating_add(NEWS_BEYOND)
    }
}

/// Where answers are told that were given without asking the object.
#[derive(Debug, Clone)]
pub struct Tally(pub(super) Arc<Uses>);

impl Tally {
    /// Notes that the object has answered so many times more, each within a second of one that was noted.
    pub fn answered(&self, times: u32) {
        self.0.add_hits(times.into());
    }
}
