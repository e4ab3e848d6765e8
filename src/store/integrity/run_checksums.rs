//! Checksums of what is on the disk: one for each run of durable bytes within a block of 1 MiB.
//!
//! Checksums are taken from the bytes as they arrive, stored with the record that names those bytes durable,
//! and compared when a body is first read after a start and by `verify`. A block that is only half here
//! has sums too, so that what a crash left is no blind spot. The hash is XXH3 of 64 bits: it is met by
//! disks that lie, not by people who do.

use crate::ranges::{ByteOffset, ByteRange, RangeSet};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// The length of a block, in bytes. A judgement: the first read of a byte after a start reads its block, a few
/// milliseconds, and a film of 8 GiB has a hundred kilobytes of sums. Frozen: sums are stored by it.
pub(in crate::store) const BLOCK_BYTES: u64 = 1 << 20;

/// Blocks in one value of the catalog: it stays about a kilobyte where the whole of a film is here, since a block of
/// one run takes some 16 bytes. Frozen: keys count by it.
pub(in crate::store) const BLOCKS_PER_GROUP: u64 = 64;

/// The most blocks of an object whose arrival is followed at once; others are read back. A judgement: a hash under way
/// takes some hundred bytes, and an object has a few sessions, each in one block.
const MAX_ARRIVING: usize = 64;

pub(in crate::store) fn block_of(at: ByteOffset) -> u64 {
    at / BLOCK_BYTES
}

/// The bytes of a block.
pub(in crate::store) fn block_range(block: u64) -> Option<ByteRange> {
    let start = block.checked_mul(BLOCK_BYTES)?;
    ByteRange::new(start, start.saturating_add(BLOCK_BYTES))
}

/// The blocks that hold any of the set.
pub(in crate::store) fn blocks_of(set: &RangeSet) -> BTreeSet<u64> {
    set.iter()
        .flat_map(|run| block_of(run.start())..=block_of(run.end() - 1))
        .collect()
}

/// The parts of the set within a block, in order.
pub(in crate::store) fn runs_within(set: &RangeSet, block: u64) -> Vec<ByteRange> {
    let Some(within) = block_range(block) else {
        return Vec::new();
    };
    let mut runs = Vec::new();
    let mut at = within.start();
    while let Some(start) = set.next_present(at).filter(|start| *start < within.end()) {
        let end = set.run_at(start).unwrap_or(start).min(within.end());
        runs.extend(ByteRange::new(start, end));
        at = end;
    }
    runs
}

pub(in crate::store) fn sum_of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The checksum of one run, whose offsets count from its block's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Sum {
    pub(in crate::store) start: u32,
    pub(in crate::store) end: u32,
    pub(in crate::store) sum: u64,
}

impl Sum {
    pub(in crate::store) fn new(run: ByteRange, sum: u64) -> Self {
        let base = run.start() / BLOCK_BYTES * BLOCK_BYTES;
        Self {
            start: (run.start() - base) as u32,
            end: (run.end() - base) as u32,
            sum,
        }
    }

    /// The bytes it speaks of, in the block of that number.
    pub(in crate::store) fn range(&self, block: u64) -> Option<ByteRange> {
        let base = block.checked_mul(BLOCK_BYTES)?;
        ByteRange::new(base + u64::from(self.start), base + u64::from(self.end))
    }
}

/// The sum of exactly this run among those that are known.
pub(in crate::store) fn known_sum(run: ByteRange, known: &[Sum]) -> Option<Sum> {
    let wanted = Sum::new(run, 0);
    let mut same = known
        .iter()
        .filter(|sum| (sum.start, sum.end) == (wanted.start, wanted.end));
    same.next().copied()
}

/// The sums of up to [`BLOCKS_PER_GROUP`] neighbouring blocks, as the catalog keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Group {
    /// A block's place in the group and its sums, in the order of the places.
    blocks: Vec<(u8, Vec<Sum>)>,
}

impl Group {
    pub(in crate::store) fn number_of(block: u64) -> u64 {
        block / BLOCKS_PER_GROUP
    }

    pub(in crate::store) fn get(&self, block: u64) -> &[Sum] {
        let place = (block % BLOCKS_PER_GROUP) as u8;
        self.blocks
            .binary_search_by_key(&place, |(at, _)| *at)
            .map_or(&[], |index| &self.blocks[index].1)
    }

    pub(in crate::store) fn set(&mut self, block: u64, sums: Vec<Sum>) {
        let place = (block % BLOCKS_PER_GROUP) as u8;
        match self.blocks.binary_search_by_key(&place, |(at, _)| *at) {
            Ok(index) if sums.is_empty() => drop(self.blocks.remove(index)),
            Ok(index) => self.blocks[index].1 = sums,
            Err(_) if sums.is_empty() => {}
            Err(index) => self.blocks.insert(index, (place, sums)),
        }
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// Blocks whose bytes are arriving in order, hashed on the way.
#[derive(Debug, Default)]
pub(in crate::store) struct Arriving {
    blocks: HashMap<u64, Following>,
}

struct Following {
    start: ByteOffset,
    next: ByteOffset,
    hash: XxHash3_64,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.start, self.next)
    }
}

impl Arriving {
    /// Bytes have been written at `at`.
    pub(in crate::store) fn wrote(&mut self, at: ByteOffset, mut bytes: &[u8]) {
        let mut at = at;
        while !bytes.is_empty() {
            let block = block_of(at);
            let room = (BLOCK_BYTES - at % BLOCK_BYTES).min(bytes.len() as u64) as usize;
            let (piece, rest) = bytes.split_at(room);
            self.within(block, at, piece);
            at += room as u64;
            bytes = rest;
        }
    }

    fn within(&mut self, block: u64, at: ByteOffset, piece: &[u8]) {
        if !self.blocks.contains_key(&block) && self.blocks.len() >= MAX_ARRIVING {
            self.blocks.clear();
        }
        let following = self.blocks.entry(block).or_insert_with(|| Following {
            start: at,
            next: at,
            hash: XxHash3_64::new(),
        });
        // A gap or a repetition: the hash begins anew here, and what it has is worth nothing for the run.
        if following.next != at {
            *following = Following {
                start: at,
                next: at,
                hash: XxHash3_64::new(),
            };
        }
        following.hash.write(piece);
        following.next += piece.len() as u64;
    }

    /// The sum of exactly this run, where its bytes came in order.
    pub(in crate::store) fn sum(&self, run: ByteRange) -> Option<u64> {
        let following = self.blocks.get(&block_of(run.start()))?;
        (following.start == run.start() && following.next == run.end()).then(|| following.hash.finish())
    }

    /// The block is all recorded, or its bytes are gone.
    pub(in crate::store) fn forget(&mut self, block: u64) {
        self.blocks.remove(&block);
    }
}

/// Which blocks of an object that was opened from the disk have not been compared yet.
#[derive(Debug, Default)]
pub(in crate::store) struct Unchecked {
    blocks: RangeSet,
}

impl Unchecked {
    /// All blocks that hold any of the set.
    pub(in crate::store) fn of(durable: &RangeSet) -> Self {
        let blocks = durable
            .iter()
            .filter_map(|run| ByteRange::new(block_of(run.start()), block_of(run.end() - 1) + 1));
        Self {
            blocks: blocks.collect(),
        }
    }

    pub(in crate::store) fn contains(&self, block: u64) -> bool {
        self.blocks.run_at(block).is_some()
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(in crate::store) fn checked(&mut self, block: u64) {
        if let Some(one) = ByteRange::with_len(block, 1) {
            self.blocks.remove(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).expect("not empty")
    }

    #[test]
    fn bytes_that_come_in_order_are_summed_on_the_way() {
        let mut arriving = Arriving::default();
        let bytes: Vec<u8> = (0..BLOCK_BYTES * 2).map(|n| (n * 31) as u8).collect();
        for (index, piece) in bytes.chunks(100_000).enumerate() {
            arriving.wrote(index as u64 * 100_000, piece);
        }
        let first = range(0, BLOCK_BYTES);
        assert_eq!(arriving.sum(first), Some(sum_of(&bytes[..BLOCK_BYTES as usize])));
        let second = range(BLOCK_BYTES, 2 * BLOCK_BYTES);
        assert_eq!(arriving.sum(second), Some(sum_of(&bytes[BLOCK_BYTES as usize..])));
        assert_eq!(arriving.sum(range(0, 100)), None, "only the run as a whole");
        arriving.forget(0);
        assert_eq!(arriving.sum(first), None);
    }

    #[test]
    fn bytes_out_of_order_are_not_taken_for_a_run() {
        let mut arriving = Arriving::default();
        arriving.wrote(0, b"ab");
        arriving.wrote(4, b"ef");
        arriving.wrote(2, b"cd");
        assert_eq!(arriving.sum(range(0, 6)), None);
        assert_eq!(arriving.sum(range(2, 4)), Some(sum_of(b"cd")));
    }

    #[test]
    fn runs_are_cut_at_the_bounds_of_their_block() {
        let set: RangeSet = [range(10, 20), range(BLOCK_BYTES - 5, BLOCK_BYTES + 7)]
            .into_iter()
            .collect();
        assert_eq!(
            runs_within(&set, 0),
            [range(10, 20), range(BLOCK_BYTES - 5, BLOCK_BYTES)]
        );
        assert_eq!(runs_within(&set, 1), [range(BLOCK_BYTES, BLOCK_BYTES + 7)]);
        assert_eq!(blocks_of(&set).into_iter().collect::<Vec<_>>(), [0, 1]);
        let sum = Sum::new(range(BLOCK_BYTES, BLOCK_BYTES + 7), 1);
        assert_eq!(sum.range(1), Some(range(BLOCK_BYTES, BLOCK_BYTES + 7)));
    }

    #[test]
    fn a_group_holds_the_blocks_it_was_given() {
        let mut group = Group::default();
        let sum = |sum| vec![Sum { start: 0, end: 9, sum }];
        group.set(70, sum(70));
        group.set(65, sum(65));
        assert_eq!(group.get(65), sum(65));
        assert_eq!(group.get(66), []);
        group.set(65, Vec::new());
        group.set(70, sum(71));
        assert_eq!((group.get(65), group.get(70)), (&[][..], &sum(71)[..]));
        group.set(70, Vec::new());
        assert!(group.is_empty());
    }
}
