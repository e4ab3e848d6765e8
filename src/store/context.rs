//! The context of a store: what all of its objects share.
//!
//! An object holds it by an `Arc`, so the catalog stays open and the directory locked until the last object has gone.
//! Each part guards itself; none of their locks is held while an object's is waited for.

use super::catalog::Catalog;
use super::layout::DirLock;
use super::read::sendfile::Sending;
use super::read::small_bodies::SmallBodyCache;
use super::space::preallocate::Preallocation;
use super::space::quota::Space;
use super::write::inline_gate::InlineWriteGate;
use crate::clock::SharedClock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::Sender;

/// The parts of a store that its objects use.
#[derive(Debug)]
pub(super) struct StoreContext {
    pub(super) catalog: Catalog,
    pub(super) clock: SharedClock,
    pub(super) space: Arc<Space>,
    pub(super) preallocation: Preallocation,
    /// Whether writing waits for the disk.
    pub(super) inline_writes: InlineWriteGate,
    pub(super) small_bodies: Arc<SmallBodyCache>,
    /// Whether bytes can be sent without a copy.
    pub(super) sending: Sending,
    /// No object was closed that has more on the disk than its record speaks of. Release, Acquire; orders nothing else.
    pub(super) is_exact: AtomicBool,
    /// Blocks that did not match their checksums. Relaxed: a counter that orders nothing.
    pub(super) bad_blocks: AtomicU64,
    /// Bytes taken out of objects that stay. Relaxed: a counter that orders nothing.
    pub(super) punched_bytes: AtomicU64,
    /// The data directory's lock: held until the catalog above is closed.
    pub(super) _lock: DirLock,
    /// Dropped last; the store's `ending` yields its end.
    pub(super) _alive: Sender<()>,
}
