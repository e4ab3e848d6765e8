//! A session: one exchange at one position, which moves bytes from the upstream to the store until it meets its end.
//!
//! The session moves bytes and reports how it ended; it decides nothing. Its position is shared with the owner and with
//! readers: the bytes from `at` to `stop` are promised by it, and no other session is asked for them.
//!
//! ```text
//!              adopted: a reply that has opened the fill
//!                                  │
//!          ask: its turn           ▼        received: its first bytes
//!  Queued ─────────────────────► Asking ──────────────────────────────► Receiving
//!    │                             │                                       │
//!    │ cancel: a new plan          │ end: no plan has a use for it         │ end: it has its outcome, or no
//!    │ has no use for it           │ (refused or unanswered it is          │ plan has a use for it
//!    ▼                             ▼  dropped, and judged by the owner)    ▼
//!  Ended ◄─────────────────────────┴───────────────────────────────────────┘
//! ```
//!
//! Every transition is a method of [`SessionPosition`]. All but `end`, which holds from whatever state, compare the state
//! that they leave, so of two that meet one succeeds: a session whose turn has come is not cancelled, and one that has
//! ended does not receive. What is true in each state:
//!
//! - *Queued*: a asked. The owner may change its stop, or cancel it; nothing is promised to the upstream or a reader.
//! - *Asking*: its bytes are promised. The stop is lowered only, unless the reply turns out to bring the whole. The
//!   owner may move `at` when the reply tells where it begins.
//! - *Receiving*: `at` moves with each publication and each write, and back only where the disk has refused bytes.
//! - *Ended*: it promises nothing (`promised_until`), whatever `at` and `stop` say. It writes no more than what it has
//!   published: that a reader may have had, and nobody else will bring it.
//!
//! The owner and the sessions of one fill run on one thread (runtimes.rs), so none of them sees another half-way
//! through a step. The fields are atomics for the blocking threads that write, which move `at` and look whether the
//! session has ended, and for readers and the API, which only look. Refused: one lock around the state and its data. It
//! would be taken for each step that is written.

use crate::api::{SessionStage, SessionSummary};
use crate::clock::Instant;
use crate::ranges::ByteOffset;
use crate::store::StoreError;
use crate::upstream::UpstreamError;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes that a session must bring to count as progress. A judgement: more than a header and an error page.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// The state of a session; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::fill) enum SessionState {
    /// The session waits for its turn in the budget.
    Queued,
    /// The upstream is asked, or has answered and sent no byte yet.
    Asking,
    /// Bytes have come.
    Receiving,
    /// The session brings nothing more.
    Ended,
}

impl SessionState {
    fn of(number: u8) -> Self {
        let all = [Self::Queued, Self::Asking, Self::Receiving];
        let known = all.into_iter().find(|state| *state as u8 == number);
        known.unwrap_or(Self::Ended)
    }
}

/// Where a session is, readable while it runs.
#[derive(Debug)]
pub(in crate::fill) struct SessionPosition {
    /// The next byte that the session will bring. Written by the session and its writing threads, and by the owner when
    /// the reply begins elsewhere. AcqRel (`fetch_max`) behind each publication and each write, Acquire where it is
    /// read: a plan that sees it finds the bytes before it. Release where it is set: behind bytes that were forwarded,
    /// back where the disk has refused some (`WriteBatch::give_up`), and where a reply begins elsewhere.
    at: AtomicU64,
    /// Where the session ends. Written by the owner, and once by the session's task when its turn has come and others
    /// wait. AcqRel where it is lowered (`fetch_min`), Release where it is set, Acquire where it is read.
    stop: AtomicU64,
    /// Bytes that the session has brought; written by its task. Relaxed: a count that orders nothing.
    moved: AtomicU64,
    /// A [`SessionState`]; every transition is below. AcqRel where it changes: of a session's turn and its cancellation
    /// one succeeds, and a writer that sees it ended because the fill has retired (Acquire) sees that the fill is over
    /// too. A caller that only looks may be late.
    state: AtomicU8,
    /// When it was asked for; set once, where it leaves the queue.
    asked: OnceLock<Instant>,
    leash: SessionLeash,
}

/// The limit of a session that serves nobody. The owner sets and lifts it, the session looks at it with each batch.
#[derive(Debug)]
struct SessionLeash {
    /// The byte at which the session ends. AcqRel where it is set, behind `arrivals`, and Acquire where it is read: a
    /// session that sees the limit sees the count that belongs to it. Release where it is lifted.
    end: AtomicU64,
    /// How many readers had come when the limit was set. Release and Acquire; see `end`.
    arrivals: AtomicU64,
}

impl SessionPosition {
    fn new(at: ByteOffset, stop: ByteOffset, state: SessionState, asked: OnceLock<Instant>) -> Arc<Self> {
        Arc::new(Self {
            at: at.into(),
            stop: stop.into(),
            moved: 0.into(),
            state: (state as u8).into(),
            asked,
            leash: SessionLeash {
                end: u64::MAX.into(),
                arrivals: 0.into(),
            },
        })
    }

    /// A session that waits for its turn.
    pub(in crate::fill) fn queued(at: ByteOffset, stop: ByteOffset) -> Arc<Self> {
        Self::new(at, stop, SessionState::Queued, OnceLock::new())
    }

    /// A session whose reply is here already.
    pub(in crate::fill) fn adopted(at: ByteOffset, stop: ByteOffset) -> Arc<Self> {
        Self::new(at, stop, SessionState::Asking, Instant::now().into())
    }

    pub(in crate::fill) fn state(&self) -> SessionState {
        SessionState::of(self.state.load(Ordering::Acquire))
    }

    pub(in crate::fill) fn is_ended(&self) -> bool {
        self.state() == SessionState::Ended
    }

    fn change(&self, from: SessionState, to: SessionState) -> bool {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The turn has come: the session is asked for now; `false` where it was cancelled.
    pub(in crate::fill) fn ask(&self) -> bool {
        let asked = self.change(SessionState::Queued, SessionState::Asking);
        if asked {
            self.asked.get_or_init(Instant::now);
        }
        asked
    }

    /// Cancels a queued session; `false` where it is being asked for already. One that was ended between its turn and
    /// its end would have been asked for in vain.
    pub(in crate::fill) fn cancel(&self) -> bool {
        self.change(SessionState::Queued, SessionState::Ended)
    }

    /// The session has brought so many bytes more.
    pub(in crate::fill) fn received(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        // A look first: all batches but the first find it receiving.
        if self.state() == SessionState::Asking {
            self.change(SessionState::Asking, SessionState::Receiving);
        }
    }

    /// Ends the session, from whatever state.
    pub(in crate::fill) fn end(&self) {
        self.state.swap(SessionState::Ended as u8, Ordering::AcqRel);
    }

    /// The next byte that it will bring.
    pub(in crate::fill) fn at(&self) -> ByteOffset {
        self.at.load(Ordering::Acquire)
    }

    /// Moves on, and never back: a plan that reads this position finds the bytes before it.
    pub(in crate::fill) fn advance_to(&self, at: ByteOffset) {
        self.at.fetch_max(at, Ordering::AcqRel);
    }

    /// The session goes on elsewhere, before or behind where it is.
    pub(in crate::fill) fn move_to(&self, at: ByteOffset) {
        self.at.store(at, Ordering::Release);
    }

    /// Where it is to end, also once it has ended.
    pub(in crate::fill) fn stop(&self) -> ByteOffset {
        self.stop.load(Ordering::Acquire)
    }

    /// Another session, or nobody, brings the bytes from `stop` on.
    pub(in crate::fill) fn lower_stop(&self, stop: ByteOffset) {
        self.stop.fetch_min(stop, Ordering::AcqRel);
    }

    /// The session brings another stretch than it was begun for.
    pub(in crate::fill) fn set_stop(&self, stop: ByteOffset) {
        self.stop.store(stop, Ordering::Release);
    }

    /// The end of the bytes that are promised by it; 0 where none are, since it has ended.
    pub(in crate::fill) fn promised_until(&self) -> ByteOffset {
        match self.is_ended() {
            true => 0,
            false => self.stop(),
        }
    }

    /// When it was asked for; now, where it still waits for its turn.
    pub(in crate::fill) fn asked(&self) -> Instant {
        self.asked.get().copied().unwrap_or_else(Instant::now)
    }

    /// Limits a session that serves none of the `arrivals` readers so far: it brings so many bytes more and then ends, unless
    /// it is released before, or another reader comes.
    pub(in crate::fill) fn leash(&self, bytes: u64, arrivals: u64) {
        let end = self.at().saturating_add(bytes);
        self.leash.arrivals.store(arrivals, Ordering::Release);
        self.leash.end.fetch_min(end, Ordering::AcqRel);
    }

    /// Lifts the limit: the session serves a reader.
    pub(in crate::fill) fn release(&self) {
        self.leash.end.store(u64::MAX, Ordering::Release);
    }

    /// How many readers had come when the limit was set that the session has met at `at`.
    pub(in crate::fill) fn leashed_at(&self, at: ByteOffset) -> Option<u64> {
        let is_met = at >= self.leash.end.load(Ordering::Acquire);
        is_met.then(|| self.leash.arrivals.load(Ordering::Acquire))
    }

    /// Bytes that it has brought.
    pub(in crate::fill) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether it has brought enough to be called progress: a few bytes and a cut, over and over, are
    /// a failure that must not be repeated without a rest.
    pub(in crate::fill) fn has_progressed(&self) -> bool {
        self.moved() >= PROGRESS_BYTES
    }

    /// As it looks from outside. One that has ended is seen for a moment, until the owner hears of it: as it was.
    pub(in crate::fill) fn summary(&self) -> SessionSummary {
        SessionSummary {
            at: self.at(),
            stop: Some(self.promised_until()).filter(|stop| *stop != u64::MAX),
            stage: match self.state() {
                SessionState::Queued => SessionStage::Queued,
                SessionState::Asking => SessionStage::Asked,
                SessionState::Ended if self.moved() == 0 => SessionStage::Asked,
                SessionState::Receiving | SessionState::Ended => SessionStage::Moving,
            },
        }
    }
}

/// How a session ended.
#[derive(Debug)]
pub(in crate::fill) enum Outcome {
    /// The session met its end, or that of the object.
    Reached,
    /// The reply promised less than was asked for, and has kept that.
    Curtailed,
    /// The upstream's body ended where its framing said; the object had no length until now.
    Ended { length: u64, unverified: bool },
    /// The body was cut, reset or silent.
    Cut(UpstreamError),
    /// The body ended cleanly, but short of what it had promised.
    Short,
    /// The disk has no room or refuses, and nobody waits for what it does not take.
    Disk(StoreError),
    /// The connection was needed for somebody who waits.
    Preempted,
    /// The session has brought as much as it may without a reader.
    Unattended,
    /// The machine has slept: the connection is dead, known or not.
    Slept,
    /// The session's task panicked, or bytes that it was to compare are gone.
    Lost,
    /// Bytes that should be those that are here are others.
    Disagrees,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_turn_and_a_cancellation_the_first_counts() {
        let session = SessionPosition::queued(10, 20);
        assert!(session.ask() && !session.cancel());
        assert_eq!(session.summary().stage, SessionStage::Asked);
        let session = SessionPosition::queued(10, 20);
        assert!(session.cancel() && !session.ask());
        assert!(session.is_ended());
    }

    #[test]
    fn an_ended_session_promises_nothing_and_receives_no_more() {
        let session = SessionPosition::adopted(10, 20);
        session.received(5);
        assert_eq!(
            (session.state(), session.promised_until()),
            (SessionState::Receiving, 20)
        );
        session.end();
        session.received(1);
        assert_eq!((session.state(), session.promised_until()), (SessionState::Ended, 0));
        assert_eq!(session.summary().stage, SessionStage::Moving);
    }
}
