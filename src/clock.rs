//! The wall clock, as a value that a test can hold in its hand.
//!
//! Wall time serves what people and protocols date: records, `Date`, freshness. Time-outs and
//! rates use the monotonic clock (`std::time::Instant`) where they are. `SystemTime::now` is
//! called here and nowhere else (`clippy.toml` refuses it), so a test can move the calendar
//! without waiting for it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Something that knows the present wall time.
pub trait Clock: Debug + Send + Sync {
    /// The present wall time.
    fn now(&self) -> SystemTime;
}

/// A clock shared by all parts of one server.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock {
    seconds: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `start`, in whole seconds.
    pub fn at(start: SystemTime) -> Self {
        Self {
            seconds: AtomicU64::new(unix_seconds(start)),
        }
    }

    /// Moves the clock forward, by whole seconds.
    pub fn advance(&self, by: Duration) {
        self.seconds.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        from_unix_seconds(self.seconds.load(Ordering::Relaxed))
    }
}

/// Whole seconds since 1970; 0 for any time before.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time `seconds` after 1970.
pub fn from_unix_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(MAX_SECONDS))
}

/// The year 9999: the last that an HTTP date can name, and far inside `SystemTime`.
const MAX_SECONDS: u64 = 253_402_300_799;
