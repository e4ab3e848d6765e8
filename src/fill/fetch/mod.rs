//! One exchange with the upstream: asked, classified, received, written.
//!
//! `ask` takes a turn in the upstream's budget and follows redirects from the `targets` that may be asked; `classify_reply`
//! (pure) says whether the reply's bytes continue what is stored. A `session` is the exchange at its position: `receive`
//! moves its bytes until it meets its end, through a `write_batch`, and `throughput` measures the rate.

pub(super) mod ask;
pub(super) mod classify_reply;
pub(super) mod receive;
pub(super) mod session;
pub(super) mod targets;
pub(super) mod throughput;
pub(super) mod write_batch;
