//! The owner's snapshot of its fill: all that the owner alone says of it, published as one value.
//!
//! The owner writes, everybody else reads. Readers that wait for the head, or for a refusal, are woken where the phase
//! or the trouble changes. What a plan changes (the sessions, the next try) wakes nobody: it is looked at by readers
//! that decide where to read on, and by those who ask why one waits.

use super::fetch::session::SessionPosition;
use super::phase::{Phase, Trouble};
use crate::clock::Instant;
use std::sync::Arc;
use tokio::sync::watch;

/// The state of a fill as its owner tells it.
#[derive(Debug)]
pub(super) struct FillSnapshot {
    pub(super) phase: Phase,
    /// Why the fill makes no progress, with the count of renewals (targets.rs) under which that was found.
    pub(super) trouble: Option<(Trouble, u64)>,
    pub(super) status: FillStatus,
}

/// The owner's status, published after each plan.
#[derive(Debug, Default)]
pub(super) struct FillStatus {
    pub(super) sessions: Vec<Arc<SessionPosition>>,
    pub(super) retry_at: Option<Instant>,
    /// The last failure was the disk's.
    pub(super) disk: bool,
    pub(super) ranges: bool,
    /// No other exchange can go on where the sessions end.
    pub(super) dead_end: bool,
}

/// The owner's end of the snapshot. A `watch`, whose value lies under a lock that is held for a look or a replacement:
/// some times for each plan, and never with a block of bytes. Under the lock of the fills it is looked at where a reader
/// joins; no other lock is taken under it.
#[derive(Debug)]
pub(super) struct OwnerNews(watch::Sender<FillSnapshot>);

impl OwnerNews {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(FillSnapshot {
            phase: Phase::Opening,
            trouble: None,
            status: FillStatus::default(),
        }))
    }

    /// The snapshot, locked: for a look.
    pub(super) fn look(&self) -> watch::Ref<'_, FillSnapshot> {
        self.0.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<FillSnapshot> {
        self.0.subscribe()
    }

    pub(super) fn set_phase(&self, mut phase: Phase) {
        // Swapped: the former phase, which may be the last to hold its object, is dropped behind the lock.
        self.0.send_modify(|told| std::mem::swap(&mut told.phase, &mut phase));
    }

    /// A trouble that was found when there had been so many `renewals`.
    pub(super) fn set_trouble(&self, trouble: Trouble, renewals: u64) {
        self.0.send_modify(|told| told.trouble = Some((trouble, renewals)));
    }

    /// The trouble is over. That wakes nobody: readers wait for a refusal, not for its end.
    pub(super) fn clear_trouble(&self) {
        self.0.send_if_modified(|told| {
            told.trouble = None;
            false
        });
    }

    pub(super) fn set_status(&self, mut status: FillStatus) {
        self.0.send_if_modified(|told| {
            std::mem::swap(&mut told.status, &mut status);
            false
        });
    }
}
