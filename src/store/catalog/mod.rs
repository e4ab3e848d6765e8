//! The catalog: sled, reduced to typed records by object id.
//!
//! Weaknesses of sled are worked around here.
//!
//! - It can panic or fail on opening after a hard stop: opening runs on a thread of its own, after the
//!   snapshots that a crash left half-written are removed, and a catalog that still fails is set aside, not
//!   fatal (rebuild.rs).
//! - Its `flush` does not fsync; only its background thread does, so that stays on.
//! - After one failed write it refuses everything for ever, room or no room. The catalog is then closed and
//!   opened anew as soon as the disk may take it; what it had not written out is lost, and is told again.
//! - It never notices that its directory was deleted. That is looked for now and then.
//! - Its log grows to ten times what is in it: within a quota its size is looked at, and it is written anew (size.rs).
//!
//! Nothing is served on its word alone: a record follows the synced bytes and never runs ahead of them.

mod changes;
mod compaction;
mod generations;
pub(super) mod heal;
pub(super) mod known_absent;
pub(super) mod latency;
pub(super) mod manifest;
pub(super) mod rebuild;
pub(super) mod record;
pub(super) mod schema;
mod size;
pub(super) mod streams;
pub(super) mod tree_index;
mod trees;

use super::StoreError;
use super::body_file;
use super::integrity::run_checksums::Group;
use super::space::quota::{Shortage, Space};
use crate::clock::Instant;
use crate::key::ObjectId;
use crate::sync::{lock, read, write};
use changes::{ChangedKeys, entry_bytes, insert, put_unless, put_unless_newer, remove};
use generations::Unsettled;
use record::Record;
use size::{CatalogSize, MARGIN_BYTES, Purpose, REMOVAL_BYTES, RoomDecision};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use trees::{CatalogTree, file_of};
pub(super) use trees::{OpenFailure, Trees};

/// A catalog that failed is tried again this often. A judgement: requests are served meanwhile, but new objects are not
/// recorded; an attempt at a full disk costs some file operations.
const HEAL_EVERY: Duration = Duration::from_secs(1);

/// The free space that opening needs, and one byte more for each so many of its file: opening writes a snapshot,
/// which grows with what is in it, and begins a segment of half a MiB. Judgements, on the safe side.
const HEALING_ROOM: u64 = 2 << 20;
const FILE_BYTES_PER_ROOM: u64 = 16;

/// How often it is looked whether the file is still there. A judgement: one `stat` each time; what is recorded in a
/// deleted file meanwhile is told to the new one by the open objects and the manifests.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The version of a group of checksums, its first byte on disk: another shape takes another number.
const SUMS_VERSION: u8 = 1;

/// A record may grow by so much whatever room there is: by what has come of its body, its hits and times. A judgement.
const GROWTH_BYTES: usize = 1 << 10;

/// Records that are read at once: few at first, since often the first will do. Judgements: the trees are held for a
/// batch, and a page of a list is some hundred records.
const SCAN_FIRST: usize = 16;
const SCAN_BATCH: usize = 256;

#[derive(Debug)]
pub(super) struct Catalog {
    path: PathBuf,
    size: CatalogSize,
    /// Shared by each change of the trees, held alone for the last moments in which the catalog is written anew; no change
    /// comes between the last look at the old trees and the first at the new ones. Taken before `trees`.
    changes: RwLock<()>,
    /// The keys that changes have altered while the catalog is being written anew. A lock around a set; held for moments.
    changed: Mutex<Option<ChangedKeys>>,
    /// The switch that the disk is still to be told of since the catalog was written anew; the old one stays until then. Held
    /// over that; taken after `health` and before `trees`.
    unsettled: Mutex<Option<Unsettled>>,
    /// Empty while it cannot be used. Shared by all who use the trees, for one operation each, which may wait for the
    /// disk; held alone to close or open them. A thread that may not wait only tries it (`has_none_now`).
    trees: RwLock<Option<Trees>>,
    /// How the attempts to open it went. Held while the catalog is opened anew or written anew, so that one thread does;
    /// taken before `changes` and `trees`.
    health: Mutex<Health>,
}

#[derive(Debug)]
struct Health {
    tried: Option<Instant>,
    looked: Instant,
    /// Why it did not open last time; said once.
    said: String,
}

/// The outcome of looking after the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Healed {
    /// Nothing.
    No,
    /// The catalog is open again, with what was written out before it failed.
    Reopened,
    /// A new one has begun: the old one was deleted.
    BegunAnew,
}

/// The size for which room is kept for the catalog at `path`, in bytes: what it takes on the disk, and what it writes
/// before that is looked at again.
pub(super) fn catalog_room_bytes(path: &Path) -> u64 {
    generations::disk_bytes(path) + MARGIN_BYTES
}

impl Catalog {
    /// The catalog at `path`, of these trees, which was opened by [`Trees::open_or_go_on`]; it takes its room there.
    pub(super) fn new(path: &Path, trees: Option<Trees>, space: Arc<Space>) -> Self {
        Self {
            path: path.to_owned(),
            size: CatalogSize::new(path, space),
            changes: RwLock::default(),
            changed: Mutex::default(),
            unsettled: Mutex::default(),
            trees: RwLock::new(trees),
            health: Mutex::new(Health {
                tried: None,
                looked: Instant::now(),
                said: String::new(),
            }),
        }
    }

    /// Does something with the trees. A failure of theirs closes them, for a later [`Catalog::heal`].
    fn with<T>(&self, action: &'static str, work: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T, StoreError> {
        let held = read(&self.trees);
        let trees = held.as_ref().ok_or(StoreError::NoCatalog)?;
        let failed = match work(trees) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let dir = trees.dir.clone();
        // Released first: the lock is taken alone below.
        drop(held);
        if matches!(failed, sled::Error::Io(_) | sled::Error::ReportableBug(_)) {
            let mut trees = write(&self.trees);
            // Another generation may have taken its place meanwhile.
            if trees.take_if(|trees| trees.dir == dir).is_some() {
                tracing::error!(error = %failed, action, "the catalog failed: going on without it");
            }
        }
        Err(StoreError::Catalog { action, source: failed })
    }

    /// Goes on without it, until it is opened anew.
    pub(super) fn close(&self) {
        *write(&self.trees) = None;
    }

    fn trees(&self) -> Option<Trees> {
        read(&self.trees).clone()
    }

    /// Whether it can be used.
    pub(super) fn is_open(&self) -> bool {
        read(&self.trees).is_some()
    }

    /// How many bytes must be free for a catalog that has failed to be opened anew.
    pub(super) fn healing_room(&self) -> u64 {
        let db = generations::current(&self.path)
            .unwrap_or_else(|_| self.path.clone())
            .join("db");
        let file = std::fs::metadata(db).map_or(0, |file| body_file::disk_bytes(&file));
        HEALING_ROOM + file / FILE_BYTES_PER_ROOM
    }

    /// Writes the catalog anew where its log has grown, or `wanted` says that objects have gone for it: for the thread that
    /// looks after the store.
    pub(super) fn compact_if_due(&self, wanted: bool) {
        if self.is_open() && self.size.begins(wanted) {
            self.compact();
        }
    }

    /// Whether so much is live that objects must go before the catalog can be written anew within the quota.
    pub(super) fn has_too_much(&self) -> bool {
        self.size.has_too_much_with(0)
    }

    /// Opens a catalog that has failed anew, where `free` says that the disk may take it by now. For a
    /// blocking thread, to be called now and then.
    pub(super) fn heal(&self, free: Option<u64>) -> Healed {
        let mut health = lock(&self.health);
        if let Some(trees) = self.trees() {
            if let Err(error) = self.settle() {
                tracing::debug!(%error, "the disk does not know of the new catalog yet");
            }
            if health.looked.elapsed() < LOOK_EVERY {
                return Healed::No;
            }
            health.looked = Instant::now();
            if trees.file == file_of(&trees.dir) {
                return Healed::No;
            }
            tracing::error!(path = %self.path.display(), "the catalog's file was deleted: beginning a new one");
            // All handles of the old one must be gone before another is opened at its path.
            drop(trees);
            drop(write(&self.trees).take());
        } else if health.tried.is_some_and(|tried| tried.elapsed() < HEAL_EVERY) {
            return Healed::No;
        }
        health.tried = Some(Instant::now());
        if free.is_some_and(|free| free < self.healing_room()) {
            return Healed::No;
        }
        let existed = generations::current(&self.path).is_ok_and(|dir| file_of(&dir).is_some());
        match Trees::open(&self.path) {
            Ok(trees) => {
                *write(&self.trees) = Some(trees);
                self.size.forget();
                health.tried = None;
                health.said.clear();
                tracing::warn!("the catalog is open again");
                if existed { Healed::Reopened } else { Healed::BegunAnew }
            }
            Err(failure) => {
                let why = format!("{failure:?}");
                if health.said != why {
                    tracing::warn!(why, "the catalog does not open yet");
                    health.said = why;
                }
                Healed::No
            }
        }
    }

    pub(super) fn get(&self, id: ObjectId) -> Result<Option<Record>, StoreError> {
        let found = self.with("read", |trees| trees.objects.get(id.as_bytes()))?;
        found.map(|bytes| Record::from_bytes(&bytes)).transpose()
    }

    /// Whether there is certainly no record; `false` also where the catalog is being opened, or fails.
    pub(super) fn has_none_now(&self, id: ObjectId) -> bool {
        let Ok(held) = self.trees.try_read() else { return false };
        let found = held.as_ref().map(|trees| trees.objects.contains_key(id.as_bytes()));
        matches!(found, Some(Ok(false)))
    }

    /// Writes the first record of an object.
    ///
    /// # Errors
    /// Where the catalog refuses, or has no room for another object until one has gone.
    pub(super) fn admit(&self, id: ObjectId, record: &Record) -> Result<(), StoreError> {
        let bytes = record.to_bytes()?;
        loop {
            match self.size.make_room(bytes.len() as u64, Purpose::Admit) {
                Ok(RoomDecision::Go) => break,
                Ok(RoomDecision::Compact) => self.compact(),
                Err(shortage) => {
                    return Err(StoreError::NoRoom {
                        url: record.url.clone(),
                        bytes: bytes.len() as u64,
                        shortage,
                    });
                }
            }
        }
        self.change("write", CatalogTree::Objects, |objects, keys| {
            put_unless_newer(objects, keys, id, record, &bytes)
        })
    }

    /// Writes the record, unless one of a later generation stands there: that one has superseded it.
    ///
    /// # Errors
    /// Where the catalog refuses, or has no room for a record that has grown until an object has gone.
    pub(super) fn put(&self, id: ObjectId, record: &Record) -> Result<(), StoreError> {
        let bytes = record.to_bytes()?;
        if self.size.has_too_much_with(bytes.len() as u64) {
            let before = self.with("read", |trees| trees.objects.get(id.as_bytes()))?;
            // A record that is not there is told anew of an object that is: it is kept.
            if before.is_some_and(|before| bytes.len() > before.len() + GROWTH_BYTES) {
                return Err(StoreError::NoRoom {
                    url: record.url.clone(),
                    bytes: bytes.len() as u64,
                    shortage: Shortage::Catalog,
                });
            }
        }
        self.keep("write", bytes.len() as u64, CatalogTree::Objects, |objects, keys| {
            put_unless_newer(objects, keys, id, record, &bytes)
        })
    }

    /// Writes a record that was made of a manifest, where there is none, or where that of a complete object meets one
    /// that is older: it was written, and lost. A complete one's predecessors are gone.
    pub(super) fn put_restored(&self, id: ObjectId, record: &Record) -> Result<(), StoreError> {
        let bytes = record.to_bytes()?;
        let stays = |old: &[u8]| {
            let Ok(old) = Record::from_bytes(old) else { return false };
            !record.is_whole()
                || old.generation > record.generation
                || (old.generation == record.generation && old.is_whole())
        };
        self.keep("write", bytes.len() as u64, CatalogTree::Objects, |objects, keys| {
            put_unless(objects, keys, id, &bytes, stays)
        })
    }

    /// Up to `count` records at random, each once. Ids are digests, so whatever follows a random one is
    /// random too; of fewer than `count` all are drawn.
    pub(super) fn draw(&self, count: usize) -> Result<Vec<(ObjectId, Record)>, StoreError> {
        // Each has other keys than the one before: a random number without a crate for it.
        let dice = RandomState::new();
        let from = (u128::from(dice.hash_one(0)) << 64) | u128::from(dice.hash_one(1));
        let from = from.to_be_bytes();
        let drawn = self.with("read", |trees| {
            let all = trees.objects.range(from..).chain(trees.objects.range(..from));
            all.take(count).collect::<sled::Result<Vec<_>>>()
        })?;
        let decoded = drawn
            .iter()
            .filter_map(|(id, bytes)| Some((ObjectId::from_bytes(id)?, Record::from_bytes(bytes).ok()?)));
        Ok(decoded.collect())
    }

    pub(super) fn put_stream(&self, id: [u8; 16], record: Vec<u8>) -> Result<(), StoreError> {
        self.keep("write", record.len() as u64, CatalogTree::Streams, |streams, keys| {
            insert(streams, keys, &id, record)
        })
    }

    pub(super) fn remove_stream(&self, id: [u8; 16]) -> Result<(), StoreError> {
        self.keep("remove", REMOVAL_BYTES, CatalogTree::Streams, |streams, keys| {
            remove(streams, keys, &id)
        })
    }

    /// The records of all streams, as they are written.
    pub(super) fn streams(&self) -> Result<Vec<(sled::IVec, sled::IVec)>, StoreError> {
        self.with("read", |trees| trees.streams.iter().collect())
    }

    /// The checksums of a group of blocks; empty where there are none, or where they do not decode.
    pub(super) fn sums(&self, id: ObjectId, generation: u64, number: u64) -> Result<Group, StoreError> {
        let key = sums_key(id, generation, number);
        let found = self.with("read", |trees| trees.sums.get(key))?;
        Ok(match found.as_deref().and_then(|bytes| bytes.split_first()) {
            Some((&SUMS_VERSION, rest)) => postcard::from_bytes(rest).unwrap_or_default(),
            _ => Group::default(),
        })
    }

    pub(super) fn put_sums(&self, id: ObjectId, generation: u64, number: u64, group: &Group) -> Result<(), StoreError> {
        let key = sums_key(id, generation, number);
        if group.is_empty() {
            return self.keep("write", REMOVAL_BYTES, CatalogTree::Sums, |sums, keys| {
                remove(sums, keys, &key)
            });
        }
        let bytes = postcard::to_extend(group, vec![SUMS_VERSION]).map_err(|error| StoreError::Damaged {
            what: format!("checksums do not encode: {error}"),
        })?;
        self.keep("write", bytes.len() as u64, CatalogTree::Sums, |sums, keys| {
            insert(sums, keys, &key, bytes)
        })
    }

    /// Removes all checksums of a generation.
    pub(super) fn remove_sums(&self, id: ObjectId, generation: u64) -> Result<(), StoreError> {
        // The id and the generation; the number of the group follows.
        let prefix = &sums_key(id, generation, 0)[..24];
        self.keep("write", REMOVAL_BYTES, CatalogTree::Sums, |sums, keys| {
            let mut less = 0;
            for key in sums.scan_prefix(prefix).keys() {
                less += remove(sums, keys, &key?)?.1;
            }
            Ok(((), less))
        })
    }

    pub(super) fn remove(&self, id: ObjectId, generation: u64) -> Result<(), StoreError> {
        self.keep("write", REMOVAL_BYTES, CatalogTree::Objects, |objects, keys| {
            let other = |old: &[u8]| Record::from_bytes(old).is_ok_and(|old| old.generation != generation);
            let before =
                objects.fetch_and_update(id.as_bytes(), |old| old.filter(|old| other(old)).map(<[u8]>::to_vec))?;
            keys.push(id.as_bytes().into());
            let gone = before.filter(|before| !other(before));
            Ok(((), gone.map_or(0, |gone| -(entry_bytes(id.as_bytes(), &gone)))))
        })
    }

    /// Records in the order of their ids, from the first after `after`. Damaged ones are passed over; a failure
    /// is the last item. The trees are held only for a batch at a time.
    pub(super) fn scan(
        &self,
        after: Option<ObjectId>,
    ) -> impl Iterator<Item = Result<(ObjectId, Record), StoreError>> + '_ {
        let mut batch: std::vec::IntoIter<(ObjectId, Record)> = Vec::new().into_iter();
        let mut last = after;
        let mut first_batch = SCAN_FIRST;
        let mut failed = false;
        std::iter::from_fn(move || {
            loop {
                if let Some(next) = batch.next() {
                    return Some(Ok(next));
                }
                if failed {
                    return None;
                }
                let from = match last {
                    Some(id) => std::ops::Bound::Excluded(id.as_bytes().to_vec()),
                    None => std::ops::Bound::Unbounded,
                };
                let size = std::mem::replace(&mut first_batch, SCAN_BATCH);
                let read = self.with("read", |trees| {
                    let range = trees.objects.range((from, std::ops::Bound::<Vec<u8>>::Unbounded));
                    range.take(size).collect::<sled::Result<Vec<_>>>()
                });
                let read = match read {
                    Ok(read) => read,
                    Err(error) => {
                        failed = true;
                        return Some(Err(error));
                    }
                };
                // Of all that were read, so that a damaged one is not read again.
                last = Some(ObjectId::from_bytes(&read.last()?.0)?);
                let decoded: Vec<_> = read
                    .iter()
                    .filter_map(|(id, bytes)| Some((ObjectId::from_bytes(id)?, Record::from_bytes(bytes).ok()?)))
                    .collect();
                batch = decoded.into_iter();
            }
        })
    }

    /// Waits until all that was written is the system's.
    ///
    /// # Errors
    /// Where the disk or the catalog refuses.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        // A catalog that a failure of the machine would replace by an older one is not written out.
        self.settle()?;
        self.with("flush", |trees| trees.db.flush()).map(drop)
    }
}

fn sums_key(id: ObjectId, generation: u64, number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(id.as_bytes());
    key[16..24].copy_from_slice(&generation.to_be_bytes());
    key[24..].copy_from_slice(&number.to_be_bytes());
    key
}
