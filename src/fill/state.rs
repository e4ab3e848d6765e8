//! The state that a fill shares with its readers: one for each fill, held by its owner and by every cursor.
//!
//! The state is cut by who writes it, so that each part has one kind of writer and says what its readers may conclude:
//!
//! | part | written by | read by |
//! |---|---|---|
//! | `readers` (readers.rs) | readers, when they come and leave | the owner, once for each plan; whoever makes room |
//! | `targets` (targets.rs) | readers that bring another URL; sessions that learn what one is worth | sessions that ask; the owner |
//! | `news` (snapshot.rs) | the owner | readers, the API, whoever makes room |
//! | `throughput` | sessions, once for each batch | the owner, readers, the API |
//! | `detached`, `not_stored`, `stream` | whoever decides it, once | all |
//!
//! Bytes and their waiters are in the object, not here; where sessions and readers are with each block is in their own
//! positions (session.rs, position.rs). So nothing of this is touched for a block but the throughput.
//!
//! Locks are held for moments. None is taken under another, save that the lock of the fills (context.rs) may be held
//! over `readers` and `news`, and each reader's own is taken under `readers`.

use super::fetch::targets::FillTargets;
use super::fetch::throughput::Throughput;
use super::join_request::JoinRequest;
use super::phase::{Phase, Trouble};
use super::reader::readers::FillReaders;
use super::snapshot::OwnerNews;
use crate::clock::Instant;
use crate::key::ObjectKey;
use crate::live::Stream;
use crate::policy::NotStored;
use crate::store::Object;
use crate::sync::lock;
use crate::upstream::Target;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::Notify;

/// The state that a fill shares with its readers.
#[derive(Debug)]
pub(super) struct FillState {
    pub(super) key: ObjectKey,
    pub(super) readers: FillReaders,
    pub(super) targets: FillTargets,
    pub(super) news: OwnerNews,
    /// The bytes that have come lately. A lock, since a window and its sum belong together: held for an addition, once
    /// for each batch of a session, and for a look. The owner begins it anew with the first of its sessions.
    throughput: Mutex<Throughput>,
    /// The object was purged, or is not to be shared: the fill goes on for the readers it has, and no other joins it.
    /// An atomic beside the owner's news, since a purge sets it too. Release when it is set, behind `not_stored`, and
    /// Acquire when the owner looks.
    detached: AtomicBool,
    /// The fill brings nothing more. An atomic, since each reader looks at it whenever it has to wait. Release when it is
    /// set, under the lock of the fills, and Acquire.
    over: AtomicBool,
    /// Rung when `over` is set.
    over_rung: Notify,
    /// Why the reply is not kept; the owner sets it once, when the reply has come.
    not_stored: OnceLock<NotStored>,
    /// The stream that the fill logs, where it is one; set once, before the first byte comes. Sessions look at it with
    /// each batch, and need no lock for that.
    stream: OnceLock<Arc<Stream>>,
}

impl FillState {
    pub(super) fn new(target: Arc<Target>, bytes_wanted: bool) -> Self {
        Self {
            key: target.key.clone(),
            readers: FillReaders::new(bytes_wanted),
            targets: FillTargets::new(target),
            news: OwnerNews::new(),
            throughput: Mutex::new(Throughput::new(Instant::now())),
            detached: AtomicBool::new(false),
            over: AtomicBool::new(false),
            over_rung: Notify::new(),
            not_stored: OnceLock::new(),
            stream: OnceLock::new(),
        }
    }

    /// A fill that has brought its object whole is only winding up: it cannot revalidate or begin anew.
    pub(super) fn is_open_to(&self, join: JoinRequest) -> bool {
        if self.stream.get().is_some_and(|stream| stream.status().state.is_over()) {
            return false;
        }
        match self.object() {
            Some(object) if join.is_anew() => !object.is_whole(),
            _ => true,
        }
    }

    /// How far the fill has come.
    pub(super) fn phase(&self) -> Phase {
        self.news.look().phase.clone()
    }

    /// The object whose bytes the fill brings, once its head is known.
    pub(super) fn object(&self) -> Option<Arc<Object>> {
        match &self.news.look().phase {
            Phase::Ready(object) => Some(Arc::clone(object)),
            _ => None,
        }
    }

    /// Why the fill makes no progress; `None` also where a reader has brought another URL since that was found.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let told = self.news.look().trouble.clone();
        self.still_valid(told)
    }

    /// The trouble, unless it was found before the latest renewal: of the URLs after it that says nothing.
    pub(super) fn still_valid(&self, told: Option<(Trouble, u64)>) -> Option<Trouble> {
        let (trouble, renewals) = told?;
        (renewals == self.targets.renewals()).then_some(trouble)
    }

    /// Whether the fill brings nothing more. Set under the lock of the fills (`Context::retire`), before its sessions
    /// end: a reader that sees it joins under that lock, and finds another fill; a writer that sees its session ended by
    /// that sees this too.
    pub(super) fn is_over(&self) -> bool {
        // Acquire, as the field says.
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn set_over(&self) {
        // Release, as the field says.
        self.over.store(true, Ordering::Release);
        self.over_rung.notify_waiters();
    }

    /// Returns when the fill brings nothing more.
    pub(super) async fn ended(&self) {
        let rung = self.over_rung.notified();
        tokio::pin!(rung);
        // Before the look: what is rung between the two is not lost.
        rung.as_mut().enable();
        if !self.is_over() {
            rung.await;
        }
    }

    /// Whether no other reader joins the fill.
    pub(super) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    pub(super) fn detach(&self) {
        self.detached.store(true, Ordering::Release);
    }

    /// Why the reply is not kept, as soon as it has come.
    pub(super) fn not_stored(&self) -> Option<NotStored> {
        self.not_stored.get().copied()
    }

    /// Detaches the fill since its reply is not kept. The reason first: a caller that finds the fill detached finds it.
    pub(super) fn detach_for(&self, why: NotStored) {
        let _ = self.not_stored.set(why);
        self.detach();
    }

    /// The stream that it logs, where it is one.
    pub(super) fn stream(&self) -> Option<&Arc<Stream>> {
        self.stream.get()
    }

    /// Marks the fill as the writer of a stream.
    pub(super) fn set_stream(&self, stream: &Arc<Stream>) {
        let _ = self.stream.set(Arc::clone(stream));
    }

    /// Counts bytes that a session has brought.
    pub(super) fn brought(&self, bytes: u64) {
        lock(&self.throughput).add(bytes, Instant::now());
    }

    /// Begins the measurement anew: a time without sessions is not averaged in.
    pub(super) fn restart_throughput(&self) {
        *lock(&self.throughput) = Throughput::new(Instant::now());
    }

    /// When bytes last came.
    pub(super) fn last_brought(&self) -> Option<Instant> {
        let throughput = lock(&self.throughput);
        throughput.last()
    }

    /// Bytes per second that the fill brings, where enough has come to tell.
    pub(super) fn rate(&self) -> Option<f64> {
        let throughput = lock(&self.throughput);
        throughput.rate(Instant::now())
    }
}
