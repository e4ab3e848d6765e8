//! The manifest beside a body: enough to write its record anew when the catalog is lost.
//!
//! Written when an object is made and again when it is complete, each time whole, by rename. Between
//! the two it says nothing of progress: an incomplete object is then begun again, never guessed.

use super::StoreError;
use super::object::Representation;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) url: String,
    pub(super) generation: u64,
    pub(super) complete_length: Option<u64>,
    /// All bytes were on the disk when this was written.
    pub(super) complete: bool,
    pub(super) unverified: bool,
    pub(super) representation: Representation,
    pub(super) created: u64,
}

impl Manifest {
    pub(super) fn new(url: &str, generation: u64, representation: &Representation, created: u64) -> Self {
        Self {
            format: FORMAT,
            url: url.to_owned(),
            generation,
            complete_length: representation.complete_length,
            complete: false,
            unverified: false,
            representation: representation.clone(),
            created,
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| StoreError::Damaged {
            what: format!("the manifest of {} does not encode: {error}", self.url),
        })?;
        let temporary = path.with_extension("json.new");
        fs::write(&temporary, text).map_err(StoreError::file("write", &temporary))?;
        fs::rename(&temporary, path).map_err(StoreError::file("rename", &temporary))
    }

    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let text = fs::read(path).map_err(StoreError::file("read", path))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| StoreError::Damaged {
            what: format!("{}: {error}", path.display()),
        })?;
        if manifest.format != FORMAT {
            let what = format!("{}: unknown format {}", path.display(), manifest.format);
            return Err(StoreError::Damaged { what });
        }
        Ok(manifest)
    }
}
