//! A line of the list of objects, as the API tells it.
//!
//! Fields that a server of another age lacks are `None` or empty, and those it has beyond ours are kept.

use serde::Deserialize;
use serde_json::{Map, Value};

/// An object as the server sees it. Sizes are in bytes, times in seconds since 1970.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ListedObject {
    /// The digest of the URL.
    pub(super) id: String,
    /// The canonical URL.
    pub(super) url: String,
    /// `incomplete`, `complete` or `unverified`.
    #[serde(default)]
    pub(super) state: String,
    /// `None` where the upstream has not told.
    #[serde(default)]
    pub(super) complete_length: Option<u64>,
    /// The bytes that are here, as half-open pairs.
    #[serde(default)]
    pub(super) present: Vec<[u64; 2]>,
    #[serde(default)]
    pub(super) present_bytes: u64,
    #[serde(default)]
    pub(super) disk_bytes: Option<u64>,
    #[serde(default)]
    pub(super) etag: Option<String>,
    #[serde(default)]
    pub(super) last_used: u64,
    #[serde(default)]
    pub(super) created: Option<u64>,
    #[serde(default)]
    pub(super) hits: u64,
    #[serde(default)]
    pub(super) pinned: bool,
    /// All other fields.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}
