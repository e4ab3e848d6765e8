//! SHA-256 of files: the digest that an entity tag, `Repr-Digest` and the cache of digests are made of.
//!
//! A file is read in blocks by its position, so a handle that others read from keeps its own. Everything here waits for the
//! disk, for as long as the file is large: no lock is held meanwhile, and a reading can be broken off between two blocks.

use super::error::DirectoryError;
use crate::crypto::digest::{Context, SHA256};
use crate::store::BLOCK_BYTES;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A SHA-256.
pub type Digest = [u8; 32];

/// The digest of a whole file, hashed now.
///
/// # Errors
/// Where the disk does not give it.
pub fn sha256_of(file: &File) -> Result<Digest, DirectoryError> {
    let mut context = Context::new(&SHA256);
    each_block(file, |block| context.update(block))?;
    Ok(finish_sha256(context))
}

/// Reads a whole file, block by block.
pub(super) fn each_block(file: &File, mut look: impl FnMut(&[u8])) -> Result<(), DirectoryError> {
    try_each_block(file, |block| {
        look(block);
        Ok(())
    })
}

/// The same for a `look` that can fail.
pub(super) fn try_each_block(
    file: &File,
    mut look: impl FnMut(&[u8]) -> Result<(), DirectoryError>,
) -> Result<(), DirectoryError> {
    let mut space = vec![0; BLOCK_BYTES];
    let mut at = 0;
    loop {
        match file
            .read_at(&mut space, at)
            .map_err(DirectoryError::from_io("read a file"))?
        {
            0 => return Ok(()),
            count => {
                look(&space[..count])?;
                at += count as u64;
            }
        }
    }
}

/// The digest that a running hash has come to.
pub(super) fn finish_sha256(context: Context) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
