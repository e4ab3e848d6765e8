//! How many bytes the bodies hold, against the quota.
//!
//! Bytes are counted before they are written. Whoever takes the count past the quota leaves a note;
//! the store then evicts whole objects, least recently used first, until the count is below it
//! again. Objects that are open for a reader or a fill stay, so a burst can pass the quota by what
//! is being read at the moment.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Space {
    used: AtomicU64,
    quota: Option<u64>,
    exceeded: Notify,
}

impl Space {
    pub(super) fn new(quota: Option<u64>) -> Self {
        Self {
            used: AtomicU64::new(0),
            quota,
            exceeded: Notify::new(),
        }
    }

    pub(super) fn reserve(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.quota.is_some_and(|quota| used > quota) {
            self.exceeded.notify_one();
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            Some(used.saturating_sub(bytes))
        });
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many bytes must go; 0 while the quota holds.
    pub(super) fn excess(&self) -> u64 {
        self.quota.map_or(0, |quota| self.used().saturating_sub(quota))
    }

    /// What the quota leaves; `None` without one.
    pub(super) fn room(&self) -> Option<u64> {
        Some(self.quota?.saturating_sub(self.used()))
    }

    pub(super) fn exceeded(&self) -> &Notify {
        &self.exceeded
    }
}
