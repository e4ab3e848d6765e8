//! One exchange at one position: bytes from the upstream to the store, until it meets its end.
//!
//! The session moves bytes and reports how it ended; it decides nothing. What has arrived together
//! is written together, on a blocking thread: while that waits for the disk, the network fills the
//! next batch, and no other fill is delayed.

use super::join::Brings;
use super::meter::Meter;
use super::why::{SessionLine, Stage};
use crate::store::{Object, StoreError};
use crate::upstream::{Exchange, Framing, Permit, UpstreamError};
use bytes::Bytes;
use futures::poll;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

/// The most that is written at once, in bytes: bounds what a session holds in memory.
const BATCH_BYTES: usize = 1 << 20;

/// What a session must bring to count as progress, in bytes.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// Where a session is, readable while it runs.
#[derive(Debug)]
pub(super) struct Position {
    /// The next byte it will bring.
    pub(super) at: AtomicU64,
    /// Where it ends; only ever lowered, once it has been asked for.
    pub(super) stop: AtomicU64,
    /// What it has brought.
    pub(super) moved: AtomicU64,
    stage: AtomicU8,
}

impl Position {
    pub(super) fn new(at: u64, stop: u64, stage: Stage) -> Arc<Self> {
        Arc::new(Self {
            at: at.into(),
            stop: stop.into(),
            moved: 0.into(),
            stage: (stage as u8).into(),
        })
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            stage if stage == Stage::Queued as u8 => Stage::Queued,
            stage if stage == Stage::Asked as u8 => Stage::Asked,
            _ => Stage::Moving,
        }
    }

    /// Whether it has brought enough to be called progress: a few bytes and a cut, over and over, are
    /// a failure that must not be repeated without a rest.
    pub(super) fn has_progressed(&self) -> bool {
        self.moved.load(Ordering::Acquire) >= PROGRESS_BYTES
    }

    /// As it looks from outside.
    pub(super) fn line(&self) -> SessionLine {
        SessionLine {
            at: self.at.load(Ordering::Acquire),
            stop: Some(self.stop.load(Ordering::Acquire)).filter(|stop| *stop != u64::MAX),
            stage: self.stage(),
        }
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It met its end, or that of the object.
    Reached,
    /// The reply promised less than was asked for, and has kept that.
    Curtailed,
    /// The upstream's body ended where its framing said; the object had no length until now.
    Ended { length: u64, unverified: bool },
    /// The body was cut, reset or silent.
    Cut(UpstreamError),
    /// The body ended cleanly, but short of what it had promised.
    Short,
    /// The disk refused.
    Disk(StoreError),
    /// The connection was needed for somebody who waits.
    CalledBack,
    /// The machine has slept: the connection is dead, known or not.
    Slept,
    /// The session's task panicked.
    Lost,
}

/// Moves the body into the object.
pub(super) async fn receive(
    mut exchange: Exchange,
    brings: Brings,
    object: Arc<Object>,
    position: Arc<Position>,
    meter: Arc<Mutex<Meter>>,
    permit: &Permit,
    on_progress: impl FnOnce(),
) -> Outcome {
    let framing = exchange.reply.framing;
    let mut on_progress = Some(on_progress);
    let mut at = brings.at;
    loop {
        let stop = position
            .stop
            .load(Ordering::Acquire)
            .min(brings.end.unwrap_or(u64::MAX));
        // A reply may promise less than was asked for.
        let asked = position
            .stop
            .load(Ordering::Acquire)
            .min(brings.total.unwrap_or(u64::MAX));
        if at >= stop {
            let whole = at >= asked || brings.end.is_none();
            return if whole { Outcome::Reached } else { Outcome::Curtailed };
        }
        let mut batch = Batch::default();
        let ending = batch.gather(&mut exchange).await;
        batch.clip(stop - at);
        if batch.bytes > 0 {
            let count = batch.bytes as u64;
            if let Err(error) = write(&object, &position, at, batch.pieces).await {
                return Outcome::Disk(error);
            }
            at += count;
            position.moved.fetch_add(count, Ordering::Relaxed);
            meter
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(count, Instant::now());
            position.set_stage(Stage::Moving);
            if (position.has_progressed() || at >= asked)
                && let Some(report) = on_progress.take()
            {
                report();
            }
            // The upstream's allowed rate; the socket holds the rest back.
            if let Some(pause) = permit.moved(count) {
                tokio::time::sleep(pause).await;
            }
        }
        match ending {
            None => {}
            Some(_) if at >= stop => {}
            Some(Ending::Failed(error)) => return Outcome::Cut(error),
            Some(Ending::Clean) if brings.end.is_some() => return Outcome::Short,
            Some(Ending::Clean) => {
                return Outcome::Ended {
                    length: at,
                    unverified: framing == Framing::Close,
                };
            }
        }
    }
}

enum Ending {
    Clean,
    Failed(UpstreamError),
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Waits for one piece, then takes what else is there already.
    async fn gather(&mut self, exchange: &mut Exchange) -> Option<Ending> {
        let mut next = exchange.next().await;
        loop {
            match next {
                Err(error) => return Some(Ending::Failed(error)),
                Ok(None) => return Some(Ending::Clean),
                Ok(Some(piece)) => {
                    self.bytes += piece.len();
                    self.pieces.push(piece);
                }
            }
            if self.bytes >= BATCH_BYTES {
                return None;
            }
            match poll!(pin!(exchange.next())) {
                Poll::Ready(result) => next = result,
                Poll::Pending => return None,
            }
        }
    }

    fn clip(&mut self, room: u64) {
        let mut room = usize::try_from(room).unwrap_or(usize::MAX);
        for piece in &mut self.pieces {
            piece.truncate(room);
            room -= piece.len();
        }
        self.bytes = self.pieces.iter().map(Bytes::len).sum();
    }
}

/// The position moves with every piece: readers follow piece by piece, and one that is ahead of the
/// position by a whole batch would look like one that is far away.
async fn write(object: &Arc<Object>, position: &Arc<Position>, at: u64, pieces: Vec<Bytes>) -> Result<(), StoreError> {
    let (object, position) = (Arc::clone(object), Arc::clone(position));
    let writing = tokio::task::spawn_blocking(move || {
        let mut at = at;
        for piece in pieces {
            // An ended session writes no more: its place is another's now.
            if position.stop.load(Ordering::Acquire) == 0 {
                break;
            }
            object.write_missing(at, &piece)?;
            at += piece.len() as u64;
            position.at.store(at, Ordering::Release);
        }
        Ok(())
    });
    writing
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
