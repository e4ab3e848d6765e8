//! The way of bytes into an object: received, handed to readers, written, synced, recorded.
//!
//! `sink` is what a fill sees of it. `body_writes` writes pieces, inline while the disk keeps up (`inline_gate`) and on a
//! blocking thread else; readers have a piece from memory until it is written (`unwritten_bytes`), and what the disk does not take
//! goes to those who wait for it (`pass_through`). `commit` makes the written bytes durable and records them, in that order;
//! `retract` takes bytes back, in the opposite one.

pub(super) mod body_writes;
pub(super) mod commit;
pub(super) mod in_flight_write;
pub(super) mod inline_gate;
pub(super) mod pass_through;
pub(super) mod pass_through_buffer;
pub(super) mod retract;
pub(super) mod sink;
pub(super) mod unwritten_bytes;
