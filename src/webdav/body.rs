//! The bytes of a file of the tree, as they go out.
//!
//! Other programs may write to a file while it is sent, and one response is of one representation. So each block is read, then the
//! file's stamp is compared with the one that the answer began with, and only then is the block sent.
//!
//! ```text
//! the stamp        under a strong tag                     under a weak tag
//! is the same      the block is sent                      the block is sent
//! is another       the whole file is summed: the same     what was sent is read again: the same bytes, and it goes on
//!                  digest, and it goes on; else, or       from there; else the body breaks. A file that is written to
//!                  without a digest, the body breaks      all the time is compared as what was sent doubles, and
//!                                                         before the last block
//! is shorter       the body breaks                        the body breaks
//! ```
//!
//! A touch cuts nobody off, nor does a torrent client that fills another part of the file. A broken body is a broken connection:
//! the promised length is never made up.

use crate::directory::{Digest, DigestCache, Stamp, Tag, TreePath, stamp};
use crate::ranges::ByteOffset;
use crate::serve::multipart::Segment;
use crate::serve::{SendQuantum, first_byte};
use crate::store::{read_blocking, read_now};
use crate::telemetry::Metrics;
use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::hash::Hasher;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use twox_hash::XxHash3_64;

/// The largest file that is summed because it was touched while it was sent: a client waits for that.
const MAX_SUMMED_BYTES: u64 = 4 << 30;

/// How many bytes must have been sent before they are compared again.
const COMPARED_FROM: u64 = 4 << 20;

/// Why the body of a file breaks.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the file was written to while it was sent")]
    Changed,
    #[error("the disk did not give the file's bytes: {0}")]
    Disk(#[from] io::Error),
    #[error("a reading thread was lost")]
    Lost,
}

/// Where reads are done that may wait for the disk.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    pub(super) threads: tokio::runtime::Handle,
    /// The turns of those who wait for the mount that the file is on; `None` on the directory's own.
    pub(super) turns: Option<Arc<Semaphore>>,
}

/// What a body is of.
pub(super) struct FileSource {
    pub(super) path: TreePath,
    pub(super) file: File,
    pub(super) stamp: Stamp,
    pub(super) tag: Tag,
    pub(super) tags: Arc<DigestCache>,
    pub(super) readers: Readers,
}

/// What of a changed file is compared before it is sent on.
#[derive(Debug, Clone, Copy)]
enum Comparison {
    /// All of it with its digest.
    Whole(Digest),
    /// What was sent of the segment, with its sum.
    Sent {
        from: ByteOffset,
        until: ByteOffset,
        sum: u64,
    },
}

type Reading = JoinHandle<io::Result<Bytes>>;

/// The bytes of one representation of a file.
pub(super) struct FileBody {
    path: TreePath,
    file: Arc<File>,
    /// The state that is sent.
    state: Stamp,
    tag: Tag,
    tags: Arc<DigestCache>,
    readers: Readers,
    segments: VecDeque<Segment>,
    size: u64,
    at: ByteOffset,
    /// Where the segment that is sent has begun, what was sent of it, and up to where that was compared.
    begun: ByteOffset,
    sum: XxHash3_64,
    compared: ByteOffset,
    pace: SendQuantum,
    reading: Option<Reading>,
    comparing: Option<JoinHandle<Option<Stamp>>>,
    /// Why the body ends before its time, while what came before goes out.
    cut: Option<Cut>,
    metrics: Arc<Metrics>,
}

impl FileBody {
    pub(super) fn new(source: FileSource, segments: Vec<Segment>, metrics: Arc<Metrics>) -> Self {
        let at = first_byte(segments.first());
        Self {
            path: source.path,
            file: Arc::new(source.file),
            state: source.stamp,
            tag: source.tag,
            tags: source.tags,
            readers: source.readers,
            size: segments.iter().filter_map(Segment::len).sum(),
            at,
            begun: at,
            sum: XxHash3_64::new(),
            compared: at,
            segments: segments.into(),
            pace: SendQuantum::new(),
            reading: None,
            comparing: None,
            cut: None,
            metrics,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            let end = match self.segments.front() {
                None => return Poll::Ready(None),
                Some(Segment::Text(text)) => {
                    let text = text.clone();
                    self.next_segment();
                    return Poll::Ready(Some(Ok(text)));
                }
                Some(Segment::Object(range)) => range.end(),
                Some(Segment::ToEnd(_)) => self.state.size,
            };
            if self.at == end {
                self.next_segment();
                continue;
            }
            if self.pace.rests(cx) {
                return Poll::Pending;
            }
            if self.comparing.is_some() {
                match ready!(self.poll_compared(cx)) {
                    Ok(()) => continue,
                    Err(cut) => return Poll::Ready(Some(Err(cut))),
                }
            }
            let block = match ready!(self.poll_read(end, cx)) {
                Ok(block) => block,
                Err(cut) => return Poll::Ready(Some(Err(cut))),
            };
            let next = self.at + block.len() as u64;
            match self.doubt(next == end) {
                Ok(None) => {
                    self.take(&block, next);
                    return Poll::Ready(Some(Ok(block)));
                }
                // The block is read again when the comparison is over.
                Ok(Some(comparison)) => self.compare(comparison),
                Err(cut) => return Poll::Ready(Some(Err(cut))),
            }
        }
    }

    fn take(&mut self, block: &Bytes, next: ByteOffset) {
        if !self.tag.is_strong() {
            self.sum.write(block);
        }
        self.at = next;
        self.pace.sent(block.len() as u64);
    }

    /// What has to be compared before the block that was just read is sent; `last` is the last of its segment.
    fn doubt(&self, last: bool) -> Result<Option<Comparison>, Cut> {
        let state = &self.state;
        let now = stamp_now(&self.file, self.readers.turns.is_some()).map_err(|_| Cut::Changed)?;
        if (now.modified, now.size) == (state.modified, state.size) {
            return Ok(None);
        }
        if self.tag.is_strong() {
            let digest = match self.tag {
                Tag::Strong(digest) => Some(digest),
                _ => self.tags.digest_of(state),
            };
            return match digest.filter(|_| now.size == state.size && state.size <= MAX_SUMMED_BYTES) {
                Some(digest) => Ok(Some(Comparison::Whole(digest))),
                None => Err(Cut::Changed),
            };
        }
        if now.size < state.size {
            return Err(Cut::Changed);
        }
        let (sent, compared) = (self.at - self.begun, self.compared - self.begun);
        let due = self.at > self.compared && (last || sent >= COMPARED_FROM.max(2 * compared));
        Ok(due.then(|| Comparison::Sent {
            from: self.begun,
            until: self.at,
            sum: self.sum.finish(),
        }))
    }

    fn compare(&mut self, comparison: Comparison) {
        let file = Arc::clone(&self.file);
        self.compared = self.at;
        self.comparing = Some(self.readers.spawn(move || is_still(&file, comparison)));
    }

    fn poll_compared(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let Some(comparing) = &mut self.comparing else {
            return Poll::Ready(Ok(()));
        };
        let same = ready!(Pin::new(comparing).poll(cx));
        self.comparing = None;
        Poll::Ready(match same {
            Ok(Some(state)) => {
                tracing::debug!(path = %self.path, "a file was touched while it was sent; its bytes are the same");
                // The promise is the one that was made, whatever the file has grown to.
                self.state = Stamp {
                    size: self.state.size,
                    ..state
                };
                Ok(())
            }
            Ok(None) => Err(Cut::Changed),
            Err(_) => Err(Cut::Lost),
        })
    }

    fn poll_read(&mut self, end: ByteOffset, cx: &mut Context<'_>) -> Poll<Result<Bytes, Cut>> {
        if self.reading.is_none() {
            let block = self.pace.block_bytes();
            let len = usize::try_from(end - self.at).map_or(block, |len| len.min(block));
            if let Some(block) = read_now(&self.file, self.at, len)? {
                return Poll::Ready(Ok(block));
            }
            let (file, at) = (Arc::clone(&self.file), self.at);
            let read = move || read_blocking(&file, at, len);
            self.reading = Some(match self.readers.turns {
                None => tokio::task::spawn_blocking(read),
                Some(_) => self.readers.spawn_reading(read),
            });
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Pending;
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map_err(|_| Cut::Lost).and_then(|read| Ok(read?)))
    }

    fn next_segment(&mut self) {
        self.segments.pop_front();
        self.at = first_byte(self.segments.front());
        (self.begun, self.compared) = (self.at, self.at);
        self.sum = XxHash3_64::new();
    }
}

impl Readers {
    /// Runs what waits for the disk, among the turns of its mount.
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> Option<T> + Send + 'static) -> JoinHandle<Option<T>> {
        let (turns, threads) = (self.turns.clone(), self.threads.clone());
        self.threads.spawn(async move {
            let turn = match turns {
                Some(turns) => Some(turns.acquire_owned().await.ok()?),
                None => None,
            };
            let done = threads.spawn_blocking(move || {
                let _turn = turn;
                work()
            });
            done.await.ok().flatten()
        })
    }

    fn spawn_reading(&self, read: impl FnOnce() -> io::Result<Bytes> + Send + 'static) -> Reading {
        let reading = self.spawn(move || Some(read()));
        self.threads.spawn(async move {
            let lost = || io::Error::other("a reading thread was lost");
            reading.await.ok().flatten().ok_or_else(lost)?
        })
    }
}

/// The file's stamp; of one on a mount as the kernel remembers it, for the file system may not answer.
fn stamp_now(file: &File, apart: bool) -> Result<Stamp, crate::directory::DirectoryError> {
    match apart {
        true => crate::directory::cached_stamp(file),
        false => stamp(file),
    }
}

/// The state in which the file has been found to hold the same bytes; `None` where it does not.
fn is_still(file: &File, comparison: Comparison) -> Option<Stamp> {
    let before = stamp(file).ok()?;
    match comparison {
        Comparison::Whole(digest) => {
            let same = crate::directory::sha256_of(file).ok()? == digest;
            (same && stamp(file).ok()? == before).then_some(before)
        }
        // The file may be written to all the time.
        Comparison::Sent { from, until, sum } => {
            let mut again = XxHash3_64::new();
            let mut at = from;
            while at < until {
                let len = usize::try_from(until - at)
                    .map_or(crate::store::BLOCK_BYTES, |len| len.min(crate::store::BLOCK_BYTES));
                let block = read_blocking(file, at, len).ok()?;
                again.write(&block);
                at += block.len() as u64;
            }
            (again.finish() == sum).then_some(before)
        }
    }
}

impl MessageBody for FileBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(cut) = self.cut.take() {
            self.metrics.broken_bodies.inc();
            tracing::warn!(path = %self.path, %cut, "breaking a connection");
            return Poll::Ready(Some(Err(cut.into())));
        }
        match ready!(self.poll_piece(cx)) {
            Some(Ok(bytes)) => {
                self.metrics.sent_bytes.inc_by(bytes.len() as u64);
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(cut)) => {
                // The head, and what came before the cut, go out first: an error ends the connection at once.
                self.cut = Some(cut);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}
