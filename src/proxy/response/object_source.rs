//! A stored object as the source of a body: sent from the page cache where its bytes are here, waited for where they
//! are absent.
//!
//! Bytes that are here can go again: they are evicted, punched out, or found damaged. The object's epoch rises before
//! that, so a block is believed only if the epoch is the same after the read as before the look; else its bytes are
//! waited for, and fetched, once more. A body of an object that was whole joins a fill only then.

use super::body::SegmentSource;
use crate::fill::{Cursor, JoinRequest, Phase, Registry};
use crate::http1::{BodyPiece, SendFile};
use crate::live::Listener;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::{Availability, Broken, Object, StoreError, Watch};
use crate::upstream::{Span, Target};
use bytes::Bytes;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::{JoinError, JoinHandle};

/// How often a reader has bytes fetched again that the disk does not give. A judgement: a disk that fails is not asked
/// for ever.
const MAX_UNREADABLE: u32 = 64;

/// Why the body of an object ends before its length.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum Cut {
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

impl From<JoinError> for Cut {
    fn from(_: JoinError) -> Self {
        Self::Lost
    }
}

/// Where the bytes of an object come from, should one turn out to be gone.
pub(in crate::proxy) struct RefetchSource {
    pub(in crate::proxy) fills: Registry,
    pub(in crate::proxy) target: Arc<Target>,
}

/// The object that a body is of.
pub(in crate::proxy) struct ObjectSource {
    /// Bytes are here up to this offset.
    here: ByteOffset,
    /// The object's epoch from before that was known.
    epoch: u64,
    watch: Watch,
    /// Keeps the fill going while this reader lasts. A whole object needs none, until a block of it is
    /// found damaged.
    cursor: Option<Cursor>,
    /// `None` where what is gone cannot be asked for again.
    refetch: Option<RefetchSource>,
    /// The body's share in a stream.
    listener: Option<Listener>,
    /// How often the disk did not give what it had taken.
    unreadable: u32,
}

impl ObjectSource {
    pub(in crate::proxy) fn new(watch: Watch, cursor: Option<Cursor>, refetch: Option<RefetchSource>) -> Self {
        Self {
            here: 0,
            epoch: 0,
            watch,
            cursor,
            refetch,
            listener: None,
            unreadable: 0,
        }
    }

    /// The same for one who reads a stream along.
    pub(in crate::proxy) fn listening(self, listener: Listener) -> Self {
        Self {
            listener: Some(listener),
            ..self
        }
    }

    /// A reader that waits for bytes of an object that was whole joins the fill that fetches them again.
    fn find_source(&mut self, at: ByteOffset, end: ByteOffset) -> Result<(), Cut> {
        if self.cursor.as_ref().is_some_and(|cursor| !cursor.is_over()) {
            return Ok(());
        }
        let Some(refetch) = &self.refetch else {
            // Of a stream nothing comes twice.
            let lost = self.listener.as_ref().is_some_and(|listener| listener.has_come(at));
            let lost = lost && self.watch.object().presence().look(at).is_none();
            return match lost {
                true => Err(self.broken(at, Broken::Upstream("bytes of its log were lost".into()))),
                false => Ok(()),
            };
        };
        let object = self.watch.object();
        let span = ByteRange::new(at, end).map_or(Span::From(at), Span::Range);
        let (target, known) = (&refetch.target, Some(Arc::clone(object)));
        let cursor = match object.is_discarded() {
            false => refetch.fills.join(target, JoinRequest::Bytes(span), known),
            true => return Err(self.broken(at, Broken::Superseded)),
        };
        match cursor.phase() {
            Phase::Ready(other) if !Arc::ptr_eq(&other, object) => Err(self.broken(at, Broken::Superseded)),
            _ => {
                self.cursor = Some(cursor);
                Ok(())
            }
        }
    }

    fn broken(&self, at: ByteOffset, why: Broken) -> Cut {
        Cut::Broken {
            url: self.url(),
            at,
            why,
        }
    }

    fn url(&self) -> String {
        self.watch.object().url().to_owned()
    }
}

impl SegmentSource for ObjectSource {
    type Cut = Cut;

    fn poll_here(
        &mut self,
        at: ByteOffset,
        end: ByteOffset,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<ByteOffset>, Cut>> {
        if at < self.here {
            return Poll::Ready(Ok(Some(self.here)));
        }
        // Noted before the look: what is retracted after it raises the epoch, and the read is not believed.
        self.epoch = self.watch.object().presence().epoch();
        let Poll::Ready(found) = self.watch.poll(at, end, cx) else {
            self.find_source(at, end)?;
            return Poll::Pending;
        };
        Poll::Ready(match found {
            Availability::Here(here) => {
                self.here = here;
                Ok(Some(here))
            }
            Availability::End if end == u64::MAX => Ok(None),
            Availability::End => Err(Cut::Ended { url: self.url(), at }),
            Availability::Broken(why) => Err(self.broken(at, why)),
        })
    }

    fn piece(&mut self, at: ByteOffset, until: ByteOffset) -> Option<BodyPiece> {
        let object = self.watch.object();
        // Bytes that were written meanwhile are found in the body file.
        if let Some(bytes) = object.presence().held(at) {
            return Some(BodyPiece::Memory(bytes));
        }
        let source = Arc::<Object>::clone(object);
        ByteRange::new(at, until).map(|range| BodyPiece::Stored(source, range))
    }

    fn read_now(&self, at: ByteOffset, len: usize) -> Result<Option<Bytes>, Cut> {
        Ok(self.watch.object().source().read_now(at, len)?)
    }

    fn read_later(&self, at: ByteOffset, len: usize) -> JoinHandle<Result<Bytes, Cut>> {
        let object = Arc::clone(self.watch.object());
        tokio::task::spawn_blocking(move || Ok(object.source().read_blocking(at, len)?))
    }

    fn verify(&mut self, _: ByteOffset, _: ByteOffset, read: Result<Bytes, Cut>) -> Result<Option<Bytes>, Cut> {
        // The bytes that were read are valid only if none were retracted since the look (the epoch).
        if self.watch.object().presence().epoch() == self.epoch {
            return read.map(Some);
        }
        if let Err(cut) = read {
            // Bytes that do not read are absent now, and are fetched again; but not for ever.
            self.unreadable += 1;
            if self.unreadable > MAX_UNREADABLE {
                return Err(cut);
            }
        }
        self.here = 0;
        Ok(None)
    }

    fn reached(&mut self, at: ByteOffset, end: ByteOffset, bytes: u64) {
        if let Some(cursor) = &self.cursor {
            cursor.reached(at, end, bytes);
        }
    }

    fn begin(&mut self, _: ByteOffset) {
        self.here = 0;
    }

    fn log_break(&self, cut: &Cut) {
        tracing::warn!(%cut, "breaking a connection");
    }
}

/// An object's bytes, as the wire sends them.
impl SendFile for Object {
    fn send_now(&self, to: BorrowedFd<'_>, at: ByteOffset, len: usize) -> io::Result<Option<usize>> {
        self.source().send_now(to, at, len)
    }

    fn covers(&self, range: ByteRange) -> bool {
        self.presence().covers(range)
    }

    fn bring_blocking(&self, at: ByteOffset, len: usize) -> usize {
        self.source().read_blocking(at, len).map_or(0, |bytes| bytes.len())
    }
}
