//! Readings of large collections that clients page through: one reading serves all of its pages.
//!
//! A page names the reading that it continues (`listing=`). While that is cached a page costs what it holds. When it
//! has been dropped the collection is read again, and the page says that it is of another reading, so that a client
//! begins anew. The cache is bounded in number, in memory and in time.

use crate::clock::Instant;
use crate::directory::{MemberNames, TreePath};
use crate::sync::lock;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most readings that are kept: a judgement.
const MAX_KEPT: usize = 16;

/// The memory that they may take together, in bytes: a judgement. A million names take some 25 MB beside their letters.
const MAX_BYTES: usize = 256 << 20;

/// The time for which a reading is kept that nobody asks for: a judgement.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// The cached readings, the most recently used last. The lock is held for a search among a few, never while a
/// directory is read.
#[derive(Debug, Default)]
pub struct ListingCache(Mutex<Vec<CachedListing>>);

/// One cached reading.
#[derive(Debug, Clone)]
pub(super) struct CachedListing {
    pub(super) path: TreePath,
    /// Names that begin with a dot are in it.
    pub(super) hidden: bool,
    /// The id of the state that was read.
    pub(super) listing: String,
    pub(super) names: Arc<MemberNames>,
    used: Instant,
}

impl CachedListing {
    pub(super) fn new(path: &TreePath, hidden: bool, listing: String, names: Arc<MemberNames>) -> Self {
        Self {
            path: path.without_slash(),
            hidden,
            listing,
            names,
            used: Instant::now(),
        }
    }
}

impl ListingCache {
    /// The reading with that id, where it is cached.
    pub(super) fn get(&self, path: &TreePath, hidden: bool, listing: &str) -> Option<CachedListing> {
        let mut kept = lock(&self.0);
        let path = path.without_slash();
        let same = |cursor: &CachedListing| cursor.path == path && cursor.hidden == hidden && cursor.listing == listing;
        let index = kept.iter().position(same)?;
        let mut cursor = kept.remove(index);
        cursor.used = Instant::now();
        kept.push(cursor.clone());
        Some(cursor)
    }

    /// Caches a reading; the least recently used ones give way.
    pub(super) fn insert(&self, cursor: CachedListing) {
        let mut kept = lock(&self.0);
        kept.retain(|other| other.used.elapsed() < KEPT_FOR);
        kept.push(cursor);
        let bytes = |kept: &Vec<CachedListing>| kept.iter().map(|cursor| cursor.names.bytes()).sum::<usize>();
        while kept.len() > MAX_KEPT || (kept.len() > 1 && bytes(&kept) > MAX_BYTES) {
            kept.remove(0);
        }
    }

    /// Drops readings that nobody has asked for lately.
    pub fn sweep(&self) {
        let mut kept = lock(&self.0);
        kept.retain(|cursor| cursor.used.elapsed() < KEPT_FOR);
    }
}
