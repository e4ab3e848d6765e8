//! A permit: the right to one exchange with an upstream, and what the exchange says of itself meanwhile.
//!
//! It goes with the exchange, while the exchange's owner has a handle on it. What is told here (the upstream has answered,
//! bytes have come, the exchange may go) decides whose turn is next; the turns themselves are the budget's.

use super::{Budget, Class, DOWN_AFTER, LOOK_AGAIN, QUANTUM_BYTES, Slot, preempt, somebody_waits};
use crate::clock::Instant;
use crate::key::ObjectId;
use crate::upstream::backoff;
use futures::FutureExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The right to one exchange; dropping it is the next one's turn.
#[derive(Debug)]
pub struct Permit {
    pub(super) budget: Weak<Budget>,
    pub(super) ticket: u64,
    pub(super) slot: Arc<Slot>,
}

/// A handle on a permit for its owner, while the exchange holds the permit itself.
#[derive(Debug, Clone)]
pub struct PermitHandle(Arc<Slot>);

impl PermitHandle {
    /// Says anew what the exchange is for.
    pub fn set_class(&self, class: Class) {
        self.0.class.store(class as u8, Ordering::Relaxed);
    }
}

impl Permit {
    /// The owner's handle.
    pub fn handle(&self) -> PermitHandle {
        PermitHandle(Arc::clone(&self.slot))
    }

    /// The exchange can go on later where it was.
    pub fn resumes(&self) {
        self.slot.resumes.store(true, Ordering::Relaxed);
    }

    /// The exchange may go for whoever waits for a connection: its client does not read.
    pub fn give_way(&self) {
        self.resumes();
        self.handle().set_class(Class::Background);
    }

    /// The client of an exchange that gave way reads again. A call that came meanwhile is void, so that another is called in
    /// its place.
    pub fn keep(&self) {
        self.handle().set_class(Class::Relayed);
        self.slot.resumes.store(false, Ordering::Relaxed);
        if let Some(budget) = self.budget.upgrade() {
            let state = budget.state();
            self.slot.called.store(false, Ordering::Relaxed);
            let _ = self.slot.preempted.notified().now_or_never();
            drop(state);
            budget.turn_for_others();
        }
    }

    /// The exchange counts no more among those that the upstream is asked for at once: it has no end, and is
    /// bounded in another way.
    pub fn leave(&self) {
        if let Some(budget) = self.budget.upgrade() {
            budget.state().granted.remove(&self.ticket);
            budget.released.notify_waiters();
            budget.turn_for_others();
        }
    }

    /// Whether the upstream is being asked by others of ours at this moment.
    pub fn has_company(&self) -> bool {
        self.budget
            .upgrade()
            .is_some_and(|budget| budget.state().granted.len() > 1)
    }

    /// The upstream refuses a second connection: from now on there is one at a time.
    pub fn allow_one(&self) {
        if let Some(budget) = self.budget.upgrade() {
            budget.state().allows_one = true;
        }
    }

    /// The upstream has answered a request with a `Range` by a success: what it refuses it does not refuse for that.
    pub fn ranges_are_taken(&self) {
        if let Some(budget) = self.budget.upgrade() {
            budget.state().takes_ranges = true;
        }
    }

    /// Whether it has.
    pub fn takes_ranges(&self) -> bool {
        self.budget.upgrade().is_some_and(|budget| budget.state().takes_ranges)
    }

    /// Forgets a refusal: the upstream takes another connection after all.
    pub fn allow_all(&self) {
        if let Some(budget) = self.budget.upgrade() {
            budget.state().allows_one = false;
            budget.turn_for_others();
        }
    }

    /// Calls all others back that serve nobody, and waits for them, and for those that serve somebody, until this exchange is
    /// alone; `false` where it is not by then.
    pub async fn until_alone(&self, limit: Duration) -> bool {
        let Some(budget) = self.budget.upgrade() else {
            return false;
        };
        let alone = async {
            loop {
                let released = budget.released.notified();
                tokio::pin!(released);
                // Before the look: what is released between the two is not to be waited for.
                released.as_mut().enable();
                {
                    let state = budget.state();
                    let others = state.granted.iter().filter(|(ticket, _)| **ticket != self.ticket);
                    let mut alone = true;
                    for (_, slot) in others {
                        alone = false;
                        let is_idle = Class::is_idle(slot.class.load(Ordering::Relaxed));
                        let is_over = slot.moved.load(Ordering::Relaxed) >= QUANTUM_BYTES;
                        let may_go = is_idle || (is_over && slot.resumes.load(Ordering::Relaxed));
                        if may_go && !slot.called.swap(true, Ordering::Relaxed) {
                            slot.preempted.notify_one();
                        }
                    }
                    if alone {
                        return;
                    }
                }
                // Whom an exchange serves changes without a sign.
                let _ = tokio::time::timeout(LOOK_AGAIN, released).await;
            }
        };
        tokio::time::timeout(limit, alone).await.is_ok()
    }

    /// The upstream has asked for a rest of the object; see [`Budget::refused`].
    pub fn refused(&self, object: ObjectId, status: u16, rest: Duration) {
        if let Some(budget) = self.budget.upgrade() {
            budget.refused(object, status, rest);
        }
    }

    /// The upstream has answered: it is up.
    pub fn answered(&self) {
        self.slot.proven.store(true, Ordering::Relaxed);
        if let Some(budget) = self.budget.upgrade() {
            budget.state().failures = 0;
            budget.turn_for_others();
        }
    }

    /// The upstream could not be reached, or gave no answer.
    pub fn unanswered(&self) {
        let Some(budget) = self.budget.upgrade() else { return };
        let mut state = budget.state();
        state.failures = state.failures.saturating_add(1);
        // The first rest comes with the failure that takes the upstream for down.
        if let Some(beyond @ 1..) = (state.failures + 1).checked_sub(DOWN_AFTER) {
            let until = Instant::now() + backoff::rest(beyond, backoff::random());
            state.rest_until = Some(state.rest_until.map_or(until, |before| before.max(until)));
        }
    }

    /// Notes bytes that have come; how long to wait for more, to keep to the allowed rate.
    pub fn moved(&self, bytes: u64) -> Option<Duration> {
        self.slot.moved.fetch_add(bytes, Ordering::Relaxed);
        let budget = self.budget.upgrade()?;
        let over = self.slot.moved.load(Ordering::Relaxed) >= QUANTUM_BYTES;
        // Most pieces take no lock: it is shared by all exchanges with this upstream.
        if over || budget.settings.bytes_per_second.is_some() {
            let mut state = budget.state();
            let waits = somebody_waits(&state);
            let most = if state.allows_one {
                1
            } else {
                budget.settings.connections
            };
            if over && waits && state.granted.len() >= most {
                preempt(&mut state);
            }
            let rate = budget.settings.bytes_per_second?.max(1);
            let now = Instant::now();
            let busy = Duration::from_secs_f64(bytes as f64 / rate as f64);
            state.paced_until = state.paced_until.max(now) + busy;
            return Some(state.paced_until - now);
        }
        None
    }

    /// Returns when the connection is needed for somebody who waits.
    pub async fn preempted(&self) {
        self.slot.preempted.notified().await;
    }

    /// Whether others wait for a connection, so that a long exchange should be asked in pieces.
    pub fn is_contended(&self) -> bool {
        let budget = self.budget.upgrade();
        budget.is_some_and(|budget| somebody_waits(&budget.state()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave();
    }
}
