//! One critical section per path, from the evaluation of a condition to the change that it allows.
//!
//! ```text
//! change of a file                 the tree shared, then the path's own lock
//! move or removal of a collection  the tree alone: paths beneath it change their meaning
//! two paths (MOVE)                 their locks in the order of the paths
//! ```
//!
//! "The tree" is the part of it on one mount: a collection with a mount beneath it is neither moved nor removed, so no change
//! above a mount gives paths beneath it another meaning, and a file system that hangs keeps nobody from writing elsewhere.
//!
//! Locks are held for a rename and a look, never while a client sends. Waiting costs no thread.

use super::mounts::{MountPoint, Mounts};
use super::path::{TreePath, case_folded};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

type PathLock = tokio::sync::Mutex<()>;

/// The locks of one tree.
#[derive(Debug, Default)]
pub struct Locks {
    mounts: Mutex<HashMap<MountPoint, Arc<RwLock<()>>>>,
    paths: Mutex<HashMap<String, Weak<PathLock>>>,
}

/// What is held while a change is made. What is held of paths goes before what is held of trees.
#[derive(Debug)]
pub struct HeldLocks {
    _paths: Vec<OwnedMutexGuard<()>>,
    _shared: Vec<OwnedRwLockReadGuard<()>>,
    _exclusive: Vec<OwnedRwLockWriteGuard<()>>,
}

impl Locks {
    /// Waits until nobody else changes any of the paths.
    pub async fn lock_paths(&self, mounts: &Mounts, paths: &[TreePath]) -> HeldLocks {
        let mut shared = Vec::new();
        for mount in self.mount_locks(mounts, paths) {
            shared.push(mount.read_owned().await);
        }
        // On a file system that folds, two spellings are one file; elsewhere they merely wait for each other.
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

    /// Waits until nobody else changes anything on the mounts that the paths are on.
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

    /// The trees that the paths are in, in the order in which everybody locks them.
    fn mount_locks(&self, mounts: &Mounts, paths: &[TreePath]) -> Vec<Arc<RwLock<()>>> {
        let mut points: Vec<MountPoint> = paths.iter().map(|path| mounts.mount_point_of(path.names())).collect();
        points.sort_unstable();
        points.dedup();
        let mut mounts = lock(&self.mounts);
        // What comes and goes by itself (autofs) leaves nothing behind.
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
        // Those that nobody holds are dropped as others come.
        if paths.len() >= 1024 {
            paths.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::<PathLock>::default();
        paths.insert(key, Arc::downgrade(&lock));
        lock
    }
}
