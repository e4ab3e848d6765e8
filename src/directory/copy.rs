//! Copies, for COPY and for MOVE to another file system: put together in staging without a lock, then placed in one
//! step.
//!
//! A copy of a collection has its files, its collections and its links as they are (RFC 4918 §9.8.3); pipes, sockets,
//! devices and millpond's own names are left out. Each file is a state that it had: a file that is written to while it
//! is copied is copied again. The collection as a whole is not a state of one moment, for nobody could hold it still.
//!
//! A copy that is never placed is removed when it is dropped, so a request that ends half way leaves nothing.

use super::attributes;
use super::collection_checksum::CollectionChecksum;
use super::cross_device_move::SourceState;
use super::error::DirectoryError;
use super::path::{TreePath, is_unfinished};
use super::staging::{ReceivedBody, sync_directory};
use super::trash::StagedEntry;
use super::tree::{AllowedMounts, Found, Stamp, stamp};
use super::tree_writer::{Occupant, TreeWriter};
use crate::header::Preconditions;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat,
};
use std::fs::File;
use std::os::fd::OwnedFd;

/// The attempts at copying a file that is written to meanwhile: a judgement.
const MAX_CHANGING: usize = 4;

/// The deepest collection that is copied: no path names a deeper one (`path.rs`).
const MAX_DEPTH: usize = 128;

/// The purpose of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// COPY of a file, or of a collection without its members (`Depth: 0`).
    Shallow,
    /// COPY of a collection with all that is in it.
    Deep,
    /// MOVE to where no rename(2) gets: the copy has the times, owners and rights of the original as well.
    Move,
}

/// A copy that is not placed yet, and the state of its original. Dropped before that, it is removed.
#[derive(Debug)]
pub enum StagedCopy {
    /// A file.
    File(ReceivedBody, SourceState),
    /// A collection or a link.
    Entry(StagedEntry, SourceState),
}

impl StagedCopy {
    /// The state of the original when it was copied.
    pub fn state(&self) -> SourceState {
        match self {
            Self::File(_, state) | Self::Entry(_, state) => *state,
        }
    }
}

impl TreeWriter {
    /// Puts a copy together of the entry at the path, to be placed at the other. Takes no lock: it may be long.
    ///
    /// # Errors
    /// Where nothing is there, or a condition does not hold.
    pub fn copy(
        &self,
        from: &TreePath,
        to: &TreePath,
        how: CopyMode,
        conditions: &Preconditions,
        allowed: &AllowedMounts,
    ) -> Result<StagedCopy, DirectoryError> {
        self.check_writable(to)?;
        if how == CopyMode::Move {
            self.check_writable(from)?;
            if self.tree.mounts().has_mount_within(from) {
                return Err(DirectoryError::Mounted);
            }
        }
        let preread = self.preread(from, conditions);
        if !from.is_root() {
            let (parent, name) = self.existing_parent_and_name(from)?;
            let occupant = self.occupant(&parent, name)?;
            if how == CopyMode::Move && matches!(occupant, Occupant::Special(_)) {
                return Err(DirectoryError::CrossDevice);
            }
            self.check_preconditions(from, &occupant, conditions, &preread)?;
            if let Occupant::Link(stat) = &occupant
                && how == CopyMode::Move
            {
                return self.copy_link(&parent, name, Stamp::of(stat), to);
            }
        }
        if from.without_slash() == to.without_slash()
            || (how != CopyMode::Shallow && to.is_within(from))
            || from.is_within(to)
        {
            return Err(DirectoryError::IntoItself);
        }
        match self.tree.find_through(from, allowed)? {
            Found::File(original, _) => self.copy_file(original, to, how),
            Found::Collection(original, _) => {
                let checksum = match how {
                    CopyMode::Move => CollectionChecksum::of(&original)?,
                    _ => CollectionChecksum::default(),
                };
                let mut entry = self.staging.begin_collection(&to.parent(), false)?;
                self.fill_collection(&original, &mut entry, how)?;
                Ok(StagedCopy::Entry(entry, SourceState::Collection(checksum)))
            }
        }
    }

    fn copy_file(&self, original: File, to: &TreePath, how: CopyMode) -> Result<StagedCopy, DirectoryError> {
        for _ in 0..MAX_CHANGING {
            let state = stamp(&original)?;
            let mut incoming = self.staging.begin(&to.parent(), Some(state.size))?;
            let known = self.tags.digest_of(&state);
            match known {
                // The kernel copies, and shares the blocks where the file system can; the digest is known without the
                // bytes.
                Some(_) => {
                    let mut from = original.try_clone().map_err(DirectoryError::from_io("copy a file"))?;
                    copy_bytes(&mut from, incoming.file())?;
                }
                None => super::sha256::try_each_block(&original, |block| incoming.write(&self.staging, block))?,
            }
            let _ = attributes::copy_user_xattrs(&original, incoming.file());
            if stamp(&original)? != state {
                continue;
            }
            let mut received = match known {
                Some(digest) => self.staging.finalize_copy(incoming, digest)?,
                None => incoming.finish(&self.staging, None)?,
            };
            if how == CopyMode::Move {
                attributes::copy_metadata(&original, &received.staged.file)?;
                received.modified = stamp(&received.staged.file)?.modified;
            }
            return Ok(StagedCopy::File(received, SourceState::Single(state)));
        }
        Err(DirectoryError::ChangedMeanwhile)
    }

    /// A link with the same text.
    fn copy_link(
        &self,
        parent: &OwnedFd,
        name: &str,
        state: Stamp,
        to: &TreePath,
    ) -> Result<StagedCopy, DirectoryError> {
        let target = readlinkat(parent, name, Vec::new()).map_err(DirectoryError::from_errno("read a link"))?;
        let entry = self.staging.begin_link(&to.parent(), &target, false)?;
        Ok(StagedCopy::Entry(entry, SourceState::Single(state)))
    }

    /// Copies a copy beside its place, where a rename did not get there. Takes no lock: it may be long.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn restage_copy(&self, copy: &mut StagedCopy, to: &TreePath) -> Result<(), DirectoryError> {
        let entry = match copy {
            StagedCopy::File(received, _) => return self.restage(received, to),
            StagedCopy::Entry(entry, _) => entry,
        };
        let place = entry.location().ok_or(DirectoryError::ChangedMeanwhile)?;
        *entry = match readlinkat(&*place.dir, &place.name, Vec::new()) {
            Ok(target) => self.staging.begin_link(&to.parent(), &target, true)?,
            // An error of readlink(2): the entry is no link.
            Err(_) => {
                let original = open_directory(&place.dir, &place.name)?;
                let mut beside = self.staging.begin_collection(&to.parent(), true)?;
                self.fill_collection(&original, &mut beside, CopyMode::Move)?;
                beside
            }
        };
        Ok(())
    }

    fn fill_collection(
        &self,
        original: &OwnedFd,
        entry: &mut StagedEntry,
        how: CopyMode,
    ) -> Result<(), DirectoryError> {
        let place = entry.location().ok_or(DirectoryError::ChangedMeanwhile)?;
        let copy = open_directory(&place.dir, &place.name)?;
        like(original, &copy);
        match how {
            CopyMode::Shallow => sync_directory(&copy),
            how => {
                self.copy_members(original, &copy, how, 0)?;
                // A move may be rolled back, and clients may have written to the copy by then: its members are
                // compared with these.
                if how == CopyMode::Move {
                    entry.set_checksum(CollectionChecksum::of(&copy)?);
                }
                Ok(())
            }
        }
    }

    fn copy_members(&self, from: &OwnedFd, to: &OwnedFd, how: CopyMode, depth: usize) -> Result<(), DirectoryError> {
        let failed = DirectoryError::from_errno("copy a collection");
        if depth >= MAX_DEPTH {
            return Err(DirectoryError::BadName);
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
        if how == CopyMode::Move {
            // The collection's metadata come after its members, which have changed its times.
            attributes::copy_metadata(from, to)?;
        }
        sync_directory(to)
    }

    fn copy_member(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &std::ffi::CStr,
        how: CopyMode,
    ) -> Result<(), DirectoryError> {
        let failed = DirectoryError::from_errno("copy a file");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut original = File::from(openat(from, name, flags, Mode::empty()).map_err(&failed)?);
        for _ in 0..MAX_CHANGING {
            let state = stamp(&original)?;
            self.staging.check_free_space(to, state.size)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = File::from(openat(to, name, flags, Mode::from_raw_mode(0o666)).map_err(&failed)?);
            copy_bytes(&mut original, &copy)?;
            match how {
                CopyMode::Move => attributes::copy_metadata(&original, &copy)?,
                _ => drop(attributes::copy_user_xattrs(&original, &copy)),
            }
            copy.sync_all()
                .map_err(DirectoryError::from_io("write a file to the disk"))?;
            if stamp(&original)? == state {
                return Ok(());
            }
            unlinkat(to, name, AtFlags::empty()).map_err(&failed)?;
        }
        Err(DirectoryError::ChangedMeanwhile)
    }
}

/// Copies all bytes, from the beginning.
fn copy_bytes(from: &mut File, mut to: &File) -> Result<(), DirectoryError> {
    use std::io::Seek;
    let failed = DirectoryError::from_io("copy a file");
    from.rewind().map_err(&failed)?;
    std::io::copy(from, &mut to).map_err(failed).map(drop)
}

fn open_directory(parent: &OwnedFd, name: impl rustix::path::Arg) -> Result<OwnedFd, DirectoryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(DirectoryError::from_errno("open a directory"))
}

/// Gives a copied collection the rights and attributes of the original, unless it inherits them from its new parent.
fn like(original: &OwnedFd, copy: &OwnedFd) {
    let _ = attributes::copy_user_xattrs(original, copy);
    if let Ok(stat) = fstat(original)
        && !attributes::is_inherited_from(copy)
    {
        // The owner's rights are added, for the server's user must fill the collection.
        let _ = fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o777 | 0o700));
    }
}
