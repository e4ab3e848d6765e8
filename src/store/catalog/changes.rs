//! Changes of the trees: each has room before it is made, and says what it has altered.
//!
//! The size of the catalog is told by how much what is live has grown (size.rs). While the catalog is written anew each
//! change notes its keys, so that they are copied again (compaction.rs).

use super::Catalog;
use super::record::Record;
use super::size::{Purpose, RoomDecision};
use super::trees::CatalogTree;
use crate::key::ObjectId;
use crate::store::error::StoreError;
use crate::sync::{lock, read};
use sled::IVec;
use std::collections::HashSet;

/// The keys that changes have altered, each once: a busy key is copied once in a round.
pub(super) type ChangedKeys = HashSet<(CatalogTree, IVec)>;

impl Catalog {
    /// Makes a change under some keys of a tree, after room was made for so many bytes. `work` returns, beside its result,
    /// by how many bytes what is live has grown.
    ///
    /// # Errors
    /// Where the catalog refuses. What is to be kept finds room always.
    pub(super) fn keep<T>(
        &self,
        action: &'static str,
        bytes: u64,
        tree: CatalogTree,
        work: impl FnOnce(&sled::Tree, &mut Vec<IVec>) -> sled::Result<(T, i64)>,
    ) -> Result<T, StoreError> {
        while let Ok(RoomDecision::Compact) = self.size.make_room(bytes, Purpose::Keep) {
            self.compact();
        }
        self.change(action, tree, work)
    }

    /// Makes a change for which room was made.
    pub(super) fn change<T>(
        &self,
        action: &'static str,
        tree: CatalogTree,
        work: impl FnOnce(&sled::Tree, &mut Vec<IVec>) -> sled::Result<(T, i64)>,
    ) -> Result<T, StoreError> {
        let _changing = read(&self.changes);
        let mut keys = Vec::new();
        let done = self.with(action, |trees| work(trees.tree(tree), &mut keys));
        // Also where it failed: some of it may have been done.
        self.note(tree, keys);
        let (done, live) = done?;
        self.size.changed(live);
        Ok(done)
    }

    /// Notes what a change has altered, where the catalog is being written anew. Called with `changes` shared.
    fn note(&self, tree: CatalogTree, keys: Vec<IVec>) {
        if let Some(changed) = &mut *lock(&self.changed) {
            changed.extend(keys.into_iter().map(|key| (tree, key)));
        }
    }
}

/// Bytes of a key and its value.
pub(super) fn entry_bytes(key: &[u8], value: &[u8]) -> i64 {
    i64::try_from(key.len() + value.len()).unwrap_or(i64::MAX)
}

/// Writes the record, unless one of a later generation stands there.
pub(super) fn put_unless_newer(
    objects: &sled::Tree,
    keys: &mut Vec<IVec>,
    id: ObjectId,
    record: &Record,
    bytes: &[u8],
) -> sled::Result<((), i64)> {
    // One that does not decode has superseded nothing.
    let newer = |old: &[u8]| Record::from_bytes(old).is_ok_and(|old| old.generation > record.generation);
    put_unless(objects, keys, id, bytes, newer)
}

/// Writes a record, unless what stands there stays; says how much more is live.
pub(super) fn put_unless(
    objects: &sled::Tree,
    keys: &mut Vec<IVec>,
    id: ObjectId,
    bytes: &[u8],
    stays: impl Fn(&[u8]) -> bool,
) -> sled::Result<((), i64)> {
    // Compared and written in one step of sled's: two generations may be recorded at once.
    let before = objects.fetch_and_update(id.as_bytes(), |old| match old {
        Some(old) if stays(old) => Some(old.to_vec()),
        _ => Some(bytes.to_vec()),
    })?;
    keys.push(id.as_bytes().into());
    let more = match before {
        Some(before) if stays(&before) => 0,
        Some(before) => entry_bytes(&[], bytes) - entry_bytes(&[], &before),
        None => entry_bytes(id.as_bytes(), bytes),
    };
    Ok(((), more))
}

/// Writes a value; says how much more is live.
pub(super) fn insert(tree: &sled::Tree, keys: &mut Vec<IVec>, key: &[u8], value: Vec<u8>) -> sled::Result<((), i64)> {
    let new = entry_bytes(key, &value);
    let before = tree.insert(key, value)?;
    keys.push(key.into());
    Ok(((), new - before.map_or(0, |before| entry_bytes(key, &before))))
}

/// Removes a value; says how much less is live.
pub(super) fn remove(tree: &sled::Tree, keys: &mut Vec<IVec>, key: &[u8]) -> sled::Result<((), i64)> {
    let before = tree.remove(key)?;
    keys.push(key.into());
    Ok(((), -before.map_or(0, |before| entry_bytes(key, &before))))
}
