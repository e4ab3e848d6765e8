//! Entries taken out of the tree, for good or so that they can go back, and the notes by which a start finds them.
//!
//! ```text
//! .millpond/gone-<random>   trash
//! .millpond/kept-<random>   a backup: MOVE or COPY replaces it, or is about to remove it
//! .millpond/note-<random>   one line: where trash lies that had to stay beside its place;
//!                           two lines: where a backup lies, and the path that it had
//! ```
//!
//! The order is always: the note, synced; the rename. Without a note no start would find an entry beside its place,
//! nor know where a backup belongs. A rename to `.millpond` is tried first; where it would cross file systems the
//! entry stays beside its place, under a reserved name.
//!
//! Backups are taken only where the file system cannot exchange two names, or a collection is removed after a MOVE to
//! another file system: then an entry is without its name between two renames, and a crash in between must not lose
//! it.

use super::atomic_rename::rename_noreplace;
use super::error::DirectoryError;
use super::path::{STAGED_PREFIX, STAGING_DIR, TreePath};
use super::random_name::random_name;
use super::staged_body::create_staged_file;
use super::staging::{Staging, sync_directory};
use super::trash::{BACKUP_PREFIX, Backup, NOTE_PREFIX, Trash, discard, read_note, remove_note_file};
use rustix::fs::renameat;
use rustix::io::Errno;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Staging {
    /// Takes an entry out of the tree for good. No path leads to it any more; [`Staging::discard`] removes it.
    pub(super) fn move_to_trash(
        &self,
        parent: &OwnedFd,
        collection: &TreePath,
        name: &str,
    ) -> Result<Trash, DirectoryError> {
        let dir = self.dir()?;
        let trash = format!("gone-{}", random_name());
        // Into `.millpond` where that is one rename: what lies there needs no note.
        match renameat(parent, name, &dir, &trash) {
            Ok(()) => {
                let (name, note) = (trash, None);
                return Ok(Trash { dir, name, note });
            }
            Err(Errno::XDEV) => {}
            Err(errno) => return Err(not_moved(errno)),
        }
        let trash = format!("{STAGED_PREFIX}{}", random_name());
        let note = Some((
            Arc::clone(&dir),
            self.write_note(&dir, &collection.child(&trash), None)?,
        ));
        let taken = Trash {
            dir: own_handle(parent)?,
            name: trash,
            note,
        };
        match renameat(parent, name, parent, &taken.name) {
            Ok(()) => Ok(taken),
            Err(errno) => {
                taken.remove_note();
                Err(not_moved(errno))
            }
        }
    }

    /// Takes an entry out of the tree that may have to go back. The note is on the disk before the rename, so a start after
    /// a crash finds the entry and puts it back.
    pub(super) fn set_aside(&self, parent: &OwnedFd, path: &TreePath, name: &str) -> Result<Backup, DirectoryError> {
        let dir = self.dir()?;
        let home = own_handle(parent)?;
        let collection = path.parent();
        let places = [
            (Arc::clone(&dir), BACKUP_PREFIX, TreePath::root().child(STAGING_DIR)),
            (Arc::clone(&home), STAGED_PREFIX, collection),
        ];
        for (place, prefix, above) in places {
            let backup = format!("{prefix}{}", random_name());
            let note = (
                Arc::clone(&dir),
                self.write_note(&dir, &above.child(&backup), Some(path))?,
            );
            match renameat(parent, name, &place, &backup) {
                Ok(()) => {
                    return Ok(Backup {
                        dir: place,
                        name: backup,
                        note,
                        home_dir: home,
                        home_name: name.to_owned(),
                    });
                }
                Err(Errno::XDEV) => remove_note_file(&note),
                Err(errno) => {
                    remove_note_file(&note);
                    return Err(not_moved(errno));
                }
            }
        }
        Err(DirectoryError::CrossDevice)
    }

    /// Puts a backup back; whether it has its name again.
    pub(super) fn restore(&self, backup: Backup) -> bool {
        match rename_noreplace(&backup.dir, &backup.name, &backup.home_dir, &backup.home_name) {
            Ok(()) => {
                let _ = sync_directory(&backup.home_dir);
                remove_note_file(&backup.note);
                true
            }
            Err(errno) => {
                tracing::error!(name = backup.home_name, lies_at = backup.name, %errno, "what was to be replaced could not be put back; it is kept, and the next start tries again");
                false
            }
        }
    }

    /// Gives a backup up: it will not go back. Its name or its note must say so first, or a start would restore it.
    pub(super) fn backup_to_trash(&self, backup: Backup) -> Trash {
        let (dir, _) = &backup.note;
        let renamed = format!("gone-{}", random_name());
        if backup.name.starts_with(BACKUP_PREFIX)
            && renameat(&*backup.dir, &backup.name, &*backup.dir, &renamed).is_ok()
        {
            remove_note_file(&backup.note);
            return Trash {
                dir: backup.dir,
                name: renamed,
                note: None,
            };
        }
        // A backup beside its place keeps its name, and gets a note without the path to go back to.
        let path = read_note(dir, &backup.note.1).map(|(path, _)| path);
        let note = match path.map(|path| self.write_note(dir, &path, None)) {
            Some(Ok(note)) => {
                remove_note_file(&backup.note);
                (Arc::clone(dir), note)
            }
            _ => backup.note,
        };
        Trash {
            dir: backup.dir,
            name: backup.name,
            note: Some(note),
        }
    }

    /// Removes trash as far as that goes. The rest is tried again at the next start.
    pub fn discard(&self, trash: &Trash) {
        discard(trash);
    }

    /// Writes a note of where an entry will lie, and of the path that it is to go back to, if any. Returns when the note is
    /// on the disk: a crash between note and rename leaves a note of nothing, never an entry without a note.
    pub(super) fn write_note(
        &self,
        dir: &Arc<OwnedFd>,
        lies_at: &TreePath,
        home: Option<&TreePath>,
    ) -> Result<String, DirectoryError> {
        let note = format!("{NOTE_PREFIX}{}", random_name());
        let mut staged = create_staged_file(Arc::clone(dir), note.clone(), None)?;
        let home = home
            .map(|home| format!("\n{}", home.without_slash()))
            .unwrap_or_default();
        let text = format!("{lies_at}{home}");
        let written = staged
            .file
            .write_all(text.as_bytes())
            .and_then(|()| staged.file.sync_all());
        written.map_err(DirectoryError::from_io("write a note"))?;
        sync_directory(dir)?;
        staged.placed = true;
        Ok(note)
    }
}

fn own_handle(parent: &OwnedFd) -> Result<Arc<OwnedFd>, DirectoryError> {
    let own = parent
        .try_clone()
        .map_err(DirectoryError::from_io("hold a directory"))?;
    Ok(Arc::new(own))
}

fn not_moved(errno: Errno) -> DirectoryError {
    match errno {
        Errno::BUSY => DirectoryError::Mounted,
        errno => DirectoryError::from_errno("take something out of the directory")(errno),
    }
}
