//! What readers want now and soon, and what is wanted when there are none.

use super::super::place::Pace;
use super::{AfterLastReader, Owner};
use crate::ranges::ByteRange;
use crate::store::{Object, WaitingAt};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The least that is fetched ahead of a reader, in bytes.
pub(super) const LEAST_AHEAD: u64 = 4 << 20;

/// Nothing is fetched for nobody before readers have been gone for so long: while they jump about,
/// the next one may be on its way, and what it wants is better asked first.
pub(super) const PEACE: Duration = Duration::from_millis(250);

/// A reader that has taken nothing for so long is paused.
const PAUSED_AFTER: Duration = Duration::from_secs(30);

/// All wishes of one moment.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) waiting: Vec<WaitingAt>,
    pub(super) paces: Vec<Pace>,
    pub(super) ahead: Vec<ByteRange>,
    /// The rest of the object is wanted too.
    pub(super) background: bool,
    /// It will be, at this time.
    pub(super) background_at: Option<Instant>,
    /// No session is to be further ahead of its reader than about this, in bytes.
    pub(super) at_most_ahead: Option<u64>,
    /// Nothing at all is wanted: sessions end.
    pub(super) rests: bool,
    /// Sessions are for readers alone: one that serves none ends before long.
    pub(super) only_for_readers: bool,
}

/// What becomes of the rest of an object when nobody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It is fetched.
    Wanted,
    /// `after_last_reader` says that it waits for the next reader.
    Unwanted,
    /// It cannot be kept, or cannot be had.
    Hopeless,
}

impl Owner {
    pub(super) fn wishes(&mut self, object: &Object, readers: usize) -> Wishes {
        let mut waiting = object.waiting();
        let scarce = self.is_scarce();
        let at_most_ahead = self.at_most_ahead();
        let rest = self.rest_of(object);
        // One who asked for the head only has not asked for a film.
        let bytes_wanted = self.shared.bytes_wanted.load(Ordering::Acquire);
        let wanted = rest == Rest::Wanted && bytes_wanted;
        let only_for_readers = rest == Rest::Unwanted || !bytes_wanted;
        // Readers in sequence are run ahead of; of others each has what it asks for under way.
        let (in_sequence, left) = self.shared.visits();
        let peace = left.map(|left| left + PEACE).filter(|at| *at > Instant::now());
        let background = wanted && !scarce && (in_sequence || (readers == 0 && peace.is_none()));
        if readers == 0 {
            let next_try = self.scarcity.filter(|_| scarce).map(|scarcity| scarcity.next_try);
            return Wishes {
                waiting,
                background,
                background_at: peace.or(next_try).filter(|_| wanted && !background),
                rests: rest == Rest::Hopeless,
                only_for_readers,
                ..Wishes::default()
            };
        }
        let paces = self.shared.paces();
        // The disk is short, and those for whom it would be filled do not even look.
        if waiting.is_empty() && all_paused(&paces, Instant::now()) && self.is_disk_short(object) {
            return Wishes {
                rests: true,
                ..Wishes::default()
            };
        }
        let time = self.context.settings.read_ahead;
        if time.is_none() && at_most_ahead.is_none() {
            return Wishes {
                waiting,
                paces,
                background,
                only_for_readers,
                ..Wishes::default()
            };
        }
        let window = |rate: f64| {
            let by_time = time.map_or(u64::MAX, |time| window(rate, time));
            by_time.min(at_most_ahead.unwrap_or(u64::MAX))
        };
        let fastest = paces.iter().filter_map(|pace| pace.rate).fold(0.0, f64::max);
        for waiter in &mut waiting {
            waiter.end = waiter.end.min(waiter.at.saturating_add(window(fastest)));
        }
        let ahead = paces
            .iter()
            // Without ranges, what cannot be kept would be read again from the start.
            .filter(|_| !scarce && (self.resumes() || at_most_ahead.is_none()))
            .filter_map(|pace| ahead_of(pace, object, window(pace.rate.unwrap_or_default())));
        Wishes {
            waiting,
            ahead: ahead.collect(),
            paces,
            at_most_ahead,
            only_for_readers,
            ..Wishes::default()
        }
    }

    /// What becomes of the rest of the object when nobody reads it.
    fn rest_of(&self, object: &Object) -> Rest {
        let hopeless = self.scarcity.is_some_and(|scarcity| scarcity.is_hopeless());
        if self.failures.gave_up || hopeless || self.is_oversize() || self.is_detached() {
            return Rest::Hopeless;
        }
        let policy = self.shared.target().after_last_reader;
        let wanted = match policy.unwrap_or(self.context.settings.after_last_reader) {
            AfterLastReader::Complete => true,
            AfterLastReader::Stop => false,
            AfterLastReader::Finish { percent, bytes } => object.length().is_some_and(|length| {
                let here = object.present_bytes();
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

/// What a reader will want soon, once half of what was fetched ahead of it is used up: asked for in
/// one piece, not byte by byte as it goes.
fn ahead_of(pace: &Pace, object: &Object, window: u64) -> Option<ByteRange> {
    let until = pace.at.saturating_add(window).min(pace.end);
    let here = object.present().run_at(pace.at).unwrap_or(pace.at);
    (here < pace.at.saturating_add(window / 2))
        .then(|| ByteRange::new(here, until))
        .flatten()
}

fn all_paused(paces: &[Pace], now: Instant) -> bool {
    paces
        .iter()
        .all(|pace| now.saturating_duration_since(pace.moved) >= PAUSED_AFTER)
}
