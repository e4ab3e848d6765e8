//! The writer of a tree: PUT, DELETE, MKCOL and MOVE, each of which happens wholly or not at all.
//!
//! ```text
//! body on the disk (staging.rs) ──► preconditions ──► name changed (atomic_rename.rs) ──► collection synced ──► answer
//!     no lock                        └────────────────── under the path's lock ─────────────────────┘
//! ```
//!
//! After a crash a path has its old bytes or its new ones, and what was answered is there. The caller holds the locks
//! (`locks.rs`), so among our own clients the evaluation of a precondition and the change are one step; nothing is
//! read under them (`preconditions.rs`). Other programs may change the directory as well: against them the kernel is
//! asked to make the step one, and a change that they have disturbed is evaluated anew.
//!
//! A collection is removed, moved and replaced as one, by its name. What was in it is discarded afterwards, when no
//! client waits for it. A copy of a collection is put together in staging (`copy.rs`) and takes its place in one step,
//! too.

use super::atomic_rename::{
    ExchangeOutcome, RenameOutcome, exchange, is_same_content, place_new, rename_noreplace, replace,
};
use super::attributes;
use super::digest_cache::{DigestCache, PrereadDigest};
use super::error::DirectoryError;
use super::members::colliding_name;
use super::path::TreePath;
use super::staging::{ReceivedBody, Staging, sync_directory};
use super::trash::{Trash, remove_recursively};
use super::tree::{Stamp, Tree, stamp};
use crate::header::Preconditions;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The attempts at a change that other programs disturb: a judgement.
const MAX_DISTURBED: usize = 16;

/// The outcome of a change, and the state of the entry now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The entry is new.
    Created(Stamp),
    /// The entry has replaced another one.
    Replaced(Stamp),
}

impl WriteOutcome {
    /// The state of the entry now.
    pub fn stamp(&self) -> &Stamp {
        match self {
            Self::Created(stamp) | Self::Replaced(stamp) => stamp,
        }
    }

    pub(super) fn new(replaced: bool, now: Stamp) -> Self {
        if replaced {
            Self::Replaced(now)
        } else {
            Self::Created(now)
        }
    }
}

/// The loss that is allowed at a path which a change removes or replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: no entry may have the name.
    Nothing,
    /// A file, a link, or a collection without members.
    Single,
    /// A collection with all of its members.
    Everything,
}

/// The entry that has a name at the moment.
#[derive(Debug)]
pub(super) enum Occupant {
    Nothing,
    File(Stat),
    Collection(Stat),
    Link(Stat),
    /// A pipe, a socket or a device.
    Special(Stat),
}

/// The writer of one tree.
#[derive(Debug)]
pub struct TreeWriter {
    pub(super) tree: Arc<Tree>,
    pub(super) tags: Arc<DigestCache>,
    /// Staging, for bodies that are not whole yet.
    pub staging: Staging,
    /// Names that are not portable are refused.
    portable: bool,
    /// The file system takes different spellings for one name.
    folds_names: bool,
}

impl TreeWriter {
    /// The writer of that tree.
    ///
    /// # Errors
    /// Where the file system cannot be asked how it treats names.
    pub fn new(
        tree: Arc<Tree>,
        tags: Arc<DigestCache>,
        staging: Staging,
        portable: bool,
    ) -> Result<Self, DirectoryError> {
        Ok(Self {
            folds_names: folds_names(&staging)?,
            tree,
            tags,
            staging,
            portable,
        })
    }

    /// Fails unless the path may be written to, as far as its names tell.
    ///
    /// # Errors
    /// Where it may not.
    pub fn check_writable(&self, path: &TreePath) -> Result<(), DirectoryError> {
        match path.unportable() {
            _ if path.is_root() => Err(DirectoryError::Root),
            _ if path.is_reserved() => Err(DirectoryError::NotServed),
            Some(why) if self.portable => Err(DirectoryError::Unportable(why)),
            _ => Ok(()),
        }
    }

    /// Fails if a PUT would fail as things are: for a client that asks before it sends.
    ///
    /// # Errors
    /// As [`TreeWriter::put`].
    pub fn may_put(&self, path: &TreePath, conditions: &Preconditions) -> Result<(), DirectoryError> {
        self.check_writable(path)?;
        let (parent, name) = self.parent_and_name(path)?;
        let occupant = self.occupant(&parent, name)?;
        occupant.check_takes_file()?;
        match self.check_preconditions(path, &occupant, conditions, &self.preread(path, conditions)) {
            // A file that changes all the time is looked at again when the body is there.
            Err(DirectoryError::TagUnknown) => Ok(()),
            checked => checked,
        }
    }

    /// Places a body.
    ///
    /// [`DirectoryError::PreconditionFailed`] where a precondition is false; [`DirectoryError::NeedsRestaging`] where
    /// the body has to be staged beside its place first ([`TreeWriter::restage`]); and where no file can be placed.
    /// After an error nothing has changed, and the body is as it was.
    pub fn put(
        &self,
        path: &TreePath,
        received: &mut ReceivedBody,
        conditions: &Preconditions,
        preread: &PrereadDigest,
    ) -> Result<WriteOutcome, DirectoryError> {
        self.check_writable(path)?;
        let (parent, name) = self.parent_and_name(path)?;
        for _ in 0..MAX_DISTURBED {
            let occupant = self.occupant(&parent, name)?;
            occupant.check_takes_file()?;
            self.check_preconditions(path, &occupant, conditions, preread)?;
            let staged = &mut received.staged;
            let placed = match &occupant {
                Occupant::File(old) => {
                    attributes::preserve(&staged.file, &parent, name, old)?;
                    replace(staged, &parent, name, (!conditions.is_empty()).then_some(old))?
                }
                _ => place_new(staged, &parent, name)?,
            };
            match placed {
                RenameOutcome::Done => {
                    sync_directory(&parent)?;
                    let now = stamp(&staged.file)?;
                    if now.modified == received.modified {
                        self.tags.insert(&now, received.digest);
                    }
                    return Ok(WriteOutcome::new(matches!(occupant, Occupant::File(_)), now));
                }
                RenameOutcome::Disturbed => {}
                RenameOutcome::NeedsRestaging => return Err(DirectoryError::NeedsRestaging),
            }
        }
        Err(DirectoryError::ChangedMeanwhile)
    }

    /// Copies a body beside its place, where a rename does not get there. Takes no lock: it may be long.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn restage(&self, received: &mut ReceivedBody, path: &TreePath) -> Result<(), DirectoryError> {
        self.staging.restage_beside(&mut received.staged, &path.parent())
    }

    /// Removes a file, a link, or a collection with as much as `loss` allows. The trash that is returned is out of
    /// the tree; [`Staging::discard`] removes it, which may take long and needs no lock.
    ///
    /// # Errors
    /// Where nothing is there, a condition does not hold, or there is more than may be removed.
    pub fn remove(
        &self,
        path: &TreePath,
        loss: Loss,
        conditions: &Preconditions,
        preread: &PrereadDigest,
    ) -> Result<Option<Trash>, DirectoryError> {
        self.check_writable(path)?;
        let (parent, name) = self.existing_parent_and_name(path)?;
        let failed = DirectoryError::from_errno("remove a file");
        for _ in 0..MAX_DISTURBED {
            let occupant = self.occupant(&parent, name)?;
            if matches!(occupant, Occupant::Nothing) || occupant.is_no_collection_at(path) {
                return Err(DirectoryError::Absent);
            }
            self.check_preconditions(path, &occupant, conditions, preread)?;
            let trash = match &occupant {
                Occupant::Collection(_) => self.remove_collection(&parent, path, name, loss)?,
                Occupant::File(old) if !conditions.is_empty() => {
                    match self.remove_evaluated(&parent, path, name, old)? {
                        Some(trash) => Some(trash),
                        None => continue,
                    }
                }
                _ => {
                    unlinkat(&parent, name, AtFlags::empty()).map_err(&failed)?;
                    None
                }
            };
            return sync_directory(&parent).map(|()| trash);
        }
        Err(DirectoryError::ChangedMeanwhile)
    }

    /// Takes a collection out of the tree with all of its members, or removes an empty one.
    fn remove_collection(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        name: &str,
        loss: Loss,
    ) -> Result<Option<Trash>, DirectoryError> {
        if self.tree.mounts().has_mount_within(path) {
            return Err(DirectoryError::Mounted);
        }
        match loss {
            Loss::Everything => match self.staging.move_to_trash(parent, &path.parent(), name) {
                // A union (overlayfs) does not rename an entry of a lower layer, not even within its directory.
                Err(DirectoryError::CrossDevice) => remove_recursively(parent, name).map(|()| None),
                trash => trash.map(Some),
            },
            _ => {
                let failed = DirectoryError::from_errno("remove a collection");
                unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed)?;
                Ok(None)
            }
        }
    }

    /// Makes a collection.
    ///
    /// # Errors
    /// [`DirectoryError::Exists`] where something is there already.
    pub fn make_collection(&self, path: &TreePath, conditions: &Preconditions) -> Result<(), DirectoryError> {
        self.check_writable(path)?;
        let (parent, name) = self.parent_and_name(path)?;
        let occupant = self.occupant(&parent, name)?;
        if !matches!(occupant, Occupant::Nothing) {
            return Err(DirectoryError::Exists);
        }
        self.check_preconditions(path, &occupant, conditions, &PrereadDigest::default())?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o777)).map_err(DirectoryError::from_errno("make a collection"))?;
        sync_directory(&parent)
    }

    /// Moves a file, a link or a collection by one rename(2). The entry at the destination is replaced, as far as
    /// `loss` allows; the trash that is returned is yet to be discarded.
    ///
    /// # Errors
    /// Where the source is absent, a precondition is false, or the destination is taken;
    /// [`DirectoryError::CrossDevice`] where no rename(2) gets there. Between two mounts that is found without a look
    /// at either.
    pub fn rename(
        &self,
        from: &TreePath,
        to: &TreePath,
        loss: Loss,
        conditions: &Preconditions,
        preread: &PrereadDigest,
    ) -> Result<(WriteOutcome, Option<Trash>), DirectoryError> {
        self.check_writable(from)?;
        self.check_writable(to)?;
        let mounts = self.tree.mounts();
        if mounts.mount_point_of(from.names()) != mounts.mount_point_of(to.names()) {
            return Err(DirectoryError::CrossDevice);
        }
        let (source, name) = self.existing_parent_and_name(from)?;
        let occupant = self.occupant(&source, name)?;
        let moved = occupant.stamp().filter(|_| !occupant.is_no_collection_at(from));
        let moved = moved.ok_or(DirectoryError::Absent)?;
        self.check_preconditions(from, &occupant, conditions, preread)?;
        let (target, new) = self.parent_and_name(to)?;
        let collection = matches!(occupant, Occupant::Collection(_));
        // A collection cannot be moved into itself, nor can an entry replace a collection that it lies in.
        if from.without_slash() == to.without_slash() || (collection && to.is_within(from)) || from.is_within(to) {
            return Err(DirectoryError::IntoItself);
        }
        if collection && self.tree.mounts().has_mount_within(from) {
            return Err(DirectoryError::Mounted);
        }
        let held = self.tags.recall(&moved);
        let renamed = |result: rustix::io::Result<()>| result.map_err(DirectoryError::from_errno("move a file"));
        let there = self.occupant(&target, new)?;
        let replaced = there.check_loss(loss)?;
        let mut trash = None;
        match (&there, collection) {
            (Occupant::Nothing, _) => match rename_noreplace(&source, name, &target, new) {
                // An entry that came since the look is not ours to replace.
                Err(Errno::EXIST) => return Err(DirectoryError::ChangedMeanwhile),
                done => renamed(done)?,
            },
            // rename(2) replaces a file or a link in one step.
            (Occupant::File(_) | Occupant::Link(_), false) => renamed(renameat(&source, name, &target, new))?,
            _ => {
                self.check_replaceable(&target, to, new, loss)?;
                match exchange(&source, name, &target, new) {
                    ExchangeOutcome::Done => {
                        // The replaced entry has the source's name now: a crash here loses nothing.
                        let taken = sync_directory(&target).and_then(|()| match is_allowed_loss(&source, name, loss) {
                            true => self.staging.move_to_trash(&source, &from.parent(), name),
                            false => Err(DirectoryError::NotEmpty),
                        });
                        if taken.is_err() {
                            exchange(&source, name, &target, new);
                        }
                        trash = Some(taken?);
                    }
                    ExchangeOutcome::Unsupported => {
                        let backup = self.set_aside(&target, to, new, loss)?;
                        if let Err(error) = renamed(rename_noreplace(&source, name, &target, new)) {
                            self.staging.restore(backup);
                            return Err(error);
                        }
                        // The old entry stays a backup until the new name is on the disk.
                        sync_directory(&target)?;
                        trash = Some(self.staging.backup_to_trash(backup));
                    }
                    ExchangeOutcome::Failed(errno) => renamed(Err(errno))?,
                }
            }
        }
        sync_directory(&target)?;
        sync_directory(&source)?;
        let stat =
            statat(&target, new, AtFlags::SYMLINK_NOFOLLOW).map_err(DirectoryError::from_errno("inspect a file"))?;
        let now = Stamp::of(&stat);
        // A rename changes the name and the time of change, and none of the bytes.
        let same = (now.ino, now.size, now.modified) == (moved.ino, moved.size, moved.modified);
        if let Some(held) = held.filter(|_| same) {
            self.tags.carry_over(&now, held);
        }
        Ok((WriteOutcome::new(replaced, now), trash))
    }

    /// Fails unless the entry at the path may be taken away for another.
    pub(super) fn check_replaceable(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        name: &str,
        loss: Loss,
    ) -> Result<(), DirectoryError> {
        match self.occupant(parent, name)? {
            Occupant::Collection(_) if self.tree.mounts().has_mount_within(path) => Err(DirectoryError::Mounted),
            Occupant::Collection(_) if loss != Loss::Everything && !is_empty_collection(parent, name)? => {
                Err(DirectoryError::NotEmpty)
            }
            _ => Ok(()),
        }
    }

    /// The collection and the name in it that a path stands for.
    pub(super) fn parent_and_name<'a>(&self, path: &'a TreePath) -> Result<(OwnedFd, &'a str), DirectoryError> {
        let name = path.name().ok_or(DirectoryError::Root)?;
        Ok((self.tree.open_for_writing(&path.parent())?, name))
    }

    /// The same for a path that must exist: a missing collection means that the entry is absent.
    pub(super) fn existing_parent_and_name<'a>(
        &self,
        path: &'a TreePath,
    ) -> Result<(OwnedFd, &'a str), DirectoryError> {
        self.parent_and_name(path).map_err(|error| match error {
            DirectoryError::NoParent | DirectoryError::ParentIsFile => DirectoryError::Absent,
            error => error,
        })
    }

    pub(super) fn occupant(&self, parent: &OwnedFd, name: &str) -> Result<Occupant, DirectoryError> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Occupant::Nothing),
            Err(errno) => return Err(DirectoryError::from_errno("inspect a file")(errno)),
        };
        if self.folds_names
            && let Some(other) = colliding_name(parent, name)?
        {
            return Err(DirectoryError::NameCollision(other));
        }
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Occupant::File(stat),
            FileType::Directory => Occupant::Collection(stat),
            FileType::Symlink => Occupant::Link(stat),
            _ => Occupant::Special(stat),
        })
    }

    /// Removes the file of that name if it still is the one that was evaluated; `None` where it is not.
    fn remove_evaluated(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        name: &str,
        old: &Stat,
    ) -> Result<Option<Trash>, DirectoryError> {
        let failed = DirectoryError::from_errno("remove a file");
        let trash = self.staging.move_to_trash(parent, &path.parent(), name)?;
        let taken = statat(&*trash.dir, &trash.name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if is_same_content(&taken, old) {
            return Ok(Some(trash));
        }
        rename_noreplace(&trash.dir, &trash.name, parent, name).map_err(failed)?;
        trash.remove_note();
        Ok(None)
    }
}

impl Occupant {
    /// The stamp of the entry, where there is one.
    fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Nothing => None,
            Self::File(stat) | Self::Collection(stat) | Self::Link(stat) | Self::Special(stat) => Some(Stamp::of(stat)),
        }
    }

    /// Fails unless a file can be placed here.
    fn check_takes_file(&self) -> Result<(), DirectoryError> {
        match self {
            Self::Nothing | Self::File(_) => Ok(()),
            Self::Collection(_) => Err(DirectoryError::IsCollection),
            Self::Link(_) => Err(DirectoryError::Link),
            Self::Special(_) => Err(DirectoryError::Special),
        }
    }

    /// Whether the path asks for a collection, and this is none.
    fn is_no_collection_at(&self, path: &TreePath) -> bool {
        path.has_slash() && !matches!(self, Self::Collection(_) | Self::Link(_))
    }

    /// Whether an entry is here that would be lost; fails where it may not be.
    pub(super) fn check_loss(&self, loss: Loss) -> Result<bool, DirectoryError> {
        match (self, loss) {
            (Self::Nothing, _) => Ok(false),
            (_, Loss::Nothing) => Err(DirectoryError::PreconditionFailed),
            (Self::Special(_), _) => Err(DirectoryError::Special),
            _ => Ok(true),
        }
    }
}

/// Whether the file system takes different spellings for one name: tried with a name of ours in `.millpond`.
fn folds_names(staging: &Staging) -> Result<bool, DirectoryError> {
    let failed = DirectoryError::from_errno("try how the file system treats names");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let (dir, name) = (staging.dir()?, "put-\u{e9}A");
    drop(openat(&dir, name, flags, Mode::RUSR).map_err(&failed)?);
    let found = ["put-e\u{301}A", "put-\u{e9}a"]
        .iter()
        .any(|other| statat(&dir, *other, AtFlags::SYMLINK_NOFOLLOW).is_ok());
    unlinkat(&dir, name, AtFlags::empty()).map_err(failed)?;
    Ok(found)
}

/// Whether the entry holds no more than may be lost. It is asked after the entry was taken from its name: before,
/// members could still come.
pub(super) fn is_allowed_loss(dir: &OwnedFd, name: &str, loss: Loss) -> bool {
    loss == Loss::Everything
        || match is_empty_collection(dir, name) {
            Ok(empty) => empty,
            // An entry that is no collection has no members.
            Err(DirectoryError::Absent) => true,
            Err(_) => false,
        }
}

/// Whether a collection has no members.
pub(super) fn is_empty_collection(parent: &OwnedFd, name: &str) -> Result<bool, DirectoryError> {
    let failed = DirectoryError::from_errno("read a directory");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(parent, name, flags, Mode::empty()).map_err(&failed)?;
    for entry in Dir::read_from(&inner).map_err(&failed)? {
        if !matches!(entry.map_err(&failed)?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
