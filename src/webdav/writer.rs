//! One change at a time to each path: what its conditions name is read before, then its locks are taken, then it is made.
//!
//! ```text
//! the mount's turn ──► read for the conditions ──► locks ──► the change ──► answer
//!                        ▲                                      │ the file is another by now: Unread
//!                        └──────────────────────────────────────┤
//!                            copied beside its place ◄──────────┘ no rename gets it there: NeedsRestaging
//! ```
//!
//! A mount's turn comes before its locks, so a file system that hangs has no more than its share of threads waiting with them.

use super::disk::{Disk, MOUNT_PATIENCE};
use crate::directory::{
    DirectoryError, HeldLocks, Locks, PrereadDigest, ReceivedBody, StagedCopy, Trash, TreePath, TreeWriter,
};
use crate::header::Preconditions;
use std::sync::Arc;

/// How often a change is tried whose condition has to be read for again.
const MAX_UNREAD: usize = 8;

/// The locks of a change.
#[derive(Debug, Clone)]
pub(super) enum LockScope {
    /// These paths.
    Paths(Vec<TreePath>),
    /// A collection is moved or removed: paths beneath it change their meaning. All on the mounts that these are on.
    Mounts(Vec<TreePath>),
}

impl LockScope {
    fn paths(&self) -> &[TreePath] {
        match self {
            Self::Paths(paths) | Self::Mounts(paths) => paths,
        }
    }
}

/// A thing that a change puts in its place.
pub(super) trait Placeable: Send + 'static {
    /// Copies it to where a rename gets it to that path.
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError>;
}

impl Placeable for () {
    fn restage(&mut self, _: &TreeWriter, _: &TreePath) -> Result<(), DirectoryError> {
        Err(DirectoryError::CrossDevice)
    }
}

impl Placeable for ReceivedBody {
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError> {
        writer.restage(self, path)
    }
}

impl<T: Send + 'static> Placeable for (T, ReceivedBody) {
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError> {
        writer.restage(&mut self.1, path)
    }
}

impl Placeable for StagedCopy {
    fn restage(&mut self, writer: &TreeWriter, path: &TreePath) -> Result<(), DirectoryError> {
        writer.restage_copy(self, path)
    }
}

/// The means of a change; they outlive the request that asked for it.
#[derive(Debug, Clone)]
pub(super) struct LockedWriter {
    pub(super) writer: Arc<TreeWriter>,
    pub(super) locks: Arc<Locks>,
    pub(super) disk: Disk,
}

impl LockedWriter {
    /// Makes a change of that path under its locks. What its conditions name is read before, and again where it has changed in
    /// between.
    pub(super) async fn change<T: Send + 'static, S: Placeable>(
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
        for _ in 0..MAX_UNREAD {
            let (with, of, named) = (Arc::clone(&self.writer), path.clone(), conditions.clone());
            let preread = match conditions.need_tag() {
                true => self.disk.at(path, move || Ok(with.preread(&of, &named))).await?,
                false => PrereadDigest::default(),
            };
            let turn = self.disk.turn(path).await?;
            let held = self.locks(locked).await?;
            let (with, work, conditions) = (Arc::clone(&self.writer), work.clone(), conditions.clone());
            // The lock goes with the work, which goes on though its client may leave.
            let done = self.disk.blocking(move || {
                let _held = (held, turn);
                let done = work(&with, &preread, &conditions, &mut state);
                Ok((done, state))
            });
            let (done, mine) = done.await?;
            state = mine;
            match done {
                Err(DirectoryError::TagUnknown) => {}
                Err(DirectoryError::NeedsRestaging) => {
                    let (with, to) = (Arc::clone(&self.writer), path.clone());
                    let brought = move || state.restage(&with, &to).map(|()| state);
                    state = self.disk.at(path, brought).await?;
                }
                done => return done,
            }
        }
        Err(DirectoryError::ChangedMeanwhile)
    }

    /// The locks, as soon as they are free; on a mount, which may hang with whoever holds them, only for so long.
    pub(super) async fn locks(&self, locked: &LockScope) -> Result<HeldLocks, DirectoryError> {
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

    /// Removes what was taken away. It is gone for everybody; no client needs to wait until its bytes are.
    pub(super) fn discard(&self, gone: impl IntoIterator<Item = Trash>) {
        for gone in gone {
            let writer = Arc::clone(&self.writer);
            self.disk.threads.spawn_blocking(move || writer.staging.discard(&gone));
        }
    }
}
