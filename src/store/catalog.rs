//! The catalog: sled, reduced to typed records by object id.
//!
//! What sled does badly is met here. It can panic or fail on opening after a hard stop: opening
//! runs on a thread of its own, and a catalog that fails is set aside, not fatal (recover.rs). Its
//! `flush` does not fsync; only its background thread does, so that stays on. Nothing is served on
//! its word alone: a record follows the synced bytes and never runs ahead of them.

use super::StoreError;
use super::record::Record;
use super::schema;
use crate::key::ObjectId;
use std::path::Path;
use std::time::Duration;

const FLUSH_EVERY_MS: u64 = 500;
const CACHE_BYTES: u64 = 64 << 20;

/// sled's own lock can outlive its holder by moments, where a child process was just being started. The
/// directory's lock is ours by then, so nobody else can be the owner.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Catalog {
    db: sled::Db,
    objects: sled::Tree,
}

/// Why a catalog cannot be used, and whether that is its own fault.
#[derive(Debug)]
pub(super) enum OpenFailure {
    /// Set it aside and go on.
    Unreadable(String),
    /// Opening it would lose something: stop.
    Refused(StoreError),
}

impl Catalog {
    /// Opens or creates the catalog at `path` and brings it to the present schema.
    pub(super) fn open(path: &Path) -> Result<Self, OpenFailure> {
        let mut tries = 0;
        let db = loop {
            match open_db(path) {
                Err(error) if is_locked(&error) && tries < LOCK_TRIES => {
                    tries += 1;
                    std::thread::park_timeout(LOCK_PAUSE);
                }
                Err(error) if is_locked(&error) => {
                    return Err(OpenFailure::Refused(StoreError::Catalog {
                        action: "lock",
                        source: error,
                    }));
                }
                Err(error) => return Err(OpenFailure::Unreadable(error.to_string())),
                Ok(db) => break db,
            }
        };
        schema::migrate(&db).map_err(OpenFailure::Refused)?;
        let objects = db
            .open_tree(schema::OBJECTS)
            .map_err(|error| OpenFailure::Unreadable(error.to_string()))?;
        Ok(Self { db, objects })
    }

    pub(super) fn get(&self, id: ObjectId) -> Result<Option<Record>, StoreError> {
        let found = self.objects.get(id.as_bytes()).map_err(StoreError::catalog("read"))?;
        found.map(|bytes| Record::from_bytes(&bytes)).transpose()
    }

    /// Writes the record, unless one of a later generation stands there: that one has superseded it.
    pub(super) fn put(&self, id: ObjectId, record: &Record) -> Result<(), StoreError> {
        let bytes = record.to_bytes()?;
        let newer = |old: &[u8]| Record::from_bytes(old).is_ok_and(|old| old.generation > record.generation);
        self.objects
            .fetch_and_update(id.as_bytes(), |old| match old {
                Some(old) if newer(old) => Some(old.to_vec()),
                _ => Some(bytes.clone()),
            })
            .map_err(StoreError::catalog("write"))?;
        Ok(())
    }

    pub(super) fn remove(&self, id: ObjectId, generation: u64) -> Result<(), StoreError> {
        self.objects
            .fetch_and_update(id.as_bytes(), |old| {
                let old = old?;
                let other = Record::from_bytes(old).is_ok_and(|old| old.generation != generation);
                other.then(|| old.to_vec())
            })
            .map_err(StoreError::catalog("write"))?;
        Ok(())
    }

    /// Records in the order of their ids, from the first after `after`. Damaged ones are passed over.
    pub(super) fn scan(&self, after: Option<ObjectId>) -> impl Iterator<Item = (ObjectId, Record)> + use<> {
        let from = match after {
            Some(id) => std::ops::Bound::Excluded(id.as_bytes().to_vec()),
            None => std::ops::Bound::Unbounded,
        };
        self.objects
            .range((from, std::ops::Bound::<Vec<u8>>::Unbounded))
            .filter_map(|entry| {
                let (id, bytes) = entry.ok()?;
                Some((ObjectId::from_bytes(&id)?, Record::from_bytes(&bytes).ok()?))
            })
    }

    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(StoreError::catalog("flush"))
    }
}

/// sled panics on some damage; a thread of its own turns that into a value.
fn open_db(path: &Path) -> sled::Result<sled::Db> {
    let path = path.to_owned();
    let opening = std::thread::spawn(move || {
        sled::Config::new()
            .path(path)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .cache_capacity(CACHE_BYTES)
            .open()
    });
    opening.join().unwrap_or_else(|_| {
        Err(sled::Error::ReportableBug(
            "sled panicked while opening the catalog".to_owned(),
        ))
    })
}

/// A locked catalog is a healthy one: it must never be set aside for that.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("lock"))
}
