//! What a start does about a past that ended badly.
//!
//! A catalog that will not open is set aside under its own name with the time, and a new one is
//! written from the manifests: complete objects come back whole, incomplete ones are begun again.
//! Files that no record speaks of (a crash between two steps) are removed in the background.

use super::body::Body;
use super::catalog::Catalog;
use super::error::StoreError;
use super::index::Layout;
use super::manifest::Manifest;
use super::record::Record;
use crate::key::ObjectKey;
use crate::ranges::{self, ByteRange};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes records for all manifests under `layout`; returns how many objects came back whole.
pub(super) fn rebuild(layout: &Layout, catalog: &Catalog) -> Result<usize, StoreError> {
    let mut whole = 0;
    for path in files(&layout.objects(), "json")? {
        match Manifest::read(&path).and_then(|manifest| restored(&path, manifest)) {
            Ok(Some((key, record))) => {
                whole += usize::from(!record.present.is_empty());
                catalog.put(key.id(), &record)?;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "left out a manifest that does not read"),
        }
    }
    catalog.flush()?;
    Ok(whole)
}

fn restored(path: &Path, manifest: Manifest) -> Result<Option<(ObjectKey, Record)>, StoreError> {
    let damaged = |what: &str| StoreError::Damaged {
        what: format!("{}: {what}", path.display()),
    };
    let url = url::Url::parse(&manifest.url).map_err(|_| damaged("its URL does not parse"))?;
    let key = ObjectKey::of(&url);
    let body = Body::open(&path.with_extension("body"))?;
    let present = match manifest.complete_length {
        Some(length) if manifest.complete && body.file_len()? == length => {
            ByteRange::new(0, length).into_iter().collect()
        }
        _ => ranges::RangeSet::new(),
    };
    let record = Record {
        url: manifest.url,
        generation: manifest.generation,
        complete_length: manifest
            .complete_length
            .filter(|_| !present.is_empty() || !manifest.complete),
        unverified: manifest.unverified,
        representation: manifest.representation,
        present: ranges::encode(&present),
        created: manifest.created,
        validated: manifest.created,
        last_used: manifest.created,
        hits: 0,
        pinned: false,
    };
    Ok(Some((key, record)))
}

/// All files of that extension two levels below `dir`.
pub(super) fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for shard in entries(dir)? {
        if shard.is_dir() {
            let bodies = entries(&shard)?;
            found.extend(
                bodies
                    .into_iter()
                    .filter(|path| path.extension().is_some_and(|ext| ext == extension)),
            );
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = fs::read_dir(dir).map_err(StoreError::file("list", dir))?;
    list.map(|entry| entry.map(|entry| entry.path()).map_err(StoreError::file("list", dir)))
        .collect()
}
