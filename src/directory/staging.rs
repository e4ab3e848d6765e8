//! Where bodies lie until they are whole: never visible, none left after a crash.
//!
//! ```text
//! DIR/.millpond/           0700, no path can name it; locked (flock) by the one process that writes to DIR
//!   put-<random>           a body on its way
//!   gone-, kept-, note-    what was taken out of the tree (aside.rs)
//!   upload-<id>, .json     an upload that can be resumed (uploads.rs)
//!   root                   a mark by which the directory is known again (identity.rs)
//! DIR/disk2/.millpond-<random>   such a thing
//! ```
//!
//! A start removes all of it but the uploads, the mark and what is kept. Dropping a [`Staged`] that was not put in its place
//! removes that one.
//!
//! A body lies beside its place where a rename(2) from `.millpond` would not reach it (another mount, a subvolume, a branch of a
//! union), and where new files inherit something from their directory (its group, its default access list).
//!
//! `.millpond` may be removed by others (`rsync --delete`, `git clean`). It is made again, and that is logged, as long as the
//! directory itself is the one that was opened.
//!
//! The time of change of a body is set to the fine-grained present before it is put in its place. The kernel stamps
//! writes with the start of its tick; so whoever writes to the file afterwards gives it another time, even within
//! the same tick, and the digest that was taken while the body came can be believed at once.

use super::attributes::is_inherited_from;
use super::error::OriginError;
use super::gone::{Gone, Made, Note};
use super::identity::mark;
use super::path::{STAGING, TreePath, UNFINISHED};
use super::tags::{Digest, finished};
use super::tree::Tree;
use crate::clock::SharedClock;
use crate::sync::{read, write};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps, fallocate, flock,
    futimens, mkdirat, openat, statat, statx, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io::Seek;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, RwLock};
use std::time::UNIX_EPOCH;

/// The shortest body whose room is reserved before it comes.
const RESERVED_FROM: u64 = 1 << 20;

/// What is left free in the file system, unless it is small or the operator says otherwise.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// How often a body of unknown length asks whether there is room for more, in bytes.
const ROOM_EVERY: u64 = 16 << 20;

/// What uploads are called; they survive a start.
pub(super) const UPLOAD: &str = "upload-";

/// The place for what is not whole.
#[derive(Debug)]
pub struct Staging {
    tree: Arc<Tree>,
    /// `.millpond`, which is another after somebody has removed it.
    dir: RwLock<Arc<OwnedFd>>,
    min_free_bytes: Option<u64>,
    clock: SharedClock,
}

/// A body on its way. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: File,
    /// Where it lies, and under what name.
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    /// Says where it lies, if that is elsewhere.
    pub(super) note: Option<Note>,
    /// It has been put in its place under another name: nothing is left to remove.
    pub(super) placed: bool,
}

/// A body that comes, and the sum of what has come.
pub struct Incoming {
    staged: Staged,
    /// `None` where not all of it came while we ran.
    sum: Option<Context>,
    length: u64,
    /// How many bytes may come before it is asked again whether there is room.
    room: u64,
}

/// A body that has come whole and is on the disk.
#[derive(Debug)]
pub struct Arrived {
    pub(super) staged: Staged,
    /// The sum of its bytes.
    pub digest: Digest,
    /// The time that it was given, in nanoseconds since 1970.
    pub(super) modified: i128,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A child process between fork and exec holds a copy of the descriptor: closing ours alone would leave the place
        // locked until then.
        self.release();
    }
}

impl Staging {
    /// Opens the place in that tree, where so much is to stay free in the file system, and removes what a crash has left.
    ///
    /// # Errors
    /// [`OriginError::InUse`] where another process has it, and what the disk reports.
    pub fn open(tree: Arc<Tree>, min_free_bytes: Option<u64>, clock: SharedClock) -> Result<Self, OriginError> {
        let staging = Self {
            dir: RwLock::new(Arc::new(make_place(&tree)?)),
            tree,
            min_free_bytes,
            clock,
        };
        staging.clean()?;
        Ok(staging)
    }

    /// Lets another process have the place: nothing is written by this one any more, though a connection that ends may
    /// hold it open for a moment longer.
    pub fn release(&self) {
        let _ = flock(&**read(&self.dir), FlockOperation::Unlock);
    }

    /// The place itself, made again where somebody has removed it.
    ///
    /// # Errors
    /// [`OriginError::Vanished`] where the directory has gone, and what the disk reports.
    pub(super) fn dir(&self) -> Result<Arc<OwnedFd>, OriginError> {
        let dir = Arc::clone(&read(&self.dir));
        if self.is_in_place(&dir)? {
            return Ok(dir);
        }
        let mut current = write(&self.dir);
        if !self.is_in_place(&current)? {
            self.tree.stands()?;
            *current = Arc::new(make_place(&self.tree)?);
            tracing::error!(path = %self.tree.path().display(), "somebody has removed .millpond from the directory, and with it what was being written; it is made again: keep cleaners and mirrors off it");
        }
        Ok(Arc::clone(&current))
    }

    fn is_in_place(&self, dir: &OwnedFd) -> Result<bool, OriginError> {
        let failed = OriginError::met("inspect .millpond");
        let held = rustix::fs::fstat(dir).map_err(&failed)?;
        match statat(self.tree.root(), STAGING, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Whether a body that lies in the place can be put into that directory as if it had been made there.
    fn is_near(dir: &OwnedFd, parent: &OwnedFd) -> Result<bool, OriginError> {
        let device = |dir: &OwnedFd| rustix::fs::fstat(dir).map(|stat| stat.st_dev);
        let failed = OriginError::met("inspect a directory");
        let same = device(dir).map_err(&failed)? == device(parent).map_err(&failed)?;
        Ok(same && mount_of(dir)? == mount_of(parent)? && !is_inherited_from(parent))
    }

    /// A new body beside its place, with a note of where it lies.
    fn beside(&self, dir: Arc<OwnedFd>, collection: &TreePath, parent: OwnedFd) -> Result<Staged, OriginError> {
        let name = format!("{UNFINISHED}{}", random());
        let note = self.note(&dir, &collection.child(&name), None)?;
        make(Arc::new(parent), name, Some((dir, note)))
    }

    /// Puts a body beside its place that a rename did not get there.
    pub(super) fn bring(&self, staged: &mut Staged, collection: &TreePath) -> Result<(), OriginError> {
        let there = self.beside(self.dir()?, collection, self.tree.for_writing(collection)?)?;
        let failed = OriginError::io("copy a body to its file system");
        let mut from = staged.file.try_clone().map_err(&failed)?;
        from.rewind().map_err(&failed)?;
        std::io::copy(&mut from, &mut &there.file).map_err(&failed)?;
        let stat = rustix::fs::fstat(&staged.file).map_err(OriginError::met("inspect a body"))?;
        let time = Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        };
        let _ = futimens(&there.file, &both(time));
        there.file.sync_all().map_err(failed)?;
        *staged = there;
        Ok(())
    }

    /// A new body that will be put into that collection. With a known length its room is reserved.
    ///
    /// # Errors
    /// Where nothing can be put there.
    pub fn begin(&self, collection: &TreePath, length: Option<u64>) -> Result<Incoming, OriginError> {
        let (dir, parent) = (self.dir()?, self.tree.for_writing(collection)?);
        self.room(&parent, length.unwrap_or_default())?;
        let staged = match Self::is_near(&dir, &parent)? {
            true => make(dir, format!("put-{}", random()), None)?,
            false => self.beside(dir, collection, parent)?,
        };
        if let Some(length) = length.filter(|length| *length >= RESERVED_FROM) {
            let reserved = fallocate(&staged.file, FallocateFlags::KEEP_SIZE, 0, length);
            // Not every file system reserves.
            if let Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) = reserved {
                return Err(OriginError::NoRoom);
            }
        }
        Ok(Incoming {
            staged,
            sum: Some(Context::new(&SHA256)),
            length: 0,
            room: length.unwrap_or_default(),
        })
    }

    /// Whether there is room for so many bytes more.
    pub(super) fn room(&self, dir: impl AsFd, bytes: u64) -> Result<(), OriginError> {
        let stat = rustix::fs::fstatvfs(dir).map_err(OriginError::met("ask for the room on the disk"))?;
        let reserve = self
            .min_free_bytes
            .unwrap_or(MIN_FREE_BYTES.min(stat.f_blocks.saturating_mul(stat.f_frsize) / 20));
        match stat.f_bavail.saturating_mul(stat.f_frsize) >= bytes.saturating_add(reserve) {
            true => Ok(()),
            false => Err(OriginError::NoRoom),
        }
    }

    /// A new body in the place itself, which stays there when nobody holds it.
    pub(super) fn adopt_new(&self, name: &str, length: Option<u64>) -> Result<Incoming, OriginError> {
        let dir = self.dir()?;
        self.room(&dir, length.unwrap_or_default())?;
        let staged = make(dir, name.to_owned(), None)?;
        Ok(Incoming::kept(staged, Some(Context::new(&SHA256)), 0))
    }

    /// How many bytes lie in the place under that name; `None` where nothing does.
    pub(super) fn length_of(&self, name: &str) -> Result<Option<u64>, OriginError> {
        Ok(self
            .inspect(name)?
            .map(|stat| u64::try_from(stat.st_size).unwrap_or_default()))
    }

    /// What lies in the place under that name.
    pub(super) fn inspect(&self, name: &str) -> Result<Option<Stat>, OriginError> {
        match statat(&*self.dir()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(OriginError::met("inspect an upload")(errno)),
        }
    }

    /// A body that lies in the place already, cut to the length that is known to be on the disk.
    pub(super) fn adopt(&self, name: &str, length: u64) -> Result<Incoming, OriginError> {
        let dir = self.dir()?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&dir, name, flags, Mode::empty()).map_err(OriginError::met("open an upload"))?;
        let file = File::from(file);
        let failed = OriginError::io("cut an upload to what is known of it");
        let there = file.metadata().map_err(&failed)?.len();
        if there < length {
            return Err(OriginError::Disk {
                doing: "find all of an upload",
                source: std::io::ErrorKind::UnexpectedEof.into(),
            });
        }
        file.set_len(length).map_err(failed)?;
        let staged = Staged {
            file,
            dir,
            name: name.to_owned(),
            note: None,
            placed: true,
        };
        Ok(Incoming::kept(staged, None, length))
    }

    /// Makes of an upload a body like any other. It keeps its name until it has its place, so that a change which fails
    /// costs none of its bytes.
    pub(super) fn finish_upload(
        &self,
        body: &Incoming,
        collection: &TreePath,
        modified: Option<i64>,
    ) -> Result<Arrived, OriginError> {
        let digest = match &body.sum {
            Some(sum) => finished(sum.clone()),
            // It has been through a restart: what came before is read again.
            None => super::tags::sum(&body.staged.file)?,
        };
        let failed = OriginError::io("open an upload");
        let file = body.staged.file.try_clone().map_err(failed)?;
        let mut staged = Staged {
            file,
            dir: Arc::clone(&body.staged.dir),
            name: body.staged.name.clone(),
            note: None,
            placed: true,
        };
        if !Self::is_near(&staged.dir, &self.tree.for_writing(collection)?)? {
            self.bring(&mut staged, collection)?;
        }
        self.settle(staged, digest, modified)
    }

    /// A new directory in which a collection is put together, where a rename can then put it in its place: in `.millpond`, or
    /// beside its place where that is the only way.
    pub(super) fn begin_collection(&self, collection: &TreePath, beside: bool) -> Result<Made, OriginError> {
        self.begin_made(collection, beside, |dir, name| {
            mkdirat(dir, name, Mode::from_raw_mode(0o777))
        })
    }

    /// A new link to be placed, to that target.
    pub(super) fn begin_link(&self, collection: &TreePath, target: &CStr, beside: bool) -> Result<Made, OriginError> {
        self.begin_made(collection, beside, |dir, name| symlinkat(target, dir, name))
    }

    fn begin_made(
        &self,
        collection: &TreePath,
        beside: bool,
        make: impl FnOnce(&OwnedFd, &str) -> rustix::io::Result<()>,
    ) -> Result<Made, OriginError> {
        let (dir, parent) = (self.dir()?, self.tree.for_writing(collection)?);
        let failed = OriginError::met("make a collection");
        let place = match !beside && Self::is_near(&dir, &parent)? {
            true => Gone {
                name: format!("put-{}", random()),
                dir,
                note: None,
            },
            false => {
                let name = format!("{UNFINISHED}{}", random());
                let note = self.note(&dir, &collection.child(&name), None)?;
                let (note, dir) = (Some((dir, note)), Arc::new(parent));
                Gone { dir, name, note }
            }
        };
        make(&place.dir, &place.name).map_err(failed)?;
        Ok(Made::new(place))
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Gives a body that is whole its time, and returns when all of it is on the disk.
    fn settle(&self, staged: Staged, digest: Digest, modified: Option<i64>) -> Result<Arrived, OriginError> {
        let modified = self.give_time(&staged.file, modified)?;
        Ok(Arrived {
            staged,
            digest,
            modified,
        })
    }

    /// The same for its file; the time, in nanoseconds since 1970.
    fn give_time(&self, file: &File, modified: Option<i64>) -> Result<i128, OriginError> {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The client's second, with a fraction that no tick has.
        let time = Timespec {
            tv_sec: modified.unwrap_or(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)),
            tv_nsec: i64::from(now.subsec_nanos()),
        };
        // Some file systems set no times, or keep none of the fraction. Then the tag is not believed at once, for a later write
        // could have the same time, and nothing else is lost.
        let _ = futimens(file, &both(time));
        file.sync_all().map_err(OriginError::io("write a file to the disk"))?;
        Ok(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
    }

    /// A copy that has come whole: its bytes and the digest of what it is a copy of.
    pub(super) fn settle_copy(&self, incoming: Incoming, digest: Digest) -> Result<Arrived, OriginError> {
        self.settle(incoming.staged, digest, None)
    }
}

impl Incoming {
    /// The bytes that come next.
    ///
    /// # Errors
    /// Where the disk does not take them.
    pub fn write(&mut self, staging: &Staging, bytes: &[u8]) -> Result<(), OriginError> {
        if self.length + bytes.len() as u64 > self.room {
            staging.room(&self.staged.dir, ROOM_EVERY)?;
            self.room = self.length + ROOM_EVERY;
        }
        let file = &self.staged.file;
        file.write_all_at(bytes, self.length)
            .map_err(OriginError::io("write a file"))?;
        if let Some(sum) = &mut self.sum {
            sum.update(bytes);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes have come.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether none have.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All bytes have come: returns when they are on the disk. `modified` is the time that the client gives the file,
    /// in seconds since 1970.
    ///
    /// # Errors
    /// Where the disk does not take them.
    pub fn finish(self, staging: &Staging, modified: Option<i64>) -> Result<Arrived, OriginError> {
        let digest = match self.sum {
            Some(sum) => finished(sum),
            None => super::tags::sum(&self.staged.file)?,
        };
        staging.settle(self.staged, digest, modified)
    }

    /// A body that stays where it lies when nobody holds it.
    fn kept(mut staged: Staged, sum: Option<Context>, length: u64) -> Self {
        staged.placed = true;
        Self {
            staged,
            sum,
            length,
            room: length,
        }
    }

    /// The same, which goes when nobody holds it.
    pub(super) fn removable(mut self) -> Self {
        self.staged.placed = false;
        self
    }

    /// Returns when all that has come is on the disk.
    pub(super) fn sync(&self) -> Result<(), OriginError> {
        self.staged
            .file
            .sync_data()
            .map_err(OriginError::io("write an upload to the disk"))
    }

    pub(super) fn file(&self) -> &File {
        &self.staged.file
    }
}

impl Arrived {
    /// How many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "an empty file is no special case")]
    pub fn len(&self) -> u64 {
        self.staged.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// Where the disk does not give it.
    pub fn each_block(&self, mut look: impl FnMut(&[u8])) -> Result<(), OriginError> {
        super::tags::each_block(&self.staged.file, |block| look(block))
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.placed {
            let _ = unlinkat(&self.dir, &self.name, AtFlags::empty());
        }
        // The note goes last: as long as the body may be there, it must be found.
        if let Some((dir, note)) = &self.note {
            let _ = unlinkat(dir, note, AtFlags::empty());
        }
    }
}

pub(super) fn make(dir: Arc<OwnedFd>, name: String, note: Option<Note>) -> Result<Staged, OriginError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // As any new file, to the umask's taste.
    let file = openat(&dir, &name, flags, Mode::from_raw_mode(0o666)).map_err(OriginError::met("make a file"))?;
    Ok(Staged {
        file: File::from(file),
        dir,
        name,
        note,
        placed: false,
    })
}

/// Returns when the names in the directory are on the disk.
pub(super) fn sync(dir: impl AsFd) -> Result<(), OriginError> {
    match rustix::fs::fsync(dir) {
        // Some file systems cannot be told to, and have no order of their own to keep.
        Err(Errno::INVAL | Errno::NOSYS) => Ok(()),
        synced => synced.map_err(OriginError::met("write a directory to the disk")),
    }
}

/// `.millpond` in the directory, made and locked.
fn make_place(tree: &Tree) -> Result<OwnedFd, OriginError> {
    let failed = OriginError::met("make the place for unfinished files (.millpond in the directory)");
    match mkdirat(tree.root(), STAGING, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(tree.root(), STAGING, flags, Mode::empty()).map_err(&failed)?;
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            mark(&dir);
            Ok(dir)
        }
        Err(Errno::WOULDBLOCK) => Err(OriginError::InUse),
        Err(errno) => Err(OriginError::met("lock .millpond in the directory")(errno)),
    }
}

/// What tells whether a rename from one directory to another can do: the mount, or on old kernels the device.
pub(super) fn mount_of(dir: impl AsFd) -> Result<u64, OriginError> {
    let failed = OriginError::met("inspect a directory");
    match statx(&dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(stat.stx_mnt_id),
        _ => Ok(rustix::fs::fstat(&dir).map_err(failed)?.st_dev),
    }
}

/// 128 bits that nobody guesses, as text.
pub(super) fn random() -> String {
    let mut bytes = [0; 16];
    // Without randomness names repeat, and making the second fails.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn both(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
