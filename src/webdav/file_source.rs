//! A file of the tree as the source of a body.
//!
//! Other programs may write to a file while it is sent, and one response is of one representation. So each block is
//! read, then the file's stamp is compared with the one that the answer began with, and only then is the block sent.
//! A file is given to sendfile(2) only if its bytes cannot change (`directory::has_fixed_bytes`) and while its stamp is
//! the same: what a socket holds of a page is the page, which may still change in any other file (decision 13).
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

use super::open_file::OpenFile;
use crate::directory::{Digest, DigestCache, Stamp, Tag, TreePath, has_fixed_bytes, stamp};
use crate::http1::{BodyPiece, SendFile};
use crate::proxy::SegmentSource;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::{BLOCK_BYTES, Sending, read_blocking, read_now, send_file_now};
use bytes::Bytes;
use std::fs::File;
use std::future::Future;
use std::hash::Hasher;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::{JoinError, JoinHandle};
use twox_hash::XxHash3_64;

/// The largest file that is hashed again because it was touched while it was sent: a judgement, for a client waits
/// for it.
const MAX_SUMMED_BYTES: u64 = 4 << 30;

/// The bytes that must have been sent before they are compared for the first time: a judgement.
const COMPARED_FROM: u64 = 4 << 20;

/// Whether sending from files waits for the disk, as far as is known: one for all directories of the process, whose
/// disks are not told apart.
static SENDING: Sending = Sending::new();

/// The reason for which the body of a file breaks.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileCut {
    #[error("the file was written to while it was sent")]
    Changed,
    #[error("the disk did not give the file's bytes: {0}")]
    Disk(#[from] io::Error),
    #[error("a reading thread was lost")]
    Lost,
}

impl From<JoinError> for FileCut {
    fn from(_: JoinError) -> Self {
        Self::Lost
    }
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

/// A file whose bytes cannot change, to be sent from where it lies. A flag can be taken back while it is sent: its stamp is
/// compared before each call.
struct FixedFile {
    file: Arc<File>,
    /// The state that is sent.
    state: Stamp,
}

impl FixedFile {
    fn is_unchanged(&self) -> bool {
        stamp(&self.file).is_ok_and(|now| (now.modified, now.size) == (self.state.modified, self.state.size))
    }
}

/// The file that a body sends, and the state in which it is sent.
pub(super) struct FileSource {
    path: TreePath,
    file: OpenFile,
    /// The same file, if its bytes cannot change.
    fixed: Option<Arc<FixedFile>>,
    /// The state that is sent.
    state: Stamp,
    tag: Tag,
    tags: Arc<DigestCache>,
    /// The start of the current segment, the hash of what was sent of it, and the end of what was compared.
    begun: ByteOffset,
    sum: XxHash3_64,
    compared: ByteOffset,
    comparing: Option<JoinHandle<Option<Stamp>>>,
}

impl FileSource {
    /// A file that is open, in the state of its stamp. One that is read in one block is not sent from where it lies: no
    /// copy would be spared that counts.
    pub(super) fn new(path: TreePath, file: OpenFile, state: Stamp, tag: Tag, tags: Arc<DigestCache>) -> Self {
        // A file on a mount apart is not asked: its file system may not answer, and this thread must not wait for it.
        let may_ask = !file.threads().is_apart() && state.size > BLOCK_BYTES as u64;
        let is_fixed = may_ask && has_fixed_bytes(file.file());
        Self {
            path,
            fixed: is_fixed.then(|| {
                let file = file.share();
                Arc::new(FixedFile { file, state })
            }),
            file,
            state,
            tag,
            tags,
            begun: 0,
            sum: XxHash3_64::new(),
            compared: 0,
            comparing: None,
        }
    }

    /// Whether the file is in the state in which it was opened, or a later one with the same bytes.
    fn is_unchanged(&self, now: &Stamp) -> bool {
        (now.modified, now.size) == (self.state.modified, self.state.size)
    }

    /// The comparison that is due before the block that was just read at `at` is sent; `last` means that it ends its
    /// segment.
    fn comparison_needed(&self, at: ByteOffset, last: bool) -> Result<Option<Comparison>, FileCut> {
        let state = &self.state;
        let now = current_stamp(self.file.file(), self.file.threads().is_apart()).map_err(|_| FileCut::Changed)?;
        if self.is_unchanged(&now) {
            return Ok(None);
        }
        if self.tag.is_strong() {
            let digest = match self.tag {
                Tag::Strong(digest) => Some(digest),
                _ => self.tags.digest_of(state),
            };
            return match digest.filter(|_| now.size == state.size && state.size <= MAX_SUMMED_BYTES) {
                Some(digest) => Ok(Some(Comparison::Whole(digest))),
                None => Err(FileCut::Changed),
            };
        }
        // The promised length cannot be kept any more.
        if now.size < state.size {
            return Err(FileCut::Changed);
        }
        let (sent, compared) = (at - self.begun, self.compared - self.begun);
        // Each comparison but the last is of twice as much as the one before, at least: together they read no more than
        // three times what is sent.
        let due = at > self.compared && (last || sent >= COMPARED_FROM.max(2 * compared));
        Ok(due.then(|| Comparison::Sent {
            from: self.begun,
            until: at,
            sum: self.sum.finish(),
        }))
    }

    fn start_comparison(&mut self, at: ByteOffset, comparison: Comparison) {
        let file = self.file.share();
        self.compared = at;
        let threads = self.file.threads();
        self.comparing = Some(threads.spawn(move || compare_now(&file, comparison)));
    }

    fn poll_compared(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FileCut>> {
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
            Ok(None) => Err(FileCut::Changed),
            Err(_) => Err(FileCut::Lost),
        })
    }
}

impl SegmentSource for FileSource {
    type Cut = FileCut;

    fn poll_here(
        &mut self,
        at: ByteOffset,
        _: ByteOffset,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<ByteOffset>, FileCut>> {
        ready!(self.poll_compared(cx))?;
        Poll::Ready(Ok((at < self.state.size).then_some(self.state.size)))
    }

    fn piece(&mut self, at: ByteOffset, until: ByteOffset) -> Option<BodyPiece> {
        let fixed = Arc::clone(self.fixed.as_ref()?);
        // A file whose flag was taken back, and that was written to since, is read like any other. The hash of what was
        // sent has no bytes that were sent from where they lay, so under a weak tag its body breaks.
        let range = ByteRange::new(at, until).filter(|_| fixed.is_unchanged())?;
        Some(BodyPiece::Stored(fixed, range))
    }

    fn read_now(&self, at: ByteOffset, len: usize) -> Result<Option<Bytes>, FileCut> {
        Ok(read_now(self.file.file(), at, len)?)
    }

    fn read_later(&self, at: ByteOffset, len: usize) -> JoinHandle<Result<Bytes, FileCut>> {
        match self.file.threads().is_apart() {
            true => self.file.spawn_reading(move |file| read_blocking(file, at, len)),
            false => {
                let file = self.file.share();
                tokio::task::spawn_blocking(move || Ok(read_blocking(&file, at, len)?))
            }
        }
    }

    fn verify(
        &mut self,
        at: ByteOffset,
        end: ByteOffset,
        read: Result<Bytes, FileCut>,
    ) -> Result<Option<Bytes>, FileCut> {
        let block = read?;
        let is_last = at + block.len() as u64 == end.min(self.state.size);
        if let Some(comparison) = self.comparison_needed(at, is_last)? {
            // The block is dropped, and read again when the comparison is over.
            self.start_comparison(at, comparison);
            return Ok(None);
        }
        if !self.tag.is_strong() {
            self.sum.write(&block);
        }
        Ok(Some(block))
    }

    fn reached(&mut self, _: ByteOffset, _: ByteOffset, _: u64) {}

    fn begin(&mut self, at: ByteOffset) {
        (self.begun, self.compared) = (at, at);
        self.sum = XxHash3_64::new();
    }

    fn log_break(&self, cut: &FileCut) {
        tracing::warn!(path = %self.path, %cut, "breaking a connection");
    }
}

impl SendFile for FixedFile {
    fn send_now(&self, to: BorrowedFd<'_>, at: ByteOffset, len: usize) -> io::Result<Option<usize>> {
        match self.is_unchanged() {
            true => send_file_now(&SENDING, &self.file, to, at, len),
            false => Ok(None),
        }
    }

    fn covers(&self, _: ByteRange) -> bool {
        self.is_unchanged()
    }

    fn bring_blocking(&self, at: ByteOffset, len: usize) -> usize {
        read_blocking(&self.file, at, len).map_or(0, |bytes| bytes.len())
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
                let len = usize::try_from(until - at).map_or(BLOCK_BYTES, |len| len.min(BLOCK_BYTES));
                let block = read_blocking(file, at, len).ok()?;
                again.write(&block);
                at += block.len() as u64;
            }
            (again.finish() == sum).then_some(before)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::open_file::MountThreads;
    use super::*;
    use crate::clock::SystemClock;
    use crate::http1::StoredBody;
    use crate::proxy::SegmentedBody;
    use crate::proxy::multipart::Segment;
    use crate::telemetry::Metrics;
    use actix_web::body::{BodySize, MessageBody};
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    use std::future::poll_fn;

    /// More than one block: a judgement.
    const LENGTH: u64 = 1 << 20;

    fn body(path: &std::path::Path) -> SegmentedBody<FileSource> {
        let file = File::open(path).expect("a file");
        let state = stamp(&file).expect("a stamp");
        let tags = Arc::new(DigestCache::load(None, Arc::new(SystemClock)));
        let threads = MountThreads {
            threads: tokio::runtime::Handle::current(),
            permits: None,
        };
        let file = OpenFile::new(file, threads);
        let source = FileSource::new(TreePath::root(), file, state, Tag::Weak(state), tags);
        let all = ByteRange::new(0, LENGTH).map(Segment::Object);
        SegmentedBody::new(source, all.into_iter().collect(), Arc::new(Metrics::new()))
    }

    async fn first_piece(body: &mut SegmentedBody<FileSource>) -> BodyPiece {
        let piece = poll_fn(|cx| body.poll_piece(cx)).await;
        piece.expect("no end").expect("no break")
    }

    #[tokio::test]
    async fn a_file_that_may_change_is_read_and_one_that_cannot_is_sent_from_where_it_lies() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("film");
        std::fs::write(&path, vec![7; LENGTH as usize]).expect("written");
        let mut ordinary = body(&path);
        assert_eq!(ordinary.size(), BodySize::Sized(LENGTH));
        let BodyPiece::Memory(bytes) = first_piece(&mut ordinary).await else {
            panic!("an ordinary file must be read before it is sent");
        };
        assert!(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 7));
        let file = File::open(&path).expect("a file");
        let flags = ioctl_getflags(&file).unwrap_or(IFlags::empty());
        if let Err(error) = ioctl_setflags(&file, flags | IFlags::IMMUTABLE) {
            eprintln!("the rest is skipped: a file cannot be made immutable here: {error}");
            return;
        }
        let mut fixed = body(&path);
        let piece = first_piece(&mut fixed).await;
        ioctl_setflags(&file, flags).expect("taken back");
        let BodyPiece::Stored(_, range) = piece else {
            panic!("an immutable file must be sent from where it lies");
        };
        assert_eq!((range.start(), range.end()), (0, LENGTH));
        // The flag was taken back, and the file is written to: the body reads again, and sees it.
        fixed.sent(10);
        std::fs::write(&path, "short").expect("written");
        let next = poll_fn(|cx| fixed.poll_piece(cx)).await.expect("no end");
        assert!(next.is_err(), "the promised length cannot be kept");
    }
}
