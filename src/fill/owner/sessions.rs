//! The sessions of a fill: how one is begun, waits for its turn, moves bytes, and ends.
//!
//! A session is a task for its turn and its question, and another for its body; the handle of the one under way is in
//! `Session::task`. Its states and what is true in each are in session.rs. A session ends in one of three ways: by its
//! own outcome, which it reports; by `Session::end`, which ends its position and drops the task; or by the cancellation
//! of its place in the queue.

use super::super::fetch::ask::{UpstreamQuestion, ask, turn};
use super::super::fetch::classify_reply::BodySpan;
use super::super::fetch::receive::receive;
use super::super::fetch::session::{Outcome, SessionPosition, SessionState};
use super::super::fetch::write_batch::WriteTarget;
use super::super::plan::{Running, class_of};
use super::super::reader::position::ReaderProgress;
use super::super::reader::readers::ReadersNow;
use super::demand::{Demand, PEACE};
use super::{Event, Owner};
use crate::clock::Instant;
use crate::header::StrongValidator;
use crate::ranges::{ByteOffset, ByteRange};
use crate::upstream::{Class, Exchange, Permit, PermitHandle, QUANTUM_BYTES, Span};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Bytes that are compared where a weak tag and a date are all that joins two exchanges: an encoder's, a tagger's or an
/// editor's change is seen in them wherever bytes move; what it cannot show is told in docs/decisions/0022. The figure
/// is a judgement.
const OVERLAP_BYTES: u64 = 16 * 1024;

/// A session that serves nobody goes on for so long and for so many bytes, where nothing is to be brought for nobody:
/// its reader may be on its way to the next place, which is often the one that it has left. Both figures:
/// docs/decisions/0024.
const UNATTENDED: Leash = Leash {
    time: PEACE,
    bytes: 256 * 1024,
};

/// The same of an upstream without ranges, where another exchange would begin at the start: players ask for the head or
/// for two bytes before they ask for the film. Five seconds and 16 MiB: docs/decisions/0024.
const UNATTENDED_WHOLE: Leash = Leash {
    time: Duration::from_secs(5),
    bytes: 16 << 20,
};

/// When an unattended session is looked at again whose end a new reader has put off: the plan that follows knows that
/// reader. A judgement: nobody waits for it.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
struct Leash {
    time: Duration,
    bytes: u64,
}

pub(super) struct Session {
    pub(super) id: u64,
    pub(super) requested: RequestedSpan,
    /// The class that the session was begun for: its place in the budget's queue.
    pub(super) class: Class,
    pub(super) position: Arc<SessionPosition>,
    /// The permit's handle in the budget, once there is one.
    pub(super) permit_handle: Option<PermitHandle>,
    /// The time since which it serves nobody, where nothing is to be brought for nobody.
    unattended: Option<Instant>,
    pub(super) task: AbortHandle,
}

/// The span that a session was begun for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestedSpan {
    Whole,
    From(ByteOffset),
    /// The bytes between the session's position and its stop, as they are when its turn comes.
    Range,
}

impl Owner {
    pub(super) fn begin_session(&mut self, requested: RequestedSpan, at: ByteOffset, stop: ByteOffset, class: Class) {
        let proof = self.object.as_ref().and_then(|object| {
            let head = object.head();
            head.representation().validators.strong()
        });
        let proof = proof.filter(|_| requested != RequestedSpan::Whole);
        let question = match proof {
            Some(StrongValidator::Tag(tag)) if self.ignores_if_range => UpstreamQuestion {
                if_match: Some(tag.to_string()),
                ..UpstreamQuestion::default()
            },
            proof => UpstreamQuestion {
                if_range: proof.map(|proof| proof.if_range()),
                ..UpstreamQuestion::default()
            },
        };
        let overlap = self.overlap_before(requested, at);
        if self.sessions.is_empty() {
            self.shared.restart_throughput();
        }
        self.next_session += 1;
        let (session, report) = (self.next_session, self.report.clone());
        let (context, shared) = (Arc::clone(&self.context), Arc::clone(&self.shared));
        let position = SessionPosition::queued(at, stop);
        let place = Arc::clone(&position);
        let task = self.slot.thread().spawn(async move {
            let permit = turn(&context, &shared, class).await;
            if !place.ask() {
                return;
            }
            // The receiver is gone where the fill has ended.
            let _ = report.send(Event::Begun {
                session,
                permit_handle: permit.handle(),
            });
            let span = span_of(requested, &place, permit.is_contended(), overlap);
            tracing::debug!(url = shared.key.url(), ?span, ?class, session, "asking the upstream");
            let result = Box::new(ask(&context, &shared, &permit, span, question).await);
            let _ = report.send(Event::Answered {
                session,
                span,
                permit,
                result,
            });
        });
        self.sessions.push(Session {
            id: session,
            requested,
            class,
            position,
            permit_handle: None,
            unattended: None,
            task: task.abort_handle(),
        });
    }

    /// Starts moving the body of a reply that was judged good.
    pub(super) fn adopt(&mut self, exchange: Exchange, brings: BodySpan, permit: Permit) {
        self.next_session += 1;
        let id = self.next_session;
        let position = SessionPosition::adopted(brings.at, brings.end.unwrap_or(u64::MAX));
        let permit_handle = Some(permit.handle());
        let task = self.spawn_receive(id, exchange, brings, None, permit, &position);
        self.sessions.push(Session {
            id,
            requested: RequestedSpan::Range,
            class: Class::Waiting,
            position,
            permit_handle,
            unattended: None,
            task,
        });
    }

    /// `compared_to` is where bytes of the reply begin to be new: those before it must be those that are here.
    pub(super) fn spawn_receive(
        &self,
        id: u64,
        exchange: Exchange,
        brings: BodySpan,
        compared_to: Option<ByteOffset>,
        permit: Permit,
        position: &Arc<SessionPosition>,
    ) -> AbortHandle {
        let Some(object) = self.object.clone() else {
            return self.slot.thread().spawn(async {}).abort_handle();
        };
        let (report, moving) = (self.report.clone(), self.report.clone());
        let sink = WriteTarget {
            session: id,
            thread: self.slot.thread().clone(),
            context: Arc::clone(&self.context),
            shared: Arc::clone(&self.shared),
            object,
            position: Arc::clone(position),
            idle: match self.shared.stream() {
                Some(_) => self.context.streams.limits().idle,
                None => self.context.client.read_idle_timeout(),
            },
        };
        // Only what can go on where it was may be preempted for another.
        if self.resumes() {
            permit.resumes();
        }
        let mut woken = self.context.woken.subscribe();
        let task = self.slot.thread().spawn(async move {
            let on_progress = move || drop(moving.send(Event::Moving));
            let receiving = receive(exchange, brings, compared_to, &sink, &permit, on_progress);
            let outcome = tokio::select! {
                outcome = AssertUnwindSafe(receiving).catch_unwind() => outcome.unwrap_or(Outcome::Lost),
                () = permit.preempted() => Outcome::Preempted,
                Ok(()) = woken.changed() => Outcome::Slept,
            };
            // A write under way ends with the piece at hand.
            sink.position.end();
            // Before the report: the next session of this fill may take the place in the budget.
            drop(permit);
            let _ = report.send(Event::Ended { session: id, outcome });
        });
        task.abort_handle()
    }

    /// How many bytes before `at` a session asks for once more, to compare them with those that are here.
    fn overlap_before(&self, requested: RequestedSpan, at: ByteOffset) -> u64 {
        match requested {
            RequestedSpan::Range if self.grows_at() == Some(at) => OVERLAP_BYTES.min(at - self.base),
            _ => 0,
        }
    }

    pub(super) fn end_session(&mut self, id: u64) {
        if let Some(index) = self.sessions.iter().position(|session| session.id == id) {
            self.sessions.swap_remove(index).end();
        }
    }

    /// Where nothing is to be brought for nobody, ends the sessions that have served no reader for a while.
    pub(super) fn end_unattended(&mut self, demand: &Demand, readers: &ReadersNow) {
        let leash = match self.has_ranges() {
            true => UNATTENDED,
            false => UNATTENDED_WHOLE,
        };
        let now = Instant::now();
        let mut over = Vec::new();
        for session in self.sessions.iter_mut().filter(|session| !session.is_queued()) {
            // A session that some reader waits for or follows is not alone.
            let serves = class_of(&session.running(&readers.reading), &demand.waiting) != Class::Background;
            if serves || !demand.only_for_readers {
                session.unattended = None;
                session.position.release();
                continue;
            }
            session.position.leash(leash.bytes, readers.arrivals);
            let ends = *session.unattended.get_or_insert(now) + leash.time;
            match ends <= now {
                true => over.push((session.id, Arc::clone(&session.position))),
                false => self.unattended_until = Some(self.unattended_until.map_or(ends, |other| other.min(ends))),
            }
        }
        for (id, position) in over {
            match self
                .shared
                .readers
                .unless_come_since(readers.arrivals, || position.end())
            {
                true => self.end_session(id),
                // A reader has come meanwhile, and may want what this session brings.
                false => self.unattended_until = Some(now + LOOK_AGAIN_AFTER),
            }
        }
    }

    pub(super) fn stop_sessions(&mut self) {
        self.sessions.drain(..).for_each(Session::end);
    }
}

impl Session {
    /// Ends it: the task, and what it still has to write.
    pub(super) fn end(self) {
        self.position.end();
        self.task.abort();
    }

    pub(super) fn is_queued(&self) -> bool {
        self.position.state() == SessionState::Queued
    }

    pub(super) fn running(&self, reading: &[ReaderProgress]) -> Running {
        let (at, stop) = (self.position.at(), self.position.promised_until());
        Running {
            id: self.id,
            at,
            stop,
            moved: self.position.moved(),
            asked: self.position.asked(),
            attended: reading.iter().any(|reader| reader.at < stop && at < reader.end),
        }
    }
}

/// The span to ask for when the turn has come: less, where others wait for one, and `overlap` bytes that are here already.
fn span_of(requested: RequestedSpan, position: &SessionPosition, contended: bool, overlap: u64) -> Span {
    match requested {
        RequestedSpan::Whole => Span::Whole,
        RequestedSpan::From(at) => Span::From(at),
        RequestedSpan::Range => {
            let at = position.at();
            if contended {
                position.lower_stop(at.saturating_add(QUANTUM_BYTES));
            }
            let stop = position.stop();
            let at = at.saturating_sub(overlap);
            ByteRange::new(at, stop).map_or(Span::From(at), Span::Range)
        }
    }
}
