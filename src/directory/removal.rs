//! Taking things out of the tree, for good or so that they can go back; and what a start finds of that after a crash.
//!
//! ```text
//! gone-<random>   is removed by a start
//! kept-<random>   goes back to its name by a start, where nothing else has that; else it stays, and the log says so
//! note-<random>   where something lies that had to stay beside its place: one line for what is removed,
//!                 and a second for what is kept: the path that it had
//! ```
//!
//! Nothing is kept where the file system can exchange two names: a thing has a name at every moment there. Elsewhere there is
//! a time between two renames in which what was there is nowhere, and a crash then must not lose it.

use super::atomic_rename::rename_noreplace;
use super::error::DirectoryError;
use super::path::{STAGED_PREFIX, STAGING_DIR, TreePath};
use super::root_identity::MARK_FILE;
use super::staging::{Staging, UPLOAD_PREFIX, create_staged_file, random_name, sync_directory};
use super::trash::{Backup, Trash, discard, remove_note_file, remove_recursively};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, statat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The start of the names of kept things.
const BACKUP_PREFIX: &str = "kept-";

/// The start of the names of notes.
const NOTE_PREFIX: &str = "note-";

/// The longest note that is read, in bytes: two paths.
const MAX_NOTE_BYTES: u64 = 1 << 20;

impl Staging {
    /// Takes something out of the tree; it is gone for everybody, and yet to be discarded ([`Staging::discard`]).
    pub(super) fn move_to_trash(
        &self,
        parent: &OwnedFd,
        collection: &TreePath,
        name: &str,
    ) -> Result<Trash, DirectoryError> {
        let dir = self.dir()?;
        let trash = format!("gone-{}", random_name());
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

    /// Takes something out of the tree that may have to go back. A start puts it back as well.
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

    /// Puts back what was set aside for something that did not come; whether it has its name again.
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

    /// Gives up what was set aside: it is not needed any more.
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
        // Beside its place it keeps its name, and gets a note that says what is to become of it.
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

    /// Removes what was taken away, as far as it goes; the rest is tried again at the next start.
    pub fn discard(&self, trash: &Trash) {
        discard(trash);
    }

    /// Writes down where something lies that is not in `.millpond`, or is to go back, before it is there.
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

    /// Removes what a crash has left, and puts back what it has left without its name.
    pub(super) fn recover(&self) -> Result<(), DirectoryError> {
        let failed = DirectoryError::from_errno("clean .millpond in the directory");
        let dir = self.dir()?;
        for entry in Dir::read_from(&dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stays = name == "." || name == ".." || name == MARK_FILE || name.starts_with(UPLOAD_PREFIX);
            // A note tells of each kept thing.
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

    /// Does what a note asks for; whether it has done its work.
    fn apply_note(&self, dir: &OwnedFd, note: &str) -> bool {
        // A note that was not written whole is of something that was not done.
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
            // The collection that it lay in is gone, or on a file system that is not there yet.
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
            // It is at its path, or the file system that it lies on is not mounted yet.
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

/// The words of a note: where something lies, and the path that it had if it is to go back.
fn read_note(dir: &OwnedFd, note: &str) -> Option<(TreePath, Option<TreePath>)> {
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
