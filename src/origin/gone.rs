//! What was taken out of the tree, or is not in it yet: a name where nobody looks, and the removal of all beneath it.

use super::error::OriginError;
use super::staging::mount_of;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, openat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Something that was taken out of the tree, or is not in it yet.
#[derive(Debug, Clone)]
pub struct Gone {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    pub(super) note: Option<(Arc<OwnedFd>, String)>,
}

impl Gone {
    /// It has no longer the name that the note tells.
    pub(super) fn forget_note(&self) {
        if let Some((dir, note)) = &self.note {
            let _ = unlinkat(&**dir, note, AtFlags::empty());
        }
    }
}

/// Removes what is there, links themselves and not what they lead to; what is gone already is no error.
pub(super) fn remove_all(dir: &OwnedFd, name: impl Arg + Copy) -> Result<(), OriginError> {
    let failed = OriginError::met("remove what is unfinished");
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // What POSIX says of a directory, and what Linux does.
        Err(Errno::PERM | Errno::ISDIR) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty()).map_err(&failed)?;
    // What is mounted in it is not part of it.
    if mount_of(&inner)? != mount_of(dir)? {
        return Err(OriginError::Mounted);
    }
    // A directory of ours may forbid even us to take things out of it.
    let _ = fchmod(&inner, Mode::RWXU);
    let mut kept = Ok(());
    for entry in Dir::read_from(&inner).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            // One thing that cannot be removed keeps none of the others.
            kept = kept.and(remove_all(&inner, entry.file_name()));
        }
    }
    kept.and_then(|()| unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed))
}
