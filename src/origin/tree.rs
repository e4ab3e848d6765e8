//! The directory that is served: what a path leads to, without ever leaving it.
//!
//! Every open is relative to the handle of the root and resolved by the kernel beneath it (`openat2`): neither
//! `..` nor a link leads out, however the directory changes meanwhile. For reads links are followed within the
//! tree; writes never follow one. A look that needs no disk is done at once (`RESOLVE_CACHED`), so a worker that
//! serves others need not wait for a thread.

use super::error::OriginError;
use super::path::{TreePath, UNFINISHED, is_reserved_at_root};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a resolution is tried again that a rename elsewhere has disturbed.
const MAX_DISTURBED: usize = 32;

/// How often a name is looked for again that seems to be absent.
const MAX_ABSENT: usize = 4;

/// The last second that an HTTP date can tell: the end of the year 9999.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// What tells one state of a file from another, as far as the operating system does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The file system.
    pub dev: u64,
    /// The file in it.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified: i128,
    /// When anything of it was last changed, its names and rights included, in nanoseconds since 1970.
    pub changed: i128,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let time = |seconds: i64, nanoseconds: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// When it was last written, in whole seconds, as HTTP dates are.
    pub fn modified_at(&self) -> SystemTime {
        match u64::try_from(self.modified / 1_000_000_000) {
            Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND)),
            Err(_) => UNIX_EPOCH,
        }
    }
}

/// What a path leads to.
#[derive(Debug)]
pub enum Found {
    /// A file, open for reading.
    File(File, Stamp),
    /// A collection.
    Collection(OwnedFd, Stamp),
}

/// A directory that is served.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    hidden: bool,
}

impl Tree {
    /// The directory at `path`; with `hidden`, names that begin with a dot are served too.
    ///
    /// # Errors
    /// Where it is no directory that can be read.
    pub fn open(path: &Path, hidden: bool) -> Result<Self, OriginError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(OriginError::met("open the directory"))?;
        // Kernels before 5.6, and sandboxes that do not know the call, cannot keep a path beneath the root.
        openat2(&root, ".", flags, Mode::empty(), ResolveFlags::BENEATH)
            .map_err(OriginError::met("open beneath the directory (openat2, Linux 5.6)"))?;
        let path = std::fs::canonicalize(path).map_err(OriginError::io("resolve the directory"))?;
        Ok(Self { root, path, hidden })
    }

    /// The directory's path in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Whether the path is one that is served at all.
    pub fn serves(&self, path: &TreePath) -> bool {
        !path.is_reserved() && (self.hidden || !path.is_hidden())
    }

    /// Whether a member of a collection that is served is served too.
    pub(super) fn serves_member(&self, collection: &TreePath, name: &str) -> bool {
        let ours = name.starts_with(UNFINISHED) || (collection.is_root() && is_reserved_at_root(name));
        !ours && (self.hidden || !name.starts_with('.'))
    }

    /// What the path leads to.
    ///
    /// # Errors
    /// [`OriginError::Absent`] where nothing is there that is served.
    pub fn find(&self, path: &TreePath) -> Result<Found, OriginError> {
        self.look(path, ResolveFlags::empty())
    }

    /// The same without waiting for the disk; `None` where that is needed.
    ///
    /// # Errors
    /// As [`Tree::find`].
    pub fn find_now(&self, path: &TreePath) -> Result<Option<Found>, OriginError> {
        match self.look(path, ResolveFlags::CACHED) {
            Ok(found) => Ok(Some(found)),
            Err(OriginError::Changing) => Ok(None),
            // Kernels before 5.12 do not know the flag.
            Err(OriginError::Disk { source, .. }) if Errno::from_io_error(&source) == Some(Errno::INVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn look(&self, path: &TreePath, how: ResolveFlags) -> Result<Found, OriginError> {
        if !self.serves(path) {
            return Err(OriginError::Absent);
        }
        // A pipe that nobody writes to must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let handle = self.resolve(path, flags, how)?;
        let stat = rustix::fs::fstat(&handle).map_err(OriginError::met("inspect a file"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if path.has_slash() => Err(OriginError::Absent),
            FileType::RegularFile => Ok(Found::File(File::from(handle), Stamp::of(&stat))),
            FileType::Directory => Ok(Found::Collection(handle, Stamp::of(&stat))),
            _ => Err(OriginError::Absent),
        }
    }

    /// What the path leads to now, links within the tree followed, without opening it for reading.
    pub(super) fn inspect(&self, path: &TreePath) -> Result<Stat, OriginError> {
        let handle = self.resolve(path, OFlags::PATH, ResolveFlags::empty())?;
        rustix::fs::fstat(&handle).map_err(OriginError::met("inspect a file"))
    }

    /// The collection that something is to be written in; no link leads there.
    pub(super) fn for_writing(&self, path: &TreePath) -> Result<OwnedFd, OriginError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.resolve(path, flags, ResolveFlags::NO_SYMLINKS)
            .map_err(|error| match error {
                OriginError::Absent => self.why_no_parent(path),
                error => error,
            })
    }

    fn why_no_parent(&self, path: &TreePath) -> OriginError {
        let mut above = path.bare();
        while !above.is_root() {
            match self.resolve(&above, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS) {
                Ok(handle) => {
                    let kind = rustix::fs::fstat(&handle).map(|stat| FileType::from_raw_mode(stat.st_mode));
                    return match kind {
                        Ok(FileType::Directory) => OriginError::NoParent,
                        Ok(FileType::Symlink) => OriginError::Link,
                        _ => OriginError::ParentIsFile,
                    };
                }
                Err(_) => above = above.parent().bare(),
            }
        }
        OriginError::NoParent
    }

    fn resolve(&self, path: &TreePath, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, OriginError> {
        let relative = match path.is_root() {
            true => ".".to_owned(),
            false => path.names().join("/"),
        };
        let how = how | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let open = || openat2(&self.root, &relative, flags | OFlags::CLOEXEC, Mode::empty(), how);
        for _ in 0..MAX_DISTURBED {
            match present(open) {
                Err(Errno::AGAIN) if !how.contains(ResolveFlags::CACHED) => {}
                Err(Errno::AGAIN) => return Err(OriginError::Changing),
                // A file where a collection is needed.
                found => return found.map_err(OriginError::met("open a file")),
            }
        }
        Err(OriginError::Changing)
    }
}

/// Looks for a name again before it is said to be absent: what was found may have been moved out of the tree by the time
/// that the kernel makes sure of where it is, while another has its name.
fn present<T>(look: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..MAX_ABSENT {
        match look() {
            Err(Errno::XDEV) => {}
            found => return found,
        }
    }
    look()
}

/// The stamp of an open file, as it is now.
pub fn stamp(file: impl AsFd) -> Result<Stamp, OriginError> {
    let stat = rustix::fs::fstat(file).map_err(OriginError::met("inspect a file"))?;
    Ok(Stamp::of(&stat))
}
