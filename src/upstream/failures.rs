//! Failures of upstreams, told once: in the log, and in the metrics.
//!
//! A host that is down fails for every request. Its first failure is logged, and from then on one a minute, with the
//! number of those that were not.

use super::error::UpstreamError;
use crate::clock::Instant;
use crate::sync::lock;
use crate::telemetry::Metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a host's failures are counted instead of logged, once one was. A judgement: a line a minute is read.
const QUIET: Duration = Duration::from_secs(60);

/// With more hosts than this, those whose time is over are forgotten. A judgement: clients may name any host, and what
/// is remembered of one is some hundred bytes.
const MOST_HOSTS: usize = 1024;

/// The failures of all upstreams.
#[derive(Debug)]
pub(super) struct Failures {
    metrics: Arc<Metrics>,
    /// When each host and cause was logged. A lock because look and note are one step: of two failures at once one is
    /// logged. Held for moments; the line itself is written after it.
    logged: Mutex<HashMap<(String, &'static str), Logged>>,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    unsaid: u64,
}

impl Failures {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            logged: Mutex::default(),
        }
    }

    /// Counts a failure of a request to `host`, and logs it where that is due.
    pub(super) fn note(&self, host: &str, error: &UpstreamError) {
        let cause = error.cause();
        self.metrics.upstream_failed(cause);
        if let Some(unsaid) = self.is_due(host, cause, Instant::now()) {
            tracing::warn!(host, cause, %error, unsaid, "an upstream failed");
        }
    }

    /// How many failures like this went unsaid since the last one that was logged; `None` where this one does too.
    fn is_due(&self, host: &str, cause: &'static str, now: Instant) -> Option<u64> {
        let mut logged = lock(&self.logged);
        let is_quiet = |last: &Logged| now.saturating_duration_since(last.at) < QUIET;
        if logged.len() >= MOST_HOSTS {
            logged.retain(|_, last| is_quiet(last));
        }
        // Still full of hosts that were logged within the minute: a new one goes unsaid, and the metrics count it.
        if logged.len() >= MOST_HOSTS {
            return None;
        }
        let fresh = Logged { at: now, unsaid: 0 };
        match logged.get_mut(&(host.to_owned(), cause)) {
            Some(last) if is_quiet(last) => {
                last.unsaid += 1;
                None
            }
            Some(last) => Some(std::mem::replace(last, fresh).unsaid),
            None => {
                logged.insert((host.to_owned(), cause), fresh);
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_host_is_logged_first_and_then_once_a_minute() {
        let failures = Failures::new(Arc::new(Metrics::new()));
        let now = Instant::now();
        assert_eq!(failures.is_due("h", "tls", now), Some(0));
        assert_eq!(failures.is_due("h", "tls", now), None);
        assert_eq!(failures.is_due("h", "refused", now), Some(0), "another cause is news");
        assert_eq!(failures.is_due("other", "tls", now), Some(0));
        assert_eq!(failures.is_due("h", "tls", now + QUIET / 2), None);
        assert_eq!(failures.is_due("h", "tls", now + QUIET), Some(2));
    }

    #[test]
    fn the_hosts_that_are_remembered_are_bounded() {
        let failures = Failures::new(Arc::new(Metrics::new()));
        let now = Instant::now();
        for host in 0..2 * MOST_HOSTS {
            let _ = failures.is_due(&host.to_string(), "dns", now);
        }
        let remembered = failures.logged.lock().expect("nothing panics with it").len();
        assert!(remembered <= MOST_HOSTS, "{remembered}");
        assert_eq!(failures.is_due("new", "dns", now + QUIET), Some(0));
    }
}
