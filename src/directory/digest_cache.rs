//! Which bytes a file holds: SHA-256 by content, remembered by stamp; and the tag that clients are given for them.
//!
//! A tag made of size and time is not strong: two states within one second, or one tick of the kernel's clock, or
//! with a time that was put back, would share it. So the tag of a file that can be read while its client waits is of the bytes.
//! What is remembered of a file is believed only while all of its stamp is as it was: device, inode, size, and both times in
//! nanoseconds.
//!
//! ```text
//! last written 2 s ago or more    remembered     a later change cannot have the same times
//! written just now                not remembered each asker has it read again
//! written by ourselves            remembered     its time of change was set to one no tick has (staging.rs)
//! ```
//!
//! ```text
//! the file                                      its tag
//! digest known, up to INLINE_BYTES or put here  "SHA-256"
//! larger, last changed 2 s ago or more          "size-modified-changed-inode" of its stamp; the same after it was read
//! larger, changed just now                      W/"size-modified-changed-inode"
//! ```
//!
//! The tag of a large file is of its stamp, for a film is played before anybody has read 20 GB of it, and clients hold
//! on to the first tag that they are given. Such a tag is as strong as the memory of digests, which goes by the same
//! stamp and the same two seconds. The file is read for its digest all the same, by threads of their own (digest_queue.rs): then its
//! tag comes back after a change of its rights, and `Repr-Digest` can be told. What is remembered survives a restart
//! (`keep`, `load`): losing it costs reading, never truth.

use super::error::DirectoryError;
use super::tree::{Stamp, stamp};
use crate::clock::SharedClock;
use crate::header::EntityTag;
use crate::store::BLOCK_BYTES;
use crate::sync::lock;
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// The largest file that is read while its client waits for the header.
pub const INLINE_BYTES: u64 = 4 << 20;

/// How long a file must have rested before what was read of it is remembered.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// How many files are remembered; beyond that the least recently asked for half is forgotten.
const MAX_ENTRIES: usize = 400_000;

/// The first bytes of the file that keeps them, and its version.
const MAGIC: &[u8; 8] = b"mptags\x00\x02";

/// The same of the version before, in which all tags were of digests.
const MAGIC_V1: &[u8; 8] = b"mptags\x00\x01";

/// A SHA-256.
pub type Digest = [u8; 32];

/// What a client is told of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Their digest.
    Strong(Digest),
    /// What the operating system says of a large file that has rested: its bytes cannot change without that.
    Stamped(StampTag),
    /// The same of a file that has just been changed.
    Weak(Stamp),
}

/// The opaque part of a tag that is of a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampTag {
    ino: u64,
    size: u64,
    modified: i128,
    changed: i128,
}

impl StampTag {
    fn of(stamp: &Stamp) -> Self {
        Self {
            ino: stamp.ino,
            size: stamp.size,
            modified: stamp.modified,
            changed: stamp.changed,
        }
    }
}

/// The time of change is in it: an edit whose time was put back changes that all the same.
impl std::fmt::Display for StampTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:x}-{:x}-{:x}-{:x}",
            self.size, self.modified, self.changed, self.ino
        )
    }
}

impl Tag {
    /// As an `ETag`.
    pub fn entity_tag(&self) -> EntityTag {
        match self {
            Self::Strong(digest) => EntityTag::strong(&hex(digest)),
            Self::Stamped(stamp_tag) => EntityTag::strong(&stamp_tag.to_string()),
            Self::Weak(stamp) => weak_tag(stamp),
        }
    }

    /// Whether it is a strong one.
    pub fn is_strong(&self) -> bool {
        !matches!(self, Self::Weak(_))
    }
}

/// What goes out for that state of a large file while it has just been changed.
pub fn weak_tag(stamp: &Stamp) -> EntityTag {
    EntityTag::weak(&StampTag::of(stamp).to_string())
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
struct CacheEntry {
    size: u64,
    modified: i128,
    changed: i128,
    digest: Digest,
    /// The tag that clients have been given instead of the digest.
    stamp_tag: Option<StampTag>,
    /// When it was last asked for: a count, not a time.
    used: u64,
}

/// The same as version 1 kept it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CacheEntryV1 {
    size: u64,
    modified: i128,
    changed: i128,
    digest: Digest,
    used: u64,
}

/// What a tag is of, beside its stamp: what a change of the file's name or rights carries over.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownDigest {
    digest: Digest,
    stamp_tag: Option<StampTag>,
}

/// The digests that are known.
#[derive(Debug)]
pub struct DigestCache {
    known: Mutex<HashMap<(u64, u64), CacheEntry>>,
    uses: AtomicU64,
    changed: AtomicBool,
    clock: SharedClock,
    file: Option<PathBuf>,
}

impl DigestCache {
    /// Those that are kept in `file`, where there is one; what it holds that does not read is none.
    pub fn load(file: Option<PathBuf>, clock: SharedClock) -> Self {
        let known = file.as_deref().and_then(read_cache_file).unwrap_or_default();
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
    pub fn digest_of(&self, stamp: &Stamp) -> Option<Digest> {
        let mut known = lock(&self.known);
        let found = known.get_mut(&(stamp.dev, stamp.ino))?;
        let same = (found.size, found.modified, found.changed) == (stamp.size, stamp.modified, stamp.changed);
        same.then(|| {
            found.used = self.uses.fetch_add(1, Ordering::Relaxed);
            found.digest
        })
    }

    /// What is remembered of that state, to be [`DigestCache::carry_over`]-ed over.
    pub(super) fn recall(&self, stamp: &Stamp) -> Option<KnownDigest> {
        let known = lock(&self.known);
        let found = known.get(&(stamp.dev, stamp.ino))?;
        let same = (found.size, found.modified, found.changed) == (stamp.size, stamp.modified, stamp.changed);
        let (digest, stamp_tag) = (found.digest, found.stamp_tag);
        same.then_some(KnownDigest { digest, stamp_tag })
    }

    /// Remembers of a state what was known of the one before, of which only the name or the rights were changed.
    pub(super) fn carry_over(&self, stamp: &Stamp, held: KnownDigest) {
        self.remember(stamp, held.digest, held.stamp_tag);
    }

    /// Remembers a digest; whoever calls this knows that no other bytes can come under that stamp.
    pub(super) fn insert(&self, stamp: &Stamp, digest: Digest) {
        self.remember(stamp, digest, None);
    }

    fn remember(&self, stamp: &Stamp, digest: Digest, stamp_tag: Option<StampTag>) {
        let mut known = lock(&self.known);
        if known.len() >= MAX_ENTRIES {
            let mut uses: Vec<u64> = known.values().map(|known| known.used).collect();
            let middle = uses.len() / 2;
            let (_, &mut limit, _) = uses.select_nth_unstable(middle);
            known.retain(|_, known| known.used >= limit);
        }
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let entry = CacheEntry {
            size: stamp.size,
            modified: stamp.modified,
            changed: stamp.changed,
            digest,
            stamp_tag,
            used,
        };
        known.insert((stamp.dev, stamp.ino), entry);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// The tag of that state of a file, as far as it can be told without reading it. A weak one of a small file becomes
    /// strong as it is read.
    pub fn tag_without_reading(&self, stamp: &Stamp) -> Tag {
        if let Some(held) = self.recall(stamp) {
            self.digest_of(stamp);
            return held.stamp_tag.map_or(Tag::Strong(held.digest), Tag::Stamped);
        }
        match stamp.size > INLINE_BYTES && self.has_settled(stamp) && !self.differs_only_in_ctime(stamp) {
            true => Tag::Stamped(StampTag::of(stamp)),
            false => Tag::Weak(*stamp),
        }
    }

    /// All tags under which a client may have been given that state.
    pub fn all_tags(&self, stamp: &Stamp) -> Vec<EntityTag> {
        let mut tags = vec![self.tag_without_reading(stamp).entity_tag(), weak_tag(stamp)];
        if let Some(digest) = self.digest_of(stamp) {
            tags.push(Tag::Strong(digest).entity_tag());
        }
        tags
    }

    /// Whether nothing but the time of change tells that state from one whose digest is known: then reading it will tell
    /// whether its tag is still true.
    fn differs_only_in_ctime(&self, stamp: &Stamp) -> bool {
        let known = lock(&self.known);
        known
            .get(&(stamp.dev, stamp.ino))
            .is_some_and(|known| (known.size, known.modified) == (stamp.size, stamp.modified))
    }

    /// The tag that clients have of a state with those bytes, where only its rights or its name have changed since.
    fn previous_tag(&self, stamp: &Stamp, digest: &Digest) -> Option<KnownDigest> {
        let known = lock(&self.known);
        let found = known.get(&(stamp.dev, stamp.ino))?;
        let same = (found.size, found.modified, &found.digest) == (stamp.size, stamp.modified, digest);
        same.then_some(KnownDigest {
            digest: found.digest,
            stamp_tag: found.stamp_tag,
        })
    }

    /// Whether a file has rested long enough for what is read of it to be remembered.
    pub fn has_settled(&self, stamp: &Stamp) -> bool {
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
    /// [`DirectoryError::ChangedMeanwhile`] where it is written while it is read, and whatever the disk reports.
    pub fn read_digest(&self, file: &File) -> Result<(Stamp, Digest), DirectoryError> {
        self.read_digest_while(file, || true)
    }

    /// The same as long as somebody wants to know it; then it ends as if the file had changed.
    pub(super) fn read_digest_while(
        &self,
        file: &File,
        wanted: impl Fn() -> bool,
    ) -> Result<(Stamp, Digest), DirectoryError> {
        let before = stamp(file)?;
        if let Some(digest) = self.digest_of(&before) {
            return Ok((before, digest));
        }
        let settled = self.has_settled(&before);
        let mut context = Context::new(&SHA256);
        try_each_block(file, |block| match wanted() {
            true => {
                context.update(block);
                Ok(())
            }
            false => Err(DirectoryError::ChangedMeanwhile),
        })?;
        let digest = finish_sha256(context);
        if stamp(file)? != before {
            return Err(DirectoryError::ChangedMeanwhile);
        }
        if settled {
            match self.previous_tag(&before, &digest) {
                Some(held) => self.carry_over(&before, held),
                None => {
                    let stamp_tag = (before.size > INLINE_BYTES).then(|| StampTag::of(&before));
                    self.remember(&before, digest, stamp_tag);
                }
            }
        }
        Ok((before, digest))
    }

    /// Writes what is known to its file, where something has changed since it was last written.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let known = lock(&self.known).clone();
        if let Err(error) = write_cache_file(file, &known) {
            tracing::warn!(path = %file.display(), %error, "could not keep the tags of files; after a restart they are read again");
        }
    }
}

/// The digest of all of a file, read now.
///
/// # Errors
/// Where the disk does not give it.
pub fn sha256_of(file: &File) -> Result<Digest, DirectoryError> {
    let mut context = Context::new(&SHA256);
    each_block(file, |block| context.update(block))?;
    Ok(finish_sha256(context))
}

/// Reads all of a file.
pub(super) fn each_block(file: &File, mut look: impl FnMut(&[u8])) -> Result<(), DirectoryError> {
    try_each_block(file, |block| {
        look(block);
        Ok(())
    })
}

/// The same for what may fail on the way.
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

/// The digest that a running sum has come to.
pub(super) fn finish_sha256(context: Context) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn read_cache_file(path: &Path) -> Option<HashMap<(u64, u64), CacheEntry>> {
    let bytes = std::fs::read(path).ok()?;
    let known = match bytes.strip_prefix(MAGIC) {
        Some(rest) => checked_body(rest).and_then(|body| postcard::from_bytes(body).ok()),
        None => bytes.strip_prefix(MAGIC_V1).and_then(checked_body).and_then(read_v1),
    };
    if known.is_none() {
        tracing::warn!(path = %path.display(), "the kept tags do not read; files are read again");
    }
    known
}

/// The body behind its checksum.
fn checked_body(rest: &[u8]) -> Option<&[u8]> {
    let (sum, body) = rest.split_at_checked(32)?;
    (blake3::hash(body).as_bytes() == sum).then_some(body)
}

fn read_v1(body: &[u8]) -> Option<HashMap<(u64, u64), CacheEntry>> {
    let known: HashMap<(u64, u64), CacheEntryV1> = postcard::from_bytes(body).ok()?;
    let newer = known.into_iter().map(|(file, known)| {
        let CacheEntryV1 {
            size,
            modified,
            changed,
            digest,
            used,
        } = known;
        let newer = CacheEntry {
            size,
            modified,
            changed,
            digest,
            stamp_tag: None,
            used,
        };
        (file, newer)
    });
    Some(newer.collect())
}

fn write_cache_file(path: &Path, known: &HashMap<(u64, u64), CacheEntry>) -> std::io::Result<()> {
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
    fn a_file_just_written_is_digested_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "one").expect("written");
        let tags = DigestCache::load(None, Arc::new(SystemClock));
        let (stamp, first) = tags.read_digest(&File::open(&path).expect("open")).expect("read");
        assert_eq!(tags.digest_of(&stamp), None);
        std::fs::write(&path, "two").expect("written");
        let (_, second) = tags.read_digest(&File::open(&path).expect("open")).expect("read");
        assert_ne!(first, second);
    }

    #[test]
    fn digests_of_rested_files_hold_until_their_stamp_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "one").expect("written");
        let tags = DigestCache::load(None, later());
        let file = File::open(&path).expect("open");
        let (stamp, digest) = tags.read_digest(&file).expect("read");
        assert_eq!(tags.digest_of(&stamp), Some(digest));
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
            assert_eq!(tags.digest_of(&other), None);
        }
        assert!(
            tags.tag_without_reading(&stamp)
                .entity_tag()
                .to_string()
                .starts_with("\"7692c3ad")
        );
    }

    #[test]
    fn digests_survive_a_restart_and_a_damaged_tags_file_is_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "one").expect("written");
        let kept = dir.path().join("tags");
        let tags = DigestCache::load(Some(kept.clone()), later());
        let (stamp, digest) = tags.read_digest(&File::open(&path).expect("open")).expect("read");
        tags.save();
        assert_eq!(
            DigestCache::load(Some(kept.clone()), later()).digest_of(&stamp),
            Some(digest)
        );
        let mut bytes = std::fs::read(&kept).expect("kept");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&kept, bytes).expect("written");
        assert_eq!(DigestCache::load(Some(kept), later()).digest_of(&stamp), None);
    }
}
