//! Which bytes a file holds: SHA-256 by content, remembered by stamp.
//!
//! A tag made of size and time is not strong: two states within one second, or one tick of the kernel's clock, or
//! with a time that was put back, would share it. So the tag is of the bytes. What is remembered of a file is
//! believed only while all of its stamp is as it was: device, inode, size, and both times in nanoseconds.
//!
//! ```text
//! last written 2 s ago or more    remembered     a later change cannot have the same times
//! written just now                not remembered each asker has it read again
//! written by ourselves            remembered     its time of change was set to one no tick has (staging.rs)
//! ```
//!
//! Files up to [`INLINE_BYTES`] are read while the client waits; larger ones by a thread of their own, one at a
//! time, and until then a weak tag of the stamp goes out. What is remembered survives a restart (`keep`, `load`):
//! losing it costs reading, never truth.

use super::error::OriginError;
use super::tree::{Stamp, stamp};
use crate::clock::SharedClock;
use crate::header::EntityTag;
use crate::store::BLOCK_BYTES;
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// The largest file that is read while its client waits for the header.
pub const INLINE_BYTES: u64 = 4 << 20;

/// How long a file must have rested before what was read of it is remembered.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// How many files are remembered; beyond that the least recently asked for half is forgotten.
const MAX_KNOWN: usize = 400_000;

/// The first bytes of the file that keeps them, and its version.
const MAGIC: &[u8; 8] = b"mptags\x00\x01";

/// A SHA-256.
pub type Digest = [u8; 32];

/// What a client is told of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// Their digest.
    Strong(Digest),
    /// Not read yet: what the operating system says of the file.
    Weak(Stamp),
}

impl Tag {
    /// As an `ETag`.
    pub fn entity_tag(&self) -> EntityTag {
        match self {
            Self::Strong(digest) => EntityTag::strong(&hex(digest)),
            Self::Weak(stamp) => weak_tag(stamp),
        }
    }

    /// The digest, where it is known.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Strong(digest) => Some(digest),
            Self::Weak(_) => None,
        }
    }
}

/// What goes out for that state of a file while nobody has read it. The time of change is in it: who edits a file and puts
/// its time back changes that all the same.
pub fn weak_tag(stamp: &Stamp) -> EntityTag {
    let Stamp {
        ino,
        size,
        modified,
        changed,
        ..
    } = stamp;
    EntityTag::weak(&format!("{size:x}-{modified:x}-{changed:x}-{ino:x}"))
}

fn hex(digest: &Digest) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    digest
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Known {
    size: u64,
    modified: i128,
    changed: i128,
    digest: Digest,
    /// When it was last asked for: a count, not a time.
    used: u64,
}

/// The digests that are known.
#[derive(Debug)]
pub struct Tags {
    known: Mutex<HashMap<(u64, u64), Known>>,
    uses: AtomicU64,
    changed: AtomicBool,
    clock: SharedClock,
    file: Option<PathBuf>,
}

impl Tags {
    /// Those that are kept in `file`, where there is one; what it holds that does not read is none.
    pub fn load(file: Option<PathBuf>, clock: SharedClock) -> Self {
        let known = file.as_deref().and_then(read).unwrap_or_default();
        let last = known.values().map(|known| known.used).max().unwrap_or_default();
        Self {
            known: Mutex::new(known),
            uses: AtomicU64::new(last + 1),
            changed: AtomicBool::new(false),
            clock,
            file,
        }
    }

    /// The digest of that state of a file, where it is known.
    pub fn known(&self, stamp: &Stamp) -> Option<Digest> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get_mut(&(stamp.dev, stamp.ino))?;
        let same = (found.size, found.modified, found.changed) == (stamp.size, stamp.modified, stamp.changed);
        same.then(|| {
            found.used = self.uses.fetch_add(1, Ordering::Relaxed);
            found.digest
        })
    }

    /// Remembers a digest; whoever calls this knows that no other bytes can come under that stamp.
    pub(super) fn insert(&self, stamp: &Stamp, digest: Digest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            let mut uses: Vec<u64> = known.values().map(|known| known.used).collect();
            let middle = uses.len() / 2;
            let (_, &mut limit, _) = uses.select_nth_unstable(middle);
            known.retain(|_, known| known.used >= limit);
        }
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let entry = Known {
            size: stamp.size,
            modified: stamp.modified,
            changed: stamp.changed,
            digest,
            used,
        };
        known.insert((stamp.dev, stamp.ino), entry);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// What may be said of the file without reading it: a strong tag where it is known, else a weak one.
    pub fn at_once(&self, stamp: &Stamp) -> Tag {
        self.known(stamp).map_or(Tag::Weak(*stamp), Tag::Strong)
    }

    /// Whether a file has rested long enough for what is read of it to be remembered.
    pub fn is_settled(&self, stamp: &Stamp) -> bool {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        // A write to come gives the file a time of about now: it must be another than this, be that past or future.
        let is_distant = |time: i128| (now - time).unsigned_abs() >= SETTLED_AFTER.as_nanos();
        // The time of change counts as well: a file whose times were put back is as new as that.
        is_distant(stamp.modified) && is_distant(stamp.changed)
    }

    /// The digest of an open file, read now if it has to be, and remembered if that can be relied upon.
    ///
    /// # Errors
    /// [`OriginError::Changing`] where it is written while it is read, and whatever the disk reports.
    pub fn digest(&self, file: &File) -> Result<(Stamp, Digest), OriginError> {
        let before = stamp(file)?;
        if let Some(digest) = self.known(&before) {
            return Ok((before, digest));
        }
        let settled = self.is_settled(&before);
        let digest = sum(file)?;
        if stamp(file)? != before {
            return Err(OriginError::Changing);
        }
        if settled {
            self.insert(&before, digest);
        }
        Ok((before, digest))
    }

    /// Writes what is known to its file, where something has changed since it was last written.
    pub fn keep(&self) {
        let Some(file) = &self.file else { return };
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Err(error) = write(file, &known) {
            tracing::warn!(path = %file.display(), %error, "could not keep the tags of files; after a restart they are read again");
        }
    }
}

/// The digest of all of a file.
pub(super) fn sum(file: &File) -> Result<Digest, OriginError> {
    let mut context = Context::new(&SHA256);
    each_block(file, |block| context.update(block))?;
    Ok(finished(context))
}

/// Reads all of a file.
pub(super) fn each_block(file: &File, mut look: impl FnMut(&[u8])) -> Result<(), OriginError> {
    let mut space = vec![0; BLOCK_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut space, at).map_err(OriginError::io("read a file"))? {
            0 => return Ok(()),
            count => {
                look(&space[..count]);
                at += count as u64;
            }
        }
    }
}

/// The digest that a running sum has come to.
pub(super) fn finished(context: Context) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn read(path: &Path) -> Option<HashMap<(u64, u64), Known>> {
    let bytes = std::fs::read(path).ok()?;
    let (sum, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
    let whole = blake3::hash(body).as_bytes() == sum;
    let known = whole.then(|| postcard::from_bytes(body).ok()).flatten();
    if known.is_none() {
        tracing::warn!(path = %path.display(), "the kept tags do not read; files are read again");
    }
    known
}

fn write(path: &Path, known: &HashMap<(u64, u64), Known>) -> std::io::Result<()> {
    let body = postcard::to_stdvec(known).map_err(std::io::Error::other)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(MAGIC)?;
    file.write_all(blake3::hash(&body).as_bytes())?;
    file.write_all(&body)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock, SystemClock};
    use std::sync::Arc;

    fn later() -> SharedClock {
        Arc::new(ManualClock::at(SystemClock.now() + Duration::from_secs(60)))
    }

    #[test]
    fn what_was_written_just_now_is_read_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "one").expect("written");
        let tags = Tags::load(None, Arc::new(SystemClock));
        let (stamp, first) = tags.digest(&File::open(&path).expect("open")).expect("read");
        assert_eq!(tags.known(&stamp), None);
        std::fs::write(&path, "two").expect("written");
        let (_, second) = tags.digest(&File::open(&path).expect("open")).expect("read");
        assert_ne!(first, second);
    }

    #[test]
    fn what_has_rested_is_remembered_until_anything_of_its_stamp_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "one").expect("written");
        let tags = Tags::load(None, later());
        let file = File::open(&path).expect("open");
        let (stamp, digest) = tags.digest(&file).expect("read");
        assert_eq!(tags.known(&stamp), Some(digest));
        for other in [
            Stamp { size: 4, ..stamp },
            Stamp {
                modified: stamp.modified + 1,
                ..stamp
            },
            Stamp {
                changed: stamp.changed + 1,
                ..stamp
            },
            Stamp {
                ino: stamp.ino + 1,
                ..stamp
            },
            Stamp {
                dev: stamp.dev + 1,
                ..stamp
            },
        ] {
            assert_eq!(tags.known(&other), None);
        }
        assert!(tags.at_once(&stamp).entity_tag().to_string().starts_with("\"7692c3ad"));
    }

    #[test]
    fn what_is_known_survives_a_restart_and_a_damaged_file_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "one").expect("written");
        let kept = dir.path().join("tags");
        let tags = Tags::load(Some(kept.clone()), later());
        let (stamp, digest) = tags.digest(&File::open(&path).expect("open")).expect("read");
        tags.keep();
        assert_eq!(Tags::load(Some(kept.clone()), later()).known(&stamp), Some(digest));
        let mut bytes = std::fs::read(&kept).expect("kept");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&kept, bytes).expect("written");
        assert_eq!(Tags::load(Some(kept), later()).known(&stamp), None);
    }
}
