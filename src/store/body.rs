//! One body: a sparse file, opened once, read and written at positions.
//!
//! A read first asks the kernel for what it has in memory (`preadv2` with `RWF_NOWAIT`). Only when
//! that would block is a thread's hop paid for. A kernel or file system without the flag always hops.

use super::StoreError;
use super::pool;
use crate::ranges::ByteOffset;
use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Body {
    file: File,
    path: PathBuf,
}

impl Body {
    /// A new, empty body; fails where one of that name exists.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Self::open_with(&options, path, "create")
    }

    /// The body stored at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(OpenOptions::new().read(true).write(true), path, "open")
    }

    fn open_with(options: &OpenOptions, path: &Path, action: &'static str) -> Result<Self, StoreError> {
        let file = options.open(path).map_err(StoreError::file(action, path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// The length of the file: no byte past it can be present.
    pub(super) fn file_len(&self) -> Result<u64, StoreError> {
        let metadata = self.file.metadata().map_err(StoreError::file("inspect", &self.path))?;
        Ok(metadata.len())
    }

    /// Up to `len` bytes at `at` that are in memory; `None` where the kernel would block for them.
    pub(super) fn read_now(&self, at: ByteOffset, len: usize) -> io::Result<Option<Bytes>> {
        let block = pool::filled(len, |space| {
            let mut slices = [IoSliceMut::new(space)];
            Ok(rustix::io::preadv2(
                &self.file,
                &mut slices,
                at,
                ReadWriteFlags::NOWAIT,
            )?)
        });
        match block {
            Ok(block) if block.is_empty() && len > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(block) => Ok(Some(block)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS | Errno::INVAL) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Up to `len` bytes at `at`, waiting for the disk.
    pub(super) fn read_blocking(&self, at: ByteOffset, len: usize) -> io::Result<Bytes> {
        let block = pool::filled(len, |space| self.file.read_at(space, at))?;
        if block.is_empty() && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(block)
    }

    /// Writes all of `bytes` at `at`.
    pub(super) fn write(&self, at: ByteOffset, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Returns when all that was written is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
