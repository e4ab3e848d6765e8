//! What is not in the tree: taken out of it, or not in it yet. A name where nobody looks, and the removal of all beneath it.
//!
//! ```text
//! Made    put together, to be placed; goes if it never is
//! Kept    taken out, and may have to go back; a start puts it back where nothing else has its name (aside.rs)
//! Gone    taken out for good, and yet to be discarded
//! ```

use super::census::Census;
use super::error::OriginError;
use super::staging::mount_of;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, openat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Where a note lies that tells where something else does.
pub(super) type Note = (Arc<OwnedFd>, String);

/// Something that was taken out of the tree for good.
#[derive(Debug, Clone)]
pub struct Gone {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    pub(super) note: Option<Note>,
}

impl Gone {
    /// It has no longer the name that the note tells.
    pub(super) fn forget_note(&self) {
        if let Some(note) = &self.note {
            forget(note);
        }
    }
}

/// Removes a note, which has done its work.
pub(super) fn forget((dir, note): &Note) {
    let _ = unlinkat(&**dir, note, AtFlags::empty());
}

/// A collection or a link that was put together aside. One that is not placed goes as it is dropped.
#[derive(Debug)]
pub struct Made {
    place: Option<Gone>,
    /// What a collection holds, where that may have to be known later.
    census: Option<Census>,
}

impl Made {
    pub(super) fn new(made: Gone) -> Self {
        Self {
            place: Some(made),
            census: None,
        }
    }

    /// Where it lies.
    pub(super) fn place(&self) -> Option<&Gone> {
        self.place.as_ref()
    }

    pub(super) fn census(&self) -> Option<Census> {
        self.census
    }

    /// It is put together.
    pub(super) fn counted(&mut self, census: Census) {
        self.census = Some(census);
    }

    /// It lies there no more.
    pub(super) fn placed(&mut self) {
        self.place = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(made) = self.place.take() {
            // A collection may be large, and whoever drops this may serve others.
            let remove = move || discard(&made);
            let _ = std::thread::Builder::new()
                .name("millpond-remove".to_owned())
                .spawn(remove);
        }
    }
}

/// A thing that was taken out of the tree and may have to go back: it is not removed before it is let go.
#[derive(Debug)]
pub struct Kept {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    pub(super) note: Note,
    /// Where it was.
    pub(super) home: Arc<OwnedFd>,
    pub(super) own: String,
}

/// Removes what was taken away, as far as it goes; the rest is tried again at the next start.
pub(super) fn discard(gone: &Gone) {
    match remove_all(&gone.dir, gone.name.as_str()) {
        Ok(()) => gone.forget_note(),
        Err(error) => {
            tracing::warn!(name = gone.name, %error, "not all of what was removed could be; the rest lies in .millpond");
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
