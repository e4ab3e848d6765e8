//! The progress of an object: its sets of bytes and the queue of waiters, under the lock of its presence (presence.rs).
//!
//! One lock guards the set and the waiters, so a byte cannot arrive between a reader's look and its registration.
//! Waiters are kept by position: an arriving piece wakes those who wait inside it and nobody else, however many read
//! along. A reader that will get nothing more is told so in words ([`Broken`]); silence never means the end.
//!
//! ```text
//!             poll ──▶ look: here, the end, dropped, broken? ──▶ the answer, and no place in the queue
//!               ▲               │ none of these
//!               │               ▼
//!               │       waiting at (offset, ticket) ──▶ bytes come, or the end, or are dropped:
//!               │               │                       out of the queue, woken ─────┐
//!               │               ▼                                                    │
//!               │       the wait is broken: stays, with a verdict, woken ────────────┤
//!               └────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - A waiter that is woken by bytes has left the queue: the next poll looks again, and registers anew where a piece
//!   was not for it after all. A waiter with a verdict stays until its reader polls, so that the verdict is not lost;
//!   it counts no longer among those that wait.
//! - A look asks what is present, in flight or passing through first, then for the end, then for what was dropped, then
//!   whether the object is broken: bytes that are here are given even where no more will come.
//! - A byte that has come meanwhile outranks the verdict, and a poll at the same offset keeps the time at which the
//!   wait began: other wake-ups do not make a long wait a new one.
//! - Wakers are returned, not called: the caller calls them when it has released the lock.

use crate::clock::Instant;
use crate::ranges::{ByteCount, ByteOffset, ByteRange, RangeSet};
use crate::store::space::quota::pages_of;
use crate::store::write::pass_through_buffer::PassThroughBuffer;
use crate::store::write::unwritten_bytes::UnwrittenBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The answer to a reader's look at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Bytes are here, up to this end.
    Here(ByteOffset),
    /// The object ends here.
    End,
    /// The byte is absent and will not come to this reader.
    Broken(Broken),
}

/// Why bytes will not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The upstream has another representation now.
    #[error("the upstream's representation changed")]
    Superseded,
    /// The upstream has failed for longer than readers are held.
    #[error("the upstream failed: {0}")]
    Upstream(Arc<str>),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The bytes were here, and have gone for good: the log of a stream begins later now.
    #[error("what was there has been dropped: the log begins at {first} now")]
    Dropped {
        /// The first byte that is still here.
        first: ByteOffset,
    },
}

/// A reader's place in the queue: the offset it waits at, and its ticket.
pub(in crate::store) type QueuePlace = (ByteOffset, u64);

#[derive(Debug)]
struct Waiter {
    waker: Waker,
    end: ByteOffset,
    asked: ByteCount,
    /// When the reader began to wait for this very byte.
    since: Instant,
    verdict: Option<Broken>,
}

/// A position that a reader waits at, and where what it asked for ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingAt {
    /// The first absent byte that the reader needs.
    pub at: ByteOffset,
    /// The end of what it wants; at least `at + 1`.
    pub end: ByteOffset,
    /// When it began to; the earliest, where several wait for the same byte.
    pub since: Instant,
    /// How many bytes it wanted from the first, here or not; the most, where several wait.
    pub asked: ByteCount,
}

/// The in-memory truth of one generation; guarded by the object's lock.
#[derive(Debug, Default)]
pub(in crate::store) struct Progress {
    pub(in crate::store) present: RangeSet,
    /// Written, but not yet known to be on the disk.
    pub(in crate::store) unsynced: RangeSet,
    /// The pages that room has been taken for.
    pub(in crate::store) held: RangeSet,
    /// Bytes that are being written.
    pub(in crate::store) in_flight: UnwrittenBytes,
    /// Bytes that are forwarded without being stored.
    pub(in crate::store) pass_through: PassThroughBuffer,
    pub(in crate::store) length: Option<u64>,
    pub(in crate::store) unverified: bool,
    broken: Option<Broken>,
    /// Absent bytes before this offset will not come again; it only rises.
    dropped: ByteOffset,
    /// By offset and ticket: a piece wakes a range of keys, and two readers at one offset have a place each.
    waiters: BTreeMap<QueuePlace, Waiter>,
    next_ticket: u64,
}

impl Progress {
    /// The state of an object just opened: what is recorded is present, nobody waits.
    pub(in crate::store) fn recorded(present: RangeSet, length: Option<u64>, unverified: bool) -> Self {
        Self {
            held: pages_of(&present),
            present,
            length,
            unverified,
            ..Self::default()
        }
    }

    pub(in crate::store) fn look(&self, at: ByteOffset) -> Option<Availability> {
        let held = || self.in_flight.run_at(at).or_else(|| self.pass_through.run_at(at));
        if let Some(end) = self.present.run_at(at).or_else(held) {
            return Some(Availability::Here(end));
        }
        if self.length.is_some_and(|length| at >= length) {
            return Some(Availability::End);
        }
        if at < self.dropped {
            return Some(Availability::Broken(Broken::Dropped { first: self.dropped }));
        }
        self.broken.clone().map(Availability::Broken)
    }

    pub(in crate::store) fn is_whole(&self) -> bool {
        self.length == Some(self.present.total())
    }

    /// Makes the range present; returns the waiters inside it, to be woken outside the lock.
    pub(in crate::store) fn arrived(&mut self, range: ByteRange) -> Vec<Waker> {
        self.present.insert(range);
        self.unsynced.insert(range);
        self.take_waiters((range.start(), 0), (range.end(), 0))
    }

    /// Wakes those who wait for a byte of the range, which passes by, or is in memory.
    pub(in crate::store) fn take_waiters_in(&mut self, range: ByteRange) -> Vec<Waker> {
        self.take_waiters((range.start(), 0), (range.end(), 0))
    }

    /// Whether somebody waits for a byte of the range.
    pub(in crate::store) fn is_awaited(&self, range: ByteRange) -> bool {
        let mut waiters = self.waiters.range((range.start(), 0)..(range.end(), 0));
        waiters.any(|(_, waiter)| waiter.verdict.is_none())
    }

    /// Fixes the length; readers at the end learn that it is the end.
    pub(in crate::store) fn ended_at(&mut self, length: u64) -> Vec<Waker> {
        self.length = Some(length);
        self.take_waiters((length, 0), (u64::MAX, u64::MAX))
    }

    fn take_waiters(&mut self, from: (u64, u64), to: (u64, u64)) -> Vec<Waker> {
        let keys: Vec<_> = self.waiters.range(from..to).map(|(key, _)| *key).collect();
        keys.iter()
            .filter_map(|key| self.waiters.remove(key))
            .map(|waiter| waiter.waker)
            .collect()
    }

    /// When the reader that waits longest began to.
    pub(in crate::store) fn longest_wait(&self) -> Option<Instant> {
        let waiting = self.waiters.values().filter(|waiter| waiter.verdict.is_none());
        waiting.map(|waiter| waiter.since).min()
    }

    /// Breaks those who have waited since `cutoff` or before; others and later ones may go on.
    pub(in crate::store) fn break_waiters(&mut self, why: &Broken, cutoff: Instant) -> Vec<Waker> {
        // Left in the queue: the verdict is what the reader's next poll finds there.
        self.waiters
            .values_mut()
            .filter(|waiter| waiter.since <= cutoff)
            .map(|waiter| {
                waiter.verdict = Some(why.clone());
                waiter.waker.clone()
            })
            .collect()
    }

    /// Breaks those who wait now and all who come to an absent byte later.
    pub(in crate::store) fn break_for_good(&mut self, why: Broken) -> Vec<Waker> {
        let woken = self.break_waiters(&why, Instant::now());
        self.broken = Some(why);
        woken
    }

    /// Bytes before `first` will not come again.
    /// Returns where what was dropped before ends, and who waits in vain now.
    pub(in crate::store) fn drop_before(&mut self, first: ByteOffset) -> (ByteOffset, Vec<Waker>) {
        let before = self.dropped;
        self.dropped = before.max(first);
        (before, self.take_waiters((0, 0), (first, 0)))
    }

    /// The presence at `at` for a reader whose place in the queue this was; without one it is given another. `asked` is
    /// where what it asks for now began and ends.
    pub(in crate::store) fn poll(
        &mut self,
        place: &mut Option<QueuePlace>,
        at: ByteOffset,
        asked: (ByteOffset, ByteOffset),
        cx: &Context<'_>,
    ) -> Poll<Availability> {
        let before = place.take();
        let waiter = before.and_then(|place| self.waiters.remove(&place));
        // A poll for some other reason does not begin the wait anew.
        let since = match (&waiter, before) {
            (Some(waiter), Some(place)) if place.0 == at => waiter.since,
            _ => Instant::now(),
        };
        let verdict = waiter.and_then(|waiter| waiter.verdict);
        // Before the verdict: a byte that has come outranks it.
        if let Some(found) = self.look(at) {
            return Poll::Ready(found);
        }
        if let Some(why) = verdict {
            return Poll::Ready(Availability::Broken(why));
        }
        self.next_ticket += 1;
        let waiter = Waiter {
            waker: cx.waker().clone(),
            end: asked.1.max(at.saturating_add(1)),
            asked: asked.1.saturating_sub(asked.0),
            since,
            verdict: None,
        };
        let entered = (at, self.next_ticket);
        self.waiters.insert(entered, waiter);
        *place = Some(entered);
        Poll::Pending
    }

    /// Takes a reader out of the queue.
    pub(in crate::store) fn leave(&mut self, place: QueuePlace) {
        self.waiters.remove(&place);
    }

    pub(in crate::store) fn waiting(&self) -> Vec<WaitingAt> {
        // One allocation for all but a crowd: the lock is held.
        let mut list: Vec<WaitingAt> = Vec::with_capacity(self.waiters.len().min(64));
        for (&(at, _), waiter) in self.waiters.iter().filter(|(_, waiter)| waiter.verdict.is_none()) {
            match list.last_mut() {
                Some(last) if last.at == at => {
                    last.end = last.end.max(waiter.end);
                    last.since = last.since.min(waiter.since);
                    last.asked = last.asked.max(waiter.asked);
                }
                _ => list.push(WaitingAt {
                    at,
                    end: waiter.end,
                    since: waiter.since,
                    asked: waiter.asked,
                }),
            }
        }
        list
    }
}
