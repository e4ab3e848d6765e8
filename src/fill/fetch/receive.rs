//! The body of a session: from the upstream's reply into the store, and to readers that wait.
//!
//! `receive` is the whole of a session that moves (session.rs has its state):
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

use super::classify_reply::BodySpan;
use super::session::Outcome;
use super::write_batch::{WriteBatch, WriteTarget};
use crate::fill::disk::on_disk;
use crate::live::Stream;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::{Object, PassThroughReason, StoreError};
use crate::upstream::{Exchange, Framing, Permit, UpstreamError};
use bytes::Bytes;
use futures::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The most that is written at once, in bytes: bounds what a session holds in memory. A judgement.
const BATCH_BYTES: usize = 1 << 20;

/// The same for a stream: there are many of them, none in a hurry. A judgement.
const STREAM_BATCH_BYTES: usize = 64 * 1024;

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
/// before it begins (`demand::PEACE`).
const BETWEEN_PIECES: Duration = Duration::from_millis(250);

/// Moves the body into the object.
pub(in crate::fill) async fn receive(
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
    let stop_now = || position.promised_until();
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
        if let Some(arrivals) = position.leashed_at(at) {
            if !sink.shared.readers.unless_come_since(arrivals, || position.end()) {
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
            position.received(count);
            sink.shared.brought(count);
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
    /// A silence: no piece came while the batch could wait for more.
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
            match exchange.next().now_or_never() {
                Some(result) => next = result,
                None => return came,
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
            // A stream's bytes never pass unlogged: its own past makes room, or it ends.
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
            self.position.move_to(at);
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
        let patience = match self.shared.readers.gone_since() {
            // A player that asks piece by piece may be back in a moment; for nobody else is it worth a connection.
            Some(left) => BETWEEN_PIECES.saturating_sub(left.elapsed()),
            None => UNWANTED_AFTER,
        };
        timeout(patience, self.object.presence().awaited(rest)).await.is_ok()
    }
}
