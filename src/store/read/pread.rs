//! Positioned reads of an open file into pooled buffers.
//!
//! A read first asks the kernel for what it has in memory (`preadv2` with `RWF_NOWAIT`). Only when that would block
//! is a thread's hop paid for. A kernel or file system without the flag always hops.

use super::pool;
use crate::ranges::ByteOffset;
use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

/// Up to `len` bytes at `at` that are in memory, at least one unless `len` is 0; `None` where the kernel would block
/// for them.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] where the file ends there, and what the disk reports.
pub fn read_now(file: &File, at: ByteOffset, len: usize) -> io::Result<Option<Bytes>> {
    let block = pool::filled(len, |space| {
        let mut slices = [IoSliceMut::new(space)];
        Ok(rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT)?)
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

/// Whether the byte at `at` is in memory.
pub(in crate::store) fn is_in_memory(file: &File, at: ByteOffset) -> bool {
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    matches!(
        rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT),
        Ok(1)
    )
}

/// [`read_now`], waiting for the disk.
///
/// # Errors
/// As [`read_now`].
pub fn read_blocking(file: &File, at: ByteOffset, len: usize) -> io::Result<Bytes> {
    let block = pool::filled(len, |space| file.read_at(space, at))?;
    if block.is_empty() && len > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(block)
}
