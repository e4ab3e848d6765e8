//! The tools of the tests: a scripted upstream, a server in process, a client that checks framing.

pub(crate) mod client;
pub(crate) mod film;
pub(crate) mod mounts;
pub(crate) mod origin;
pub(crate) mod pond;
pub(crate) mod upstream;

pub(crate) use client::{Answer, Client, Ended, get, get_range, request};
pub(crate) use film::Film;
pub(crate) use origin::Origin;
pub(crate) use pond::Pond;
pub(crate) use upstream::{Upstream, Valve};

use std::time::{Duration, Instant};

/// The longest that anything in a test may take before it counts as lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The time between two looks: far below what any test measures.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Asks again until the condition holds; each look is a real question, never a pause.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        // What is waited for may need the processor: between two looks this thread does without it.
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}
