//! How much of the disk the catalog takes, and what is to be done about it.
//!
//! sled appends every change to its log and frees segments later: what is live is a third to a tenth of what is on the disk.
//! Its size is therefore looked at while it is written, and the quota's reserve grows before the file does
//! (space/catalog_reserve.rs). Where the file comes to half of what it may take, it is written anew (compaction.rs), which
//! leaves what is live. Where that alone would be too much, no object is admitted, and no head grows, until an object has gone:
//! an eviction removes its record. Where a smaller quota than before finds a larger catalog, objects go first and it is
//! written anew when the server starts. All of it is for catalogs within a quota; without one sled is left alone.

use super::generations;
use crate::store::space::quota::{Shortage, Space};
use crate::sync::{lock, wait};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

/// How many written bytes go by between two looks at the disk. A judgement: a look is some `stat`s, and each change may
/// make sled write a leaf of the tree anew, a quarter of a MiB at most.
const BYTES_PER_LOOK: u64 = 32 << 10;

/// Room for what sled writes between two looks: two of its buffers. It writes them behind our back.
pub(super) const MARGIN_BYTES: u64 = 1 << 20;

/// The bytes that a removal counts as written: it changes a leaf too. A judgement.
pub(super) const REMOVAL_BYTES: u64 = 1 << 10;

/// A catalog of up to so many bytes is written anew by the thread whose change comes to its turn, which takes a second at
/// most; a larger one by the thread that looks after the store, as long as there is room. A judgement.
const WRITTEN_IN_PASSING_BYTES: u64 = 64 << 20;

/// The parts of what it may take, in tenths: with more on the disk it is written anew, and with more that is live nothing
/// is admitted. Judgements: old and new file fit side by side, with room for what is written meanwhile.
const COMPACTED_AT_TENTHS: u64 = 5;
const LIVE_AT_MOST_TENTHS: u64 = 3;

/// The bytes that a new file takes for each that is live, in tenths, until one was made: measured for records of 700 bytes and
/// of 31 KiB, whose leaves are split while they are written.
const FRESH_TENTHS: u64 = 30;

/// How often a change waits for the catalog to be written anew before it goes on all the same. A judgement: what cannot be
/// made smaller within two attempts cannot be.
const WAITS: u32 = 2;

/// The purpose of a change, by which it may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An object comes that was not there: it may be refused.
    Admit,
    /// A record that is there changes or goes.
    Keep,
}

/// The decision on a change before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomDecision {
    /// The change is made.
    Go,
    /// The catalog is written anew by this thread first: it has [`CatalogSize::ended`] to say afterwards.
    Compact,
}

#[derive(Debug)]
pub(super) struct CatalogSize {
    catalog: PathBuf,
    space: Arc<Space>,
    /// Held over a look at the directory, and while the reserve grows; no other lock is taken under it.
    state: Mutex<State>,
    /// Told when the catalog was written anew, or could not be.
    compacted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes on the disk at the last look, and what was written since.
    on_disk: u64,
    since: u64,
    /// Bytes of all keys and values; `None` until they were first counted.
    live: Option<u64>,
    /// Tenths of a byte that a new file takes for a live one.
    fresh_tenths: u64,
    compacting: bool,
    /// The size at which it is written anew.
    compacted_at: u64,
}

impl State {
    fn bytes(&self) -> u64 {
        self.on_disk + self.since
    }

    /// The bytes that a new file with so much more in it would take.
    fn fresh(&self, more: u64) -> Option<u64> {
        let live = self.live?.saturating_add(more);
        Some(live.saturating_mul(self.fresh_tenths) / 10)
    }

    /// Whether a new file with so much more in it would be too large.
    fn has_too_much(&self, more: u64, limit: u64) -> bool {
        self.fresh(more)
            .is_some_and(|fresh| fresh > limit / 10 * LIVE_AT_MOST_TENTHS)
    }
}

impl CatalogSize {
    pub(super) fn new(catalog: &Path, space: Arc<Space>) -> Self {
        let limit = space.catalog_limit().unwrap_or(u64::MAX);
        let state = State {
            fresh_tenths: FRESH_TENTHS,
            on_disk: generations::disk_bytes(catalog),
            compacted_at: limit / 10 * COMPACTED_AT_TENTHS,
            ..State::default()
        };
        space.reserve_over_quota(state.on_disk + MARGIN_BYTES);
        Self {
            catalog: catalog.to_owned(),
            space,
            state: Mutex::new(state),
            compacted: Condvar::new(),
        }
    }

    /// Makes room for a change of so many bytes, which may wait for the catalog to be written anew: for a blocking thread.
    ///
    /// # Errors
    /// Where an object is to be admitted and there is no room for it; it is there when others have gone.
    pub(super) fn make_room(&self, bytes: u64, purpose: Purpose) -> Result<RoomDecision, Shortage> {
        let Some(limit) = self.space.catalog_limit() else {
            return Ok(RoomDecision::Go);
        };
        let mut state = lock(&self.state);
        for _ in 0..WAITS {
            if state.since + bytes >= BYTES_PER_LOOK {
                self.look(&mut state);
            }
            if purpose == Purpose::Admit && state.has_too_much(bytes, limit) {
                return Err(Shortage::Catalog);
            }
            let in_passing = state.bytes() <= WRITTEN_IN_PASSING_BYTES;
            let is_full = state.bytes() + bytes + MARGIN_BYTES > limit;
            match state.compacting {
                true if is_full => state = wait(&self.compacted, state),
                false if (in_passing || is_full) && state.bytes() > state.compacted_at => {
                    state.compacting = true;
                    return Ok(RoomDecision::Compact);
                }
                _ => break,
            }
        }
        let wanted = state.bytes() + bytes + MARGIN_BYTES;
        if let Err(shortage) = self.space.reserve_for_catalog(wanted) {
            if purpose == Purpose::Admit {
                return Err(shortage);
            }
            self.space.reserve_over_quota(wanted);
        }
        state.since += bytes;
        Ok(RoomDecision::Go)
    }

    /// Takes note of a change that has made what is live so much more, or less.
    pub(super) fn changed(&self, live: i64) {
        let mut state = lock(&self.state);
        state.live = state.live.map(|before| before.saturating_add_signed(live));
    }

    /// The catalog was written anew, or could not be.
    pub(super) fn ended(&self, is_done: bool) {
        let mut state = lock(&self.state);
        self.look(&mut state);
        let limit = self.space.catalog_limit().unwrap_or(u64::MAX);
        state.compacted_at = if is_done {
            let live = state.live.unwrap_or_default();
            // The size of a file with next to nothing in it is no sign of what more would take.
            state.fresh_tenths = match state.on_disk.saturating_mul(10).checked_div(live) {
                Some(tenths) if live > MARGIN_BYTES => tenths,
                _ => FRESH_TENTHS,
            };
            (limit / 10 * COMPACTED_AT_TENTHS).max(state.on_disk + MARGIN_BYTES)
        } else {
            state.on_disk + MARGIN_BYTES / 4
        };
        state.compacting = false;
        self.compacted.notify_all();
    }

    /// Takes note of what is live; whether a new file of it has room beside the old one. One that is small enough is made
    /// however large the old one has become: it is what brings the catalog within the quota again.
    pub(super) fn counted(&self, live: u64) -> bool {
        let mut state = lock(&self.state);
        state.live = Some(live);
        let limit = self.space.catalog_limit().unwrap_or(u64::MAX);
        let fresh = state.fresh(0).unwrap_or_default();
        let fits = !state.has_too_much(0, limit) || state.bytes().saturating_add(fresh) <= limit;
        fits && self.space.file_system_room().is_none_or(|room| room >= fresh)
    }

    /// Whether the catalog is to be written anew by who asks, since its log has grown or, where that is `wanted`, since
    /// objects have gone; that thread has [`CatalogSize::ended`] to say.
    pub(super) fn begins(&self, wanted: bool) -> bool {
        let Some(limit) = self.space.catalog_limit() else {
            return false;
        };
        let mut state = lock(&self.state);
        let half = limit / 10 * COMPACTED_AT_TENTHS;
        let is_due = state.bytes() > if wanted { half } else { state.compacted_at };
        let begins = is_due && !state.compacting;
        state.compacting |= begins;
        begins
    }

    /// Whether a new file with so much more in it would be too large, as far as is known.
    pub(super) fn has_too_much_with(&self, more: u64) -> bool {
        let limit = self.space.catalog_limit();
        limit.is_some_and(|limit| lock(&self.state).has_too_much(more, limit))
    }

    /// Another catalog was opened: what was known of the one before says nothing of it.
    pub(super) fn forget(&self) {
        let mut state = lock(&self.state);
        state.live = None;
        state.fresh_tenths = FRESH_TENTHS;
        let limit = self.space.catalog_limit().unwrap_or(u64::MAX);
        state.compacted_at = limit / 10 * COMPACTED_AT_TENTHS;
        self.look(&mut state);
    }

    fn look(&self, state: &mut State) {
        state.on_disk = generations::disk_bytes(&self.catalog);
        state.since = 0;
    }
}
