//! The demand of readers, now and soon, and of the policy when there are none.
//!
//! Readers that wait are always served. What lies ahead of those that read is fetched as far as `read_ahead` and the
//! disk allow; the rest of the object only where it will be kept, where `after_last_reader` wants it, and where it
//! delays no reader (docs/decisions/0007 and 0024). Nothing here asks an upstream: the demand is what the plan is made
//! of.

use super::super::reader::position::ReaderProgress;
use super::super::reader::readers::ReadersNow;
use super::Owner;
use crate::clock::Instant;
use crate::config::AfterLastReader;
use crate::ranges::ByteRange;
use crate::store::{Object, WaitingAt};
use std::time::Duration;

/// The least that is fetched ahead of a reader, in bytes. A judgement: some seconds of a film, and as much as one
/// exchange may bring while others wait.
pub(super) const LEAST_AHEAD: u64 = 4 << 20;

/// Nothing is fetched for nobody before readers have been gone for so long: while they jump about, the next one may be
/// on its way, and what it wants is better asked first. A quarter second: docs/decisions/0007.
pub(super) const PEACE: Duration = Duration::from_millis(250);

/// A reader that has taken nothing for so long is paused. A judgement: longer than players rest between two bursts.
const PAUSED_AFTER: Duration = Duration::from_secs(30);

/// All demands of one moment.
#[derive(Debug, Default)]
pub(super) struct Demand {
    pub(super) waiting: Vec<WaitingAt>,
    pub(super) ahead: Vec<ByteRange>,
    /// The rest of the object is wanted too.
    pub(super) background: bool,
    /// Fetching begins at this time.
    pub(super) background_at: Option<Instant>,
    /// No session is to be further ahead of its reader than about this, in bytes.
    pub(super) at_most_ahead: Option<u64>,
    /// Nothing at all is wanted: sessions end.
    pub(super) rests: bool,
    /// Sessions are for readers alone: one that serves none ends before long.
    pub(super) only_for_readers: bool,
}

/// The policy for the rest of an object that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// The rest is fetched.
    Wanted,
    /// `after_last_reader` says that it waits for the next reader.
    Unwanted,
    /// The rest cannot be kept, or cannot be had.
    Hopeless,
}

impl Owner {
    pub(super) fn demand(&mut self, object: &Object, readers: &ReadersNow) -> Demand {
        let mut waiting = object.presence().waiting();
        let scarce = self.is_under_pressure();
        let at_most_ahead = self.at_most_ahead();
        let rest = self.rest_of(object);
        let wanted = rest == Rest::Wanted && readers.bytes_wanted;
        let only_for_readers = rest == Rest::Unwanted || !readers.bytes_wanted;
        // Readers in sequence are run ahead of; of others each has what it asks for under way.
        let nobody = readers.count() == 0;
        let peace = readers.left.map(|left| left + PEACE).filter(|at| *at > Instant::now());
        let background = wanted && !scarce && (readers.in_sequence || (nobody && peace.is_none()));
        if nobody {
            let next_try = self
                .disk_pressure
                .filter(|_| scarce)
                .map(|disk_pressure| disk_pressure.next_try);
            return Demand {
                waiting,
                background,
                background_at: peace.or(next_try).filter(|_| wanted && !background),
                rests: rest == Rest::Hopeless,
                only_for_readers,
                ..Demand::default()
            };
        }
        let reading = &readers.reading;
        // The disk is short, and those for whom it would be filled do not even look.
        if waiting.is_empty() && all_paused(reading, Instant::now()) && self.is_disk_short(object) {
            return Demand {
                rests: true,
                ..Demand::default()
            };
        }
        let time = self.context.settings.read_ahead;
        if time.is_none() && at_most_ahead.is_none() {
            return Demand {
                waiting,
                background,
                only_for_readers,
                ..Demand::default()
            };
        }
        let window = |rate: f64| {
            let by_time = time.map_or(u64::MAX, |time| window(rate, time));
            by_time.min(at_most_ahead.unwrap_or(u64::MAX))
        };
        // A waiter's own rate is not known: that of the fastest reader asks for too much rather than too little.
        let fastest = reading.iter().filter_map(|reader| reader.rate).fold(0.0, f64::max);
        for waiter in &mut waiting {
            waiter.end = waiter.end.min(waiter.at.saturating_add(window(fastest)));
        }
        let ahead = reading
            .iter()
            // Without ranges, what cannot be kept would be read again from the start.
            .filter(|_| !scarce && (self.resumes() || at_most_ahead.is_none()))
            .filter_map(|reader| ahead_of(reader, object, window(reader.rate.unwrap_or_default())));
        Demand {
            waiting,
            ahead: ahead.collect(),
            at_most_ahead,
            only_for_readers,
            ..Demand::default()
        }
    }

    /// The policy for the rest of the object when nobody reads it.
    fn rest_of(&self, object: &Object) -> Rest {
        let hopeless = self
            .disk_pressure
            .is_some_and(|disk_pressure| disk_pressure.is_hopeless());
        if self.failures.gave_up || hopeless || self.is_oversize() || self.is_detached() {
            return Rest::Hopeless;
        }
        let policy = self.shared.targets.current().after_last_reader;
        let wanted = match policy.unwrap_or(self.context.settings.after_last_reader) {
            _ if self.shared.readers.have_patrons() => true,
            AfterLastReader::Complete => true,
            AfterLastReader::Stop => false,
            AfterLastReader::Finish { percent, bytes } => object.length().is_some_and(|length| {
                let here = object.presence().present_bytes();
                // In 128 bits: a hundred times a length does not fit into 64.
                let enough = u128::from(here) * 100 >= u128::from(length) * u128::from(percent);
                enough || length.saturating_sub(here) <= bytes
            }),
        };
        match wanted {
            true => Rest::Wanted,
            false => Rest::Unwanted,
        }
    }
}

/// How far ahead of a reader at that rate is fetched, in bytes.
fn window(rate: f64, time: Duration) -> u64 {
    ((rate * time.as_secs_f64()) as u64).max(LEAST_AHEAD)
}

/// The bytes that a reader will want soon, once half of what was fetched ahead of it is used up: asked for in
/// one piece, not byte by byte as it goes.
fn ahead_of(reader: &ReaderProgress, object: &Object, window: u64) -> Option<ByteRange> {
    let until = reader.at.saturating_add(window).min(reader.end);
    let here = object.presence().present().run_at(reader.at).unwrap_or(reader.at);
    (here < reader.at.saturating_add(window / 2))
        .then(|| ByteRange::new(here, until))
        .flatten()
}

fn all_paused(reading: &[ReaderProgress], now: Instant) -> bool {
    reading
        .iter()
        .all(|reader| now.saturating_duration_since(reader.moved) >= PAUSED_AFTER)
}
