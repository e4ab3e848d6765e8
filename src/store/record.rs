//! One record of the catalog: `[version byte] + postcard`.
//!
//! A released version is frozen: a change of shape is a new struct, a new version byte and a new
//! numbered step in `migrations/`.

use super::StoreError;
use super::object::Representation;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

/// What the catalog knows of one object; times are whole seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) url: String,
    pub(super) generation: u64,
    pub(super) complete_length: Option<u64>,
    pub(super) unverified: bool,
    pub(super) representation: Representation,
    /// Durable bytes, as `ranges::encode` writes them.
    pub(super) present: Vec<u64>,
    pub(super) created: u64,
    pub(super) validated: u64,
    pub(super) last_used: u64,
    pub(super) hits: u64,
    pub(super) pinned: bool,
}

impl Record {
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        postcard::to_extend(self, vec![VERSION]).map_err(|error| StoreError::Damaged {
            what: format!("the record of {} does not encode: {error}", self.url),
        })
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = |what: String| StoreError::Damaged { what };
        match bytes.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| damaged(format!("it does not decode: {error}")))
            }
            Some((version, _)) => Err(damaged(format!("unknown version {version}"))),
            None => Err(damaged("it is empty".to_owned())),
        }
    }
}
