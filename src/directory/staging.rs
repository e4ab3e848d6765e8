//! Staging: where bodies lie until they are whole. They are never visible, and none is left after a crash.
//!
//! ```text
//! DIR/.millpond/                 0700, no path can name it; locked (flock) by the one process that writes to DIR
//!   put-<random>                 a body, collection or link that is not placed yet
//!   gone-, kept-, note-          entries that were taken out of the tree (removal.rs)
//!   upload-<id>, .json           a resumable upload (uploads.rs)
//!   root                         a mark by which the directory is recognised (root_identity.rs)
//! DIR/disk2/.millpond-<random>   a body beside its place
//! ```
//!
//! ```text
//! begin ──► IncomingBody ──finish──► ReceivedBody ──► placed by a rename (atomic_rename.rs)
//!             written, hashed          time of change set, synced
//!                │                        │
//!                └─────── dropped ────────┴──► removed, then its note
//! ```
//!
//! A start recovers: it removes all of this but the uploads, the mark and the backups (recovery.rs).
//!
//! A body lies beside its place, with a note in `.millpond`, where a rename(2) from there would not reach it (another
//! mount, a subvolume, a branch of a union), and where new files inherit something from their collection (its group,
//! its default access list). `.millpond` may be removed by others (`rsync --delete`, `git clean`): it is made again,
//! and that is logged, as long as the root is the directory that was opened.
//!
//! The time of change of a body is set to the fine-grained present before it is placed. The kernel stamps writes with
//! the start of its tick, so a write to the file after that gets another time, even within the same tick, and the
//! digest that was taken while the body came can be believed at once.

use super::attributes::is_inherited_from;
use super::error::DirectoryError;
use super::path::{STAGED_PREFIX, STAGING_DIR, TreePath};
use super::random_name::random_name;
use super::root_identity::write_mark;
use super::sha256::{Digest, finish_sha256};
use super::staged_body::{StagedBody, create_staged_file};
use super::trash::{StagedEntry, Trash};
use super::tree::{Tree, mount_id};
use crate::clock::SharedClock;
use crate::crypto::digest::{Context, SHA256};
use crate::sync::{read, write};
use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, fallocate, flock, futimens,
    mkdirat, openat, statat, symlinkat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io::Seek;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, RwLock};
use std::time::UNIX_EPOCH;

/// The shortest body whose room is reserved before it comes: a judgement.
const PREALLOCATE_FROM: u64 = 1 << 20;

/// The bytes that are left free in the file system unless the operator says otherwise, and a twentieth of it at most:
/// judgements.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// The bytes that a body of unknown length may grow before the free space is looked at again: a judgement.
const CHECK_SPACE_EVERY: u64 = 16 << 20;

/// The start of an upload's names in staging. Recovery leaves them alone.
pub(super) const UPLOAD_PREFIX: &str = "upload-";

/// The staging of one tree: everything that is not whole yet.
#[derive(Debug)]
pub struct Staging {
    tree: Arc<Tree>,
    /// `.millpond`, open and locked. It is replaced when somebody has removed the directory; the lock is held for the
    /// few system calls that make it again, and else only to clone the handle.
    dir: RwLock<Arc<OwnedFd>>,
    min_free_bytes: Option<u64>,
    clock: SharedClock,
}

/// A body that is being received, and the running hash of it.
pub struct IncomingBody {
    staged: StagedBody,
    /// `None` where some of the body came before a restart: it is read again in the end.
    sum: Option<Context>,
    length: u64,
    /// The length up to which the free space has been looked at.
    room_until: u64,
}

/// A body that was received whole and is on the disk.
#[derive(Debug)]
pub struct ReceivedBody {
    pub(super) staged: StagedBody,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// The time of change that it was given, in nanoseconds since 1970.
    pub(super) modified: i128,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A child process between fork and exec has a copy of the descriptor: closing ours alone would leave the lock
        // held until then.
        self.release();
    }
}

impl Staging {
    /// Opens and locks `.millpond` in that tree, and recovers from a crash. `min_free_bytes` stay free in the file
    /// system.
    ///
    /// # Errors
    /// [`DirectoryError::InUse`] where another process has it, and what the disk reports.
    pub fn open(tree: Arc<Tree>, min_free_bytes: Option<u64>, clock: SharedClock) -> Result<Self, DirectoryError> {
        let staging = Self {
            dir: RwLock::new(Arc::new(open_staging_dir(&tree)?)),
            tree,
            min_free_bytes,
            clock,
        };
        staging.recover()?;
        Ok(staging)
    }

    /// Unlocks `.millpond` for another process. This one writes nothing any more, though a connection that ends may
    /// hold the directory open for a moment longer.
    pub fn release(&self) {
        let _ = flock(&**read(&self.dir), FlockOperation::Unlock);
    }

    /// `.millpond`, made again where somebody has removed it.
    ///
    /// # Errors
    /// [`DirectoryError::RootGone`] where the directory has gone, and what the disk reports.
    pub(super) fn dir(&self) -> Result<Arc<OwnedFd>, DirectoryError> {
        let dir = Arc::clone(&read(&self.dir));
        if self.is_in_place(&dir)? {
            return Ok(dir);
        }
        let mut current = write(&self.dir);
        if !self.is_in_place(&current)? {
            self.tree.check_root()?;
            *current = Arc::new(open_staging_dir(&self.tree)?);
            tracing::error!(path = %self.tree.path().display(), "somebody has removed .millpond from the directory, and with it what was being written; it is made again: keep cleaners and mirrors off it");
        }
        Ok(Arc::clone(&current))
    }

    fn is_in_place(&self, dir: &OwnedFd) -> Result<bool, DirectoryError> {
        let failed = DirectoryError::from_errno("inspect .millpond");
        let held = rustix::fs::fstat(dir).map_err(&failed)?;
        match statat(self.tree.root(), STAGING_DIR, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Whether a body in `.millpond` can be renamed into that collection, and be there as if it had been made there.
    fn can_rename_into(dir: &OwnedFd, parent: &OwnedFd) -> Result<bool, DirectoryError> {
        let device = |dir: &OwnedFd| rustix::fs::fstat(dir).map(|stat| stat.st_dev);
        let failed = DirectoryError::from_errno("inspect a directory");
        let same = device(dir).map_err(&failed)? == device(parent).map_err(&failed)?;
        Ok(same && mount_id(dir)? == mount_id(parent)? && !is_inherited_from(parent))
    }

    /// A new body beside its place, with a note of where it lies.
    fn stage_beside(
        &self,
        dir: Arc<OwnedFd>,
        collection: &TreePath,
        parent: OwnedFd,
    ) -> Result<StagedBody, DirectoryError> {
        let name = format!("{STAGED_PREFIX}{}", random_name());
        let note = self.write_note(&dir, &collection.child(&name), None)?;
        create_staged_file(Arc::new(parent), name, Some((dir, note)))
    }

    /// Copies a body beside its place, where a rename from `.millpond` did not get there.
    pub(super) fn restage_beside(&self, staged: &mut StagedBody, collection: &TreePath) -> Result<(), DirectoryError> {
        let there = self.stage_beside(self.dir()?, collection, self.tree.open_for_writing(collection)?)?;
        let failed = DirectoryError::from_io("copy a body to its file system");
        let mut from = staged.file.try_clone().map_err(&failed)?;
        from.rewind().map_err(&failed)?;
        std::io::copy(&mut from, &mut &*there.file).map_err(&failed)?;
        let stat = rustix::fs::fstat(&staged.file).map_err(DirectoryError::from_errno("inspect a body"))?;
        let time = Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        };
        let _ = futimens(&there.file, &both_times(time));
        there.file.sync_all().map_err(failed)?;
        std::mem::replace(staged, there).release();
        Ok(())
    }

    /// A new body that will be placed in that collection. With a known length its room is reserved.
    ///
    /// # Errors
    /// Where nothing can be put there.
    pub fn begin(&self, collection: &TreePath, length: Option<u64>) -> Result<IncomingBody, DirectoryError> {
        let (dir, parent) = (self.dir()?, self.tree.open_for_writing(collection)?);
        self.check_free_space(&parent, length.unwrap_or_default())?;
        let staged = match Self::can_rename_into(&dir, &parent)? {
            true => create_staged_file(dir, format!("put-{}", random_name()), None)?,
            false => self.stage_beside(dir, collection, parent)?,
        };
        if let Some(length) = length.filter(|length| *length >= PREALLOCATE_FROM) {
            let reserved = fallocate(&staged.file, FallocateFlags::KEEP_SIZE, 0, length);
            // A file system that cannot reserve is no error.
            if let Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) = reserved {
                return Err(DirectoryError::NoRoom);
            }
        }
        Ok(IncomingBody {
            staged,
            sum: Some(Context::new(&SHA256)),
            length: 0,
            room_until: length.unwrap_or_default(),
        })
    }

    /// Fails unless the file system has room for so many bytes more.
    pub(super) fn check_free_space(&self, dir: impl AsFd, bytes: u64) -> Result<(), DirectoryError> {
        let stat = rustix::fs::fstatvfs(dir).map_err(DirectoryError::from_errno("ask for the room on the disk"))?;
        let reserve = self
            .min_free_bytes
            .unwrap_or(MIN_FREE_BYTES.min(stat.f_blocks.saturating_mul(stat.f_frsize) / 20));
        match stat.f_bavail.saturating_mul(stat.f_frsize) >= bytes.saturating_add(reserve) {
            true => Ok(()),
            false => Err(DirectoryError::NoRoom),
        }
    }

    /// A new body for an upload: in `.millpond`, where it stays when it is dropped.
    pub(super) fn create_upload_body(&self, name: &str, length: Option<u64>) -> Result<IncomingBody, DirectoryError> {
        let dir = self.dir()?;
        self.check_free_space(&dir, length.unwrap_or_default())?;
        let staged = create_staged_file(dir, name.to_owned(), None)?;
        Ok(IncomingBody::retained(staged, Some(Context::new(&SHA256)), 0))
    }

    /// The length of an upload's body; `None` where there is none.
    pub(super) fn upload_length(&self, name: &str) -> Result<Option<u64>, DirectoryError> {
        Ok(self
            .inspect_upload(name)?
            .map(|stat| u64::try_from(stat.st_size).unwrap_or_default()))
    }

    /// The state of an upload's file; `None` where there is none.
    pub(super) fn inspect_upload(&self, name: &str) -> Result<Option<Stat>, DirectoryError> {
        match statat(&*self.dir()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(DirectoryError::from_errno("inspect an upload")(errno)),
        }
    }

    /// An upload's body, truncated to the length that is known to be on the disk.
    pub(super) fn open_upload_body(&self, name: &str, length: u64) -> Result<IncomingBody, DirectoryError> {
        let dir = self.dir()?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&dir, name, flags, Mode::empty()).map_err(DirectoryError::from_errno("open an upload"))?;
        let file = File::from(file);
        let failed = DirectoryError::from_io("cut an upload to what is known of it");
        let there = file.metadata().map_err(&failed)?.len();
        if there < length {
            return Err(DirectoryError::Disk {
                doing: "find all of an upload",
                source: std::io::ErrorKind::UnexpectedEof.into(),
            });
        }
        file.set_len(length).map_err(failed)?;
        let staged = StagedBody::new(file, dir, name.to_owned(), None, true);
        Ok(IncomingBody::retained(staged, None, length))
    }

    /// Makes a received body of an upload's. It keeps its name until it is placed, so that a change which fails costs
    /// none of its bytes.
    pub(super) fn finish_upload(
        &self,
        body: &IncomingBody,
        collection: &TreePath,
        modified: Option<i64>,
    ) -> Result<ReceivedBody, DirectoryError> {
        let digest = match &body.sum {
            Some(sum) => finish_sha256(sum.clone()),
            // The upload has been through a restart: what came before is read again.
            None => super::sha256::sha256_of(&body.staged.file)?,
        };
        let failed = DirectoryError::from_io("open an upload");
        let file = body.staged.file.try_clone().map_err(failed)?;
        let (dir, name) = (Arc::clone(&body.staged.dir), body.staged.name.clone());
        let mut staged = StagedBody::new(file, dir, name, None, true);
        if !Self::can_rename_into(&staged.dir, &self.tree.open_for_writing(collection)?)? {
            self.restage_beside(&mut staged, collection)?;
        }
        self.finalize(staged, digest, modified)
    }

    /// A new directory in which a collection is put together, from where a rename can place it: in `.millpond`, or
    /// `beside` its place where that is the only way.
    pub(super) fn begin_collection(&self, collection: &TreePath, beside: bool) -> Result<StagedEntry, DirectoryError> {
        self.begin_entry(collection, beside, |dir, name| {
            mkdirat(dir, name, Mode::from_raw_mode(0o777))
        })
    }

    /// A new link to that target, to be placed.
    pub(super) fn begin_link(
        &self,
        collection: &TreePath,
        target: &CStr,
        beside: bool,
    ) -> Result<StagedEntry, DirectoryError> {
        self.begin_entry(collection, beside, |dir, name| symlinkat(target, dir, name))
    }

    fn begin_entry(
        &self,
        collection: &TreePath,
        beside: bool,
        make: impl FnOnce(&OwnedFd, &str) -> rustix::io::Result<()>,
    ) -> Result<StagedEntry, DirectoryError> {
        let (dir, parent) = (self.dir()?, self.tree.open_for_writing(collection)?);
        let failed = DirectoryError::from_errno("make a collection");
        let place = match !beside && Self::can_rename_into(&dir, &parent)? {
            true => Trash {
                name: format!("put-{}", random_name()),
                dir,
                note: None,
            },
            false => {
                let name = format!("{STAGED_PREFIX}{}", random_name());
                let note = self.write_note(&dir, &collection.child(&name), None)?;
                let (note, dir) = (Some((dir, note)), Arc::new(parent));
                Trash { dir, name, note }
            }
        };
        make(&place.dir, &place.name).map_err(failed)?;
        Ok(StagedEntry::new(place))
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Gives a whole body its time of change, and returns when all of it is on the disk.
    fn finalize(
        &self,
        staged: StagedBody,
        digest: Digest,
        modified: Option<i64>,
    ) -> Result<ReceivedBody, DirectoryError> {
        let modified = self.set_mtime(&staged.file, modified)?;
        Ok(ReceivedBody {
            staged,
            digest,
            modified,
        })
    }

    /// Sets the time of change, and returns it in nanoseconds since 1970.
    fn set_mtime(&self, file: &File, modified: Option<i64>) -> Result<i128, DirectoryError> {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The second is the client's; the fraction is of the clock, which no tick of the kernel's has.
        let time = Timespec {
            tv_sec: modified.unwrap_or(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)),
            tv_nsec: i64::from(now.subsec_nanos()),
        };
        // A file system that sets no times, or keeps none of the fraction, is no error: then the digest is not
        // remembered at once, since a later write could have the same time.
        let _ = futimens(file, &both_times(time));
        file.sync_all()
            .map_err(DirectoryError::from_io("write a file to the disk"))?;
        Ok(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
    }

    /// A copy that is whole, with the digest of its original.
    pub(super) fn finalize_copy(&self, incoming: IncomingBody, digest: Digest) -> Result<ReceivedBody, DirectoryError> {
        self.finalize(incoming.staged, digest, None)
    }
}

impl IncomingBody {
    /// Appends bytes.
    ///
    /// # Errors
    /// Where the disk does not take them.
    pub fn write(&mut self, staging: &Staging, bytes: &[u8]) -> Result<(), DirectoryError> {
        if self.length + bytes.len() as u64 > self.room_until {
            staging.check_free_space(&self.staged.dir, CHECK_SPACE_EVERY)?;
            self.room_until = self.length + CHECK_SPACE_EVERY;
        }
        let file = &self.staged.file;
        file.write_all_at(bytes, self.length)
            .map_err(DirectoryError::from_io("write a file"))?;
        if let Some(sum) = &mut self.sum {
            sum.update(bytes);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The bytes that have come.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether no bytes have come.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Ends a body that has come whole; returns when it is on the disk. `modified` is the time that the client gives
    /// the file, in seconds since 1970.
    ///
    /// # Errors
    /// Where the disk does not take them.
    pub fn finish(self, staging: &Staging, modified: Option<i64>) -> Result<ReceivedBody, DirectoryError> {
        let digest = match self.sum {
            Some(sum) => finish_sha256(sum),
            None => super::sha256::sha256_of(&self.staged.file)?,
        };
        staging.finalize(self.staged, digest, modified)
    }

    /// A body that stays where it lies when it is dropped.
    fn retained(mut staged: StagedBody, sum: Option<Context>, length: u64) -> Self {
        staged.placed = true;
        Self {
            staged,
            sum,
            length,
            room_until: length,
        }
    }

    /// The same body, which is removed when it is dropped.
    pub(super) fn discard_on_drop(mut self) -> Self {
        self.staged.placed = false;
        self
    }

    /// Returns when all bytes so far are on the disk.
    pub(super) fn sync(&self) -> Result<(), DirectoryError> {
        self.staged
            .file
            .sync_data()
            .map_err(DirectoryError::from_io("write an upload to the disk"))
    }

    pub(super) fn file(&self) -> &File {
        &self.staged.file
    }

    /// Gives it up on this thread, which may wait for the disk.
    pub fn release(self) {
        self.staged.release();
    }
}

impl ReceivedBody {
    /// Lets go of it on this thread, which may wait for the disk: it is removed where it was not placed.
    pub fn release(self) {
        self.staged.release();
    }

    /// The length.
    #[expect(clippy::len_without_is_empty, reason = "an empty file is no special case")]
    pub fn len(&self) -> u64 {
        self.staged.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Reads all of it, block by block.
    ///
    /// # Errors
    /// Where the disk does not give it.
    pub fn each_block(&self, mut look: impl FnMut(&[u8])) -> Result<(), DirectoryError> {
        super::sha256::each_block(&self.staged.file, |block| look(block))
    }
}

impl std::fmt::Debug for IncomingBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Returns when the names in the directory are on the disk.
pub(super) fn sync_directory(dir: impl AsFd) -> Result<(), DirectoryError> {
    match rustix::fs::fsync(dir) {
        // Some file systems refuse fsync(2) on a directory; nothing better is to be had there.
        Err(Errno::INVAL | Errno::NOSYS) => Ok(()),
        synced => synced.map_err(DirectoryError::from_errno("write a directory to the disk")),
    }
}

/// Makes `.millpond` in the directory, opens and locks it.
fn open_staging_dir(tree: &Tree) -> Result<OwnedFd, DirectoryError> {
    let failed = DirectoryError::from_errno("make the place for unfinished files (.millpond in the directory)");
    match mkdirat(tree.root(), STAGING_DIR, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(tree.root(), STAGING_DIR, flags, Mode::empty()).map_err(&failed)?;
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            write_mark(&dir);
            Ok(dir)
        }
        Err(Errno::WOULDBLOCK) => Err(DirectoryError::InUse),
        Err(errno) => Err(DirectoryError::from_errno("lock .millpond in the directory")(errno)),
    }
}

fn both_times(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
