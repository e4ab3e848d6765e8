//! The readings of large collections that are being paged through: one reading serves all of its pages.
//!
//! A page names the state that it is of (`listing=`). While that reading is kept a page costs what it holds; when it has been
//! dropped, the collection is read again, and the page says that it is of another state. What is kept is bounded in number, in memory
//! and in time.

use crate::directory::{MemberNames, TreePath};
use crate::sync::lock;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many readings are kept, and how much memory they may take together, in bytes.
const MAX_KEPT: usize = 16;
const MAX_BYTES: usize = 256 << 20;

/// How long one is kept that nobody asks for.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// The readings that are kept, the most recently used last.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<Vec<ListingCursor>>);

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct ListingCursor {
    pub(super) path: TreePath,
    /// Hidden names are in it.
    pub(super) hidden: bool,
    /// The state that it is of.
    pub(super) listing: String,
    pub(super) names: Arc<MemberNames>,
    used: Instant,
}

impl ListingCursor {
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

impl Cursors {
    /// The reading of that state of a collection, where it is kept.
    pub(super) fn get(&self, path: &TreePath, hidden: bool, listing: &str) -> Option<ListingCursor> {
        let mut kept = lock(&self.0);
        let path = path.without_slash();
        let same = |cursor: &ListingCursor| cursor.path == path && cursor.hidden == hidden && cursor.listing == listing;
        let index = kept.iter().position(same)?;
        let mut cursor = kept.remove(index);
        cursor.used = Instant::now();
        kept.push(cursor.clone());
        Some(cursor)
    }

    /// Keeps a reading.
    pub(super) fn insert(&self, cursor: ListingCursor) {
        let mut kept = lock(&self.0);
        kept.retain(|other| other.used.elapsed() < KEPT_FOR);
        kept.push(cursor);
        let bytes = |kept: &Vec<ListingCursor>| kept.iter().map(|cursor| cursor.names.bytes()).sum::<usize>();
        while kept.len() > MAX_KEPT || (kept.len() > 1 && bytes(&kept) > MAX_BYTES) {
            kept.remove(0);
        }
    }

    /// Drops those that nobody has asked for lately.
    pub fn sweep(&self) {
        let mut kept = lock(&self.0);
        kept.retain(|cursor| cursor.used.elapsed() < KEPT_FOR);
    }
}
