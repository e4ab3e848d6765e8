//! A session: one exchange at one position, which moves bytes from the upstream to the store until it meets its end.
//!
//! The session moves bytes and reports how it ended; it decides nothing. Its position is shared with the owner and with
//! readers: the bytes from `at` to `stop` are promised by it, and no other session is asked for them.
//!
//! ```text
//!         turn in the budget          first bytes
//! Queued ──────────────────► Asked ───────────────► Moving ──► Outcome
//!    │ cancel: a new plan     ▲  │ refused, or no answer:
//!    ▼ has no use for it      │  ▼ the owner judges
//! cancelled                adopted: a reply that has opened the fill begins here
//! ```
//!
//! A stop of 0 ends a session from outside. It writes no more than what it has published: that a reader may have had,
//! and nobody else will bring it.
//!
//! The owner and the sessions of one fill run on one thread (runtimes.rs), so none of them sees another half-way
//! through a step. The fields of the position are atomics for the blocking threads that write, which move `at` and read
//! `stop`, and for readers and the API, which only look.

use crate::api::{SessionStage, SessionSummary};
use crate::ranges::ByteOffset;
use crate::store::StoreError;
use crate::upstream::UpstreamError;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Bytes that a session must bring to count as progress. A judgement: more than a header and an error page.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// The stage of a session that was given up before its turn: no number of a [`SessionStage`].
const CANCELLED: u8 = u8::MAX;

/// Where a session is, readable while it runs.
#[derive(Debug)]
pub(super) struct SessionPosition {
    /// The next byte that the session will bring. AcqRel (`fetch_max`) behind each publication and each write, Acquire
    /// where it is read: a plan that sees it finds the bytes before it. Release where it is set: behind bytes that were
    /// forwarded, back where the disk has refused some (`WriteBatch::give_up`), and where a reply begins elsewhere.
    pub(super) at: AtomicU64,
    /// Where the session ends; lowered only (`fetch_min`, AcqRel), once it has been asked for, unless the reply turns
    /// out to bring the whole; 0 once it is ended. Release where it is set, Acquire where it is read: a writer that
    /// sees 0 because the fill has retired sees `over` too.
    pub(super) stop: AtomicU64,
    /// Bytes that the session has brought. Relaxed where they are added: a count that orders nothing. It is read with
    /// Acquire, which pairs with nothing, and needs not.
    pub(super) moved: AtomicU64,
    /// A [`SessionStage`], or [`CANCELLED`]. AcqRel where a session leaves the queue: of its turn and its cancellation
    /// one succeeds. Release and Acquire else; a caller that only looks may be late.
    stage: AtomicU8,
    /// When it was asked for.
    asked: OnceLock<Instant>,
    /// The byte at which the session ends while it serves nobody. AcqRel where it is set, behind `leashed_at_arrival`,
    /// and Acquire where it is read: a session that sees the leash sees the count that belongs to it. Release where it
    /// is lifted.
    leash: AtomicU64,
    /// How many readers had come when the leash was set. Release and Acquire; see `leash`.
    pub(super) leashed_at_arrival: AtomicU64,
}

impl SessionPosition {
    pub(super) fn new(at: u64, stop: u64, stage: SessionStage) -> Arc<Self> {
        let position = Self {
            at: at.into(),
            stop: stop.into(),
            moved: 0.into(),
            stage: (SessionStage::Queued as u8).into(),
            asked: OnceLock::new(),
            leash: u64::MAX.into(),
            leashed_at_arrival: 0.into(),
        };
        position.set_stage(stage);
        Arc::new(position)
    }

    /// When it was asked for; now, where it still waits for its turn.
    pub(super) fn asked(&self) -> Instant {
        self.asked.get().copied().unwrap_or_else(Instant::now)
    }

    pub(super) fn stage(&self) -> SessionStage {
        match self.stage.load(Ordering::Acquire) {
            stage if stage == SessionStage::Queued as u8 => SessionStage::Queued,
            stage if stage == SessionStage::Asked as u8 => SessionStage::Asked,
            _ => SessionStage::Moving,
        }
    }

    /// Limits a session that serves none of the `arrivals` readers so far: it brings so many bytes more and then ends, unless
    /// it is released before, or another reader comes.
    pub(super) fn leash(&self, bytes: u64, arrivals: u64) {
        let end = self.at.load(Ordering::Acquire).saturating_add(bytes);
        self.leashed_at_arrival.store(arrivals, Ordering::Release);
        self.leash.fetch_min(end, Ordering::AcqRel);
    }

    /// Lifts the limit: the session serves a reader.
    pub(super) fn release(&self) {
        self.leash.store(u64::MAX, Ordering::Release);
    }

    pub(super) fn is_at_its_leash(&self, at: ByteOffset) -> bool {
        at >= self.leash.load(Ordering::Acquire)
    }

    /// Whether it has brought enough to be called progress: a few bytes and a cut, over and over, are
    /// a failure that must not be repeated without a rest.
    pub(super) fn has_progressed(&self) -> bool {
        self.moved.load(Ordering::Acquire) >= PROGRESS_BYTES
    }

    /// As it looks from outside.
    pub(super) fn summary(&self) -> SessionSummary {
        SessionSummary {
            at: self.at.load(Ordering::Acquire),
            stop: Some(self.stop.load(Ordering::Acquire)).filter(|stop| *stop != u64::MAX),
            stage: self.stage(),
        }
    }

    /// The turn has come: the session is asked for now; `false` where it was cancelled.
    pub(super) fn ask(&self) -> bool {
        let asked = self.leave_queue(SessionStage::Asked as u8);
        if asked {
            self.asked.get_or_init(Instant::now);
        }
        asked
    }

    /// Cancels a queued session; `false` where it is being asked for already. One that was ended between its turn and
    /// its end would have been asked for in vain.
    pub(super) fn cancel(&self) -> bool {
        self.leave_queue(CANCELLED)
    }

    fn leave_queue(&self, to: u8) -> bool {
        let queued = SessionStage::Queued as u8;
        self.stage
            .compare_exchange(queued, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    pub(super) fn set_stage(&self, stage: SessionStage) {
        if stage != SessionStage::Queued {
            self.asked.get_or_init(Instant::now);
        }
        self.stage.store(stage as u8, Ordering::Release);
    }
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Outcome {
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
    CalledBack,
    /// The session has brought as much as it may without a reader.
    Unattended,
    /// The machine has slept: the connection is dead, known or not.
    Slept,
    /// The session's task panicked, or bytes that it was to compare are gone.
    Lost,
    /// Bytes that should be those that are here are others.
    Disagrees,
}
