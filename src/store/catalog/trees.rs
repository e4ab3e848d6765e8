//! The trees of sled, and opening them: what is damaged is told from what a disk refuses.
//!
//! A catalog that does not open is opened once more without its snapshots, since the log alone says everything that they
//! do; one that is damaged all the same is set aside (store.rs), one that a disk refuses is not. sled panics on some
//! damage, so it is opened on a thread of its own.

use super::generations::{self, Untold};
use super::schema;
use crate::store::StoreError;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often sled writes its log out and syncs it: sled's own default. Records of so long are lost where the machine
/// fails; their bytes are fetched again.
const FLUSH_EVERY_MS: u64 = 500;

/// A judgement: a larger one costs memory and gains next to nothing, since records are small and the kernel caches the
/// file.
const CACHE_BYTES: u64 = 2 << 20;

/// sled's own lock can outlive its holder by moments, where a child process was just being started. The directory's
/// lock is ours by then, so nobody else can be the owner. Two seconds in all, a judgement: a child holds the lock from
/// fork to exec.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A tree of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CatalogTree {
    /// Records of objects.
    Objects,
    /// Checksums of blocks.
    Sums,
    /// Streams.
    Streams,
    /// Mirrored collections.
    Index,
}

/// All of them.
pub(super) const ALL: [CatalogTree; 4] = [
    CatalogTree::Objects,
    CatalogTree::Sums,
    CatalogTree::Streams,
    CatalogTree::Index,
];

/// The trees of an open catalog, and where its files lie.
#[derive(Debug, Clone)]
pub(in crate::store) struct Trees {
    pub(super) dir: PathBuf,
    pub(super) db: sled::Db,
    pub(super) objects: sled::Tree,
    pub(super) sums: sled::Tree,
    pub(super) streams: sled::Tree,
    pub(super) index: sled::Tree,
    /// The device and number of its file: another one means that it was deleted.
    pub(super) file: Option<(u64, u64)>,
}

/// Why a catalog cannot be used, and whether that is its own fault.
#[derive(Debug)]
pub(in crate::store) enum OpenFailure {
    /// Set it aside and go on.
    Unreadable(String),
    /// Opening it would lose something: stop.
    Refused(StoreError),
}

impl Trees {
    pub(super) fn tree(&self, tree: CatalogTree) -> &sled::Tree {
        match tree {
            CatalogTree::Objects => &self.objects,
            CatalogTree::Sums => &self.sums,
            CatalogTree::Streams => &self.streams,
            CatalogTree::Index => &self.index,
        }
    }

    /// Opens or creates the catalog at `path` and brings it to the present schema. Nobody else uses it: the data directory
    /// is locked. A disk that is full or may not be written is no reason not to start: the catalog is then opened when the
    /// disk allows, and there is none until then.
    pub(in crate::store) fn open_or_go_on(path: &Path) -> Result<Option<Self>, OpenFailure> {
        match Self::open(path) {
            Err(OpenFailure::Refused(StoreError::Catalog { source, .. })) if is_refusal(&source) => {
                tracing::error!(error = %source, "the disk does not let the catalog be opened: going on without it");
                Ok(None)
            }
            trees => trees.map(Some),
        }
    }

    /// The generation that counts, in the catalog's directory; what a crash has left of others goes.
    pub(super) fn open(catalog: &Path) -> Result<Self, OpenFailure> {
        let dir = generations::current(catalog).map_err(|untold| match untold {
            Untold::Damaged(what) => OpenFailure::Unreadable(what),
            Untold::Refused(error) => OpenFailure::Refused(error),
        })?;
        let trees = Self::open_at(&dir)?;
        generations::remove_others(catalog, &dir);
        Ok(trees)
    }

    pub(super) fn open_at(path: &Path) -> Result<Self, OpenFailure> {
        remove_snapshots(path, ".generating");
        let mut tries = 0;
        let mut mended = false;
        let db = loop {
            match open_db(path) {
                Ok(db) => break db,
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
                // A disk that refuses says nothing of the catalog; what it holds must not be set aside.
                Err(error) if is_refusal(&error) => {
                    remove_snapshots(path, ".generating");
                    return Err(OpenFailure::Refused(StoreError::Catalog {
                        action: "open",
                        source: error,
                    }));
                }
                // The log alone says everything that a snapshot does.
                Err(error) if !mended => {
                    tracing::warn!(%error, "the catalog does not open: trying without its snapshots");
                    remove_snapshots(path, "");
                    mended = true;
                }
                Err(error) => return Err(OpenFailure::Unreadable(error.to_string())),
            }
        };
        schema::migrate(&db).map_err(OpenFailure::Refused)?;
        let tree = |name| {
            db.open_tree(name)
                .map_err(|error| OpenFailure::Unreadable(error.to_string()))
        };
        let (objects, sums, streams) = (tree(schema::OBJECTS)?, tree(schema::SUMS)?, tree(schema::STREAMS)?);
        let index = tree(schema::INDEX)?;
        Ok(Self {
            dir: path.to_owned(),
            db,
            objects,
            sums,
            streams,
            index,
            file: file_of(path),
        })
    }
}

/// The device and number of the catalog's file.
pub(super) fn file_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path.join("db")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Removes snapshots whose names end so. One that was cut while it was written makes sled call a healthy
/// catalog corrupt.
fn remove_snapshots(path: &Path, ending: &str) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.")
            && name.ends_with(ending)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "could not remove a snapshot of the catalog");
        }
    }
}

/// The disk's fault, not the catalog's.
fn is_refusal(error: &sled::Error) -> bool {
    use std::io::ErrorKind;
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::PermissionDenied,
    ];
    matches!(error, sled::Error::Io(error) if kinds.contains(&error.kind()))
}

/// sled panics on some damage; a thread of its own turns that into a value.
fn open_db(path: &Path) -> sled::Result<sled::Db> {
    let path = path.to_owned();
    let opening = std::thread::spawn(move || {
        sled::Config::new()
            .path(path)
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
    // sled wraps it in an error of kind `Other`: its text alone tells.
    matches!(error, sled::Error::Io(error) if error.to_string().contains("lock"))
}
