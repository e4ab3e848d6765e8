//! Retention of watched bytes: where readers wait for room, parts of objects under way that were watched go first.
//!
//! The store evicts whole objects that nobody uses. What is left then is in use, and of that only the
//! fills know which parts are behind their readers. The beginning of an object and its end stay (players
//! come back to both), and so does a window behind each reader and everything ahead of it. What went is
//! absent, and fetched again for whoever seeks back.

use crate::fill::context::Context;
use crate::fill::reader::position::ReaderProgress;
use crate::fill::state::FillState;
use crate::ranges::{ByteCount, ByteOffset, ByteRange, RangeSet};
use crate::store::{Object, StoreError};
use crate::sync::lock;
use std::sync::Arc;

/// Bytes are punched out in blocks of this length, which is that of a checksum: their checksums then go with them.
const BLOCK_BYTES: u64 = 1 << 20;

/// Bytes that are punched out at once, where there are so many: each time the catalog is written out. A judgement: as
/// much as is recorded at once.
const AT_ONCE_BYTES: u64 = 4 << 20;

/// The most that is kept of an object's beginning and of its end, each; less where the quota is small. A judgement.
const EDGE_BYTES: u64 = 4 << 20;

/// The most that is kept behind a reader; less where the quota is small. A judgement: half a minute of a film of 8
/// Mbit/s.
const BACK_BYTES: u64 = 32 << 20;

/// Bytes that are kept for a reader that has just left and may be back for the next piece. A judgement.
const NEXT_BYTES: u64 = 16 << 20;

/// The window of bytes that are kept, by their distance from a reader and from both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fill) struct RetentionWindow {
    edge: u64,
    back: u64,
}

impl RetentionWindow {
    pub(in crate::fill) fn under(quota: Option<u64>) -> Self {
        let quota = quota.unwrap_or(u64::MAX);
        Self {
            edge: EDGE_BYTES.min(quota / 64),
            back: BACK_BYTES.min(quota / 16),
        }
    }

    /// Where nothing else is left to go.
    fn scarce(self) -> Self {
        Self {
            edge: self.edge.min(BLOCK_BYTES),
            back: 0,
        }
    }
}

/// The blocks of an object that no reader will miss soon: what lies farthest behind its reader first.
pub(in crate::fill) fn expendable(
    present: &RangeSet,
    length: Option<u64>,
    reading: &[ReaderProgress],
    left_at: &[ByteOffset],
    kept: RetentionWindow,
) -> Vec<ByteRange> {
    let mut rest = present.clone();
    let mut keep = |start: u64, end: u64| {
        if let Some(range) = ByteRange::new(start, end) {
            rest.remove(range);
        }
    };
    keep(0, kept.edge);
    if let Some(length) = length {
        keep(length.saturating_sub(kept.edge), length);
    }
    for reader in reading {
        keep(reader.at.saturating_sub(kept.back), reader.end);
    }
    for at in left_at {
        keep(
            at.saturating_sub(kept.back),
            at.saturating_add(NEXT_BYTES.min(kept.back)),
        );
    }
    rest.iter().filter_map(whole_blocks).collect()
}

fn whole_blocks(range: ByteRange) -> Option<ByteRange> {
    ByteRange::new(
        range.start().checked_next_multiple_of(BLOCK_BYTES)?,
        range.end() / BLOCK_BYTES * BLOCK_BYTES,
    )
}

fn lacks_room(written: &Result<(), StoreError>) -> Option<ByteCount> {
    written.as_ref().err().and_then(StoreError::missing_bytes)
}

impl Context {
    /// Writes, and where there is no room, takes it from what was watched: of this object first, then of
    /// the others. For a blocking thread.
    pub(in crate::fill) fn write(
        &self,
        shared: &Arc<FillState>,
        object: &Object,
        at: ByteOffset,
        pieces: &[impl AsRef<[u8]>],
    ) -> Result<(), StoreError> {
        let mut written = self.store.write(object, at, pieces);
        if lacks_room(&written).is_some() && shared.readers.are_here() {
            // One caller makes room at a time: room for one piece is not made twice.
            let _one = lock(&self.punching);
            // The caller that held the lock before may have made room for this piece too.
            written = self.store.write(object, at, pieces);
            while let Some(missing) = lacks_room(&written) {
                if !self.punch(shared, missing) {
                    break;
                }
                written = self.store.write(object, at, pieces);
            }
        }
        written
    }

    /// Whether more could be stored for this fill than is now.
    pub(in crate::fill) fn could_store(&self, shared: &Arc<FillState>) -> bool {
        self.store.could_store(BLOCK_BYTES)
            || !self
                .expendable_of(shared, RetentionWindow::under(self.store.room_of_objects()))
                .is_empty()
    }

    /// Makes some room, `missing` bytes or more where that is to be had; `false` where none is.
    fn punch(&self, own: &Arc<FillState>, missing: u64) -> bool {
        let wanted = missing.max(AT_ONCE_BYTES);
        let others: Vec<Arc<FillState>> = {
            let fills = self.fills();
            fills
                .values()
                .filter(|other| !Arc::ptr_eq(other, own))
                .cloned()
                .collect()
        };
        let kept = RetentionWindow::under(self.store.room_of_objects());
        let mut freed = 0;
        // Bytes that are far behind every reader first; then also those that one could seek back to.
        for kept in [kept, kept.scarce()] {
            for shared in std::iter::once(own).chain(&others) {
                freed += self.punch_one(shared, kept, wanted - freed.min(wanted));
                if freed >= wanted {
                    return true;
                }
            }
            if freed >= missing.max(1) {
                return true;
            }
        }
        false
    }

    fn expendable_of(&self, shared: &Arc<FillState>, kept: RetentionWindow) -> Vec<ByteRange> {
        match shared.object() {
            // Bytes that could not be fetched again, piece by piece, stay.
            Some(object) if object.head().has_ranges() && !object.is_whole() && !object.is_pinned() => {
                let (reading, left_at) = (shared.readers.reading(), shared.readers.left_at());
                expendable(&object.presence().present(), object.length(), &reading, &left_at, kept)
            }
            _ => Vec::new(),
        }
    }

    fn punch_one(&self, shared: &Arc<FillState>, kept: RetentionWindow, wanted: u64) -> u64 {
        let Some(object) = shared.object() else { return 0 };
        let mut freed = 0;
        for range in self.expendable_of(shared, kept) {
            if freed >= wanted {
                break;
            }
            let blocks = (wanted - freed).next_multiple_of(BLOCK_BYTES);
            let end = range.end().min(range.start().saturating_add(blocks));
            let Some(part) = ByteRange::new(range.start(), end) else {
                continue;
            };
            match object.sink().punch_out(part) {
                Ok(bytes) => freed += bytes,
                Err(error) => {
                    tracing::warn!(url = object.url(), %error, "could not make room inside an object");
                    break;
                }
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start * MIB, end * MIB).expect("not empty")
    }

    fn reader(at: u64, end: u64) -> ReaderProgress {
        crate::fill::reader::position::ReaderPosition::new(at * MIB, end * MIB, Instant::now()).now()
    }

    const KEPT: RetentionWindow = RetentionWindow {
        edge: 2 * MIB,
        back: 10 * MIB,
    };

    #[test]
    fn only_watched_blocks_behind_the_window_are_expendable() {
        let present: RangeSet = [range(0, 100), range(190, 200)].into_iter().collect();
        let gone = expendable(&present, Some(200 * MIB), &[reader(50, 200)], &[], KEPT);
        // Not the head, not the window behind the reader, nothing ahead of it.
        assert_eq!(gone, [range(2, 40)]);
    }

    #[test]
    fn blocks_no_reader_will_come_to_are_expendable() {
        let present: RangeSet = [range(0, 100)].into_iter().collect();
        let gone = expendable(&present, Some(100 * MIB), &[reader(90, 100), reader(20, 30)], &[], KEPT);
        // Between them lies what the first will not come to: what it asked for ends before.
        assert_eq!(gone, [range(2, 10), range(30, 80)]);
    }

    #[test]
    fn a_player_between_two_requests_keeps_its_place() {
        let present: RangeSet = [range(0, 100)].into_iter().collect();
        let gone = expendable(&present, Some(100 * MIB), &[], &[60 * MIB], KEPT);
        assert_eq!(gone, [range(2, 50), range(70, 98)]);
    }

    #[test]
    fn without_readers_only_the_first_and_last_blocks_stay() {
        let present: RangeSet = [range(0, 100)].into_iter().collect();
        assert_eq!(expendable(&present, Some(100 * MIB), &[], &[], KEPT), [range(2, 98)]);
    }
}
