//! The last step of a change: a name becomes another file's, with what the file system offers for it.
//!
//! ```text
//! a name that must be new       RENAME_NOREPLACE, else a hard link, else a look and a rename
//! a name that was evaluated     RENAME_EXCHANGE and a look at what came out, else a look and a rename
//! a name that rename(2) cannot  the body is copied beside its place, and renamed there
//! reach (EXDEV)
//! ```
//!
//! The first choice is one step also against programs that change the directory behind millpond's back; the last ones leave them
//! the time between two system calls.

use super::error::DirectoryError;
use super::staging::StagedBody;
use super::tree::{Stamp, stamp};
use rustix::fs::{AtFlags, RenameFlags, Stat, renameat, renameat_with, statat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// How a step went that can be tried again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RenameOutcome {
    /// The body has the name.
    Done,
    /// Somebody else has changed the name meanwhile.
    Disturbed,
    /// The body lies where no rename gets it from.
    NeedsRestaging,
}

/// What a file system answers that does not know a flag of renameat2(2).
fn lacks_flag(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY)
}

/// Gives a body a name that nobody has.
pub(super) fn place_new(
    staged: &mut StagedBody,
    parent: &OwnedFd,
    name: &str,
) -> Result<RenameOutcome, DirectoryError> {
    let failed = DirectoryError::from_errno("put a file in its place");
    match renameat_with(&*staged.dir, &staged.name, parent, name, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(RenameOutcome::Disturbed),
        Err(Errno::XDEV) => return Ok(RenameOutcome::NeedsRestaging),
        Err(Errno::NOENT) => return Err(DirectoryError::NoParent),
        Err(errno) if lacks_flag(errno) => return place_new_by_link(staged, parent, name),
        Err(errno) => return Err(failed(errno)),
    }
    staged.placed = true;
    Ok(RenameOutcome::Done)
}

/// The same on a file system without the flag. A second name for the body is never in anybody's place either; the first goes
/// as the body is dropped.
fn place_new_by_link(staged: &mut StagedBody, parent: &OwnedFd, name: &str) -> Result<RenameOutcome, DirectoryError> {
    match rustix::fs::linkat(&*staged.dir, &staged.name, parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(RenameOutcome::Done),
        Err(Errno::EXIST) => return Ok(RenameOutcome::Disturbed),
        // Neither does it know links (rclone, s3fs, vboxsf, exFAT).
        Err(_) => {}
    }
    let failed = DirectoryError::from_errno("put a file in its place");
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        Ok(_) => return Ok(RenameOutcome::Disturbed),
        Err(errno) => return Err(failed(errno)),
    }
    rename_staged(staged, parent, name)
}

fn rename_staged(staged: &mut StagedBody, parent: &OwnedFd, name: &str) -> Result<RenameOutcome, DirectoryError> {
    match renameat(&*staged.dir, &staged.name, parent, name) {
        Ok(()) => {
            staged.placed = true;
            Ok(RenameOutcome::Done)
        }
        Err(Errno::XDEV) => Ok(RenameOutcome::NeedsRestaging),
        Err(errno) => Err(DirectoryError::from_errno("put a file in its place")(errno)),
    }
}

/// Puts a body in the place of another; where `evaluated` is named, only if that is what it replaces.
pub(super) fn replace(
    staged: &mut StagedBody,
    parent: &OwnedFd,
    name: &str,
    evaluated: Option<&Stat>,
) -> Result<RenameOutcome, DirectoryError> {
    let failed = DirectoryError::from_errno("put a file in its place");
    let Some(evaluated) = evaluated else {
        return rename_staged(staged, parent, name);
    };
    match renameat_with(&*staged.dir, &staged.name, parent, name, RenameFlags::EXCHANGE) {
        Ok(()) => {
            // What was there now lies where the body lay, and goes as that is dropped.
            let old = statat(&*staged.dir, &staged.name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
            if is_same_content(&old, evaluated) {
                return Ok(RenameOutcome::Done);
            }
            put_back(staged, parent, name)?;
            return Ok(RenameOutcome::Disturbed);
        }
        Err(Errno::NOENT) => return Ok(RenameOutcome::Disturbed),
        Err(Errno::XDEV) => return Ok(RenameOutcome::NeedsRestaging),
        Err(errno) if lacks_flag(errno) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let now = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    match is_same_content(&now, evaluated) {
        true => rename_staged(staged, parent, name),
        false => Ok(RenameOutcome::Disturbed),
    }
}

/// How an exchange of two names went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExchangeOutcome {
    Done,
    /// The file system does not know it.
    Unsupported,
    Failed(Errno),
}

/// Gives two things each other's names in one step, so that neither is without one when the machine dies.
pub(super) fn exchange(source: &OwnedFd, name: &str, target: &OwnedFd, new: &str) -> ExchangeOutcome {
    match renameat_with(source, name, target, new, RenameFlags::EXCHANGE) {
        Ok(()) => ExchangeOutcome::Done,
        Err(errno) if lacks_flag(errno) => ExchangeOutcome::Unsupported,
        Err(errno) => ExchangeOutcome::Failed(errno),
    }
}

/// Moves what has a name to a name that nobody has.
pub(super) fn rename_noreplace(source: &OwnedFd, name: &str, target: &OwnedFd, new: &str) -> rustix::io::Result<()> {
    match renameat_with(source, name, target, new, RenameFlags::NOREPLACE) {
        Err(errno) if lacks_flag(errno) => match statat(target, new, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(source, name, target, new),
            Ok(_) => Err(Errno::EXIST),
            Err(errno) => Err(errno),
        },
        renamed => renamed,
    }
}

/// Exchanges our own body out again. Where somebody has replaced it meanwhile, what is newest stays, and our body is theirs:
/// then there is nothing left to try with.
fn put_back(staged: &StagedBody, parent: &OwnedFd, name: &str) -> Result<(), DirectoryError> {
    let failed = DirectoryError::from_errno("put a file back");
    let exchange = || renameat_with(&*staged.dir, &staged.name, parent, name, RenameFlags::EXCHANGE).map_err(&failed);
    exchange()?;
    let out = statat(&*staged.dir, &staged.name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
    if Stamp::of(&out).ino == stamp(&staged.file)?.ino {
        return Ok(());
    }
    exchange()?;
    Err(DirectoryError::ChangedMeanwhile)
}

/// Whether two looks saw the same bytes of the same file; a change of its name is no change of these.
pub(super) fn is_same_content(now: &Stat, then: &Stat) -> bool {
    let (now, then) = (Stamp::of(now), Stamp::of(then));
    (now.dev, now.ino, now.size, now.modified) == (then.dev, then.ino, then.size, then.modified)
}
