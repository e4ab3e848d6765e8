//! The cache of small bodies in memory: the most requested objects of a page are no larger than a packet or two, and a
//! system call for each read would cost as much as all the rest (the row "1 KiB objects" of scripts/bench).
//!
//! A body is cached when it has been read whole, for as long as its object is open. All of them take [`MOST_BYTES`] at most:
//! where there is no room for another, those that were not asked for go, by the cache's own order (S3-FIFO, which a scan of
//! many bodies does not empty). A body that goes is invalidated first, so that no remembered header is sent with it.
//!
//! ```text
//!   SmallBodyCache ── key ──► CachedBody { body, slot } ···weak···► SmallBodySlot of the object
//!                                    │                                   │
//!                                    └─────────────► SmallBody ◄─────────┘ ◄── headers that a worker remembers
//! ```

use crate::key::ObjectId;
use crate::ranges::ByteRange;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// The longest body that is cached: beyond it a call of `sendfile` costs less than the copy.
pub(in crate::store) const SMALL_BYTES: u64 = 16 * 1024;

/// The most that the cached bodies of a store take together, in bytes: a judgement, a thousand of the longest.
const MOST_BYTES: u64 = 16 << 20;

/// How many bodies the cache makes room for at the start: those of an ordinary page's size.
const ESTIMATED_BODIES: usize = 4096;

/// A generation of an object.
type BodyKey = (ObjectId, u64);

/// The cached bodies of a store.
#[derive(Debug)]
pub(in crate::store) struct SmallBodyCache(Cache<BodyKey, CachedBody, BodyWeight, DefaultHashBuilder, Eviction>);

/// The place in an object for its cached body.
#[derive(Debug)]
pub(in crate::store) struct SmallBodySlot {
    body: ArcSwapOption<SmallBody>,
    key: BodyKey,
    /// Has the slots by weak references: there is no circle.
    cache: Arc<SmallBodyCache>,
}

/// A body in memory. Who holds one may answer from it without its object for as long as it [is current].
///
/// [is current]: SmallBody::is_current
#[derive(Debug)]
pub struct SmallBody {
    bytes: Bytes,
    /// Release where the body is invalidated, Acquire where it is about to be sent: what was done before the invalidation
    /// (a purge, a new head) is seen by whoever finds it.
    invalidated: AtomicBool,
}

#[derive(Debug, Clone)]
struct CachedBody {
    body: Arc<SmallBody>,
    slot: Weak<SmallBodySlot>,
}

#[derive(Debug, Clone)]
struct BodyWeight;

impl Weighter<BodyKey, CachedBody> for BodyWeight {
    fn weight(&self, _: &BodyKey, cached: &CachedBody) -> u64 {
        // An empty body takes room all the same.
        (cached.body.bytes.len() as u64).max(1)
    }
}

/// Takes a body that has to go out of its object.
#[derive(Debug, Clone)]
struct Eviction;

impl Lifecycle<BodyKey, CachedBody> for Eviction {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: BodyKey, cached: CachedBody) {
        cached.body.invalidate();
        if let Some(slot) = cached.slot.upgrade() {
            // Another body may have taken its place.
            slot.body.compare_and_swap(&Some(cached.body), None);
        }
    }
}

impl Default for SmallBodyCache {
    fn default() -> Self {
        let hasher = DefaultHashBuilder::default();
        Self(Cache::with(ESTIMATED_BODIES, MOST_BYTES, BodyWeight, hasher, Eviction))
    }
}

impl SmallBodyCache {
    fn insert(&self, key: BodyKey, body: Arc<SmallBody>, slot: &Arc<SmallBodySlot>) {
        let cached = CachedBody {
            body,
            slot: Arc::downgrade(slot),
        };
        self.0.insert(key, cached);
    }

    /// Notes that a body was asked for.
    fn touch(&self, key: BodyKey) {
        let _ = self.0.get(&key);
    }
}

impl SmallBody {
    pub(in crate::store) fn new(body: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            bytes: Bytes::copy_from_slice(body),
            invalidated: AtomicBool::new(false),
        })
    }

    /// Whether these are still the bytes of the object that requests find, under the same head.
    pub fn is_current(&self) -> bool {
        !self.invalidated.load(Ordering::Acquire)
    }

    fn invalidate(&self) {
        self.invalidated.store(true, Ordering::Release);
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
    pub(in crate::store) fn slice(&self, at: u64, len: usize) -> Bytes {
        let from = usize::try_from(at).map_or(self.bytes.len(), |at| at.min(self.bytes.len()));
        let to = from.saturating_add(len).min(self.bytes.len());
        self.bytes.slice(from..to)
    }
}

impl SmallBodySlot {
    /// An empty one, of that generation of an object.
    pub(in crate::store) fn new(cache: &Arc<SmallBodyCache>, id: ObjectId, generation: u64) -> Arc<Self> {
        Arc::new(Self {
            body: ArcSwapOption::empty(),
            key: (id, generation),
            cache: Arc::clone(cache),
        })
    }

    /// The whole body, where it is cached.
    pub(in crate::store) fn get(&self) -> Option<Arc<SmallBody>> {
        self.body.load_full()
    }

    /// Up to `len` bytes at `at`, where the body is cached.
    pub(in crate::store) fn slice(&self, at: u64, len: usize) -> Option<Bytes> {
        self.body.load().as_ref().map(|body| body.slice(at, len))
    }

    /// Notes that the body was asked for.
    pub(in crate::store) fn touch(&self) {
        self.cache.touch(self.key);
    }

    /// Caches a body in the place of the one before.
    pub(in crate::store) fn cache(self: &Arc<Self>, body: Arc<SmallBody>) {
        self.replace(Some(Arc::clone(&body)));
        // In this order: a body for which there is no room is evicted by its own insertion.
        self.cache.insert(self.key, body, self);
    }

    /// Invalidates the cached body: its bytes go, its head is replaced, or later requests find another object.
    pub(in crate::store) fn invalidate(&self) {
        if self.replace(None) {
            self.cache.0.remove(&self.key);
        }
    }

    /// Whether there was a body before, which is invalid now.
    fn replace(&self, body: Option<Arc<SmallBody>>) -> bool {
        let before = self.body.swap(body);
        before.as_ref().inspect(|before| before.invalidate()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> BodyKey {
        (ObjectId::from_bytes(&[7; 16]).expect("sixteen"), number)
    }

    /// Caches a body of the greatest length, as an object does.
    fn cache(all: &Arc<SmallBodyCache>, number: u64) -> (Arc<SmallBody>, Arc<SmallBodySlot>) {
        let (id, generation) = key(number);
        let body = SmallBody::new(&[7; SMALL_BYTES as usize]);
        let slot = SmallBodySlot::new(all, id, generation);
        slot.cache(Arc::clone(&body));
        (body, slot)
    }

    #[test]
    fn a_small_body_is_cut_to_the_range_that_is_asked_for() {
        let body = SmallBody::new(&[7; SMALL_BYTES as usize]);
        assert_eq!(body.slice(3, 4), vec![7; 4]);
        assert_eq!(body.slice(SMALL_BYTES - 1, 4).len(), 1);
        assert!(body.slice(SMALL_BYTES + 1, 4).is_empty());
    }

    #[test]
    fn bodies_that_are_asked_for_stay_and_others_make_room() {
        let all = Arc::<SmallBodyCache>::default();
        let (popular, slot) = cache(&all, 0);
        all.touch(key(0));
        let others: Vec<_> = (1..10 * MOST_BYTES / SMALL_BYTES)
            .map(|number| {
                all.touch(key(0));
                cache(&all, number)
            })
            .collect();
        assert!(all.0.weight() <= MOST_BYTES, "{}", all.0.weight());
        assert!(popular.is_current() && slot.slice(0, 1).is_some());
        let current = others.iter().filter(|(body, _)| body.is_current()).count() as u64;
        assert!(current * SMALL_BYTES <= MOST_BYTES && current > 0, "{current}");
        for (body, slot) in &others {
            assert_eq!(
                slot.slice(0, 1).is_some(),
                body.is_current(),
                "an evicted body leaves its object"
            );
        }
        assert!(
            others.last().is_some_and(|(body, _)| body.is_current()),
            "the last one was admitted"
        );
    }
}
