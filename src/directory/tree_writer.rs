//! TreeWriter, each of which happens wholly or not at all: put, remove, make a collection, move, copy.
//!
//! The caller holds the locks of the paths (`locks.rs`), so among our own clients the evaluation of a condition
//! and the change are one step; nothing is read under them (`preconditions.rs`). Other programs may change the directory as well. Against them
//! the kernel is asked to make the step one (`atomic_rename.rs`).
//!
//! The order of a put: body on the disk (`staging.rs`), name changed, directory on the disk, answer. So after a
//! crash a path has its old bytes or its new ones, and what was answered is there.
//!
//! A collection is removed, moved and replaced as one: its name is, and what was in it is discarded afterwards, when nobody waits
//! for it. A copy of one is put together aside (`copy.rs`) and takes its place in one step, too.

use super::atomic_rename::{
    ExchangeOutcome, RenameOutcome, exchange, is_same_content, place_new, rename_noreplace, replace,
};
use super::attributes;
use super::digest_cache::DigestCache;
use super::error::DirectoryError;
use super::members::colliding_name;
use super::path::TreePath;
use super::preconditions::PrereadDigest;
use super::replacement::{is_allowed_loss, is_empty_collection};
use super::staging::{ReceivedBody, Staging, sync_directory};
use super::trash::{Trash, remove_recursively};
use super::tree::{Stamp, Tree, stamp};
use crate::header::Preconditions;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How often a change is tried that others disturb.
const MAX_DISTURBED: usize = 16;

/// What was done, and what is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Something is there that was not.
    Created(Stamp),
    /// Something is there in the place of something else.
    Replaced(Stamp),
}

impl WriteOutcome {
    /// What is there now.
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

/// What may be lost at the path that a change removes or replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the name must be free.
    Nothing,
    /// A file, or a collection without members.
    Single,
    /// A collection with all that is in it.
    Everything,
}

/// What has a name at the moment.
#[derive(Debug)]
pub(super) enum Occupant {
    Nothing,
    File(Stat),
    Collection(Stat),
    Link(Stat),
    /// A pipe, a socket or a device.
    Special(Stat),
}

/// The changes of one tree.
#[derive(Debug)]
pub struct TreeWriter {
    pub(super) tree: Arc<Tree>,
    pub(super) tags: Arc<DigestCache>,
    /// Where bodies lie until they are whole.
    pub staging: Staging,
    /// Names are refused that some systems do not take.
    portable: bool,
    /// The file system takes different spellings for one name.
    folds_names: bool,
}

impl TreeWriter {
    /// The changes of that tree.
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

    /// Whether the path may be written to, as far as its names tell.
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

    /// Whether a put would be refused as things are: for a client that asks before it sends.
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

    /// Puts a body in its place.
    ///
    /// # Errors
    /// [`DirectoryError::PreconditionFailed`] where a condition does not hold; [`DirectoryError::NeedsRestaging`] where the body has to be brought
    /// nearer first ([`TreeWriter::restage`]); and where no file can be there. Then nothing has changed, and the body is as it was.
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

    /// Copies a body beside its place, where a rename does not get it there. Takes no lock: it may be long.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn restage(&self, received: &mut ReceivedBody, path: &TreePath) -> Result<(), DirectoryError> {
        self.staging.restage_beside(&mut received.staged, &path.parent())
    }

    /// Removes a file, a link, or a collection with as much as `loss` allows. What is named in the answer is gone
    /// from the tree, and yet to be discarded: that takes a while, and needs no lock ([`Staging::discard`]).
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

    /// Takes a collection away with all that is in it, or removes an empty one.
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
                // A union does not rename what is in a lower layer, not even beside it.
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

    /// Moves a file, a link or a collection; what is at the other path is replaced as far as `loss` allows. The second part of
    /// the answer is yet to be discarded.
    ///
    /// # Errors
    /// Where nothing is there, a condition does not hold, or the other path is taken; [`DirectoryError::CrossDevice`] where
    /// no rename(2) can do it. Where another file system is in between that is told without a look at either.
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
        let moved = match &occupant {
            Occupant::Nothing => return Err(DirectoryError::Absent),
            _ if occupant.is_no_collection_at(from) => return Err(DirectoryError::Absent),
            Occupant::File(stat) | Occupant::Collection(stat) | Occupant::Link(stat) | Occupant::Special(stat) => {
                Stamp::of(stat)
            }
        };
        self.check_preconditions(from, &occupant, conditions, preread)?;
        let (target, new) = self.parent_and_name(to)?;
        let collection = matches!(occupant, Occupant::Collection(_));
        // A collection cannot be moved into itself, nor be replaced by what is in it: that would go with it.
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
                // What came meanwhile is not ours to replace.
                Err(Errno::EXIST) => return Err(DirectoryError::ChangedMeanwhile),
                done => renamed(done)?,
            },
            // One step, where the kernel has one.
            (Occupant::File(_) | Occupant::Link(_), false) => renamed(renameat(&source, name, &target, new))?,
            _ => {
                self.check_replaceable(&target, to, new, loss)?;
                match exchange(&source, name, &target, new) {
                    ExchangeOutcome::Done => {
                        // What was there has the other name now: a crash here loses nothing.
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
                        // As long as the new name may be lost the old thing is kept.
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
        // Only the name has changed, and with it the time of change.
        let same = (now.ino, now.size, now.modified) == (moved.ino, moved.size, moved.modified);
        if let Some(held) = held.filter(|_| same) {
            self.tags.carry_over(&now, held);
        }
        Ok((WriteOutcome::new(replaced, now), trash))
    }

    /// Whether what is at a path may be taken away for something else.
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

    /// Where a change of that path happens: its collection, and its name there.
    pub(super) fn parent_and_name<'a>(&self, path: &'a TreePath) -> Result<(OwnedFd, &'a str), DirectoryError> {
        let name = path.name().ok_or(DirectoryError::Root)?;
        Ok((self.tree.open_for_writing(&path.parent())?, name))
    }

    /// The same for what is removed, moved or copied.
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

    /// Removes the file of that name if it is still the one that was evaluated; `None` where it is not.
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
    /// Whether a file can be put there.
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

    /// Whether something is there that is then lost.
    pub(super) fn check_loss(&self, loss: Loss) -> Result<bool, DirectoryError> {
        match (self, loss) {
            (Self::Nothing, _) => Ok(false),
            (_, Loss::Nothing) => Err(DirectoryError::PreconditionFailed),
            (Self::Special(_), _) => Err(DirectoryError::Special),
            _ => Ok(true),
        }
    }
}

/// Whether the file system takes different spellings for one name, tried with a name of ours.
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
