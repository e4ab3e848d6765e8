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

use super::error::OriginError;
use super::gone::{Gone, Kept, discard, forget, remove_all};
use super::identity::MARK;
use super::path::{STAGING, TreePath, UNFINISHED};
use super::placing::rename_new;
use super::staging::{Staging, UPLOAD, make, random, sync};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, statat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The start of the names of kept things.
const KEPT: &str = "kept-";

/// The start of the names of notes.
const NOTE: &str = "note-";

/// The longest note that is read, in bytes: two paths.
const MAX_NOTE_BYTES: u64 = 1 << 20;

impl Staging {
    /// Takes something out of the tree; it is gone for everybody, and yet to be discarded ([`Staging::discard`]).
    pub(super) fn take_away(&self, parent: &OwnedFd, collection: &TreePath, name: &str) -> Result<Gone, OriginError> {
        let dir = self.dir()?;
        let gone = format!("gone-{}", random());
        match renameat(parent, name, &dir, &gone) {
            Ok(()) => {
                let (name, note) = (gone, None);
                return Ok(Gone { dir, name, note });
            }
            Err(Errno::XDEV) => {}
            Err(errno) => return Err(not_taken(errno)),
        }
        let gone = format!("{UNFINISHED}{}", random());
        let note = Some((Arc::clone(&dir), self.note(&dir, &collection.child(&gone), None)?));
        let taken = Gone {
            dir: own(parent)?,
            name: gone,
            note,
        };
        match renameat(parent, name, parent, &taken.name) {
            Ok(()) => Ok(taken),
            Err(errno) => {
                taken.forget_note();
                Err(not_taken(errno))
            }
        }
    }

    /// Takes something out of the tree that may have to go back. A start puts it back as well.
    pub(super) fn set_aside(&self, parent: &OwnedFd, path: &TreePath, name: &str) -> Result<Kept, OriginError> {
        let dir = self.dir()?;
        let home = own(parent)?;
        let collection = path.parent();
        let places = [
            (Arc::clone(&dir), KEPT, TreePath::root().child(STAGING)),
            (Arc::clone(&home), UNFINISHED, collection),
        ];
        for (place, prefix, above) in places {
            let kept = format!("{prefix}{}", random());
            let note = (Arc::clone(&dir), self.note(&dir, &above.child(&kept), Some(path))?);
            match renameat(parent, name, &place, &kept) {
                Ok(()) => {
                    return Ok(Kept {
                        dir: place,
                        name: kept,
                        note,
                        home,
                        own: name.to_owned(),
                    });
                }
                Err(Errno::XDEV) => forget(&note),
                Err(errno) => {
                    forget(&note);
                    return Err(not_taken(errno));
                }
            }
        }
        Err(OriginError::OtherDisk)
    }

    /// Puts back what was set aside for something that did not come; whether it has its name again.
    pub(super) fn give_back(&self, kept: Kept) -> bool {
        match rename_new(&kept.dir, &kept.name, &kept.home, &kept.own) {
            Ok(()) => {
                let _ = sync(&kept.home);
                forget(&kept.note);
                true
            }
            Err(errno) => {
                tracing::error!(name = kept.own, lies_at = kept.name, %errno, "what was to be replaced could not be put back; it is kept, and the next start tries again");
                false
            }
        }
    }

    /// Gives up what was set aside: it is not needed any more.
    pub(super) fn let_go(&self, kept: Kept) -> Gone {
        let (dir, _) = &kept.note;
        let renamed = format!("gone-{}", random());
        if kept.name.starts_with(KEPT) && renameat(&*kept.dir, &kept.name, &*kept.dir, &renamed).is_ok() {
            forget(&kept.note);
            return Gone {
                dir: kept.dir,
                name: renamed,
                note: None,
            };
        }
        // Beside its place it keeps its name, and gets a note that says what is to become of it.
        let path = noted(dir, &kept.note.1).map(|(path, _)| path);
        let note = match path.map(|path| self.note(dir, &path, None)) {
            Some(Ok(note)) => {
                forget(&kept.note);
                (Arc::clone(dir), note)
            }
            _ => kept.note,
        };
        Gone {
            dir: kept.dir,
            name: kept.name,
            note: Some(note),
        }
    }

    /// Removes what was taken away, as far as it goes; the rest is tried again at the next start.
    pub fn discard(&self, gone: &Gone) {
        discard(gone);
    }

    /// Writes down where something lies that is not in `.millpond`, or is to go back, before it is there.
    pub(super) fn note(
        &self,
        dir: &Arc<OwnedFd>,
        lies_at: &TreePath,
        home: Option<&TreePath>,
    ) -> Result<String, OriginError> {
        let note = format!("{NOTE}{}", random());
        let mut staged = make(Arc::clone(dir), note.clone(), None)?;
        let home = home.map(|home| format!("\n{}", home.bare())).unwrap_or_default();
        let text = format!("{lies_at}{home}");
        let written = staged
            .file
            .write_all(text.as_bytes())
            .and_then(|()| staged.file.sync_all());
        written.map_err(OriginError::io("write a note"))?;
        sync(dir)?;
        staged.placed = true;
        Ok(note)
    }

    /// Removes what a crash has left, and puts back what it has left without its name.
    pub(super) fn clean(&self) -> Result<(), OriginError> {
        let failed = OriginError::met("clean .millpond in the directory");
        let dir = self.dir()?;
        for entry in Dir::read_from(&dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stays = name == "." || name == ".." || name == MARK || name.starts_with(UPLOAD);
            // A note tells of each kept thing.
            if stays || name.starts_with(KEPT) || (name.starts_with(NOTE) && !self.follow(&dir, &name)) {
                continue;
            }
            let (dir, note) = (Arc::clone(&dir), None);
            discard(&Gone { dir, name, note });
        }
        Ok(())
    }

    /// Does what a note asks for; whether it has done its work.
    fn follow(&self, dir: &OwnedFd, note: &str) -> bool {
        // A note that was not written whole is of something that was not done.
        let Some((lies_at, home)) = noted(dir, note) else {
            return true;
        };
        let Some(name) = lies_at
            .name()
            .filter(|name| name.starts_with(UNFINISHED) || name.starts_with(KEPT))
        else {
            return true;
        };
        let Ok(place) = self.tree().for_writing(&lies_at.parent()) else {
            // The collection that it lay in is gone, or on a file system that is not there yet.
            return home.is_none();
        };
        match home {
            None => remove_all(&place, name).is_ok(),
            Some(home) => self.bring_home(&place, name, &lies_at, &home),
        }
    }

    fn bring_home(&self, place: &OwnedFd, name: &str, lies_at: &TreePath, home: &TreePath) -> bool {
        let parent = self.tree().for_writing(&home.parent());
        if matches!(statat(place, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
            // It is at its path, or the file system that it lies on is not mounted yet.
            let at_home =
                |own: &str| matches!(&parent, Ok(parent) if statat(parent, own, AtFlags::SYMLINK_NOFOLLOW).is_ok());
            return home.name().is_none_or(at_home);
        }
        let back = match (parent, home.name()) {
            (Ok(parent), Some(own)) => rename_new(place, name, &parent, own).map_err(OriginError::met("put it back")),
            (Err(error), _) => Err(error),
            (_, None) => Err(OriginError::Root),
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

fn own(parent: &OwnedFd) -> Result<Arc<OwnedFd>, OriginError> {
    let own = parent.try_clone().map_err(OriginError::io("hold a directory"))?;
    Ok(Arc::new(own))
}

fn not_taken(errno: Errno) -> OriginError {
    match errno {
        Errno::BUSY => OriginError::Mounted,
        errno => OriginError::met("take something out of the directory")(errno),
    }
}

/// The words of a note: where something lies, and the path that it had if it is to go back.
fn noted(dir: &OwnedFd, note: &str) -> Option<(TreePath, Option<TreePath>)> {
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
