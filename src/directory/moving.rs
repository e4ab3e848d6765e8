//! MOVE to another file system: the removal of what was copied, if it still is what was copied.
//!
//! A file is compared by its stamp. A collection is taken out of the tree first, which is one rename, and then counted
//! (`census.rs`) where nobody gets at it by its path any more: no lock is held while it is read. What has changed since it was
//! copied goes back to its name.

use super::census::Census;
use super::change::{Changes, Occupant};
use super::error::OriginError;
use super::gone::{Gone, Kept, remove_all};
use super::path::TreePath;
use super::staging::sync;
use super::tree::{Found, Stamp};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

/// The state in which something was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// A file, or a link itself.
    Single(Stamp),
    /// A collection, by all that is in it.
    Collection(Census),
}

/// How far the removal has come.
#[derive(Debug)]
pub enum Removed {
    /// It is gone; a collection is yet to be discarded.
    Gone(Option<Gone>),
    /// The collection is out of the tree, and has to be counted ([`Changes::count_taken`]).
    Taken(Kept, Census),
    /// Some of it may be gone: the copy must stay.
    Partly(OriginError),
}

/// The fate of the original.
#[derive(Debug)]
pub enum Original {
    /// It is gone; a collection is yet to be discarded.
    Gone(Option<Gone>),
    /// It has its name and all that it holds.
    There(OriginError),
    /// Neither: the copy must stay.
    Lost(OriginError),
}

impl Changes {
    /// Removes what has been copied elsewhere, if it is still in the state that was copied; the caller holds its lock.
    ///
    /// # Errors
    /// [`OriginError::Changing`] where it is not. After an error all of it is there.
    pub fn remove_copied(&self, from: &TreePath, state: &EntryState) -> Result<Removed, OriginError> {
        let (parent, name) = self.source(from)?;
        let occupant = self.occupant(&parent, name)?;
        let removed = match (state, occupant) {
            (EntryState::Single(state), Occupant::File(stat) | Occupant::Link(stat)) if Stamp::of(&stat) == *state => {
                match unlinkat(&parent, name, AtFlags::empty()).map_err(OriginError::met("remove a file")) {
                    Ok(()) => Removed::Gone(None),
                    // A file server's answer may be lost after it has done what was asked.
                    Err(error) => match self.occupant(&parent, name) {
                        Ok(Occupant::File(now) | Occupant::Link(now)) if now.st_ino == stat.st_ino => {
                            return Err(error);
                        }
                        Ok(_) => Removed::Gone(None),
                        Err(_) => Removed::Partly(error),
                    },
                }
            }
            (EntryState::Collection(_), Occupant::Collection(_)) if self.tree.mounts().is_crossed_by(from) => {
                return Err(OriginError::Mounted);
            }
            (EntryState::Collection(census), Occupant::Collection(_)) => {
                match self.staging.set_aside(&parent, from, name) {
                    Ok(kept) => Removed::Taken(kept, *census),
                    // A union does not rename what is in a lower layer, not even beside it.
                    Err(OriginError::OtherDisk) => {
                        self.is_as_copied(from, census)?;
                        match remove_all(&parent, name) {
                            Ok(()) => Removed::Gone(None),
                            Err(error) => Removed::Partly(error),
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => return Err(OriginError::Changing),
        };
        if let Err(error) = sync(&parent) {
            tracing::warn!(path = %from, %error, "what was moved may be where it was once more after a crash");
        }
        Ok(removed)
    }

    /// Whether the collection that was taken out of the tree holds what was copied; else it goes back. Takes no lock.
    pub fn count_taken(&self, removed: Removed) -> Original {
        let (kept, census) = match removed {
            Removed::Gone(gone) => return Original::Gone(gone),
            Removed::Partly(error) => return Original::Lost(error),
            Removed::Taken(kept, census) => (kept, census),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&*kept.dir, &kept.name, flags, Mode::empty()).map_err(OriginError::met("open a directory"));
        match opened.and_then(|collection| Census::of(&collection)) {
            Ok(now) if now == census => Original::Gone(Some(self.staging.let_go(kept))),
            counted => {
                let error = counted.err().unwrap_or(OriginError::Changing);
                match self.staging.give_back(kept) {
                    true => Original::There(error),
                    false => Original::Lost(error),
                }
            }
        }
    }

    fn is_as_copied(&self, from: &TreePath, census: &Census) -> Result<(), OriginError> {
        match self.tree.find(from)? {
            Found::Collection(original, _) if Census::of(&original)? == *census => Ok(()),
            _ => Err(OriginError::Changing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SharedClock, SystemClock};
    use crate::directory::{Copied, Copying, Crossing, Loss, Staging, Tags, Tree};
    use crate::header::Preconditions;
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    fn changes(root: &Path) -> Changes {
        let clock: SharedClock = Arc::new(SystemClock);
        let tree = Arc::new(Tree::open(root).expect("open"));
        let tags = Arc::new(Tags::load(None, Arc::clone(&clock)));
        let staging = Staging::open(Arc::clone(&tree), Some(0), clock).expect("open");
        Changes::new(tree, tags, staging, false).expect("open")
    }

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).expect("a path")
    }

    fn copied(changes: &Changes, from: &str, to: &str) -> Copied {
        let conditions = Preconditions::default();
        let copied = changes.copy(&path(from), &path(to), Copying::Move, &conditions, &Crossing::default());
        copied.expect("copied")
    }

    #[test]
    fn a_collection_that_lost_its_name_comes_back_at_a_start() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("films")).expect("made");
        fs::write(dir.path().join("films/film"), "1").expect("written");
        let changes = changes(dir.path());
        let state = copied(&changes, "/films", "/moved").state();
        fs::write(dir.path().join("films/late"), "2").expect("written");
        let removed = changes.remove_copied(&path("/films"), &state).expect("taken out");
        fs::create_dir(dir.path().join("films")).expect("made");
        assert!(matches!(changes.count_taken(removed), Original::Lost(_)));
        // When its name is free, a start brings it back with what came late.
        fs::remove_dir(dir.path().join("films")).expect("removed");
        drop(changes);
        let _changes = self::changes(dir.path());
        assert_eq!(fs::read_to_string(dir.path().join("films/late")).expect("back"), "2");
    }

    #[test]
    fn undo_keeps_a_copy_that_was_written_to() {
        for (from, inner) in [("/films", "moved/new"), ("/film", "moved")] {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir(dir.path().join("films")).expect("made");
            fs::write(dir.path().join("film"), "1").expect("written");
            fs::write(dir.path().join("moved"), "old").expect("written");
            let changes = changes(dir.path());
            let place = |copied: &mut Copied| match copied {
                Copied::File(arrived, _) => changes.place_file(arrived, &path("/moved"), Loss::Everything),
                Copied::Made(made, _) => changes.place_made(made, &path("/moved"), Loss::Everything),
            };
            let (_, displaced) = place(&mut copied(&changes, from, "/moved")).expect("placed");
            fs::write(dir.path().join(inner), "theirs").expect("written");
            let old = changes.undo(displaced).expect("to be discarded");
            assert_eq!(fs::read_to_string(dir.path().join(inner)).expect("there"), "theirs");
            changes.staging.discard(&old);
            // A copy that nobody has written to is taken out, and the file that it had replaced is back.
            fs::remove_file(dir.path().join(inner)).expect("removed");
            let _ = fs::remove_dir(dir.path().join("moved"));
            fs::write(dir.path().join("moved"), "old").expect("written");
            let (_, displaced) = place(&mut copied(&changes, from, "/moved")).expect("placed");
            changes.undo(displaced).expect("to be discarded");
            assert_eq!(fs::read_to_string(dir.path().join("moved")).expect("there"), "old");
        }
    }
}
