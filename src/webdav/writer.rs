//! One change at a time to each path: what its conditions name is read before, then its locks are taken, then it is made.
//!
//! ```text
//! the mount's turn ──► read for the conditions ──► locks ──► the change ──► answer
//!                        ▲                                      │ the file is another by now: Unread
//!                        └──────────────────────────────────────┤
//!                            copied beside its place ◄──────────┘ no rename gets it there: OutOfReach
//! ```
//!
//! A mount's turn comes before its locks, so a file system that hangs has no more than its share of threads waiting with them.

use super::disk::{Disk, MOUNT_PATIENCE};
use crate::directory::{Arrived, Changes, Copied, Evidence, Gone, HeldLocks, Locks, OriginError, TreePath};
use crate::header::Preconditions;
use std::sync::Arc;

/// How often a change is tried whose condition has to be read for again.
const MAX_UNREAD: usize = 8;

/// The locks of a change.
#[derive(Debug, Clone)]
pub(super) enum Locked {
    /// These paths.
    Paths(Vec<TreePath>),
    /// A collection is moved or removed: paths beneath it change their meaning. All on the mounts that these are on.
    Trees(Vec<TreePath>),
}

impl Locked {
    fn paths(&self) -> &[TreePath] {
        match self {
            Self::Paths(paths) | Self::Trees(paths) => paths,
        }
    }
}

/// A thing that a change puts in its place.
pub(super) trait Placeable: Send + 'static {
    /// Copies it to where a rename gets it to that path.
    fn bring(&mut self, changes: &Changes, path: &TreePath) -> Result<(), OriginError>;
}

impl Placeable for () {
    fn bring(&mut self, _: &Changes, _: &TreePath) -> Result<(), OriginError> {
        Err(OriginError::OtherDisk)
    }
}

impl Placeable for Arrived {
    fn bring(&mut self, changes: &Changes, path: &TreePath) -> Result<(), OriginError> {
        changes.bring(self, path)
    }
}

impl<T: Send + 'static> Placeable for (T, Arrived) {
    fn bring(&mut self, changes: &Changes, path: &TreePath) -> Result<(), OriginError> {
        changes.bring(&mut self.1, path)
    }
}

impl Placeable for Copied {
    fn bring(&mut self, changes: &Changes, path: &TreePath) -> Result<(), OriginError> {
        changes.bring_copy(self, path)
    }
}

/// The means of a change; they outlive the request that asked for it.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) changes: Arc<Changes>,
    pub(super) locks: Arc<Locks>,
    pub(super) disk: Disk,
}

impl Writer {
    /// Makes a change of that path under its locks. What its conditions name is read before, and again where it has changed in
    /// between.
    pub(super) async fn change<T: Send + 'static, S: Placeable>(
        &self,
        path: &TreePath,
        locked: &Locked,
        conditions: Preconditions,
        mut state: S,
        work: impl Fn(&Changes, &Evidence, &Preconditions, &mut S) -> Result<T, OriginError> + Clone + Send + 'static,
    ) -> Result<T, OriginError> {
        for _ in 0..MAX_UNREAD {
            let (with, of, named) = (Arc::clone(&self.changes), path.clone(), conditions.clone());
            let evidence = match conditions.need_tag() {
                true => self.disk.at(path, move || Ok(with.read_ahead(&of, &named))).await?,
                false => Evidence::default(),
            };
            let turn = self.disk.turn(path).await?;
            let held = self.locks(locked).await?;
            let (with, work, conditions) = (Arc::clone(&self.changes), work.clone(), conditions.clone());
            // The lock goes with the work, which goes on though its client may leave.
            let done = self.disk.blocking(move || {
                let _held = (held, turn);
                let done = work(&with, &evidence, &conditions, &mut state);
                Ok((done, state))
            });
            let (done, mine) = done.await?;
            state = mine;
            match done {
                Err(OriginError::Unread) => {}
                Err(OriginError::OutOfReach) => {
                    let (with, to) = (Arc::clone(&self.changes), path.clone());
                    let brought = move || state.bring(&with, &to).map(|()| state);
                    state = self.disk.at(path, brought).await?;
                }
                done => return done,
            }
        }
        Err(OriginError::Changing)
    }

    /// The locks, as soon as they are free; on a mount, which may hang with whoever holds them, only for so long.
    pub(super) async fn locks(&self, locked: &Locked) -> Result<HeldLocks, OriginError> {
        let mounts = self.disk.tree.mounts();
        let own = |path: &TreePath| mounts.point(path.names()).is_own();
        let waits = async {
            match locked {
                Locked::Paths(paths) => self.locks.paths(mounts, paths).await,
                Locked::Trees(paths) => self.locks.trees_of(mounts, paths).await,
            }
        };
        match locked.paths().iter().all(own) {
            true => Ok(waits.await),
            false => tokio::time::timeout(MOUNT_PATIENCE, waits)
                .await
                .map_err(|_| OriginError::Hangs),
        }
    }

    /// Removes what was taken away. It is gone for everybody; no client needs to wait until its bytes are.
    pub(super) fn discard(&self, gone: impl IntoIterator<Item = Gone>) {
        for gone in gone {
            let changes = Arc::clone(&self.changes);
            self.disk.threads.spawn_blocking(move || changes.staging.discard(&gone));
        }
    }
}
