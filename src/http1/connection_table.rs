//! The connections of all clients: how many there may be, and which of them makes room.
//!
//! ```text
//! accept ──admit──► Seat: idle ◄──────────► busy ──► dropped: its place is free
//!             │            a request begins, its answer is over
//!             └── full: the oldest idle ones are asked to close, those of the same client first; where none is
//!                 idle, the new one is refused
//! ```
//!
//! A bound for all keeps descriptors for upstreams and files; a bound for each client's address keeps one client from
//! having all. Connections of the operator's proxies, and those without an address (a socket in the file system), are of many
//! clients, and count for all only.
//!
//! Whether a connection is idle is written by its own task, without a lock; the table looks when it is full.

use crate::clock::Instant;
use crate::config::TrustedProxies;
use crate::sync::lock;
use futures::task::AtomicWaker;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// The part of the idle connections that is closed at once when there is no room: looking for them costs a look at all.
/// A judgement.
const CLOSED_AT_ONCE: usize = 64;

/// The connections of a server.
#[derive(Debug)]
pub(crate) struct ConnectionTable {
    most: usize,
    most_per_client: usize,
    proxies: TrustedProxies,
    /// The start of the time that idle connections are compared by.
    epoch: Instant,
    /// Held for a look or a change in memory; while the table is full, for a look at all connections.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    seats: HashMap<u64, Arc<SeatState>>,
    per_client: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct SeatState {
    client: Option<IpAddr>,
    /// The answers under way. Relaxed: a value of a moment ago has another connection closed.
    busy: AtomicUsize,
    /// The time of the last answer's end, in milliseconds from the table's epoch. Relaxed, as `busy`.
    idle_since: AtomicU64,
    /// Whether it was asked to close. Relaxed: the waker publishes it.
    closes: AtomicBool,
    /// The connection's task. Its own order publishes `closes`, which is Relaxed.
    waker: AtomicWaker,
}

/// The place of one connection, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    table: Arc<ConnectionTable>,
    id: u64,
    state: Arc<SeatState>,
}

/// A handle on a seat for those who answer its requests. It does not count on the table: a count that all workers share
/// would cost each answer more than the rest of this.
#[derive(Debug, Clone)]
pub(crate) struct SeatHandle {
    /// The table's.
    epoch: Instant,
    state: Arc<SeatState>,
}

/// One answer under way: its connection is not idle until this is dropped.
#[derive(Debug)]
pub(crate) struct AnswerInProgress {
    seat: SeatHandle,
    ended: Option<Instant>,
}

impl ConnectionTable {
    pub(crate) fn new(most: usize, most_per_client: usize, proxies: TrustedProxies) -> Self {
        Self {
            most,
            most_per_client,
            proxies,
            epoch: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// A place for a connection from there; `None` where there is none, and none becomes free.
    pub(crate) fn admit(self: &Arc<Self>, client: Option<IpAddr>) -> Option<Seat> {
        let client = client.map(|client| client.to_canonical());
        let client = client.filter(|client| !self.proxies.contains(Some(*client)));
        let mut table = lock(&self.state);
        let of_client = client.map_or(0, |client| table.per_client.get(&client).copied().unwrap_or_default());
        let is_crowded = of_client >= self.most_per_client;
        if is_crowded || table.seats.len() >= self.most {
            let only = client.filter(|_| is_crowded);
            if table.close_idle(only) == 0 {
                return None;
            }
        }
        table.next += 1;
        let id = table.next;
        let state = Arc::new(SeatState {
            client,
            busy: AtomicUsize::new(0),
            idle_since: AtomicU64::new(milliseconds(self.epoch, Instant::now())),
            closes: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        table.seats.insert(id, Arc::clone(&state));
        if let Some(client) = client {
            *table.per_client.entry(client).or_default() += 1;
        }
        drop(table);
        Some(Seat {
            table: Arc::clone(self),
            id,
            state,
        })
    }
}

fn milliseconds(epoch: Instant, now: Instant) -> u64 {
    u64::try_from((now - epoch).as_millis()).unwrap_or(u64::MAX)
}

impl State {
    /// Takes the places of the oldest idle connections, of one client's or of all, and asks them to close; how many.
    fn close_idle(&mut self, client: Option<IpAddr>) -> usize {
        let is_meant = |seat: &SeatState| client.is_none() || seat.client == client;
        let is_idle = |seat: &SeatState| seat.busy.load(Ordering::Relaxed) == 0;
        let idle = self.seats.iter().filter(|(_, seat)| is_meant(seat) && is_idle(seat));
        let mut idle: Vec<(u64, u64)> = idle
            .map(|(id, seat)| (seat.idle_since.load(Ordering::Relaxed), *id))
            .collect();
        let count = idle.len().div_ceil(CLOSED_AT_ONCE);
        idle.sort_unstable();
        for (_, id) in &idle[..count] {
            if let Some(seat) = self.remove(*id) {
                seat.closes.store(true, Ordering::Relaxed);
                seat.waker.wake();
            }
        }
        count
    }

    fn remove(&mut self, id: u64) -> Option<Arc<SeatState>> {
        let seat = self.seats.remove(&id)?;
        if let Some(client) = seat.client
            && let Some(count) = self.per_client.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&client);
            }
        }
        Some(seat)
    }
}

impl Seat {
    pub(crate) fn handle(&self) -> SeatHandle {
        SeatHandle {
            epoch: self.table.epoch,
            state: Arc::clone(&self.state),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.table.state).remove(self.id);
    }
}

impl SeatHandle {
    /// Notes that an answer is under way.
    pub(crate) fn begin(&self) -> AnswerInProgress {
        self.state.busy.fetch_add(1, Ordering::Relaxed);
        AnswerInProgress {
            seat: self.clone(),
            ended: None,
        }
    }

    /// Ready when the connection is to make room. It is asked while it is idle.
    pub(crate) fn poll_closes(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.state.waker.register(cx.waker());
        match self.state.closes.load(Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl AnswerInProgress {
    /// The answer ended at that time: for who has asked the clock already.
    pub(crate) fn end(mut self, at: Instant) {
        self.ended = Some(at);
    }
}

impl Drop for AnswerInProgress {
    fn drop(&mut self) {
        let state = &self.seat.state;
        let ended = milliseconds(self.seat.epoch, self.ended.unwrap_or_else(Instant::now));
        state.idle_since.store(ended, Ordering::Relaxed);
        state.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use std::time::Duration;

    fn client(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, number]))
    }

    fn closes(seat: &Seat) -> bool {
        seat.handle()
            .poll_closes(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_idle_connection_makes_room() {
        let table = Arc::new(ConnectionTable::new(3, 3, TrustedProxies::default()));
        let mut seats = Vec::new();
        for number in 0..3 {
            seats.push(table.admit(client(number)).expect("free"));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let busy = seats[0].handle().begin();
        let fourth = table.admit(client(9)).expect("room is made");
        assert_eq!(seats.iter().map(closes).collect::<Vec<_>>(), [false, true, false]);
        // Its place is taken, whether it has gone already or not.
        drop(seats.remove(1));
        let all_busy: Vec<AnswerInProgress> = seats
            .iter()
            .chain([&fourth])
            .map(|seat| seat.handle().begin())
            .collect();
        assert!(table.admit(client(9)).is_none(), "none is idle");
        drop((busy, all_busy));
        assert!(table.admit(client(9)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_all_that_it_may_have_makes_room_for_itself_alone() {
        let proxies = TrustedProxies::read("192.0.2.9").expect("valid");
        let table = Arc::new(ConnectionTable::new(100, 2, proxies));
        let of_proxy: Vec<_> = (0..5).map(|_| table.admit(client(9))).collect();
        assert!(
            of_proxy.iter().flatten().all(|seat| !closes(seat)),
            "a proxy's are those of many clients"
        );
        let other = table.admit(client(1)).expect("free");
        tokio::time::advance(Duration::from_secs(1)).await;
        let own = [table.admit(client(2)), table.admit(client(2))].map(|seat| seat.expect("free"));
        let third = table.admit(client(2)).expect("room is made");
        assert!(!closes(&other) && own.iter().any(closes));
        let busy: Vec<AnswerInProgress> = own.iter().chain([&third]).map(|seat| seat.handle().begin()).collect();
        assert!(table.admit(client(2)).is_none());
        assert!(table.admit(client(3)).is_some() && table.admit(None).is_some());
        drop(busy);
        drop((own, third));
        assert_eq!(lock(&table.state).per_client.get(&client(2).expect("an address")), None);
    }
}
