//! The bytes of a file of the tree, as they go out.
//!
//! Other programs may write to a file while it is sent, and one response is of one representation. So each block is
//! read, then the file's stamp is compared with the one that the answer began with, and only then is the block sent.
//! The file is never given to sendfile(2): what a socket holds of a page is the page, which may still change (decision
//! 13).
//!
//! ```text
//! the stamp        under a strong tag                     under a weak tag
//! is the same      the block is sent                      the block is sent
//! is another       the whole file is hashed: the same     the bytes that were sent are read again: the same, and
//!                  digest, and it goes on; else, or       it goes on; else the body breaks. A file that is written
//!                  without a digest, the body breaks      to all the time is compared each time that twice as much
//!                                                         has been sent, and before the last block
//! is shorter       the body breaks                        the body breaks
//! ```
//!
//! A touch(1) breaks no body, nor does a torrent client that fills another part of the file. A body that breaks breaks
//! its connection: the promised length is never made up.

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

/// The largest file that is hashed again because it was touched while it was sent: a judgement, for a client waits
/// for it.
const MAX_SUMMED_BYTES: u64 = 4 << 30;

/// The bytes that must have been sent before they are compared for the first time: a judgement.
const COMPARED_FROM: u64 = 4 << 20;

/// The reason for which the body of a file breaks.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the file was written to while it was sent")]
    Changed,
    #[error("the disk did not give the file's bytes: {0}")]
    Disk(#[from] io::Error),
    #[error("a reading thread was lost")]
    Lost,
}

/// The threads for reads that may wait for the disk.
#[derive(Debug, Clone)]
pub(super) struct ReadThreads {
    pub(super) threads: tokio::runtime::Handle,
    /// The permits of the mount that the file is on; `None` on the directory's own file system.
    pub(super) permits: Option<Arc<Semaphore>>,
}

/// The file that a body sends, and the state in which it is sent.
pub(super) struct FileSource {
    pub(super) path: TreePath,
    pub(super) file: File,
    pub(super) stamp: Stamp,
    pub(super) tag: Tag,
    pub(super) tags: Arc<DigestCache>,
    pub(super) threads: ReadThreads,
}

/// The comparison that a changed file must pass before more of it is sent.
#[derive(Debug, Clone, Copy)]
enum Comparison {
    /// The whole file with its digest.
    Whole(Digest),
    /// The bytes of the segment that were sent, with their hash.
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
    threads: ReadThreads,
    segments: VecDeque<Segment>,
    size: u64,
    at: ByteOffset,
    /// The start of the current segment, the hash of what was sent of it, and the end of what was compared.
    begun: ByteOffset,
    sum: XxHash3_64,
    compared: ByteOffset,
    pace: SendQuantum,
    reading: Option<Reading>,
    comparing: Option<JoinHandle<Option<Stamp>>>,
    /// The reason for a break that comes after the bytes that were sent before.
    cut: Option<BodyError>,
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
            threads: source.threads,
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

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
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
            match self.comparison_needed(next == end) {
                Ok(None) => {
                    self.advance(&block, next);
                    return Poll::Ready(Some(Ok(block)));
                }
                // The block is dropped, and read again when the comparison is over.
                Ok(Some(comparison)) => self.start_comparison(comparison),
                Err(cut) => return Poll::Ready(Some(Err(cut))),
            }
        }
    }

    fn advance(&mut self, block: &Bytes, next: ByteOffset) {
        if !self.tag.is_strong() {
            self.sum.write(block);
        }
        self.at = next;
        self.pace.sent(block.len() as u64);
    }

    /// The comparison that is due before the block that was just read is sent; `last` means that it ends its segment.
    fn comparison_needed(&self, last: bool) -> Result<Option<Comparison>, BodyError> {
        let state = &self.state;
        let now = current_stamp(&self.file, self.threads.permits.is_some()).map_err(|_| BodyError::Changed)?;
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
                None => Err(BodyError::Changed),
            };
        }
        // The promised length cannot be kept any more.
        if now.size < state.size {
            return Err(BodyError::Changed);
        }
        let (sent, compared) = (self.at - self.begun, self.compared - self.begun);
        // Each comparison but the last is of twice as much as the one before, at least: together they read no more than
        // three times what is sent.
        let due = self.at > self.compared && (last || sent >= COMPARED_FROM.max(2 * compared));
        Ok(due.then(|| Comparison::Sent {
            from: self.begun,
            until: self.at,
            sum: self.sum.finish(),
        }))
    }

    fn start_comparison(&mut self, comparison: Comparison) {
        let file = Arc::clone(&self.file);
        self.compared = self.at;
        self.comparing = Some(self.threads.spawn(move || compare_now(&file, comparison)));
    }

    fn poll_compared(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(comparing) = &mut self.comparing else {
            return Poll::Ready(Ok(()));
        };
        let same = ready!(Pin::new(comparing).poll(cx));
        self.comparing = None;
        Poll::Ready(match same {
            Ok(Some(state)) => {
                tracing::debug!(path = %self.path, "a file was touched while it was sent; its bytes are the same");
                // The length that was promised stays, whatever the file has grown to.
                self.state = Stamp {
                    size: self.state.size,
                    ..state
                };
                Ok(())
            }
            Ok(None) => Err(BodyError::Changed),
            Err(_) => Err(BodyError::Lost),
        })
    }

    fn poll_read(&mut self, end: ByteOffset, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        if self.reading.is_none() {
            let block = self.pace.block_bytes();
            let len = usize::try_from(end - self.at).map_or(block, |len| len.min(block));
            if let Some(block) = read_now(&self.file, self.at, len)? {
                return Poll::Ready(Ok(block));
            }
            let (file, at) = (Arc::clone(&self.file), self.at);
            let read = move || read_blocking(&file, at, len);
            self.reading = Some(match self.threads.permits {
                None => tokio::task::spawn_blocking(read),
                Some(_) => self.threads.spawn_reading(read),
            });
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Pending;
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map_err(|_| BodyError::Lost).and_then(|read| Ok(read?)))
    }

    fn next_segment(&mut self) {
        self.segments.pop_front();
        self.at = first_byte(self.segments.front());
        (self.begun, self.compared) = (self.at, self.at);
        self.sum = XxHash3_64::new();
    }
}

impl ReadThreads {
    /// Runs work that waits for the disk, with a permit of its mount.
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> Option<T> + Send + 'static) -> JoinHandle<Option<T>> {
        let (permits, threads) = (self.permits.clone(), self.threads.clone());
        self.threads.spawn(async move {
            let permit = match permits {
                Some(permits) => Some(permits.acquire_owned().await.ok()?),
                None => None,
            };
            let done = threads.spawn_blocking(move || {
                let _permit = permit;
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

/// The file's stamp now. On a mount it is the one that the kernel remembers, for the file system may not answer.
fn current_stamp(file: &File, apart: bool) -> Result<Stamp, crate::directory::DirectoryError> {
    match apart {
        true => crate::directory::cached_stamp(file),
        false => stamp(file),
    }
}

/// The state in which the file was found to hold the same bytes; `None` where it does not.
fn compare_now(file: &File, comparison: Comparison) -> Option<Stamp> {
    let before = stamp(file).ok()?;
    match comparison {
        Comparison::Whole(digest) => {
            let same = crate::directory::sha256_of(file).ok()? == digest;
            (same && stamp(file).ok()? == before).then_some(before)
        }
        // The stamp is not compared here: the file may be written to all the time.
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
                // The header and the bytes before the break go out first: the framework ends the connection at once
                // on an error.
                self.cut = Some(cut);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}
