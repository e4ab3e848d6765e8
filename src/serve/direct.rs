//! The body of an answer as it lies: in memory, or in the file of an object, from where a connection of our own sends it.

use super::body::{Cut, ObjectBody, Part};
use crate::ranges::ByteRange;
use crate::store::Object;
use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Bytes to be sent as they lie.
pub enum BodyPiece {
    /// In memory. They count as sent.
    Memory(Bytes),
    /// In the object's file, most likely.
    Stored(Arc<Object>, ByteRange),
}

/// The body of an answer, for a connection of our own: found beside the answer's ordinary body (in its extensions),
/// which it takes the place of.
#[derive(Clone)]
pub struct DirectBody(Rc<RefCell<ObjectBody>>);

impl DirectBody {
    pub(super) fn new(body: ObjectBody) -> Self {
        Self(Rc::new(RefCell::new(body)))
    }

    /// The next piece; `None` at the end.
    pub fn poll_lying(&self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Cut>>> {
        let mut body = self.0.borrow_mut();
        let lying = ready!(body.poll_lying(cx));
        match &lying {
            Some(Ok(BodyPiece::Memory(bytes))) => {
                body.metrics.sent_bytes.inc_by(bytes.len() as u64);
            }
            Some(Err(cut)) => body.breaks(cut),
            Some(Ok(BodyPiece::Stored(..))) | None => {}
        }
        Poll::Ready(lying)
    }

    /// Notes that bytes of a stretch have been sent from where they lay.
    pub fn sent(&self, bytes: u64) {
        let mut body = self.0.borrow_mut();
        body.metrics.sent_bytes.inc_by(bytes);
        if let Some(Part::UpTo(end)) = body.next_part() {
            body.advance(end, bytes);
        }
    }
}

impl MessageBody for DirectBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.0.borrow().size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}
