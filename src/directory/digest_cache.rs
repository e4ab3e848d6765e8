//! The digests of files (SHA-256), remembered by stamp, and the choice of a file's entity tag.
//!
//! A tag made of size and time is not strong by itself: two states within one second, or one tick of the kernel's
//! clock, or with a time that was put back, would share it. So a file that can be hashed while its client waits has a
//! tag of its bytes. A digest is believed only while the whole stamp is as it was: device, inode, size, and both times
//! in nanoseconds.
//!
//! ```text
//! last changed 2 s ago or more    remembered        a later change cannot have the same times
//! changed just now                not remembered    each request has the file hashed again
//! placed by ourselves             remembered        its time of change was set to one that no tick has (staging.rs)
//! ```
//!
//! ```text
//! the file                                      its tag (etag.rs)
//! digest known, up to INLINE_BYTES or put here  "SHA-256"
//! larger, last changed 2 s ago or more          "size-modified-changed-inode"; the same after it was hashed
//! larger, changed just now                      W/"size-modified-changed-inode"
//! ```
//!
//! The tag of a large file is of its stamp, for a film is played before anybody has read 20 GB of it, and clients hold
//! on to the first tag that they are given. Such a tag is as strong as the digests are, which are believed by the same
//! stamp and the same two seconds (decision 26). A large file is hashed all the same, on threads for that
//! (digest_queue.rs): then its tag comes back after a change of its rights, and `Repr-Digest` can be told.
//!
//! The cache survives a restart (`save`, `load`). Losing it costs reading, never truth.

use super::error::DirectoryError;
use super::etag::{StampTag, Tag, weak_tag};
use super::sha256::{Digest, finish_sha256, try_each_block};
use super::tree::{Stamp, stamp};
use crate::clock::SharedClock;
use crate::crypto::digest::{Context, SHA256};
use crate::header::EntityTag;
use crate::sync::lock;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// The largest file that is hashed while its client waits for the header: a judgement. Larger ones have a tag of
/// their stamp.
pub const INLINE_BYTES: u64 = 4 << 20;

/// The time for which a file must have rested before a digest of it is remembered: a judgement, far longer than a
/// tick of the kernel's clock.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The files that are remembered: a judgement. Beyond that the least recently asked for half is forgotten.
const MAX_ENTRIES: usize = 400_000;

/// The first bytes of the stored cache, the last of which is its version.
const MAGIC: &[u8; 8] = b"mptags\x00\x02";

/// The same of version 1, in which all tags were of digests. It is read, and written as version 2.
const MAGIC_V1: &[u8; 8] = b"mptags\x00\x01";

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CacheEntry {
    size: u64,
    modified: i128,
    changed: i128,
    digest: Digest,
    /// The tag of the stamp that clients have been given instead of the digest.
    stamp_tag: Option<StampTag>,
    /// A count that says when the entry was last asked for.
    used: u64,
}

/// An entry as version 1 stored it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CacheEntryV1 {
    size: u64,
    modified: i128,
    changed: i128,
    digest: Digest,
    used: u64,
}

/// The part of an entry that does not depend on the file's name and rights: a rename or a chmod carries it over.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownDigest {
    digest: Digest,
    stamp_tag: Option<StampTag>,
}

/// The digests of files, by stamp. The lock is held for a look-up, or for one pass over all entries when half of them
/// are forgotten; never while a file is read.
#[derive(Debug)]
pub struct DigestCache {
    /// By device and inode. Held for a look-up or an entry, for one pass over all when half of them are forgotten, and
    /// for a copy of all when they are stored: never while a file is read or written.
    known: Mutex<HashMap<(u64, u64), CacheEntry>>,
    /// Counts the look-ups. Relaxed: it orders entries for forgetting only, and is read with the lock held.
    uses: AtomicU64,
    /// Entries were added since the cache was last stored. Relaxed: it is set with the lock held and cleared before the lock
    /// is taken to copy the entries, so no entry is missed for good.
    changed: AtomicBool,
    clock: SharedClock,
    file: Option<PathBuf>,
}

impl DigestCache {
    /// The entries that are stored in `file`, if any. A damaged file holds none.
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

    /// The entry of that state without its stamp, to be given to [`DigestCache::carry_over`].
    pub(super) fn recall(&self, stamp: &Stamp) -> Option<KnownDigest> {
        let known = lock(&self.known);
        let found = known.get(&(stamp.dev, stamp.ino))?;
        let same = (found.size, found.modified, found.changed) == (stamp.size, stamp.modified, stamp.changed);
        let (digest, stamp_tag) = (found.digest, found.stamp_tag);
        same.then_some(KnownDigest { digest, stamp_tag })
    }

    /// Remembers for a new state what was known of the one before, of which only the name, the rights or the times
    /// were changed.
    pub(super) fn carry_over(&self, stamp: &Stamp, held: KnownDigest) {
        self.remember(stamp, held.digest, held.stamp_tag);
    }

    /// Remembers a digest. The caller knows that no other bytes can have that stamp.
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

    /// The tag of that state as far as it is known without reading the file. A weak tag of a small file becomes
    /// strong once the file is read.
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

    /// Whether only the time of change tells that state from one whose digest is known: then a reading of the file
    /// will tell whether its tag still holds.
    fn differs_only_in_ctime(&self, stamp: &Stamp) -> bool {
        let known = lock(&self.known);
        known
            .get(&(stamp.dev, stamp.ino))
            .is_some_and(|known| (known.size, known.modified) == (stamp.size, stamp.modified))
    }

    /// The tag that clients have of a state with these bytes, of which only the rights or the name have changed
    /// since.
    fn previous_tag(&self, stamp: &Stamp, digest: &Digest) -> Option<KnownDigest> {
        let known = lock(&self.known);
        let found = known.get(&(stamp.dev, stamp.ino))?;
        let same = (found.size, found.modified, &found.digest) == (stamp.size, stamp.modified, digest);
        same.then_some(KnownDigest {
            digest: found.digest,
            stamp_tag: found.stamp_tag,
        })
    }

    /// Whether a file has rested long enough for a digest of it to be remembered.
    pub fn has_settled(&self, stamp: &Stamp) -> bool {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        // A write to come gives the file a time of about now. The times must differ from that, be they past or
        // future.
        let is_distant = |time: i128| (now - time).unsigned_abs() >= SETTLED_AFTER.as_nanos();
        // The time of change counts too: a file whose time of modification was put back is as new as that.
        is_distant(stamp.modified) && is_distant(stamp.changed)
    }

    /// The digest of an open file: hashed now if it is not known, and remembered if the file has rested.
    ///
    /// # Errors
    /// [`DirectoryError::ChangedMeanwhile`] where it is written while it is read, and whatever the disk reports.
    pub fn read_digest(&self, file: &File) -> Result<(Stamp, Digest), DirectoryError> {
        self.read_digest_while(file, || true)
    }

    /// The same as long as it is `wanted`; then it ends as if the file had changed.
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

    /// Stores the entries in the file, if any have changed since.
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

/// The body behind its checksum; `None` where they do not match.
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

/// The stamp and digest of a file that was read before its lock was taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrereadDigest(pub(super) Option<(Stamp, Digest)>);

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
