//! One critical section per path, from the evaluation of a precondition to the change that it allows.
//!
//! ```text
//! change of a file                    the mount shared, then the path's own lock
//! two paths (MOVE)                    the mount shared, then both paths' locks
//! move or removal of a collection     the mount exclusive: paths beneath the collection change their meaning
//! ```
//!
//! Order: mounts first, in the order of their mount points, then paths, in the order of their folded names. All
//! callers take locks in this order, and each takes all of its locks in one call, so no two wait for each other.
//!
//! A lock of a mount covers the part of the tree on that mount alone: a collection with a mount beneath it is neither
//! moved nor removed, so no change above a mount gives paths beneath it another meaning, and a file system that hangs
//! keeps nobody from writing elsewhere (decision 29).
//!
//! Locks are held for a look and a rename, never while a client sends. They are tokio's: waiting for one costs no
//! thread.

use super::mounts::{MountPoint, Mounts};
use super::path::{TreePath, case_folded};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

type PathLock = tokio::sync::Mutex<()>;

/// The locks of one tree. The two maps are locked by threads for a moment only, to find a lock in them; the locks in
/// them are waited for without a thread.
#[derive(Debug, Default)]
pub struct Locks {
    /// Held to find or add the locks of some mounts, and to sweep those that nobody holds; no lock of a mount is waited
    /// for under it.
    mounts: Mutex<HashMap<MountPoint, Arc<RwLock<()>>>>,
    /// Held to find or add one lock of a path, and to sweep; that lock is not waited for under it.
    paths: Mutex<HashMap<String, Weak<PathLock>>>,
}

/// The locks that a change holds. Fields are dropped in their order: the paths' locks before the mounts'.
#[derive(Debug)]
pub struct HeldLocks {
    _paths: Vec<OwnedMutexGuard<()>>,
    _shared: Vec<OwnedRwLockReadGuard<()>>,
    _exclusive: Vec<OwnedRwLockWriteGuard<()>>,
}

impl Locks {
    /// Waits until no other change is made to any of the paths.
    pub async fn lock_paths(&self, mounts: &Mounts, paths: &[TreePath]) -> HeldLocks {
        let mut shared = Vec::new();
        for mount in self.mount_locks(mounts, paths) {
            shared.push(mount.read_owned().await);
        }
        // A key is case-folded: on a file system that folds, two spellings are one file; elsewhere they merely wait
        // for each other.
        let mut keys: Vec<String> = paths
            .iter()
            .map(|path| case_folded(&path.without_slash().to_string()))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            held.push(self.path_lock(key).lock_owned().await);
        }
        HeldLocks {
            _paths: held,
            _shared: shared,
            _exclusive: Vec::new(),
        }
    }

    /// Waits until no other change is made on the mounts of the paths.
    pub async fn lock_mounts(&self, mounts: &Mounts, paths: &[TreePath]) -> HeldLocks {
        let mut exclusive = Vec::new();
        for mount in self.mount_locks(mounts, paths) {
            exclusive.push(mount.write_owned().await);
        }
        HeldLocks {
            _paths: Vec::new(),
            _shared: Vec::new(),
            _exclusive: exclusive,
        }
    }

    /// The locks of the mounts that the paths are on, in their order.
    fn mount_locks(&self, mounts: &Mounts, paths: &[TreePath]) -> Vec<Arc<RwLock<()>>> {
        let mut points: Vec<MountPoint> = paths.iter().map(|path| mounts.mount_point_of(path.names())).collect();
        points.sort_unstable();
        points.dedup();
        let mut mounts = lock(&self.mounts);
        // Mounts that come and go by themselves (autofs) leave no locks behind. The number is a judgement.
        if mounts.len() >= 1024 {
            mounts.retain(|_, mount| Arc::strong_count(mount) > 1);
        }
        let each = points
            .into_iter()
            .map(|point| Arc::clone(mounts.entry(point).or_default()));
        each.collect()
    }

    fn path_lock(&self, key: String) -> Arc<PathLock> {
        let mut paths = lock(&self.paths);
        if let Some(lock) = paths.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        // Locks that nobody holds are dropped as others come. The number is a judgement.
        if paths.len() >= 1024 {
            paths.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::<PathLock>::default();
        paths.insert(key, Arc::downgrade(&lock));
        lock
    }
}
