//! The last step of a change: an entry gets a name, in one step where the file system has one for it.
//!
//! ```text
//! a name that must be new        RENAME_NOREPLACE; else a hard link; else a look and a rename
//! a name that was evaluated      RENAME_EXCHANGE and a look at what came out, exchanged back if it is another file;
//!                                else a look and a rename
//! a name that rename(2) cannot   EXDEV: the body is copied beside its place first, and renamed there
//! reach
//! ```
//!
//! Among our own clients the locks (`locks.rs`) make evaluation and change one step. These choices do the same against
//! programs that change the directory behind millpond's back: the first ones completely, the last ones but for the
//! time between two system calls. An exchange that is taken back shows the new bytes for an instant (decision 13).

use super::error::DirectoryError;
use super::staged_body::StagedBody;
use super::tree::{Stamp, stamp};
use rustix::fs::{AtFlags, RenameFlags, Stat, renameat, renameat_with, statat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// The outcome of a rename that can be tried again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RenameOutcome {
    /// The body has the name.
    Done,
    /// Another program has changed the name meanwhile.
    Disturbed,
    /// No rename(2) gets from the staged body to the name (`EXDEV`).
    NeedsRestaging,
}

/// Whether a file system answers so that does not know a flag of renameat2(2).
fn lacks_flag(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY)
}

/// Gives a body a name that no entry has.
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

/// The same on a file system without `RENAME_NOREPLACE`: link(2) does not replace either. The body's first name goes
/// as the body is dropped.
fn place_new_by_link(staged: &mut StagedBody, parent: &OwnedFd, name: &str) -> Result<RenameOutcome, DirectoryError> {
    match rustix::fs::linkat(&*staged.dir, &staged.name, parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(RenameOutcome::Done),
        Err(Errno::EXIST) => return Ok(RenameOutcome::Disturbed),
        // The file system knows no hard links either (rclone, s3fs, vboxsf, exFAT).
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

/// Gives a body the name of another file. With `evaluated`, only if that is the file which is replaced.
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
            // The replaced file lies under the body's name in staging now, and goes as the body is dropped.
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

/// The outcome of an exchange of two names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExchangeOutcome {
    Done,
    /// The file system does not know `RENAME_EXCHANGE`.
    Unsupported,
    Failed(Errno),
}

/// Exchanges the names of two entries in one step: neither is without a name when the machine dies.
pub(super) fn exchange(source: &OwnedFd, name: &str, target: &OwnedFd, new: &str) -> ExchangeOutcome {
    match renameat_with(source, name, target, new, RenameFlags::EXCHANGE) {
        Ok(()) => ExchangeOutcome::Done,
        Err(errno) if lacks_flag(errno) => ExchangeOutcome::Unsupported,
        Err(errno) => ExchangeOutcome::Failed(errno),
    }
}

/// Renames an entry to a name that no entry has.
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

/// Exchanges the body out again, because the file that came out is not the one that was evaluated. If another program has
/// replaced the body meanwhile, its file stays and the body is gone: nothing is left to try again with.
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

/// Whether two looks saw the same bytes of the same file. A rename changes the time of change alone, so that is not
/// compared.
pub(super) fn is_same_content(now: &Stat, then: &Stat) -> bool {
    let (now, then) = (Stamp::of(now), Stamp::of(then));
    (now.dev, now.ino, now.size, now.modified) == (then.dev, then.ino, then.size, then.modified)
}
