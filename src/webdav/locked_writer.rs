//! One change at a time to each path: preconditions are read for, the locks are taken, the change is made.
//!
//! ```text
//! read for the precondition ──► mount's permit ──► locks ──► the change ──► answer
//!         ▲     (no lock)                                      │
//!         ├──── TagUnknown: the file is another by now ◄───────┤
//!         └──── copied beside its place ◄──────────────────────┘ NeedsRestaging: no rename(2) reaches the place
//! ```
//!
//! A mount's permit comes before its locks, so a file system that hangs holds no more threads than it has permits.
//! Locks and permit move into the work on its thread: a change goes on, under its locks, though its client has left.
//! Nothing is read or copied under a lock, since a slow disk would then keep everybody from writing (decision 27).

use super::disk_threads::{DiskThreads, MOUNT_PATIENCE};
use crate::directory::{
    DirectoryError, HeldLocks, Locks, PrereadDigest, ReceivedBody, StagedCopy, Trash, TreePath, TreeWriter,
};
use crate::header::Preconditions;
use std::sync::Arc;

/// The attempts at a change whose precondition has to be read for again (decision 27). A file that changes as often
/// is answered 503.
const MAX_REREADS: usize = 8;

/// The locks that a change needs.
#[derive(Debug, Clone)]
pub(super) enum LockScope {
    /// Each of these paths. Another path on the same mount can be changed at the same time.
    Paths(Vec<TreePath>),
    /// Everything on the mounts of these paths: a collection is moved, removed or replaced, so paths beneath it
    /// change their meaning.
    Mounts(Vec<TreePath>),
}

impl LockScope {
    fn paths(&self) -> &[TreePath] {
        match self {
            Self::Paths(paths) | Self::Mounts(paths) => paths,
        }
    }
}

/// A body or an entry that a change places. `()` for a change that places none.
pub(super) trait Placeable: Send + 'static {
    /// Copies it beside that path, from where a rename(2) can reach the path.
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError>;

    /// Lets go of it on this thread, which may wait for the disk.
    fn release(self);
}

impl Placeable for () {
    fn restage(&mut self, _: &TreeWriter, _: &TreePath) -> Result<(), DirectoryError> {
        Err(DirectoryError::CrossDevice)
    }

    fn release(self) {}
}

impl Placeable for ReceivedBody {
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError> {
        writer.restage(self, path)
    }

    fn release(self) {
        Self::release(self);
    }
}

impl<T: Send + 'static> Placeable for (T, ReceivedBody) {
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError> {
        writer.restage(&mut self.1, path)
    }

    fn release(self) {
        self.1.release();
    }
}

impl Placeable for StagedCopy {
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError> {
        writer.restage_copy(self, path)
    }

    fn release(self) {
        if let Self::File(received, _) = self {
            received.release();
        }
    }
}

/// The means of a change, owned: a change may outlive the request that asked for it.
#[derive(Debug, Clone)]
pub(super) struct LockedWriter {
    pub(super) writer: Arc<TreeWriter>,
    pub(super) locks: Arc<Locks>,
    pub(super) disk: DiskThreads,
}

impl LockedWriter {
    /// Makes a change of the path under its locks. The file is read for the preconditions before, and again where it
    /// is another once the locks are held; `state` goes into each attempt and comes back from it.
    pub(super) async fn write<T: Send + 'static, S: Placeable>(
        &self,
        path: &TreePath,
        locked: &LockScope,
        conditions: Preconditions,
        mut state: S,
        work: impl Fn(&TreeWriter, &PrereadDigest, &Preconditions, &mut S) -> Result<T, DirectoryError>
        + Clone
        + Send
        + 'static,
    ) -> Result<T, DirectoryError> {
        for _ in 0..MAX_REREADS {
            let (with, of, named) = (Arc::clone(&self.writer), path.clone(), conditions.clone());
            let preread = match conditions.need_tag() {
                true => self.disk.run_at(path, move || Ok(with.preread(&of, &named))).await?,
                false => PrereadDigest::default(),
            };
            // The permit before the locks: a change that waits for a permit holds no lock that others wait for.
            let permit = self.disk.permit(path).await?;
            let held = self.lock(locked).await?;
            let (with, work, conditions) = (Arc::clone(&self.writer), work.clone(), conditions.clone());
            // The locks go with the work: it goes on, under them, though its client may leave.
            let done = self.disk.run(move || {
                let done = work(&with, &preread, &conditions, &mut state);
                drop(held);
                let state = match &done {
                    Err(DirectoryError::TagUnknown | DirectoryError::NeedsRestaging) => Some(state),
                    // The client is answered when nothing is left of what was not placed.
                    _ => {
                        state.release();
                        None
                    }
                };
                drop(permit);
                Ok((done, state))
            });
            match done.await? {
                (Err(DirectoryError::TagUnknown), Some(again)) => state = again,
                (Err(DirectoryError::NeedsRestaging), Some(mut again)) => {
                    let (with, to) = (Arc::clone(&self.writer), path.clone());
                    let brought = move || again.restage(&with, &to).map(|()| again);
                    state = self.disk.run_at(path, brought).await?;
                }
                (done, _) => return done,
            }
        }
        Err(DirectoryError::ChangedMeanwhile)
    }

    /// Takes the locks. On a mount that may hang with whoever holds them, the wait ends after [`MOUNT_PATIENCE`].
    pub(super) async fn lock(&self, locked: &LockScope) -> Result<HeldLocks, DirectoryError> {
        let mounts = self.disk.tree.mounts();
        let own = |path: &TreePath| mounts.mount_point_of(path.names()).is_own();
        let waits = async {
            match locked {
                LockScope::Paths(paths) => self.locks.lock_paths(mounts, paths).await,
                LockScope::Mounts(paths) => self.locks.lock_mounts(mounts, paths).await,
            }
        };
        match locked.paths().iter().all(own) {
            true => Ok(waits.await),
            false => tokio::time::timeout(MOUNT_PATIENCE, waits)
                .await
                .map_err(|_| DirectoryError::MountHangs),
        }
    }

    /// Removes trash on a thread. It is out of the tree already, so no client waits for its bytes to be gone.
    pub(super) fn discard(&self, trash: impl IntoIterator<Item = Trash>) {
        for trash in trash {
            let writer = Arc::clone(&self.writer);
            self.disk.threads.spawn_blocking(move || writer.staging.discard(&trash));
        }
    }
}
