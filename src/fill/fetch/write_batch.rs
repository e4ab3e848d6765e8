//! The bytes that a session has received and not written yet.
//!
//! Readers have them from memory as soon as they are here. They are written in steps that end where the file has a
//! whole number of them: the kernel keeps what is written so in few large pieces, and both the write and all later
//! reads take half the time. So the end of what has come waits a moment for what follows it. A step that is a copy into
//! memory and nothing more is written where it has arrived, others on a thread that may wait.

use super::session::SessionPosition;
use crate::clock::Instant;
use crate::fill::context::Context;
use crate::fill::disk::on_disk;
use crate::fill::plan::NEAR_BYTES;
use crate::fill::state::FillState;
use crate::ranges::ByteOffset;
use crate::store::{InFlightWrite, Object, StoreError};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The length of a step, in bytes. The kernel finds the pages of pieces that are so long, or longer, one level up in
/// its tree: with half as long ones that tree is megabytes for a film, and a hit of 16 KiB takes 0.4 µs more. The
/// position of a session lags behind what it has written by this much at most. Measured: docs/decisions/0021; steps of
/// 512 KiB and more gain nothing (docs/performance.md).
const STEP_BYTES: u64 = 256 * 1024;

const _: () = assert!(STEP_BYTES < NEAR_BYTES, "a reader at the end of a step must look near");

/// How long what has come waits to be written with what follows it. A judgement (docs/decisions/0015): readers have
/// those bytes meanwhile.
const LINGER: Duration = Duration::from_millis(25);

/// With less room than this it is not certain that anything of an object can be stored. A judgement.
const SCARCE_BYTES: u64 = 64 * 1024;

/// The end of an object is not handed on before it is written: who has had all of it finds it stored. A page: a
/// judgement (docs/decisions/0015).
const LAST_BYTES: u64 = 4096;

/// The target of a session's bytes.
#[derive(Clone)]
pub(in crate::fill) struct WriteTarget {
    pub(in crate::fill) session: u64,
    pub(in crate::fill) thread: Handle,
    pub(in crate::fill) context: Arc<Context>,
    pub(in crate::fill) shared: Arc<FillState>,
    pub(in crate::fill) object: Arc<Object>,
    pub(in crate::fill) position: Arc<SessionPosition>,
    /// The longest silence of the upstream.
    pub(in crate::fill) idle: Duration,
}

/// The bytes from `at` on. What readers could take of them is written also where the session ends, and this is dropped:
/// nobody else will bring it.
pub(in crate::fill) struct WriteBatch {
    sink: WriteTarget,
    unwritten: Pieces,
    /// When the first of them came.
    since: Instant,
    handed: InFlightWrite,
    /// The batch is being written for the last time.
    is_last: bool,
}

impl WriteBatch {
    /// Nothing yet.
    pub(in crate::fill) fn new(sink: &WriteTarget, at: ByteOffset) -> Self {
        Self {
            sink: sink.clone(),
            unwritten: Pieces::at(at),
            since: Instant::now(),
            handed: sink.object.sink().in_flight_write(),
            is_last: false,
        }
    }

    /// Where it ends: the first byte that is still to come.
    pub(in crate::fill) fn end(&self) -> ByteOffset {
        self.unwritten.end()
    }

    /// Where the last whole step of it ends; before its beginning where it has none.
    pub(in crate::fill) fn whole_steps(&self) -> ByteOffset {
        if self.may_wait().is_some() {
            self.end() / STEP_BYTES * STEP_BYTES
        } else {
            self.end()
        }
    }

    /// How long it may wait for more. It does not where nothing is to be written, where its readers would wait with it,
    /// and where the disk has refused before.
    pub(in crate::fill) fn may_wait(&self) -> Option<Duration> {
        let has_all = self.handed.end() >= self.end();
        let may = !self.unwritten.is_empty() && has_all && self.sink.object.presence().pass_through_reason().is_none();
        may.then(|| LINGER.saturating_sub(self.since.elapsed()))
    }

    /// Adds what has come, and hands it to readers. From then on it is as good as written: a reader that has
    /// taken it, and waits for the next, waits for this session.
    pub(in crate::fill) fn add(&mut self, pieces: Vec<Bytes>) {
        let at = self.end();
        if self.unwritten.is_empty() {
            self.since = Instant::now();
        }
        self.publish(at, &pieces);
        self.unwritten.add(pieces);
    }

    fn publish(&mut self, at: ByteOffset, pieces: &[Bytes]) {
        let (object, position) = (&self.sink.object, &self.sink.position);
        // Of a stream, who reads along is told where it is after it is written.
        if self.sink.shared.stream().is_some() || position.is_ended() {
            return;
        }
        // Where there may be no room for it, its first readers are told so: it is tried before they have any of it.
        if !object.sink().is_materialized() && self.sink.context.store.room().is_some_and(|room| room < SCARCE_BYTES) {
            return;
        }
        // The last bytes stay back; see `LAST_BYTES`.
        let most = object
            .length()
            .map_or(u64::MAX, |length| length.saturating_sub(LAST_BYTES).saturating_sub(at));
        let (mut handed, mut bytes) = (pieces.to_vec(), 0);
        for piece in &mut handed {
            piece.truncate(usize::try_from(most - bytes).unwrap_or(usize::MAX));
            bytes += piece.len() as u64;
        }
        // A reader that has taken all of them before this session moves on would seem to be far ahead of it.
        self.handed.publish(at, &handed, || position.advance_to(at + bytes));
    }

    /// Whether it has bytes before `until`.
    pub(in crate::fill) fn begins_before(&self, until: ByteOffset) -> bool {
        self.unwritten.at < until.min(self.end())
    }

    /// Stores what lies before `until`; returns the rest, and why there is more of it where the disk refuses.
    pub(in crate::fill) async fn write(mut self, until: ByteOffset) -> (Self, Result<(), StoreError>) {
        if !self.begins_before(until) {
            return (self, Ok(()));
        }
        if self.write_inline(until) {
            // Where the next bytes are here already, it is the turn of the others on this thread.
            tokio::task::yield_now().await;
        }
        if !self.begins_before(until) && !self.sink.position.is_ended() {
            return (self, Ok(()));
        }
        let writing = on_disk(move || {
            let written = self.write_now(until);
            if self.sink.position.is_ended() {
                // The session was ended meanwhile: its fill may be over, and have recorded its progress.
                self.record();
            }
            (self, written)
        });
        writing.await
    }

    /// [`WriteBatch::write`], for a blocking thread. The position moves with every step: readers follow what is written, and one
    /// that is ahead of the position by a whole batch would look like one that is far away and get a session of its own.
    fn write_now(&mut self, until: ByteOffset) -> Result<(), StoreError> {
        let written = self.write_steps(until);
        self.wrote();
        written
    }

    /// Writes what it can without waiting for more than a copy, on the thread that has received it. What fails is tried
    /// again by one that may wait, and make room. Whether anything was written.
    fn write_inline(&mut self, until: ByteOffset) -> bool {
        let (object, position) = (Arc::clone(&self.sink.object), Arc::clone(&self.sink.position));
        // Of a stream more is to be done, and what was ended is to be recorded.
        if self.sink.shared.stream().is_some() || object.is_discarded() {
            return false;
        }
        let begun = self.unwritten.at;
        while !position.is_ended() && self.begins_before(until) {
            let write = |at, step: &[Bytes]| object.sink().write_inline(at, step).then_some(()).ok_or(());
            if self.write_step(until, write).is_err() {
                break;
            }
        }
        let has_written = self.unwritten.at > begun;
        if has_written {
            self.wrote();
        }
        has_written
    }

    /// Lets go of what was written; what is left waits anew.
    fn wrote(&mut self) {
        self.handed.written_to(self.unwritten.at);
        self.since = Instant::now();
    }

    fn write_steps(&mut self, until: ByteOffset) -> Result<(), StoreError> {
        let sink = self.sink.clone();
        loop {
            // An ended session writes no more, its place is another's now; but what it has handed on nobody else will
            // bring.
            let until = match sink.position.is_ended() {
                true => self.handed.end(),
                false => until,
            };
            let write = |at, step: &[Bytes]| sink.context.write(&sink.shared, &sink.object, at, step);
            if !self.write_step(until, write)? {
                return Ok(());
            }
        }
    }

    /// Has the next step before `until` written; whether there was one.
    fn write_step<E>(
        &mut self,
        until: ByteOffset,
        write: impl FnOnce(ByteOffset, &[Bytes]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (at, step) = (self.unwritten.at, self.unwritten.take_step(until));
        if step.is_empty() {
            return Ok(false);
        }
        if let Err(error) = write(at, &step) {
            self.unwritten.put_back(step);
            return Err(error);
        }
        if let Some(stream) = self.sink.shared.stream() {
            let mut at = at;
            for piece in &step {
                stream.look(at, piece);
                at += piece.len() as u64;
            }
        }
        // After the write, and never back: a plan that reads this position finds the bytes before it, and what was
        // published is further on already.
        self.sink.position.advance_to(self.unwritten.at);
        Ok(true)
    }

    fn record(&self) {
        let object = &self.sink.object;
        if let Err(error) = object.sink().commit() {
            tracing::debug!(url = object.url(), %error, "could not record what an ended session brought last");
        }
        let (shared, context) = (&self.sink.shared, &self.sink.context);
        if !shared.is_over() && !*context.stopping.borrow() {
            // The fill releases the preallocated room that its sessions leave.
            return;
        }
        if let Err(error) = object.sink().release_preallocated() {
            tracing::debug!(url = object.url(), %error, "could not give back the room that an ended session had ahead");
        }
    }

    /// Takes what the disk has refused out of readers' hands; where it begins.
    pub(in crate::fill) fn give_up(mut self) -> (ByteOffset, VecDeque<Bytes>) {
        // The session will bring them still: a reader that begins to wait for them gets no session of its own.
        self.sink.position.move_to(self.unwritten.at);
        self.handed.take_back();
        (self.unwritten.at, std::mem::take(&mut self.unwritten.pieces))
    }
}

impl Drop for WriteBatch {
    fn drop(&mut self) {
        if self.is_last || self.unwritten.is_empty() || self.handed.end() <= self.unwritten.at {
            return;
        }
        // Nothing is in it: the pieces go on in `owed`, and are not withdrawn when this is dropped.
        let nothing = self.sink.object.sink().in_flight_write();
        let mut owed = Self {
            sink: self.sink.clone(),
            unwritten: std::mem::replace(&mut self.unwritten, Pieces::at(0)),
            since: self.since,
            handed: std::mem::replace(&mut self.handed, nothing),
            is_last: true,
        };
        // Where the program ends meanwhile it is not written; nor is it recorded.
        self.sink.thread.spawn_blocking(move || {
            if let Err(error) = owed.write_now(owed.handed.end()) {
                tracing::debug!(url = owed.sink.object.url(), %error, "what an ended session brought last is lost");
            }
            owed.record();
        });
    }
}

/// Neighbouring pieces, the first of which begins at `at`.
#[derive(Debug)]
struct Pieces {
    at: ByteOffset,
    pieces: VecDeque<Bytes>,
    bytes: u64,
}

impl Pieces {
    fn at(at: ByteOffset) -> Self {
        Self {
            at,
            pieces: VecDeque::new(),
            bytes: 0,
        }
    }

    fn end(&self) -> ByteOffset {
        self.at + self.bytes
    }

    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn add(&mut self, pieces: Vec<Bytes>) {
        self.bytes += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.pieces.extend(pieces);
    }

    /// Takes off what lies before the next multiple of [`STEP_BYTES`], and before `until`; nothing at the end.
    fn take_step(&mut self, until: ByteOffset) -> Vec<Bytes> {
        let end = (self.at / STEP_BYTES + 1).saturating_mul(STEP_BYTES).min(until);
        let mut room = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let mut step = Vec::new();
        while room > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let taken = piece.split_to(piece.len().min(room));
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
            room -= taken.len();
            self.at += taken.len() as u64;
            self.bytes -= taken.len() as u64;
            step.push(taken);
        }
        step
    }

    /// Undoes the last [`Pieces::take_step`].
    fn put_back(&mut self, step: Vec<Bytes>) {
        for piece in step.into_iter().rev() {
            self.at -= piece.len() as u64;
            self.bytes += piece.len() as u64;
            self.pieces.push_front(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(step: &[Bytes]) -> Vec<usize> {
        step.iter().map(Bytes::len).collect()
    }

    #[test]
    fn write_steps_end_at_multiples_of_their_size_in_the_file() {
        let step = STEP_BYTES as usize;
        let mut pieces = Pieces::at(STEP_BYTES - 100);
        pieces.add(vec![Bytes::from(vec![0; 30]), Bytes::new(), Bytes::from(vec![1; step])]);
        assert_eq!(pieces.end(), 2 * STEP_BYTES - 70);
        let first = pieces.take_step(pieces.end());
        assert_eq!((lengths(&first), pieces.at), (vec![30, 0, 70], STEP_BYTES));
        pieces.put_back(first);
        assert_eq!((pieces.at, pieces.end()), (STEP_BYTES - 100, 2 * STEP_BYTES - 70));
        assert_eq!(
            lengths(&pieces.take_step(STEP_BYTES - 90)),
            [10],
            "no more than is asked for"
        );
        assert_eq!(lengths(&pieces.take_step(u64::MAX)), [20, 0, 70]);
        assert_eq!(lengths(&pieces.take_step(u64::MAX)), [step - 70]);
        assert!(pieces.is_empty() && pieces.take_step(u64::MAX).is_empty());
    }
}
