//! The context that all fills share, with the map of fills under way.
//!
//! Each lock is held for moments, none over an await, and only `punching` over the disk. Order, where one is taken
//! under another: `punching`, `fills`; under `fills` the news and the readers of a fill, the store's map of open objects
//! and the head of an object are looked at. `hit_for_miss`, `distrusted` and `owners` are taken under no other lock, and
//! no other is taken under them.

use super::hit_for_miss::HitForMiss;
use super::runtimes::FillRuntimes;
use super::settings::FillSettings;
use super::state::FillState;
use crate::clock::Instant;
use crate::key::ObjectId;
use crate::live::Streams;
use crate::policy::NotStored;
use crate::store::Store;
use crate::sync::lock;
use crate::upstream::Client;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The context that all fills share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) store: Arc<Store>,
    pub(super) streams: Arc<Streams>,
    pub(super) client: Client,
    pub(super) settings: FillSettings,
    pub(super) threads: FillRuntimes,
    pub(super) stopping: watch::Sender<bool>,
    /// Counts the times that the machine has slept.
    pub(super) woken: watch::Sender<u64>,
    /// Held by the blocking thread that makes room inside objects, from the first attempt until the write has its room:
    /// over reads of the catalog, punches and writes, so for as long as the disk takes. One caller at a time, lest room
    /// for one piece is made twice. No async task takes it.
    pub(super) punching: Mutex<()>,
    /// The fills that readers may join, by object. Held for a look, an insertion or a removal; a reader counts itself
    /// under it, and `retire` looks at that count under it. Neither the disk nor an await is waited for under it.
    fills: Mutex<HashMap<ObjectId, Arc<FillState>>>,
    /// URLs whose replies are for one client each. Held for a look or an insertion; a full one is swept then, some
    /// thousand entries.
    hit_for_miss: Mutex<HitForMiss>,
    /// URLs under whose weak validators bytes have differed. Held like `hit_for_miss`.
    distrusted: Mutex<HitForMiss>,
    /// The tasks of all owners, for `stop` to wait for. Held while one is spawned and those that have ended are reaped;
    /// `stop` takes the set out, and waits without it.
    pub(super) owners: Mutex<JoinSet<()>>,
}

impl Context {
    pub(super) fn new(
        store: Arc<Store>,
        streams: Arc<Streams>,
        client: Client,
        settings: FillSettings,
        threads: FillRuntimes,
    ) -> Self {
        Self {
            store,
            streams,
            client,
            settings,
            threads,
            stopping: watch::Sender::new(false),
            woken: watch::Sender::new(0),
            punching: Mutex::default(),
            fills: Mutex::default(),
            hit_for_miss: Mutex::default(),
            distrusted: Mutex::default(),
            owners: Mutex::default(),
        }
    }

    pub(super) fn fills(&self) -> MutexGuard<'_, HashMap<ObjectId, Arc<FillState>>> {
        lock(&self.fills)
    }

    /// The fill goes on for the readers that have joined it: requests arriving after this are not coalesced.
    pub(super) fn set_apart(&self, shared: &Arc<FillState>, why: NotStored) {
        shared.detach_for(why);
        let id = shared.key.id();
        let mut fills = self.fills();
        if fills.get(&id).is_some_and(|held| Arc::ptr_eq(held, shared)) {
            fills.remove(&id);
        }
        drop(fills);
        if why.is_of_the_url() {
            self.hit_for_miss().note(id, Instant::now());
        }
    }

    /// A reply came that others may share.
    pub(super) fn set_shared(&self, shared: &FillState) {
        self.hit_for_miss().forget(shared.key.id());
    }

    pub(super) fn hit_for_miss(&self) -> MutexGuard<'_, HitForMiss> {
        lock(&self.hit_for_miss)
    }

    /// Bytes of the URL have differed under one weak tag and date: what these say is not believed for a while.
    pub(super) fn distrust(&self, id: ObjectId) {
        let mut distrusted = lock(&self.distrusted);
        distrusted.note(id, Instant::now());
    }

    /// Whether that is so.
    pub(super) fn distrusts(&self, id: ObjectId) -> bool {
        let distrusted = lock(&self.distrusted);
        distrusted.has(id, Instant::now())
    }

    /// Takes a fill off the map, unless it still has readers to serve.
    pub(super) fn retire(&self, shared: &Arc<FillState>, even_with_readers: bool) -> bool {
        let mut fills = self.fills();
        if !even_with_readers && shared.readers.are_here() {
            return false;
        }
        shared.set_over();
        let id = shared.key.id();
        if fills.get(&id).is_some_and(|held| Arc::ptr_eq(held, shared)) {
            fills.remove(&id);
        }
        true
    }
}
