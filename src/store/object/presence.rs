//! The presence of an object: which of its bytes readers may have now, and who waits for which.
//!
//! ```text
//!   absent ── in flight ──────────▶ present ──▶ make_absent: absent again, the epoch risen
//!     │       (from memory)          ▲  (from the body)
//!     │           └── withdrawn: absent, the epoch risen
//!     └────── passing through ──▶ released, or others in its place: absent, the epoch risen
//!             (from memory)
//! ```
//!
//! *The lock*, `progress`, guards the set and the waiters together: no byte arrives between a look and a wait (how the
//! queue works: progress.rs). It is held for moments, by connections' threads too; under it no disk is asked and no
//! waker called, and no other lock is taken but the cache of small bodies'. All other locks of an object come before it.
//!
//! *The snapshot.* Whether the object is whole, its length, and whether that is verified are repeated outside the lock,
//! so that a hit of a whole object takes none. `publish` alone writes them, under the lock, and `whole` last: who sees it
//! set sees the rest, and the bytes, which were written before.
//!
//! *The epoch.* Bytes that are here can go again: damage, a watched part that makes room, an in-flight write that fails.
//! First they are absent, in `progress` and in the snapshot; then the epoch rises, and the cached small body goes; then
//! the caller punches the body. A reader notes the epoch, looks, reads, and believes what it read only if the epoch is
//! the same. Had the epoch risen first, a reader could note the risen one, still find the bytes, and send a hole.
//!
//! *Room* is held here page by page, beside the bytes that it is for: a page goes when nothing in it is present.

use super::progress::{Availability, Broken, Progress, QueuePlace, WaitingAt};
use crate::api::ObjectState;
use crate::clock::Instant;
use crate::ranges::{ByteCount, ByteOffset, ByteRange, RangeSet};
use crate::store::read::small_bodies::SmallBodySlot;
use crate::store::space::quota::{pages, pages_of};
use crate::sync::lock;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Stands for `None` in `length`: no object is that long, since files end at 2^63 bytes.
const UNKNOWN: u64 = u64::MAX;

/// A copy of what `progress` says, for those who would not wait for its lock. Written by [`Presence::publish`] alone.
#[derive(Debug)]
struct Snapshot {
    /// Release, Acquire: who sees it set sees the next two fields, stored before it, and the bytes, written before it.
    whole: AtomicBool,
    /// Release, before `whole`; Acquire.
    unverified: AtomicBool,
    /// [`UNKNOWN`] where it is not known. Release, before `whole`; Acquire.
    length: AtomicU64,
}

/// The bytes of one generation, and its readers.
#[derive(Debug)]
pub struct Presence {
    snapshot: Snapshot,
    /// AcqRel, under `progress`: who loads the risen one (Acquire) finds the bytes absent; the body is touched later.
    epoch: AtomicU64,
    /// The cached body, which goes as soon as the epoch rises.
    small_body: Arc<SmallBodySlot>,
    /// Rung when a reader begins or ceases to wait.
    demand: Notify,
    /// Rung when a reader begins to wait: a session that has bytes which the disk does not take may listen.
    pub(in crate::store) pass_through_demand: Notify,
    /// Why bytes are forwarded unstored: 0 or a [`crate::store::PassThroughReason`]. Release, Acquire; orders nothing else.
    pub(in crate::store) pass_through: AtomicU8,
    /// The pass-through buffer holds bytes. Release under `progress`; Acquire, after a look that may have found some.
    pub(in crate::store) has_pass_through: AtomicBool,
    /// Bytes of it are in flight: being written, and held for readers until then. Release, Acquire, likewise.
    has_in_flight: AtomicBool,
    /// Present bytes and waiters: no byte arrives between a look and a wait. Under it no waker is called, no disk asked.
    progress: Mutex<Progress>,
}

impl Presence {
    /// A presence at its opening: what is recorded is present, and nobody waits.
    pub(in crate::store) fn recorded(
        durable: RangeSet,
        length: Option<u64>,
        unverified: bool,
        small_body: Arc<SmallBodySlot>,
    ) -> Self {
        let progress = Progress::recorded(durable, length, unverified);
        Self {
            snapshot: Snapshot {
                whole: AtomicBool::new(progress.is_whole()),
                unverified: AtomicBool::new(unverified),
                length: AtomicU64::new(length.unwrap_or(UNKNOWN)),
            },
            epoch: AtomicU64::new(0),
            small_body,
            demand: Notify::new(),
            pass_through_demand: Notify::new(),
            pass_through: AtomicU8::new(0),
            has_pass_through: AtomicBool::new(false),
            has_in_flight: AtomicBool::new(false),
            progress: Mutex::new(progress),
        }
    }

    /// The progress, locked: for this file and pass_through.rs alone, which decides presence too.
    pub(in crate::store) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// Repeats outside the lock what the progress says inside it.
    fn publish(&self, progress: &Progress) {
        let snapshot = &self.snapshot;
        let length = progress.length.unwrap_or(UNKNOWN);
        snapshot.length.store(length, Ordering::Release);
        snapshot.unverified.store(progress.unverified, Ordering::Release);
        snapshot.whole.store(progress.is_whole(), Ordering::Release);
    }

    /// To be called under the lock, before bytes that are here are touched.
    pub(in crate::store) fn raise_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.small_body.invalidate();
    }

    /// Rises whenever bytes that were here go. What was read is only to be believed where the epoch
    /// from before [`Presence::look`] still holds after the read.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The complete length in bytes, as soon as it is known.
    pub fn length(&self) -> Option<u64> {
        match self.snapshot.length.load(Ordering::Acquire) {
            UNKNOWN => None,
            length => Some(length),
        }
    }

    /// Whether every byte of a known length is here.
    pub fn is_whole(&self) -> bool {
        self.snapshot.whole.load(Ordering::Acquire)
    }

    /// How much is here.
    pub fn state(&self) -> ObjectState {
        match (self.is_whole(), self.snapshot.unverified.load(Ordering::Acquire)) {
            (false, _) => ObjectState::Incomplete,
            (true, false) => ObjectState::Complete,
            (true, true) => ObjectState::Unverified,
        }
    }

    /// The length, and whether the connection's end was its only sign: both from one moment.
    pub(in crate::store) fn length_and_doubt(&self) -> (Option<u64>, bool) {
        let progress = self.progress();
        (progress.length, progress.unverified)
    }

    /// The bytes that are stored.
    pub fn present(&self) -> RangeSet {
        self.progress().present.clone()
    }

    /// How many bytes are stored.
    pub fn present_bytes(&self) -> u64 {
        self.progress().present.total()
    }

    /// The bytes that readers may have now: those that are stored, and those that are being.
    pub fn available(&self) -> RangeSet {
        let progress = self.progress();
        let mut all = progress.present.clone();
        for range in progress.in_flight.ranges() {
            all.insert(range);
        }
        all
    }

    /// The presence at `at` now; `None` means absent, and the reader may wait with a [`crate::store::Watch`].
    pub fn look(&self, at: ByteOffset) -> Option<Availability> {
        if self.is_whole() {
            let length = self.length().unwrap_or_default();
            return Some(if at < length {
                Availability::Here(length)
            } else {
                Availability::End
            });
        }
        self.progress().look(at)
    }

    /// Whether every byte of the range is stored.
    pub fn covers(&self, range: ByteRange) -> bool {
        self.is_whole() || self.progress().present.covers(range)
    }

    /// The piece in memory that holds `at`, from there on, of bytes that are being written or pass through unstored.
    pub fn held(&self, at: ByteOffset) -> Option<Bytes> {
        if !self.has_pass_through() && !self.has_in_flight.load(Ordering::Acquire) {
            return None;
        }
        let progress = self.progress();
        let passing_through = || progress.pass_through.piece_at(at);
        progress.in_flight.piece_at(at).or_else(passing_through)
    }

    /// Where readers wait, in order.
    pub fn waiting(&self) -> Vec<WaitingAt> {
        self.progress().waiting()
    }

    /// When the reader that waits longest for its byte began to.
    pub fn longest_wait(&self) -> Option<Instant> {
        self.progress().longest_wait()
    }

    /// Rung when a reader begins or ceases to wait.
    pub fn demand(&self) -> &Notify {
        &self.demand
    }

    /// The presence at `at`, or a place in the queue; see [`Progress::poll`].
    pub(in crate::store) fn poll(
        &self,
        place: &mut Option<QueuePlace>,
        at: ByteOffset,
        asked: (ByteOffset, ByteOffset),
        cx: &Context<'_>,
    ) -> Poll<Availability> {
        if let Poll::Ready(found) = self.progress().poll(place, at, asked, cx) {
            return Poll::Ready(found);
        }
        // The owner and the sessions that this wakes look at the waiters, under the lock that was just released.
        self.demand.notify_one();
        self.wake_pass_through();
        Poll::Pending
    }

    /// Takes a reader out of the queue.
    pub(in crate::store) fn leave(&self, place: QueuePlace) {
        self.progress().leave(place);
        self.demand.notify_one();
    }

    /// Breaks the readers that have waited since `cutoff` or before: the upstream has failed too long.
    pub fn break_waiters(&self, why: &Broken, cutoff: Instant) {
        let woken = self.progress().break_waiters(why, cutoff);
        wake(woken);
    }

    /// Breaks all readers that need bytes which are absent, now and later.
    pub fn break_for_good(&self, why: Broken) {
        let woken = self.progress().break_for_good(why);
        wake(woken);
    }

    /// Fixes the length of an object whose reply named none: its framing ended after `length` bytes.
    ///
    /// `unverified` where closing the connection was the only sign of the end.
    pub fn end_at(&self, length: u64, unverified: bool) {
        let woken = {
            let mut progress = self.progress();
            // A length that is known is final: an end elsewhere is a cut, not a length.
            if progress.length.is_some_and(|known| known != length) {
                return;
            }
            progress.unverified = unverified;
            let woken = progress.ended_at(length);
            self.publish(&progress);
            woken
        };
        wake(woken);
    }

    /// The parts of the range that are not stored.
    pub(in crate::store) fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        self.progress().present.gaps(range).collect()
    }

    /// [`Presence::gaps`], where all pages of the range have room.
    pub(in crate::store) fn gaps_with_room(&self, range: ByteRange) -> Option<Vec<ByteRange>> {
        let progress = self.progress();
        let has_room = progress.held.covers(pages(range));
        has_room.then(|| progress.present.gaps(range).collect())
    }

    /// Bytes have been written to the body: they are present, and those who wait for them are woken.
    pub(in crate::store) fn arrived(&self, range: ByteRange) {
        let woken = {
            let mut progress = self.progress();
            let woken = progress.arrived(range);
            self.publish(&progress);
            woken
        };
        wake(woken);
    }

    /// The bytes of the range are absent, and the epoch has risen: the body may be touched.
    pub(in crate::store) fn make_absent(&self, range: ByteRange) {
        let mut progress = self.progress();
        progress.present.remove(range);
        progress.unsynced.remove(range);
        self.publish(&progress);
        // Last: who finds it risen finds the bytes absent, also without the lock.
        self.raise_epoch();
    }

    /// These runs are damaged: no reader finds them. A retraction of each is to follow, which forgets that they were to be
    /// synced.
    pub(in crate::store) fn make_damaged_absent(&self, runs: impl Iterator<Item = ByteRange>) {
        let mut progress = self.progress();
        runs.for_each(|run| {
            progress.present.remove(run);
        });
        self.publish(&progress);
        self.raise_epoch();
    }

    /// Bytes before `first` will not come again, and who waits for them is broken. Returns where what was dropped before
    /// ends.
    pub(in crate::store) fn drop_before(&self, first: ByteOffset) -> ByteOffset {
        let (before, woken) = self.progress().drop_before(first);
        wake(woken);
        before
    }

    /// Whether bytes are present that are not yet recorded.
    pub fn has_unrecorded(&self) -> bool {
        !self.progress().unsynced.is_empty()
    }

    /// How many bytes are present that are not yet recorded.
    pub fn unrecorded_bytes(&self) -> u64 {
        self.progress().unsynced.total()
    }

    /// Takes the set of what is not yet known to be on the disk, for a sync that begins after this.
    pub(in crate::store) fn take_unsynced(&self) -> RangeSet {
        std::mem::take(&mut self.progress().unsynced)
    }

    /// Puts a set back that was taken, and not recorded.
    pub(in crate::store) fn put_back_unsynced(&self, batch: &RangeSet) {
        let mut progress = self.progress();
        progress.unsynced.union(batch);
        // Bytes that were found damaged meanwhile are absent, and stay so.
        let gone: Vec<ByteRange> = batch.iter().flat_map(|run| progress.present.gaps(run)).collect();
        for gap in gone {
            progress.unsynced.remove(gap);
        }
    }

    /// Lets readers have pieces that are about to be written, and wakes those who wait for them. `handed` is called when
    /// they can be found, and before anybody is woken to take them.
    pub(in crate::store) fn publish_in_flight(
        &self,
        number: u64,
        range: ByteRange,
        pieces: &[Bytes],
        handed: impl FnOnce(),
    ) {
        let woken = {
            let mut progress = self.progress();
            if progress.in_flight.has_others(number, range) {
                // A shorter piece may hide a longer one of another session: a reader that has looked must look again.
                self.raise_epoch();
            }
            progress.in_flight.insert(number, range.start(), pieces);
            // Under the lock: a reader that finds the bytes by a look must find the flag too.
            self.has_in_flight.store(true, Ordering::Release);
            progress.take_waiters_in(range)
        };
        // Before the wakers: the session's position must be past these bytes when a reader asks for the next.
        handed();
        wake(woken);
    }

    /// Drops the pieces of an in-flight write that end at `at` or before: they are read from the body.
    pub(in crate::store) fn written_to(&self, number: u64, at: ByteOffset) {
        let mut progress = self.progress();
        progress.in_flight.drop_to(number, at);
        self.has_in_flight
            .store(!progress.in_flight.is_empty(), Ordering::Release);
    }

    /// Drops all pieces of an in-flight write: what was not written is absent again.
    pub(in crate::store) fn withdraw_in_flight(&self, number: u64) {
        let mut progress = self.progress();
        let is_written = progress
            .in_flight
            .ranges_of(number)
            .all(|range| progress.present.covers(range));
        // Bytes that are in the body stay present; for them the epoch need not rise.
        if !is_written {
            self.raise_epoch();
        }
        progress.in_flight.withdraw(number);
        self.has_in_flight
            .store(!progress.in_flight.is_empty(), Ordering::Release);
    }

    /// How many bytes of these pages have no room yet, and what `ahead` chooses beyond them at the same moment; `None`
    /// where all of them have.
    pub(in crate::store) fn missing_room(
        &self,
        pages: ByteRange,
        ahead: impl FnOnce(&Progress) -> Option<ByteRange>,
    ) -> Option<(ByteCount, Option<ByteRange>)> {
        let progress = self.progress();
        let new = pages.len() - progress.held.covered(pages);
        (new > 0).then(|| (new, ahead(&progress)))
    }

    /// The pages have room from now on; how many bytes of them had none.
    pub(in crate::store) fn hold_room(&self, pages: ByteRange) -> ByteCount {
        let mut progress = self.progress();
        let more = pages.len() - progress.held.covered(pages);
        progress.held.insert(pages);
        more
    }

    /// Pages that have room, and nothing in them.
    pub(in crate::store) fn spare_room(&self) -> Vec<ByteRange> {
        let progress = self.progress();
        let written = pages_of(&progress.present);
        let spare = progress
            .held
            .iter()
            .flat_map(|run| written.gaps(run).collect::<Vec<_>>());
        spare.collect()
    }

    /// The pages of the range were given back to the file system; how many bytes of room they had.
    pub(in crate::store) fn release_room(&self, pages: ByteRange) -> ByteCount {
        self.progress().held.remove(pages)
    }

    /// The room of all pages, in bytes.
    pub(in crate::store) fn held_bytes(&self) -> ByteCount {
        self.progress().held.total()
    }
}

/// Wakes readers: for who has released the lock.
pub(in crate::store) fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ObjectId;

    const PAGE: u64 = 4096;

    fn presence(length: Option<u64>) -> Presence {
        let id = ObjectId::from_bytes(&[7; 16]).expect("sixteen");
        Presence::recorded(
            RangeSet::new(),
            length,
            false,
            SmallBodySlot::new(&Arc::default(), id, 1),
        )
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).expect("not empty")
    }

    #[test]
    fn a_length_that_is_known_is_final() {
        let presence = presence(None);
        presence.arrived(range(0, 10));
        assert_eq!((presence.length(), presence.is_whole()), (None, false));
        presence.end_at(10, true);
        presence.end_at(20, false);
        assert_eq!((presence.length(), presence.is_whole()), (Some(10), true));
        assert_eq!(presence.state(), ObjectState::Unverified);
    }

    #[test]
    fn bytes_that_go_raise_the_epoch_and_are_not_synced() {
        let presence = presence(Some(100));
        presence.arrived(range(0, 100));
        let epoch = presence.epoch();
        presence.make_absent(range(50, 100));
        assert!(presence.epoch() > epoch && !presence.is_whole());
        assert_eq!(presence.take_unsynced().total(), 50);
        presence.put_back_unsynced(&RangeSet::from_iter([range(0, 100)]));
        assert_eq!(presence.unrecorded_bytes(), 50, "absent bytes are not recorded");
    }

    #[test]
    fn pages_that_two_writes_share_are_held_once() {
        let presence = presence(Some(100 * PAGE));
        assert_eq!(presence.hold_room(range(0, 2 * PAGE)), 2 * PAGE);
        assert_eq!(presence.hold_room(range(PAGE, 3 * PAGE)), PAGE);
        assert!(presence.gaps_with_room(range(10, 3 * PAGE)).is_some());
        assert!(presence.gaps_with_room(range(10, 3 * PAGE + 1)).is_none());
        presence.arrived(range(0, 10));
        assert_eq!(presence.spare_room(), [range(PAGE, 3 * PAGE)]);
        assert_eq!(presence.release_room(range(PAGE, 3 * PAGE)), 2 * PAGE);
        assert_eq!(presence.held_bytes(), PAGE);
    }
}
