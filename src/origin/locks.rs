//! One critical section per path, from the evaluation of a condition to the change that it allows.
//!
//! ```text
//! change of a file                 the tree shared, then the path's own lock
//! move or removal of a collection  the tree alone: paths beneath it change their meaning
//! two paths (MOVE, COPY)           their locks in the order of the paths
//! ```
//!
//! Locks are held for a rename and a look, never while a client sends. Waiting costs no thread.

use super::path::{TreePath, folded};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

type PathLock = tokio::sync::Mutex<()>;

/// The locks of one tree.
#[derive(Debug, Default)]
pub struct Locks {
    tree: Arc<RwLock<()>>,
    paths: Mutex<HashMap<String, Weak<PathLock>>>,
}

/// What is held while a change is made.
#[derive(Debug)]
pub enum Held {
    /// These paths.
    Paths(Vec<OwnedMutexGuard<()>>, OwnedRwLockReadGuard<()>),
    /// Everything.
    Tree(OwnedRwLockWriteGuard<()>),
}

impl Locks {
    /// Waits until nobody else changes any of the paths.
    pub async fn paths(&self, paths: &[&TreePath]) -> Held {
        let tree = Arc::clone(&self.tree).read_owned().await;
        // On a file system that folds, two spellings are one file; elsewhere they merely wait for each other.
        let mut keys: Vec<String> = paths.iter().map(|path| folded(&path.bare().to_string())).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            held.push(self.lock(key).lock_owned().await);
        }
        Held::Paths(held, tree)
    }

    /// Waits until nobody else changes anything.
    pub async fn tree(&self) -> Held {
        Held::Tree(Arc::clone(&self.tree).write_owned().await)
    }

    fn lock(&self, key: String) -> Arc<PathLock> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
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
