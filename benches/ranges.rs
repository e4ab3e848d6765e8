//! The range set under the load of a busy fill: random inserts, then look-ups.

use millpond::ranges::{ByteRange, RangeSet};
use std::hint::black_box;
use std::time::Instant;

const RANGES: u64 = 10_000;
const BLOCK: u64 = 64 * 1024;

fn main() {
    let blocks: Vec<ByteRange> = (0..RANGES)
        .map(|n| (n * 7919) % (RANGES * 4))
        .filter_map(|block| ByteRange::with_len(block * BLOCK, BLOCK))
        .collect();
    let start = Instant::now();
    let set: RangeSet = blocks.iter().copied().collect();
    let inserting = start.elapsed();
    let start = Instant::now();
    let found = blocks
        .iter()
        .filter(|block| black_box(set.run_at(block.start())).is_some())
        .count();
    let finding = start.elapsed();
    assert_eq!(found, blocks.len());
    eprintln!("{RANGES} inserts: {inserting:?}; {RANGES} look-ups: {finding:?}");
}
