//! Copies: put together aside, without a lock, and then placed in one step.
//!
//! A copy of a collection has its files, its collections and its links as they are (RFC 4918 §9.8.3); pipes, sockets, devices and
//! what is millpond's own are left out. Each file is a state that it had: one that is written to while it is copied is
//! copied again. The collection as a whole is not a state of one moment, for nobody could hold it still.

use super::attributes;
use super::census::Census;
use super::change::{Changes, Done, Loss, Occupant};
use super::error::OriginError;
use super::gone::Gone;
use super::path::{TreePath, UNFINISHED};
use super::placing::{Exchanged, exchange, rename_new};
use super::staging::{Arrived, sync};
use super::tree::{Found, Stamp, stamp};
use crate::header::Preconditions;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat,
};
use std::fs::File;
use std::os::fd::OwnedFd;

/// How often a file is copied that is written to meanwhile.
const MAX_CHANGING: usize = 4;

/// The deepest collection that is copied: what a path may name.
const MAX_DEPTH: usize = 128;

/// What a copy is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// A copy of a file, or of a collection without its members.
    Shallow,
    /// A copy of all that is there.
    Deep,
    /// The move of something to where no rename(2) gets it: the copy has also the times, owners and rights of the original.
    Move,
}

/// A copy that has not been placed yet. One that never is goes as it is dropped, or at the next start.
#[derive(Debug)]
pub enum Copied {
    /// Of a file, in the state that it had.
    File(Arrived, Stamp),
    /// Of a collection, and what that held, if it is to be removed.
    Collection(Gone, Census),
}

impl Changes {
    /// A copy of what is at the path, to be put elsewhere.
    ///
    /// # Errors
    /// Where nothing is there, or a condition does not hold.
    pub fn copy(
        &self,
        from: &TreePath,
        to: &TreePath,
        how: Copying,
        conditions: &Preconditions,
    ) -> Result<Copied, OriginError> {
        self.permits(to)?;
        let evidence = self.read_ahead(from, conditions);
        if !from.is_root() {
            let (parent, name) = self.source(from)?;
            let occupant = self.occupant(&parent, name)?;
            if how == Copying::Move && matches!(occupant, Occupant::Link(_) | Occupant::Special(_)) {
                return Err(OriginError::OtherDisk);
            }
            self.check(from, &occupant, conditions, &evidence)?;
        }
        if from.bare() == to.bare() || (how != Copying::Shallow && to.is_within(from)) || from.is_within(to) {
            return Err(OriginError::Within);
        }
        match self.tree.find(from)? {
            Found::File(original, _) => self.copy_file(original, to, how),
            Found::Collection(original, _) => {
                let census = match how {
                    Copying::Move => Census::of(&original)?,
                    _ => Census::default(),
                };
                let made = self.staging.begin_collection(&to.parent())?;
                match self.fill_collection(&original, &made, how) {
                    Ok(()) => Ok(Copied::Collection(made, census)),
                    Err(error) => {
                        self.staging.discard(&made);
                        Err(error)
                    }
                }
            }
        }
    }

    fn copy_file(&self, original: File, to: &TreePath, how: Copying) -> Result<Copied, OriginError> {
        for _ in 0..MAX_CHANGING {
            let state = stamp(&original)?;
            let mut incoming = self.staging.begin(&to.parent(), Some(state.size))?;
            let known = self.tags.known(&state);
            match known {
                // The kernel shares the blocks where it can.
                Some(_) => {
                    let mut from = original.try_clone().map_err(OriginError::io("copy a file"))?;
                    copy_bytes(&mut from, incoming.file())?;
                }
                None => super::tags::each_block_of(&original, |block| incoming.write(&self.staging, block))?,
            }
            let _ = attributes::copy_user(&original, incoming.file());
            if stamp(&original)? != state {
                continue;
            }
            let mut arrived = match known {
                Some(digest) => self.staging.settle_copy(incoming, digest)?,
                None => incoming.finish(&self.staging, None)?,
            };
            if how == Copying::Move {
                attributes::carry(&original, &arrived.staged.file)?;
                arrived.modified = stamp(&arrived.staged.file)?.modified;
            }
            return Ok(Copied::File(arrived, state));
        }
        Err(OriginError::Changing)
    }

    fn fill_collection(&self, original: &OwnedFd, made: &Gone, how: Copying) -> Result<(), OriginError> {
        let copy = open_directory(&made.dir, &made.name)?;
        like(original, &copy);
        match how {
            Copying::Shallow => sync(&copy),
            how => self.copy_members(original, &copy, how, 0),
        }
    }

    fn copy_members(&self, from: &OwnedFd, to: &OwnedFd, how: Copying, depth: usize) -> Result<(), OriginError> {
        let failed = OriginError::met("copy a collection");
        if depth >= MAX_DEPTH {
            return Err(OriginError::BadName);
        }
        for entry in Dir::read_from(from).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || name.to_bytes().starts_with(UNFINISHED.as_bytes()) {
                continue;
            }
            let stat = match statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let inner = open_directory(from, name)?;
                    mkdirat(to, name, Mode::from_raw_mode(0o777)).map_err(&failed)?;
                    let copy = open_directory(to, name)?;
                    like(&inner, &copy);
                    self.copy_members(&inner, &copy, how, depth + 1)?;
                }
                FileType::Symlink => {
                    let target = readlinkat(from, name, Vec::new()).map_err(&failed)?;
                    symlinkat(&target, to, name).map_err(&failed)?;
                }
                FileType::RegularFile => self.copy_member(from, to, name, how)?,
                _ => {}
            }
        }
        if how == Copying::Move {
            // After its members, which have changed its times.
            attributes::carry(from, to)?;
        }
        sync(to)
    }

    fn copy_member(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &std::ffi::CStr,
        how: Copying,
    ) -> Result<(), OriginError> {
        let failed = OriginError::met("copy a file");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut original = File::from(openat(from, name, flags, Mode::empty()).map_err(&failed)?);
        for _ in 0..MAX_CHANGING {
            let state = stamp(&original)?;
            self.staging.room(to, state.size)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = File::from(openat(to, name, flags, Mode::from_raw_mode(0o666)).map_err(&failed)?);
            copy_bytes(&mut original, &copy)?;
            match how {
                Copying::Move => attributes::carry(&original, &copy)?,
                _ => drop(attributes::copy_user(&original, &copy)),
            }
            copy.sync_all().map_err(OriginError::io("write a file to the disk"))?;
            if stamp(&original)? == state {
                return Ok(());
            }
            unlinkat(to, name, AtFlags::empty()).map_err(&failed)?;
        }
        Err(OriginError::Changing)
    }

    /// Puts the copy of a collection in its place; the caller holds the lock. The second part of the answer is yet to be
    /// discarded.
    ///
    /// # Errors
    /// Where the path is taken, and may not be lost.
    pub fn place_collection(
        &self,
        made: &Gone,
        to: &TreePath,
        loss: Loss,
    ) -> Result<(Done, Option<Gone>), OriginError> {
        let (target, new) = self.place(to)?;
        let failed = OriginError::met("put a collection in its place");
        let replaced = self.occupant(&target, new)?.may_be_lost(loss)?;
        self.may_make_room(&target, to, new, loss)?;
        let exchanged = match replaced {
            true => exchange(&made.dir, &made.name, &target, new),
            false => Exchanged::Unknown,
        };
        let old = match exchanged {
            // What was there lies where the copy lay.
            Exchanged::Done => Some(made.clone()),
            Exchanged::Unknown => {
                let old = self.make_room(&target, to, new, loss)?;
                let renamed = rename_new(&made.dir, &made.name, &target, new);
                renamed.map_err(failed).inspect_err(|_| {
                    if let Some(old) = &old {
                        self.give_back(old, &target, new);
                    }
                })?;
                made.forget_note();
                old
            }
            Exchanged::Failed(errno) => return Err(failed(errno)),
        };
        sync(&target)?;
        let stat = statat(&target, new, AtFlags::SYMLINK_NOFOLLOW).map_err(OriginError::met("inspect a file"))?;
        let now = Stamp::of(&stat);
        Ok((Done::new(replaced, now), old))
    }

    /// Takes a collection away that a file is to replace.
    ///
    /// # Errors
    /// Where it may not be lost.
    pub fn clear(&self, to: &TreePath, loss: Loss) -> Result<Option<Gone>, OriginError> {
        let (target, new) = self.place(to)?;
        match self.occupant(&target, new)? {
            Occupant::Collection(_) if loss != Loss::Nothing => self.make_room(&target, to, new, loss),
            Occupant::Link(_) if loss != Loss::Nothing => self.make_room(&target, to, new, loss),
            _ => Ok(None),
        }
    }

    /// Puts back what was taken away for a file that did not come.
    pub fn restore(&self, gone: &Gone, to: &TreePath) {
        if let Ok((target, new)) = self.place(to) {
            self.give_back(gone, &target, new);
        }
    }

    /// Whether a collection still holds what it held when it was copied; nothing may change it meanwhile.
    ///
    /// # Errors
    /// [`OriginError::Changing`] where it does not.
    pub fn is_as_copied(&self, from: &TreePath, census: &Census) -> Result<(), OriginError> {
        match self.tree.find(from)? {
            Found::Collection(original, _) if Census::of(&original)? == *census => Ok(()),
            _ => Err(OriginError::Changing),
        }
    }

    /// Whether a file is still in the state that was copied.
    ///
    /// # Errors
    /// [`OriginError::Changing`] where it is not.
    pub fn is_in_state(&self, from: &TreePath, state: &Stamp) -> Result<(), OriginError> {
        let (parent, name) = self.source(from)?;
        match self.occupant(&parent, name)? {
            Occupant::File(stat) if Stamp::of(&stat) == *state => Ok(()),
            _ => Err(OriginError::Changing),
        }
    }

    /// Removes the file that has been copied elsewhere, if it is still in the state that was copied.
    ///
    /// # Errors
    /// [`OriginError::Changing`] where it is not.
    pub fn remove_copied(&self, from: &TreePath, state: &Stamp) -> Result<(), OriginError> {
        let (parent, name) = self.source(from)?;
        match self.occupant(&parent, name)? {
            Occupant::File(stat) if Stamp::of(&stat) == *state => {
                unlinkat(&parent, name, AtFlags::empty()).map_err(OriginError::met("remove a file"))?;
                sync(&parent)
            }
            _ => Err(OriginError::Changing),
        }
    }
}

/// Copies all bytes from the beginning.
fn copy_bytes(from: &mut File, mut to: &File) -> Result<(), OriginError> {
    use std::io::Seek;
    let failed = OriginError::io("copy a file");
    from.rewind().map_err(&failed)?;
    std::io::copy(from, &mut to).map_err(failed).map(drop)
}

fn open_directory(parent: &OwnedFd, name: impl rustix::path::Arg) -> Result<OwnedFd, OriginError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(OriginError::met("open a directory"))
}

/// Gives a copied collection the rights and attributes of the original, as far as they are not inherited.
fn like(original: &OwnedFd, copy: &OwnedFd) {
    let _ = attributes::copy_user(original, copy);
    if let Ok(stat) = fstat(original)
        && !attributes::is_inherited_from(copy)
    {
        // The server's user must be able to fill it.
        let _ = fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o777 | 0o700));
    }
}
