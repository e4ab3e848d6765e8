//! Threads that wait for file systems, and permits so that one that hangs takes no more than its share of them.
//!
//! A system call on a network mount whose server is away does not return, and nothing ends it: only the number of
//! threads that wait for it can be bounded. So work at a path on a mount takes one of that mount's permits first
//! (`directory::Mounts`); work on the directory's own file system needs none. A link may lead to another mount than
//! its path is on: the work fails with `LinkToMount` before it touches that mount, and is run again with that one's
//! permit as well.

use super::open_file::MountThreads;
use crate::directory::{AllowedMounts, DirectoryError, MAX_LINKED_MOUNTS, MountPoint, Tree, TreePath};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest wait for a mount's permit, and for locks on it: five seconds (decision 29), which also is the
/// `Retry-After` that a client gets.
pub(super) const MOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// The directory, and the threads that wait for its disk.
#[derive(Debug, Clone)]
pub(super) struct DiskThreads {
    pub(super) tree: Arc<Tree>,
    pub(super) threads: tokio::runtime::Handle,
}

impl DiskThreads {
    /// The threads of the mount that a path leads to through these links.
    pub(super) fn of_mount(&self, path: &TreePath, allowed: &AllowedMounts) -> MountThreads {
        let mounts = self.tree.mounts();
        let permits = match allowed.last() {
            Some(mount) => mounts.permits_at(mount),
            None => mounts.permits(path),
        };
        MountThreads {
            threads: self.threads.clone(),
            permits,
        }
    }

    /// A permit of the mount that the path is on; `None` on the directory's own file system.
    pub(super) async fn permit(&self, path: &TreePath) -> Result<Option<OwnedSemaphorePermit>, DirectoryError> {
        match self.tree.mounts().permits(path) {
            None => Ok(None),
            Some(permits) => acquire(permits).await.map(Some),
        }
    }

    /// A permit of each mount that work at a path leads to: the path's own, and one of each other mount. Where the
    /// path's own is a mount too, the others' permits are of the few for crossings, so that a mount that hangs takes
    /// only half of its neighbour's permits.
    pub(super) async fn permits(
        &self,
        path: &TreePath,
        others: &[MountPoint],
    ) -> Result<Vec<OwnedSemaphorePermit>, DirectoryError> {
        let mounts = self.tree.mounts();
        let own = mounts.mount_point_of(path.names());
        let mut permits = Vec::new();
        // The other mounts' permits first, which are harder to get: nobody waits for them with a permit in hand.
        for mount in others.iter().filter(|mount| **mount != own) {
            let their = match own.is_own() {
                true => mounts.permits_at(mount),
                false => mounts.crossing_permits_at(mount),
            };
            if let Some(their) = their {
                permits.push(acquire(their).await?);
            }
        }
        permits.extend(self.permit(path).await?);
        Ok(permits)
    }

    /// Runs work that may wait for the path's file system, with a permit of its mount.
    pub(super) async fn run_at<T: Send + 'static>(
        &self,
        path: &TreePath,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        self.run_with_permit(self.tree.mounts().permits(path), work).await
    }

    /// Runs work with one of these permits; with none, where the file system is the directory's own.
    pub(super) async fn run_with_permit<T: Send + 'static>(
        &self,
        permits: Option<Arc<Semaphore>>,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let permit = match permits {
            None => None,
            Some(permits) => Some(acquire(permits).await?),
        };
        self.run(move || {
            // The permit goes with the work: a client that leaves does not free a thread that still waits.
            let _permit = permit;
            work()
        })
        .await
    }

    /// Runs work that may follow links to other mounts than `allowed`, with the permits of each mount that it turns
    /// out to lead to.
    pub(super) async fn run_across<T: Send + 'static>(
        &self,
        path: &TreePath,
        mut allowed: AllowedMounts,
        look: impl Fn(&AllowedMounts) -> Result<T, DirectoryError> + Clone + Send + 'static,
    ) -> Result<(T, AllowedMounts), DirectoryError> {
        loop {
            let permits = self.permits(path, allowed.mounts()).await?;
            let (look, through) = (look.clone(), allowed.clone());
            let looked = self.run(move || {
                let _permits = permits;
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

    /// Runs work on a thread that may wait for the disk.
    pub(super) async fn run<T: Send + 'static>(
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

async fn acquire(permits: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, DirectoryError> {
    match tokio::time::timeout(MOUNT_PATIENCE, permits.acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(DirectoryError::MountHangs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_mount_that_hangs_is_given_up_after_its_patience_and_not_before() {
        let permits = Arc::new(Semaphore::new(1));
        let held = acquire(Arc::clone(&permits)).await.expect("free");
        let begun = Instant::now();
        let refused = acquire(Arc::clone(&permits)).await;
        assert!(matches!(refused, Err(DirectoryError::MountHangs)), "{refused:?}");
        assert_eq!(begun.elapsed().as_millis(), MOUNT_PATIENCE.as_millis());
        // One that lets go in time is had at once.
        let waiting = tokio::spawn(acquire(permits));
        tokio::time::sleep(MOUNT_PATIENCE / 2).await;
        drop(held);
        let granted = waiting.await.expect("no panic");
        assert!(granted.is_ok());
        assert_eq!(begun.elapsed(), MOUNT_PATIENCE + MOUNT_PATIENCE / 2);
    }
}
