//! The integrity of stored bytes: checksums of each run, digests of whole bodies, and what is done about damage.
//!
//! `run_checksums` is the format; `checksums` keeps those of one open object as bytes come and go. `damage` makes bytes
//! absent that do not match, so that they are fetched again. `verify` reads everything, in a running server or without one.

pub(super) mod damage;
pub(super) mod digest;
pub(super) mod object_integrity;
pub(super) mod run_checksums;
pub(super) mod verify;
