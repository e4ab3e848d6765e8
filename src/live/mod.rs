//! Streams: what has no end, or must outlive its client, and where one may be joined. Pure but for the list.
//!
//! A stream is an object like any other: its bytes are logged by the session of a fill, and read by anybody, at any
//! offset, with the same body as a film. What is different is decided here: which reply is a stream (kind.rs),
//! where a reader may come in (sync_points.rs), and how one stands (stream.rs), and which there are
//! (streams.rs).

mod kind;
mod stream;
mod streams;
mod sync_points;

pub use kind::{Rules, StreamFormat};
pub use stream::{Listener, SentBody, Stream, StreamId, StreamRequest, StreamStatus};
pub use streams::{CROWDED, Limits, Streams, TooMany};
pub use sync_points::{EventScan, SyncPoints, after_event};
