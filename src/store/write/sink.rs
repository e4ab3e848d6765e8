//! The sink of an object: what a fill may do to it, and nothing else.
//!
//! A session *publishes* bytes to readers from memory, *writes* them ([`crate::store::Store::write`] where it may wait,
//! `write_inline` where it may not) and *commits* them now and then. The owner of a fill fixes what the upstream said of
//! the object, and makes room in it. Which bytes are here, who waits for them and when they end is the object's
//! [`Presence`](crate::store::Presence), not asked for through the sink.
//!
//! ```text
//!   in_flight_write ─▶ write_inline, Store::write ─▶ commit          for each batch of a session
//!   release_preallocated                                             when no more comes
//!   confirm, note_compared                                           what an exchange has told
//!   punch_out, drop_before                                           bytes that are here go again
//! ```
//!
//! The orders in which these work are those of body_writes.rs, commit.rs and retract.rs.

use super::in_flight_write::InFlightWrite;
use crate::ranges::{ByteCount, ByteOffset, ByteRange};
use crate::store::error::StoreError;
use crate::store::object::Object;
use std::sync::Arc;

/// An object, for who fills it.
#[derive(Debug, Clone, Copy)]
pub struct Sink<'a>(&'a Arc<Object>);

impl Object {
    /// The object, for who fills it.
    pub fn sink(self: &Arc<Self>) -> Sink<'_> {
        Sink(self)
    }
}

impl Sink<'_> {
    /// An empty in-flight write, for a session whose bytes no other session brings.
    pub fn in_flight_write(self) -> InFlightWrite {
        InFlightWrite::new(Arc::clone(self.0))
    }

    /// [`crate::store::Store::write`] where that is, as far as can be told, a copy into memory: the room is laid out, nobody
    /// takes any away, and the disk keeps up. `false` where it is not, or fails; some of it may be present then.
    pub fn write_inline(self, at: ByteOffset, pieces: &[impl AsRef<[u8]>]) -> bool {
        self.0.write_inline(at, pieces)
    }

    /// Makes what is present durable and records it: for a blocking thread.
    ///
    /// # Errors
    /// Where the disk or the catalog refuses; nothing is then recorded that is not durable.
    pub fn commit(self) -> Result<(), StoreError> {
        self.0.commit()
    }

    /// Gives back the room that was taken and not written, in bytes: for a blocking thread, when no more comes.
    ///
    /// # Errors
    /// Where the file system does not take it; it is tried again when the object is next opened.
    pub fn release_preallocated(self) -> Result<ByteCount, StoreError> {
        self.0.release_preallocated()
    }

    /// Makes the range absent and gives its pages back, to make room: for a blocking thread. Returns the bytes of room
    /// that this made.
    ///
    /// # Errors
    /// Where the catalog or the disk refuses. The bytes are absent then too, but still take room.
    pub fn punch_out(self, range: ByteRange) -> Result<ByteCount, StoreError> {
        self.0.punch_out(range)
    }

    /// Drops the bytes before `first` for good: who reads them still is broken. For a blocking thread.
    ///
    /// # Errors
    /// As [`Sink::punch_out`].
    pub fn drop_before(self, first: ByteOffset) -> Result<ByteCount, StoreError> {
        self.0.drop_before(first)
    }

    /// Bytes of another exchange were compared with the object's own, and join them.
    pub fn note_compared(self) {
        self.0.note_compared();
    }

    /// Bytes or a word of the upstream's came by a client's credentials.
    pub fn guard(self) {
        self.0.guard();
    }

    /// Whether the object's files could be made; where not, its bytes only pass by.
    pub fn is_materialized(self) -> bool {
        self.0.is_materialized()
    }
}
