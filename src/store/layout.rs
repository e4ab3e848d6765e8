//! Where things lie in the data directory, and the lock by which one process owns it.
//!
//! Every name is made here and read back here: a body is named by its object's id and its generation, so two
//! generations never share a file, and a file tells which object it belongs to without a catalog. The first two digits
//! of the id name its directory, 256 of them, so that none grows past what a file system lists quickly. Names hold
//! hexadecimal digits alone: nothing that an upstream or a client says becomes part of a path.

use super::error::StoreError;
use crate::key::ObjectId;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where things lie in the data directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
}

impl Layout {
    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(super) fn catalog(&self) -> PathBuf {
        self.dir.join("catalog")
    }

    /// The file that says how much is used; see quota.rs.
    pub(super) fn ledger(&self) -> PathBuf {
        self.dir.join("space")
    }

    /// Makes the data directory, where it does not exist. What others fetched is nobody's to read on the disk: a
    /// directory of ours is its owner's alone, also one that an older version has made.
    pub(super) fn create(&self) -> Result<(), StoreError> {
        let objects = self.objects();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&objects)
            .map_err(StoreError::file("create", &objects))?;
        close_to_others(&objects);
        Ok(())
    }

    /// The directory of all bodies whose ids begin alike.
    pub(super) fn shard(&self, id: ObjectId) -> PathBuf {
        self.objects().join(&id.to_string()[..2])
    }

    pub(super) fn body(&self, id: ObjectId, generation: u64) -> PathBuf {
        self.shard(id).join(format!("{id}-{generation:016x}.body"))
    }
}

/// Takes the rights of all but its owner from a directory. Where that fails, as on a file system without rights, it stays
/// as it is.
pub(super) fn close_to_others(dir: &Path) {
    let Ok(metadata) = dir.metadata() else { return };
    let mode = metadata.permissions().mode();
    if mode & 0o077 == 0 {
        return;
    }
    if let Err(error) = std::fs::set_permissions(dir, Permissions::from_mode(mode & 0o700)) {
        tracing::warn!(path = %dir.display(), %error, "other users of this machine can read what is stored");
    }
}

/// The object and generation that a body or manifest is named for.
pub(super) fn parse_name(path: &Path) -> Option<(ObjectId, u64)> {
    let (id, generation) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((ObjectId::parse(id)?, u64::from_str_radix(generation, 16).ok()?))
}

/// The lock of a data directory.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // Said aloud: a child process between fork and exec holds a copy of the descriptor, and closing
        // ours alone would leave the directory locked until then.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

/// Makes this process the owner of `dir`.
pub(super) fn lock_directory(dir: &Path) -> Result<DirLock, StoreError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(StoreError::file("open", &path))?;
    // `flock`, not a file that exists or not: the kernel gives it back however the process ends.
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.trim().is_empty() {
            "process unknown".to_owned()
        } else {
            holder.trim().to_owned()
        };
        return Err(StoreError::InUse {
            dir: dir.to_owned(),
            holder,
        });
    }
    // The owner's name is for people; a full disk is no reason not to start.
    if let Err(error) = file
        .set_len(0)
        .and_then(|()| writeln!(file, "process {}", std::process::id()))
    {
        tracing::warn!(path = %path.display(), %error, "could not write the owner into the lock");
    }
    Ok(DirLock(file))
}
