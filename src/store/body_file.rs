//! The body of an object: a sparse file, opened once, read and written at positions.
//!
//! A byte of the object lies at its own offset in the file; what is absent is a hole, or bytes that nobody reads. Which
//! bytes are present the file does not tell: the record and the object's `Progress` do (commit.rs, progress.rs). The
//! file is made by the first write of a new object and never replaced; a body whose name was removed lasts until the
//! last handle closes. Reads and writes may wait for the disk, but for `read_now`.

use super::StoreError;
use super::read::pread;
use super::space::quota;
use crate::ranges::{ByteOffset, ByteRange, RangeSet};
use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags};
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The unit of `st_blocks` (stat(2)), whatever the file system's own.
const STAT_BLOCK_BYTES: u64 = 512;

/// The most pieces that the kernel takes in one call: `IOV_MAX`, 1024 on Linux (writev(2)).
const MOST_PIECES: usize = 1024;

/// Access times of bodies are not used, and without `O_NOATIME` each read checks whether to update them (open(2)).
/// Where the file is another's, or its file system will not have it, reads are merely slower.
fn undated(file: File) -> File {
    if let Ok(flags) = rustix::fs::fcntl_getfl(&file) {
        let _ = rustix::fs::fcntl_setfl(&file, flags | OFlags::NOATIME);
    }
    file
}

#[derive(Debug)]
pub(super) struct Body {
    /// Empty where the file could not be made yet.
    file: OnceLock<File>,
    path: PathBuf,
}

/// Disk space of a file, in bytes.
pub(super) fn disk_bytes(file: &Metadata) -> u64 {
    file.blocks() * STAT_BLOCK_BYTES
}

impl Body {
    /// A body whose file is yet to be made; see [`Body::create`].
    pub(super) fn at(path: &Path) -> Self {
        Self {
            file: OnceLock::new(),
            path: path.to_owned(),
        }
    }

    /// Makes the file, empty; fails where one of that name exists. Its directory is made with the first that needs it.
    fn create(&self) -> Result<(), StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&self.path).or_else(|error| match self.path.parent() {
            Some(shard) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(shard)?;
                options.open(&self.path)
            }
            _ => Err(error),
        });
        let file = file.map_err(StoreError::file("create", &self.path))?;
        // The first caller has made the file.
        let _ = self.file.set(undated(file));
        Ok(())
    }

    /// [`Body::create`], where that has not been done.
    pub(super) fn ensure(&self) -> Result<(), StoreError> {
        match self.file.get() {
            Some(_) => Ok(()),
            None => self.create(),
        }
    }

    /// The body stored at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path);
        // A file system that became read-only still has what was stored.
        let file = file.or_else(|error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => File::open(path),
            _ => Err(error),
        });
        Ok(Self {
            file: undated(file.map_err(StoreError::file("open", path))?).into(),
            path: path.to_owned(),
        })
    }

    pub(super) fn file(&self) -> io::Result<&File> {
        self.file.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The length of the file: no byte past it can be present.
    pub(super) fn file_len(&self) -> Result<u64, StoreError> {
        let metadata = self.file().and_then(File::metadata);
        Ok(metadata.map_err(StoreError::file("inspect", &self.path))?.len())
    }

    /// Up to `len` bytes at `at` that are in memory; `None` where the kernel would block for them.
    pub(super) fn read_now(&self, at: ByteOffset, len: usize) -> io::Result<Option<Bytes>> {
        pread::read_now(self.file()?, at, len)
    }

    /// Up to `len` bytes at `at`, waiting for the disk.
    pub(super) fn read_blocking(&self, at: ByteOffset, len: usize) -> io::Result<Bytes> {
        pread::read_blocking(self.file()?, at, len)
    }

    /// Fills `space` with the bytes at `at`, all of them.
    pub(super) fn read_exact(&self, at: ByteOffset, space: &mut [u8]) -> io::Result<()> {
        self.file()?.read_exact_at(space, at)
    }

    /// Writes all of the pieces at `at`, one after the other, in one call where the kernel takes them.
    pub(super) fn write(&self, at: ByteOffset, pieces: &[&[u8]]) -> io::Result<()> {
        let file = self.file()?;
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let (mut slices, mut at) = (&mut slices[..], at);
        // By nothing: this drops empty pieces, for which a call would return 0.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let most = slices.len().min(MOST_PIECES);
            match rustix::io::pwritev(file, &slices[..most], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    at += count as u64;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Gives the pages of the range back to the file system; they read as zeros from now on.
    pub(super) fn punch(&self, range: ByteRange) -> io::Result<()> {
        // The length stays: the file's end tells whether somebody has cut it.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self.file()?, flags, range.start(), range.len())?)
    }

    /// Gives back all pages in which nothing of `kept` lies, where there are any.
    ///
    /// # Errors
    /// Where the file cannot be inspected. Pages that the file system does not take back stay.
    pub(super) fn trim_to(&self, kept: &RangeSet) -> Result<(), StoreError> {
        let metadata = self.file().and_then(File::metadata);
        let metadata = metadata.map_err(StoreError::file("inspect", &self.path))?;
        let pages = quota::pages_of(kept);
        if disk_bytes(&metadata) <= pages.total() {
            return Ok(());
        }
        let Some(all) = ByteRange::new(0, metadata.len().next_multiple_of(quota::PAGE_BYTES)) else {
            return Ok(());
        };
        for gap in pages.gaps(all) {
            if let Err(error) = self.punch(gap) {
                tracing::warn!(path = %self.path.display(), %error, "could not give back what no record speaks of");
                break;
            }
        }
        Ok(())
    }

    /// Returns when all that was written is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self.file.get() {
            Some(file) => file.sync_data(),
            None => Ok(()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
