//! What is not in the tree: taken out of it, or not in it yet. A name where nobody looks, and the removal of all beneath it.
//!
//! ```text
//! Made    put together, to be placed; goes if it never is
//! Kept    taken out, and may have to go back; a start puts it back where nothing else has its name (removal.rs)
//! Gone    taken out for good, and yet to be discarded
//! ```

use super::collection_checksum::CollectionChecksum;
use super::error::DirectoryError;
use super::staging::mount_id;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, openat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Where a note lies that tells where something else does.
pub(super) type NoteFile = (Arc<OwnedFd>, String);

/// Something that was taken out of the tree for good.
#[derive(Debug, Clone)]
pub struct Trash {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    pub(super) note: Option<NoteFile>,
}

impl Trash {
    /// It has no longer the name that the note tells.
    pub(super) fn remove_note(&self) {
        if let Some(note) = &self.note {
            remove_note_file(note);
        }
    }
}

/// Removes a note, which has done its work.
pub(super) fn remove_note_file((dir, note): &NoteFile) {
    let _ = unlinkat(&**dir, note, AtFlags::empty());
}

/// A collection or a link that was put together aside. One that is not placed goes as it is dropped.
#[derive(Debug)]
pub struct StagedEntry {
    location: Option<Trash>,
    /// What a collection holds, where that may have to be known later.
    checksum: Option<CollectionChecksum>,
}

impl StagedEntry {
    pub(super) fn new(entry: Trash) -> Self {
        Self {
            location: Some(entry),
            checksum: None,
        }
    }

    /// Where it lies.
    pub(super) fn location(&self) -> Option<&Trash> {
        self.location.as_ref()
    }

    pub(super) fn checksum(&self) -> Option<CollectionChecksum> {
        self.checksum
    }

    /// It is put together.
    pub(super) fn set_checksum(&mut self, checksum: CollectionChecksum) {
        self.checksum = Some(checksum);
    }

    /// It lies there no more.
    pub(super) fn placed(&mut self) {
        self.location = None;
    }
}

impl Drop for StagedEntry {
    fn drop(&mut self) {
        if let Some(entry) = self.location.take() {
            // A collection may be large, and whoever drops this may serve others.
            let remove = move || discard(&entry);
            let _ = std::thread::Builder::new()
                .name("millpond-remove".to_owned())
                .spawn(remove);
        }
    }
}

/// A thing that was taken out of the tree and may have to go back: it is not removed before it is let go.
#[derive(Debug)]
pub struct Backup {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    pub(super) note: NoteFile,
    /// Where it was.
    pub(super) home_dir: Arc<OwnedFd>,
    pub(super) home_name: String,
}

/// Removes what was taken away, as far as it goes; the rest is tried again at the next start.
pub(super) fn discard(trash: &Trash) {
    match remove_recursively(&trash.dir, trash.name.as_str()) {
        Ok(()) => trash.remove_note(),
        Err(error) => {
            tracing::warn!(name = trash.name, %error, "not all of what was removed could be; the rest lies in .millpond");
        }
    }
}

/// Removes what is there, links themselves and not what they lead to; what is gone already is no error.
pub(super) fn remove_recursively(dir: &OwnedFd, name: impl Arg + Copy) -> Result<(), DirectoryError> {
    let failed = DirectoryError::from_errno("remove what is unfinished");
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // What POSIX says of a directory, and what Linux does.
        Err(Errno::PERM | Errno::ISDIR) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty()).map_err(&failed)?;
    // What is mounted in it is not part of it.
    if mount_id(&inner)? != mount_id(dir)? {
        return Err(DirectoryError::Mounted);
    }
    // A directory of ours may forbid even us to take things out of it.
    let _ = fchmod(&inner, Mode::RWXU);
    let mut result = Ok(());
    for entry in Dir::read_from(&inner).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            // One thing that cannot be removed keeps none of the others.
            result = result.and(remove_recursively(&inner, entry.file_name()));
        }
    }
    result.and_then(|()| unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed))
}
