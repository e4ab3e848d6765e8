//! How often and when an object was asked for. Apart from the object, because answers that are made of its cached small
//! body alone count here too.
//!
//! Four numbers, each by itself: hits and the time of the last one, as they are now and as the record has them. A
//! thread may see one of them before another, which moves an object's rank at an eviction by a hit or a second, and no
//! more. Every hit writes two of them, so nothing dearer than a relaxed access is made.

use crate::store::catalog::record::Record;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Statistics are worth a new record this many seconds after the last one, or with more than twice its hits and this
/// many. Judgements: evictions rank objects by idle seconds and the root of the hits, which less than that hardly
/// moves.
const NEWS_AFTER: u64 = 600;
const NEWS_BEYOND: u64 = 2;

/// The uses of an object.
#[derive(Debug, Default)]
pub(in crate::store) struct AccessStats {
    /// When the last hit was, in seconds since 1970. Relaxed: orders nothing; of two hits at once either may be the
    /// last.
    last: AtomicU64,
    /// Relaxed: a counter that orders nothing.
    hits: AtomicU64,
    /// The last hit, as the record has it. Relaxed: compared with `last` alone, for whether a record is worth its cost.
    persisted_last: AtomicU64,
    /// The hits, as the record has them. Relaxed, as `persisted_last`.
    persisted_hits: AtomicU64,
}

impl AccessStats {
    /// The statistics of a record.
    pub(in crate::store) fn of(record: &Record) -> Self {
        Self {
            last: AtomicU64::new(record.last_used),
            hits: AtomicU64::new(record.hits),
            persisted_last: AtomicU64::new(record.last_used),
            persisted_hits: AtomicU64::new(record.hits),
        }
    }

    /// Counts a hit at `now`, in seconds since 1970.
    pub(in crate::store) fn add(&self, now: u64) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Counts hits, each within a second of one whose time was noted.
    pub(in crate::store) fn add_hits(&self, more: u64) {
        self.hits.fetch_add(more, Ordering::Relaxed);
    }

    /// When the last was, in seconds since 1970.
    pub(in crate::store) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// How many there were.
    pub(in crate::store) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The statistics are being written to the record.
    pub(in crate::store) fn persisted(&self) {
        self.persisted_last.store(self.last(), Ordering::Relaxed);
        self.persisted_hits.store(self.hits(), Ordering::Relaxed);
    }

    /// Whether those since the last record change when it is evicted: not a few hits more within minutes. To
    /// write each of them would cost the catalog as much as the bytes cost the disk.
    pub(in crate::store) fn are_news(&self) -> bool {
        // The clock may have been set back: then the hits alone count.
        let later = self.last().saturating_sub(self.persisted_last.load(Ordering::Relaxed)) >= NEWS_AFTER;
        let persisted = self.persisted_hits.load(Ordering::Relaxed);
        later || self.hits() > persisted.saturating_mul(2).saturating_add(NEWS_BEYOND)
    }
}

/// Where answers are told that were given without asking the object.
#[derive(Debug, Clone)]
pub struct HitCounter(pub(in crate::store) Arc<AccessStats>);

impl HitCounter {
    /// Notes that the object has answered so many times more, each within a second of one that was noted.
    pub fn answered(&self, times: u32) {
        self.0.add_hits(times.into());
    }
}
