//! Copies: put together aside, without a lock, and then placed in one step.
//!
//! A copy of a collection has its files, its collections and its links as they are (RFC 4918 §9.8.3); pipes, sockets, devices and
//! what is millpond's own are left out. Each file is a state that it had: one that is written to while it is copied is
//! copied again. The collection as a whole is not a state of one moment, for nobody could hold it still.

use super::attributes;
use super::census::Census;
use super::change::{Changes, Occupant};
use super::error::OriginError;
use super::gone::Made;
use super::moving::EntryState;
use super::path::{TreePath, is_unfinished};
use super::staging::{Arrived, sync};
use super::tree::{Crossing, Found, Stamp, stamp};
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

/// A copy that has not been placed yet, and the state of what it is a copy of. One that never is placed goes as it is dropped.
#[derive(Debug)]
pub enum Copied {
    /// Of a file.
    File(Arrived, EntryState),
    /// Of a collection or a link.
    Made(Made, EntryState),
}

impl Copied {
    /// The state in which it was copied.
    pub fn state(&self) -> EntryState {
        match self {
            Self::File(_, state) | Self::Made(_, state) => *state,
        }
    }
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
        crossing: &Crossing,
    ) -> Result<Copied, OriginError> {
        self.permits(to)?;
        if how == Copying::Move {
            self.permits(from)?;
            if self.tree.mounts().is_crossed_by(from) {
                return Err(OriginError::Mounted);
            }
        }
        let evidence = self.read_ahead(from, conditions);
        if !from.is_root() {
            let (parent, name) = self.source(from)?;
            let occupant = self.occupant(&parent, name)?;
            if how == Copying::Move && matches!(occupant, Occupant::Special(_)) {
                return Err(OriginError::OtherDisk);
            }
            self.check(from, &occupant, conditions, &evidence)?;
            if let Occupant::Link(stat) = &occupant
                && how == Copying::Move
            {
                return self.copy_link(&parent, name, Stamp::of(stat), to);
            }
        }
        if from.bare() == to.bare() || (how != Copying::Shallow && to.is_within(from)) || from.is_within(to) {
            return Err(OriginError::Within);
        }
        match self.tree.find_across(from, crossing)? {
            Found::File(original, _) => self.copy_file(original, to, how),
            Found::Collection(original, _) => {
                let census = match how {
                    Copying::Move => Census::of(&original)?,
                    _ => Census::default(),
                };
                let mut made = self.staging.begin_collection(&to.parent(), false)?;
                self.fill_collection(&original, &mut made, how)?;
                Ok(Copied::Made(made, EntryState::Collection(census)))
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
            return Ok(Copied::File(arrived, EntryState::Single(state)));
        }
        Err(OriginError::Changing)
    }

    /// The same link elsewhere, with the same text.
    fn copy_link(&self, parent: &OwnedFd, name: &str, state: Stamp, to: &TreePath) -> Result<Copied, OriginError> {
        let target = readlinkat(parent, name, Vec::new()).map_err(OriginError::met("read a link"))?;
        let made = self.staging.begin_link(&to.parent(), &target, false)?;
        Ok(Copied::Made(made, EntryState::Single(state)))
    }

    /// Copies what a rename does not get to its place once more, beside that. Takes no lock: it may be long.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn bring_copy(&self, copied: &mut Copied, to: &TreePath) -> Result<(), OriginError> {
        let made = match copied {
            Copied::File(arrived, _) => return self.bring(arrived, to),
            Copied::Made(made, _) => made,
        };
        let place = made.place().ok_or(OriginError::Changing)?;
        *made = match readlinkat(&*place.dir, &place.name, Vec::new()) {
            Ok(target) => self.staging.begin_link(&to.parent(), &target, true)?,
            // It is no link.
            Err(_) => {
                let original = open_directory(&place.dir, &place.name)?;
                let mut beside = self.staging.begin_collection(&to.parent(), true)?;
                self.fill_collection(&original, &mut beside, Copying::Move)?;
                beside
            }
        };
        Ok(())
    }

    fn fill_collection(&self, original: &OwnedFd, made: &mut Made, how: Copying) -> Result<(), OriginError> {
        let place = made.place().ok_or(OriginError::Changing)?;
        let copy = open_directory(&place.dir, &place.name)?;
        like(original, &copy);
        match how {
            Copying::Shallow => sync(&copy),
            how => {
                self.copy_members(original, &copy, how, 0)?;
                // A move may have to be undone, and others may have written to the copy by then.
                if how == Copying::Move {
                    made.counted(Census::of(&copy)?);
                }
                Ok(())
            }
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
            if matches!(name.to_bytes(), b"." | b"..") || name.to_str().is_ok_and(is_unfinished) {
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
