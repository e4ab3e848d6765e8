//! Changes, each of which happens wholly or not at all: put, remove, make a collection, move, copy.
//!
//! The caller holds the locks of the paths (`locks.rs`), so among our own clients the evaluation of a condition
//! and the change are one step; nothing is read under them (`evaluation.rs`). Other programs may change the directory as well. Against them
//! the kernel is asked to make the step one (`placing.rs`).
//!
//! The order of a put: body on the disk (`staging.rs`), name changed, directory on the disk, answer. So after a
//! crash a path has its old bytes or its new ones, and what was answered is there.
//!
//! A collection is removed, moved and replaced as one: its name is, and what was in it is discarded afterwards, when nobody waits
//! for it. A copy of one is put together aside (`copying.rs`) and takes its place in one step, too.

use super::attributes;
use super::error::OriginError;
use super::evaluation::Evidence;
use super::gone::{Gone, remove_all};
use super::list::twin;
use super::path::TreePath;
use super::placing::{Exchanged, Placed, exchange, is_same, rename_new, replace, settle_new};
use super::replacing::{is_empty, may_be_discarded};
use super::staging::{Arrived, Staging, sync};
use super::tags::Tags;
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
pub enum Done {
    /// Something is there that was not.
    Made(Stamp),
    /// Something is there in the place of something else.
    Replaced(Stamp),
}

impl Done {
    /// What is there now.
    pub fn stamp(&self) -> &Stamp {
        match self {
            Self::Made(stamp) | Self::Replaced(stamp) => stamp,
        }
    }

    pub(super) fn new(replaced: bool, now: Stamp) -> Self {
        if replaced { Self::Replaced(now) } else { Self::Made(now) }
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
pub struct Changes {
    pub(super) tree: Arc<Tree>,
    pub(super) tags: Arc<Tags>,
    /// Where bodies lie until they are whole.
    pub staging: Staging,
    /// Names are refused that some systems do not take.
    portable: bool,
    /// The file system takes different spellings for one name.
    folds: bool,
}

impl Changes {
    /// The changes of that tree.
    ///
    /// # Errors
    /// Where the file system cannot be asked how it treats names.
    pub fn new(tree: Arc<Tree>, tags: Arc<Tags>, staging: Staging, portable: bool) -> Result<Self, OriginError> {
        Ok(Self {
            folds: folds(&staging)?,
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
    pub fn permits(&self, path: &TreePath) -> Result<(), OriginError> {
        match path.unportable() {
            _ if path.is_root() => Err(OriginError::Root),
            _ if path.is_reserved() => Err(OriginError::Unserved),
            Some(why) if self.portable => Err(OriginError::Unportable(why)),
            _ => Ok(()),
        }
    }

    /// Whether a put would be refused as things are: for a client that asks before it sends.
    ///
    /// # Errors
    /// As [`Changes::put`].
    pub fn may_put(&self, path: &TreePath, conditions: &Preconditions) -> Result<(), OriginError> {
        self.permits(path)?;
        let (parent, name) = self.place(path)?;
        let occupant = self.occupant(&parent, name)?;
        occupant.takes_a_file()?;
        match self.check(path, &occupant, conditions, &self.read_ahead(path, conditions)) {
            // A file that changes all the time is looked at again when the body is there.
            Err(OriginError::Unread) => Ok(()),
            checked => checked,
        }
    }

    /// Puts a body in its place.
    ///
    /// # Errors
    /// [`OriginError::Failed`] where a condition does not hold; [`OriginError::OutOfReach`] where the body has to be brought
    /// nearer first ([`Changes::bring`]); and where no file can be there. Then nothing has changed, and the body is as it was.
    pub fn put(
        &self,
        path: &TreePath,
        arrived: &mut Arrived,
        conditions: &Preconditions,
        evidence: &Evidence,
    ) -> Result<Done, OriginError> {
        self.permits(path)?;
        let (parent, name) = self.place(path)?;
        for _ in 0..MAX_DISTURBED {
            let occupant = self.occupant(&parent, name)?;
            occupant.takes_a_file()?;
            self.check(path, &occupant, conditions, evidence)?;
            let staged = &mut arrived.staged;
            let placed = match &occupant {
                Occupant::File(old) => {
                    attributes::keep(&staged.file, &parent, name, old)?;
                    replace(staged, &parent, name, (!conditions.is_empty()).then_some(old))?
                }
                _ => settle_new(staged, &parent, name)?,
            };
            match placed {
                Placed::Here => {
                    sync(&parent)?;
                    let now = stamp(&staged.file)?;
                    if now.modified == arrived.modified {
                        self.tags.insert(&now, arrived.digest);
                    }
                    return Ok(Done::new(matches!(occupant, Occupant::File(_)), now));
                }
                Placed::Disturbed => {}
                Placed::OutOfReach => return Err(OriginError::OutOfReach),
            }
        }
        Err(OriginError::Changing)
    }

    /// Copies a body beside its place, where a rename does not get it there. Takes no lock: it may be long.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn bring(&self, arrived: &mut Arrived, path: &TreePath) -> Result<(), OriginError> {
        self.staging.bring(&mut arrived.staged, &path.parent())
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
        evidence: &Evidence,
    ) -> Result<Option<Gone>, OriginError> {
        self.permits(path)?;
        let (parent, name) = self.source(path)?;
        let failed = OriginError::met("remove a file");
        for _ in 0..MAX_DISTURBED {
            let occupant = self.occupant(&parent, name)?;
            if matches!(occupant, Occupant::Nothing) || occupant.is_no_collection_at(path) {
                return Err(OriginError::Absent);
            }
            self.check(path, &occupant, conditions, evidence)?;
            let gone = match &occupant {
                Occupant::Collection(_) => self.remove_collection(&parent, path, name, loss)?,
                Occupant::File(old) if !conditions.is_empty() => match self.take_out(&parent, path, name, old)? {
                    Some(gone) => Some(gone),
                    None => continue,
                },
                _ => {
                    unlinkat(&parent, name, AtFlags::empty()).map_err(&failed)?;
                    None
                }
            };
            return sync(&parent).map(|()| gone);
        }
        Err(OriginError::Changing)
    }

    /// Takes a collection away with all that is in it, or removes an empty one.
    fn remove_collection(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        name: &str,
        loss: Loss,
    ) -> Result<Option<Gone>, OriginError> {
        if self.tree.mounts().is_crossed_by(path) {
            return Err(OriginError::Mounted);
        }
        match loss {
            Loss::Everything => match self.staging.take_away(parent, &path.parent(), name) {
                // A union does not rename what is in a lower layer, not even beside it.
                Err(OriginError::OtherDisk) => remove_all(parent, name).map(|()| None),
                gone => gone.map(Some),
            },
            _ => {
                let failed = OriginError::met("remove a collection");
                unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed)?;
                Ok(None)
            }
        }
    }

    /// Makes a collection.
    ///
    /// # Errors
    /// [`OriginError::Exists`] where something is there already.
    pub fn make_collection(&self, path: &TreePath, conditions: &Preconditions) -> Result<(), OriginError> {
        self.permits(path)?;
        let (parent, name) = self.place(path)?;
        let occupant = self.occupant(&parent, name)?;
        if !matches!(occupant, Occupant::Nothing) {
            return Err(OriginError::Exists);
        }
        self.check(path, &occupant, conditions, &Evidence::default())?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o777)).map_err(OriginError::met("make a collection"))?;
        sync(&parent)
    }

    /// Moves a file, a link or a collection; what is at the other path is replaced as far as `loss` allows. The second part of
    /// the answer is yet to be discarded.
    ///
    /// # Errors
    /// Where nothing is there, a condition does not hold, or the other path is taken; [`OriginError::OtherDisk`] where
    /// no rename(2) can do it. Where another file system is in between that is told without a look at either.
    pub fn rename(
        &self,
        from: &TreePath,
        to: &TreePath,
        loss: Loss,
        conditions: &Preconditions,
        evidence: &Evidence,
    ) -> Result<(Done, Option<Gone>), OriginError> {
        self.permits(from)?;
        self.permits(to)?;
        let mounts = self.tree.mounts();
        if mounts.point(from.names()) != mounts.point(to.names()) {
            return Err(OriginError::OtherDisk);
        }
        let (source, name) = self.source(from)?;
        let occupant = self.occupant(&source, name)?;
        let moved = match &occupant {
            Occupant::Nothing => return Err(OriginError::Absent),
            _ if occupant.is_no_collection_at(from) => return Err(OriginError::Absent),
            Occupant::File(stat) | Occupant::Collection(stat) | Occupant::Link(stat) | Occupant::Special(stat) => {
                Stamp::of(stat)
            }
        };
        self.check(from, &occupant, conditions, evidence)?;
        let (target, new) = self.place(to)?;
        let collection = matches!(occupant, Occupant::Collection(_));
        // A collection cannot be moved into itself, nor be replaced by what is in it: that would go with it.
        if from.bare() == to.bare() || (collection && to.is_within(from)) || from.is_within(to) {
            return Err(OriginError::Within);
        }
        if collection && self.tree.mounts().is_crossed_by(from) {
            return Err(OriginError::Mounted);
        }
        let held = self.tags.held(&moved);
        let renamed = |result: rustix::io::Result<()>| result.map_err(OriginError::met("move a file"));
        let there = self.occupant(&target, new)?;
        let replaced = there.may_be_lost(loss)?;
        let mut gone = None;
        match (&there, collection) {
            (Occupant::Nothing, _) => match rename_new(&source, name, &target, new) {
                // What came meanwhile is not ours to replace.
                Err(Errno::EXIST) => return Err(OriginError::Changing),
                done => renamed(done)?,
            },
            // One step, where the kernel has one.
            (Occupant::File(_) | Occupant::Link(_), false) => renamed(renameat(&source, name, &target, new))?,
            _ => {
                self.may_make_room(&target, to, new, loss)?;
                match exchange(&source, name, &target, new) {
                    Exchanged::Done => {
                        // What was there has the other name now: a crash here loses nothing.
                        let taken = sync(&target).and_then(|()| match may_be_discarded(&source, name, loss) {
                            true => self.staging.take_away(&source, &from.parent(), name),
                            false => Err(OriginError::NotEmpty),
                        });
                        if taken.is_err() {
                            exchange(&source, name, &target, new);
                        }
                        gone = Some(taken?);
                    }
                    Exchanged::Unknown => {
                        let kept = self.set_aside(&target, to, new, loss)?;
                        if let Err(error) = renamed(rename_new(&source, name, &target, new)) {
                            self.staging.give_back(kept);
                            return Err(error);
                        }
                        // As long as the new name may be lost the old thing is kept.
                        sync(&target)?;
                        gone = Some(self.staging.let_go(kept));
                    }
                    Exchanged::Failed(errno) => renamed(Err(errno))?,
                }
            }
        }
        sync(&target)?;
        sync(&source)?;
        let stat = statat(&target, new, AtFlags::SYMLINK_NOFOLLOW).map_err(OriginError::met("inspect a file"))?;
        let now = Stamp::of(&stat);
        // Only the name has changed, and with it the time of change.
        let same = (now.ino, now.size, now.modified) == (moved.ino, moved.size, moved.modified);
        if let Some(held) = held.filter(|_| same) {
            self.tags.carry(&now, held);
        }
        Ok((Done::new(replaced, now), gone))
    }

    /// Whether what is at a path may be taken away for something else.
    pub(super) fn may_make_room(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        name: &str,
        loss: Loss,
    ) -> Result<(), OriginError> {
        match self.occupant(parent, name)? {
            Occupant::Collection(_) if self.tree.mounts().is_crossed_by(path) => Err(OriginError::Mounted),
            Occupant::Collection(_) if loss != Loss::Everything && !is_empty(parent, name)? => {
                Err(OriginError::NotEmpty)
            }
            _ => Ok(()),
        }
    }

    /// Where a change of that path happens: its collection, and its name there.
    pub(super) fn place<'a>(&self, path: &'a TreePath) -> Result<(OwnedFd, &'a str), OriginError> {
        let name = path.name().ok_or(OriginError::Root)?;
        Ok((self.tree.for_writing(&path.parent())?, name))
    }

    /// The same for what is removed, moved or copied.
    pub(super) fn source<'a>(&self, path: &'a TreePath) -> Result<(OwnedFd, &'a str), OriginError> {
        self.place(path).map_err(|error| match error {
            OriginError::NoParent | OriginError::ParentIsFile => OriginError::Absent,
            error => error,
        })
    }

    pub(super) fn occupant(&self, parent: &OwnedFd, name: &str) -> Result<Occupant, OriginError> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Occupant::Nothing),
            Err(errno) => return Err(OriginError::met("inspect a file")(errno)),
        };
        if self.folds
            && let Some(other) = twin(parent, name)?
        {
            return Err(OriginError::Twin(other));
        }
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Occupant::File(stat),
            FileType::Directory => Occupant::Collection(stat),
            FileType::Symlink => Occupant::Link(stat),
            _ => Occupant::Special(stat),
        })
    }

    /// Removes the file of that name if it is still the one that was evaluated; `None` where it is not.
    fn take_out(&self, parent: &OwnedFd, path: &TreePath, name: &str, old: &Stat) -> Result<Option<Gone>, OriginError> {
        let failed = OriginError::met("remove a file");
        let gone = self.staging.take_away(parent, &path.parent(), name)?;
        let taken = statat(&*gone.dir, &gone.name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if is_same(&taken, old) {
            return Ok(Some(gone));
        }
        rename_new(&gone.dir, &gone.name, parent, name).map_err(failed)?;
        gone.forget_note();
        Ok(None)
    }
}

impl Occupant {
    /// Whether a file can be put there.
    fn takes_a_file(&self) -> Result<(), OriginError> {
        match self {
            Self::Nothing | Self::File(_) => Ok(()),
            Self::Collection(_) => Err(OriginError::IsCollection),
            Self::Link(_) => Err(OriginError::Link),
            Self::Special(_) => Err(OriginError::Special),
        }
    }

    /// Whether the path asks for a collection, and this is none.
    fn is_no_collection_at(&self, path: &TreePath) -> bool {
        path.has_slash() && !matches!(self, Self::Collection(_) | Self::Link(_))
    }

    /// Whether something is there that is then lost.
    pub(super) fn may_be_lost(&self, loss: Loss) -> Result<bool, OriginError> {
        match (self, loss) {
            (Self::Nothing, _) => Ok(false),
            (_, Loss::Nothing) => Err(OriginError::Failed),
            (Self::Special(_), _) => Err(OriginError::Special),
            _ => Ok(true),
        }
    }
}

/// Whether the file system takes different spellings for one name, tried with a name of ours.
fn folds(staging: &Staging) -> Result<bool, OriginError> {
    let failed = OriginError::met("try how the file system treats names");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let (dir, name) = (staging.dir()?, "put-\u{e9}A");
    drop(openat(&dir, name, flags, Mode::RUSR).map_err(&failed)?);
    let found = ["put-e\u{301}A", "put-\u{e9}a"]
        .iter()
        .any(|other| statat(&dir, *other, AtFlags::SYMLINK_NOFOLLOW).is_ok());
    unlinkat(&dir, name, AtFlags::empty()).map_err(failed)?;
    Ok(found)
}
