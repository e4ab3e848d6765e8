//! The directory that is served: the entry that a path leads to, without ever leaving the directory.
//!
//! Every open is relative to the handle of the root and resolved by the kernel beneath it (`openat2`): neither `..`
//! nor a link leads out, however the directory changes meanwhile. Reads follow links within the tree, absolute ones
//! too; writes follow none. A look that needs no disk is done at once (`RESOLVE_CACHED`), so a worker that serves
//! other clients need not hand it to a thread.
//!
//! ```text
//! one open without links
//!   └─ ELOOP, a link is on the way: step by step, each link replaced by its text
//!        └─ a step would enter another mount: LinkToMount, before that mount is touched
//! ```
//!
//! Links are followed by their text, so it is known before anything is touched whether one leads to another file
//! system, which may hang, or to a name that no path may have. The caller allows each such mount by itself
//! ([`AllowedMounts`]).
//!
//! An entry is opened with `O_PATH` first, without its driver: a pipe or a device is recognised before an open could
//! wake a writer or rewind a tape.

use super::error::DirectoryError;
use super::mounts::{MountPoint, Mounts};
use super::path::{TreePath, is_reserved_at_root, is_unfinished};
use super::root_identity::RootIdentity;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Statx, StatxFlags, StatxTimestamp, makedev, open, openat,
    openat2, readlinkat, statx,
};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The attempts at a resolution that a rename elsewhere has disturbed (`EAGAIN`): a judgement.
const MAX_DISTURBED: usize = 32;

/// The looks for a name that seems to be absent: a judgement.
const MAX_ABSENT: usize = 4;

/// The links that one path may lead through: as many as Linux follows itself.
const MAX_LINKS: usize = 40;

/// The mounts that the links of one path may lead to: a judgement.
pub const MAX_LINKED_MOUNTS: usize = 4;

/// The time for which a listing waits for what a link leads to on another mount (decision 29).
const LINK_LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest path that is given to the kernel at once, in bytes: below `PATH_MAX`, 4096 with the final zero.
const MAX_STEP_BYTES: usize = 4000;

/// The last second that an HTTP date can tell: the end of the year 9999.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// The time from the start of the year 1 to 1970.
const BEFORE_1970: Duration = Duration::from_secs(62_135_596_800);

/// The state of a file, as far as the operating system tells it from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The number of the file system's device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// The size, in bytes.
    pub size: u64,
    /// The time of modification: when bytes were last written, in nanoseconds since 1970.
    pub modified: i128,
    /// The time of change: when anything was last changed, names and rights included, in nanoseconds since 1970.
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

    pub(super) fn of_statx(stat: &Statx) -> Self {
        let time = |time: StatxTimestamp| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
        Self {
            dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            size: stat.stx_size,
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
        }
    }

    /// The time of modification in whole seconds, as HTTP dates have it.
    pub fn modified_at(&self) -> SystemTime {
        let seconds = self.modified.div_euclid(1_000_000_000);
        let distance = Duration::from_secs(
            u64::try_from(seconds.unsigned_abs())
                .unwrap_or(LAST_SECOND)
                .min(LAST_SECOND),
        );
        match seconds {
            0.. => UNIX_EPOCH + distance,
            // The year of an HTTP date has four digits; dates are told from the year 1 on.
            _ => UNIX_EPOCH.checked_sub(distance.min(BEFORE_1970)).unwrap_or(UNIX_EPOCH),
        }
    }
}

/// The entry that a path leads to.
#[derive(Debug)]
pub enum Found {
    /// A file, open for reading.
    File(File, Stamp),
    /// A collection.
    Collection(OwnedFd, Stamp),
}

/// The mounts to which links may lead in one look: those whose permits the caller holds.
#[derive(Debug, Clone, Default)]
pub struct AllowedMounts(Vec<MountPoint>);

impl AllowedMounts {
    /// The same with one more mount.
    pub fn with(&self, mount: MountPoint) -> Self {
        Self(self.0.iter().cloned().chain([mount]).collect())
    }

    /// The mount that was allowed last; `None` where no link was to lead to one.
    pub fn last(&self) -> Option<&MountPoint> {
        self.0.last()
    }

    /// All allowed mounts.
    pub fn mounts(&self) -> &[MountPoint] {
        &self.0
    }

    fn allows(&self, mount: &MountPoint) -> bool {
        self.0.iter().any(|allowed| mount.is_above(allowed))
    }
}

/// A directory that is served.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    /// The path as the operator wrote it: links in the tree may have been made with it.
    path_as_given: PathBuf,
    mounts: Mounts,
}

impl Tree {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Where it is no directory that can be read.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(DirectoryError::from_errno("open the directory"))?;
        // Kernels before 5.6, and sandboxes that do not know the call, cannot keep a path beneath the root.
        openat2(&root, ".", flags, Mode::empty(), ResolveFlags::BENEATH).map_err(DirectoryError::from_errno(
            "open beneath the directory (openat2, Linux 5.6)",
        ))?;
        let failed = DirectoryError::from_io("resolve the directory");
        let path_as_given = std::path::absolute(path).map_err(&failed)?;
        let path = std::fs::canonicalize(path).map_err(failed)?;
        Ok(Self {
            root,
            mounts: Mounts::new(&path),
            path,
            path_as_given,
        })
    }

    /// The identity of the directory that was opened.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn identity(&self) -> Result<RootIdentity, DirectoryError> {
        RootIdentity::of(&self.root)
    }

    /// The file systems that are mounted beneath it.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Whether the directory that was opened is still the one that its path leads to, as far as the kernel has that
    /// in memory.
    ///
    /// # Errors
    /// [`DirectoryError::RootGone`] where it is not, and [`DirectoryError::ChangedMeanwhile`] where only the disk could tell.
    pub fn check_root_cached(&self) -> Result<(), DirectoryError> {
        self.compare_root(ResolveFlags::CACHED)
    }

    /// The same, for a thread that may wait for the disk.
    ///
    /// # Errors
    /// [`DirectoryError::RootGone`] where it is not.
    pub fn check_root(&self) -> Result<(), DirectoryError> {
        self.compare_root(ResolveFlags::empty())
    }

    fn compare_root(&self, how: ResolveFlags) -> Result<(), DirectoryError> {
        let held = rustix::fs::fstat(&self.root).map_err(|_| DirectoryError::RootGone)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let there = match openat2(CWD, &self.path, flags, Mode::empty(), how) {
            Ok(there) => rustix::fs::fstat(there).map_err(|_| DirectoryError::RootGone)?,
            // Kernels before 5.12 do not know the flag.
            Err(Errno::AGAIN | Errno::INVAL) if how == ResolveFlags::CACHED => {
                return Err(DirectoryError::ChangedMeanwhile);
            }
            // Nothing is at the path, or a file system that is dead.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::NOTCONN
                | Errno::STALE
                | Errno::IO
                | Errno::HOSTDOWN,
            ) => {
                return Err(DirectoryError::RootGone);
            }
            // A want of our own (of descriptors, of memory) says nothing of the directory.
            Err(errno) => return Err(DirectoryError::from_errno("inspect the directory")(errno)),
        };
        match held.st_nlink > 0 && (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino) {
            true => Ok(()),
            false => Err(DirectoryError::RootGone),
        }
    }

    /// The path of the directory, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Whether the path is none of millpond's own. Hidden paths are served to some callers.
    pub fn serves(&self, path: &TreePath) -> bool {
        !path.is_reserved()
    }

    /// Whether that member of a collection is none of millpond's own.
    pub(super) fn serves_member(&self, collection: &TreePath, name: &str) -> bool {
        !(is_unfinished(name) || (collection.is_root() && is_reserved_at_root(name)))
    }

    /// Opens the entry that the path leads to.
    ///
    /// # Errors
    /// [`DirectoryError::Absent`] where nothing is there that is served; [`DirectoryError::LinkToMount`] where a link leads to another
    /// mount than the path's own.
    pub fn find(&self, path: &TreePath) -> Result<Found, DirectoryError> {
        self.find_through(path, &AllowedMounts::default())
    }

    /// The same through links to the allowed mounts.
    ///
    /// # Errors
    /// As [`Tree::find`].
    pub fn find_through(&self, path: &TreePath, allowed: &AllowedMounts) -> Result<Found, DirectoryError> {
        self.open_found(path, ResolveFlags::empty(), allowed)
    }

    /// The same without waiting for the disk; `None` where that would be needed.
    ///
    /// # Errors
    /// As [`Tree::find`].
    pub fn find_cached(&self, path: &TreePath) -> Result<Option<Found>, DirectoryError> {
        // A mount that the list does not have yet is left to a thread: even a look at its root may wait.
        let how = ResolveFlags::CACHED | ResolveFlags::NO_XDEV;
        match self.open_found(path, how, &AllowedMounts::default()) {
            Ok(found) => Ok(Some(found)),
            Err(DirectoryError::ChangedMeanwhile) => Ok(None),
            // Kernels before 5.12 do not know the flag.
            Err(DirectoryError::Disk { source, .. }) if Errno::from_io_error(&source) == Some(Errno::INVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_found(&self, path: &TreePath, how: ResolveFlags, allowed: &AllowedMounts) -> Result<Found, DirectoryError> {
        if !self.serves(path) {
            return Err(DirectoryError::Absent);
        }
        let there = self.resolve(path, OFlags::PATH, how, allowed)?;
        let stat = rustix::fs::fstat(&there).map_err(DirectoryError::from_errno("inspect a file"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if path.has_slash() => Err(DirectoryError::Absent),
            FileType::RegularFile => Ok(Found::File(
                File::from(self.reopen(&there, path, how, allowed)?),
                Stamp::of(&stat),
            )),
            FileType::Directory => Ok(Found::Collection(
                self.reopen(&there, path, how, allowed)?,
                Stamp::of(&stat),
            )),
            _ => Err(DirectoryError::Absent),
        }
    }

    /// A handle for reading, of an entry that another handle only names. Pipes and devices are told apart by then.
    fn reopen(
        &self,
        there: &OwnedFd,
        path: &TreePath,
        how: ResolveFlags,
        allowed: &AllowedMounts,
    ) -> Result<OwnedFd, DirectoryError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let named = format!("/proc/self/fd/{}", there.as_raw_fd());
        match open(named, flags | OFlags::CLOEXEC, Mode::empty()) {
            // Without /proc the path is resolved again.
            Err(Errno::NOENT) => self.resolve(path, flags, how, allowed),
            opened => opened.map_err(DirectoryError::from_errno("open a file")),
        }
    }

    /// Whether a collection has the path. A link to one is none, nor is an absent entry.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn is_collection(&self, path: &TreePath) -> Result<bool, DirectoryError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match self.resolve(path, flags, ResolveFlags::NO_SYMLINKS, &AllowedMounts::default()) {
            Ok(there) => {
                let stat = rustix::fs::fstat(&there).map_err(DirectoryError::from_errno("inspect a file"))?;
                Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            }
            Err(DirectoryError::Absent) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The state of the entry that the path leads to, links within the tree followed; it is not opened for reading.
    pub(super) fn inspect(&self, path: &TreePath) -> Result<Stat, DirectoryError> {
        let handle = self.resolve(path, OFlags::PATH, ResolveFlags::empty(), &AllowedMounts::default())?;
        rustix::fs::fstat(&handle).map_err(DirectoryError::from_errno("inspect a file"))
    }

    /// The same where a link may lead to another mount: a thread of its own looks there, and is waited for only for
    /// [`LINK_LOOKUP_TIMEOUT`].
    ///
    /// # Errors
    /// [`DirectoryError::MountHangs`] where the mount does not answer in time.
    pub(super) fn inspect_through_links(self: &Arc<Self>, path: &TreePath) -> Result<Stat, DirectoryError> {
        let mut allowed = AllowedMounts::default();
        loop {
            match self.inspect_with_timeout(path, &allowed) {
                Err(DirectoryError::LinkToMount(mount)) if allowed.0.len() < MAX_LINKED_MOUNTS => {
                    allowed = allowed.with(mount)
                }
                looked => return looked,
            }
        }
    }

    fn inspect_with_timeout(
        self: &Arc<Self>,
        path: &TreePath,
        allowed: &AllowedMounts,
    ) -> Result<Stat, DirectoryError> {
        let Some(mount) = allowed.last() else {
            return self.inspect(path);
        };
        let permit = self.mounts.try_link_lookup(mount).ok_or(DirectoryError::MountHangs)?;
        let (tree, of, through) = (Arc::clone(self), path.clone(), allowed.clone());
        let (tell, told) = channel();
        let look = move || {
            let _permit = permit;
            let handle = tree.resolve(&of, OFlags::PATH, ResolveFlags::empty(), &through);
            let failed = DirectoryError::from_errno("inspect a file");
            let stat = handle.and_then(|handle| rustix::fs::fstat(&handle).map_err(failed));
            // The receiver is gone where the look took too long.
            let _ = tell.send(stat);
        };
        let started = std::thread::Builder::new()
            .name("millpond-glance".to_owned())
            .spawn(look);
        started.map_err(DirectoryError::from_io("start a thread"))?;
        told.recv_timeout(LINK_LOOKUP_TIMEOUT)
            .unwrap_or(Err(DirectoryError::MountHangs))
    }

    /// Opens the collection in which an entry is to be written. No link leads there.
    pub(super) fn open_for_writing(&self, path: &TreePath) -> Result<OwnedFd, DirectoryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.resolve(path, flags, ResolveFlags::NO_SYMLINKS, &AllowedMounts::default())
            .map_err(|error| match error {
                DirectoryError::Absent => self.why_no_parent(path),
                error => error,
            })
    }

    fn why_no_parent(&self, path: &TreePath) -> DirectoryError {
        let mut above = path.without_slash();
        while !above.is_root() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            match self.resolve(&above, flags, ResolveFlags::NO_SYMLINKS, &AllowedMounts::default()) {
                Ok(handle) => {
                    let kind = rustix::fs::fstat(&handle).map(|stat| FileType::from_raw_mode(stat.st_mode));
                    return match kind {
                        Ok(FileType::Directory) => DirectoryError::NoParent,
                        Ok(FileType::Symlink) => DirectoryError::Link,
                        _ => DirectoryError::ParentIsFile,
                    };
                }
                Err(_) => above = above.parent().without_slash(),
            }
        }
        DirectoryError::NoParent
    }

    fn resolve(
        &self,
        path: &TreePath,
        flags: OFlags,
        how: ResolveFlags,
        allowed: &AllowedMounts,
    ) -> Result<OwnedFd, DirectoryError> {
        let names = path.names().iter().map(String::as_str);
        match self.open_beneath(&relative(names), flags, how | ResolveFlags::NO_SYMLINKS) {
            // A link is on the way. Following it takes more than one look.
            Err(Errno::LOOP | Errno::XDEV) if how.contains(ResolveFlags::CACHED) => {
                Err(DirectoryError::ChangedMeanwhile)
            }
            Err(Errno::LOOP) if !how.contains(ResolveFlags::NO_SYMLINKS) => self.follow_links(path, flags, allowed),
            Err(Errno::XDEV) => Err(DirectoryError::Absent),
            Err(Errno::AGAIN) => Err(DirectoryError::ChangedMeanwhile),
            found => found.map_err(DirectoryError::from_errno("open a file")),
        }
    }

    fn open_beneath(&self, relative: &str, flags: OFlags, how: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let how = how | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // The kernel takes a path up to a limit at once, so a longer one is opened in steps.
        let (mut between, mut relative) = (None::<OwnedFd>, relative);
        while relative.len() >= MAX_STEP_BYTES {
            let cut = relative.as_bytes()[..MAX_STEP_BYTES]
                .iter()
                .rposition(|byte| *byte == b'/');
            let Some((step, rest)) = cut.and_then(|cut| Some((relative.get(..cut)?, relative.get(cut + 1..)?))) else {
                return Err(Errno::NAMETOOLONG);
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let from = between.as_ref().unwrap_or(&self.root);
            let opened = openat2(from, step, flags, Mode::empty(), how)?;
            (between, relative) = (Some(opened), rest);
        }
        let from = between.as_ref().unwrap_or(&self.root);
        let open = || openat2(from, relative, flags | OFlags::CLOEXEC, Mode::empty(), how);
        for _ in 0..MAX_DISTURBED {
            match retry_absent(open) {
                Err(Errno::AGAIN) if !how.contains(ResolveFlags::CACHED) => {}
                found => return found,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens a path through links, absolute ones too, as long as each stays in the tree. Each step is taken by the
    /// kernel beneath the root and without links, so a change meanwhile leads nowhere else.
    fn follow_links(&self, path: &TreePath, flags: OFlags, allowed: &AllowedMounts) -> Result<OwnedFd, DirectoryError> {
        let failed = DirectoryError::from_errno("open a file");
        let own = self.mounts.mount_point_of(path.names());
        let mut ahead: VecDeque<String> = path.names().iter().cloned().collect();
        let (mut behind, mut links) = (Vec::<String>::new(), 0);
        let plain = ResolveFlags::NO_SYMLINKS;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                behind.pop().ok_or(DirectoryError::Absent)?;
                continue;
            }
            behind.push(name);
            let mount = self.mounts.mount_point_of(&behind);
            if !mount.is_above(&own) && !allowed.allows(&mount) {
                return Err(DirectoryError::LinkToMount(mount));
            }
            let here = relative(behind.iter().map(String::as_str));
            let step = self
                .open_beneath(&here, OFlags::PATH | OFlags::NOFOLLOW, plain)
                .map_err(&failed)?;
            let stat = rustix::fs::fstat(&step).map_err(&failed)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(DirectoryError::Absent);
            }
            let target = readlinkat(&step, "", Vec::new()).map_err(&failed)?;
            let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
            behind.pop();
            let inside = match target.is_absolute() {
                true => {
                    behind.clear();
                    let stripped = target
                        .strip_prefix(&self.path)
                        .or_else(|_| target.strip_prefix(&self.path_as_given));
                    stripped.map_err(|_| DirectoryError::Absent)?
                }
                false => target,
            };
            for part in inside.components().rev() {
                match part {
                    Component::CurDir => {}
                    Component::ParentDir => ahead.push_front("..".to_owned()),
                    Component::Normal(name) => {
                        ahead.push_front(name.to_str().ok_or(DirectoryError::Absent)?.to_owned())
                    }
                    Component::RootDir | Component::Prefix(_) => return Err(DirectoryError::Absent),
                }
            }
        }
        // A link may lead to a name that no path can have.
        let mut there = TreePath::root();
        for name in &behind {
            there = there.child(name);
        }
        if there.is_reserved() {
            return Err(DirectoryError::Absent);
        }
        let here = relative(behind.iter().map(String::as_str));
        match self.open_beneath(&here, flags, plain) {
            Err(Errno::XDEV) => Err(DirectoryError::Absent),
            found => found.map_err(failed),
        }
    }
}

fn relative<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.is_empty() {
        true => ".".to_owned(),
        false => names.join("/"),
    }
}

/// Looks for a name again before it is called absent: the entry that was found may have been moved out of the tree by
/// the time that the kernel checks where it is, while another one has its name.
fn retry_absent<T>(look: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..MAX_ABSENT {
        match look() {
            Err(Errno::XDEV) => {}
            found => return found,
        }
    }
    look()
}

/// The stamp of an open file, now.
pub fn stamp(file: impl AsFd) -> Result<Stamp, DirectoryError> {
    let stat = rustix::fs::fstat(file).map_err(DirectoryError::from_errno("inspect a file"))?;
    Ok(Stamp::of(&stat))
}

/// The stamp that the kernel remembers of an open file, whose file system may not answer.
pub fn cached_stamp(file: impl AsFd) -> Result<Stamp, DirectoryError> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, "", flags, StatxFlags::BASIC_STATS).map_err(DirectoryError::from_errno("inspect a file"))?;
    Ok(Stamp::of_statx(&stat))
}

/// The id that two directories share if a rename(2) may get from one to the other: of the mount, or on old kernels of
/// the device.
pub(super) fn mount_id(dir: impl AsFd) -> Result<u64, DirectoryError> {
    let failed = DirectoryError::from_errno("inspect a directory");
    match statx(&dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(stat.stx_mnt_id),
        _ => Ok(rustix::fs::fstat(&dir).map_err(failed)?.st_dev),
    }
}
