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
//! `receive` is the whole of a session that moves:
//!
//! 1. Bytes that overlap with those that are here are compared, where a weak validator is all that joins the two.
//! 2. At the stop, or where it serves nobody at its leash: what is left is written, and the session ends.
//! 3. The next pieces are taken: one is waited for, and then all that have come with it.
//! 4. The stop is read once more, since another session may have begun meanwhile at a byte that this one would have
//!    come to; what lies behind it is cut off.
//! 5. The batch publishes the pieces: readers have them, and `at` is past them. Then it writes them (write_batch.rs),
//!    inline or on a blocking thread, so that no other fill is delayed. What the disk does not take is forwarded to
//!    readers that wait for it, piece by piece, as they take it; where none waits the session ends.
//! 6. Progress is counted after that: bytes that the disk has refused and no reader has taken are none.
//!
//! A stop of 0 ends a session from outside. It writes no more than what it has published: that a reader may have had,
//! and nobody else will bring it.
//!
//! The owner and the sessions of one fill run on one thread (runtimes.rs), so none of them sees another half-way
//! through a step. The fields of the position are atomics for the blocking threads that write, which move `at` and read
//! `stop`, and for readers and the API, which only look.

use super::classify_reply::BodySpan;
use super::context::Context;
use super::owner::on_disk;
use super::state::FillState;
use super::write_batch::WriteBatch;
use crate::api::{SessionStage, SessionSummary};
use crate::live::Stream;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::{Object, PassThroughReason, StoreError};
use crate::sync::lock;
use crate::upstream::{Exchange, Framing, Permit, UpstreamError};
use bytes::Bytes;
use futures::poll;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The most that is written at once, in bytes: bounds what a session holds in memory. A judgement.
const BATCH_BYTES: usize = 1 << 20;

/// The same for a stream: there are many of them, none in a hurry. A judgement.
const STREAM_BATCH_BYTES: usize = 64 * 1024;

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
    leashed_at_arrival: AtomicU64,
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

    fn is_at_its_leash(&self, at: ByteOffset) -> bool {
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

/// How long a session that passes bytes on waits for the next reader: it holds a connection. Two seconds:
/// docs/decisions/0009.
const UNWANTED_AFTER: Duration = Duration::from_secs(2);

/// How often a stream makes room in its own log for one piece: a judgement; each time halves the log.
const MOST_ROOM_MADE: usize = 4;

/// The least that a stream drops of its log at once, in bytes: a judgement, since each time writes the catalog out.
const LEAST_ROOM: u64 = 512 * 1024;

/// A log is dropped up to a multiple of this many bytes: a judgement, whole pages on any machine.
const ROOM_GRAIN: u64 = 64 * 1024;

/// How long after the last reader has left a session that passes bytes on still waits. As long as the background does
/// before it begins (`wishes::PEACE`).
const BETWEEN_PIECES: Duration = Duration::from_millis(250);

/// The target of a session's bytes.
#[derive(Clone)]
pub(super) struct WriteTarget {
    pub(super) session: u64,
    pub(super) thread: Handle,
    pub(super) context: Arc<Context>,
    pub(super) shared: Arc<FillState>,
    pub(super) object: Arc<Object>,
    pub(super) position: Arc<SessionPosition>,
    /// The longest silence of the upstream.
    pub(super) idle: Duration,
}

/// Moves the body into the object.
pub(super) async fn receive(
    mut exchange: Exchange,
    brings: BodySpan,
    compared_to: Option<ByteOffset>,
    sink: &WriteTarget,
    permit: &Permit,
    on_progress: impl FnOnce(),
) -> Outcome {
    let position = &sink.position;
    let framing = exchange.reply.framing;
    let mut on_progress = Some(on_progress);
    // Bytes before that are compared, not written.
    let begin = compared_to.unwrap_or(brings.at).max(brings.at);
    let mut left_over = match compare(&mut exchange, sink, brings.at, begin).await {
        Ok(left_over) => Some(left_over).filter(|piece| !piece.is_empty()),
        Err(outcome) => return outcome,
    };
    let mut batch = WriteBatch::new(sink, begin);
    let stop_now = || position.stop.load(Ordering::Acquire);
    loop {
        let stop = stop_now().min(brings.end.unwrap_or(u64::MAX));
        // A reply may promise less than was asked for.
        let asked = stop_now().min(brings.total.unwrap_or(u64::MAX));
        let at = batch.end();
        if at >= stop {
            // The stop may have come nearer since more was taken.
            if let Err(error) = sink.take(batch, at, stop).await {
                return Outcome::Disk(error);
            }
            let whole = at >= asked || brings.end.is_none();
            return if whole { Outcome::Reached } else { Outcome::Curtailed };
        }
        if position.is_at_its_leash(at) {
            let arrivals = position.leashed_at_arrival.load(Ordering::Acquire);
            if !sink.shared.ends_unattended(position, arrivals) {
                // The owner decides anew, with the reader that has come.
                position.release();
                continue;
            }
            return match sink.take(batch, at, stop).await {
                Ok(_) => Outcome::Unattended,
                Err(error) => Outcome::Disk(error),
            };
        }
        let mut came = match left_over.take() {
            Some(piece) => Received::of(piece),
            None => Received::next(&mut exchange, sink, &batch).await,
        };
        // Another session may have begun at what this one would have come to.
        let (stop, asked) = (stop.min(stop_now()), asked.min(stop_now()));
        let count = came.clip(stop.saturating_sub(at));
        batch.add(came.pieces);
        let at = batch.end();
        // The upstream's allowed rate; the socket holds the rest back.
        let pause = if count > 0 { permit.moved(count) } else { None };
        let is_last = came.ending.is_some() || at >= stop || came.is_late || pause.is_some();
        let until = if is_last { at } else { batch.whole_steps() };
        batch = match sink.take(batch, until, stop).await {
            Ok(batch) => batch,
            Err(error) => return Outcome::Disk(error),
        };
        if count > 0 {
            // After the batch was taken: a failed write is no progress.
            position.moved.fetch_add(count, Ordering::Relaxed);
            lock(&sink.shared.throughput).add(count, Instant::now());
            position.set_stage(SessionStage::Moving);
            if (position.has_progressed() || at >= asked)
                && let Some(report) = on_progress.take()
            {
                report();
            }
        }
        if let Some(pause) = pause {
            // Paces the exchange to the rate that the upstream is allowed (`bytes_per_second`).
            tokio::time::sleep(pause).await;
        }
        if let Some(outcome) = came
            .ending
            .filter(|_| at < stop)
            .map(|ending| ending.outcome(at, brings, framing))
        {
            return outcome;
        }
    }
}

impl Ending {
    /// The outcome of a session whose reply ends at `at`, before it was to stop.
    fn outcome(self, at: ByteOffset, brings: BodySpan, framing: Framing) -> Outcome {
        match self {
            Self::Failed(error) => Outcome::Cut(error),
            Self::Clean if brings.end.is_some() => Outcome::Short,
            Self::Clean => Outcome::Ended {
                length: at,
                unverified: framing == Framing::Close,
            },
        }
    }
}

/// Reads the bytes `at..until` of a reply and compares them with those that are stored; returns what has come beyond them.
///
/// # Errors
/// How the session ends: they differ, or are not to be had.
async fn compare(
    exchange: &mut Exchange,
    sink: &WriteTarget,
    mut at: ByteOffset,
    until: ByteOffset,
) -> Result<Bytes, Outcome> {
    while at < until {
        let mut piece = match exchange.next_within(sink.idle).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Err(Outcome::Short),
            Err(error) => return Err(Outcome::Cut(error)),
        };
        let most = usize::try_from(until - at).unwrap_or(usize::MAX);
        let theirs = piece.split_to(piece.len().min(most));
        let (object, from, count) = (Arc::clone(&sink.object), at, theirs.len() as u64);
        let same = on_disk(move || are_stored(&object, from, &theirs)).await;
        match same {
            Some(true) => at += count,
            Some(false) => return Err(Outcome::Disagrees),
            None => return Err(Outcome::Lost),
        }
        if !piece.is_empty() {
            return Ok(piece);
        }
    }
    Ok(Bytes::new())
}

/// Whether these bytes are those that are stored from `at` on; `None` where not all of them are stored any more. For a
/// blocking thread.
fn are_stored(object: &Object, mut at: ByteOffset, mut bytes: &[u8]) -> Option<bool> {
    while !bytes.is_empty() {
        // Bytes may be retracted while they are read; then the epoch has risen.
        let epoch = object.presence().epoch();
        if object.presence().available().run_at(at)? < at + bytes.len() as u64 {
            return None;
        }
        let stored = match object.presence().held(at) {
            Some(held) => held,
            None => object.source().read_blocking(at, bytes.len()).ok()?,
        };
        if object.presence().epoch() != epoch || stored.is_empty() {
            return None;
        }
        let count = stored.len().min(bytes.len());
        if stored[..count] != bytes[..count] {
            return Some(false);
        }
        bytes = &bytes[count..];
        at += count as u64;
    }
    Some(true)
}

enum Ending {
    Clean,
    Failed(UpstreamError),
}

/// The pieces that came at once.
struct Received {
    pieces: Vec<Bytes>,
    /// How the body has ended, where it has.
    ending: Option<Ending>,
    /// Nothing came while the batch could wait for more.
    is_late: bool,
}

impl Received {
    /// A piece that had come before.
    fn of(piece: Bytes) -> Self {
        Self {
            pieces: vec![piece],
            ending: None,
            is_late: false,
        }
    }

    /// Waits for one piece, where the batch may wait, then takes what else is there already.
    async fn next(exchange: &mut Exchange, sink: &WriteTarget, batch: &WriteBatch) -> Self {
        let mut came = Self {
            pieces: Vec::new(),
            ending: None,
            is_late: false,
        };
        let mut next = match batch.may_wait() {
            None => exchange.next_within(sink.idle).await,
            Some(time) => match timeout(time, exchange.next()).await {
                Ok(next) => next,
                Err(_) => {
                    came.is_late = true;
                    return came;
                }
            },
        };
        let most = match sink.shared.stream() {
            Some(_) => STREAM_BATCH_BYTES,
            None => BATCH_BYTES,
        };
        let mut bytes = 0;
        loop {
            match next {
                Err(error) => came.ending = Some(Ending::Failed(error)),
                Ok(None) => came.ending = Some(Ending::Clean),
                Ok(Some(piece)) => {
                    bytes += piece.len();
                    came.pieces.push(piece);
                }
            }
            if bytes >= most || came.ending.is_some() {
                return came;
            }
            match poll!(pin!(exchange.next())) {
                Poll::Ready(result) => next = result,
                Poll::Pending => return came,
            }
        }
    }

    /// Cuts what is more than `room`, in bytes; how many they are then.
    fn clip(&mut self, room: u64) -> u64 {
        let mut left = usize::try_from(room).unwrap_or(usize::MAX);
        for piece in &mut self.pieces {
            piece.truncate(left);
            left -= piece.len();
        }
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl WriteTarget {
    /// Stores what of the batch lies before `until`, or passes it on; returns the rest. Fails where the disk does not
    /// take it and nobody waits for it.
    async fn take(&self, batch: WriteBatch, until: ByteOffset, stop: ByteOffset) -> Result<WriteBatch, StoreError> {
        let writes = batch.begins_before(until);
        let (mut batch, mut written) = batch.write(until).await;
        if let Some(stream) = self.shared.stream() {
            // Nothing of a stream passes unlogged: its own past makes room, or it ends.
            for _ in 0..MOST_ROOM_MADE {
                match written {
                    Err(error) if error.missing_bytes().is_some() => {
                        if !self.make_room(stream).await {
                            return Err(error);
                        }
                    }
                    _ => break,
                }
                (batch, written) = batch.write(until).await;
            }
            return written.map(|()| batch);
        }
        let Err(error) = written else {
            if writes && self.object.presence().pass_through_reason().is_some() && self.object.sink().is_materialized()
            {
                tracing::info!(url = self.object.url(), "the disk takes bytes again");
                self.object.presence().stop_pass_through();
            }
            return Ok(batch);
        };
        let why = if error.missing_bytes().is_some() {
            PassThroughReason::DiskFull
        } else {
            PassThroughReason::DiskFailed
        };
        if self.object.presence().pass_through_reason() != Some(why) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(url = self.object.url(), error, "passing bytes on without storing them");
            self.object.presence().begin_pass_through(why);
        }
        let (mut at, pieces) = batch.give_up();
        for piece in pieces {
            if !self.is_awaited(at, stop).await {
                return Err(error);
            }
            let count = piece.len() as u64;
            self.object.presence().forward_unstored(self.session, at, piece, why);
            at += count;
            self.position.at.store(at, Ordering::Release);
        }
        Ok(WriteBatch::new(self, at))
    }

    /// Drops the older half of a stream's log; `false` where that is not worth it.
    async fn make_room(&self, stream: &Stream) -> bool {
        let (first, end) = stream.bounds();
        // Half: listeners that read along are near the end.
        let middle = (first + (end - first) / 2) / ROOM_GRAIN * ROOM_GRAIN;
        if middle < first + LEAST_ROOM {
            return false;
        }
        tracing::warn!(
            url = self.object.url(),
            middle,
            "no room: the window of a stream is halved"
        );
        stream.forget_before(middle);
        let object = Arc::clone(&self.object);
        let dropped = tokio::task::spawn_blocking(move || object.sink().drop_before(middle)).await;
        matches!(dropped, Ok(Ok(_)))
    }

    async fn is_awaited(&self, at: ByteOffset, stop: ByteOffset) -> bool {
        let Some(rest) = ByteRange::new(at, stop.max(at.saturating_add(1))) else {
            return false;
        };
        // The time at which the last reader left: while others are here it says nothing.
        let left = self.shared.access().1;
        let patience = match left.filter(|_| !self.shared.has_readers()) {
            // A player that asks piece by piece may be back in a moment; for nobody else is it worth a connection.
            Some(left) => BETWEEN_PIECES.saturating_sub(left.elapsed()),
            None => UNWANTED_AFTER,
        };
        timeout(patience, self.object.presence().awaited(rest)).await.is_ok()
    }
}
