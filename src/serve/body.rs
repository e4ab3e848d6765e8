//! The bytes of an answer: out of memory where the kernel has them, waited for where they are absent.
//!
//! The length promised in the header is kept to the byte. Where bytes will not come, the body ends
//! with an error, which closes the connection short of its length: a visible break, never a quiet
//! end. What a connection holds is one block, however large the object.

use super::multipart::{Segment, size_of};
use super::send_quantum::SendQuantum;
use crate::fill::{Cursor, Phase, Registry, Want};
use crate::http1::{BodyPiece, SendFile, StoredBody};
use crate::live::Listener;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::{Broken, Object, Presence, StoreError, Watch};
use crate::telemetry::Metrics;
use crate::upstream::{Span, Target};
use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// How often a reader has bytes fetched again that the disk does not give. A judgement: a disk that fails is not asked
/// for ever.
const MAX_UNREADABLE: u32 = 64;

/// Why a body ends before its length.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The upstream will not bring them.
    #[error("the bytes at {at} of {url} will not come: {why}")]
    Broken {
        /// Of what.
        url: String,
        /// The first of them.
        at: ByteOffset,
        /// The fill's word for it.
        why: Broken,
    },
    /// There are no more.
    #[error("the object {url} ended at {at}, before the promised length")]
    Ended {
        /// Of what.
        url: String,
        /// Where it ended.
        at: ByteOffset,
    },
    /// The disk does not give them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread panicked.
    #[error("a reading thread was lost")]
    Lost,
}

/// Where the bytes of an object come from, should one turn out to be gone.
pub(super) struct RefetchSource {
    pub(super) fills: Registry,
    pub(super) target: Arc<Target>,
}

/// A body made of segments of one object.
pub struct ObjectBody {
    segments: VecDeque<Segment>,
    size: BodySize,
    /// The next byte of the segment under way.
    at: ByteOffset,
    /// Bytes are here up to this offset.
    here: ByteOffset,
    /// The object's epoch from before that was known.
    epoch: u64,
    watch: Watch,
    /// Keeps the fill going while this reader lasts. A whole object needs none, until a block of it is
    /// found damaged.
    cursor: Option<Cursor>,
    /// `None` where what is gone cannot be asked for again.
    source: Option<RefetchSource>,
    /// The body's share in a stream.
    listener: Option<Listener>,
    reading: Option<JoinHandle<Result<Bytes, StoreError>>>,
    /// How often the disk did not give what it had taken.
    unreadable: u32,
    /// Why the body ends before its time, while what came before goes out.
    cut: Option<Cut>,
    cut_told: bool,
    pace: SendQuantum,
    metrics: Arc<Metrics>,
}

impl ObjectBody {
    pub(super) fn new(
        watch: Watch,
        cursor: Option<Cursor>,
        source: Option<RefetchSource>,
        segments: Vec<Segment>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let at = first_byte(segments.first());
        Self {
            size: size_of(&segments),
            segments: segments.into(),
            at,
            here: 0,
            epoch: 0,
            watch,
            cursor,
            source,
            listener: None,
            reading: None,
            unreadable: 0,
            cut: None,
            cut_told: false,
            pace: SendQuantum::new(),
            metrics,
        }
    }

    /// The same for one who reads a stream along.
    pub(super) fn listening(self, listener: Listener) -> Self {
        Self {
            listener: Some(listener),
            ..self
        }
    }

    /// The next thing to send: text between parts, or bytes of the object up to an end.
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

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            let end = match self.next_part() {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) => return Poll::Ready(Some(Ok(text))),
                Some(Part::UpTo(end)) => end,
            };
            return match ready!(self.poll_block(end, cx)) {
                Ok(Some(block)) => {
                    self.advance(end, block.len() as u64);
                    Poll::Ready(Some(Ok(block)))
                }
                Ok(None) => {
                    self.next_segment();
                    continue;
                }
                Err(cut) => Poll::Ready(Some(Err(cut))),
            };
        }
    }

    /// Notes that `bytes` of those up to `end` have been sent.
    fn advance(&mut self, end: ByteOffset, bytes: u64) {
        self.at += bytes;
        self.pace.sent(bytes);
        if let Some(cursor) = &self.cursor {
            cursor.reached(self.at, end, bytes);
        }
    }

    /// Waits until bytes are here; `false` where an object of unknown length has ended.
    fn poll_here(&mut self, end: ByteOffset, cx: &mut Context<'_>) -> Poll<Result<bool, Cut>> {
        if self.at < self.here {
            return Poll::Ready(Ok(true));
        }
        // Noted before the look: what is retracted after it raises the epoch, and the read is not believed.
        self.epoch = self.watch.object().epoch();
        let Poll::Ready(found) = self.watch.poll(self.at, end, cx) else {
            self.find_source(end)?;
            return Poll::Pending;
        };
        Poll::Ready(match found {
            Presence::Here(here) => {
                self.here = here;
                Ok(true)
            }
            Presence::End if end == u64::MAX => Ok(false),
            Presence::End => Err(Cut::Ended {
                url: self.url(),
                at: self.at,
            }),
            Presence::Broken(why) => Err(self.broken(why)),
        })
    }

    fn poll_lying(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Cut>>> {
        loop {
            let end = match self.next_part() {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) => return Poll::Ready(Some(Ok(BodyPiece::Memory(text)))),
                Some(Part::UpTo(end)) => end,
            };
            match ready!(self.poll_here(end, cx)) {
                Ok(true) => {}
                Ok(false) => {
                    self.next_segment();
                    continue;
                }
                Err(cut) => return Poll::Ready(Some(Err(cut))),
            }
            let object = self.watch.object();
            let Some(mut piece) = object.held(self.at) else {
                let stretch = ByteRange::new(self.at, end.min(self.here));
                let source = Arc::<Object>::clone(object);
                let stretch = stretch.map(|range| BodyPiece::Stored(source, range));
                return Poll::Ready(stretch.map(Ok));
            };
            // Bytes that were written meanwhile are found in the body file.
            let most = usize::try_from(end - self.at).unwrap_or(usize::MAX);
            piece.truncate(most);
            self.advance(end, piece.len() as u64);
            return Poll::Ready(Some(Ok(BodyPiece::Memory(piece))));
        }
    }

    /// The next bytes before `end`; `None` where an object of unknown length has ended.
    fn poll_block(&mut self, end: ByteOffset, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Cut>> {
        loop {
            if !ready!(self.poll_here(end, cx))? {
                return Poll::Ready(Ok(None));
            }
            if self.pace.rests(cx) {
                return Poll::Pending;
            }
            let read = ready!(self.poll_read(end, cx));
            // The bytes that were read are valid only if none were retracted since the look (the epoch).
            if self.watch.object().epoch() == self.epoch {
                return Poll::Ready(read.map(Some));
            }
            if let Err(cut) = read {
                // Bytes that do not read are absent now, and are fetched again; but not for ever.
                self.unreadable += 1;
                if self.unreadable > MAX_UNREADABLE {
                    return Poll::Ready(Err(cut));
                }
            }
            self.here = 0;
        }
    }

    /// Reads at the position, where bytes are known to be here.
    fn poll_read(&mut self, end: ByteOffset, cx: &mut Context<'_>) -> Poll<Result<Bytes, Cut>> {
        if self.reading.is_none() {
            let block = self.pace.block_bytes();
            let len = usize::try_from(end.min(self.here) - self.at).map_or(block, |len| len.min(block));
            // Without a thread where the page cache has the bytes: a hop costs more than the copy.
            if let Some(block) = self.watch.object().read_now(self.at, len)? {
                return Poll::Ready(Ok(block));
            }
            let (object, at) = (Arc::clone(self.watch.object()), self.at);
            self.reading = Some(tokio::task::spawn_blocking(move || object.read_blocking(at, len)));
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Pending;
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map_err(|_| Cut::Lost).and_then(|read| Ok(read?)))
    }

    /// A reader that waits for bytes of an object that was whole joins the fill that fetches them again.
    fn find_source(&mut self, end: ByteOffset) -> Result<(), Cut> {
        if self.cursor.as_ref().is_some_and(|cursor| !cursor.is_over()) {
            return Ok(());
        }
        let Some(source) = &self.source else {
            // Of a stream nothing comes twice.
            let lost = self
                .listener
                .as_ref()
                .is_some_and(|listener| listener.has_come(self.at));
            let lost = lost && self.watch.object().look(self.at).is_none();
            return match lost {
                true => Err(self.broken(Broken::Upstream("bytes of its log were lost".into()))),
                false => Ok(()),
            };
        };
        let object = self.watch.object();
        let span = ByteRange::new(self.at, end).map_or(Span::From(self.at), Span::Range);
        let (target, known) = (&source.target, Some(Arc::clone(object)));
        let cursor = match object.is_discarded() {
            false => source.fills.join(target, Want::Bytes(span), known),
            true => return Err(self.broken(Broken::Superseded)),
        };
        match cursor.phase() {
            Phase::Ready(other) if !Arc::ptr_eq(&other, object) => Err(self.broken(Broken::Superseded)),
            _ => {
                self.cursor = Some(cursor);
                Ok(())
            }
        }
    }

    fn broken(&self, why: Broken) -> Cut {
        Cut::Broken {
            url: self.url(),
            at: self.at,
            why,
        }
    }

    fn next_segment(&mut self) {
        self.segments.pop_front();
        self.at = first_byte(self.segments.front());
        self.here = 0;
    }

    fn breaks(&self, cut: &Cut) {
        self.metrics.broken_bodies.inc();
        tracing::warn!(%cut, "breaking a connection");
    }

    fn url(&self) -> String {
        self.watch.object().url().to_owned()
    }
}

/// The next thing to send.
enum Part {
    Text(Bytes),
    UpTo(ByteOffset),
}

pub(crate) fn first_byte(segment: Option<&Segment>) -> ByteOffset {
    match segment {
        Some(Segment::Object(range)) => ByteRange::start(*range),
        Some(Segment::ToEnd(start)) => *start,
        _ => 0,
    }
}

impl MessageBody for ObjectBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let piece = match self.cut.take() {
            Some(cut) => Some(Err(cut)),
            None => ready!(self.poll_bytes(cx)),
        };
        if let (Some(Err(_)), false) = (&piece, self.cut_told) {
            // The head, and what came before the cut, go out first: an error ends the connection at once.
            self.cut = piece.and_then(Result::err);
            self.cut_told = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(match piece {
            Some(Ok(bytes)) => {
                self.metrics.sent_bytes.inc_by(bytes.len() as u64);
                Some(Ok(bytes))
            }
            Some(Err(cut)) => {
                self.breaks(&cut);
                Some(Err(cut.into()))
            }
            None => None,
        })
    }
}

impl StoredBody for ObjectBody {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Box<dyn std::error::Error>>>> {
        Poll::Ready(match ready!(self.poll_lying(cx)) {
            Some(Ok(piece)) => {
                if let BodyPiece::Memory(bytes) = &piece {
                    self.metrics.sent_bytes.inc_by(bytes.len() as u64);
                }
                Some(Ok(piece))
            }
            Some(Err(cut)) => {
                self.breaks(&cut);
                Some(Err(cut.into()))
            }
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

/// An object's bytes, as the wire sends them.
impl SendFile for Object {
    fn send_now(&self, to: BorrowedFd<'_>, at: ByteOffset, len: usize) -> io::Result<Option<usize>> {
        self.send_now(to, at, len)
    }

    fn covers(&self, range: ByteRange) -> bool {
        self.covers(range)
    }

    fn bring_blocking(&self, at: ByteOffset, len: usize) -> usize {
        self.read_blocking(at, len).map_or(0, |bytes| bytes.len())
    }
}
