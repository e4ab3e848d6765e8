//! The directory that is served: what a path leads to, without ever leaving it.
//!
//! Every open is relative to the handle of the root and resolved by the kernel beneath it (`openat2`): neither
//! `..` nor a link leads out, however the directory changes meanwhile. For reads links are followed within the
//! tree, absolute ones too; writes never follow one. A look that needs no disk is done at once (`RESOLVE_CACHED`), so a
//! worker that serves others need not wait for a thread.
//!
//! Links are followed step by step, by their text: so it is known before anything is touched whether one leads to another
//! file system, which may hang, and to a name that no path may have. A caller allows each such mount by itself ([`Crossing`]).
//!
//! A path is opened without its file's driver first (`O_PATH`): a pipe or a device is seen for what it is before
//! an open could wake a writer or rewind a tape.

use super::error::OriginError;
use super::identity::Identity;
use super::mounts::{MountPoint, Mounts};
use super::path::{TreePath, is_reserved_at_root, is_unfinished};
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

/// How often a resolution is tried again that a rename elsewhere has disturbed.
const MAX_DISTURBED: usize = 32;

/// How often a name is looked for again that seems to be absent.
const MAX_ABSENT: usize = 4;

/// How many links one path may lead through.
const MAX_LINKS: usize = 40;

/// How many mounts the links of one path may lead to.
pub const MAX_CROSSED: usize = 4;

/// How long a listing waits for what a link leads to on another mount.
const GLANCE: Duration = Duration::from_secs(1);

/// The longest path that the kernel takes at once, in bytes.
const MAX_STEP_BYTES: usize = 4000;

/// The last second that an HTTP date can tell: the end of the year 9999.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// How long before 1970 the year 1 began.
const BEFORE_1970: Duration = Duration::from_secs(62_135_596_800);

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

    /// When it was last written, in whole seconds, as HTTP dates are.
    pub fn modified_at(&self) -> SystemTime {
        let seconds = self.modified.div_euclid(1_000_000_000);
        let distance = Duration::from_secs(
            u64::try_from(seconds.unsigned_abs())
                .unwrap_or(LAST_SECOND)
                .min(LAST_SECOND),
        );
        match seconds {
            0.. => UNIX_EPOCH + distance,
            // HTTP dates begin with the year 0.
            _ => UNIX_EPOCH.checked_sub(distance.min(BEFORE_1970)).unwrap_or(UNIX_EPOCH),
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

/// The mounts to which links may lead that one look follows: those whose turns the caller holds.
#[derive(Debug, Clone, Default)]
pub struct Crossing(Vec<MountPoint>);

impl Crossing {
    /// The same with one more.
    pub fn with(&self, mount: MountPoint) -> Self {
        Self(self.0.iter().cloned().chain([mount]).collect())
    }

    /// The mount that was allowed last; `None` where no link was to lead to one.
    pub fn last(&self) -> Option<&MountPoint> {
        self.0.last()
    }

    /// All of them.
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
    /// The path as the operator wrote it, which links in the tree may be made with.
    written: PathBuf,
    mounts: Mounts,
}

impl Tree {
    /// The directory at `path`.
    ///
    /// # Errors
    /// Where it is no directory that can be read.
    pub fn open(path: &Path) -> Result<Self, OriginError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(OriginError::met("open the directory"))?;
        // Kernels before 5.6, and sandboxes that do not know the call, cannot keep a path beneath the root.
        openat2(&root, ".", flags, Mode::empty(), ResolveFlags::BENEATH)
            .map_err(OriginError::met("open beneath the directory (openat2, Linux 5.6)"))?;
        let failed = OriginError::io("resolve the directory");
        let written = std::path::absolute(path).map_err(&failed)?;
        let path = std::fs::canonicalize(path).map_err(failed)?;
        Ok(Self {
            root,
            mounts: Mounts::new(&path),
            path,
            written,
        })
    }

    /// What tells the directory that was opened from another.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn identity(&self) -> Result<Identity, OriginError> {
        Identity::of(&self.root)
    }

    /// The file systems that are mounted beneath it.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Whether the directory that was opened is still what its path leads to.
    ///
    /// # Errors
    /// [`OriginError::Vanished`] where it is not, and [`OriginError::Changing`] where only the disk could tell.
    pub fn stands_now(&self) -> Result<(), OriginError> {
        self.compare(ResolveFlags::CACHED)
    }

    /// The same, for a thread that may wait for the disk.
    ///
    /// # Errors
    /// [`OriginError::Vanished`] where it is not.
    pub fn stands(&self) -> Result<(), OriginError> {
        self.compare(ResolveFlags::empty())
    }

    fn compare(&self, how: ResolveFlags) -> Result<(), OriginError> {
        let held = rustix::fs::fstat(&self.root).map_err(|_| OriginError::Vanished)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let there = match openat2(CWD, &self.path, flags, Mode::empty(), how) {
            Ok(there) => rustix::fs::fstat(there).map_err(|_| OriginError::Vanished)?,
            // Kernels before 5.12 do not know the flag.
            Err(Errno::AGAIN | Errno::INVAL) if how == ResolveFlags::CACHED => return Err(OriginError::Changing),
            // Nothing is there, or a file system that is dead.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::NOTCONN
                | Errno::STALE
                | Errno::IO
                | Errno::HOSTDOWN,
            ) => {
                return Err(OriginError::Vanished);
            }
            // Our own want (of descriptors, of memory) says nothing of the directory.
            Err(errno) => return Err(OriginError::met("inspect the directory")(errno)),
        };
        match held.st_nlink > 0 && (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino) {
            true => Ok(()),
            false => Err(OriginError::Vanished),
        }
    }

    /// The directory's path in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Whether the path is one that is served at all; hidden ones are to some.
    pub fn serves(&self, path: &TreePath) -> bool {
        !path.is_reserved()
    }

    /// Whether a member of a collection that is served is served too; hidden ones are to some.
    pub(super) fn serves_member(&self, collection: &TreePath, name: &str) -> bool {
        !(is_unfinished(name) || (collection.is_root() && is_reserved_at_root(name)))
    }

    /// What the path leads to.
    ///
    /// # Errors
    /// [`OriginError::Absent`] where nothing is there that is served; [`OriginError::LeadsTo`] where a link leads to another
    /// mount than the path's own.
    pub fn find(&self, path: &TreePath) -> Result<Found, OriginError> {
        self.find_across(path, &Crossing::default())
    }

    /// The same through links to those mounts.
    ///
    /// # Errors
    /// As [`Tree::find`].
    pub fn find_across(&self, path: &TreePath, crossing: &Crossing) -> Result<Found, OriginError> {
        self.look(path, ResolveFlags::empty(), crossing)
    }

    /// The same without waiting for the disk; `None` where that is needed.
    ///
    /// # Errors
    /// As [`Tree::find`].
    pub fn find_now(&self, path: &TreePath) -> Result<Option<Found>, OriginError> {
        match self.look(path, ResolveFlags::CACHED, &Crossing::default()) {
            Ok(found) => Ok(Some(found)),
            Err(OriginError::Changing) => Ok(None),
            // Kernels before 5.12 do not know the flag.
            Err(OriginError::Disk { source, .. }) if Errno::from_io_error(&source) == Some(Errno::INVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn look(&self, path: &TreePath, how: ResolveFlags, crossing: &Crossing) -> Result<Found, OriginError> {
        if !self.serves(path) {
            return Err(OriginError::Absent);
        }
        let there = self.resolve(path, OFlags::PATH, how, crossing)?;
        let stat = rustix::fs::fstat(&there).map_err(OriginError::met("inspect a file"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if path.has_slash() => Err(OriginError::Absent),
            FileType::RegularFile => Ok(Found::File(
                File::from(self.reopen(&there, path, how, crossing)?),
                Stamp::of(&stat),
            )),
            FileType::Directory => Ok(Found::Collection(
                self.reopen(&there, path, how, crossing)?,
                Stamp::of(&stat),
            )),
            _ => Err(OriginError::Absent),
        }
    }

    /// A handle for reading of what another handle only names. A pipe or device has been told apart by then.
    fn reopen(
        &self,
        there: &OwnedFd,
        path: &TreePath,
        how: ResolveFlags,
        crossing: &Crossing,
    ) -> Result<OwnedFd, OriginError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let named = format!("/proc/self/fd/{}", there.as_raw_fd());
        match open(named, flags | OFlags::CLOEXEC, Mode::empty()) {
            // Without /proc the path is resolved again.
            Err(Errno::NOENT) => self.resolve(path, flags, how, crossing),
            opened => opened.map_err(OriginError::met("open a file")),
        }
    }

    /// Whether a collection is there; a link to one is none, and what does not exist is none either.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn is_collection(&self, path: &TreePath) -> Result<bool, OriginError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match self.resolve(path, flags, ResolveFlags::NO_SYMLINKS, &Crossing::default()) {
            Ok(there) => {
                let stat = rustix::fs::fstat(&there).map_err(OriginError::met("inspect a file"))?;
                Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            }
            Err(OriginError::Absent) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the path leads to now, links within the tree followed, without opening it for reading.
    pub(super) fn inspect(&self, path: &TreePath) -> Result<Stat, OriginError> {
        let handle = self.resolve(path, OFlags::PATH, ResolveFlags::empty(), &Crossing::default())?;
        rustix::fs::fstat(&handle).map_err(OriginError::met("inspect a file"))
    }

    /// The same where a link may lead to another mount: a thread of its own looks there, and is waited for only so long.
    ///
    /// # Errors
    /// [`OriginError::Hangs`] where the mount does not answer in time.
    pub(super) fn inspect_across(self: &Arc<Self>, path: &TreePath) -> Result<Stat, OriginError> {
        let mut crossing = Crossing::default();
        loop {
            match self.look_aside(path, &crossing) {
                Err(OriginError::LeadsTo(mount)) if crossing.0.len() < MAX_CROSSED => crossing = crossing.with(mount),
                looked => return looked,
            }
        }
    }

    fn look_aside(self: &Arc<Self>, path: &TreePath, crossing: &Crossing) -> Result<Stat, OriginError> {
        let Some(mount) = crossing.last() else {
            return self.inspect(path);
        };
        let turn = self.mounts.glance(mount).ok_or(OriginError::Hangs)?;
        let (tree, of, through) = (Arc::clone(self), path.clone(), crossing.clone());
        let (tell, told) = channel();
        let look = move || {
            let _turn = turn;
            let handle = tree.resolve(&of, OFlags::PATH, ResolveFlags::empty(), &through);
            let failed = OriginError::met("inspect a file");
            let stat = handle.and_then(|handle| rustix::fs::fstat(&handle).map_err(failed));
            // Nobody waits any more where it took too long.
            let _ = tell.send(stat);
        };
        let started = std::thread::Builder::new()
            .name("millpond-glance".to_owned())
            .spawn(look);
        started.map_err(OriginError::io("start a thread"))?;
        told.recv_timeout(GLANCE).unwrap_or(Err(OriginError::Hangs))
    }

    /// The collection that something is to be written in; no link leads there.
    pub(super) fn for_writing(&self, path: &TreePath) -> Result<OwnedFd, OriginError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.resolve(path, flags, ResolveFlags::NO_SYMLINKS, &Crossing::default())
            .map_err(|error| match error {
                OriginError::Absent => self.why_no_parent(path),
                error => error,
            })
    }

    fn why_no_parent(&self, path: &TreePath) -> OriginError {
        let mut above = path.bare();
        while !above.is_root() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            match self.resolve(&above, flags, ResolveFlags::NO_SYMLINKS, &Crossing::default()) {
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

    fn resolve(
        &self,
        path: &TreePath,
        flags: OFlags,
        how: ResolveFlags,
        crossing: &Crossing,
    ) -> Result<OwnedFd, OriginError> {
        let names = path.names().iter().map(String::as_str);
        match self.open_beneath(&relative(names), flags, how | ResolveFlags::NO_SYMLINKS) {
            // There is a link. Following it takes more than one look.
            Err(Errno::LOOP) if how.contains(ResolveFlags::CACHED) => Err(OriginError::Changing),
            Err(Errno::LOOP) if !how.contains(ResolveFlags::NO_SYMLINKS) => self.follow(path, flags, crossing),
            Err(Errno::XDEV) => Err(OriginError::Absent),
            Err(Errno::AGAIN) => Err(OriginError::Changing),
            found => found.map_err(OriginError::met("open a file")),
        }
    }

    fn open_beneath(&self, relative: &str, flags: OFlags, how: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let how = how | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // The kernel takes so many bytes of a path at once; what is longer is opened in steps.
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
            match present(open) {
                Err(Errno::AGAIN) if !how.contains(ResolveFlags::CACHED) => {}
                found => return found,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens a path through links that may be absolute, as long as each stays in the tree. Each step is taken by the
    /// kernel beneath the root and without links, so a change meanwhile leads nowhere else.
    fn follow(&self, path: &TreePath, flags: OFlags, crossing: &Crossing) -> Result<OwnedFd, OriginError> {
        let failed = OriginError::met("open a file");
        let own = self.mounts.point(path.names());
        let mut ahead: VecDeque<String> = path.names().iter().cloned().collect();
        let (mut behind, mut links) = (Vec::<String>::new(), 0);
        let plain = ResolveFlags::NO_SYMLINKS;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                behind.pop().ok_or(OriginError::Absent)?;
                continue;
            }
            behind.push(name);
            let mount = self.mounts.point(&behind);
            if !mount.is_above(&own) && !crossing.allows(&mount) {
                return Err(OriginError::LeadsTo(mount));
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
                return Err(OriginError::Absent);
            }
            let target = readlinkat(&step, "", Vec::new()).map_err(&failed)?;
            let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
            behind.pop();
            let inside = match target.is_absolute() {
                true => {
                    behind.clear();
                    let stripped = target
                        .strip_prefix(&self.path)
                        .or_else(|_| target.strip_prefix(&self.written));
                    stripped.map_err(|_| OriginError::Absent)?
                }
                false => target,
            };
            for part in inside.components().rev() {
                match part {
                    Component::CurDir => {}
                    Component::ParentDir => ahead.push_front("..".to_owned()),
                    Component::Normal(name) => ahead.push_front(name.to_str().ok_or(OriginError::Absent)?.to_owned()),
                    Component::RootDir | Component::Prefix(_) => return Err(OriginError::Absent),
                }
            }
        }
        // A link may lead to what no path may name.
        let mut there = TreePath::root();
        for name in &behind {
            there = there.child(name);
        }
        if there.is_reserved() {
            return Err(OriginError::Absent);
        }
        let here = relative(behind.iter().map(String::as_str));
        match self.open_beneath(&here, flags, plain) {
            Err(Errno::XDEV) => Err(OriginError::Absent),
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

/// The same, as the kernel remembers it of a file system that may not answer.
pub fn remembered_stamp(file: impl AsFd) -> Result<Stamp, OriginError> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, "", flags, StatxFlags::BASIC_STATS).map_err(OriginError::met("inspect a file"))?;
    Ok(Stamp::of_statx(&stat))
}
