//! The identity of the directory that is served: it is told from another at the same path.
//!
//! A mount point whose file system is not there is an empty directory, and a listing of it would tell every mirror
//! that all was removed. So the identity is kept under `data`, and a start that finds another directory waits for the
//! one that it knows, or for the operator's word (`--new-root`).
//!
//! ```text
//! the same mark in .millpond                or  the same number and time of birth of the inode
//! survives a copy to a new disk                 survives a cleaner that removes .millpond, a restart and another
//!                                               device number; a directory that was made anew has another birth,
//!                                               even where it gets the old number
//! ```
//!
//! Without a time of birth the file system's own id is compared in its place. The device number is never compared: it
//! changes with the order in which disks are found (decision 28).

use super::error::DirectoryError;
use super::path::STAGING_DIR;
use super::random_name::random_name;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstatvfs, openat, statx};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The name of the mark's file in `.millpond`.
pub(super) const MARK_FILE: &str = "root";

/// The properties by which a directory is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootIdentity {
    inode: u64,
    /// The time of birth, in seconds and nanoseconds since 1970; `None` where the file system keeps none.
    born: Option<(i64, u32)>,
    file_system: u64,
    mark: Option<String>,
}

impl RootIdentity {
    /// The identity of an open directory.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn of(root: &OwnedFd) -> Result<Self, DirectoryError> {
        let failed = DirectoryError::from_errno("inspect the directory");
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(root, "", AtFlags::EMPTY_PATH, wanted).map_err(&failed)?;
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let file_system = fstatvfs(root).map_err(failed)?.f_fsid;
        Ok(Self {
            inode: stat.stx_ino,
            born: has_birth.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            file_system,
            mark: read_mark(root),
        })
    }

    /// Whether `now` is the directory that this identity was taken of.
    pub fn is_same_as(&self, now: &Self) -> bool {
        if self.mark.is_some() && self.mark == now.mark {
            return true;
        }
        let same_birth = match (self.born, now.born) {
            (Some(then), Some(now)) => then == now,
            _ => self.file_system == now.file_system,
        };
        self.inode == now.inode && same_birth
    }

    /// Reads an identity that was saved; `None` where there is none.
    pub fn read(kept: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(kept).ok()?).ok()
    }

    /// Saves the identity, by a rename, so that a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn save(&self, kept: &Path) -> std::io::Result<()> {
        let beside = kept.with_extension("root-new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(self).map_err(std::io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(&beside, kept)
    }
}

fn read_mark(root: &OwnedFd) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(root, format!("{STAGING_DIR}/{MARK_FILE}"), flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file).take(1024).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Writes a mark into `.millpond`, unless it has one.
pub(super) fn write_mark(dir: impl AsFd) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(file) = openat(dir, MARK_FILE, flags, Mode::RUSR | Mode::WUSR) {
        let mut file = File::from(file);
        // A mark that cannot be written is no error: the inode is compared as well.
        let _ = file.write_all(random_name().as_bytes()).and_then(|()| file.sync_all());
    }
}
