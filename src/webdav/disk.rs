//! Waiting for file systems: on threads that serve nobody else, and so that one that hangs takes no more than its share of them.
//!
//! Whoever looks at a path on a mount waits for that mount's turn first. A link may lead to another mount than its path is on:
//! then the look is tried again when that one's turn has come, too.

use crate::directory::{AllowedMounts, DirectoryError, MAX_LINKED_MOUNTS, MountPoint, Tree, TreePath};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a request waits for a turn at a file system that is mounted beneath the directory, and for its locks.
pub(super) const MOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// The directory, and the threads that wait for it.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) tree: Arc<Tree>,
    pub(super) threads: tokio::runtime::Handle,
}

impl Disk {
    /// A turn at the mount that the path is on; `None` on the directory's own file system.
    pub(super) async fn turn(&self, path: &TreePath) -> Result<Option<OwnedSemaphorePermit>, DirectoryError> {
        match self.tree.mounts().permits(path) {
            None => Ok(None),
            Some(turns) => acquired(turns).await.map(Some),
        }
    }

    /// A turn for each of the mounts that work at a path leads to: of the path's own one as ever, of others one of the few
    /// that are for those who hold a turn of another mount.
    pub(super) async fn turns(
        &self,
        path: &TreePath,
        others: &[MountPoint],
    ) -> Result<Vec<OwnedSemaphorePermit>, DirectoryError> {
        let mounts = self.tree.mounts();
        let own = mounts.mount_point_of(path.names());
        let mut turns = Vec::new();
        // Those that are harder to get first, so that nobody waits for them with a turn in hand.
        for mount in others.iter().filter(|mount| **mount != own) {
            let their = match own.is_own() {
                true => mounts.permits_at(mount),
                false => mounts.crossing_permits_at(mount),
            };
            if let Some(their) = their {
                turns.push(acquired(their).await?);
            }
        }
        turns.extend(self.turn(path).await?);
        Ok(turns)
    }

    /// Runs what may wait for the file system that the path is on. Those who wait for one mount leave threads to all others.
    pub(super) async fn at<T: Send + 'static>(
        &self,
        path: &TreePath,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        self.among(self.tree.mounts().permits(path), work).await
    }

    /// Runs what may wait for the file system that those turns are for.
    pub(super) async fn among<T: Send + 'static>(
        &self,
        turns: Option<Arc<Semaphore>>,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let turn = match turns {
            None => None,
            Some(turns) => Some(acquired(turns).await?),
        };
        self.blocking(move || {
            let _turn = turn;
            work()
        })
        .await
    }

    /// Runs a look that may follow links to other mounts than those of `crossing`, as the turns of these come.
    pub(super) async fn across<T: Send + 'static>(
        &self,
        path: &TreePath,
        mut allowed: AllowedMounts,
        look: impl Fn(&AllowedMounts) -> Result<T, DirectoryError> + Clone + Send + 'static,
    ) -> Result<(T, AllowedMounts), DirectoryError> {
        loop {
            let turns = self.turns(path, allowed.mounts()).await?;
            let (look, through) = (look.clone(), allowed.clone());
            let looked = self.blocking(move || {
                let _turns = turns;
                look(&through)
            });
            match looked.await {
                Err(DirectoryError::LinkToMount(mount)) if allowed.mounts().len() < MAX_LINKED_MOUNTS => {
                    allowed = allowed.with(mount);
                }
                looked => return looked.map(|found| (found, allowed)),
            }
        }
    }

    /// Runs what may wait for the disk.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let done = self.threads.spawn_blocking(work).await;
        done.unwrap_or_else(|lost| {
            Err(DirectoryError::Disk {
                doing: "finish what was asked: a thread was lost",
                source: std::io::Error::other(lost),
            })
        })
    }
}

async fn acquired(turns: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, DirectoryError> {
    match tokio::time::timeout(MOUNT_PATIENCE, turns.acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(DirectoryError::MountHangs),
    }
}
