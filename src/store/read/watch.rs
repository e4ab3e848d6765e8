//! The watch of a reader: its place in the queue of an object.
//!
//! A reader polls its watch for the byte that it needs next. While the byte is absent the watch has a place in the queue
//! of waiters (presence.rs); a change there wakes the reader, which polls again. A watch that is dropped leaves the
//! queue, and the fill is told, since nobody may want its bytes any more.

use crate::ranges::ByteOffset;
use crate::store::object::Object;
use crate::store::object::progress::{Availability, QueuePlace};
use std::sync::Arc;
use std::task::{Context, Poll};

/// A reader's place in the queue of an object; leaves the queue when dropped.
#[derive(Debug)]
pub struct Watch {
    object: Arc<Object>,
    place: Option<QueuePlace>,
    /// Where what is asked for now began and ends.
    asked: (ByteOffset, ByteOffset),
}

impl Watch {
    /// A reader of `object` that does not wait yet.
    pub fn new(object: Arc<Object>) -> Self {
        Self {
            object,
            place: None,
            asked: (0, 0),
        }
    }

    /// The object read.
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// The presence at `at`, now or when it is decided; the reader wants the bytes up to `end`.
    pub fn poll(&mut self, at: ByteOffset, end: ByteOffset, cx: &mut Context<'_>) -> Poll<Availability> {
        if self.place.is_none()
            && self.object.is_whole()
            && let Some(found) = self.object.presence.look(at)
        {
            return Poll::Ready(found);
        }
        if self.asked.1 != end {
            self.asked = (at, end);
        }
        self.object.presence.poll(&mut self.place, at, self.asked, cx)
    }

    /// Leaves the queue; the next poll enters it anew.
    pub fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.object.presence.leave(place);
        }
    }

    /// [`Watch::poll`], as a future.
    pub async fn wait(&mut self, at: ByteOffset, end: ByteOffset) -> Availability {
        std::future::poll_fn(|cx| self.poll(at, end, cx)).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.leave();
    }
}
