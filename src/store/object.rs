//! One stored representation: its head, its body, and which bytes of it are here.
//!
//! An `Object` is one *generation* of a URL: all its bytes belong to one representation. When the upstream changes, a
//! new generation takes its place, and the old one is broken for readers that need more of it.
//!
//! ```text
//!      generation            create_apart                 write_missing   makes the files first
//!          ▼                       ▼                      write_inline    refuses while pending
//!       pending ─ discard ─▶ pending, discarded           commit          pending: nothing; made: syncs, records;
//!          │ materialize           │ materialize                          discarded: syncs, records nothing
//!          ▼                       ▼                      retract         absent, recorded where made, punched out
//!         made ── discard ──▶ made, discarded             confirm, expire the head in memory, then:
//!        │    ▲                    │                      record_use      recorded where made and not discarded
//!  closed▼    │reopened            ▼                      look, reads,    in every state
//!     record, files       dropped: all room back          waits, breaks
//! ```
//!
//! A pending object has nothing present. A discarded one is found by no later request, and its body has no name.
//! `materialized` and `discarded` are set once, under `recorded` or before others have the object.
//!
//! *The epoch.* Bytes that are here can go again (retract.rs): damage, or a watched part that makes room. First they
//! are absent, in `progress` and in the fields that repeat it; then the epoch rises; then the body is punched. A reader
//! notes the epoch, looks, reads, and believes what it read only if the epoch is the same. Had the epoch risen first, a
//! reader could note the risen one, still find the bytes, and send a hole.
//!
//! *The locks*, in their order: `digesting`, `recorded`, then `comparing` or `io`, then `arriving`, `unchecked`,
//! `first_sums` or `digest`, then `progress`. The first three are held over the disk, `io` is shared for one write or
//! `sendfile` and held alone to punch, the rest are held for moments, by connections' threads too. Wakers are called
//! with `progress` released; a write still shares `io` then, and a waker only queues its task.

use super::access_stats::{AccessStats, HitCounter};
use super::body::Body;
use super::context::StoreContext;
use super::current_head::CurrentHead;
use super::durability::{Durability, Files};
use super::hot_read::HotRead;
use super::integrity::Integrity;
use super::presence::{Broken, Presence, Progress, WaitingAt, wake};
use super::record::Record;
use super::representation::{Head, Joined, Representation};
use super::small_body::SmallBodySlot;
use super::space::pages_of;
use crate::api::ObjectState;
use crate::clock::unix_seconds;
use crate::header::EntityTag;
use crate::key::{ObjectId, ObjectKey};
use crate::ranges::{self, ByteOffset, ByteRange, RangeSet};
use crate::sync::lock;
use arc_swap::Guard;
use bytes::Bytes;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::Notify;

/// Stands for `None` in `known_length`: no object is that long, since files end at 2^63 bytes.
const UNKNOWN: u64 = u64::MAX;

/// One generation of one URL.
pub struct Object {
    pub(super) id: ObjectId,
    pub(super) url: String,
    pub(super) generation: u64,
    pub(super) created: u64,
    /// Whether evictions pass it over. Release, Acquire; orders nothing: it is loaded again under the map's lock.
    pinned: AtomicBool,
    head: CurrentHead,
    pub(super) durability: Durability,
    pub(super) integrity: Integrity,
    pub(super) hot: HotRead,
    pub(super) access: Arc<AccessStats>,
    pub(super) shared: Arc<StoreContext>,
    /// As `progress` says, for those who would not wait for its lock. Release, Acquire: who sees `whole` set sees the
    /// next two fields, stored before it, and the bytes, written before it.
    whole: AtomicBool,
    /// As `progress` says. Release, before `whole`; Acquire.
    unverified: AtomicBool,
    /// As `progress` says; [`UNKNOWN`] where it is not known. Release, before `whole`; Acquire.
    known_length: AtomicU64,
    demand: Notify,
    /// Rung when a reader begins to wait: a session that has bytes which the disk does not take may listen.
    pub(super) pass_through_demand: Notify,
    /// Why bytes are forwarded unstored: 0 or a [`super::PassThroughReason`]. Release, Acquire; orders nothing else.
    pub(super) pass_through: AtomicU8,
    /// The pass-through buffer holds bytes. Release under `progress`; Acquire, after a look that may have found some.
    pub(super) has_pass_through: AtomicBool,
    /// Bytes of it are in flight: being written, and held for readers until then. Release, Acquire, likewise.
    pub(super) has_in_flight: AtomicBool,
    /// AcqRel, under `progress`: who loads the risen one (Acquire) finds the bytes absent; the body is touched later.
    epoch: AtomicU64,
    /// Present bytes and waiters: no byte arrives between a look and a wait. Under it no waker is called, no disk asked.
    progress: Mutex<Progress>,
}

impl Object {
    /// A generation with nothing in it.
    pub(super) fn new(
        key: &ObjectKey,
        generation: u64,
        representation: Representation,
        body: Body,
        shared: Arc<StoreContext>,
    ) -> Self {
        let now = unix_seconds(shared.clock.now());
        let record = Record {
            url: key.url().to_owned(),
            generation,
            complete_length: representation.complete_length,
            unverified: false,
            representation,
            present: Vec::new(),
            created: now,
            validated: now,
            last_used: now,
            hits: 0,
            pinned: false,
            digest: None,
            manifest_bytes: 0,
        };
        let object = Self::from_record(key.id(), record, RangeSet::new(), body, shared);
        object.durability.set_materialized(false);
        object
    }

    /// The generation that `record` tells of; `durable` are the bytes of it that are really there.
    pub(super) fn from_record(
        id: ObjectId,
        record: Record,
        durable: RangeSet,
        body: Body,
        shared: Arc<StoreContext>,
    ) -> Self {
        let progress = Progress::recorded(durable.clone(), record.complete_length, record.unverified);
        let whole = progress.is_whole();
        let small_body = SmallBodySlot::new(&shared.small_bodies, id, record.generation);
        let clock = &*shared.clock;
        Self {
            id,
            access: Arc::new(AccessStats::of(&record)),
            head: CurrentHead::new(id, record.generation, record.representation, record.validated, clock),
            url: record.url,
            generation: record.generation,
            created: record.created,
            pinned: AtomicBool::new(record.pinned),
            integrity: Integrity::unchecked(&durable, record.digest),
            durability: Durability::recorded_as(body, durable, record.manifest_bytes, whole),
            hot: HotRead::new(small_body),
            shared,
            whole: AtomicBool::new(whole),
            unverified: AtomicBool::new(record.unverified),
            known_length: AtomicU64::new(record.complete_length.unwrap_or(UNKNOWN)),
            demand: Notify::new(),
            pass_through_demand: Notify::new(),
            pass_through: AtomicU8::new(0),
            has_pass_through: AtomicBool::new(false),
            has_in_flight: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            progress: Mutex::new(progress),
        }
    }

    /// The digest of the object's URL.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The canonical URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The number of this generation: later ones have greater numbers.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The upstream's head of it, as it stands now.
    pub fn head(&self) -> Guard<Arc<Head>> {
        self.head.load()
    }

    /// The same, for longer than a moment.
    pub fn representation(&self) -> Representation {
        self.head.load().representation.clone()
    }

    /// Whether later sessions may ask for ranges of it.
    pub fn has_ranges(&self) -> bool {
        self.head.load().representation.ranges
    }

    /// Whether its bytes are those of one exchange, and the upstream gives parts: a far position is then better asked
    /// for by an exchange of its own than waited for.
    pub fn gives_parts_apart(&self) -> bool {
        self.head.gives_parts_apart()
    }

    /// The upstream has given the whole where a part was asked for.
    pub fn note_without_parts(&self) {
        self.head.note_without_parts();
    }

    /// Bytes of another exchange were compared with its own, and join them.
    pub fn note_compared(&self) {
        let head = Arc::clone(&*self.head());
        if head.representation.joined == Joined::Proven {
            let mut representation = head.representation.clone();
            representation.joined = Joined::Compared;
            self.set_head(representation, head.validated);
        }
    }

    /// Whether it is a reply with another status than 200: what it says of the resource, none of its bytes.
    pub fn is_bare_response(&self) -> bool {
        self.head.load().representation.status != 200
    }

    /// Puts another head in the place of the one before.
    pub(super) fn set_head(&self, representation: Representation, validated: u64) {
        self.head.replace(representation, validated, &*self.shared.clock);
        self.hot.small_body().invalidate();
    }

    /// The tag that clients are given: strong, and the same from the first byte to the last. The upstream's own where
    /// that is strong (a client that sends `If-Match` with a weak one would get 412); else one that is made of the URL
    /// and of what the upstream says: so the parts that several exchanges bring of one film have one tag. Where it says
    /// nothing, the tag is made of the generation.
    pub fn etag(&self) -> &EntityTag {
        self.head.etag()
    }

    /// Whether clients are told the tag: not where the upstream says nothing and parts come by exchanges of their own. A
    /// player that sent one part's tag with its request for the next would be refused, and nothing tells that they match.
    pub fn shows_etag(&self) -> bool {
        self.head.shows_etag()
    }

    /// The complete length in bytes, as soon as it is known.
    pub fn length(&self) -> Option<u64> {
        match self.known_length.load(Ordering::Acquire) {
            UNKNOWN => None,
            length => Some(length),
        }
    }

    /// Whether every byte of a known length is here.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// How much is here.
    pub fn state(&self) -> ObjectState {
        match (self.is_whole(), self.unverified.load(Ordering::Acquire)) {
            (false, _) => ObjectState::Incomplete,
            (true, false) => ObjectState::Complete,
            (true, true) => ObjectState::Unverified,
        }
    }

    /// Rises whenever bytes that were here go. What was read is only to be believed where the epoch
    /// from before [`Object::look`] still holds after the read.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// To be called under the lock, before bytes that are here are touched.
    pub(super) fn raise_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.hot.small_body().invalidate();
    }

    /// Whether it was removed or replaced: later requests do not find it.
    pub fn is_discarded(&self) -> bool {
        self.durability.is_discarded()
    }

    /// Whether its files could be made; where not, its bytes only pass by.
    pub fn is_materialized(&self) -> bool {
        self.durability.is_materialized()
    }

    /// Whether the object is never to be evicted.
    pub fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Acquire)
    }

    pub(super) fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Release);
    }

    /// The SHA-256 of the complete representation, where it has been computed.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.integrity.digest()
    }

    /// Disk space of the object, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.progress().held.total() + self.durability.manifest_bytes()
    }

    /// The bytes that are stored.
    pub fn present(&self) -> RangeSet {
        self.progress().present.clone()
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

    /// How many bytes are stored.
    pub fn present_bytes(&self) -> u64 {
        self.progress().present.total()
    }

    /// The presence at `at` now; `None` means absent, and the reader may wait with a [`super::Watch`].
    pub fn look(&self, at: ByteOffset) -> Option<Presence> {
        if self.is_whole() {
            let length = self.length().unwrap_or_default();
            return Some(if at < length {
                Presence::Here(length)
            } else {
                Presence::End
            });
        }
        self.progress().look(at)
    }

    /// Whether every byte of the range is stored.
    pub fn covers(&self, range: ByteRange) -> bool {
        self.is_whole() || self.progress().present.covers(range)
    }

    /// Where readers wait, in order.
    pub fn waiting(&self) -> Vec<WaitingAt> {
        self.progress().waiting()
    }

    /// Rung when a reader begins or ceases to wait.
    pub fn demand(&self) -> &Notify {
        &self.demand
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

    /// Notes that the object answered a request at `now`, in seconds since 1970.
    pub fn touch(&self, now: u64) {
        self.access.add(now);
    }

    /// Where more answers are told than those that are noted here.
    pub fn hit_counter(&self) -> HitCounter {
        HitCounter(Arc::clone(&self.access))
    }

    /// When the object last answered a request, in seconds since 1970.
    pub fn last_used(&self) -> u64 {
        self.access.last()
    }

    /// When the upstream last said that this is its representation, in seconds since 1970.
    pub fn validated(&self) -> u64 {
        self.head.load().validated
    }

    /// When the reader that waits longest for its byte began to.
    pub fn longest_wait(&self) -> Option<Instant> {
        self.progress().longest_wait()
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

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// Repeats outside the lock what the progress says inside it.
    pub(super) fn mirror(&self, progress: &Progress) {
        self.known_length
            .store(progress.length.unwrap_or(UNKNOWN), Ordering::Release);
        self.unverified.store(progress.unverified, Ordering::Release);
        self.whole.store(progress.is_whole(), Ordering::Release);
    }

    pub(super) fn record(&self, durable: &RangeSet) -> Record {
        // First: a hit that is counted meanwhile must not pass for recorded.
        self.access.persisted();
        let (length, unverified) = {
            let progress = self.progress();
            (progress.length, progress.unverified)
        };
        Record {
            url: self.url.clone(),
            generation: self.generation,
            complete_length: length,
            unverified,
            representation: self.representation(),
            present: ranges::encode(durable),
            created: self.created,
            validated: self.validated(),
            last_used: self.last_used(),
            hits: self.access.hits(),
            pinned: self.is_pinned(),
            digest: self.digest(),
            manifest_bytes: self.durability.manifest_bytes(),
        }
    }

    /// Room that was taken for pages that no record speaks of: what a failing disk left.
    pub(super) fn unrecorded_room(&self) -> u64 {
        let recorded = pages_of(&self.durability.recorded()).total();
        self.progress().held.total().saturating_sub(recorded)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.hot.small_body().invalidate();
        let room = if self.durability.files() != Files::Made {
            // A removed file keeps its disk space until its last descriptor closes.
            self.disk_bytes()
        } else {
            // The next opening goes by the record, which knows nothing of this room.
            let room = self.unrecorded_room();
            if room > 0 {
                self.shared.is_exact.store(false, Ordering::Release);
            }
            room
        };
        self.shared.space.release(room);
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("url", &self.url)
            .field("generation", &self.generation)
            .field("present", &self.present_bytes())
            .finish_non_exhaustive()
    }
}
