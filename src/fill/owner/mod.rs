//! The one task that owns a fill: its object, its sessions, its troubles.
//!
//! ```text
//! Opening ──► Ready ──────────────► retired      all bytes here, or nobody wants more
//!    │          │  ▲
//!    │          ▼  └── a new generation replaces the object
//!    ▼       plan → sessions → events → plan …
//! Refused / Failed ──► retired
//! ```
//!
//! How a fill opens is in opening.rs, what its sessions report in events.rs. Everything that happens to a fill passes through [`Owner::run`]: events of sessions, readers
//! that come, wait and leave, and the clock (commit, retry, hold limit). After each it plans anew.

mod events;
mod opening;

use super::AfterLastReader;
use super::join::Brings;
use super::meter::Meter;
use super::plan::{Running, Step, View, plan};
use super::registry::{Context, Phase, Shared, Want};
use super::session::{Outcome, Position, receive};
use crate::header::CacheControl;
use crate::store::{Broken, Object, Representation, StoreError};
use crate::upstream::{Ask, Exchange, Span, UpstreamError};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Progress is recorded when this much of it is not, or this long after the last time.
const COMMIT_BYTES: u64 = 4 << 20;
const COMMIT_EVERY: Duration = Duration::from_millis(250);

struct Session {
    id: u64,
    position: Arc<Position>,
    task: AbortHandle,
}

enum Event {
    Answered {
        session: u64,
        span: Span,
        result: Box<Result<Exchange, UpstreamError>>,
    },
    Moving,
    Ended {
        session: u64,
        outcome: Outcome,
    },
}

/// The state of one fill; see the module.
pub(super) struct Owner {
    context: Arc<Context>,
    shared: Arc<Shared>,
    object: Option<Arc<Object>>,
    sessions: Vec<Session>,
    next_session: u64,
    events: mpsc::UnboundedReceiver<Event>,
    report: mpsc::UnboundedSender<Event>,
    failures: Failures,
    /// Replies to ranges contradicted themselves: read the whole instead.
    distrusts_ranges: bool,
    committed: Instant,
    /// The fill ended as it should; see [`Owner`]'s drop.
    finished: bool,
}

#[derive(Default)]
struct Failures {
    in_a_row: u32,
    since: Option<Instant>,
    retry_at: Option<Instant>,
    /// The hold limit passed without a byte: wait for a reader before trying on.
    gave_up: bool,
}

impl Owner {
    pub(super) fn new(context: Arc<Context>, shared: Arc<Shared>, known: Option<Arc<Object>>) -> Self {
        let (report, events) = mpsc::unbounded_channel();
        Self {
            context,
            shared,
            object: known,
            sessions: Vec::new(),
            next_session: 0,
            events,
            report,
            failures: Failures::default(),
            distrusts_ranges: false,
            committed: Instant::now(),
            finished: false,
        }
    }

    pub(super) async fn run(mut self, want: Want) {
        let mut stopping = self.context.stopping.subscribe();
        let opened = tokio::select! {
            opened = self.open(want) => opened,
            () = ordered(&mut stopping) => Err(Phase::Stopping),
        };
        if let Err(phase) = opened {
            self.finished = true;
            // Off the map first: whoever comes after the answer asks anew.
            self.context.retire(&self.shared, true);
            self.shared.phase.send_replace(phase);
            return;
        }
        self.publish();
        loop {
            self.carry_out_plan();
            if self.is_done() && self.retire().await {
                self.finished = true;
                return;
            }
            self.commit_if_due().await;
            let Some(object) = self.object.clone() else { return };
            let alarm = self.next_alarm();
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event).await,
                () = object.demand().notified() => self.failures.gave_up &= object.waiting().is_empty(),
                () = self.shared.changed.notified() => {}
                () = at(alarm) => self.on_alarm(&object),
                () = ordered(&mut stopping) => {
                    self.stop(&object).await;
                    self.finished = true;
                    return;
                }
            }
        }
    }

    fn carry_out_plan(&mut self) {
        let Some(object) = self.object.clone() else { return };
        if object.is_whole() {
            self.stop_sessions();
            return;
        }
        if self.failures.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let waiting = object.waiting();
        if let Some(last) = waiting.last() {
            self.shared.hint.store(last.at, Ordering::Relaxed);
        }
        let readers = self.shared.readers.load(Ordering::Acquire);
        let completes = self.context.settings.after_last_reader == AfterLastReader::Complete && !self.failures.gave_up;
        let background = completes && self.shared.bytes_wanted.load(Ordering::Acquire);
        if readers == 0 && !completes {
            self.stop_sessions();
            return;
        }
        let running: Vec<Running> = self.sessions.iter().map(Session::running).collect();
        let steps = plan(&View {
            length: object.length(),
            present: &object.present(),
            waiting: &waiting,
            running: &running,
            ranges: object.representation().ranges && !self.distrusts_ranges,
            background,
            hint: self.shared.hint.load(Ordering::Relaxed),
            max_sessions: self.context.settings.sessions_per_object,
            rate: self
                .shared
                .meter
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .rate(Instant::now()),
        });
        for step in steps {
            self.take(step);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::StartWhole => self.ask(Span::Whole, 0, u64::MAX),
            Step::StartFrom(at) => self.ask(Span::From(at), at, u64::MAX),
            Step::Start(range) => self.ask(Span::Range(range), range.start(), range.end()),
            // Carried out when the session that it makes way for is granted (`make_way`): a refused one
            // must not have cost the passing session its bytes.
            Step::Shorten { .. } => {}
            Step::Stop { id } => self.end_session(id),
        }
    }

    fn ask(&mut self, span: Span, at: u64, stop: u64) {
        let validator = self
            .object
            .as_ref()
            .and_then(|object| object.representation().validators.strong());
        let ask = Ask {
            if_range: validator
                .filter(|_| span != Span::Whole)
                .map(|validator| validator.if_range()),
            ..Ask::new(self.shared.target.clone(), span)
        };
        if self.sessions.is_empty() {
            *self.shared.meter.lock().unwrap_or_else(PoisonError::into_inner) = Meter::new(Instant::now());
        }
        self.next_session += 1;
        let (session, client, report) = (self.next_session, self.context.client.clone(), self.report.clone());
        tracing::debug!(
            url = self.shared.target.key.url(),
            ?span,
            session,
            "asking the upstream"
        );
        let task = self.context.runtime.spawn(async move {
            let result = Box::new(client.ask(&ask).await);
            // Nobody listens any more where the fill has ended.
            let _ = report.send(Event::Answered { session, span, result });
        });
        let position = Position::new(at, stop);
        self.sessions.push(Session {
            id: session,
            position,
            task: task.abort_handle(),
        });
    }

    /// Starts moving the body of a reply that was judged good.
    fn adopt(&mut self, exchange: Exchange, brings: Brings) {
        self.next_session += 1;
        let id = self.next_session;
        let position = Position::new(brings.at, brings.end.unwrap_or(u64::MAX));
        let task = self.spawn_receive(id, exchange, brings, &position);
        self.sessions.push(Session { id, position, task });
    }

    fn spawn_receive(&self, id: u64, exchange: Exchange, brings: Brings, position: &Arc<Position>) -> AbortHandle {
        let Some(object) = self.object.clone() else {
            return self.context.runtime.spawn(async {}).abort_handle();
        };
        let (report, moving) = (self.report.clone(), self.report.clone());
        let (position, meter) = (Arc::clone(position), Arc::clone(&self.shared.meter));
        let task = self.context.runtime.spawn(async move {
            let on_first = move || drop(moving.send(Event::Moving));
            let receiving = receive(exchange, brings, object, position, meter, on_first);
            let outcome = AssertUnwindSafe(receiving)
                .catch_unwind()
                .await
                .unwrap_or(Outcome::Lost);
            let _ = report.send(Event::Ended { session: id, outcome });
        });
        task.abort_handle()
    }

    fn end_session(&mut self, id: u64) {
        if let Some(index) = self.sessions.iter().position(|session| session.id == id) {
            self.sessions.swap_remove(index).end();
        }
    }

    fn stop_sessions(&mut self) {
        self.sessions.drain(..).for_each(Session::end);
    }

    fn next_alarm(&self) -> Option<Instant> {
        let commit = self
            .object
            .as_ref()
            .filter(|object| object.has_unrecorded())
            .map(|_| self.committed + COMMIT_EVERY);
        // Bytes that arrive after this look are due a commit as well.
        let look = (!self.sessions.is_empty()).then(|| Instant::now() + COMMIT_EVERY);
        [
            commit,
            look,
            self.failures.retry_at,
            self.hold_ends(),
            self.patience_ends(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When the reader that waits longest will have been held long enough, while the upstream fails.
    fn hold_ends(&self) -> Option<Instant> {
        let failing_since = self.failures.since?;
        let waiting_since = self.object.as_ref()?.longest_wait()?;
        Some(failing_since.max(waiting_since) + self.context.settings.hold_limit)
    }

    /// When a fill that nobody waits for will have failed long enough to be left alone.
    fn patience_ends(&self) -> Option<Instant> {
        let failing_since = self.failures.since.filter(|_| !self.failures.gave_up)?;
        let moved = self.shared.meter.lock().unwrap_or_else(PoisonError::into_inner).last();
        let quiet_since = moved.map_or(failing_since, |moved| moved.max(failing_since));
        Some(quiet_since + self.context.settings.hold_limit)
    }

    fn on_alarm(&mut self, object: &Object) {
        let now = Instant::now();
        if self.failures.retry_at.is_some_and(|at| at <= now) {
            self.failures.retry_at = None;
        }
        if self.patience_ends().is_some_and(|end| end <= now) {
            self.failures.gave_up = true;
        }
        if self.hold_ends().is_some_and(|end| end <= now)
            && let Some(cutoff) = now.checked_sub(self.context.settings.hold_limit)
        {
            let what = self
                .shared
                .trouble
                .borrow()
                .as_ref()
                .map_or_else(|| "failed".into(), |trouble| Arc::clone(&trouble.what));
            tracing::warn!(url = object.url(), %what, "the hold limit is over: breaking the readers that waited so long");
            // Those whose bytes keep coming have not waited: their sessions are not the ones that fail.
            object.break_waiters(&Broken::Upstream(what), cutoff);
        }
    }

    async fn commit_if_due(&mut self) {
        let Some(object) = &self.object else { return };
        let unrecorded = object.unrecorded_bytes();
        if unrecorded >= COMMIT_BYTES || (unrecorded > 0 && self.committed.elapsed() >= COMMIT_EVERY) {
            self.commit().await;
        }
    }

    async fn commit(&mut self) {
        let Some(object) = self.object.clone() else { return };
        let committing = Arc::clone(&object);
        if let Err(error) = on_disk(move || committing.commit()).await {
            tracing::error!(url = object.url(), %error, "could not record progress");
        }
        self.committed = Instant::now();
    }

    fn is_done(&self) -> bool {
        let Some(object) = &self.object else { return true };
        let resting = self.failures.retry_at.is_some() && !self.failures.gave_up;
        object.is_whole() || (self.sessions.is_empty() && !resting && self.shared.readers.load(Ordering::Acquire) == 0)
    }

    /// Leaves the map with everything recorded; `false` where a reader has come meanwhile.
    async fn retire(&mut self) -> bool {
        self.commit().await;
        let Some(object) = self.object.clone() else { return true };
        if !self.context.retire(&self.shared, object.is_whole()) {
            return false;
        }
        self.stop_sessions();
        tracing::debug!(url = object.url(), whole = object.is_whole(), "the fill is over");
        let control = object
            .representation()
            .header("cache-control")
            .map(CacheControl::parse)
            .unwrap_or_default();
        if control.no_store || control.private {
            // It was shared with those who waited for it; later requests shall not find it.
            let store = Arc::clone(&self.context.store);
            if let Err(error) = on_disk(move || store.remove(&object)).await {
                tracing::error!(%error, "could not remove an object that may not be stored");
            }
        }
        true
    }

    async fn stop(&mut self, object: &Object) {
        self.stop_sessions();
        self.commit().await;
        object.break_for_good(Broken::Stopping);
        self.context.retire(&self.shared, true);
        self.shared.phase.send_replace(Phase::Stopping);
    }

    /// Makes a new generation, makes it known, and only then breaks the readers of the old one.
    async fn become_generation(&mut self, representation: Representation) -> Result<(), StoreError> {
        let (store, key) = (Arc::clone(&self.context.store), self.shared.target.key.clone());
        let created = on_disk(move || store.create(&key, representation)).await?;
        let former = self.object.replace(created.object);
        self.publish();
        // They differ where the store had already let go of ours.
        for old in created.replaced.into_iter().chain(former) {
            old.break_for_good(Broken::Superseded);
        }
        Ok(())
    }

    fn publish(&self) {
        if let Some(object) = &self.object {
            self.shared.phase.send_replace(Phase::Ready(Arc::clone(object)));
        }
    }
}

/// A fill that ends by a panic must not leave readers waiting for it, nor new ones joining it.
impl Drop for Owner {
    fn drop(&mut self) {
        self.stop_sessions();
        if self.finished {
            return;
        }
        tracing::error!(url = self.shared.target.key.url(), "a fill was lost");
        self.context.retire(&self.shared, true);
        if let Some(object) = &self.object {
            object.break_for_good(Broken::Stopping);
        }
        self.shared.phase.send_replace(Phase::Stopping);
    }
}

impl Session {
    /// Ends it: the task, and what it still has to write.
    fn end(self) {
        self.position.stop.store(0, Ordering::Release);
        self.task.abort();
    }

    fn running(&self) -> Running {
        Running {
            id: self.id,
            at: self.position.at.load(Ordering::Acquire),
            stop: self.position.stop.load(Ordering::Acquire),
            moved: self.position.moved.load(Ordering::Acquire),
        }
    }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Returns when the order to stop is given.
async fn ordered(stopping: &mut watch::Receiver<bool>) {
    // An error means that the registry is gone, which is the same order.
    let _ = stopping.wait_for(|stopping| *stopping).await.map(drop);
}

async fn at(alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => tokio::time::sleep_until(alarm.into()).await,
        None => std::future::pending().await,
    }
}
