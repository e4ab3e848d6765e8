//! The wall clock and the timer, both of which a test can hold in its hand.
//!
//! Wall time serves what people and protocols date: records, `Date`, freshness. `SystemTime::now` is called here and nowhere
//! else (`clippy.toml` refuses it), so a test can move the calendar without waiting for it ([`ManualClock`]).
//!
//! Time-outs, rests and rates are of monotonic time: moments of tokio's clock ([`Instant`]), not of the standard library's
//! (`tests/tidy.rs` refuses those). They are the same moments, but a test can stop tokio's clock
//! (`#[tokio::test(start_paused = true)]`): time then passes only while every task waits for it, at once and exactly as far
//! as the next deadline. Refused: a timer as a value beside the wall clock, which each struct with a deadline would carry
//! (decision 0035).

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use tokio::time::Instant;

/// Returns at that moment; never, where there is none.
pub(crate) async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Something that knows the present wall time.
pub trait Clock: Debug + Send + Sync {
    /// The present wall time.
    fn now(&self) -> SystemTime;

    /// The time since some moment in the past, sleep included: it never jumps, whoever sets the wall clock.
    fn elapsed(&self) -> Duration;

    /// How long the machine has been suspended since it was started. When this grows, connections are
    /// dead that do not know it yet.
    fn suspended(&self) -> Duration;
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

    fn elapsed(&self) -> Duration {
        read(rustix::time::ClockId::Boottime)
    }

    fn suspended(&self) -> Duration {
        // Read in this order, so that time which passes in between never looks like sleep.
        let running = rustix::time::ClockId::Monotonic;
        let all = read(rustix::time::ClockId::Boottime);
        all.saturating_sub(read(running))
    }
}

fn read(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock {
    /// The wall time, in seconds since 1970. Relaxed: the test that moves the clock orders what it does by other means.
    seconds: AtomicU64,
    /// In seconds. Relaxed, as `seconds`.
    elapsed: AtomicU64,
    /// In seconds. Relaxed, as `seconds`.
    suspended: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `start`, in whole seconds.
    pub fn at(start: SystemTime) -> Self {
        Self {
            seconds: AtomicU64::new(unix_seconds(start)),
            elapsed: AtomicU64::new(0),
            suspended: AtomicU64::new(0),
        }
    }

    /// The machine sleeps for that long, in whole seconds, and wakes.
    pub fn sleep(&self, time: Duration) {
        // Sleep counts as elapsed (CLOCK_BOOTTIME), so the clock advances too.
        self.advance(time);
        self.suspended.fetch_add(time.as_secs(), Ordering::Relaxed);
    }

    /// Time passes, by whole seconds.
    pub fn advance(&self, by: Duration) {
        self.seconds.fetch_add(by.as_secs(), Ordering::Relaxed);
        self.elapsed.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    /// Sets the wall clock, while no time passes.
    pub fn set(&self, to: SystemTime) {
        self.seconds.store(unix_seconds(to), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        from_unix_seconds(self.seconds.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.elapsed.load(Ordering::Relaxed))
    }

    fn suspended(&self) -> Duration {
        Duration::from_secs(self.suspended.load(Ordering::Relaxed))
    }
}

/// Whole seconds since 1970; 0 for any time before.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whole nanoseconds since 1970; 0 for any time before.
pub fn unix_nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The time `seconds` after 1970.
pub fn from_unix_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(MAX_SECONDS))
}

/// The year 9999: the last that an HTTP date can name, and far inside `SystemTime`.
const MAX_SECONDS: u64 = 253_402_300_799;
