//! One fill per object, however many readers come, and the handle that readers hold.
//!
//! Lock: `fills`, held for moments. A fill leaves the map under it, and only while nobody has
//! joined, so a reader either finds the living fill or starts the next.

use super::AfterLastReader;
use super::meter::Meter;
use super::owner::Owner;
use crate::key::ObjectId;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::{Object, Store};
use crate::upstream::{Client, Span, Target, UpstreamError};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// How fills behave.
#[derive(Debug, Clone)]
pub struct FillSettings {
    /// The most upstream connections one object may have at once.
    pub sessions_per_object: usize,
    /// How long readers are held while the upstream fails, before their connections are broken.
    pub hold_limit: Duration,
    /// The longest that a reader waits for the upstream to confirm a stale object.
    pub revalidate_wait: Duration,
    /// What to do when the last reader has left.
    pub after_last_reader: AfterLastReader,
}

/// What a reader that joins is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The head only: no byte need be fetched for it.
    Head,
    /// Bytes, first these.
    Bytes(Span),
    /// Whether a complete object is still that of the upstream.
    Validity,
    /// Bytes of a new generation: the stored one may not be reused.
    Anew(Span),
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
    /// The store could not take the object.
    Disk(Arc<str>),
    /// The server is stopping.
    Stopping,
}

/// An upstream's answer that is not the object.
#[derive(Debug)]
pub struct Refusal {
    /// The status: 4xx, 5xx, or another that is neither a success nor a redirect.
    pub status: u16,
    /// Its end-to-end fields.
    pub headers: Vec<(String, String)>,
    /// `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// The start of its body.
    pub body: bytes::Bytes,
    /// The complete length, in a 416.
    pub complete_length: Option<u64>,
}

/// Why a fill makes no progress at the moment.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What happened, in words.
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

/// What a fill shares with its readers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) target: Target,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) trouble: watch::Sender<Option<Trouble>>,
    pub(super) readers: AtomicUsize,
    /// Somebody has asked for bytes, so completing the object is worth while.
    pub(super) bytes_wanted: AtomicBool,
    /// Where readers were last: the holes after it are filled first.
    pub(super) hint: AtomicU64,
    /// Rung when a reader joins or leaves.
    pub(super) changed: Notify,
    pub(super) meter: Arc<Mutex<Meter>>,
}

impl Shared {
    fn new(target: Target, bytes_wanted: bool) -> Self {
        Self {
            target,
            phase: watch::Sender::new(Phase::Opening),
            trouble: watch::Sender::new(None),
            readers: AtomicUsize::new(0),
            // Set before the owner starts: it must not take the first reader for one of the head.
            bytes_wanted: AtomicBool::new(bytes_wanted),
            hint: AtomicU64::new(0),
            changed: Notify::new(),
            meter: Arc::new(Mutex::new(Meter::new(Instant::now()))),
        }
    }

    /// A fill that has brought its object whole is only winding up: it cannot revalidate or begin anew.
    fn is_open_to(&self, want: Want) -> bool {
        match (&*self.phase.borrow(), want) {
            (Phase::Ready(object), Want::Validity | Want::Anew(_)) => !object.is_whole(),
            _ => true,
        }
    }
}

/// What all fills share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) store: Arc<Store>,
    pub(super) client: Client,
    pub(super) settings: FillSettings,
    pub(super) runtime: Handle,
    pub(super) stopping: watch::Sender<bool>,
    fills: Mutex<HashMap<ObjectId, Arc<Shared>>>,
    owners: Mutex<JoinSet<()>>,
}

impl Context {
    fn fills(&self) -> MutexGuard<'_, HashMap<ObjectId, Arc<Shared>>> {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a fill off the map, unless it still has readers to serve.
    pub(super) fn retire(&self, shared: &Arc<Shared>, even_with_readers: bool) -> bool {
        let mut fills = self.fills();
        if !even_with_readers && shared.readers.load(Ordering::Acquire) > 0 {
            return false;
        }
        let id = shared.target.key.id();
        if fills.get(&id).is_some_and(|held| Arc::ptr_eq(held, shared)) {
            fills.remove(&id);
        }
        true
    }
}

/// All fills under way.
#[derive(Debug, Clone)]
pub struct Registry {
    context: Arc<Context>,
}

impl Registry {
    /// A registry without fills, whose tasks run on `runtime`.
    pub fn new(store: Arc<Store>, client: Client, settings: FillSettings, runtime: Handle) -> Self {
        let context = Context {
            store,
            client,
            settings,
            runtime,
            stopping: watch::Sender::new(false),
            fills: Mutex::default(),
            owners: Mutex::default(),
        };
        Self {
            context: Arc::new(context),
        }
    }

    /// Joins the fill of `target`, starting it if there is none; `known` is what the store has of it.
    pub fn join(&self, target: &Target, want: Want, known: Option<Arc<Object>>) -> Cursor {
        let wants_bytes = matches!(want, Want::Bytes(_) | Want::Anew(_));
        let mut fills = self.context.fills();
        let running = fills
            .get(&target.key.id())
            .filter(|shared| shared.is_open_to(want))
            .cloned();
        let collapsed = running.is_some();
        let shared = running.unwrap_or_else(|| {
            let shared = Arc::new(Shared::new(target.clone(), wants_bytes));
            fills.insert(target.key.id(), Arc::clone(&shared));
            self.spawn(Owner::new(Arc::clone(&self.context), Arc::clone(&shared), known), want);
            shared
        });
        shared.readers.fetch_add(1, Ordering::AcqRel);
        drop(fills);
        if let Want::Bytes(Span::From(start)) | Want::Anew(Span::From(start)) = want {
            shared.hint.store(start, Ordering::Relaxed);
        }
        if wants_bytes && !shared.bytes_wanted.swap(true, Ordering::AcqRel) {
            shared.changed.notify_one();
        }
        Cursor { shared, collapsed }
    }

    fn spawn(&self, owner: Owner, want: Want) {
        let mut owners = self.context.owners.lock().unwrap_or_else(PoisonError::into_inner);
        while owners.try_join_next().is_some() {}
        owners.spawn_on(owner.run(want), &self.context.runtime);
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
            let mut held = self.context.owners.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        while owners.join_next().await.is_some() {}
    }
}

/// A reader's share in a fill; while any is held the fill goes on.
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    collapsed: bool,
}

impl Cursor {
    /// Whether the fill was under way already.
    pub fn collapsed(&self) -> bool {
        self.collapsed
    }

    /// How far the fill has come now.
    pub fn phase(&self) -> Phase {
        self.shared.phase.borrow().clone()
    }

    /// What the fill comes to: any phase but [`Phase::Opening`].
    pub async fn opened(&self) -> Phase {
        let mut phase = self.shared.phase.subscribe();
        match phase.wait_for(|phase| !matches!(phase, Phase::Opening)).await {
            Ok(phase) => phase.clone(),
            Err(_) => Phase::Stopping,
        }
    }

    /// The upstream's refusal to give the byte at `at`, as soon as there is one that `counts`.
    pub async fn refused(&self, at: ByteOffset, counts: impl Fn(&Refusal) -> bool) -> Arc<Refusal> {
        let mut trouble = self.shared.trouble.subscribe();
        loop {
            if let Some(refusal) = trouble
                .borrow_and_update()
                .as_ref()
                .and_then(|trouble| trouble.refusal_of(at))
                .filter(|refusal| counts(refusal))
            {
                return refusal;
            }
            if trouble.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why the fill makes no progress at the moment.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble.borrow().clone()
    }

    /// Bytes per second that the fill brings, where enough has come to tell.
    pub fn rate(&self) -> Option<f64> {
        let meter = self.shared.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.rate(Instant::now())
    }

    /// How long until the fill will have brought the whole object, at its present rate.
    pub fn completes_in(&self, object: &Object) -> Option<Duration> {
        let missing = object.length()?.saturating_sub(object.present_bytes());
        self.takes(missing)
    }

    /// How long until a fill that reads on from its last byte reaches `at`.
    pub fn reaches_in(&self, object: &Object, at: ByteOffset) -> Option<Duration> {
        let before = ByteRange::new(0, at.saturating_add(1))?;
        self.takes(before.len() - object.present().covered(before))
    }

    fn takes(&self, bytes: u64) -> Option<Duration> {
        let seconds = bytes as f64 / self.rate()?.max(1.0);
        Duration::try_from_secs_f64(seconds).ok()
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.shared.readers.fetch_sub(1, Ordering::AcqRel);
        self.shared.changed.notify_one();
    }
}
