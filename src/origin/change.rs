//! Changes, each of which happens wholly or not at all: put, remove, make a collection, move, copy.
//!
//! Whoever calls holds the locks of the paths (`locks.rs`), so among our own clients the evaluation of a condition
//! and the change are one step. Others may change the directory behind our back. Against them the kernel is asked
//! to make the step one: a name that must be new is taken only if it is (`RENAME_NOREPLACE`), and what a condition
//! was evaluated against is exchanged with what replaces it and looked at again (`RENAME_EXCHANGE`): if it was
//! another after all, it is put back.
//!
//! The order of a put: body on the disk (`staging.rs`), name changed, directory on the disk, answer. So after a
//! crash a path has its old bytes or its new ones, and what was answered is there.

use super::error::OriginError;
use super::list::twin;
use super::path::TreePath;
use super::staging::{Arrived, Staged, Staging, mount_of, random, sync};
use super::tags::{Digest, Tag, Tags};
use super::tree::{Stamp, Tree, stamp};
use crate::header::{Current, Preconditions};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, mkdirat, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
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
}

/// What has a name at the moment.
enum Occupant {
    Nothing,
    File(Stat),
    Collection(Stat),
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
            _ if !self.tree.serves(path) => Err(OriginError::Unserved),
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
        match self.occupant(&parent, name)? {
            Occupant::Collection(_) => Err(OriginError::IsCollection),
            occupant => self.check(&parent, name, &occupant, conditions),
        }
    }

    /// Puts a body in its place.
    ///
    /// # Errors
    /// [`OriginError::Failed`] where a condition does not hold; and where no file can be there. Then nothing has
    /// changed.
    pub fn put(&self, path: &TreePath, arrived: Arrived, conditions: &Preconditions) -> Result<Done, OriginError> {
        self.permits(path)?;
        let (parent, name) = self.place(path)?;
        let Arrived {
            mut staged,
            digest,
            modified,
        } = arrived;
        let mut replaced = None;
        for _ in 0..MAX_DISTURBED {
            let occupant = self.occupant(&parent, name)?;
            self.check(&parent, name, &occupant, conditions)?;
            let placed = match &occupant {
                Occupant::Collection(_) => return Err(OriginError::IsCollection),
                Occupant::Nothing => settle_new(&staged, &parent, name)?,
                Occupant::File(old) => {
                    keep_rights(&staged.file, old)?;
                    replace(&mut staged, &parent, name, (!conditions.is_empty()).then_some(old))?
                }
            };
            if placed {
                replaced = Some(matches!(occupant, Occupant::File(_)));
                break;
            }
        }
        let Some(replaced) = replaced else {
            return Err(OriginError::Changing);
        };
        sync(&parent)?;
        let now = stamp(&staged.file)?;
        if now.modified == modified {
            self.tags.insert(&now, digest);
        }
        Ok(if replaced { Done::Replaced(now) } else { Done::Made(now) })
    }

    /// Removes a file, or a collection: an empty one, or with `deep` all that is in it. What is named in the answer is gone
    /// from the tree, and yet to be discarded: that takes a while, and needs no lock ([`Staging::discard`]).
    ///
    /// # Errors
    /// Where nothing is there, a condition does not hold, or there is more than may be removed.
    pub fn remove(
        &self,
        path: &TreePath,
        deep: bool,
        conditions: &Preconditions,
    ) -> Result<Option<String>, OriginError> {
        self.permits(path)?;
        let (parent, name) = self.place(path).map_err(|error| match error {
            OriginError::NoParent | OriginError::ParentIsFile => OriginError::Absent,
            error => error,
        })?;
        let failed = OriginError::met("remove a file");
        for _ in 0..MAX_DISTURBED {
            let occupant = self.occupant(&parent, name)?;
            match &occupant {
                Occupant::Nothing => return Err(OriginError::Absent),
                Occupant::File(_) if path.has_slash() => return Err(OriginError::Absent),
                _ => self.check(&parent, name, &occupant, conditions)?,
            }
            match &occupant {
                Occupant::Collection(_) if deep => {
                    let gone = Staging::way_out();
                    renameat(&parent, name, self.staging.dir(), &gone).map_err(|errno| match errno {
                        Errno::XDEV => OriginError::OtherDisk,
                        errno => failed(errno),
                    })?;
                    sync(&parent)?;
                    return Ok(Some(gone));
                }
                Occupant::Collection(_) => unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(&failed)?,
                Occupant::File(old) if !conditions.is_empty() => match self.take_out(&parent, name, old)? {
                    true => {}
                    false => continue,
                },
                _ => unlinkat(&parent, name, AtFlags::empty()).map_err(&failed)?,
            }
            return sync(&parent).map(|()| None);
        }
        Err(OriginError::Changing)
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
        self.check(&parent, name, &occupant, conditions)?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o777)).map_err(OriginError::met("make a collection"))?;
        sync(&parent)
    }

    /// Moves a file or a collection; what is at the other path is replaced if it is a file and `overwrite` says so.
    ///
    /// # Errors
    /// Where nothing is there, a condition does not hold, or the other path is taken.
    pub fn rename(
        &self,
        from: &TreePath,
        to: &TreePath,
        overwrite: bool,
        conditions: &Preconditions,
    ) -> Result<Done, OriginError> {
        self.permits(from)?;
        self.permits(to)?;
        let (source, name) = self.source(from, conditions)?;
        let (target, new) = self.place(to)?;
        let occupant = self.occupant(&source, name)?;
        let moved = match &occupant {
            Occupant::Nothing => return Err(OriginError::Absent),
            Occupant::File(stat) | Occupant::Collection(stat) => Stamp::of(stat),
        };
        if from.bare() == to.bare() || (matches!(occupant, Occupant::Collection(_)) && to.is_within(from)) {
            return Err(OriginError::Within);
        }
        let digest = self.tags.known(&moved);
        let failed = |errno| match errno {
            Errno::XDEV => OriginError::OtherDisk,
            errno => OriginError::met("move a file")(errno),
        };
        let replaced = match (self.occupant(&target, new)?, &occupant) {
            (Occupant::Nothing, _) => {
                match renameat_with(&source, name, &target, new, RenameFlags::NOREPLACE) {
                    // What came meanwhile is not ours to replace.
                    Err(Errno::EXIST) => return Err(OriginError::Changing),
                    // A file system without the flag.
                    Err(Errno::INVAL | Errno::NOSYS) => renameat(&source, name, &target, new).map_err(failed)?,
                    renamed => renamed.map_err(failed)?,
                }
                false
            }
            _ if !overwrite => return Err(OriginError::Failed),
            (Occupant::File(_), Occupant::Collection(_)) => return Err(OriginError::Exists),
            (Occupant::Collection(_), Occupant::File(_)) => return Err(OriginError::IsCollection),
            _ => {
                renameat(&source, name, &target, new).map_err(failed)?;
                true
            }
        };
        sync(&target)?;
        sync(&source)?;
        let stat = statat(&target, new, AtFlags::SYMLINK_NOFOLLOW).map_err(OriginError::met("inspect a file"))?;
        let now = Stamp::of(&stat);
        // Only the name has changed, and with it the time of change.
        if let Some(digest) =
            digest.filter(|_| (now.ino, now.size, now.modified) == (moved.ino, moved.size, moved.modified))
        {
            self.tags.insert(&now, digest);
        }
        Ok(if replaced { Done::Replaced(now) } else { Done::Made(now) })
    }

    /// A copy of a file, to be put elsewhere.
    ///
    /// # Errors
    /// Where it is no file, a condition does not hold, or it is written to meanwhile.
    pub fn copy(&self, from: &TreePath, to: &TreePath, conditions: &Preconditions) -> Result<Arrived, OriginError> {
        self.permits(to)?;
        let (source, name) = self.source(from, conditions)?;
        let Occupant::File(_) = self.occupant(&source, name)? else {
            return Err(OriginError::IsCollection);
        };
        let original = open(&source, name)?;
        let (state, digest) = self.tags.digest(&original)?;
        let incoming = self.staging.begin(&to.parent(), Some(state.size))?;
        // The kernel shares the blocks where it can.
        let mut target = incoming.file();
        std::io::copy(&mut &original, &mut target).map_err(OriginError::io("copy a file"))?;
        if stamp(&original)? != state {
            return Err(OriginError::Changing);
        }
        self.staging.settle_copy(incoming, digest)
    }

    /// Where a change of that path happens: its collection, and its name there.
    fn place<'a>(&self, path: &'a TreePath) -> Result<(OwnedFd, &'a str), OriginError> {
        let name = path.name().ok_or(OriginError::Root)?;
        Ok((self.tree.for_writing(&path.parent())?, name))
    }

    /// The same for what is moved or copied, whose conditions are of itself.
    fn source<'a>(&self, path: &'a TreePath, conditions: &Preconditions) -> Result<(OwnedFd, &'a str), OriginError> {
        let (parent, name) = self.place(path).map_err(|error| match error {
            OriginError::NoParent | OriginError::ParentIsFile => OriginError::Absent,
            error => error,
        })?;
        match self.occupant(&parent, name)? {
            Occupant::Nothing => Err(OriginError::Absent),
            Occupant::File(_) if path.has_slash() => Err(OriginError::Absent),
            occupant => {
                self.check(&parent, name, &occupant, conditions)?;
                Ok((parent, name))
            }
        }
    }

    fn occupant(&self, parent: &OwnedFd, name: &str) -> Result<Occupant, OriginError> {
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
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Occupant::File(stat)),
            FileType::Directory => Ok(Occupant::Collection(stat)),
            FileType::Symlink => Err(OriginError::Link),
            _ => Err(OriginError::Special),
        }
    }

    /// Evaluates the conditions against what has the name.
    fn check(
        &self,
        parent: &OwnedFd,
        name: &str,
        occupant: &Occupant,
        conditions: &Preconditions,
    ) -> Result<(), OriginError> {
        if conditions.is_empty() {
            return Ok(());
        }
        let (stat, tag) = match occupant {
            Occupant::Nothing => (None, None),
            Occupant::Collection(stat) => (Some(stat), None),
            Occupant::File(stat) => {
                let tag = conditions.need_tag().then(|| self.read_tag(parent, name)).transpose()?;
                (Some(stat), tag.map(|digest| Tag::Strong(digest).entity_tag()))
            }
        };
        let current = stat.map(|stat| Current {
            etag: tag.as_ref(),
            modified: Stamp::of(stat).modified_at(),
        });
        match conditions.hold(current) {
            true => Ok(()),
            false => Err(OriginError::Failed),
        }
    }

    fn read_tag(&self, parent: &OwnedFd, name: &str) -> Result<Digest, OriginError> {
        for _ in 0..MAX_DISTURBED {
            match self.tags.digest(&open(parent, name)?) {
                Err(OriginError::Changing) => {}
                read => return Ok(read?.1),
            }
        }
        Err(OriginError::Changing)
    }

    /// Removes the file of that name if it is still the one that was evaluated.
    fn take_out(&self, parent: &OwnedFd, name: &str, old: &Stat) -> Result<bool, OriginError> {
        let failed = OriginError::met("remove a file");
        if mount_of(parent)? != mount_of(self.staging.dir())? {
            // Nowhere to look at it: what changes it in between is lost.
            return unlinkat(parent, name, AtFlags::empty()).map_err(failed).map(|()| true);
        }
        let (place, gone) = (self.staging.dir(), format!("put-{}", random()));
        renameat(parent, name, place, &gone).map_err(&failed)?;
        let taken = statat(place, &gone, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if is_same(&taken, old) {
            return unlinkat(place, &gone, AtFlags::empty()).map_err(failed).map(|()| true);
        }
        renameat_with(place, &gone, parent, name, RenameFlags::NOREPLACE).map_err(failed)?;
        Ok(false)
    }
}

/// Gives a body a name that nobody has; `false` where somebody was faster.
fn settle_new(staged: &Staged, parent: &OwnedFd, name: &str) -> Result<bool, OriginError> {
    let failed = OriginError::met("put a file in its place");
    match renameat_with(&staged.dir, &staged.name, parent, name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::NOENT) => Err(OriginError::NoParent),
        // A file system without the flag: a second name for the file is never in anybody's place either. The first
        // goes as the body is dropped.
        Err(Errno::INVAL | Errno::NOSYS) => {
            match rustix::fs::linkat(&staged.dir, &staged.name, parent, name, AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                Err(errno) => Err(failed(errno)),
            }
        }
        Err(errno) => Err(failed(errno)),
    }
}

/// Puts a body in the place of another; where `evaluated` is named, only if that is what it replaces.
fn replace(staged: &mut Staged, parent: &OwnedFd, name: &str, evaluated: Option<&Stat>) -> Result<bool, OriginError> {
    let failed = OriginError::met("put a file in its place");
    if let Some(evaluated) = evaluated {
        match renameat_with(&staged.dir, &staged.name, parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => {
                // What was there now lies where the body lay, and goes as that is dropped.
                let old = statat(&staged.dir, &staged.name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
                if is_same(&old, evaluated) {
                    return Ok(true);
                }
                put_back(staged, parent, name)?;
                return Ok(false);
            }
            Err(Errno::NOENT) => return Ok(false),
            // A file system without the flag.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    renameat(&staged.dir, &staged.name, parent, name).map_err(failed)?;
    staged.placed = true;
    Ok(true)
}

/// Exchanges our own body out again. Where somebody has replaced it meanwhile, what is newest stays, and our body is theirs:
/// then there is nothing left to try with.
fn put_back(staged: &Staged, parent: &OwnedFd, name: &str) -> Result<(), OriginError> {
    let failed = OriginError::met("put a file back");
    let exchange = || renameat_with(&staged.dir, &staged.name, parent, name, RenameFlags::EXCHANGE).map_err(&failed);
    exchange()?;
    let out = statat(&staged.dir, &staged.name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
    if Stamp::of(&out).ino == stamp(&staged.file)?.ino {
        return Ok(());
    }
    exchange()?;
    Err(OriginError::Changing)
}

/// Whether two looks saw the same bytes of the same file; a change of its name is no change of these.
fn is_same(now: &Stat, then: &Stat) -> bool {
    let (now, then) = (Stamp::of(now), Stamp::of(then));
    (now.dev, now.ino, now.size, now.modified) == (then.dev, then.ino, then.size, then.modified)
}

/// A file keeps its rights when it gets new bytes.
fn keep_rights(file: &File, old: &Stat) -> Result<(), OriginError> {
    let failed = OriginError::io("keep a file's rights");
    let now = file.metadata().map_err(&failed)?.permissions();
    if now.mode() & 0o7777 != old.st_mode & 0o7777 {
        // What cannot be kept is no reason to lose the bytes.
        let _ = file.set_permissions(std::fs::Permissions::from_mode(old.st_mode & 0o7777));
        file.sync_all().map_err(failed)?;
    }
    Ok(())
}

fn open(parent: &OwnedFd, name: &str) -> Result<File, OriginError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty()).map_err(OriginError::met("open a file"))?;
    Ok(File::from(file))
}

/// Whether the file system takes different spellings for one name, tried with a name of ours.
fn folds(staging: &Staging) -> Result<bool, OriginError> {
    let failed = OriginError::met("try how the file system treats names");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let name = "put-\u{e9}A";
    drop(openat(staging.dir(), name, flags, Mode::RUSR).map_err(&failed)?);
    let found = ["put-e\u{301}A", "put-\u{e9}a"]
        .iter()
        .any(|other| statat(staging.dir(), *other, AtFlags::SYMLINK_NOFOLLOW).is_ok());
    unlinkat(staging.dir(), name, AtFlags::empty()).map_err(failed)?;
    Ok(found)
}
