//! A checksum of a collection: whether two looks at all of its members saw the same.
//!
//! A collection that no rename(2) gets to its new place is copied there and then removed. Whatever came into it in
//! between would be lost, so its checksum from before the copy is compared with another one, taken once no path leads
//! to it. The bytes of files are not read: a write changes the stamp.

use super::error::DirectoryError;
use super::tree::Stamp;
use crate::crypto::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use std::os::fd::OwnedFd;

/// The deepest collection that is looked at: no path names a deeper one (`path.rs`).
const MAX_DEPTH: usize = 128;

/// A sum over the hashes of all members: their paths, and of files and links their stamps. A sum does not depend on
/// the order in which a directory is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectionChecksum {
    members: u64,
    sum: u128,
}

impl CollectionChecksum {
    /// Takes the checksum of a collection, member by member.
    ///
    /// # Errors
    /// [`DirectoryError::CrossDevice`] where there is something that cannot be copied (a pipe, a socket, a device), and
    /// what the disk reports.
    pub(super) fn of(collection: &OwnedFd) -> Result<Self, DirectoryError> {
        let mut checksum = Self::default();
        checksum.add_members(collection, &mut Vec::new(), 0)?;
        Ok(checksum)
    }

    fn add_members(&mut self, collection: &OwnedFd, above: &mut Vec<u8>, depth: usize) -> Result<(), DirectoryError> {
        let failed = DirectoryError::from_errno("read a directory");
        if depth >= MAX_DEPTH {
            return Err(DirectoryError::BadName);
        }
        for entry in Dir::read_from(collection).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(collection, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
            let length = above.len();
            above.push(b'/');
            above.extend_from_slice(name.to_bytes());
            let kind = FileType::from_raw_mode(stat.st_mode);
            match kind {
                // A collection's own stamp is left out: what changes in it is seen by its members.
                FileType::Directory => {
                    self.add(above, None);
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let inner = openat(collection, name, flags, Mode::empty()).map_err(&failed)?;
                    self.add_members(&inner, above, depth + 1)?;
                }
                FileType::RegularFile | FileType::Symlink => self.add(above, Some(Stamp::of(&stat))),
                _ => return Err(DirectoryError::CrossDevice),
            }
            above.truncate(length);
        }
        Ok(())
    }

    fn add(&mut self, path: &[u8], stamp: Option<Stamp>) {
        let mut context = Context::new(&SHA256);
        context.update(format!("{stamp:?}").as_bytes());
        context.update(path);
        let digest = context.finish();
        let half = digest.as_ref().first_chunk().copied().unwrap_or_default();
        self.sum = self.sum.wrapping_add(u128::from_ne_bytes(half));
        self.members += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_census_is_another_after_any_change_and_the_same_after_none() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("in")).expect("made");
        fs::write(dir.path().join("in/a"), "1").expect("written");
        let checksum = || CollectionChecksum::of(&fs::File::open(dir.path()).expect("open").into()).expect("read");
        let first = checksum();
        assert_eq!(checksum(), first);
        fs::write(dir.path().join("in/b"), "").expect("written");
        assert_ne!(checksum(), first);
        fs::remove_file(dir.path().join("in/b")).expect("removed");
        assert_eq!(checksum(), first);
        fs::write(dir.path().join("in/a"), "12").expect("written");
        assert_ne!(checksum(), first);
        fs::create_dir(dir.path().join("in/c")).expect("made");
        let with_collection = checksum();
        fs::rename(dir.path().join("in/c"), dir.path().join("c")).expect("renamed");
        assert_ne!(checksum(), with_collection);
    }
}
