//! The registry of fills: one fill for each object, however many readers come.
//!
//! The map of fills (`Context::fills`, by object id) has the fills that another reader may join. Where a fill is in its
//! life is told by that map, by `FillState::is_detached` and by `FillState::is_over`:
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
//! `join` does four things under the lock of the map: it finds a fill that is open to the asked, or begins one; looks
//! once more for the object in the store; makes the owner; counts the reader. `retire` looks at that count under the
//! same lock, says that the fill is over and removes it. From this follows what readers rely on:
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
//! The owner's task is spawned last, when the reader is among the readers: the task may run at once on another thread,
//! and a fill that knows of no demand would end.
//!
//! Order of locks: `fills` first. Under it a fill's news, its readers, the store's map of open objects and an object's
//! head are looked at; the disk, an upstream and an await are not waited for.

use super::context::Context;
use super::join_request::JoinRequest;
use super::owner::{Owner, Start};
use super::patron::Patron;
use super::reader::cursor::Cursor;
use super::reader::position::ReaderPosition;
use super::relay::request_body::DetachedRequest;
use super::runtimes::FillRuntimes;
use super::settings::FillSettings;
use super::state::FillState;
use crate::api::FillSummary;
use crate::clock::Instant;
use crate::key::ObjectId;
use crate::live::{Stream, Streams};
use crate::policy::selects;
use crate::store::{Object, PurgeScope, Representation, Store};
use crate::sync::lock;
use crate::upstream::{Client, Span, Target};
use std::sync::Arc;

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
    pub fn join(&self, target: &Arc<Target>, join: JoinRequest, known: Option<Arc<Object>>) -> Cursor {
        let wants_bytes = join.is_for_bytes();
        let asked = match join.span() {
            Some(Span::From(start)) => Some((start, u64::MAX)),
            Some(Span::Range(range)) => Some((range.start(), range.end())),
            Some(Span::Whole | Span::Suffix(_)) | None => None,
        };
        // Until the reader has taken its first bytes its place is what it asked for; where that is not known yet,
        // anywhere.
        let position = ReaderPosition::wanting(asked);
        let count = |shared: &FillState| shared.readers.come(&position, asked, wants_bytes);
        let (shared, collapsed, begins) = self.enter(target, join, known, count);
        let cursor = self.cursor(shared, position, collapsed);
        if let Some(owner) = begins {
            // When all that it goes by is there: on a busy machine it may be far before this thread goes on, and would
            // find that nobody wants what it has just begun to fetch.
            self.spawn(owner, Start::Join(join));
        }
        cursor
    }

    /// Has the object of `target` brought whole, for a mirror: after everything that readers want.
    pub fn bring_whole(&self, target: &Arc<Target>, join: JoinRequest, known: Option<Arc<Object>>) -> Patron {
        let count = |shared: &FillState| {
            shared.readers.patronize();
            true
        };
        let (shared, _, begins) = self.enter(target, join, known, count);
        let patron = Patron::of(shared);
        if let Some(owner) = begins {
            self.spawn(owner, Start::Join(join));
        }
        patron
    }

    /// Finds the fill of `target`, or makes one, whose owner is then returned to be spawned; `count` counts the one who
    /// comes, and says whether the owner is to hear of that. Also whether the fill was under way.
    fn enter(
        &self,
        target: &Arc<Target>,
        join: JoinRequest,
        known: Option<Arc<Object>>,
        count: impl FnOnce(&FillState) -> bool,
    ) -> (Arc<FillState>, bool, Option<Owner>) {
        let mut fills = self.context.fills();
        let running = fills
            .get(&target.key.id())
            .filter(|shared| shared.is_open_to(join))
            .cloned();
        let collapsed = running.is_some();
        let mut begins = None;
        let shared = running.unwrap_or_else(|| {
            let shared = Arc::new(FillState::new(Arc::clone(target), join.is_for_bytes()));
            fills.insert(target.key.id(), Arc::clone(&shared));
            // An object that was purged since its look-up is not filled for later readers.
            let known = known.filter(|object| !object.is_discarded());
            // An object that was absent at the look-up may have been stored since, by a fill that is over.
            let known = known.or_else(|| self.brought_since(target));
            begins = Some(Owner::new(Arc::clone(&self.context), Arc::clone(&shared), known));
            shared
        });
        // Under the lock: `retire` looks at the count under it.
        let is_news = count(&shared);
        drop(fills);
        // Not under the lock of the fills, which is looked at by all: URLs are compared.
        let renewed = collapsed && shared.targets.renew(target);
        if is_news || renewed {
            shared.readers.ring();
        }
        (shared, collapsed, begins)
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

    fn cursor(&self, shared: Arc<FillState>, position: Arc<ReaderPosition>, collapsed: bool) -> Cursor {
        Cursor {
            shared,
            context: Arc::clone(&self.context),
            position,
            collapsed,
        }
    }

    /// A fill for one reader: no other joins it, and no other request finds its object.
    pub fn join_alone(&self, target: &Arc<Target>, join: JoinRequest) -> Cursor {
        let shared = Arc::new(FillState::new(Arc::clone(target), join.is_for_bytes()));
        shared.detach();
        let position = ReaderPosition::wanting(None);
        shared.readers.come(&position, None, join.is_for_bytes());
        let owner = Owner::new(Arc::clone(&self.context), Arc::clone(&shared), None);
        let cursor = self.cursor(shared, position, false);
        self.spawn(owner, Start::Join(join));
        cursor
    }

    /// Bytes by an exchange of their own: the fill of the whole is far from them, and what other exchanges bring is not
    /// joined to what it brings. Comes to [`Phase::WithoutParts`](super::Phase::WithoutParts) where the upstream gives the whole all the same.
    pub fn join_apart(&self, target: &Arc<Target>, span: Span) -> Cursor {
        self.join_alone(target, JoinRequest::Apart(span))
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
            shared.detach();
            shared.readers.ring();
        }
    }

    /// [`Registry::detach`] for all objects that are meant.
    pub(super) fn detach_all(&self, which: &PurgeScope) {
        let meant = |shared: &FillState| match shared.object() {
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
