//! Which bytes are here: a sorted, coalesced set of ranges.
//!
//! A thin wrapper over `rangemap` that speaks in `ByteRange` and keeps the number of bytes at
//! hand, since progress and quota ask for it at every step.

use super::{ByteCount, ByteOffset, ByteRange};

/// A set of bytes, kept as the fewest ranges that say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    map: rangemap::RangeSet<u64>,
    bytes: ByteCount,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the range; returns how many of its bytes are new.
    pub fn insert(&mut self, range: ByteRange) -> ByteCount {
        let new = range.len() - self.covered(range);
        self.map.insert(range.start()..range.end());
        self.bytes += new;
        new
    }

    /// Takes the range away; returns how many bytes went.
    pub fn remove(&mut self, range: ByteRange) -> ByteCount {
        let gone = self.covered(range);
        self.map.remove(range.start()..range.end());
        self.bytes -= gone;
        gone
    }

    /// Adds every byte of `other`.
    pub fn union(&mut self, other: &Self) {
        for range in other.iter() {
            self.insert(range);
        }
    }

    /// Takes away every byte at or past `end`.
    pub fn truncate(&mut self, end: ByteOffset) {
        if let Some(beyond) = ByteRange::new(end, u64::MAX) {
            self.remove(beyond);
        }
    }

    /// How many bytes of `range` are in the set.
    pub fn covered(&self, range: ByteRange) -> ByteCount {
        self.map
            .overlapping(range.start()..range.end())
            .map(|part| part.end.min(range.end()) - part.start.max(range.start()))
            .sum()
    }

    /// Whether every byte of `range` is in the set.
    pub fn covers(&self, range: ByteRange) -> bool {
        self.run_at(range.start()).is_some_and(|end| end >= range.end())
    }

    /// The end of the run of bytes that `offset` belongs to; `None` where `offset` is absent.
    pub fn run_at(&self, offset: ByteOffset) -> Option<ByteOffset> {
        self.map.get(&offset).map(|run| run.end)
    }

    /// The first offset at or after `offset` that is in the set.
    pub fn next_present(&self, offset: ByteOffset) -> Option<ByteOffset> {
        self.map
            .overlapping(offset..u64::MAX)
            .next()
            .map(|run| run.start.max(offset))
    }

    /// The parts of `within` that are absent, in order.
    pub fn gaps(&self, within: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let mut at = within.start();
        let mut runs = self.map.overlapping(within.start()..within.end());
        std::iter::from_fn(move || {
            for run in runs.by_ref() {
                let gap = ByteRange::new(at, run.start);
                at = run.end;
                if gap.is_some() {
                    return gap;
                }
            }
            let rest = ByteRange::new(at, within.end());
            at = within.end();
            rest
        })
    }

    /// The runs, in order; no two of them touch.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.map.iter().filter_map(|run| ByteRange::new(run.start, run.end))
    }

    /// The number of bytes in the set.
    pub fn total(&self) -> ByteCount {
        self.bytes
    }

    /// Whether no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Offsets small enough that random ranges meet, overlap and touch all the time.
    const SPAN: u64 = 64;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(ByteRange),
        Remove(ByteRange),
        Truncate(u64),
    }

    fn any_range() -> impl Strategy<Value = ByteRange> {
        (0..SPAN, 1..=SPAN).prop_filter_map("empty", |(start, count)| {
            ByteRange::new(start, (start + count).min(SPAN))
        })
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any_range().prop_map(Step::Insert),
            2 => any_range().prop_map(Step::Remove),
            1 => (0..SPAN).prop_map(Step::Truncate),
        ]
    }

    fn apply(step: &Step, set: &mut RangeSet, model: &mut BTreeSet<u64>) {
        match *step {
            Step::Insert(range) => {
                let before = model.len() as u64;
                model.extend(range.start()..range.end());
                assert_eq!(set.insert(range), model.len() as u64 - before);
            }
            Step::Remove(range) => {
                let before = model.len() as u64;
                model.retain(|byte| !range.contains(*byte));
                assert_eq!(set.remove(range), before - model.len() as u64);
            }
            Step::Truncate(end) => {
                set.truncate(end);
                model.retain(|byte| *byte < end);
            }
        }
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_a_set_of_single_bytes(
            steps in proptest::collection::vec(any_step(), 1..40),
            probe in any_range(),
        ) {
            let (mut set, mut model) = (RangeSet::new(), BTreeSet::new());
            for step in &steps {
                apply(step, &mut set, &mut model);
            }
            prop_assert_eq!(set.total(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            let bytes: BTreeSet<u64> = set.iter().flat_map(|run| run.start()..run.end()).collect();
            prop_assert_eq!(&bytes, &model);
            let runs: Vec<_> = set.iter().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start()));

            let missing: BTreeSet<u64> = (probe.start()..probe.end()).filter(|b| !model.contains(b)).collect();
            let gaps: Vec<_> = set.gaps(probe).collect();
            let in_gaps: BTreeSet<u64> = gaps.iter().flat_map(|gap| gap.start()..gap.end()).collect();
            prop_assert_eq!(&in_gaps, &missing);
            prop_assert!(gaps.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            prop_assert_eq!(set.covers(probe), missing.is_empty());
            prop_assert_eq!(set.covered(probe), probe.len() - missing.len() as u64);
            for byte in 0..SPAN {
                prop_assert_eq!(set.next_present(byte), model.range(byte..).next().copied());
                let run_end = model.contains(&byte).then(|| (byte..).find(|b| !model.contains(b)).expect("finite"));
                prop_assert_eq!(set.run_at(byte), run_end);
            }
            prop_assert_eq!(super::super::decode(&super::super::encode(&set)), Ok(set));
        }
    }

    #[test]
    fn ranges_side_by_side_become_one() {
        let set: RangeSet = [(0, 5), (10, 15), (5, 10)]
            .iter()
            .filter_map(|&(start, end)| ByteRange::new(start, end))
            .collect();
        assert_eq!(set.iter().count(), 1);
        assert_eq!(set.run_at(0), Some(15));
    }

    #[test]
    fn offsets_past_four_gigabytes_keep_their_value() {
        let far = ByteRange::with_len(5 << 32, 1 << 33).expect("not empty");
        let set: RangeSet = [far].into_iter().collect();
        assert_eq!(set.run_at(6 << 32), Some(7 << 32));
        assert_eq!(set.total(), 1 << 33);
    }
}
