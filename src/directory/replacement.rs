//! Replacement: a name goes from an old entry to a new one, and back again where the rest of a change fails.
//!
//! ```text
//! no entry has the name              RENAME_NOREPLACE
//! the file system exchanges names    RENAME_EXCHANGE: the old entry lies where the new one was staged
//! it does not                        the old entry is set aside (removal.rs) between two renames
//! ```
//!
//! ```text
//! staged ──► replace_entry ──► commit_replacement: the old entry is trash
//!                        └───► roll_back: the new entry is taken out, compared with what was placed, and the old one
//!                              gets its name back; if a client has written to the new entry meanwhile, it stays
//! ```
//!
//! A MOVE to another file system is two changes, a copy here and a removal there, each under its own lock, so the
//! first must be able to be taken back when the second fails. Whether an old collection may be lost is asked after it
//! has left its name: before that, members could still come.

use super::atomic_rename::{ExchangeOutcome, exchange, rename_noreplace};
use super::collection_checksum::CollectionChecksum;
use super::digest_cache::PrereadDigest;
use super::error::DirectoryError;
use super::path::TreePath;
use super::staging::{ReceivedBody, sync_directory};
use super::trash::{Backup, StagedEntry, Trash};
use super::tree::{Stamp, stamp};
use super::tree_writer::{Loss, Occupant, TreeWriter, WriteOutcome, is_allowed_loss};
use crate::header::Preconditions;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A replacement that was made and not committed yet: a new entry has the name of an old one. A crash leaves it committed:
/// a start removes the old entry, or keeps it where it is a backup.
#[derive(Debug)]
pub struct Replacement {
    path: TreePath,
    new: NewEntry,
    old: OldEntry,
}

/// The new entry, as it was when it was placed.
#[derive(Debug, Clone, Copy)]
struct NewEntry {
    stamp: Stamp,
    /// The checksum of a collection's members.
    checksum: Option<CollectionChecksum>,
}

impl NewEntry {
    /// Whether this is the new entry. Its name and its rights do not matter.
    fn is_same_entry(&self, stat: &Stat) -> bool {
        let (now, then) = (Stamp::of(stat), self.stamp);
        let same = (now.dev, now.ino) == (then.dev, then.ino);
        // The times of a collection change with its members, which are compared by their checksum.
        same && (self.checksum.is_some() || (now.size, now.modified) == (then.size, then.modified))
    }

    /// Whether the new entry holds what it held when it was placed. Asked once no path leads to it, so the answer
    /// stays true.
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
    /// The old entry lies where the new one was staged.
    Exchanged(Trash),
    SetAside(Backup),
}

impl TreeWriter {
    /// Gives the staged entry at `place` the path `to`. The caller holds that path's lock.
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
            // Another program has taken the name, or removed the entry.
            Errno::EXIST | Errno::NOENT => DirectoryError::ChangedMeanwhile,
            errno => failed(errno),
        };
        let there = self.occupant(&target, name)?;
        let replaced = there.check_loss(loss)?;
        let stat = statat(&*place.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW);
        let stamp = Stamp::of(&stat.map_err(DirectoryError::from_errno("inspect a copy"))?);
        // From the first step that cannot be taken back, no error may hide what was done: a failed sync is logged.
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

    /// Sets the entry aside that is to be replaced, where the file system cannot exchange two names.
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

    /// Places a staged collection or link; the caller holds the path's lock.
    ///
    /// # Errors
    /// Where the path is taken and its entry may not be lost; [`DirectoryError::NeedsRestaging`] where it has to be
    /// staged beside its place first.
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

    /// Places a file whose attributes are complete, whatever entry is there; the caller holds the path's lock.
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

    /// Places the copy of a file: like the body of a PUT over a file, and by replacement over a collection or a link.
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

    /// The new entry stays. The old one is returned as trash, to be discarded.
    pub fn commit_replacement(&self, replacement: Replacement) -> Option<Trash> {
        match replacement.old {
            OldEntry::Nothing => None,
            OldEntry::Exchanged(trash) => Some(trash),
            OldEntry::SetAside(backup) => Some(self.staging.backup_to_trash(backup)),
        }
    }

    /// Takes the new entry out again and gives the old one its name back, unless the name has another entry by now,
    /// or the new one was written to; the caller holds the lock. What is left over is returned as trash, to be
    /// discarded.
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
        // A client may have written to the new entry since it was placed, and was told that it did: then the new
        // entry stays.
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

/// Exchanges the entry in trash with the one that has the name.
fn exchange_back(trash: &Trash, target: &OwnedFd, name: &str) -> Result<(), DirectoryError> {
    match exchange(&trash.dir, &trash.name, target, name) {
        ExchangeOutcome::Done => Ok(()),
        ExchangeOutcome::Unsupported => Err(DirectoryError::NeedsRestaging),
        ExchangeOutcome::Failed(errno) => Err(DirectoryError::from_errno("put a file back")(errno)),
    }
}

/// Syncs a directory after a step that is not taken back any more.
fn sync_placed(target: &OwnedFd, path: &TreePath) {
    if let Err(error) = sync_directory(target) {
        tracing::warn!(%path, %error, "a change may be lost by a crash");
    }
}
