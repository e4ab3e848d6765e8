//! Streams: what has no end, or must outlive its client, and where one may be joined. Pure but for the list.
//!
//! A stream is an object like any other: its bytes are logged by the session of a fill, and read by anybody, at any
//! offset, with the same body as a film. What is different is decided here: which reply is a stream (kind.rs),
//! where a reader may come in (join.rs), and which streams there are and how they ended (streams.rs).

mod join;
mod kind;
mod streams;

pub use join::{EventScan, JoinPoints, after_event};
pub use kind::{Kind, Rules};
pub use streams::{CROWDED, Limits, Listener, Origin, State, Status, Stream, StreamId, Streams, TooMany};
