//! The registry of fills: one fill for each object, however many readers come.
//!
//! The map of fills (`Context::fills`, by object id) has the fills that another reader may join. Where a fill is in its
//! life is told by that map and by two flags of its state:
//!
//! ```text
//! join, none in the map                   join_alone, join_apart, detach_request
//!       │ insert, count the reader                       │ never in the map
//!       ▼                                                ▼
//!    shared ──────── set_apart, detach ────────────► detached    no other reader joins it;
//!       │    (one client's reply; a purge)               │       those that have joined go on
//!       │                                                │
//!       └── retire: no reader is counted, the object ────┤
//!           is whole, or the fill has failed             ▼
//!                                                      over      brings nothing more: a reader
//!                                                                that lacks bytes joins another
//! ```
//!
//! `join` does four things under the lock of the map: it finds a fill that is open to the wish, or begins one; looks
//! once more for the object in the store; makes the owner; counts the reader. `retire` looks at that count under the
//! same lock, sets `over` and removes the fill. From this follows what readers rely on:
//!
//! - A reader that joins is counted by a fill that is not over. Were it counted after the lock, the fill could retire
//!   in between, and the reader would wait for bytes that nobody brings.
//! - A fill that is over is not found. A reader that meets one (`Cursor::is_over`) joins again, and begins the next.
//! - An object is not fetched twice. The fill that stored it may have retired between a reader's look into the store
//!   and its join; its object was stored before it left the map, so the second look finds it open.
//! - One owner at a time plans for an object that others may find. A detached fill has an object of its own, or serves
//!   out the readers of one that was purged. A fill whose object is whole is only winding up, and the next may take its
//!   place in the map: `retire` and `set_apart` remove a fill only where it is the one that is there.
//!
//! The owner's task is spawned last, when the reader's wish, place and hint are noted: the task may run at once on
//! another thread, and a fill that knows of no wish would end.
//!
//! Order of locks: `fills` first. Under it a fill's phase, the store's map of open objects and an object's head are
//! looked at; the disk, an upstream and an await are not waited for. A reader's wish is noted after it is released.

use super::AfterLastReader;
use super::context::Context;
use super::cursor::Cursor;
use super::owner::{Owner, Start};
use super::position::ReaderPosition;
use super::relay::DetachedRequest;
use super::runtimes::FillRuntimes;
use super::state::FillState;
use crate::api::FillSummary;
use crate::key::ObjectId;
use crate::live::{Stream, Streams};
use crate::policy::selects;
use crate::ranges::ByteOffset;
use crate::store::{Object, PurgeScope, Representation, Store};
use crate::sync::lock;
use crate::upstream::{Client, Span, Target, UpstreamError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use url::Url;

/// How fills behave.
#[derive(Debug, Clone)]
pub struct FillSettings {
    /// The most upstream connections one object may have at once.
    pub sessions_per_object: usize,
    /// How long readers are held while the upstream fails, before their connections are broken.
    pub hold_limit: Duration,
    /// The longest that a reader waits for the upstream to confirm a stale object.
    pub revalidate_wait: Duration,
    /// The policy for a fill whose last reader has left.
    pub after_last_reader: AfterLastReader,
    /// How far ahead of a reader is fetched, in time at its own rate; `None` is all.
    pub read_ahead: Option<Duration>,
    /// Where redirects of what has relative names in it are told to the client.
    pub served: Served,
}

/// The wish of a reader that joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The head only: no byte need be fetched for it.
    Head,
    /// Bytes, first these.
    Bytes(Span),
    /// These bytes, and no others: they may be brought by an exchange of their own, whose part is joined to nothing.
    Only(Span),
    /// Whether what is stored is still that of the upstream.
    Validity {
        /// The bytes of the one that has taken its place are wanted too.
        bytes: bool,
    },
    /// Bytes of a new generation: the stored one may not be reused.
    Anew(Span),
    /// [`Want::Only`] of a new generation.
    OnlyAnew(Span),
    /// [`Want::Only`], where a fill of the whole is known to be far from them: see [`Registry::join_apart`].
    Apart(Span),
}

impl Want {
    fn is_for_bytes(self) -> bool {
        self.span().is_some() || matches!(self, Self::Validity { bytes: true })
    }

    /// The first bytes that are wanted.
    pub(super) fn span(self) -> Option<Span> {
        match self {
            Self::Bytes(span) | Self::Only(span) | Self::Anew(span) | Self::OnlyAnew(span) | Self::Apart(span) => {
                Some(span)
            }
            Self::Head | Self::Validity { .. } => None,
        }
    }

    pub(super) fn is_anew(self) -> bool {
        matches!(self, Self::Validity { .. } | Self::Anew(_) | Self::OnlyAnew(_))
    }
}

/// How far a fill has come.
#[derive(Debug, Clone)]
pub enum Phase {
    /// The upstream has not answered yet.
    Opening,
    /// The representation is known; its bytes are here or on their way.
    Ready(Arc<Object>),
    /// The upstream answered with a status that brings no bytes.
    Refused(Arc<Refusal>),
    /// The upstream gave no answer.
    Failed(Arc<UpstreamError>),
    /// The upstream is left alone for so long: it asked for that, or is known to be down.
    Resting(Duration),
    /// The URL redirects to a document with relative names in it, so the client must know where that is.
    Redirected(Arc<Moved>),
    /// The upstream gives no parts: what is wanted comes with the whole.
    WithoutParts,
    /// The store could not take the object.
    Disk(Arc<str>),
    /// The server is stopping.
    Stopping,
}

/// Where an upstream's redirects lead.
#[derive(Debug, PartialEq, Eq)]
pub struct Moved {
    /// The status of the first.
    pub status: u16,
    /// The end of the way.
    pub url: Url,
}

/// Which URLs a client can be sent to: those that are served here.
#[derive(Clone)]
pub struct Served(Arc<dyn Fn(&Url) -> bool + Send + Sync>);

impl Served {
    /// The URLs of which `is_served` is true.
    pub fn new(is_served: impl Fn(&Url) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_served))
    }

    pub(super) fn has(&self, url: &Url) -> bool {
        (self.0)(url)
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Served")
    }
}

/// An upstream's answer that is not the object.
#[derive(Debug)]
pub struct Refusal {
    /// The status: 4xx, 5xx, or another that is neither a success nor a redirect.
    pub status: u16,
    /// The end-to-end fields of the answer.
    pub headers: Vec<(String, String)>,
    /// `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// The same as a length of time.
    pub rest: Option<Duration>,
    /// The start of its body.
    pub body: bytes::Bytes,
    /// The complete length, in a 416.
    pub complete_length: Option<u64>,
}

/// Why a fill makes no progress at the moment.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// The failure, in words.
    pub what: Arc<str>,
    /// The upstream's answer, where there was one, with the bytes it was an answer for: from the first
    /// up to, not including, the second.
    pub refusal: Option<(Arc<Refusal>, ByteOffset, ByteOffset)>,
}

impl Trouble {
    /// The upstream's answer to a request for the byte at `at`.
    pub fn refusal_of(&self, at: ByteOffset) -> Option<Arc<Refusal>> {
        let (refusal, from, to) = self.refusal.as_ref()?;
        (*from <= at && at < *to).then(|| Arc::clone(refusal))
    }
}

/// All fills under way.
#[derive(Debug, Clone)]
pub struct Registry {
    context: Arc<Context>,
}

impl Registry {
    /// A registry without fills, whose tasks run on `threads`.
    pub fn new(
        store: Arc<Store>,
        streams: Arc<Streams>,
        client: Client,
        settings: FillSettings,
        threads: FillRuntimes,
    ) -> Self {
        let context = Context::new(store, streams, client, settings, threads);
        Self {
            context: Arc::new(context),
        }
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Joins the fill of `target`, starting it if there is none; `known` is what the store has of it.
    pub fn join(&self, target: &Arc<Target>, want: Want, known: Option<Arc<Object>>) -> Cursor {
        let wants_bytes = want.is_for_bytes();
        let mut fills = self.context.fills();
        let running = fills
            .get(&target.key.id())
            .filter(|shared| shared.is_open_to(want))
            .cloned();
        let collapsed = running.is_some();
        let mut begins = None;
        let shared = running.unwrap_or_else(|| {
            let shared = Arc::new(FillState::new(Arc::clone(target), wants_bytes));
            fills.insert(target.key.id(), Arc::clone(&shared));
            // An object that was purged since its look-up is not filled for later readers.
            let known = known.filter(|object| !object.is_discarded());
            // An object that was absent at the look-up may have been stored since, by a fill that is over.
            let known = known.or_else(|| self.brought_since(target));
            begins = Some(Owner::new(Arc::clone(&self.context), Arc::clone(&shared), known));
            shared
        });
        // Under the lock: `retire` looks at the count under it.
        shared.count_reader();
        drop(fills);
        // Not under the lock of the fills: the target has one of its own.
        if collapsed {
            shared.renew(target);
        }
        if let Some(span) = want.span() {
            let wish = match span {
                Span::From(start) => Some((start, u64::MAX)),
                Span::Range(range) => Some((range.start(), range.end())),
                Span::Whole | Span::Suffix(_) => None,
            };
            if let Some((start, end)) = wish {
                shared.hint.store(start, Ordering::Relaxed);
                let mut access = lock(&shared.access);
                access.note(start, end);
            }
        }
        let first_bytes = wants_bytes && !shared.bytes_wanted.swap(true, Ordering::AcqRel);
        if first_bytes || shared.renewed.load(Ordering::Acquire) {
            shared.changed.notify_one();
        }
        // Until it has taken its first bytes its place is what it asked for; where that is not known
        // yet, anywhere.
        let (start, end) = match want.span() {
            Some(Span::From(start)) => (start, u64::MAX),
            Some(Span::Range(range)) => (range.start(), range.end()),
            _ => (0, u64::MAX),
        };
        let cursor = self.cursor(shared, ReaderPosition::new(start, end, Instant::now()), collapsed);
        if let Some(owner) = begins {
            // When all that it goes by is there: on a busy machine it may be far before this thread goes on, and would
            // find that nobody wants what it has just begun to fetch.
            self.spawn(owner, Start::Want(want));
        }
        cursor
    }

    /// The open object of the target. A request that does not select the leader of its URL must find that there is
    /// one, and ask for a variant; a variant that it does not select is of no use.
    fn brought_since(&self, target: &Target) -> Option<Arc<Object>> {
        let object = self.context.store.resident(&target.key)?;
        let head = object.head();
        let representation = head.representation();
        let suits = || selects(&representation.selected_by, representation, target.fields.as_slice());
        let is_of_use = target.variant.is_none() || suits();
        drop(head);
        is_of_use.then_some(object)
    }

    fn cursor(&self, shared: Arc<FillState>, position: ReaderPosition, collapsed: bool) -> Cursor {
        let position = Arc::new(position);
        shared.add_position(&position);
        Cursor {
            shared,
            context: Arc::clone(&self.context),
            position,
            collapsed,
        }
    }

    /// A fill for one reader: no other joins it, and no other request finds its object.
    pub fn join_alone(&self, target: &Arc<Target>, want: Want) -> Cursor {
        let shared = Arc::new(FillState::new(Arc::clone(target), want.is_for_bytes()));
        shared.detached.store(true, Ordering::Release);
        shared.count_reader();
        let owner = Owner::new(Arc::clone(&self.context), Arc::clone(&shared), None);
        let cursor = self.cursor(shared, ReaderPosition::new(0, u64::MAX, Instant::now()), false);
        self.spawn(owner, Start::Want(want));
        cursor
    }

    /// Bytes by an exchange of their own: the fill of the whole is far from them, and what other exchanges bring is not
    /// joined to what it brings. Comes to [`Phase::WithoutParts`] where the upstream gives the whole all the same.
    pub fn join_apart(&self, target: &Arc<Target>, span: Span) -> Cursor {
        self.join_alone(target, Want::Apart(span))
    }

    /// Sends a request that must not die with its client: what comes of it is logged as `stream`, whoever reads.
    pub fn detach_request(&self, target: &Arc<Target>, sending: DetachedRequest, stream: &Arc<Stream>) {
        let shared = Arc::new(FillState::new(Arc::clone(target), true));
        shared.set_stream(stream);
        let owner = Owner::new(Arc::clone(&self.context), shared, None);
        self.spawn(owner, Start::Send(Box::new(sending)));
    }

    /// All streams.
    pub fn streams(&self) -> &Arc<Streams> {
        &self.context.streams
    }

    /// Whether the latest reply of that URL was for one client alone, so that coalescing with the next would be in vain.
    pub fn is_hit_for_miss(&self, id: ObjectId) -> bool {
        self.context.hit_for_miss().has(id, Instant::now())
    }

    pub(super) fn store(&self) -> &Store {
        &self.context.store
    }

    /// The object of that id was purged: requests arriving after this are not coalesced with its fill.
    pub(super) fn detach(&self, id: ObjectId) {
        if let Some(shared) = self.context.fills().remove(&id) {
            shared.detached.store(true, Ordering::Release);
            shared.changed.notify_one();
        }
    }

    /// [`Registry::detach`] for all objects that are meant.
    pub(super) fn detach_all(&self, which: &PurgeScope) {
        let meant = |shared: &FillState| match Context::object(shared) {
            Some(object) => which.means(object.url(), object.head().representation()),
            None => which.means(shared.key.url(), &Representation::default()),
        };
        // The ids first: `detach` takes the lock for each.
        let ids: Vec<ObjectId> = {
            let fills = self.context.fills();
            let meant = fills.iter().filter(|(_, shared)| meant(shared));
            meant.map(|(id, _)| *id).collect()
        };
        ids.into_iter().for_each(|id| self.detach(id));
    }

    /// The machine has slept: connections are dead that do not know it.
    pub fn woke(&self) {
        self.context.woken.send_modify(|times| *times += 1);
    }

    /// All fills as they stand, in the order of their ids.
    pub fn list(&self) -> Vec<FillSummary> {
        let mut fills: Vec<(ObjectId, Arc<FillState>)> = {
            let held = self.context.fills();
            held.iter().map(|(id, shared)| (*id, Arc::clone(shared))).collect()
        };
        fills.sort_unstable_by_key(|(id, _)| *id);
        fills.iter().map(|(_, shared)| self.context.summary(shared)).collect()
    }

    fn spawn(&self, owner: Owner, start: Start) {
        let mut owners = lock(&self.context.owners);
        // A set keeps its ended tasks until they are asked for.
        while owners.try_join_next().is_some() {}
        let thread = owner.thread().clone();
        owners.spawn_on(owner.run(start), &thread);
    }

    /// How many fills are under way.
    pub fn len(&self) -> usize {
        self.context.fills().len()
    }

    /// Whether no fill is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all fills: sessions stop, progress is recorded, readers that wait are broken.
    pub async fn stop(&self) {
        self.context.stopping.send_replace(true);
        let mut owners = {
            let mut held = lock(&self.context.owners);
            std::mem::take(&mut *held)
        };
        // Outside the lock, which no task may hold over an await. A fill that begins meanwhile sees the order, and
        // ends.
        while owners.join_next().await.is_some() {}
    }
}
