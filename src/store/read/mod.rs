//! The way of bytes out of an object: to memory, or from the page cache to a socket.
//!
//! `source` is what delivery sees of it: it tells which bytes are here, and waits for others (`watch`). `pread` reads into
//! the buffers of `pool`, without waiting for the disk where it can (`residency` tells when looking is needless);
//! `sendfile` copies nothing. `hot_read` and `small_bodies` are for what is asked for all the time.

pub(super) mod hot_read;
pub(super) mod pool;
pub(super) mod pread;
pub(super) mod residency;
pub(super) mod sendfile;
pub(super) mod small_bodies;
pub(super) mod source;
pub(super) mod watch;
