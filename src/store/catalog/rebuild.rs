//! Recovery of a lost catalog, at a start.
//!
//! A catalog that will not open is set aside under its own name with the time, and a new one is
//! written from the manifests: complete objects come back whole, incomplete ones are begun again. That
//! happens while requests are served: whoever asks for an object that the new catalog does not have yet
//! gets it from its manifest at once.

use super::manifest::Manifest;
use super::record::Record;
use crate::key::{ObjectId, ObjectKey};
use crate::ranges::{self, ByteRange, RangeSet};
use crate::store::body_file::Body;
use crate::store::catalog::Catalog;
use crate::store::error::StoreError;
use crate::store::integrity::run_checksums::{Group, Sum};
use crate::store::layout::{Layout, parse_name};
use crate::store::space::quota::PAGE_BYTES;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Writes records for all manifests that have none; returns how many objects came back whole.
pub(in crate::store) fn rebuild(layout: &Layout, catalog: &Catalog) -> Result<usize, StoreError> {
    let mut whole = 0;
    for shard in shards(layout)? {
        let mut newest: BTreeMap<ObjectId, (u64, PathBuf)> = BTreeMap::new();
        for path in files(&shard, "json")? {
            if let Some((id, generation)) = parse_name(&path)
                && newest.get(&id).is_none_or(|(other, _)| *other < generation)
            {
                newest.insert(id, (generation, path));
            }
        }
        for (id, (_, path)) in newest {
            whole += usize::from(restore(&path, id, catalog)?);
        }
    }
    catalog.flush()?;
    Ok(whole)
}

/// Writes the record of one object from its newest manifest, where there is one.
pub(in crate::store) fn rebuild_one(layout: &Layout, catalog: &Catalog, id: ObjectId) -> Result<(), StoreError> {
    let shard = layout.shard(id);
    if !shard.is_dir() {
        return Ok(());
    }
    let of_id = files(&shard, "json")?
        .into_iter()
        .filter_map(|path| Some((parse_name(&path)?, path)));
    let newest = of_id
        .filter(|((other, _), _)| *other == id)
        .max_by_key(|((_, generation), _)| *generation);
    if let Some((_, path)) = newest {
        restore(&path, id, catalog)?;
    }
    Ok(())
}

/// `true` where the object came back whole. A manifest that does not read is left where it is.
fn restore(path: &Path, id: ObjectId, catalog: &Catalog) -> Result<bool, StoreError> {
    let (key, record, sums) = match Manifest::read(path).and_then(|manifest| restored(path, manifest)) {
        Ok(restored) => restored,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "left out a manifest that does not read");
            return Ok(false);
        }
    };
    if key.id() != id {
        tracing::warn!(path = %path.display(), "left out a manifest whose URL is not that of its name");
        return Ok(false);
    }
    // Sums before the record: no record names bytes that nothing can check.
    let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
    for (block, sums) in sums {
        groups.entry(Group::number_of(block)).or_default().set(block, sums);
    }
    for (number, group) in groups {
        catalog.put_sums(id, record.generation, number, &group)?;
    }
    let whole = !record.present.is_empty() || record.complete_length == Some(0);
    catalog.put_restored(id, &record)?;
    Ok(whole)
}

type Restored = (ObjectKey, Record, Vec<(u64, Vec<Sum>)>);

fn restored(path: &Path, manifest: Manifest) -> Result<Restored, StoreError> {
    let damaged = |what: &str| StoreError::Damaged {
        what: format!("{}: {what}", path.display()),
    };
    let url = url::Url::parse(&manifest.url).map_err(|_| damaged("its URL does not parse"))?;
    let mut key = ObjectKey::of(&url);
    if let Some(variant) = &manifest.representation.variant {
        key = key.variant(variant);
    }
    let length = fs::metadata(path).map_err(StoreError::file("inspect", path))?.len();
    let body = Body::open(&path.with_extension("body"))?;
    // All or nothing: a manifest says nothing of the progress of an incomplete object.
    let present: RangeSet = match manifest.complete_length {
        Some(length) if manifest.complete && body.file_len()? == length => {
            ByteRange::new(0, length).into_iter().collect()
        }
        _ => RangeSet::new(),
    };
    let whole = manifest.complete && manifest.complete_length == Some(present.total());
    let record = Record {
        url: manifest.url,
        generation: manifest.generation,
        complete_length: manifest.complete_length.filter(|_| whole || !manifest.complete),
        unverified: manifest.unverified,
        representation: manifest.representation,
        present: ranges::encode(&present),
        created: manifest.created,
        validated: manifest.validated.max(manifest.created),
        // Uses were in the lost record: the object ranks as if it was last asked for then.
        last_used: manifest.validated.max(manifest.created),
        hits: 0,
        pinned: manifest.pinned,
        digest: manifest.digest.filter(|_| whole),
        manifest_bytes: length.next_multiple_of(PAGE_BYTES),
    };
    Ok((key, record, if whole { manifest.sums } else { Vec::new() }))
}

/// The directories of bodies.
pub(in crate::store) fn shards(layout: &Layout) -> Result<Vec<PathBuf>, StoreError> {
    let shards = match entries(&layout.objects()) {
        // A deleted `objects` directory is made anew with the next object.
        Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        shards => shards?,
    };
    Ok(shards.into_iter().filter(|shard| shard.is_dir()).collect())
}

/// The files of that extension in one of them.
pub(in crate::store) fn files(shard: &Path, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
    let all = entries(shard)?.into_iter();
    Ok(all
        .filter(|path| path.extension().is_some_and(|ext| ext == extension))
        .collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = fs::read_dir(dir).map_err(StoreError::file("list", dir))?;
    list.map(|entry| entry.map(|entry| entry.path()).map_err(StoreError::file("list", dir)))
        .collect()
}
