//! The cache of small bodies in memory: the most requested objects of a page are no larger than a packet or two, and a
//! system call for each read would cost as much as all the rest (the row "1 KiB objects" of scripts/bench).
//!
//! A body is kept when it has been read whole, for as long as its object is open, and as long as all that are kept
//! take no more than [`MOST_BYTES`].

use super::object::Object;
use crate::ranges::ByteRange;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The longest body that is kept.
pub(super) const SMALL_BYTES: u64 = 16 * 1024;

/// The most that the cached bodies of a store take together, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// The size of all cached bodies of a store, in bytes.
#[derive(Debug, Default)]
pub(super) struct SmallBodyCache(AtomicU64);

/// A body in memory. Who holds one may answer from it without its object for as long as it [is current].
///
/// [is current]: SmallBody::is_current
#[derive(Debug)]
pub struct SmallBody {
    bytes: Bytes,
    all: Arc<SmallBodyCache>,
    invalidated: AtomicBool,
}

impl SmallBody {
    /// Keeps a body, where there is room.
    fn new(body: &[u8], all: &Arc<SmallBodyCache>) -> Option<Arc<Self>> {
        let taken = body.len() as u64;
        let room = |used: u64| Some(used + taken).filter(|used| *used <= MOST_BYTES);
        all.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Arc::new(Self {
            bytes: Bytes::copy_from_slice(body),
            all: Arc::clone(all),
            invalidated: AtomicBool::new(false),
        }))
    }

    /// Whether these are still the bytes of the object that requests find, under the same head.
    pub fn is_current(&self) -> bool {
        !self.invalidated.load(Ordering::Acquire)
    }

    /// The whole body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// A part of it.
    pub fn part(&self, range: ByteRange) -> Bytes {
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        self.slice(range.start(), len)
    }

    /// Up to `len` bytes at `at`.
    pub(super) fn slice(&self, at: u64, len: usize) -> Bytes {
        let from = usize::try_from(at).map_or(self.bytes.len(), |at| at.min(self.bytes.len()));
        let to = from.saturating_add(len).min(self.bytes.len());
        self.bytes.slice(from..to)
    }
}

impl Drop for SmallBody {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes.len() as u64, Ordering::AcqRel);
    }
}

impl Object {
    /// These bytes, where the whole body is kept in memory.
    pub fn small_body_part(&self, range: ByteRange) -> Option<Bytes> {
        let epoch = self.epoch();
        let len = usize::try_from(range.len()).ok()?;
        let bytes = self.small_body.load().as_ref()?.slice(range.start(), len);
        (bytes.len() == len && self.epoch() == epoch).then_some(bytes)
    }

    /// The whole body, where it is kept in memory.
    pub fn resident_small_body(&self) -> Option<Arc<SmallBody>> {
        self.small_body.load_full()
    }

    /// Keeps a small body in memory, unless what was read may have been taken away meanwhile.
    pub(super) fn cache_small_body(&self, body: &[u8]) {
        let epoch = self.epoch();
        self.put(SmallBody::new(body, &self.shared.small_bodies));
        if self.epoch() != epoch || self.is_discarded() {
            self.invalidate_small_body();
        }
    }

    /// The body, where it is small and in memory, or can be read without a wait.
    pub fn small_body(&self) -> Option<Arc<SmallBody>> {
        let length = self.length().filter(|length| *length <= SMALL_BYTES)?;
        self.resident_small_body().or_else(|| {
            self.read_now(0, usize::try_from(length).ok()?).ok()??;
            self.resident_small_body()
        })
    }

    /// Invalidates the cached body: its bytes go, its head is replaced, or later requests find another object.
    pub(super) fn invalidate_small_body(&self) {
        self.put(None);
    }

    fn put(&self, kept: Option<Arc<SmallBody>>) {
        if let Some(before) = self.small_body.swap(kept) {
            before.invalidated.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_body_cache_is_bounded_and_given_back() {
        let all = Arc::new(SmallBodyCache::default());
        let body = vec![7; SMALL_BYTES as usize];
        let kept: Vec<_> = std::iter::from_fn(|| SmallBody::new(&body, &all)).collect();
        assert_eq!(kept.len() as u64, MOST_BYTES / SMALL_BYTES);
        assert_eq!(kept[0].slice(3, 4), vec![7; 4]);
        assert_eq!(kept[0].slice(SMALL_BYTES - 1, 4).len(), 1);
        assert!(kept[0].slice(SMALL_BYTES + 1, 4).is_empty());
        drop(kept);
        assert_eq!(all.0.load(Ordering::Acquire), 0);
        assert!(SmallBody::new(&body, &all).is_some());
    }
}
