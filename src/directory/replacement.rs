//! Replacing: a name goes from one thing to another, and back again where the rest of a change fails.
//!
//! ```text
//! nothing has the name               RENAME_NOREPLACE
//! the file system exchanges names    RENAME_EXCHANGE: what was there lies where the new thing lay
//! it does not                        what was there is set aside (removal.rs) between two renames
//! ```
//!
//! A MOVE to another file system is two changes, a copy here and a removal there, each under its own lock. If the removal is not
//! to be had, the copy is taken out again and what it has replaced comes back ([`TreeWriter::roll_back`]).

use super::atomic_rename::{ExchangeOutcome, exchange, rename_noreplace};
use super::collection_checksum::CollectionChecksum;
use super::error::DirectoryError;
use super::path::TreePath;
use super::preconditions::PrereadDigest;
use super::staging::{ReceivedBody, sync_directory};
use super::trash::{Backup, StagedEntry, Trash};
use super::tree::{Stamp, stamp};
use super::tree_writer::{Loss, Occupant, TreeWriter, WriteOutcome};
use crate::header::Preconditions;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A thing whose name something else has now. It is settled or undone; a start settles it.
#[derive(Debug)]
pub struct Replacement {
    path: TreePath,
    new: NewEntry,
    old: OldEntry,
}

/// The thing that has the name now, as it was when it was placed.
#[derive(Debug, Clone, Copy)]
struct NewEntry {
    stamp: Stamp,
    /// What a collection holds.
    checksum: Option<CollectionChecksum>,
}

impl NewEntry {
    /// Whether it is the thing that has this state; its name and its rights do not matter.
    fn is_same_entry(&self, stat: &Stat) -> bool {
        let (now, then) = (Stamp::of(stat), self.stamp);
        let same = (now.dev, now.ino) == (then.dev, then.ino);
        // A collection's own times change with what is in it, which is counted.
        same && (self.checksum.is_some() || (now.size, now.modified) == (then.size, then.modified))
    }

    /// Whether it holds what it held, once it is where nobody gets at it by its path.
    fn is_untouched(&self, dir: &OwnedFd, name: &str) -> bool {
        let Some(checksum) = self.checksum else {
            return statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| self.is_same_entry(&stat));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(dir, name, flags, Mode::empty()).map_err(DirectoryError::from_errno("open a directory"));
        opened
            .and_then(|collection| CollectionChecksum::of(&collection))
            .is_ok_and(|now| now == checksum)
    }
}

#[derive(Debug)]
enum OldEntry {
    Nothing,
    /// It lies where the new thing lay.
    Exchanged(Trash),
    SetAside(Backup),
}

impl TreeWriter {
    /// Gives what lies at `place` the path `to`; the caller holds its lock.
    fn replace_entry(
        &self,
        place: &Trash,
        checksum: Option<CollectionChecksum>,
        to: &TreePath,
        loss: Loss,
    ) -> Result<(WriteOutcome, Replacement), DirectoryError> {
        let (target, name) = self.parent_and_name(to)?;
        let failed = DirectoryError::from_errno("put something in its place");
        let failed = |errno| match errno {
            Errno::XDEV => DirectoryError::NeedsRestaging,
            // Somebody else was there first, or has taken it away.
            Errno::EXIST | Errno::NOENT => DirectoryError::ChangedMeanwhile,
            errno => failed(errno),
        };
        let there = self.occupant(&target, name)?;
        let replaced = there.check_loss(loss)?;
        let stat = statat(&*place.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW);
        let stamp = Stamp::of(&stat.map_err(DirectoryError::from_errno("inspect a copy"))?);
        // Nothing may fail between a step that cannot be taken back and the answer that tells of it.
        let old = match replaced {
            false => {
                rename_noreplace(&place.dir, &place.name, &target, name).map_err(failed)?;
                place.remove_note();
                sync_placed(&target, to);
                OldEntry::Nothing
            }
            true => {
                self.check_replaceable(&target, to, name, loss)?;
                match exchange(&place.dir, &place.name, &target, name) {
                    ExchangeOutcome::Done => {
                        let stays = match is_allowed_loss(&place.dir, &place.name, loss) {
                            true => sync_directory(&target),
                            false => Err(DirectoryError::NotEmpty),
                        };
                        if let Err(error) = stays {
                            match exchange(&place.dir, &place.name, &target, name) {
                                ExchangeOutcome::Done => return Err(error),
                                _ => tracing::error!(path = %to, %error, "what was replaced could not be put back"),
                            }
                        }
                        OldEntry::Exchanged(place.clone())
                    }
                    ExchangeOutcome::Unsupported => {
                        let backup = self.set_aside(&target, to, name, loss)?;
                        if let Err(errno) = rename_noreplace(&place.dir, &place.name, &target, name) {
                            self.staging.restore(backup);
                            return Err(failed(errno));
                        }
                        place.remove_note();
                        sync_placed(&target, to);
                        OldEntry::SetAside(backup)
                    }
                    ExchangeOutcome::Failed(errno) => return Err(failed(errno)),
                }
            }
        };
        let replacement = Replacement {
            path: to.clone(),
            new: NewEntry { stamp, checksum },
            old,
        };
        Ok((WriteOutcome::new(replaced, stamp), replacement))
    }

    /// Sets aside what is to be replaced where the file system cannot exchange two names.
    pub(super) fn set_aside(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        name: &str,
        loss: Loss,
    ) -> Result<Backup, DirectoryError> {
        let backup = self.staging.set_aside(parent, path, name)?;
        match is_allowed_loss(&backup.dir, &backup.name, loss) {
            true => Ok(backup),
            false => {
                self.staging.restore(backup);
                Err(DirectoryError::NotEmpty)
            }
        }
    }

    /// Puts a collection or a link that was made aside in its place; the caller holds its lock.
    ///
    /// # Errors
    /// Where the path is taken and may not be lost; [`DirectoryError::NeedsRestaging`] where it has to be brought there first.
    pub fn place_entry(
        &self,
        entry: &mut StagedEntry,
        to: &TreePath,
        loss: Loss,
    ) -> Result<(WriteOutcome, Replacement), DirectoryError> {
        let place = entry.location().ok_or(DirectoryError::ChangedMeanwhile)?;
        let placed = self.replace_entry(place, entry.checksum(), to, loss)?;
        entry.placed();
        Ok(placed)
    }

    /// Puts a file in its place that has all of its attributes, whatever is there.
    ///
    /// # Errors
    /// As [`TreeWriter::place_entry`].
    pub fn place_file(
        &self,
        received: &mut ReceivedBody,
        to: &TreePath,
        loss: Loss,
    ) -> Result<(WriteOutcome, Replacement), DirectoryError> {
        let staged = &mut received.staged;
        let place = Trash {
            dir: staged.dir.clone(),
            name: staged.name.clone(),
            note: staged.note.clone(),
        };
        let placed = self.replace_entry(&place, None, to, loss)?;
        (staged.placed, staged.note) = (true, None);
        if let Ok(now) = stamp(&staged.file)
            && now.modified == received.modified
        {
            self.tags.insert(&now, received.digest);
        }
        Ok(placed)
    }

    /// Puts the copy of a file in its place: like a body that was put, and over a collection or a link too.
    ///
    /// # Errors
    /// As [`TreeWriter::put`] and [`TreeWriter::place_entry`].
    pub fn place_copy(
        &self,
        received: &mut ReceivedBody,
        to: &TreePath,
        loss: Loss,
        conditions: &Preconditions,
        preread: &PrereadDigest,
    ) -> Result<(WriteOutcome, Option<Trash>), DirectoryError> {
        let (target, name) = self.parent_and_name(to)?;
        match self.occupant(&target, name)? {
            Occupant::Collection(_) | Occupant::Link(_) if loss != Loss::Nothing => {
                let (done, replacement) = self.place_file(received, to, loss)?;
                Ok((done, self.commit_replacement(replacement)))
            }
            _ => Ok((self.put(to, received, conditions, preread)?, None)),
        }
    }

    /// The new thing stays. What had its name is named, to be discarded.
    pub fn commit_replacement(&self, replacement: Replacement) -> Option<Trash> {
        match replacement.old {
            OldEntry::Nothing => None,
            OldEntry::Exchanged(trash) => Some(trash),
            OldEntry::SetAside(backup) => Some(self.staging.backup_to_trash(backup)),
        }
    }

    /// The new thing is taken out again, unless its name is another's by now, and what it has displaced comes back; the caller
    /// holds the lock. What is to be discarded is named.
    pub fn roll_back(&self, replacement: Replacement) -> Option<Trash> {
        match self.remove_new_entry(&replacement) {
            Ok(Some(trash)) => {
                if let OldEntry::SetAside(backup) = replacement.old {
                    self.staging.restore(backup);
                }
                Some(trash)
            }
            Ok(None) => self.commit_replacement(replacement),
            Err(error) => {
                tracing::error!(path = %replacement.path, %error, "a move that failed could not be undone; what it has copied is there twice");
                self.commit_replacement(replacement)
            }
        }
    }

    fn remove_new_entry(&self, replacement: &Replacement) -> Result<Option<Trash>, DirectoryError> {
        let (target, name) = self.parent_and_name(&replacement.path)?;
        match statat(&target, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if replacement.new.is_same_entry(&stat) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(DirectoryError::from_errno("inspect a file")(errno)),
        }
        // Somebody may have written to it since it was there, and was told so: then it stays.
        let untouched = |dir: &OwnedFd, name: &str| replacement.new.is_untouched(dir, name);
        let trash = match &replacement.old {
            OldEntry::Exchanged(trash) => {
                exchange_back(trash, &target, name)?;
                if !untouched(&trash.dir, &trash.name) {
                    exchange_back(trash, &target, name)?;
                    return Ok(None);
                }
                trash.clone()
            }
            _ => {
                let backup = self.staging.set_aside(&target, &replacement.path, name)?;
                if !untouched(&backup.dir, &backup.name) {
                    self.staging.restore(backup);
                    return Ok(None);
                }
                self.staging.backup_to_trash(backup)
            }
        };
        sync_placed(&target, &replacement.path);
        Ok(Some(trash))
    }
}

/// Exchanges what lies aside with what has the name.
fn exchange_back(trash: &Trash, target: &OwnedFd, name: &str) -> Result<(), DirectoryError> {
    match exchange(&trash.dir, &trash.name, target, name) {
        ExchangeOutcome::Done => Ok(()),
        ExchangeOutcome::Unsupported => Err(DirectoryError::NeedsRestaging),
        ExchangeOutcome::Failed(errno) => Err(DirectoryError::from_errno("put a file back")(errno)),
    }
}

/// Writes a directory to the disk after a step that is not taken back any more.
fn sync_placed(target: &OwnedFd, path: &TreePath) {
    if let Err(error) = sync_directory(target) {
        tracing::warn!(%path, %error, "a change may be lost by a crash");
    }
}

/// Whether what was taken from its name is as little as may be lost. A look before that could be too early.
pub(super) fn is_allowed_loss(dir: &OwnedFd, name: &str, loss: Loss) -> bool {
    loss == Loss::Everything
        || match is_empty_collection(dir, name) {
            Ok(empty) => empty,
            // What is no collection has no members.
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
