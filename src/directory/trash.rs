//! Entries that are not in the tree: put together and not placed yet, or taken out. And the removal of all beneath a
//! name.
//!
//! ```text
//! StagedEntry   put together, to be placed; removed if it never is
//! Backup        taken out, and may have to go back; a start puts it back where nothing else has its name (recovery.rs)
//! Trash         taken out for good, and yet to be removed
//! ```
//!
//! No path names any of them: they lie in `.millpond`, or beside their place under a reserved name with a note in
//! `.millpond` that says so. Trash is removed without a lock, after its request has been answered.

use super::collection_checksum::CollectionChecksum;
use super::error::DirectoryError;
use super::path::TreePath;
use super::tree::mount_id;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, openat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The start of the names of backups.
pub(super) const BACKUP_PREFIX: &str = "kept-";

/// The start of the names of notes.
pub(super) const NOTE_PREFIX: &str = "note-";

/// The longest note that is read, in bytes: a judgement, far above two paths of 8 KiB each, escaped.
const MAX_NOTE_BYTES: u64 = 1 << 20;

/// The directory and the name of a note, which tells where an entry lies.
pub(super) type NoteFile = (Arc<OwnedFd>, String);

/// An entry that was taken out of the tree for good.
#[derive(Debug, Clone)]
pub struct Trash {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    pub(super) note: Option<NoteFile>,
}

impl Trash {
    /// Removes the note that tells where this lies.
    pub(super) fn remove_note(&self) {
        if let Some(note) = &self.note {
            remove_note_file(note);
        }
    }
}

/// Removes a note that is not needed any more.
pub(super) fn remove_note_file((dir, note): &NoteFile) {
    let _ = unlinkat(&**dir, note, AtFlags::empty());
}

/// A note, read: where an entry lies, and the path that it is to go back to, if any.
pub(super) fn read_note(dir: &OwnedFd, note: &str) -> Option<(TreePath, Option<TreePath>)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, note, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file).take(MAX_NOTE_BYTES).read_to_string(&mut text).ok()?;
    let mut lines = text.lines().map(TreePath::parse);
    let lies_at = lines.next()?.ok()?;
    match lines.next() {
        None => Some((lies_at, None)),
        Some(home) => Some((lies_at, Some(home.ok()?))),
    }
}

/// A collection or a link that is put together in staging. Dropped before it was placed, it is removed.
#[derive(Debug)]
pub struct StagedEntry {
    location: Option<Trash>,
    /// The checksum of a collection's members, where a replacement may have to be rolled back.
    checksum: Option<CollectionChecksum>,
}

impl StagedEntry {
    pub(super) fn new(entry: Trash) -> Self {
        Self {
            location: Some(entry),
            checksum: None,
        }
    }

    /// Where it lies; `None` once it is placed.
    pub(super) fn location(&self) -> Option<&Trash> {
        self.location.as_ref()
    }

    pub(super) fn checksum(&self) -> Option<CollectionChecksum> {
        self.checksum
    }

    /// Notes the checksum of the finished collection.
    pub(super) fn set_checksum(&mut self, checksum: CollectionChecksum) {
        self.checksum = Some(checksum);
    }

    /// Leaves it to its place: a drop removes nothing now.
    pub(super) fn placed(&mut self) {
        self.location = None;
    }
}

impl Drop for StagedEntry {
    fn drop(&mut self) {
        if let Some(entry) = self.location.take() {
            // A collection may be large, and the thread that drops this may serve others.
            spawn_removal(move || discard(&entry));
        }
    }
}

/// An entry that was taken out of the tree and may have to go back. Nothing removes it before it becomes trash.
#[derive(Debug)]
pub struct Backup {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    pub(super) note: NoteFile,
    /// The collection that it was in.
    pub(super) home_dir: Arc<OwnedFd>,
    pub(super) home_name: String,
}

/// Removes something on a thread of its own. Without a thread it stays for the next start, which removes it.
pub(super) fn spawn_removal(remove: impl FnOnce() + Send + 'static) {
    let builder = std::thread::Builder::new().name("millpond-remove".to_owned());
    let _ = builder.spawn(remove);
}

/// Removes trash as far as that goes. The rest is tried again at the next start.
pub(super) fn discard(trash: &Trash) {
    match remove_recursively(&trash.dir, trash.name.as_str()) {
        Ok(()) => trash.remove_note(),
        Err(error) => {
            tracing::warn!(name = trash.name, %error, "not all of what was removed could be; the rest lies in .millpond");
        }
    }
}

/// Removes an entry with all beneath it. A link is removed, not its target; an entry that is gone already is no
/// error.
pub(super) fn remove_recursively(dir: &OwnedFd, name: impl Arg + Copy) -> Result<(), DirectoryError> {
    let failed = DirectoryError::from_errno("remove what is unfinished");
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // `EPERM` is what POSIX has of unlink(2) on a directory, `EISDIR` what Linux answers.
        Err(Errno::PERM | Errno::ISDIR) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty()).map_err(&failed)?;
    // A mount within it is not part of it.
    if mount_id(&inner)? != mount_id(dir)? {
        return Err(DirectoryError::Mounted);
    }
    // The rights of a directory may forbid even its owner to remove entries from it.
    let _ = fchmod(&inner, Mode::RWXU);
    let mut result = Ok(());
    for entry in Dir::read_from(&inner).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            // An entry that cannot be removed keeps none of the others.
            result = result.and(remove_recursively(&inner, entry.file_name()));
        }
    }
    result.and_then(|()| unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed))
}
