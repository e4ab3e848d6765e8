//! Replacing: a name goes from one thing to another, and back again where the rest of a change fails.
//!
//! ```text
//! nothing has the name               RENAME_NOREPLACE
//! the file system exchanges names    RENAME_EXCHANGE: what was there lies where the new thing lay
//! it does not                        what was there is set aside (aside.rs) between two renames
//! ```
//!
//! A MOVE to another file system is two changes, a copy here and a removal there, each under its own lock. If the removal is not
//! to be had, the copy is taken out again and what it has replaced comes back ([`Changes::undo`]).

use super::census::Census;
use super::change::{Changes, Done, Loss, Occupant};
use super::error::OriginError;
use super::evaluation::Evidence;
use super::gone::{Gone, Kept, Made};
use super::path::TreePath;
use super::placing::{Exchanged, exchange, rename_new};
use super::staging::{Arrived, sync};
use super::tree::{Stamp, stamp};
use crate::header::Preconditions;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A thing whose name something else has now. It is settled or undone; a start settles it.
#[derive(Debug)]
pub struct Displaced {
    path: TreePath,
    new: New,
    old: Old,
}

/// The thing that has the name now, as it was when it was placed.
#[derive(Debug, Clone, Copy)]
struct New {
    stamp: Stamp,
    /// What a collection holds.
    census: Option<Census>,
}

impl New {
    /// Whether it is the thing that has this state; its name and its rights do not matter.
    fn is(&self, stat: &Stat) -> bool {
        let (now, then) = (Stamp::of(stat), self.stamp);
        let same = (now.dev, now.ino) == (then.dev, then.ino);
        // A collection's own times change with what is in it, which is counted.
        same && (self.census.is_some() || (now.size, now.modified) == (then.size, then.modified))
    }

    /// Whether it holds what it held, once it is where nobody gets at it by its path.
    fn is_untouched(&self, dir: &OwnedFd, name: &str) -> bool {
        let Some(census) = self.census else {
            return statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| self.is(&stat));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(dir, name, flags, Mode::empty()).map_err(OriginError::met("open a directory"));
        opened
            .and_then(|collection| Census::of(&collection))
            .is_ok_and(|now| now == census)
    }
}

#[derive(Debug)]
enum Old {
    Nothing,
    /// It lies where the new thing lay.
    Exchanged(Gone),
    Aside(Kept),
}

impl Changes {
    /// Gives what lies at `place` the path `to`; the caller holds its lock.
    fn supplant(
        &self,
        place: &Gone,
        census: Option<Census>,
        to: &TreePath,
        loss: Loss,
    ) -> Result<(Done, Displaced), OriginError> {
        let (target, name) = self.place(to)?;
        let failed = OriginError::met("put something in its place");
        let failed = |errno| match errno {
            Errno::XDEV => OriginError::OutOfReach,
            // Somebody else was there first, or has taken it away.
            Errno::EXIST | Errno::NOENT => OriginError::Changing,
            errno => failed(errno),
        };
        let there = self.occupant(&target, name)?;
        let replaced = there.may_be_lost(loss)?;
        let stat = statat(&*place.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW);
        let stamp = Stamp::of(&stat.map_err(OriginError::met("inspect a copy"))?);
        // Nothing may fail between a step that cannot be taken back and the answer that tells of it.
        let old = match replaced {
            false => {
                rename_new(&place.dir, &place.name, &target, name).map_err(failed)?;
                place.forget_note();
                sync_placed(&target, to);
                Old::Nothing
            }
            true => {
                self.may_make_room(&target, to, name, loss)?;
                match exchange(&place.dir, &place.name, &target, name) {
                    Exchanged::Done => {
                        let stays = match may_be_discarded(&place.dir, &place.name, loss) {
                            true => sync(&target),
                            false => Err(OriginError::NotEmpty),
                        };
                        if let Err(error) = stays {
                            match exchange(&place.dir, &place.name, &target, name) {
                                Exchanged::Done => return Err(error),
                                _ => tracing::error!(path = %to, %error, "what was replaced could not be put back"),
                            }
                        }
                        Old::Exchanged(place.clone())
                    }
                    Exchanged::Unknown => {
                        let kept = self.set_aside(&target, to, name, loss)?;
                        if let Err(errno) = rename_new(&place.dir, &place.name, &target, name) {
                            self.staging.give_back(kept);
                            return Err(failed(errno));
                        }
                        place.forget_note();
                        sync_placed(&target, to);
                        Old::Aside(kept)
                    }
                    Exchanged::Failed(errno) => return Err(failed(errno)),
                }
            }
        };
        let displaced = Displaced {
            path: to.clone(),
            new: New { stamp, census },
            old,
        };
        Ok((Done::new(replaced, stamp), displaced))
    }

    /// Sets aside what is to be replaced where the file system cannot exchange two names.
    pub(super) fn set_aside(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        name: &str,
        loss: Loss,
    ) -> Result<Kept, OriginError> {
        let kept = self.staging.set_aside(parent, path, name)?;
        match may_be_discarded(&kept.dir, &kept.name, loss) {
            true => Ok(kept),
            false => {
                self.staging.give_back(kept);
                Err(OriginError::NotEmpty)
            }
        }
    }

    /// Puts a collection or a link that was made aside in its place; the caller holds its lock.
    ///
    /// # Errors
    /// Where the path is taken and may not be lost; [`OriginError::OutOfReach`] where it has to be brought there first.
    pub fn place_made(&self, made: &mut Made, to: &TreePath, loss: Loss) -> Result<(Done, Displaced), OriginError> {
        let place = made.place().ok_or(OriginError::Changing)?;
        let placed = self.supplant(place, made.census(), to, loss)?;
        made.placed();
        Ok(placed)
    }

    /// Puts a file in its place that has all of its attributes, whatever is there.
    ///
    /// # Errors
    /// As [`Changes::place_made`].
    pub fn place_file(
        &self,
        arrived: &mut Arrived,
        to: &TreePath,
        loss: Loss,
    ) -> Result<(Done, Displaced), OriginError> {
        let staged = &mut arrived.staged;
        let place = Gone {
            dir: staged.dir.clone(),
            name: staged.name.clone(),
            note: staged.note.clone(),
        };
        let placed = self.supplant(&place, None, to, loss)?;
        (staged.placed, staged.note) = (true, None);
        if let Ok(now) = stamp(&staged.file)
            && now.modified == arrived.modified
        {
            self.tags.insert(&now, arrived.digest);
        }
        Ok(placed)
    }

    /// Puts the copy of a file in its place: like a body that was put, and over a collection or a link too.
    ///
    /// # Errors
    /// As [`Changes::put`] and [`Changes::place_made`].
    pub fn place_copy(
        &self,
        arrived: &mut Arrived,
        to: &TreePath,
        loss: Loss,
        conditions: &Preconditions,
        evidence: &Evidence,
    ) -> Result<(Done, Option<Gone>), OriginError> {
        let (target, name) = self.place(to)?;
        match self.occupant(&target, name)? {
            Occupant::Collection(_) | Occupant::Link(_) if loss != Loss::Nothing => {
                let (done, displaced) = self.place_file(arrived, to, loss)?;
                Ok((done, self.settle(displaced)))
            }
            _ => Ok((self.put(to, arrived, conditions, evidence)?, None)),
        }
    }

    /// The new thing stays. What had its name is named, to be discarded.
    pub fn settle(&self, displaced: Displaced) -> Option<Gone> {
        match displaced.old {
            Old::Nothing => None,
            Old::Exchanged(gone) => Some(gone),
            Old::Aside(kept) => Some(self.staging.let_go(kept)),
        }
    }

    /// The new thing is taken out again, unless its name is another's by now, and what it has displaced comes back; the caller
    /// holds the lock. What is to be discarded is named.
    pub fn undo(&self, displaced: Displaced) -> Option<Gone> {
        match self.taken_out(&displaced) {
            Ok(Some(gone)) => {
                if let Old::Aside(kept) = displaced.old {
                    self.staging.give_back(kept);
                }
                Some(gone)
            }
            Ok(None) => self.settle(displaced),
            Err(error) => {
                tracing::error!(path = %displaced.path, %error, "a move that failed could not be undone; what it has copied is there twice");
                self.settle(displaced)
            }
        }
    }

    fn taken_out(&self, displaced: &Displaced) -> Result<Option<Gone>, OriginError> {
        let (target, name) = self.place(&displaced.path)?;
        match statat(&target, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if displaced.new.is(&stat) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(OriginError::met("inspect a file")(errno)),
        }
        // Somebody may have written to it since it was there, and was told so: then it stays.
        let untouched = |dir: &OwnedFd, name: &str| displaced.new.is_untouched(dir, name);
        let gone = match &displaced.old {
            Old::Exchanged(gone) => {
                swap(gone, &target, name)?;
                if !untouched(&gone.dir, &gone.name) {
                    swap(gone, &target, name)?;
                    return Ok(None);
                }
                gone.clone()
            }
            _ => {
                let kept = self.staging.set_aside(&target, &displaced.path, name)?;
                if !untouched(&kept.dir, &kept.name) {
                    self.staging.give_back(kept);
                    return Ok(None);
                }
                self.staging.let_go(kept)
            }
        };
        sync_placed(&target, &displaced.path);
        Ok(Some(gone))
    }
}

/// Exchanges what lies aside with what has the name.
fn swap(gone: &Gone, target: &OwnedFd, name: &str) -> Result<(), OriginError> {
    match exchange(&gone.dir, &gone.name, target, name) {
        Exchanged::Done => Ok(()),
        Exchanged::Unknown => Err(OriginError::OutOfReach),
        Exchanged::Failed(errno) => Err(OriginError::met("put a file back")(errno)),
    }
}

/// Writes a directory to the disk after a step that is not taken back any more.
fn sync_placed(target: &OwnedFd, path: &TreePath) {
    if let Err(error) = sync(target) {
        tracing::warn!(%path, %error, "a change may be lost by a crash");
    }
}

/// Whether what was taken from its name is as little as may be lost. A look before that could be too early.
pub(super) fn may_be_discarded(dir: &OwnedFd, name: &str, loss: Loss) -> bool {
    loss == Loss::Everything
        || match is_empty(dir, name) {
            Ok(empty) => empty,
            // What is no collection has no members.
            Err(OriginError::Absent) => true,
            Err(_) => false,
        }
}

/// Whether a collection has no members.
pub(super) fn is_empty(parent: &OwnedFd, name: &str) -> Result<bool, OriginError> {
    let failed = OriginError::met("read a directory");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(parent, name, flags, Mode::empty()).map_err(&failed)?;
    for entry in Dir::read_from(&inner).map_err(&failed)? {
        if !matches!(entry.map_err(&failed)?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
