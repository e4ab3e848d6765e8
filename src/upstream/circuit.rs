//! Whether an upstream is away: a circuit, open while it is, and a cheap question to find out.
//!
//! ```text
//!             cannot be reached                                 a probe finds it
//!   closed ───────────────────────────────────────► open ─────────────────────────► closed
//!      │  silent, or an answer that may be a         ▲
//!      └─ login page's: suspected ── a probe fails ──┘
//! ```
//!
//! While the circuit is open nothing waits for a connection: what is stored is answered at once, and what is not is refused at
//! once. A suspicion opens nothing by itself, since one slow page is no outage; it has the upstream probed. Answers of any
//! status but those of a gateway (502, 503, 504) and of a network that wants a login (511) come from the upstream, and close it.
//!
//! Probes are made by a task of their own (probe.rs), a second apart while somebody asks for the upstream, and seldom where
//! nobody does.

use crate::clock::Instant;
use crate::sync::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use url::Url;

/// For how long after a request the upstream counts as used. A judgement: a person who waits looks again within it.
const USED_FOR: Duration = Duration::from_secs(60);

/// The circuit of one upstream.
#[derive(Debug)]
pub struct Circuit {
    /// True while the upstream is away. Written by all who learn of it, under no lock but the channel's.
    away: watch::Sender<bool>,
    /// The same for requests, which look at it each time. Relaxed: a value of a moment ago costs a wait, or a refusal.
    is_away: AtomicBool,
    /// A suspicion that it is away. Relaxed: the ring publishes it.
    is_suspected: AtomicBool,
    /// Rung when there is something to probe.
    rung: Notify,
    /// Held for a look or a change.
    state: Mutex<CircuitState>,
}

/// The memory of a circuit.
#[derive(Debug, Default)]
struct CircuitState {
    used: Option<Instant>,
    why: Option<String>,
    since: Option<Instant>,
    /// A URL that the upstream has answered by itself, well: what a probe asks for.
    witness: Option<Url>,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            away: watch::Sender::new(false),
            is_away: AtomicBool::new(false),
            is_suspected: AtomicBool::new(false),
            rung: Notify::new(),
            state: Mutex::default(),
        }
    }
}

impl Circuit {
    /// Whether the upstream is away.
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Why it is away, in words.
    pub fn why(&self) -> Option<String> {
        lock(&self.state).why.clone()
    }

    /// For how long it has been away.
    pub fn away_for(&self) -> Option<Duration> {
        lock(&self.state).since.map(|since| since.elapsed())
    }

    /// Notes that somebody has asked for the upstream: it is probed often then.
    pub fn used(&self) {
        let was_used = lock(&self.state).used.replace(Instant::now());
        if self.is_away() && was_used.is_none_or(|used| used.elapsed() > USED_FOR) {
            self.rung.notify_one();
        }
    }

    /// Notes a URL that the upstream itself has answered well; the first one stays.
    pub fn is_witnessed_by(&self, url: &Url) {
        lock(&self.state).witness.get_or_insert_with(|| url.clone());
    }

    /// A URL that the upstream has answered well, where one is known.
    pub(super) fn witness(&self) -> Option<Url> {
        lock(&self.state).witness.clone()
    }

    /// Whether somebody has asked for it of late.
    pub(super) fn is_used(&self) -> bool {
        lock(&self.state).used.is_some_and(|used| used.elapsed() <= USED_FOR)
    }

    /// The upstream has answered.
    pub(super) fn answered(&self) {
        self.is_suspected.store(false, Ordering::Relaxed);
        if self.is_away.swap(false, Ordering::Relaxed) {
            let mut state = lock(&self.state);
            (state.why, state.since) = (None, None);
            drop(state);
            self.away.send_replace(false);
        }
    }

    /// The upstream cannot be reached.
    pub(super) fn failed(&self, why: &str) {
        {
            let mut state = lock(&self.state);
            state.why = Some(why.to_owned());
            state.since.get_or_insert_with(Instant::now);
        }
        if !self.is_away.swap(true, Ordering::Relaxed) {
            self.away.send_replace(true);
            self.rung.notify_one();
        }
    }

    /// Something suggests that it is away: it is probed.
    pub fn suspect(&self) {
        if !self.is_away() && !self.is_suspected.swap(true, Ordering::Relaxed) {
            self.rung.notify_one();
        }
    }

    /// Whether there is something to probe.
    pub(super) fn wants_probe(&self) -> bool {
        self.is_away() || self.is_suspected.load(Ordering::Relaxed)
    }

    /// Returns when there may be something to probe.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// Returns when the upstream is away.
    pub async fn went_away(&self) {
        self.until(true).await;
    }

    /// Returns when the upstream is not away.
    pub async fn is_here(&self) {
        self.until(false).await;
    }

    async fn until(&self, wanted: bool) {
        let mut away = self.away.subscribe();
        // An error means that the circuit has gone, and nobody waits then.
        let _ = away.wait_for(|away| *away == wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_opens_nothing_and_a_failure_does_until_an_answer() {
        let circuit = Circuit::default();
        circuit.suspect();
        assert!(!circuit.is_away() && circuit.wants_probe());
        circuit.answered();
        assert!(!circuit.wants_probe());
        circuit.failed("no route");
        assert!(circuit.is_away() && circuit.wants_probe());
        assert_eq!(circuit.why().as_deref(), Some("no route"));
        circuit.answered();
        assert!(!circuit.is_away() && circuit.why().is_none());
    }
}
