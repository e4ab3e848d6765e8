//! The memory that all answers to PROPFIND hold together, of whatever directory they are.
//!
//! An answer holds the names that it has still to describe until its client has taken them, and clients may take as long
//! as they like. So all of them have one bound. Where another answer does not fit, those whose clients have taken nothing
//! for a while give way: their names are dropped, and their connections break when they go on. Where none has waited so
//! long, the new one is refused (503), and its client comes again.

use crate::clock::Instant;
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most that they hold together, in bytes. A judgement: names of a million files are about as much, and a thousand
/// readers of a thousand names each.
const MOST_BYTES: usize = 64 << 20;

/// The bytes that an answer holds beside its names: a piece of its document, and the buffers of its connection. A judgement.
const BYTES_BESIDE_NAMES: usize = 128 << 10;

/// The time after which an answer gives way of which nothing was taken: as that of answers which hold a connection to an
/// upstream.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answers that are under way, each with what is left of it. A lock around a table; held for a look at all of them
/// where it is full.
#[derive(Debug)]
pub struct ListingBudget<M>(Mutex<State<M>>);

#[derive(Debug)]
struct State<M> {
    next: u64,
    bytes: usize,
    open: HashMap<u64, OpenListing<M>>,
}

#[derive(Debug)]
struct OpenListing<M> {
    bytes: usize,
    /// When something was last taken.
    taken_at: Instant,
    /// Empty while a piece is being written, and where it has given way.
    members: Option<Box<M>>,
}

/// The part of one answer, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct ListingShare<M> {
    budget: Arc<ListingBudget<M>>,
    id: u64,
}

impl<M> Default for ListingBudget<M> {
    fn default() -> Self {
        Self(Mutex::new(State {
            next: 0,
            bytes: 0,
            open: HashMap::new(),
        }))
    }
}

impl<M> ListingBudget<M> {
    /// A part for an answer with these members, whose names take so many bytes; `None` where there is no room, and nothing gives way.
    pub(super) fn admit(self: &Arc<Self>, name_bytes: usize, members: M) -> Option<ListingShare<M>> {
        let bytes = name_bytes + BYTES_BESIDE_NAMES;
        let now = Instant::now();
        let mut state = lock(&self.0);
        if state.bytes + bytes > MOST_BYTES {
            state.drop_unread(now);
        }
        // One that is larger than all is admitted alone: the directory is what it is.
        if state.bytes + bytes > MOST_BYTES && state.bytes > 0 {
            return None;
        }
        state.next += 1;
        let id = state.next;
        state.bytes += bytes;
        state.open.insert(
            id,
            OpenListing {
                bytes,
                taken_at: now,
                members: Some(Box::new(members)),
            },
        );
        Some(ListingShare {
            budget: Arc::clone(self),
            id,
        })
    }
}

impl<M> State<M> {
    fn drop_unread(&mut self, now: Instant) {
        let Self { bytes, open, .. } = self;
        open.retain(|_, listing| {
            let is_unread = listing.members.is_some() && now - listing.taken_at >= PATIENCE;
            if is_unread {
                *bytes -= listing.bytes;
            }
            !is_unread
        });
    }
}

impl<M> ListingShare<M> {
    /// Takes the members out, for the next piece; `None` where they have given way.
    pub(super) fn take(&self) -> Option<Box<M>> {
        let mut state = lock(&self.budget.0);
        let listing = state.open.get_mut(&self.id)?;
        listing.taken_at = Instant::now();
        listing.members.take()
    }

    /// Puts back what is left after a piece.
    pub(super) fn put_back(&self, members: Box<M>) {
        if let Some(listing) = lock(&self.budget.0).open.get_mut(&self.id) {
            listing.members = Some(members);
        }
    }
}

impl<M> Drop for ListingShare<M> {
    fn drop(&mut self) {
        let mut state = lock(&self.budget.0);
        if let Some(listing) = state.open.remove(&self.id) {
            state.bytes -= listing.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_give_way_to_others() {
        let budget = Arc::new(ListingBudget::default());
        let unread: Vec<_> = (0..6)
            .map(|number| budget.admit(10 * MIB, number).expect("room"))
            .collect();
        assert!(budget.admit(10 * MIB, 6).is_none(), "all are new");
        let small = budget.admit(MIB, 7).expect("a small one has room");
        tokio::time::advance(PATIENCE).await;
        // One goes on, and one is just being written.
        let read = unread[0].take().expect("there");
        unread[0].put_back(read);
        let writing = unread[1].take().expect("there");
        let new = budget.admit(10 * MIB, 8).expect("others give way");
        assert_eq!(unread[2].take(), None);
        assert_eq!(unread[0].take().as_deref(), Some(&0));
        unread[1].put_back(writing);
        assert_eq!(unread[1].take().as_deref(), Some(&1));
        drop((unread, small, new));
        let state = lock(&budget.0);
        assert_eq!((state.bytes, state.open.len()), (0, 0));
    }

    #[test]
    fn a_listing_larger_than_the_bound_is_admitted_alone() {
        let budget = Arc::new(ListingBudget::default());
        let first = budget.admit(2 * MOST_BYTES, 1).expect("alone");
        assert!(budget.admit(0, 2).is_none());
        drop(first);
        assert!(budget.admit(0, 2).is_some());
    }
}
