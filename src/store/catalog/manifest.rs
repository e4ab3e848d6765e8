//! The manifest beside a body: enough to write its record anew when the catalog is lost.
//!
//! Written when an object is made, when it is complete, and when a complete one loses bytes or is
//! pinned; each time whole, by rename. Between those it says nothing of progress: an incomplete object
//! is then begun again, never guessed.

use super::record::from_utf_8;
use crate::store::StoreError;
use crate::store::fault;
use crate::store::integrity::run_checksums::Sum;
use crate::store::object::representation::Representation;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Versions of the text. Format 2 added what has a default below; format 3 has field values as `header::text_of` has
/// them, not in UTF-8. All of them are read, and the last is written.
const FORMAT: u32 = 3;
const OLDEST_FORMAT: u32 = 1;
const LAST_UTF_8_FORMAT: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Manifest {
    pub(in crate::store) format: u32,
    pub(in crate::store) url: String,
    pub(in crate::store) generation: u64,
    pub(in crate::store) complete_length: Option<u64>,
    /// All bytes were on the disk when this was written.
    pub(in crate::store) complete: bool,
    pub(in crate::store) unverified: bool,
    pub(in crate::store) representation: Representation,
    pub(in crate::store) created: u64,
    /// When the upstream last vouched for it, as far as this knows; 0 means when it was made.
    #[serde(default)]
    pub(in crate::store) validated: u64,
    #[serde(default)]
    pub(in crate::store) pinned: bool,
    #[serde(default)]
    pub(in crate::store) digest: Option<[u8; 32]>,
    /// Of a complete object: each block's number and checksums.
    #[serde(default)]
    pub(in crate::store) sums: Vec<(u64, Vec<Sum>)>,
}

impl Manifest {
    pub(in crate::store) fn new(url: &str, generation: u64, representation: &Representation, created: u64) -> Self {
        Self {
            format: FORMAT,
            url: url.to_owned(),
            generation,
            complete_length: representation.complete_length,
            complete: false,
            unverified: false,
            representation: representation.clone(),
            created,
            validated: created,
            pinned: false,
            digest: None,
            sums: Vec::new(),
        }
    }

    pub(in crate::store) fn to_text(&self) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(self).map_err(|error| StoreError::Damaged {
            what: format!("the manifest of {} does not encode: {error}", self.url),
        })
    }

    /// Puts a manifest of that text in the place of the one before.
    pub(in crate::store) fn write(path: &Path, text: &[u8]) -> Result<(), StoreError> {
        let temporary = path.with_extension("json.new");
        // Not synced: it matters only where the catalog is lost. One that does not read is then left out, and the sums
        // in it tell which bytes have gone since.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&temporary).and_then(|mut file| file.write_all(text));
        let written = written.map_err(StoreError::file("write", &temporary));
        let renamed = written.and_then(|()| {
            fault::point("manifest-written");
            fs::rename(&temporary, path).map_err(StoreError::file("rename", &temporary))
        });
        if renamed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        renamed
    }

    pub(in crate::store) fn read(path: &Path) -> Result<Self, StoreError> {
        let text = fs::read(path).map_err(StoreError::file("read", path))?;
        Self::from_text(&text, path)
    }

    /// The manifest that the text is of; the path is for errors.
    fn from_text(text: &[u8], path: &Path) -> Result<Self, StoreError> {
        let mut manifest: Self = serde_json::from_slice(text).map_err(|error| StoreError::Damaged {
            what: format!("{}: {error}", path.display()),
        })?;
        if !(OLDEST_FORMAT..=FORMAT).contains(&manifest.format) {
            let what = format!("{}: unknown format {}", path.display(), manifest.format);
            return Err(StoreError::Damaged { what });
        }
        if manifest.format <= LAST_UTF_8_FORMAT {
            let representation = &mut manifest.representation;
            representation.headers = from_utf_8(std::mem::take(&mut representation.headers));
            representation.selected_by = from_utf_8(std::mem::take(&mut representation.selected_by));
            representation.gives_parts = representation.ranges;
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzzed_manifests_are_refused_or_read_and_written_the_same() {
        crate::fuzzing::fuzz("manifest", |text| {
            if let Ok(manifest) = Manifest::from_text(text, Path::new("fuzzed")) {
                let written = Manifest {
                    format: FORMAT,
                    ..manifest
                }
                .to_text()
                .expect("text");
                let again = Manifest::from_text(&written, Path::new("again")).expect("read");
                assert_eq!(again.to_text().expect("text"), written);
            }
        });
    }
}
