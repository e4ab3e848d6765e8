//! Recovery: a start clears up what a crash has left in `.millpond`, before anything is written.
//!
//! ```text
//! put-, gone-           removed: bodies that were not whole, and trash
//! note-, one line       the entry that it names is removed, then the note
//! note-, two lines      the entry that it names goes back to its path, where nothing else has that;
//!                       else entry and note stay, and the log says so
//! kept-                 left to its note
//! upload-, root         stay: resumable uploads (uploads.rs) and the mark (root_identity.rs)
//! ```
//!
//! A note stays as long as it cannot be carried out, because the file system that it speaks of is not mounted, say:
//! the next start tries again. Every step can be repeated, so a crash during recovery changes nothing.

use super::atomic_rename::rename_noreplace;
use super::error::DirectoryError;
use super::path::{STAGED_PREFIX, TreePath};
use super::root_identity::MARK_FILE;
use super::staging::{Staging, UPLOAD_PREFIX};
use super::trash::{BACKUP_PREFIX, NOTE_PREFIX, Trash, discard, read_note, remove_recursively};
use rustix::fs::{AtFlags, Dir, statat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Staging {
    /// Removes what a crash has left in staging, and puts back what it has left without its name.
    pub(super) fn recover(&self) -> Result<(), DirectoryError> {
        let failed = DirectoryError::from_errno("clean .millpond in the directory");
        let dir = self.dir()?;
        for entry in Dir::read_from(&dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stays = name == "." || name == ".." || name == MARK_FILE || name.starts_with(UPLOAD_PREFIX);
            // Backups are handled by their notes.
            if stays
                || name.starts_with(BACKUP_PREFIX)
                || (name.starts_with(NOTE_PREFIX) && !self.apply_note(&dir, &name))
            {
                continue;
            }
            let (dir, note) = (Arc::clone(&dir), None);
            discard(&Trash { dir, name, note });
        }
        Ok(())
    }

    /// Does what a note asks for; whether the note can go.
    fn apply_note(&self, dir: &OwnedFd, note: &str) -> bool {
        // An incomplete note is of a rename that never happened: the rename comes after the sync of the note.
        let Some((lies_at, home)) = read_note(dir, note) else {
            return true;
        };
        let Some(name) = lies_at
            .name()
            .filter(|name| name.starts_with(STAGED_PREFIX) || name.starts_with(BACKUP_PREFIX))
        else {
            return true;
        };
        let Ok(place) = self.tree().open_for_writing(&lies_at.parent()) else {
            // The collection that the entry lay in is gone, or on a file system that is not mounted yet.
            return home.is_none();
        };
        match home {
            None => remove_recursively(&place, name).is_ok(),
            Some(home) => self.restore_home(&place, name, &lies_at, &home),
        }
    }

    fn restore_home(&self, place: &OwnedFd, name: &str, lies_at: &TreePath, home: &TreePath) -> bool {
        let parent = self.tree().open_for_writing(&home.parent());
        if matches!(statat(place, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
            // The entry is at its path already, or the file system that it lies on is not mounted yet.
            let at_home =
                |own: &str| matches!(&parent, Ok(parent) if statat(parent, own, AtFlags::SYMLINK_NOFOLLOW).is_ok());
            return home.name().is_none_or(at_home);
        }
        let back = match (parent, home.name()) {
            (Ok(parent), Some(own)) => {
                rename_noreplace(place, name, &parent, own).map_err(DirectoryError::from_errno("put it back"))
            }
            (Err(error), _) => Err(error),
            (_, None) => Err(DirectoryError::Root),
        };
        match back {
            Ok(()) => {
                tracing::warn!(path = %home, "what was being replaced when the server stopped is back at its path");
                true
            }
            Err(error) => {
                tracing::warn!(path = %home, %lies_at, %error, "what was replaced when the server stopped is kept: move it where it belongs, or remove it");
                false
            }
        }
    }
}
