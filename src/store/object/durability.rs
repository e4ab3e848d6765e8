//! The durability of an object: its files, and what of it is recorded.
//!
//! ```text
//!               made                          discard: no later request finds the object
//!   Pending ───────────▶ Made ──────────────▶ Discarded      its record is gone, its body lasts while it is open
//!      └────────────────────── discard ─────▶ Discarded      its body is still to be made, without a name
//!
//!   Staged      as Made, but nothing is recorded before it is published: another generation is found until then
//!   Pending     nothing is on the disk: nothing is recorded, and nothing was written
//!   Made        the body, the manifest and the record exist: each commit records
//!   Discarded   whatever is written is synced and never recorded
//! ```
//!
//! Whether the files were made and whether the object was discarded are told apart, since a discarded object gets its
//! body with its first write like any other. Both are set once: under `recorded`, or before others have the object.
//!
//! *The locks.* `recorded` is held over sync, sums, manifest and record, so that each record follows the last whole. `io`
//! is shared by whoever writes a piece or sends one, and held alone to punch a hole; it is taken under `recorded`, never
//! the other way. The orders in which they are used are those of commit.rs and retract.rs.

use crate::ranges::{ByteCount, RangeSet};
use crate::store::body_file::Body;
use crate::store::space::quota::{PAGE_BYTES, Shortage, Space};
use crate::sync::{lock, read, unless_held, write};
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How far the files of an object have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Files {
    /// The files are yet to be made.
    Pending,
    /// The files exist, and so does the record.
    Made,
    /// The body exists; nothing of it is recorded yet, and another generation is found in its place.
    Staged,
    /// The object is recorded no more.
    Discarded,
}

#[derive(Debug)]
pub(in crate::store) struct Durability {
    body: Body,
    /// The files and the record of the object exist. Release, Acquire: who finds it set finds the body's file.
    materialized: AtomicBool,
    /// Another generation is found until this one is published. Release, Acquire; set before others have the object, and
    /// taken back under `recorded`.
    staged: AtomicBool,
    /// Removed or replaced. Release before a cached body is taken out, Acquire after one was put in: none is left.
    discarded: AtomicBool,
    /// The room that was taken for its manifest. AcqRel, Release under `recorded`, Acquire without it.
    manifest_bytes: AtomicU64,
    /// The manifest says that all bytes are here. Release, Acquire, AcqRel, though all who touch it hold `recorded`.
    complete_manifest: AtomicBool,
    /// The bytes that the record names. Held over sync, sums, manifest and record: each record follows the last whole.
    recorded: Mutex<RangeSet>,
    /// Keeps pages that are written or sent from being punched; connections' threads only try it. Taking it for a read
    /// writes to it too, once a call: no other field shares its cache line.
    io: CachePadded<RwLock<()>>,
}

impl Durability {
    /// The files of an object that is recorded.
    pub(in crate::store) fn recorded_as(
        body: Body,
        durable: RangeSet,
        manifest_bytes: ByteCount,
        is_whole: bool,
    ) -> Self {
        Self {
            body,
            materialized: AtomicBool::new(true),
            staged: AtomicBool::new(false),
            discarded: AtomicBool::new(false),
            manifest_bytes: AtomicU64::new(manifest_bytes),
            complete_manifest: AtomicBool::new(is_whole),
            recorded: Mutex::new(durable),
            io: CachePadded::default(),
        }
    }

    pub(in crate::store) fn files(&self) -> Files {
        if self.is_discarded() {
            Files::Discarded
        } else if self.is_staged() && self.is_materialized() {
            Files::Staged
        } else if self.is_materialized() {
            Files::Made
        } else {
            Files::Pending
        }
    }

    pub(in crate::store) fn is_materialized(&self) -> bool {
        self.materialized.load(Ordering::Acquire)
    }

    /// Whether nothing of it is recorded before it is published.
    pub(in crate::store) fn is_staged(&self) -> bool {
        self.staged.load(Ordering::Acquire)
    }

    /// Stages it, or takes that back: for who has the object alone, or holds `recorded`.
    pub(in crate::store) fn set_staged(&self, is_staged: bool) {
        self.staged.store(is_staged, Ordering::Release);
    }

    pub(in crate::store) fn is_discarded(&self) -> bool {
        self.discarded.load(Ordering::Acquire)
    }

    /// Whether the files exist from now on. That they do not is said of a new object alone.
    pub(in crate::store) fn set_materialized(&self, are_made: bool) {
        self.materialized.store(are_made, Ordering::Release);
    }

    /// Nothing is recorded from now on: for who holds `recorded`, or has the object alone.
    pub(in crate::store) fn discard(&self) {
        self.discarded.store(true, Ordering::Release);
    }

    pub(in crate::store) fn body(&self) -> &Body {
        &self.body
    }

    /// The bytes that the record names, locked.
    pub(in crate::store) fn recorded(&self) -> MutexGuard<'_, RangeSet> {
        lock(&self.recorded)
    }

    /// While this is held no hole is punched: waits while one is.
    pub(in crate::store) fn keep_pages(&self) -> RwLockReadGuard<'_, ()> {
        read(&self.io)
    }

    /// [`Durability::keep_pages`], where no hole is being punched.
    pub(in crate::store) fn keep_pages_now(&self) -> Option<RwLockReadGuard<'_, ()>> {
        unless_held(self.io.try_read())
    }

    /// Waits until no page is being written or sent, and keeps others from beginning to.
    pub(in crate::store) fn hold_pages_alone(&self) -> RwLockWriteGuard<'_, ()> {
        write(&self.io)
    }

    /// The disk space of the manifest, in bytes.
    pub(in crate::store) fn manifest_bytes(&self) -> ByteCount {
        self.manifest_bytes.load(Ordering::Acquire)
    }

    /// Takes room for a manifest of so many bytes, or gives back what the one before had more.
    ///
    /// # Errors
    /// The bytes that were missing, and why.
    pub(in crate::store) fn hold_manifest(&self, space: &Space, bytes: ByteCount) -> Result<(), (ByteCount, Shortage)> {
        let (held, wanted) = (self.manifest_bytes(), bytes.next_multiple_of(PAGE_BYTES));
        if wanted > held {
            // Room before bytes, for the manifest too.
            let missing = wanted - held;
            space.take(missing).map_err(|shortage| (missing, shortage))?;
        } else {
            space.release(held - wanted);
        }
        self.manifest_bytes.store(wanted, Ordering::Release);
        Ok(())
    }

    /// Gives the room of the manifest back: the files could not be made.
    pub(in crate::store) fn release_manifest(&self, space: &Space) {
        space.release(self.manifest_bytes.swap(0, Ordering::AcqRel));
    }

    pub(in crate::store) fn has_complete_manifest(&self) -> bool {
        self.complete_manifest.load(Ordering::Acquire)
    }

    pub(in crate::store) fn set_complete_manifest(&self, is_complete: bool) {
        self.complete_manifest.store(is_complete, Ordering::Release);
    }

    /// Whether the manifest said that all bytes are here; from now on it does not.
    pub(in crate::store) fn take_complete_manifest(&self) -> bool {
        self.complete_manifest.swap(false, Ordering::AcqRel)
    }
}
