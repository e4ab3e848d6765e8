//! The server's counters.
//!
//! What the store holds is counted now, from the catalog; what was done is counted from the start of the process, and
//! begins at 0 with the next. Sizes are in bytes. A field that a server does not send is 0, or `null` where that means
//! unknown.

use serde::{Deserialize, Serialize};

/// The contents of the store now, and counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Stats {
    /// Objects.
    pub objects: u64,
    /// Objects of which every byte is here.
    pub complete: u64,
    /// Objects of which bytes are missing.
    pub incomplete: u64,
    /// Objects that are exempt from eviction.
    pub pinned: u64,
    /// Bytes of all of them that are here.
    pub present_bytes: u64,
    /// The disk space of objects, in bytes.
    pub disk_bytes: u64,
    /// The most that it may take, in bytes; `null` without a quota.
    pub quota_bytes: Option<u64>,
    /// The part of the quota that is kept for the catalog and directories, in bytes.
    pub reserved_bytes: u64,
    /// Room for more before something is evicted, in bytes; `null` where the file system does not tell.
    pub free_bytes: Option<u64>,
    /// Fills under way.
    pub fills: u64,
    /// Answers from the store, since the start.
    pub hits: u64,
    /// Answers that the upstream was asked for, since the start.
    pub misses: u64,
    /// Bytes of bodies sent to clients, since the start.
    pub sent_bytes: u64,
    /// Objects that were evicted, since the start.
    pub evicted: u64,
    /// Bytes of objects in use that were given up for room, since the start.
    pub punched_bytes: u64,
    /// Runs of bytes that did not match their checksums, since the start.
    pub bad_blocks: u64,
}
