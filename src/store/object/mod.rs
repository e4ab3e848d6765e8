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
//! *The parts.* Each owns its fields, its locks and the essay about them, and knows no object:
//!
//! | part | owns |
//! |---|---|
//! | [`CurrentHead`] | the head as it stands, the tag that clients are given |
//! | [`Presence`] | which bytes are here, who waits; the epoch, the length; what is in flight or passes through; room |
//! | [`Durability`] | the files, the record's set of bytes, the lock against holes |
//! | [`Integrity`] | sums of what arrives, blocks that are unchecked, the digest |
//! | [`HotRead`] | the cached small body, the residency probe |
//! | [`AccessStats`] | hits, and when the last was |
//!
//! The steps that need several of them are in the files above this one: body_writes.rs and commit.rs make bytes present and
//! durable, retract.rs and damage.rs make them absent, source.rs reads them, reservation.rs takes room for them.
//!
//! *The locks*, in their order: the digest's right (`digesting`), the record (`recorded`), then the comparison
//! (`comparing`) or the lock against holes (`io`), then the sums' own, then the presence's `progress`. The first four are
//! held over the disk, the rest for moments, by connections' threads too. Wakers are called with `progress` released; a
//! write still shares `io` then, and a waker only queues its task.

pub(super) mod access_stats;
pub(super) mod current_head;
pub(super) mod durability;
pub(super) mod presence;
pub(super) mod progress;
pub(super) mod representation;

use super::body_file::Body;
use super::catalog::record::Record;
use super::context::StoreContext;
use super::integrity::object_integrity::Integrity;
use super::read::hot_read::HotRead;
use super::read::small_bodies::SmallBodySlot;
use super::space::quota::pages_of;
use crate::clock::unix_seconds;
use crate::header::EntityTag;
use crate::key::{ObjectId, ObjectKey};
use crate::ranges::{self, RangeSet};
use access_stats::{AccessStats, HitCounter};
use arc_swap::Guard;
use current_head::CurrentHead;
use durability::{Durability, Files};
use presence::Presence;
use representation::{Head, Joined, Representation};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One generation of one URL.
pub struct Object {
    pub(super) id: ObjectId,
    pub(super) url: String,
    pub(super) generation: u64,
    pub(super) created: u64,
    /// Whether evictions pass it over. Release, Acquire; orders nothing: it is loaded again under the map's lock.
    pinned: AtomicBool,
    head: CurrentHead,
    pub(super) presence: Presence,
    pub(super) durability: Durability,
    pub(super) integrity: Integrity,
    pub(super) hot: HotRead,
    pub(super) access: Arc<AccessStats>,
    pub(super) shared: Arc<StoreContext>,
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
        let small_body = SmallBodySlot::new(&shared.small_bodies, id, record.generation);
        let (length, unverified) = (record.complete_length, record.unverified);
        let presence = Presence::recorded(durable.clone(), length, unverified, Arc::clone(&small_body));
        let is_whole = presence.is_whole();
        let clock = &*shared.clock;
        Self {
            id,
            access: Arc::new(AccessStats::of(&record)),
            head: CurrentHead::new(id, record.generation, record.representation, record.validated, clock),
            url: record.url,
            generation: record.generation,
            created: record.created,
            pinned: AtomicBool::new(record.pinned),
            presence,
            integrity: Integrity::unchecked(&durable, record.digest),
            durability: Durability::recorded_as(body, durable, record.manifest_bytes, is_whole),
            hot: HotRead::new(small_body),
            shared,
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
    pub(super) fn note_compared(&self) {
        let head = Arc::clone(&*self.head());
        if head.representation.joined == Joined::Proven {
            let mut representation = head.representation.clone();
            representation.joined = Joined::Compared;
            self.set_head(representation, head.validated);
        }
    }

    /// Bytes or a word of the upstream's came by a client's credentials: from now on each client is to be allowed it.
    pub(super) fn guard(&self) {
        let head = Arc::clone(&*self.head());
        if !head.representation.is_guarded {
            let mut representation = head.representation.clone();
            representation.is_guarded = true;
            self.set_head(representation, head.validated);
        }
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

    /// Which bytes are here, and who waits.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The complete length in bytes, as soon as it is known.
    pub fn length(&self) -> Option<u64> {
        self.presence.length()
    }

    /// Whether every byte of a known length is here.
    pub fn is_whole(&self) -> bool {
        self.presence.is_whole()
    }

    /// Whether it was removed or replaced: later requests do not find it.
    pub fn is_discarded(&self) -> bool {
        self.durability.is_discarded()
    }

    /// Whether its files could be made; where not, its bytes only pass by.
    pub(super) fn is_materialized(&self) -> bool {
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
    pub(super) fn disk_bytes(&self) -> u64 {
        self.presence.held_bytes() + self.durability.manifest_bytes()
    }

    /// The memory that the head of the object takes, in bytes, as far as its upstream decides how much that is.
    pub(super) fn head_bytes(&self) -> usize {
        let head = self.head();
        let representation = head.representation();
        let selected = representation.selected_by.iter();
        let selected: usize = selected.map(|(name, value)| name.len() + value.len()).sum();
        self.url.len() + representation.header_bytes() + selected
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
    pub(super) fn last_used(&self) -> u64 {
        self.access.last()
    }

    /// When the upstream last said that this is its representation, in seconds since 1970.
    pub(super) fn validated(&self) -> u64 {
        self.head.load().validated
    }

    pub(super) fn record(&self, durable: &RangeSet) -> Record {
        // First: a hit that is counted meanwhile must not pass for recorded.
        self.access.persisted();
        let (length, unverified) = self.presence.length_and_doubt();
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
        self.presence.held_bytes().saturating_sub(recorded)
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
            .field("present", &self.presence.present_bytes())
            .finish_non_exhaustive()
    }
}
