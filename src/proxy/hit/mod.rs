//! Hits that need nothing of the ordinary way: answered from what was made for a request before them.
//!
//! `hot_headers` are made once for an object. `request_cache` remembers, for each worker, where a path leads and the head of
//! its answers for a second. `fast_path` answers a plain GET on a connection of our own from both, from the bytes of the
//! request to those of the header.

pub(super) mod fast_path;
pub(super) mod hot_headers;
pub(super) mod request_cache;
