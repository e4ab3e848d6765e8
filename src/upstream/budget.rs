//! The budget of one upstream, shared by all objects that come from it: connections, requests and bytes a second.
//!
//! ```text
//! session ──acquire(class)──► queue ──turn──► Permit ──► exchange ──► dropped: the next one's turn
//!
//!   queued ───turn───▶ granted ───answered───▶ proven
//!      │                  │                        │      preempted, once: its exchange drops the permit
//!      ▼                  └────────────┬───────────┘
//!   place left              dropped, or `leave`: counts no more; the next one's turn
//! ```
//!
//! Waiting readers come first, then what they will need soon, then the background, then mirrors. Relayed requests take turns with
//! waiting readers, and leave one connection to those: a client may keep the exchange that it has asked for as long as it
//! sends or reads slowly. When a waiting reader finds no connection free, one that serves nobody is preempted; where all
//! serve readers, each gives way after its quantum.
//! An upstream that says `Retry-After` rests for that object, and where it says so of several for all (refusals.rs); one
//! that cannot be reached several times in a row is left alone and tried by one request at a time, a request that
//! somebody wants anyway, and one without a body, whose end no client can delay.
//!
//! The considerations behind a turn:
//!
//! - The queue is ordered by class, then by arrival. The heads of its classes are looked at in turn: one that finds no
//!   connection free for its class does not keep another class from its own; a rest or a rate holds for all.
//! - A turn is taken by whoever changes something: one who comes, an exchange that ends or answers, a connection that
//!   is allowed again. Where only time stands in the way, one of the queue sleeps until then; one that leaves the queue
//!   rings for the next, since it may have been the one that slept.
//! - An exchange that is preempted goes by itself, and its permit with it: the bound holds meanwhile. As many are
//!   called as wait, in this order: one that serves nobody and can resume; one that has had its quantum; one that
//!   serves nobody and begins again at 0. Of equals the youngest goes, which has the least to lose.
//! - Of two rests the one that ends later holds.
//!
//! permit.rs: the right to an exchange, and what the exchange says of itself meanwhile.
//!
//! Lock: `state`, held for moments; permits are handed over and dropped outside it, since dropping one takes it again.

mod permit;
mod refusals;

pub use self::permit::{Permit, PermitHandle};

use self::refusals::Refusals;
use crate::clock::Instant;
use crate::clock::sleep_until;
use crate::key::ObjectId;
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Bytes that one exchange may bring while others wait for a connection. A judgement: some seconds of a film, and far
/// more than it costs to ask again.
pub const QUANTUM_BYTES: u64 = 4 << 20;

/// Failures in a row, over all objects, after which an upstream is taken for down. A judgement: a few exchanges may be
/// cut by one restart or one lost route, and readers are held meanwhile.
const DOWN_AFTER: u32 = 5;

/// How often it is looked whether an exchange that stands in the way serves nobody any more: its class changes without
/// a sign. A judgement: a twentieth of a second is no wait for a reader, and few look at once.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a connection is wanted; the first is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A reader waits for the bytes.
    Waiting,
    /// A request that is passed on for one client, at that client's pace.
    Relayed,
    /// A reader will want them soon.
    Ahead,
    /// No reader has asked for them.
    Background,
    /// A mirror wants them.
    Mirror,
}

impl Class {
    /// Whether an exchange of the class, which is a number in its slot, serves nobody who waits.
    fn is_idle(class: u8) -> bool {
        class >= Self::Background as u8
    }
}

/// The bounds of every upstream's budget.
#[derive(Debug, Clone)]
pub struct BudgetSettings {
    /// The most exchanges at once; at least 1.
    pub connections: usize,
    /// The most requests begun in a second.
    pub requests_per_second: Option<u32>,
    /// The most body bytes a second.
    pub bytes_per_second: Option<u64>,
}

/// The budget of one upstream.
#[derive(Debug)]
pub struct Budget {
    settings: BudgetSettings,
    /// The queue, the slots and the rest: one lock, since a turn goes by all of them. Held for moments; nothing is
    /// awaited under it, and no permit dropped.
    state: Mutex<State>,
    /// Rung for one of the queue where the next turn is a matter of time: it then minds the clock.
    look_again: Notify,
    /// Rung when an exchange has ended.
    released: Notify,
}

/// How an upstream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetStatus {
    /// How long it is still left alone.
    pub resting: Option<Duration>,
    /// Exchanges under way.
    pub granted: usize,
    /// Exchanges that wait for their turn.
    pub queued: usize,
}

#[derive(Debug)]
struct State {
    granted: BTreeMap<u64, Arc<Slot>>,
    queue: BTreeMap<(Class, u64), Applicant>,
    next_ticket: u64,
    /// The class that was granted last of the two that take turns.
    last_turn: Class,
    /// The rest of an upstream that is down.
    rest_until: Option<Instant>,
    /// The rests that it has asked for.
    refusals: Refusals,
    failures: u32,
    /// Requests that may begin now, and when that was counted.
    tokens: (f64, Instant),
    /// Up to when the bytes that have come use up the allowed rate.
    paced_until: Instant,
    /// The upstream has refused a second connection.
    allows_one: bool,
    /// The upstream has answered a request with a `Range` by a success, whether it served the range or not.
    takes_ranges: bool,
}

/// An exchange that waits for its turn.
#[derive(Debug)]
struct Applicant {
    give: oneshot::Sender<Permit>,
    /// Whether its request has a body.
    has_body: bool,
}

/// The slot of one exchange, seen from both sides: the exchange and its owner store, the budget loads with `state`
/// held. All of it is Relaxed: a value of a moment ago makes a turn choose another exchange, or come later, and orders
/// no memory.
#[derive(Debug)]
struct Slot {
    /// The [`Class`] as a number. Relaxed; the owner changes it as readers come and go.
    class: AtomicU8,
    /// Whether it was granted as [`Class::Relayed`].
    is_relayed: bool,
    /// Whether the upstream has answered. Relaxed: `state`, which is taken right after, publishes it before the next
    /// turn.
    proven: AtomicBool,
    /// Bytes that have come. Relaxed: a counter, added to for each piece.
    moved: AtomicU64,
    /// The exchange can be resumed later: ranges work. Relaxed; set once.
    resumes: AtomicBool,
    preempted: Notify,
    /// The call was made; one is enough. Relaxed: `state` is held by all who store or load it.
    called: AtomicBool,
}

impl Budget {
    /// A budget with these bounds, of which nothing is used.
    pub(super) fn new(settings: BudgetSettings) -> Self {
        let now = Instant::now();
        // A second's worth may begin at once; without a limit one token is enough, since it is made anew each time.
        let burst = settings.requests_per_second.map_or(0.0, f64::from).max(1.0);
        Self {
            settings,
            state: Mutex::new(State {
                granted: BTreeMap::new(),
                queue: BTreeMap::new(),
                next_ticket: 0,
                last_turn: Class::Relayed,
                rest_until: None,
                refusals: Refusals::default(),
                failures: 0,
                tokens: (burst, now),
                paced_until: now,
                allows_one: false,
                takes_ranges: false,
            }),
            look_again: Notify::new(),
            released: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits for a turn. Dropping the future leaves the queue.
    pub async fn acquire(self: &Arc<Self>, class: Class) -> Permit {
        self.acquire_for(class, false).await
    }

    /// Waits for the turn of a request that is relayed. One with a body is not what an upstream that was down is tried by.
    pub async fn acquire_for_relay(self: &Arc<Self>, has_body: bool) -> Permit {
        self.acquire_for(Class::Relayed, has_body).await
    }

    /// Whether the upstream is asked for one exchange at a time.
    pub fn is_single(&self) -> bool {
        self.settings.connections <= 1 || self.state().allows_one
    }

    async fn acquire_for(self: &Arc<Self>, class: Class, has_body: bool) -> Permit {
        let (ticket, mut turn) = self.enter(class, has_body);
        let _ticket = QueueTicket {
            budget: self,
            key: (class, ticket),
        };
        loop {
            // Taken by the one who waits too: it may be its own.
            let next = self.turn();
            tokio::select! {
                granted = &mut turn => match granted {
                    Ok(permit) => return permit,
                    // The sender goes with the place in the queue, which is held here.
                    Err(_) => std::future::pending::<()>().await,
                },
                () = sleep_until(next) => {}
                () = self.look_again.notified() => {}
            }
        }
    }

    /// [`Budget::turn`] for those who do not wait themselves: somebody who does must mind the clock.
    fn turn_for_others(self: &Arc<Self>) {
        if self.turn().is_some() {
            self.look_again.notify_one();
        }
    }

    fn enter(&self, class: Class, has_body: bool) -> (u64, oneshot::Receiver<Permit>) {
        let (give, take) = oneshot::channel();
        let mut state = self.state();
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        state.queue.insert((class, ticket), Applicant { give, has_body });
        (ticket, take)
    }

    /// Grants what can be granted; when to look again, where time is what is waited for.
    #[must_use]
    fn turn(self: &Arc<Self>) -> Option<Instant> {
        let mut handed = Vec::new();
        let next = {
            let mut state = self.state();
            loop {
                let (class, ticket) = match self.next_to_begin(&mut state) {
                    Ok(key) => key,
                    Err(when) => break when,
                };
                let Some(Applicant { give, .. }) = state.queue.remove(&(class, ticket)) else {
                    break None;
                };
                state.tokens.0 -= 1.0;
                if class <= Class::Relayed {
                    state.last_turn = class;
                }
                let slot = Arc::new(Slot {
                    class: AtomicU8::new(class as u8),
                    is_relayed: class == Class::Relayed,
                    proven: AtomicBool::new(false),
                    moved: AtomicU64::new(0),
                    resumes: AtomicBool::new(false),
                    preempted: Notify::new(),
                    called: AtomicBool::new(false),
                });
                state.granted.insert(ticket, Arc::clone(&slot));
                handed.push((
                    give,
                    Permit {
                        budget: Arc::downgrade(self),
                        ticket,
                        slot,
                    },
                ));
            }
        };
        for (give, permit) in handed {
            // A receiver that has gone gives the permit back by dropping it.
            drop(give.send(permit));
        }
        next
    }

    /// The applicant that may begin now; else the time at which to look again, where time is what is waited for.
    fn next_to_begin(&self, state: &mut State) -> Result<(Class, u64), Option<Instant>> {
        let now = Instant::now();
        let order = match state.last_turn {
            Class::Waiting => [
                Class::Relayed,
                Class::Waiting,
                Class::Ahead,
                Class::Background,
                Class::Mirror,
            ],
            _ => [
                Class::Waiting,
                Class::Relayed,
                Class::Ahead,
                Class::Background,
                Class::Mirror,
            ],
        };
        let mut when = None;
        for class in order {
            let is_down = state.failures >= DOWN_AFTER;
            let mut applicants = state.queue.range((class, 0)..=(class, u64::MAX));
            let Some((&key, _)) = applicants.find(|(_, applicant)| !(is_down && applicant.has_body)) else {
                continue;
            };
            match self.may_begin(state, class, now) {
                Verdict::Now => return Ok(key),
                Verdict::At(until) => when = Some(when.map_or(until, |before: Instant| before.min(until))),
                Verdict::Full => {}
            }
        }
        Err(when)
    }

    fn may_begin(&self, state: &mut State, class: Class, now: Instant) -> Verdict {
        if let Some(until) = state.rest_until.max(state.refusals.all_until(now)) {
            if now < until {
                return Verdict::At(until);
            }
            state.rest_until = None;
        }
        // A slot that is not proven is the one request that tries an upstream that was down.
        let unproven = state.granted.values().any(|slot| !slot.proven.load(Ordering::Relaxed));
        if state.failures >= DOWN_AFTER && unproven {
            return Verdict::Full;
        }
        let one_until = state.refusals.one_at_a_time_until(now);
        let most = match state.allows_one || one_until.is_some() {
            true => 1,
            false => self.most(class),
        };
        if state.granted.len() >= most {
            if class <= Class::Relayed {
                preempt(state);
            }
            return one_until.map_or(Verdict::Full, Verdict::At);
        }
        let relayed = || state.granted.values().filter(|slot| slot.is_relayed).count();
        if class == Class::Relayed && most > 1 && relayed() + 1 >= most {
            return Verdict::Full;
        }
        match self.settings.requests_per_second {
            None => state.tokens.0 = 1.0,
            Some(rate) => {
                let rate = f64::from(rate);
                let earned = now.saturating_duration_since(state.tokens.1).as_secs_f64() * rate;
                state.tokens = ((state.tokens.0 + earned).min(rate.max(1.0)), now);
                if state.tokens.0 < 1.0 {
                    // When the missing part of a token will be there.
                    return Verdict::At(now + Duration::from_secs_f64((1.0 - state.tokens.0) / rate));
                }
            }
        }
        Verdict::Now
    }

    /// How many exchanges there may be with one of this class: what nobody waits for leaves room.
    fn most(&self, class: Class) -> usize {
        let all = self.settings.connections.max(1);
        match class {
            Class::Waiting | Class::Relayed => all,
            Class::Ahead => (all - all / 4).max(1),
            Class::Background | Class::Mirror => all.div_ceil(2),
        }
    }

    /// How the upstream stands now.
    pub fn status(&self) -> BudgetStatus {
        let state = self.state();
        let now = Instant::now();
        BudgetStatus {
            resting: state
                .rest_until
                .max(state.refusals.all_until(now))
                .and_then(|until| until.checked_duration_since(now))
                .filter(|rest| !rest.is_zero()),
            granted: state.granted.len(),
            queued: state.queue.len(),
        }
    }

    /// The upstream has refused a request for the object with that status, and asks for such a rest (`Retry-After`).
    pub fn refused(&self, object: ObjectId, status: u16, rest: Duration) {
        self.state().refusals.add(object, status, rest, Instant::now());
    }

    /// How long the object still rests, alone or with all others of the upstream.
    pub fn resting(&self, object: ObjectId) -> Option<Duration> {
        let now = Instant::now();
        let of_all = self.status().resting;
        let until = self.state().refusals.object_until(object, now);
        of_all.max(until.map(|until| until.saturating_duration_since(now)))
    }

    /// Waits until the object's own rest is over.
    pub async fn rested(&self, object: ObjectId) {
        loop {
            let until = self.state().refusals.object_until(object, Instant::now());
            match until {
                Some(until) => sleep_until(Some(until)).await,
                None => return,
            }
        }
    }
}

enum Verdict {
    Now,
    At(Instant),
    Full,
}

/// Calls one exchange back: the youngest of those that serve nobody, else the one whose quantum is over
/// by most. As many as wait, and each once.
fn preempt(state: &mut State) {
    let called = |slot: &Slot| slot.called.load(Ordering::Relaxed);
    // All for whom somebody waits: keys below the first of `Ahead`.
    let waiting = state.queue.range(..(Class::Ahead, 0)).count();
    if state.granted.values().filter(|slot| called(slot)).count() >= waiting {
        return;
    }
    let class = |slot: &Slot| slot.class.load(Ordering::Relaxed);
    let moved = |slot: &Slot| slot.moved.load(Ordering::Relaxed);
    let free = || state.granted.values().filter(|slot| !called(slot));
    let resumes = |slot: &Slot| slot.resumes.load(Ordering::Relaxed);
    let idle = |slot: &Slot| Class::is_idle(class(slot));
    // Of equals the last is taken, which is the youngest.
    let cheap = free().rfind(|slot| idle(slot) && resumes(slot));
    let over = || {
        free()
            .filter(|slot| resumes(slot) && moved(slot) >= QUANTUM_BYTES)
            // The least urgent class has the greatest number.
            .max_by_key(|slot| (class(slot), moved(slot)))
    };
    // An exchange that cannot resume begins at 0 again: preempted only where no reader wants it, and nothing else can go.
    let dear = || free().rfind(|slot| idle(slot));
    if let Some(slot) = cheap.or_else(over).or_else(dear) {
        slot.called.store(true, Ordering::Relaxed);
        slot.preempted.notify_one();
    }
}

/// Whether somebody waits for a connection.
fn somebody_waits(state: &State) -> bool {
    let first = state.queue.first_key_value();
    first.is_some_and(|((class, _), _)| *class <= Class::Relayed)
}

/// A place in the queue; left when the wait ends, however it ends.
struct QueueTicket<'a> {
    budget: &'a Arc<Budget>,
    key: (Class, u64),
}

impl Drop for QueueTicket<'_> {
    fn drop(&mut self) {
        let (left, others) = {
            let mut state = self.budget.state();
            (state.queue.remove(&self.key), !state.queue.is_empty())
        };
        drop(left);
        if others {
            // The ticket may have been the one that held the timer.
            self.budget.look_again.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
