//! Readers of streams: live ones that many share, and requests that outlive their clients.
//!
//! `live` lets a reader into a stream that is being fetched, at a point where its form begins. `async_requests` sends a
//! request once, logs its reply, and gives the log to whoever knows its place.

pub(super) mod async_requests;
pub(super) mod live;
