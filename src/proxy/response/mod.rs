//! The response: decided (pure), then written as a header and a body in segments.
//!
//! `decide` applies conditions and ranges to what is known of an object. `write` makes the header of every answer from an
//! object; its body is a `body` over an `object_source`, or a `multipart` one, sent a `send_quantum` at a time. `problem`
//! alone turns errors into HTTP. `confine` takes from the answer of a stranger's host what would speak for our origin.

pub(super) mod body;
pub(super) mod confine;
pub(super) mod decide;
pub(crate) mod multipart;
pub(super) mod object_source;
pub(super) mod problem;
pub(super) mod send_quantum;
pub(super) mod write;
