//! The integrity of an object: checksums of bytes that arrive, and what is known of those that lie on the disk.
//!
//! Bytes that arrive are hashed on their way to the disk, so that their sums need no second read. Blocks that were there
//! when the object was opened are compared once, at their first read: until then they are *unchecked*, and only a
//! thread that may wait reads them. The digest of the whole is known where it was computed.
//!
//! *The locks*, in their order: `digesting`; then, under the object's `recorded` or without it, `comparing`; then for
//! moments `arriving`, `unchecked`, `first_sums` or `digest`. The set of present bytes is locked under `unchecked` alone,
//! where a bad block becomes absent before it counts as checked: a thread that finds it checked must find it absent.
//! `digesting` and `comparing` are held over reads of the disk, `arriving` over a hash.

use super::run_checksums::{self, Arriving, Group, Sum, Unchecked};
use crate::ranges::{ByteOffset, ByteRange, RangeSet};
use crate::store::body_file::Body;
use crate::store::error::StoreError;
use crate::sync::lock;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Runs of a block that do not match their checksums, and how.
pub(in crate::store) type BadRuns = Vec<(ByteRange, String)>;

#[derive(Debug)]
pub(in crate::store) struct Integrity {
    /// Sums under way, since sessions write side by side; held while the pieces of one write are hashed.
    arriving: Mutex<Arriving>,
    /// Blocks not compared since the opening; the present bytes are locked under it to make a bad one absent first.
    unchecked: Mutex<Unchecked>,
    /// Whether `unchecked` holds anything. Release, Acquire: who sees it fall finds all bad blocks absent.
    has_unchecked: AtomicBool,
    /// The first blocks' sums, from the opening until others are stored: first reads need no catalog. Held for a copy.
    first_sums: Mutex<Option<Group>>,
    /// Held while a block is read and compared: once, however many readers wait for it.
    comparing: Mutex<()>,
    /// The SHA-256, which no atomic holds; held for a copy.
    digest: Mutex<Option<[u8; 32]>>,
    /// Held while the digest is computed, seconds for a film: once, however many ask. Taken before `recorded`.
    digesting: Mutex<()>,
}

/// The blocks of `at..at + len`.
pub(in crate::store) fn blocks(at: ByteOffset, len: usize) -> RangeInclusive<u64> {
    let last = at.saturating_add((len as u64).max(1) - 1);
    run_checksums::block_of(at)..=run_checksums::block_of(last)
}

impl Integrity {
    /// Nothing of what is durable has been compared.
    pub(in crate::store) fn unchecked(durable: &RangeSet, digest: Option<[u8; 32]>) -> Self {
        let unchecked = Unchecked::of(durable);
        Self {
            arriving: Mutex::default(),
            has_unchecked: AtomicBool::new(!unchecked.is_empty()),
            unchecked: Mutex::new(unchecked),
            first_sums: Mutex::default(),
            comparing: Mutex::default(),
            digest: Mutex::new(digest),
            digesting: Mutex::default(),
        }
    }

    pub(in crate::store) fn has_unchecked(&self) -> bool {
        self.has_unchecked.load(Ordering::Acquire)
    }

    /// Whether all of these bytes were compared since the start.
    pub(in crate::store) fn is_checked(&self, at: ByteOffset, len: usize) -> bool {
        if !self.has_unchecked() {
            return true;
        }
        let unchecked = lock(&self.unchecked);
        !blocks(at, len).any(|block| unchecked.contains(block))
    }

    /// Compares a block that was not compared yet. `make_absent` is called where runs are bad, with the block still
    /// unchecked. A block that cannot be compared stays unchecked, and the error is returned.
    pub(in crate::store) fn check(
        &self,
        block: u64,
        compare: impl FnOnce() -> Result<BadRuns, StoreError>,
        make_absent: impl FnOnce(&BadRuns),
    ) -> Result<BadRuns, StoreError> {
        if !self.has_unchecked() {
            return Ok(Vec::new());
        }
        // One comparison at a time, so that a block is read once however many readers ask for it.
        let _one = lock(&self.comparing);
        if !lock(&self.unchecked).contains(block) {
            return Ok(Vec::new());
        }
        let bad = compare()?;
        let mut left = lock(&self.unchecked);
        if !bad.is_empty() {
            // Between here and the retraction nobody may take the block for a good one.
            make_absent(&bad);
        }
        // Last: a thread that finds the block checked finds its bad runs absent.
        left.checked(block);
        self.has_unchecked.store(!left.is_empty(), Ordering::Release);
        Ok(bad)
    }

    /// The sums of a group of blocks: those of the opening, where nothing was stored since, or what the catalog has.
    pub(in crate::store) fn group(
        &self,
        number: u64,
        stored: impl FnOnce() -> Result<Group, StoreError>,
    ) -> Result<Group, StoreError> {
        let first = lock(&self.first_sums).clone();
        match first.filter(|_| number == 0) {
            Some(first) => Ok(first),
            None => stored(),
        }
    }

    /// The sums of the first group, as they were at the opening.
    pub(in crate::store) fn set_first_sums(&self, sums: Group) {
        *lock(&self.first_sums) = Some(sums);
    }

    /// Other sums are about to be stored.
    pub(in crate::store) fn forget_first_sums(&self) {
        *lock(&self.first_sums) = None;
    }

    /// Hashes pieces that were written one after the other from `at` on.
    pub(in crate::store) fn wrote(&self, mut at: ByteOffset, pieces: &[&[u8]]) {
        let mut arriving = lock(&self.arriving);
        for piece in pieces {
            arriving.wrote(at, piece);
            at += piece.len() as u64;
        }
    }

    /// These blocks are recorded whole, or bytes of theirs are gone.
    pub(in crate::store) fn forget(&self, blocks: impl IntoIterator<Item = u64>) {
        let mut arriving = lock(&self.arriving);
        blocks.into_iter().for_each(|block| arriving.forget(block));
    }

    /// The sum of a run: the one that is known, the one that was taken on arrival, or one of what the
    /// kernel has just been given, where pieces came in another order.
    pub(in crate::store) fn sum_for(&self, run: ByteRange, known: &[Sum], body: &Body) -> Option<Sum> {
        if let Some(known) = run_checksums::known_sum(run, known) {
            return Some(known);
        }
        let arrived = lock(&self.arriving).sum(run);
        let sum = match arrived {
            Some(sum) => sum,
            None => {
                // A MiB at most; what was just written of it is still in the page cache.
                let mut bytes = vec![0; run.len() as usize];
                body.read_exact(run.start(), &mut bytes).ok()?;
                run_checksums::sum_of(&bytes)
            }
        };
        Some(Sum::new(run, sum))
    }

    /// The SHA-256 of the complete representation, where it is known.
    pub(in crate::store) fn digest(&self) -> Option<[u8; 32]> {
        *lock(&self.digest)
    }

    pub(in crate::store) fn set_digest(&self, digest: [u8; 32]) {
        *lock(&self.digest) = Some(digest);
    }

    /// The right to compute the digest.
    pub(in crate::store) fn digesting(&self) -> MutexGuard<'_, ()> {
        lock(&self.digesting)
    }
}

/// The runs of a block that differ from their checksums, and how; of those that are present.
pub(in crate::store) fn compare(block: u64, group: &Group, present: &RangeSet, body: &Body) -> BadRuns {
    let sums = group.get(block).iter();
    // A crash can leave the sum of what was given up, or not yet recorded.
    let sums: Vec<_> = sums
        .filter_map(|sum| Some((sum.range(block).filter(|run| present.covers(*run))?, sum)))
        .collect();
    let mut bad = Vec::new();
    for (run, sum) in &sums {
        // The checksum of a run from before it grew says nothing more.
        let grown = |other: &ByteRange| other != run && other.start() <= run.start() && run.end() <= other.end();
        if sums.iter().any(|(other, _)| grown(other)) {
            continue;
        }
        let run = *run;
        let mut bytes = vec![0; run.len() as usize];
        match body.read_exact(run.start(), &mut bytes) {
            Ok(()) if run_checksums::sum_of(&bytes) == sum.sum => {}
            Ok(()) => bad.push((run, "its bytes do not match their checksum".to_owned())),
            Err(error) => bad.push((run, format!("it does not read: {error}"))),
        }
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> (Integrity, ByteRange) {
        let run = ByteRange::new(0, 100).expect("not empty");
        (Integrity::unchecked(&RangeSet::from_iter([run]), None), run)
    }

    #[test]
    fn a_block_that_cannot_be_compared_stays_unchecked() {
        let (integrity, _) = opened();
        let checked = integrity.check(0, || Err(StoreError::NoCatalog), |_| panic!("nothing is bad"));
        assert!(checked.is_err() && !integrity.is_checked(0, 10));
    }

    #[test]
    fn bad_runs_are_absent_before_their_block_counts_as_checked() {
        let (integrity, run) = opened();
        let mut absent = Vec::new();
        let compare = || Ok(vec![(run, "on purpose".to_owned())]);
        let make_absent = |bad: &BadRuns| {
            assert!(integrity.has_unchecked());
            absent.extend(bad.iter().map(|(run, _)| *run));
        };
        assert_eq!(integrity.check(0, compare, make_absent).expect("compared").len(), 1);
        assert!(absent == [run] && integrity.is_checked(0, 10));
        let again = integrity.check(0, || panic!("it was compared"), |_| panic!("nothing is bad"));
        assert!(again.expect("nothing to do").is_empty());
    }

    #[test]
    fn sums_of_the_opening_are_forgotten_before_others_are_stored() {
        let (integrity, _) = opened();
        let mut first = Group::default();
        first.set(
            0,
            vec![Sum {
                start: 0,
                end: 100,
                sum: 7,
            }],
        );
        integrity.set_first_sums(first.clone());
        let stored = || Ok(Group::default());
        assert_eq!(integrity.group(0, stored).expect("known"), first);
        assert_eq!(integrity.group(1, stored).expect("asked"), Group::default());
        integrity.forget_first_sums();
        assert_eq!(integrity.group(0, stored).expect("asked"), Group::default());
    }
}
