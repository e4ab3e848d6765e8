//! The one task that owns a fill: its object, its sessions, its troubles.
//!
//! ```text
//!              begin_with(start)
//!  Opening ───────────────────────► Ready(object) ────────────────► over
//!     │                              │  ▲    all bytes here, or nobody wants more
//!     │ Refused Failed Resting       │  └─ become_generation: Ready(another object)
//!     │ Redirected WithoutParts      │
//!     │ Disk Stopping                └─ the order to stop: Stopping ─► over
//!     └──► over, then the phase is told
//! ```
//!
//! How a fill opens is in opening.rs, what readers want in demand.rs, how sessions run in sessions.rs and what they
//! report in events.rs. Everything that happens to a fill passes through [`Owner::run`], one event at a time, and after
//! each it plans anew:
//!
//! ```text
//!  ┌─► look_after_stream ─► carry_out_plan ─► release_forwarded ─► tell ─► is_done? retire ─► record_if_due ─┐
//!  │                                                                                                        ▼
//!  └──── an event of a session ◄── a reader waits (demand) ◄── a reader came or left (rung) ◄───── alarm ── select
//! ```
//!
//! The considerations behind the order:
//!
//! - *Plan whole, not in steps.* No event handler starts or stops a session for what it has just learned, except where
//!   the session's reply or end was the event; the plan does, with all that is known. So two events that come together
//!   cannot undo each other.
//! - *Look in the order in which others write.* The readers are looked at once, and first: whatever comes after that look
//!   has another arrival count (`FillReaders::unless_come_since`). The positions of sessions are read before the bytes
//!   that are here, which are there before them, so a byte that a session is past is found present.
//! - *Tell after the plan, look for the end after that.* Readers are shown the sessions that there are, and a fill is
//!   idle only where the plan for those who are here has left nothing to do. `planned_readers` guards the moment
//!   between the two.
//! - *Record, then leave the map, then stop.* A request that arrives after `retire` finds in the store what was
//!   brought. A reader that has come meanwhile keeps the fill: `retire` fails, and the loop goes on.
//! - *Publish, then break.* A new generation is in the phase before the readers of the former are broken, so that they
//!   come back to it. A fill that could not open leaves the map before its phase is told: a client that asks again at
//!   once begins another.
//! - *Never wait for the disk in the loop.* Recording is a task of its own, one at a time. Where the loop does wait for
//!   a blocking thread (a new generation, the window of a stream, the end) there is nothing to plan without it.
//!
//! The owner and its sessions share one thread, and none of them is interrupted between two awaits. Where the owner
//! panics, its drop takes the fill off the map and breaks the readers, who would else wait for ever.

mod demand;
mod disk_pressure;
mod ending;
mod events;
mod joining;
mod opening;
mod retry;
mod sessions;
mod streaming;

use super::context::Context;
use super::disk::{on_disk, record};
use super::fetch::ask::Asked;
use super::fetch::session::Outcome;
use super::join_request::JoinRequest;
use super::phase::Phase;
use super::plan::{PlanView, Running, Step, class_of, plan};
use super::relay::request_body::DetachedRequest;
use super::runtimes::RuntimeSlot;
use super::snapshot::FillStatus;
use super::state::FillState;
use crate::api::StreamState;
use crate::clock::Instant;
use crate::clock::sleep_until;
use crate::ranges::ByteOffset;
use crate::store::{Broken, Object, Representation, StoreError};
use crate::upstream::{Permit, PermitHandle, Span};
use disk_pressure::DiskPressure;
use retry::RetryState;
use sessions::{RequestedSpan, Session};
use std::sync::Arc;
use std::time::Duration;
use streaming::{Marks, stop_of};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Progress is recorded when this much of it is not. Measured: docs/performance.md tells what 16 and 64 MiB cost and
/// gain.
const COMMIT_BYTES: u64 = 4 << 20;

/// Progress is recorded this long after the last time: a judgement, as much as a crash may lose of a slow fill.
const COMMIT_EVERY: Duration = Duration::from_millis(250);

/// The start of a fill.
pub(super) enum Start {
    /// A question, which may be asked again.
    Join(JoinRequest),
    /// A request that is sent once.
    Send(Box<DetachedRequest>),
}

enum Event {
    /// A session's turn has come; it is asking.
    Begun {
        session: u64,
        permit_handle: PermitHandle,
    },
    Answered {
        session: u64,
        span: Span,
        permit: Permit,
        result: Box<Asked>,
    },
    Moving,
    Ended {
        session: u64,
        outcome: Outcome,
    },
    /// Progress up to a moment ago is recorded, or the disk refused.
    Recorded(Result<(), StoreError>),
}

/// The state of one fill; see the module.
pub(super) struct Owner {
    context: Arc<Context>,
    slot: RuntimeSlot,
    shared: Arc<FillState>,
    object: Option<Arc<Object>>,
    sessions: Vec<Session>,
    next_session: u64,
    events: mpsc::UnboundedReceiver<Event>,
    report: mpsc::UnboundedSender<Event>,
    failures: RetryState,
    /// Replies to ranges contradicted themselves: read the whole instead.
    distrusts_ranges: bool,
    /// The upstream answers `If-Range` by the whole where a range alone brings the part.
    ignores_if_range: bool,
    /// How often in a row another node's tag came.
    other_nodes: u32,
    /// The fill is to bring a part, and nothing where the upstream gives none.
    wants_part: bool,
    /// Where the bytes of its object begin: 0, unless it brings a part that is joined to nothing.
    base: ByteOffset,
    /// Progress is being recorded by a task of its own: nobody waits for the disk here.
    recording: bool,
    recorded: Instant,
    /// When the rest will be fetched although nobody waits for it.
    background_at: Option<Instant>,
    /// Where readers were last: the holes after it are filled first. Nothing depends on it but the order.
    hint: ByteOffset,
    /// How many readers the latest plan was made for.
    planned_readers: usize,
    /// How far a stream had come when.
    marks: Marks,
    /// When a session ends that serves nobody.
    unattended_until: Option<Instant>,
    /// The disk took no more.
    disk_pressure: Option<DiskPressure>,
    /// The object that was stored when the fill began.
    stored: Option<Arc<Object>>,
    /// Whether its object takes the place of the one that is stored when it is whole, and not before.
    stages: bool,
    /// The fill ended as it should; see [`Owner`]'s drop.
    finished: bool,
}

impl Owner {
    pub(super) fn new(context: Arc<Context>, shared: Arc<FillState>, known: Option<Arc<Object>>) -> Self {
        let (report, events) = mpsc::unbounded_channel();
        Self {
            slot: context.threads.slot(),
            context,
            shared,
            stored: known.clone(),
            object: known,
            sessions: Vec::new(),
            next_session: 0,
            events,
            report,
            failures: RetryState::default(),
            distrusts_ranges: false,
            ignores_if_range: false,
            other_nodes: 0,
            wants_part: false,
            base: 0,
            recording: false,
            recorded: Instant::now(),
            background_at: None,
            hint: 0,
            planned_readers: 0,
            marks: Marks::new(),
            unattended_until: None,
            disk_pressure: None,
            stages: false,
            finished: false,
        }
    }

    /// Where it is to run.
    pub(super) fn thread(&self) -> &Handle {
        self.slot.thread()
    }

    pub(super) async fn run(mut self, start: Start) {
        let mut stopping = self.context.stopping.subscribe();
        let stream = self.shared.stream().cloned();
        let opened = tokio::select! {
            opened = self.begin_with(start) => opened,
            () = ordered(&mut stopping) => Err(Phase::Stopping),
            who = stop_of(stream.as_ref()) => Err(self.stop_opening(&who).await),
        };
        if let Err(phase) = opened {
            self.finished = true;
            self.end_unopened(&phase).await;
            // Off the map first: whoever comes after the answer asks anew.
            self.context.retire(&self.shared, true);
            if let Some(object) = &self.object {
                // Readers that lost a block of it meanwhile wait for nobody.
                object
                    .presence()
                    .break_waiters(&Broken::Upstream("it gave no answer".into()), Instant::now());
            }
            self.shared.news.set_phase(phase);
            return;
        }
        self.publish();
        let stream = self.shared.stream().cloned();
        loop {
            self.look_after_stream().await;
            self.carry_out_plan();
            self.release_forwarded();
            self.tell();
            if self.is_done() && self.retire().await {
                self.finished = true;
                return;
            }
            self.record_if_due();
            let Some(object) = self.object.clone() else { return };
            let alarm = self.next_alarm();
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event).await,
                () = object.presence().demand().notified() => self.failures.gave_up &= object.presence().waiting().is_empty(),
                () = self.shared.readers.rung() => self.on_changed(),
                () = sleep_until(alarm) => self.on_alarm(&object),
                who = stop_of(stream.as_ref()), if !self.stream_is_over() => self.stop_stream(&who).await,
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
        if self.shared.stream().is_some() {
            // A stream has one session, which brings all there is to fetch.
            return;
        }
        // Both are set anew by this plan.
        self.background_at = None;
        self.unattended_until = None;
        let readers = self.shared.readers.look();
        self.planned_readers = readers.count();
        self.hint = readers.hint.unwrap_or(self.hint);
        if object.is_whole() {
            self.stop_sessions();
            return;
        }
        if self.failures.retry_at.is_some_and(|at| at > Instant::now()) {
            // A reader may have come back to what goes on meanwhile.
            self.sessions.iter().for_each(|session| session.position.release());
            return;
        }
        let demand = self.demand(&object, &readers);
        if let Some(last) = demand.waiting.last() {
            self.hint = last.at;
        }
        self.background_at = demand.background_at;
        if self.is_stranded() {
            let why = "the upstream's part was cut, and nothing joins another to it".into();
            object.presence().break_for_good(Broken::Upstream(why));
            return;
        }
        if demand.rests {
            self.stop_sessions();
            return;
        }
        self.end_unattended(&demand, &readers);
        if let Some(ahead) = demand.at_most_ahead.filter(|_| self.resumes()) {
            self.rein_in(&readers.reading, ahead);
        }
        // A session that still queues is only a requested: it is planned anew with the others.
        let (queued, asked): (Vec<&Session>, Vec<&Session>) =
            self.sessions.iter().partition(|session| session.is_queued());
        let queued: Vec<u64> = queued.iter().map(|session| session.id).collect();
        let running: Vec<Running> = asked.iter().map(|session| session.running(&readers.reading)).collect();
        let steps = plan(&PlanView {
            length: object.length(),
            // After the positions: what a session has handed on it will not bring again.
            present: &object.presence().available(),
            waiting: &demand.waiting,
            ahead: &demand.ahead,
            running: &running,
            ranges: self.joins_anywhere(),
            grows_at: self.grows_at(),
            background: demand.background,
            hint: self.hint,
            max_sessions: self.context.settings.sessions_per_object,
            rate: self.shared.rate(),
            now: Instant::now(),
        });
        // Steps are taken in their order: what is stopped makes room for what is started.
        let kept: Vec<u64> = steps.into_iter().filter_map(|step| self.take(step, &queued)).collect();
        for id in queued.into_iter().filter(|id| !kept.contains(id)) {
            let mut sessions = self.sessions.iter();
            if sessions.any(|session| session.id == id && session.position.cancel()) {
                self.end_session(id);
            }
        }
        for session in &self.sessions {
            if let Some(permit_handle) = &session.permit_handle {
                permit_handle.set_class(class_of(&session.running(&readers.reading), &demand.waiting));
            }
        }
    }

    /// Takes a step; the queued session that it is, where it is one.
    fn take(&mut self, step: Step, queued: &[u64]) -> Option<u64> {
        let (requested, at, stop, class) = match step {
            Step::StartWhole(class) => (RequestedSpan::Whole, 0, u64::MAX, class),
            Step::StartFrom(at, class) => (RequestedSpan::From(at), at, u64::MAX, class),
            Step::Start(range, class) => (RequestedSpan::Range, range.start(), range.end(), class),
            // Carried out when the session that it makes way for is granted (`make_way`): a refused one
            // must not have cost the passing session its bytes.
            Step::Shorten { .. } => return None,
            Step::Stop { id } => {
                self.end_session(id);
                return None;
            }
        };
        // A session in the queue that is to do the same keeps its turn.
        let same = |session: &&Session| {
            queued.contains(&session.id)
                && (session.requested, session.position.at()) == (requested, at)
                && session.class <= class
        };
        if let Some(session) = self.sessions.iter().find(same) {
            // Between this look and the store no session runs: all of a fill is on one thread.
            if session.is_queued() {
                session.position.set_stop(stop);
            }
            return Some(session.id);
        }
        self.begin_session(requested, at, stop, class);
        None
    }

    /// Says how things stand, for those who ask why they wait.
    fn tell(&self) {
        self.shared.news.set_status(FillStatus {
            sessions: self
                .sessions
                .iter()
                .map(|session| Arc::clone(&session.position))
                .collect(),
            retry_at: self.failures.retry_at,
            disk: self.disk_pressure.is_some(),
            ranges: self.joins_anywhere(),
            dead_end: !self.resumes(),
        });
    }

    fn on_changed(&mut self) {
        // Another URL for the same object may open what the one before did not any more. It is tried at
        // once where that is the trouble, and is no way around a rest where it is another.
        if self.failures.closed && self.shared.targets.take_renewed() {
            self.failures = RetryState::default();
        }
    }

    fn next_alarm(&self) -> Option<Instant> {
        let commit = self
            .object
            .as_ref()
            .filter(|object| !self.recording && object.presence().has_unrecorded())
            .map(|_| self.recorded + COMMIT_EVERY);
        // Bytes that arrive after this look are due a commit as well, and readers move on.
        let readers = self.shared.readers.count();
        let keeps_pace = self.context.settings.read_ahead.is_some() || self.disk_pressure.is_some();
        let looks = !self.sessions.is_empty() || (readers > 0 && (keeps_pace || self.is_oversize()));
        let look = looks.then(|| Instant::now() + COMMIT_EVERY);
        [
            commit,
            look,
            self.background_at,
            self.unattended_until,
            self.failures.retry_at,
            self.hold_ends(),
            self.patience_ends(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn record_if_due(&mut self) {
        let Some(object) = self.object.clone().filter(|_| !self.recording) else {
            return;
        };
        let unrecorded = object.presence().unrecorded_bytes();
        if unrecorded >= COMMIT_BYTES || (unrecorded > 0 && self.recorded.elapsed() >= COMMIT_EVERY) {
            self.recording = true;
            let report = self.report.clone();
            self.slot.thread().spawn(async move {
                let recorded = record(object).await;
                let _ = report.send(Event::Recorded(recorded));
            });
        }
    }

    /// The object was purged: the fill goes on for the readers it has.
    fn is_detached(&self) -> bool {
        self.shared.is_detached()
    }

    /// Makes a new generation, makes it known, and only then breaks the readers of the old one.
    async fn become_generation(&mut self, representation: Representation) -> Result<(), StoreError> {
        if self.is_detached() {
            let object = self.context.store.create_apart(&self.shared.key, representation);
            let former = self.object.replace(object);
            self.publish();
            if let Some(former) = former {
                // Readers that wait for its bytes are told that this fill brings none of them.
                former.presence().break_waiters(&Broken::Superseded, Instant::now());
            }
            return Ok(());
        }
        let (store, key) = (Arc::clone(&self.context.store), self.shared.key.clone());
        self.abandon_staged().await;
        if let Some(before) = self.to_be_kept(&representation) {
            self.object = Some(store.create_staged(&key, representation, &before));
            self.stages = true;
            self.publish();
            return Ok(());
        }
        // A reader waits for it: a thread less to wake.
        let (object, replaced) = match store.create_now(&key, &representation) {
            Some(object) => (object, None),
            None => {
                let created = on_disk(move || store.create(&key, representation)).await?;
                (created.object, created.replaced)
            }
        };
        let former = self.object.replace(object);
        self.publish();
        // The two differ where the store had already closed ours.
        for old in replaced.into_iter().chain(former) {
            old.presence().break_for_good(Broken::Superseded);
        }
        Ok(())
    }

    /// The stored object that is to be kept until one with this representation is whole: what a mirror holds is not lost to
    /// a line that breaks.
    fn to_be_kept(&self, representation: &Representation) -> Option<Arc<Object>> {
        let is_mirrored = self.shared.targets.current().is_mirrored;
        let stored = self
            .stored
            .clone()
            .filter(|_| is_mirrored && representation.status == 200)?;
        let is_whole = stored.is_whole() && !stored.head().is_bare_response() && !stored.is_discarded();
        is_whole.then_some(stored)
    }

    /// Gives up what was staged and did not come to its end.
    async fn abandon_staged(&mut self) {
        if let Some(object) = self.object.clone().filter(|_| std::mem::take(&mut self.stages)) {
            object.presence().break_waiters(&Broken::Superseded, Instant::now());
            let store = Arc::clone(&self.context.store);
            on_disk(move || store.abandon(&object)).await;
        }
    }

    fn publish(&self) {
        if let Some(object) = &self.object {
            self.shared.news.set_phase(Phase::Ready(Arc::clone(object)));
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
        tracing::error!(url = self.shared.key.url(), "a fill was lost");
        if let Some(stream) = self.shared.stream().cloned() {
            let streams = Arc::clone(&self.context.streams);
            let why = Some("its fill was lost".to_owned());
            let ending = move || streams.end(&stream, StreamState::Partial, why);
            self.slot.thread().spawn_blocking(ending);
        }
        self.context.retire(&self.shared, true);
        if let Some(object) = &self.object {
            object.presence().break_for_good(Broken::Stopping);
        }
        self.shared.news.set_phase(Phase::Stopping);
    }
}

/// Returns when the order to stop is given.
async fn ordered(stopping: &mut watch::Receiver<bool>) {
    // An error means that the registry is gone, which is the same order.
    let _ = stopping.wait_for(|stopping| *stopping).await.map(drop);
}
