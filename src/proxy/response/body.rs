//! The bytes of an answer: one machine for all that is sent in segments, be it a stored object or a file of a directory.
//!
//! ```text
//!            text between the parts of a multipart answer ─────────────────────────────► sent
//! segments ─┤
//!            bytes of the source ─► here? ─► lie where they may be sent from ──────────► sent by the wire
//!                 ▲                  │ └───► read, now or on a thread ─► believed? ────► sent
//!                 │             wait for them                          │
//!                 └────────────────────────────────────────────────────┘ no: once more
//! ```
//!
//! The length promised in the header is kept to the byte. Where bytes will not come, the body ends
//! with an error, which closes the connection short of its length: a visible break, never a quiet
//! end. What was sent before the break goes out first. What a connection holds is one block, however large the object.
//!
//! A [`SegmentSource`] knows what is its own: when bytes are here, how they are read, whether a block that was read is
//! still that of the representation, and which of them may be sent from where they lie.

use super::multipart::{Segment, size_of};
use super::send_quantum::SendQuantum;
use crate::http1::{BodyPiece, StoredBody};
use crate::ranges::ByteOffset;
use crate::telemetry::Metrics;
use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::{JoinError, JoinHandle};

/// The representation that a body's segments are of. All positions are those of its bytes.
pub(crate) trait SegmentSource: Unpin {
    /// Why a body ends before its length.
    type Cut: Error + From<JoinError> + Send + Unpin + 'static;

    /// Waits until the byte at `at` is here; up to which offset bytes are. `None` where the representation ends at `at`
    /// and the segment has no end of its own (`end` is then the greatest offset).
    fn poll_here(
        &mut self,
        at: ByteOffset,
        end: ByteOffset,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<ByteOffset>, Self::Cut>>;

    /// The piece at `at` that may be sent from where it lies, of bytes that are here up to `until`; `None` where they are
    /// to be read.
    fn piece(&mut self, at: ByteOffset, until: ByteOffset) -> Option<BodyPiece>;

    /// Up to `len` bytes at `at`, which are here; `None` where the disk must be waited for.
    fn read_now(&self, at: ByteOffset, len: usize) -> Result<Option<Bytes>, Self::Cut>;

    /// The same read on a thread that may wait for the disk.
    fn read_later(&self, at: ByteOffset, len: usize) -> JoinHandle<Result<Bytes, Self::Cut>>;

    /// Whether what was read may be sent: the block, or `None` where it is to be waited for and read once more.
    fn verify(
        &mut self,
        at: ByteOffset,
        end: ByteOffset,
        read: Result<Bytes, Self::Cut>,
    ) -> Result<Option<Bytes>, Self::Cut>;

    /// Notes that the `bytes` before `at` have been sent, of a segment up to `end`.
    fn reached(&mut self, at: ByteOffset, end: ByteOffset, bytes: u64);

    /// Begins a segment at `at`.
    fn begin(&mut self, at: ByteOffset);

    /// Tells the log of a body that breaks.
    fn log_break(&self, cut: &Self::Cut);
}

/// A body made of segments of one representation.
pub(crate) struct SegmentedBody<S: SegmentSource> {
    source: S,
    segments: VecDeque<Segment>,
    size: BodySize,
    /// The next byte of the segment under way.
    at: ByteOffset,
    reading: Option<JoinHandle<Result<Bytes, S::Cut>>>,
    /// Why the body ends before its time, while what came before goes out.
    cut: Option<S::Cut>,
    pace: SendQuantum,
    metrics: Arc<Metrics>,
}

impl<S: SegmentSource> SegmentedBody<S> {
    pub(crate) fn new(mut source: S, segments: Vec<Segment>, metrics: Arc<Metrics>) -> Self {
        let at = first_byte(segments.first());
        source.begin(at);
        Self {
            source,
            size: size_of(&segments),
            segments: segments.into(),
            at,
            reading: None,
            cut: None,
            pace: SendQuantum::new(),
            metrics,
        }
    }

    /// The next thing to send: text between parts, or bytes of the representation up to an end.
    fn next_part(&mut self) -> Option<Part> {
        loop {
            let end = match self.segments.front()? {
                Segment::Text(text) => {
                    let text = text.clone();
                    self.next_segment();
                    return Some(Part::Text(text));
                }
                Segment::Object(range) => range.end(),
                Segment::ToEnd(_) => u64::MAX,
            };
            if self.at < end {
                return Some(Part::UpTo(end));
            }
            self.next_segment();
        }
    }

    fn next_segment(&mut self) {
        self.segments.pop_front();
        self.at = first_byte(self.segments.front());
        self.source.begin(self.at);
    }

    /// Notes that `bytes` of those up to `end` have been sent.
    fn advance(&mut self, end: ByteOffset, bytes: u64) {
        self.at += bytes;
        self.pace.sent(bytes);
        self.source.reached(self.at, end, bytes);
    }

    /// The next bytes, by reading.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, S::Cut>>> {
        loop {
            let end = match self.next_part() {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) => return Poll::Ready(Some(Ok(text))),
                Some(Part::UpTo(end)) => end,
            };
            match ready!(self.poll_block(end, true, cx)) {
                Ok(None) => self.next_segment(),
                block => return Poll::Ready(block.transpose()),
            }
        }
    }

    /// The next bytes before `end`; `None` where a representation of unknown length has ended. `rests` where nobody else
    /// sees to it that other connections of the worker get their turn.
    fn poll_block(
        &mut self,
        end: ByteOffset,
        rests: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, S::Cut>> {
        loop {
            let Some(here) = ready!(self.source.poll_here(self.at, end, cx))? else {
                return Poll::Ready(Ok(None));
            };
            if rests && self.pace.rests(cx) {
                return Poll::Pending;
            }
            let read = ready!(self.poll_read(end.min(here), cx));
            if let Some(block) = self.source.verify(self.at, end, read)? {
                self.advance(end, block.len() as u64);
                return Poll::Ready(Ok(Some(block)));
            }
        }
    }

    /// Reads at the position, where bytes are known to be here.
    fn poll_read(&mut self, until: ByteOffset, cx: &mut Context<'_>) -> Poll<Result<Bytes, S::Cut>> {
        if self.reading.is_none() {
            let block = self.pace.block_bytes();
            let len = usize::try_from(until - self.at).map_or(block, |len| len.min(block));
            // Without a thread where the page cache has the bytes: a hop costs more than the copy.
            if let Some(block) = self.source.read_now(self.at, len)? {
                return Poll::Ready(Ok(block));
            }
            self.reading = Some(self.source.read_later(self.at, len));
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Pending;
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read?)
    }

    /// The next piece, from where it lies as far as the source allows it, else by reading.
    fn poll_lying(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, S::Cut>>> {
        loop {
            let end = match self.next_part() {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) => return Poll::Ready(Some(Ok(BodyPiece::Memory(text)))),
                Some(Part::UpTo(end)) => end,
            };
            match ready!(self.source.poll_here(self.at, end, cx)) {
                Ok(None) => {
                    self.next_segment();
                    continue;
                }
                Ok(Some(here)) => {
                    // A read under way is of this place: its bytes go out first.
                    if self.reading.is_none()
                        && let Some(piece) = self.source.piece(self.at, end.min(here))
                    {
                        return Poll::Ready(Some(Ok(self.lying(piece, end))));
                    }
                }
                Err(cut) => return Poll::Ready(Some(Err(cut))),
            }
            // The sender of pieces gives other connections their turn.
            match ready!(self.poll_block(end, false, cx)) {
                Ok(None) => self.next_segment(),
                block => return Poll::Ready(block.transpose().map(|block| block.map(BodyPiece::Memory))),
            }
        }
    }

    /// A piece as it is to be sent: of one in memory no more than belongs to the segment, and that counts as sent.
    fn lying(&mut self, piece: BodyPiece, end: ByteOffset) -> BodyPiece {
        match piece {
            BodyPiece::Memory(mut bytes) => {
                bytes.truncate(usize::try_from(end - self.at).unwrap_or(usize::MAX));
                self.advance(end, bytes.len() as u64);
                BodyPiece::Memory(bytes)
            }
            stored @ BodyPiece::Stored(..) => stored,
        }
    }

    fn breaks(&self, cut: S::Cut) -> Box<dyn Error> {
        self.metrics.broken_bodies.inc();
        self.source.log_break(&cut);
        cut.into()
    }
}

/// The next thing to send.
enum Part {
    Text(Bytes),
    UpTo(ByteOffset),
}

fn first_byte(segment: Option<&Segment>) -> ByteOffset {
    match segment {
        Some(Segment::Object(range)) => range.start(),
        Some(Segment::ToEnd(start)) => *start,
        _ => 0,
    }
}

impl<S: SegmentSource> MessageBody for SegmentedBody<S> {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(self.breaks(cut))));
        }
        match ready!(self.poll_bytes(cx)) {
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

impl<S: SegmentSource> StoredBody for SegmentedBody<S> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Box<dyn Error>>>> {
        Poll::Ready(match ready!(self.poll_lying(cx)) {
            Some(Ok(piece)) => {
                if let BodyPiece::Memory(bytes) = &piece {
                    self.metrics.sent_bytes.inc_by(bytes.len() as u64);
                }
                Some(Ok(piece))
            }
            Some(Err(cut)) => Some(Err(self.breaks(cut))),
            None => None,
        })
    }

    fn sent(&mut self, bytes: u64) {
        self.metrics.sent_bytes.inc_by(bytes);
        if let Some(Part::UpTo(end)) = self.next_part() {
            self.advance(end, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::ByteRange;
    use std::future::poll_fn;

    #[derive(Debug, thiserror::Error)]
    #[error("the bytes will not come")]
    struct ScriptedCut;

    impl From<JoinError> for ScriptedCut {
        fn from(_: JoinError) -> Self {
            Self
        }
    }

    /// A representation of `length` bytes, each of which is its offset. Bytes from `broken` on will not come, and the
    /// first block of each segment is not believed.
    struct Scripted {
        length: ByteOffset,
        broken: ByteOffset,
        is_believed: bool,
    }

    impl SegmentSource for Scripted {
        type Cut = ScriptedCut;

        fn poll_here(
            &mut self,
            at: ByteOffset,
            _: ByteOffset,
            _: &mut Context<'_>,
        ) -> Poll<Result<Option<ByteOffset>, ScriptedCut>> {
            Poll::Ready(match at < self.broken {
                true => Ok((at < self.length).then_some(self.length.min(self.broken))),
                false => Err(ScriptedCut),
            })
        }

        fn piece(&mut self, _: ByteOffset, _: ByteOffset) -> Option<BodyPiece> {
            None
        }

        fn read_now(&self, at: ByteOffset, len: usize) -> Result<Option<Bytes>, ScriptedCut> {
            Ok(Some((at..at + len as u64).map(|offset| offset as u8).collect()))
        }

        fn read_later(&self, _: ByteOffset, _: usize) -> JoinHandle<Result<Bytes, ScriptedCut>> {
            tokio::spawn(async { Err(ScriptedCut) })
        }

        fn verify(
            &mut self,
            _: ByteOffset,
            _: ByteOffset,
            read: Result<Bytes, ScriptedCut>,
        ) -> Result<Option<Bytes>, ScriptedCut> {
            match std::mem::replace(&mut self.is_believed, true) {
                true => read.map(Some),
                false => Ok(None),
            }
        }

        fn reached(&mut self, _: ByteOffset, _: ByteOffset, _: u64) {}

        fn begin(&mut self, _: ByteOffset) {
            self.is_believed = false;
        }

        fn log_break(&self, _: &ScriptedCut) {}
    }

    fn body(broken: ByteOffset, segments: Vec<Segment>) -> (SegmentedBody<Scripted>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let source = Scripted {
            length: 100,
            broken,
            is_believed: true,
        };
        (SegmentedBody::new(source, segments, Arc::clone(&metrics)), metrics)
    }

    /// The bytes of a body, and whether it ended without a break.
    async fn read(body: &mut SegmentedBody<Scripted>) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        loop {
            match poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await {
                Some(Ok(block)) => bytes.extend_from_slice(&block),
                Some(Err(_)) => return (bytes, false),
                None => return (bytes, true),
            }
        }
    }

    fn range(start: ByteOffset, end: ByteOffset) -> Segment {
        Segment::Object(ByteRange::new(start, end).expect("not empty"))
    }

    #[tokio::test]
    async fn texts_and_ranges_go_out_in_order_and_count_as_sent() {
        let text = |text: &'static str| Segment::Text(Bytes::from_static(text.as_bytes()));
        let segments = vec![text("a"), range(50, 53), text("b"), range(7, 8), text("c")];
        let (mut body, metrics) = body(u64::MAX, segments);
        assert_eq!(body.size(), BodySize::Sized(7));
        assert_eq!(read(&mut body).await, (b"a\x32\x33\x34b\x07c".to_vec(), true));
        assert_eq!(metrics.sent_bytes.get(), 7);
    }

    #[tokio::test]
    async fn a_segment_without_an_end_ends_with_the_representation() {
        let (mut body, _) = body(u64::MAX, vec![Segment::ToEnd(98)]);
        assert_eq!(body.size(), BodySize::Stream);
        assert_eq!(read(&mut body).await, (vec![98, 99], true));
    }

    #[tokio::test]
    async fn bytes_before_a_break_go_out_first_and_the_break_is_counted_once() {
        let (mut body, metrics) = body(3, vec![range(0, 10)]);
        let mut poll = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_next(cx))).await;
        assert!(matches!(poll().await, Poll::Ready(Some(Ok(bytes))) if *bytes == [0, 1, 2]));
        assert!(poll().await.is_pending(), "the connection writes what came before");
        assert_eq!(metrics.broken_bodies.get(), 0);
        assert!(matches!(poll().await, Poll::Ready(Some(Err(_)))));
        assert_eq!((metrics.broken_bodies.get(), metrics.sent_bytes.get()), (1, 3));
    }
}
