//! The second half of a MOVE to another file system: the source is removed, if it still is what was copied.
//!
//! ```text
//! file, link      its stamp is compared, then it is unlinked             (both under its lock)
//! collection      set aside by one rename                                (under the mount's lock)
//!                 its members' checksum is compared with the copy's      (no lock: no path leads to it any more)
//!                 the same: trash; another: it goes back to its name
//! ```
//!
//! Whatever is uncertain keeps the copy: where the source may lack its name or some members, two of it are better than
//! none.

use super::collection_checksum::CollectionChecksum;
use super::error::DirectoryError;
use super::path::TreePath;
use super::staging::sync_directory;
use super::trash::{Backup, Trash, remove_recursively};
use super::tree::{Found, Stamp};
use super::tree_writer::{Occupant, TreeWriter};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

/// The state of a source when it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// The stamp of a file, or of a link itself.
    Single(Stamp),
    /// The checksum of a collection's members.
    Collection(CollectionChecksum),
}

/// The removal of a source, so far.
#[derive(Debug)]
pub enum SourceRemoval {
    /// The source is removed; a collection is trash, to be discarded.
    Removed(Option<Trash>),
    /// The collection is out of the tree, and has to be compared ([`TreeWriter::verify_source`]).
    SetAside(Backup, CollectionChecksum),
    /// Some of the source may be removed: the copy must stay.
    Partial(DirectoryError),
}

/// The fate of the source.
#[derive(Debug)]
pub enum SourceOutcome {
    /// The source is removed; a collection is trash, to be discarded.
    Removed(Option<Trash>),
    /// The source has its name and all of its members.
    InPlace(DirectoryError),
    /// The source may lack its name or some of its members: the copy must stay.
    Uncertain(DirectoryError),
}

impl TreeWriter {
    /// Removes the source of a copy, if it still is in the state that was copied; the caller holds its lock.
    ///
    /// # Errors
    /// [`DirectoryError::ChangedMeanwhile`] where it is not. After an error all of the source is there.
    pub fn remove_source(&self, from: &TreePath, state: &SourceState) -> Result<SourceRemoval, DirectoryError> {
        let (parent, name) = self.existing_parent_and_name(from)?;
        let occupant = self.occupant(&parent, name)?;
        let removed = match (state, occupant) {
            (SourceState::Single(state), Occupant::File(stat) | Occupant::Link(stat)) if Stamp::of(&stat) == *state => {
                match unlinkat(&parent, name, AtFlags::empty()).map_err(DirectoryError::from_errno("remove a file")) {
                    Ok(()) => SourceRemoval::Removed(None),
                    // A file server's reply may be lost after it has done what was asked, so the name is looked at.
                    Err(error) => match self.occupant(&parent, name) {
                        Ok(Occupant::File(now) | Occupant::Link(now)) if now.st_ino == stat.st_ino => {
                            return Err(error);
                        }
                        Ok(_) => SourceRemoval::Removed(None),
                        Err(_) => SourceRemoval::Partial(error),
                    },
                }
            }
            (SourceState::Collection(_), Occupant::Collection(_)) if self.tree.mounts().has_mount_within(from) => {
                return Err(DirectoryError::Mounted);
            }
            (SourceState::Collection(checksum), Occupant::Collection(_)) => {
                match self.staging.set_aside(&parent, from, name) {
                    Ok(backup) => SourceRemoval::SetAside(backup, *checksum),
                    // A union (overlayfs) does not rename an entry of a lower layer, not even within its directory.
                    Err(DirectoryError::CrossDevice) => {
                        self.check_unchanged(from, checksum)?;
                        match remove_recursively(&parent, name) {
                            Ok(()) => SourceRemoval::Removed(None),
                            Err(error) => SourceRemoval::Partial(error),
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => return Err(DirectoryError::ChangedMeanwhile),
        };
        if let Err(error) = sync_directory(&parent) {
            tracing::warn!(path = %from, %error, "what was moved may be where it was once more after a crash");
        }
        Ok(removed)
    }

    /// Compares a collection that was taken out of the tree with what was copied. If it is the same it becomes trash,
    /// else it goes back. Takes no lock.
    pub fn verify_source(&self, removed: SourceRemoval) -> SourceOutcome {
        let (backup, checksum) = match removed {
            SourceRemoval::Removed(trash) => return SourceOutcome::Removed(trash),
            SourceRemoval::Partial(error) => return SourceOutcome::Uncertain(error),
            SourceRemoval::SetAside(backup, checksum) => (backup, checksum),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&*backup.dir, &backup.name, flags, Mode::empty())
            .map_err(DirectoryError::from_errno("open a directory"));
        match opened.and_then(|collection| CollectionChecksum::of(&collection)) {
            Ok(now) if now == checksum => SourceOutcome::Removed(Some(self.staging.backup_to_trash(backup))),
            counted => {
                let error = counted.err().unwrap_or(DirectoryError::ChangedMeanwhile);
                match self.staging.restore(backup) {
                    true => SourceOutcome::InPlace(error),
                    false => SourceOutcome::Uncertain(error),
                }
            }
        }
    }

    fn check_unchanged(&self, from: &TreePath, checksum: &CollectionChecksum) -> Result<(), DirectoryError> {
        match self.tree.find(from)? {
            Found::Collection(original, _) if CollectionChecksum::of(&original)? == *checksum => Ok(()),
            _ => Err(DirectoryError::ChangedMeanwhile),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SharedClock, SystemClock};
    use crate::directory::{AllowedMounts, CopyMode, DigestCache, Loss, StagedCopy, Staging, Tree};
    use crate::header::Preconditions;
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    fn writer(root: &Path) -> TreeWriter {
        let clock: SharedClock = Arc::new(SystemClock);
        let tree = Arc::new(Tree::open(root).expect("open"));
        let tags = Arc::new(DigestCache::load(None, Arc::clone(&clock)));
        let staging = Staging::open(Arc::clone(&tree), Some(0), clock).expect("open");
        TreeWriter::new(tree, tags, staging, false).expect("open")
    }

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).expect("a path")
    }

    fn copied(writer: &TreeWriter, from: &str, to: &str) -> StagedCopy {
        let conditions = Preconditions::default();
        let copied = writer.copy(
            &path(from),
            &path(to),
            CopyMode::Move,
            &conditions,
            &AllowedMounts::default(),
        );
        copied.expect("copied")
    }

    #[test]
    fn a_collection_that_lost_its_name_comes_back_at_a_start() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("films")).expect("made");
        fs::write(dir.path().join("films/film"), "1").expect("written");
        let writer = writer(dir.path());
        let state = copied(&writer, "/films", "/moved").state();
        fs::write(dir.path().join("films/late"), "2").expect("written");
        let removed = writer.remove_source(&path("/films"), &state).expect("taken out");
        fs::create_dir(dir.path().join("films")).expect("made");
        assert!(matches!(writer.verify_source(removed), SourceOutcome::Uncertain(_)));
        // When the name is free, a start brings the collection back with what came late.
        fs::remove_dir(dir.path().join("films")).expect("removed");
        drop(writer);
        let _writer = self::writer(dir.path());
        assert_eq!(fs::read_to_string(dir.path().join("films/late")).expect("back"), "2");
    }

    #[test]
    fn undo_keeps_a_copy_that_was_written_to() {
        for (from, inner) in [("/films", "moved/new"), ("/film", "moved")] {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir(dir.path().join("films")).expect("made");
            fs::write(dir.path().join("film"), "1").expect("written");
            fs::write(dir.path().join("moved"), "old").expect("written");
            let writer = writer(dir.path());
            let place = |copied: &mut StagedCopy| match copied {
                StagedCopy::File(received, _) => writer.place_file(received, &path("/moved"), Loss::Everything),
                StagedCopy::Entry(made, _) => writer.place_entry(made, &path("/moved"), Loss::Everything),
            };
            let (_, replacement) = place(&mut copied(&writer, from, "/moved")).expect("placed");
            fs::write(dir.path().join(inner), "theirs").expect("written");
            let old = writer.roll_back(replacement).expect("to be discarded");
            assert_eq!(fs::read_to_string(dir.path().join(inner)).expect("there"), "theirs");
            writer.staging.discard(&old);
            // A copy that nobody has written to is taken out, and the file that it had replaced is back.
            fs::remove_file(dir.path().join(inner)).expect("removed");
            let _ = fs::remove_dir(dir.path().join("moved"));
            fs::write(dir.path().join("moved"), "old").expect("written");
            let (_, replacement) = place(&mut copied(&writer, from, "/moved")).expect("placed");
            writer.roll_back(replacement).expect("to be discarded");
            assert_eq!(fs::read_to_string(dir.path().join("moved")).expect("there"), "old");
        }
    }
}
