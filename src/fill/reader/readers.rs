//! The readers of a fill: what they tell its owner.
//!
//! A reader writes here when it comes and when it leaves, each time in one step under one lock: it is counted, has its
//! position, and has told its range at the same moment. The owner looks once for each plan ([`FillReaders::look`]), and
//! plans for what it saw. Where a reader comes after that look the plan does not know it; what the plan has decided
//! against readers that are not there is carried out by [`FillReaders::unless_come_since`], which asks whether one has
//! come meanwhile.
//!
//! The position of a reader moves with each block that its client takes: that is written to the reader's own
//! [`ReaderPosition`], and never under the lock of the table.

use super::position::{AccessPattern, ReaderPosition, ReaderProgress};
use crate::clock::Instant;
use crate::ranges::ByteOffset;
use crate::sync::lock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// The readers of a fill.
#[derive(Debug)]
pub(in crate::fill) struct FillReaders {
    /// Written by readers when they come and leave, looked at by the owner for each plan, and by whoever makes room.
    /// Held for an entry or a copy, never with a block of bytes. Taken under the lock of the fills where a reader is
    /// counted; no other lock is taken under it.
    table: Mutex<ReaderTable>,
    /// Wakes the owner: a reader has left, the first that wants bytes has come, or one with another URL; a purge rings
    /// too. It keeps one permit, so a ring before the owner listens is not lost.
    changed: Notify,
    /// How many readers there are. Written under the lock of the table alone, Release; read without it, Acquire, by the
    /// owner's loop and under the lock of the fills, which therefore waits for no table.
    count: AtomicUsize,
    /// How many mirrors want the object whole. They read nothing, and do not keep a fill that can bring no more. Changed
    /// under the lock of the fills, Release; read without it, Acquire.
    patrons: AtomicUsize,
}

#[derive(Debug)]
struct ReaderTable {
    /// The positions of the readers that are here: as many as there are cursors.
    positions: Vec<Arc<ReaderPosition>>,
    /// How many readers have ever come.
    arrivals: u64,
    /// A reader has asked for bytes, so completing the object is worth while.
    bytes_wanted: bool,
    /// Where the latest reader begins, until the owner takes it.
    hint: Option<ByteOffset>,
    access: AccessPattern,
}

/// The readers as they are at one moment.
#[derive(Debug)]
pub(in crate::fill) struct ReadersNow {
    /// How many readers have ever come.
    pub(in crate::fill) arrivals: u64,
    /// How each of the readers that are here goes.
    pub(in crate::fill) reading: Vec<ReaderProgress>,
    /// A request for the head alone asks for no byte of the body.
    pub(in crate::fill) bytes_wanted: bool,
    /// Where the latest reader begins, told once.
    pub(in crate::fill) hint: Option<ByteOffset>,
    /// The latest reader goes on where another one ended, so that the next is known beforehand.
    pub(in crate::fill) in_sequence: bool,
    /// When a reader last left.
    pub(in crate::fill) left: Option<Instant>,
}

impl FillReaders {
    /// No reader yet; `bytes_wanted` is what the first one will want. It is said before the owner starts, which must not
    /// take that one for a reader of the head.
    pub(in crate::fill) fn new(bytes_wanted: bool) -> Self {
        Self {
            table: Mutex::new(ReaderTable {
                positions: Vec::new(),
                arrivals: 0,
                bytes_wanted,
                hint: None,
                access: AccessPattern::default(),
            }),
            changed: Notify::new(),
            count: AtomicUsize::new(0),
            patrons: AtomicUsize::new(0),
        }
    }

    /// A mirror wants the object whole.
    pub(in crate::fill) fn patronize(&self) {
        self.table().bytes_wanted = true;
        self.patrons.fetch_add(1, Ordering::Release);
    }

    /// A mirror wants it no more.
    pub(in crate::fill) fn forsake(&self) {
        self.patrons.fetch_sub(1, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether a mirror wants the object whole.
    pub(in crate::fill) fn have_patrons(&self) -> bool {
        self.patrons.load(Ordering::Acquire) > 0
    }

    /// Whether the fill is for mirrors alone: nobody reads.
    pub(in crate::fill) fn serve_patrons_alone(&self) -> bool {
        self.have_patrons() && !self.are_here()
    }

    fn table(&self) -> MutexGuard<'_, ReaderTable> {
        lock(&self.table)
    }

    /// A reader comes. `asked` is the range that it asks for, where its bounds are known. Whether it is the first that wants bytes.
    pub(in crate::fill) fn come(
        &self,
        position: &Arc<ReaderPosition>,
        asked: Option<(ByteOffset, ByteOffset)>,
        wants_bytes: bool,
    ) -> bool {
        let mut table = self.table();
        table.positions.push(Arc::clone(position));
        table.arrivals += 1;
        // Release, as the field says.
        self.count.store(table.positions.len(), Ordering::Release);
        if let Some((start, end)) = asked {
            table.hint = Some(start);
            table.access.note(start, end);
        }
        wants_bytes && !std::mem::replace(&mut table.bytes_wanted, true)
    }

    /// A reader leaves.
    pub(in crate::fill) fn leave(&self, position: &Arc<ReaderPosition>) {
        let mut table = self.table();
        table.access.left = Some(Instant::now());
        if let Some(index) = table.positions.iter().position(|known| Arc::ptr_eq(known, position)) {
            table.positions.swap_remove(index);
        }
        // Release, as the field says.
        self.count.store(table.positions.len(), Ordering::Release);
        drop(table);
        self.changed.notify_one();
    }

    /// Wakes the owner, to plan anew.
    pub(in crate::fill) fn ring(&self) {
        self.changed.notify_one();
    }

    /// Returns when a reader has rung.
    pub(in crate::fill) async fn rung(&self) {
        self.changed.notified().await;
    }

    /// The readers as they are now, for a plan.
    pub(in crate::fill) fn look(&self) -> ReadersNow {
        let mut table = self.table();
        let positions = table.positions.clone();
        let now = ReadersNow {
            arrivals: table.arrivals,
            reading: Vec::new(),
            bytes_wanted: table.bytes_wanted,
            hint: table.hint.take(),
            in_sequence: table.access.in_sequence,
            left: table.access.left,
        };
        drop(table);
        // A position is locked by its reader with each block: the table is not kept for it.
        let reading = positions.iter().map(|position| position.now()).collect();
        ReadersNow { reading, ..now }
    }

    /// Does what is decided against readers that are not there, unless one has come since there had been so many
    /// `arrivals`. Under the lock under which readers are counted: a reader that is counted after this finds it done.
    pub(in crate::fill) fn unless_come_since(&self, arrivals: u64, act: impl FnOnce()) -> bool {
        let table = self.table();
        let acts = table.arrivals == arrivals;
        if acts {
            act();
        }
        acts
    }

    /// How many readers there are.
    pub(in crate::fill) fn count(&self) -> usize {
        // Acquire, as the field says.
        self.count.load(Ordering::Acquire)
    }

    pub(in crate::fill) fn are_here(&self) -> bool {
        self.count() > 0
    }

    /// Whether any reader has asked for bytes.
    pub(in crate::fill) fn want_bytes(&self) -> bool {
        self.table().bytes_wanted
    }

    /// Forgets where the latest reader begins: something later says better where the next bytes are wanted.
    pub(in crate::fill) fn forget_hint(&self) {
        self.table().hint = None;
    }

    /// When the last reader left; `None` while one is here, or none has been.
    pub(in crate::fill) fn gone_since(&self) -> Option<Instant> {
        let table = self.table();
        table.access.left.filter(|_| table.positions.is_empty())
    }

    /// Where the latest ranges ended: whoever asked for them may be back for the next.
    pub(in crate::fill) fn left_at(&self) -> Vec<ByteOffset> {
        self.table().access.latest_ends()
    }

    /// How each of the readers goes.
    pub(in crate::fill) fn reading(&self) -> Vec<ReaderProgress> {
        let positions = self.table().positions.clone();
        positions.iter().map(|position| position.now()).collect()
    }
}

impl ReadersNow {
    /// How many readers there are.
    pub(in crate::fill) fn count(&self) -> usize {
        self.reading.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(at: ByteOffset) -> Arc<ReaderPosition> {
        Arc::new(ReaderPosition::new(at, u64::MAX, Instant::now()))
    }

    #[test]
    fn a_reader_is_counted_placed_and_heard_in_one_step() {
        let readers = FillReaders::new(false);
        let first = position(7);
        assert!(!readers.come(&first, None, false), "it is for the head");
        assert!(!readers.want_bytes());
        assert!(readers.come(&position(9), Some((9, 20)), true));
        assert!(!readers.come(&position(20), Some((20, 30)), true), "bytes were wanted");
        let now = readers.look();
        assert_eq!((now.count(), now.arrivals, now.hint), (3, 3, Some(20)));
        assert!(now.bytes_wanted && now.in_sequence && now.left.is_none());
        assert_eq!(
            now.reading.iter().map(|reader| reader.at).collect::<Vec<_>>(),
            [7, 9, 20]
        );
        readers.leave(&first);
        let now = readers.look();
        assert_eq!(
            (now.count(), now.arrivals, now.hint),
            (2, 3, None),
            "a hint is told once"
        );
        assert!(now.left.is_some() && readers.gone_since().is_none());
    }

    #[test]
    fn a_decision_against_absent_readers_is_void_once_a_reader_comes() {
        let readers = FillReaders::new(true);
        let seen = readers.look().arrivals;
        assert!(readers.unless_come_since(seen, || ()));
        let late = position(0);
        readers.come(&late, None, true);
        // One that has come and gone may have relied on what was there.
        readers.leave(&late);
        assert!(!readers.unless_come_since(seen, || panic!("a reader has come")));
    }
}
