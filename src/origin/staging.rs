//! Where bodies lie until they are whole: never visible, none left after a crash.
//!
//! ```text
//! DIR/.millpond/           0700, no path can name it; locked (flock) by the one process that writes to DIR
//!   put-<random>           a body on its way
//!   gone-<random>/         a collection on its way out
//!   note-<random>          where a body lies that had to be put down elsewhere
//!   upload-<id>, .json     an upload that can be resumed (uploads.rs)
//! DIR/disk2/.millpond-<random>   such a body: beneath a mount point a rename from .millpond would not do
//! ```
//!
//! A start removes all of it but the uploads. So does dropping a [`Staged`] that was not put in its place.
//!
//! The time of change of a body is set to the fine-grained present before it is put in its place. The kernel stamps
//! writes with the start of its tick; so whoever writes to the file afterwards gives it another time, even within
//! the same tick, and the digest that was taken while the body came can be believed at once.

use super::error::OriginError;
use super::path::{STAGING, TreePath, UNFINISHED};
use super::tags::{Digest, finished};
use super::tree::Tree;
use crate::clock::{SharedClock, from_unix_seconds};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FlockOperation, Mode, OFlags, StatxFlags, Timespec, Timestamps, fallocate, fchmod,
    flock, futimens, mkdirat, openat, renameat, statat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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
    dir: Arc<OwnedFd>,
    mount: u64,
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
    note: Option<(Arc<OwnedFd>, String)>,
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

impl Staging {
    /// Opens the place in that tree, where so much is to stay free in the file system, and removes what a crash has left.
    ///
    /// # Errors
    /// [`OriginError::InUse`] where another process has it, and what the disk reports.
    pub fn open(tree: Arc<Tree>, min_free_bytes: Option<u64>, clock: SharedClock) -> Result<Self, OriginError> {
        let failed = OriginError::met("make the place for unfinished files (.millpond in the directory)");
        match mkdirat(tree.root(), STAGING, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(tree.root(), STAGING, flags, Mode::empty()).map_err(&failed)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OriginError::InUse),
            Err(errno) => return Err(OriginError::met("lock .millpond in the directory")(errno)),
        }
        let staging = Self {
            mount: mount_of(&dir)?,
            tree,
            dir: Arc::new(dir),
            min_free_bytes,
            clock,
        };
        staging.clean()?;
        Ok(staging)
    }

    /// Lets another process have the place: nothing is written by this one any more, though a connection that ends may
    /// hold it open for a moment longer.
    pub fn release(&self) {
        let _ = flock(&self.dir, FlockOperation::Unlock);
    }

    pub(super) fn dir(&self) -> &Arc<OwnedFd> {
        &self.dir
    }

    /// A new body that will be put into that collection. With a known length its room is reserved.
    ///
    /// # Errors
    /// Where nothing can be put there.
    pub fn begin(&self, collection: &TreePath, length: Option<u64>) -> Result<Incoming, OriginError> {
        let parent = self.tree.for_writing(collection)?;
        self.room(&parent, length.unwrap_or_default())?;
        let staged = match mount_of(&parent)? == self.mount {
            true => make(Arc::clone(&self.dir), format!("put-{}", random()), None)?,
            false => {
                let name = format!("{UNFINISHED}{}", random());
                let note = self.note(collection, &name)?;
                make(Arc::new(parent), name, Some((Arc::clone(&self.dir), note)))?
            }
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
        self.room(&self.dir, length.unwrap_or_default())?;
        let staged = make(Arc::clone(&self.dir), name.to_owned(), None)?;
        Ok(Incoming::kept(staged, Some(Context::new(&SHA256)), 0))
    }

    /// How many bytes lie in the place under that name; `None` where nothing does.
    pub(super) fn length_of(&self, name: &str) -> Result<Option<u64>, OriginError> {
        match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or_default())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(OriginError::met("inspect an upload")(errno)),
        }
    }

    /// A body that lies in the place already, cut to the length that is known to be on the disk.
    pub(super) fn adopt(&self, name: &str, length: u64) -> Result<Incoming, OriginError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, name, flags, Mode::empty()).map_err(OriginError::met("open an upload"))?;
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
            dir: Arc::clone(&self.dir),
            name: name.to_owned(),
            note: None,
            placed: true,
        };
        Ok(Incoming::kept(staged, None, length))
    }

    /// Makes of an upload a body like any other, where a rename can put it into that collection. From then on nothing has
    /// the upload's name: what an exchange puts in the place of the body must never be taken for the upload after a crash.
    pub(super) fn finish_upload(
        &self,
        body: &Incoming,
        collection: &TreePath,
        modified: Option<u64>,
    ) -> Result<Arrived, OriginError> {
        let digest = match &body.sum {
            Some(sum) => finished(sum.clone()),
            // It has been through a restart: what came before is read again.
            None => super::tags::sum(&body.staged.file)?,
        };
        let mut from = body
            .staged
            .file
            .try_clone()
            .map_err(OriginError::io("open an upload"))?;
        if mount_of(self.tree.for_writing(collection)?)? != self.mount {
            let there = self.begin(collection, Some(body.length))?;
            let failed = OriginError::io("copy an upload to its file system");
            from.rewind().map_err(&failed)?;
            std::io::copy(&mut from, &mut &there.staged.file).map_err(failed)?;
            return self.settle(there.staged, digest, modified);
        }
        let time = self.give_time(&from, modified)?;
        let (failed, name) = (OriginError::met("rename an upload"), format!("put-{}", random()));
        renameat(&self.dir, &body.staged.name, &self.dir, &name).map_err(failed)?;
        let staged = Staged {
            file: from,
            dir: Arc::clone(&self.dir),
            name,
            note: None,
            placed: false,
        };
        sync(&self.dir)?;
        Ok(Arrived {
            staged,
            digest,
            modified: time,
        })
    }

    /// A name in the place for something on its way out.
    pub(super) fn way_out() -> String {
        format!("gone-{}", random())
    }

    /// Removes a collection that was moved here under that name. What does not go now is tried again at the next start.
    pub fn discard(&self, name: &str) {
        if let Err(error) = remove_all(&self.dir, name) {
            tracing::warn!(name, %error, "not all of what was removed could be; the rest lies in .millpond");
        }
    }

    /// Gives a body that is whole its time, and returns when all of it is on the disk.
    fn settle(&self, staged: Staged, digest: Digest, modified: Option<u64>) -> Result<Arrived, OriginError> {
        let modified = self.give_time(&staged.file, modified)?;
        Ok(Arrived {
            staged,
            digest,
            modified,
        })
    }

    /// The same for its file; the time, in nanoseconds since 1970.
    fn give_time(&self, file: &File, modified: Option<u64>) -> Result<i128, OriginError> {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The client's second, with a fraction that no tick has.
        let at = from_unix_seconds(modified.unwrap_or(now.as_secs()));
        let time = timespec(at + std::time::Duration::from_nanos(u64::from(now.subsec_nanos())));
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        futimens(file, &times).map_err(OriginError::met("set a file's time"))?;
        file.sync_all().map_err(OriginError::io("write a file to the disk"))?;
        Ok(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
    }

    /// A copy that has come whole: its bytes and the digest of what it is a copy of.
    pub(super) fn settle_copy(&self, incoming: Incoming, digest: Digest) -> Result<Arrived, OriginError> {
        self.settle(incoming.staged, digest, None)
    }

    /// Writes down where a body lies that is not here, before it is made.
    fn note(&self, collection: &TreePath, name: &str) -> Result<String, OriginError> {
        let note = format!("note-{}", random());
        let mut staged = make(Arc::clone(&self.dir), note.clone(), None)?;
        let text = collection.child(name).to_string();
        let written = staged
            .file
            .write_all(text.as_bytes())
            .and_then(|()| staged.file.sync_all());
        written.map_err(OriginError::io("write a note"))?;
        sync(&self.dir)?;
        staged.placed = true;
        Ok(note)
    }

    fn clean(&self) -> Result<(), OriginError> {
        let failed = OriginError::met("clean .millpond in the directory");
        for entry in Dir::read_from(&self.dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." || name.starts_with(UPLOAD) {
                continue;
            }
            if name.starts_with("note-") {
                self.follow(&name);
            }
            self.discard(&name);
        }
        Ok(())
    }

    /// Removes the body that a note speaks of.
    fn follow(&self, note: &str) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = openat(&self.dir, note, flags, Mode::empty()) else {
            return;
        };
        let mut text = String::new();
        let read = File::from(file).take(1 << 20).read_to_string(&mut text);
        let path = read.ok().and_then(|_| TreePath::parse(&text).ok());
        // A note that was not written whole is of a body that was not made.
        let Some(path) = path.filter(|path| path.name().is_some_and(|name| name.starts_with(UNFINISHED))) else {
            return;
        };
        if let (Ok(parent), Some(name)) = (self.tree.for_writing(&path.parent()), path.name()) {
            let _ = unlinkat(parent, name, AtFlags::empty());
        }
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
    pub fn finish(self, staging: &Staging, modified: Option<u64>) -> Result<Arrived, OriginError> {
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

fn make(dir: Arc<OwnedFd>, name: String, note: Option<(Arc<OwnedFd>, String)>) -> Result<Staged, OriginError> {
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
    rustix::fs::fsync(dir).map_err(OriginError::met("write a directory to the disk"))
}

/// Removes what is there, links themselves and not what they lead to; what is gone already is no error.
fn remove_all(dir: &OwnedFd, name: impl Arg + Copy) -> Result<(), OriginError> {
    let failed = OriginError::met("remove what is unfinished");
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // What POSIX says of a directory, and what Linux does.
        Err(Errno::PERM | Errno::ISDIR) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty()).map_err(&failed)?;
    // A directory of ours may forbid even us to take things out of it.
    let _ = fchmod(&inner, Mode::RWXU);
    let mut kept = Ok(());
    for entry in Dir::read_from(&inner).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            // One thing that cannot be removed keeps none of the others.
            kept = kept.and(remove_all(&inner, entry.file_name()));
        }
    }
    kept.and_then(|()| unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed))
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

fn timespec(time: SystemTime) -> Timespec {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(since.subsec_nanos()),
    }
}
