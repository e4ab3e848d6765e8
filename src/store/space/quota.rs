//! How much room there is: a quota, and a floor of free space in the file system.
//!
//! Room is taken *before* bytes are written and given back after they are gone, so the quota holds at
//! every moment; there is no sweeper that a burst could outrun. It is counted in pages, as file systems
//! hold it: a body of one byte takes one page. What is no object's, the catalog's file above all, has a reserve
//! within the quota (catalog_reserve.rs).
//!
//! How much is used must be known at start, without looking at a million bodies. The ledger, one small
//! file, says it: after an orderly stop exactly, and while running as a bound that is raised, in the
//! file, before what is used passes it. After a crash the bound is taken for the truth until the bodies
//! have been counted in the background (crash_recount.rs): too much for a while, never too little.

use crate::clock::Instant;
use crate::ranges::{ByteCount, ByteRange, RangeSet};
use crate::sync::lock;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The unit in which file systems hold bodies, in bytes: the block of ext4 and XFS by default.
pub(in crate::store) const PAGE_BYTES: u64 = 4096;

/// The share of a file system that a cache takes where nothing is said. A judgement: most of a disk that was given to
/// it, and not the last of one that it has not.
const SHARE_PERCENT: u64 = 80;

/// How long the file system's word on its free space is believed: others write there too. A judgement: a `statvfs` for
/// each piece would cost a call, and another program fills the floor no faster.
const FREE_BELIEVED: Duration = Duration::from_millis(200);

/// The floor that is kept where none is set: this, or a twentieth of a small file system. A judgement: room for logs,
/// the catalog, and an operator who mends a full disk.
const DEFAULT_FLOOR_BYTES: u64 = 256 << 20;

/// The most that the ledger's bound is ahead of what is used, in bytes. Judgements: each step writes the file once, and
/// a crash takes up to a step, or a 64th of the quota, for used until it is counted.
const LARGEST_STEP: u64 = 64 << 20;
const SMALLEST_STEP: u64 = 1 << 20;

/// The pages that hold any of the range.
pub(in crate::store) fn pages(range: ByteRange) -> ByteRange {
    let start = range.start() / PAGE_BYTES * PAGE_BYTES;
    let end = range.end().checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
    ByteRange::new(start, end).unwrap_or(range)
}

/// The pages that hold any of the set.
pub(in crate::store) fn pages_of(set: &RangeSet) -> RangeSet {
    set.iter().map(pages).collect()
}

/// The resource that runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// The quota is used up by what may not be evicted.
    Quota,
    /// The catalog has as much of the quota as it may have, and what could go for it is in use or pinned.
    Catalog,
    /// The file system has no more than the floor that is to be left free.
    FileSystem,
}

/// The most that a store may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Quota {
    /// As much as the file system has.
    #[default]
    None,
    /// A number of bytes.
    Bytes(u64),
    /// A number of bytes, unless it has more already, which it keeps then: the operator has not said it.
    Unless(u64),
}

impl Quota {
    /// The bytes, where there is a bound.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Bytes(bytes) | Self::Unless(bytes) => Some(bytes),
        }
    }

    /// The share of the file system of a directory, which may not exist yet; no bound where that does not tell its size.
    pub fn share_of(dir: &Path) -> Self {
        let there = dir.ancestors().find_map(|above| {
            let above = if above.as_os_str().is_empty() {
                Path::new(".")
            } else {
                above
            };
            rustix::fs::statvfs(above).ok()
        });
        match there.map(|system| system.f_blocks.saturating_mul(system.f_frsize)) {
            Some(size @ 1..) => Self::Unless(size / 100 * SHARE_PERCENT),
            _ => Self::None,
        }
    }
}

#[derive(Debug)]
pub(in crate::store) struct Space {
    /// Bytes taken, with the reserve. AcqRel and Acquire; a count that orders nothing, though each taking compares it
    /// with the quota in one step, so that two never pass it together.
    pub(super) taken: AtomicU64,
    /// The part of them that is the reserve of what is no object's. AcqRel and Acquire, as above; it changes after
    /// `taken` where it grows, and before it where it shrinks.
    pub(super) reserve: AtomicU64,
    pub(super) quota: Option<u64>,
    dir: PathBuf,
    floor: Option<u64>,
    /// The file system's last word, less what was taken since: a lock because word and time change together. Held over
    /// a `statvfs` now and then. An object's `progress` may be held by who asks for `believed_room`, so a look at that
    /// object waits for the `statvfs` of another thread.
    free: Mutex<Free>,
    /// The file of the bound. Held over a write of one line, so that the lines follow one another; no other lock is
    /// taken under it.
    ledger: Mutex<Ledger>,
    /// The bound that the file states. Stored with `ledger` held, after the file was written. Release and Acquire: a
    /// thread that finds what it takes beneath the bound knows that the file says so already.
    bound: AtomicU64,
}

#[derive(Debug)]
struct Free {
    /// Bytes that may still be taken before the file system is asked again.
    left: u64,
    asked: Option<Instant>,
}

impl Space {
    /// The room of the data directory `dir`, whose ledger is at `ledger`; and what it said. With a quota that the operator
    /// has not said there is room for what is there, and for a reserve of so many bytes.
    pub(in crate::store) fn open(
        dir: &Path,
        ledger: &Path,
        quota: Quota,
        reserve: ByteCount,
        floor: Option<u64>,
    ) -> (Self, Stated) {
        let (ledger, stated) = Ledger::open(ledger, quota.bytes());
        let used = match stated {
            Stated::Exactly(used) | Stated::AtMost(used) => used,
            Stated::Nothing => 0,
        };
        let quota = match quota {
            Quota::Unless(bytes) if used.saturating_add(reserve) > bytes => {
                tracing::warn!(
                    used,
                    share = bytes,
                    "the cache has more than its share of the file system, and keeps what it has: say how much it may take with --quota"
                );
                Some(used.saturating_add(reserve))
            }
            quota => quota.bytes(),
        };
        let space = Self {
            taken: used.into(),
            reserve: 0.into(),
            quota,
            dir: dir.to_owned(),
            floor,
            free: Mutex::new(Free { left: 0, asked: None }),
            bound: 0.into(),
            ledger: Mutex::new(ledger),
        };
        space.cover(used);
        (space, stated)
    }

    /// Takes room for `bytes`, where there is some.
    pub(in crate::store) fn take(&self, bytes: ByteCount) -> Result<(), Shortage> {
        if bytes == 0 {
            return Ok(());
        }
        self.take_of_quota(bytes)?;
        // The quota first: it is a comparison, and the file system may have to be asked.
        if !self.file_system_has(bytes) {
            self.release(bytes);
            return Err(Shortage::FileSystem);
        }
        self.cover(self.used());
        Ok(())
    }

    /// Takes `bytes` of the quota, whatever the file system has.
    pub(super) fn take_of_quota(&self, bytes: ByteCount) -> Result<(), Shortage> {
        let quota = self.quota.unwrap_or(u64::MAX);
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= quota);
        let done = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        done.map(drop).map_err(|_| Shortage::Quota)
    }

    /// Gives room back.
    pub(in crate::store) fn release(&self, bytes: ByteCount) {
        // Saturating: a count that was too low once must not become the largest of all.
        let _ = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            Some(taken.saturating_sub(bytes))
        });
    }

    /// Bytes that objects take.
    pub(in crate::store) fn used(&self) -> u64 {
        loop {
            let reserve = self.reserve();
            let taken = self.taken.load(Ordering::Acquire);
            // A reserve that has changed between the two would be counted as objects', or objects as reserve.
            if self.reserve() == reserve {
                return taken.saturating_sub(reserve);
            }
        }
    }

    /// Bytes that the file system has above the floor; `None` where it does not say.
    pub(in crate::store) fn file_system_room(&self) -> Option<u64> {
        self.above_floor()
    }

    pub(in crate::store) fn quota(&self) -> Option<u64> {
        self.quota
    }

    /// How many bytes must go; 0 while the quota holds.
    pub(in crate::store) fn excess(&self) -> u64 {
        let taken = self.taken.load(Ordering::Acquire);
        self.quota.map_or(0, |quota| taken.saturating_sub(quota))
    }

    /// How much more the quota lets be taken.
    fn quota_room(&self) -> Option<u64> {
        let taken = self.taken.load(Ordering::Acquire);
        self.quota.map(|quota| quota.saturating_sub(taken))
    }

    /// How much more may be taken now, without an eviction; `None` where that cannot be told.
    pub(in crate::store) fn room(&self) -> Option<u64> {
        let quota = self.quota_room();
        let free = self.above_floor();
        [quota, free].into_iter().flatten().min()
    }

    /// [`Space::room`] as far as is known from the last time that the file system was asked; 0 where it was not.
    pub(in crate::store) fn believed_room(&self) -> u64 {
        self.quota_room().unwrap_or(u64::MAX).min(lock(&self.free).left)
    }

    /// Free bytes of the file system, including the floor; `None` where it does not say.
    pub(in crate::store) fn free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Puts what was counted in the place of what was believed.
    pub(in crate::store) fn correct(&self, believed: u64, counted: u64) {
        let _ = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            Some((taken + counted).saturating_sub(believed))
        });
        self.cover(self.used());
    }

    fn file_system_has(&self, bytes: u64) -> bool {
        let mut free = lock(&self.free);
        if free.left < bytes || free.asked.is_none_or(|asked| asked.elapsed() >= FREE_BELIEVED) {
            // Where it does not say, the write itself will.
            free.left = self.above_floor().unwrap_or(u64::MAX);
            free.asked = Some(Instant::now());
        }
        // What is taken between two questions is taken off the answer, written or not.
        let has = free.left >= bytes;
        free.left = free.left.saturating_sub(bytes);
        has
    }

    fn above_floor(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.dir).ok()?;
        let floor = self
            .floor
            .unwrap_or_else(|| DEFAULT_FLOOR_BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 20));
        Some(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(floor))
    }

    /// Raises the ledger's bound, in the file, before anything is written past it.
    fn cover(&self, used: u64) {
        // Nothing used is written down too: a new store has a ledger from its start on.
        if used <= self.bound.load(Ordering::Acquire) && used > 0 {
            return;
        }
        let mut ledger = lock(&self.ledger);
        // Of two threads that come here at once the one that has taken less may come last: what both have taken counts.
        let bound = ledger.raise(used.max(self.used()));
        self.bound.store(bound, Ordering::Release);
    }

    /// Writes down exactly what is used: for an orderly stop.
    pub(in crate::store) fn close(&self) {
        let mut ledger = lock(&self.ledger);
        ledger.write("exactly", self.used());
        // Whatever is taken after this must say so first.
        self.bound.store(0, Ordering::Release);
    }
}

/// The ledger's statement of the bytes used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Stated {
    /// The server was stopped in order.
    Exactly(u64),
    /// The store was not closed in order: no more than this.
    AtMost(u64),
    /// There is no ledger, or it does not read.
    Nothing,
}

#[derive(Debug)]
struct Ledger {
    path: PathBuf,
    file: Option<File>,
    step: u64,
}

impl Ledger {
    fn open(path: &Path, quota: Option<u64>) -> (Self, Stated) {
        let stated = std::fs::read_to_string(path).map_or(Stated::Nothing, |text| stated(&text));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path);
        if let Err(error) = &file {
            tracing::warn!(path = %path.display(), %error, "could not open the ledger of the space used");
        }
        let ledger = Self {
            path: path.to_owned(),
            file: file.ok(),
            step: quota.map_or(LARGEST_STEP, |quota| (quota / 64).clamp(SMALLEST_STEP, LARGEST_STEP)),
        };
        (ledger, stated)
    }

    fn raise(&mut self, used: u64) -> u64 {
        let bound = used.saturating_add(self.step);
        self.write("at-most", bound);
        bound
    }

    fn write(&mut self, word: &str, bytes: u64) {
        // Of one length always, at one place: the line before is replaced in one write, well within a sector.
        let line = format!("{word:<8}{bytes:>20}\n");
        let written = self.file.as_ref().map(|file| file.write_all_at(line.as_bytes(), 0));
        if let Some(Err(error)) = written {
            tracing::warn!(path = %self.path.display(), %error, "could not write the ledger of the space used");
        }
    }
}

fn stated(text: &str) -> Stated {
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next().and_then(|bytes| bytes.parse().ok())) {
        (Some("exactly"), Some(used)) => Stated::Exactly(used),
        (Some("at-most"), Some(bound)) => Stated::AtMost(bound),
        _ => Stated::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn space(dir: &TempDir, quota: u64) -> (Space, Stated) {
        Space::open(dir.path(), &dir.path().join("space"), Quota::Bytes(quota), 0, Some(0))
    }

    #[test]
    fn room_is_refused_before_the_quota_is_passed() {
        let dir = TempDir::new().expect("a directory");
        let (space, stated) = space(&dir, 10_000);
        assert_eq!(stated, Stated::Nothing);
        space.take(6000).expect("room");
        assert_eq!(space.take(4001), Err(Shortage::Quota));
        space.take(4000).expect("room");
        space.release(1);
        space.take(1).expect("room");
    }

    #[test]
    fn an_unreachable_floor_of_free_space_leaves_no_room() {
        let dir = TempDir::new().expect("a directory");
        let (space, _) = Space::open(dir.path(), &dir.path().join("space"), Quota::None, 0, Some(u64::MAX));
        assert_eq!(space.take(1), Err(Shortage::FileSystem));
        assert_eq!(space.used(), 0);
    }

    #[test]
    fn a_thread_that_comes_late_to_the_ledger_does_not_lower_its_bound() {
        let dir = TempDir::new().expect("a directory");
        let (first, _) = space(&dir, 1 << 40);
        first.take(50_000).expect("room");
        let before = first.bound.load(Ordering::Acquire);
        first.take(1 << 30).expect("room");
        // Another thread had taken less, and found the bound as it was then.
        first.bound.store(before, Ordering::Release);
        first.cover(before + 1);
        let (_, stated) = space(&dir, 1 << 40);
        let Stated::AtMost(bound) = stated else {
            panic!("{stated:?}");
        };
        assert!(bound >= first.used(), "{bound}");
    }

    #[test]
    fn after_a_crash_the_ledger_overstates_the_used_space() {
        let dir = TempDir::new().expect("a directory");
        let (first, _) = space(&dir, 1 << 30);
        for _ in 0..1000 {
            first.take(100_000).expect("room");
        }
        // The first ledger is never closed: this is the crash.
        let (second, stated) = space(&dir, 1 << 30);
        let Stated::AtMost(bound) = stated else {
            panic!("{stated:?}");
        };
        assert!(
            (100_000_000..100_000_000 + (16 << 20) + 100_000).contains(&bound),
            "{bound}"
        );
        second.correct(bound, 100_000_000);
        assert_eq!(second.used(), 100_000_000);
        second.close();
        assert_eq!(space(&dir, 1 << 30).1, Stated::Exactly(100_000_000));
    }

    #[test]
    fn the_ledger_covers_space_taken_after_an_orderly_close() {
        let dir = TempDir::new().expect("a directory");
        let (first, _) = space(&dir, 1 << 30);
        first.take(5000).expect("room");
        first.close();
        first.take(5000).expect("room");
        let (_, stated) = space(&dir, 1 << 30);
        assert!(matches!(stated, Stated::AtMost(bound) if bound >= 10_000), "{stated:?}");
    }

    #[test]
    fn a_share_that_nobody_said_leaves_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = dir.path().join("space");
        let (space, _) = Space::open(dir.path(), &ledger, Quota::Unless(100 << 20), 0, Some(0));
        assert_eq!(space.quota(), Some(100 << 20));
        space.take(50 << 20).expect("room");
        drop(space);
        let used = |quota| Space::open(dir.path(), &ledger, quota, 0, Some(0)).0;
        let more = used(Quota::Unless(1 << 20));
        assert_eq!(more.quota(), Some(more.used()));
        assert!(more.used() >= 50 << 20 && more.take(4096).is_err());
        // A quota that the operator says holds, whatever is there.
        assert_eq!(used(Quota::Bytes(1 << 20)).quota(), Some(1 << 20));
    }

    #[test]
    fn ranges_are_rounded_out_to_whole_pages() {
        let range = |start, end| ByteRange::new(start, end).expect("not empty");
        assert_eq!(pages(range(5000, 5001)), range(4096, 8192));
        assert_eq!(pages(range(0, 4096)), range(0, 4096));
        assert_eq!(pages(range(4095, 4097)), range(0, 8192));
        let set: RangeSet = [range(0, 1), range(4000, 4100)].into_iter().collect();
        assert_eq!(pages_of(&set).total(), 8192);
    }
}
