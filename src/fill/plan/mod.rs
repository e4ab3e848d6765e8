//! The plan of requests to the upstream. Pure: wanted − present − in flight → start, shorten, stop.
//!
//! - A reader near ahead of a session waits for it; one that is far gets a session of its own, and
//!   the session that would have come there is shortened to end where the new one begins.
//! - A session asks for no byte that is present or promised by another session, and for little that
//!   the reader it serves did not ask for: a demand is rounded up to a worthwhile request, and demands
//!   with small gaps between them become one. So no byte is asked twice.
//! - Who has waited longest is served first.
//! - When no reader waits and nothing is under way, what readers will want soon is fetched, then the
//!   holes one stretch after the other, first those ahead of where readers were.
//! - What is joined where its bytes agree (`header::OverlapValidator`) is read on from its last byte, by one session
//!   at a time: elsewhere there is nothing to compare.
//! - An upstream without ranges, or of unknown length, is read once, whole, from 0.

pub(super) mod retention;

use crate::clock::Instant;
use crate::ranges::{ByteOffset, ByteRange, RangeSet};
use crate::store::WaitingAt;
use crate::upstream::{Class, QUANTUM_BYTES};
use std::time::Duration;

/// A reader this close ahead of a session waits for it: asking anew would cost more. A judgement; more than a step of
/// `write_batch`, so that a reader at the end of what is written looks near.
pub(super) const NEAR_BYTES: u64 = 512 * 1024;

/// A position that a session reaches within this time counts as near too. A judgement.
pub(super) const NEAR_SECONDS: f64 = 0.25;

/// A session with no more than this to bring is not shortened: its bytes are on the way already. Nor is one that will
/// have brought them within [`SHORT_SECONDS`]. The figure is measured: of sessions with 2.3 MB to bring all of it was
/// in the sockets already.
const SHORT_BYTES: u64 = 4 << 20;

/// Readers that wait within this many bytes of the start of a request are taken along by it. A judgement: half of
/// [`SHORT_BYTES`].
const ALONG_BYTES: u64 = 2 << 20;

/// The longest that a reader waits for the bytes of a short session: a judgement.
const SHORT_SECONDS: f64 = 1.0;

/// A reader that has waited for so long, although its bytes are coming, has too small a share of the line. A judgement.
const LONG_WAIT: Duration = Duration::from_millis(500);

/// The least that is worth a request: tiny reads come in swarms. A demand for more is asked as it is. A judgement.
const WORTHWHILE_BYTES: u64 = 256 * 1024;

/// Demands with no more than this between them become one request. A judgement.
const CRUMB_BYTES: u64 = 64 * 1024;

/// Background requests have this length: a reader may come at any time. A judgement.
const STRETCH_BYTES: u64 = 32 << 20;

/// A session that has been asked for, as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) id: u64,
    /// The next byte it will bring.
    pub(super) at: ByteOffset,
    /// Where it ends; `u64::MAX` where only the upstream knows.
    pub(super) stop: ByteOffset,
    /// Bytes that it has brought.
    pub(super) moved: u64,
    /// When it was asked for.
    pub(super) asked: Instant,
    /// Whether what some reader asked for lies where it is going.
    pub(super) attended: bool,
}

/// All that the plan depends on.
#[derive(Debug)]
pub(super) struct PlanView<'a> {
    pub(super) length: Option<u64>,
    pub(super) present: &'a RangeSet,
    /// In the order of their positions.
    pub(super) waiting: &'a [WaitingAt],
    /// Ranges that readers will want soon, in the order of urgency.
    pub(super) ahead: &'a [ByteRange],
    pub(super) running: &'a [Running],
    /// Whether pieces may be asked for and joined.
    pub(super) ranges: bool,
    /// The byte from which on a session may bring more, where it is only there that pieces may be joined.
    pub(super) grows_at: Option<ByteOffset>,
    /// Whether to go on when nobody waits.
    pub(super) background: bool,
    /// Where readers were last; the holes after it come first.
    pub(super) hint: ByteOffset,
    pub(super) max_sessions: usize,
    /// Bytes per second of the fill, where known.
    pub(super) rate: Option<f64>,
    pub(super) now: Instant,
}

/// A step to take, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Asks for the whole, from 0.
    StartWhole(Class),
    /// Asks for everything from here on: the length is not known.
    StartFrom(ByteOffset, Class),
    /// Asks for these bytes.
    Start(ByteRange, Class),
    /// Lets the session end here.
    Shorten { id: u64, stop: ByteOffset },
    /// Ends the session now.
    Stop { id: u64 },
}

pub(super) fn plan(view: &PlanView<'_>) -> Vec<Step> {
    let class = match view.waiting {
        [] if view.ahead.is_empty() => Class::Background,
        [] => Class::Ahead,
        _ => Class::Waiting,
    };
    match view.length {
        _ if class == Class::Background && !view.background => Vec::new(),
        Some(length) if view.ranges => {
            let mut draft = Draft::new(view, length);
            let mut waiting: Vec<&WaitingAt> = view.waiting.iter().collect();
            // Connections are few: the reader that has waited longest gets the next.
            waiting.sort_by_key(|waiter| waiter.since);
            // Before readers are served: what it stops leaves its connection to them.
            draft.clear_the_line();
            for waiter in waiting {
                draft.serve(waiter);
            }
            draft.read_ahead();
            draft.complete();
            draft.steps
        }
        _ if !view.running.is_empty() => Vec::new(),
        Some(length) if view.grows_at.is_some_and(|at| at < length) => grow(view, length, class),
        None if view.ranges && view.present.run_at(0).is_some() => {
            vec![Step::StartFrom(view.present.run_at(0).unwrap_or_default(), class)]
        }
        _ => vec![Step::StartWhole(class)],
    }
}

/// Reads on from the last byte, as far as anybody wants.
fn grow(view: &PlanView<'_>, length: u64, class: Class) -> Vec<Step> {
    let at = view.grows_at.unwrap_or_default();
    let waited = view.waiting.iter().map(|waiter| waiter.end);
    let end = match view.background {
        true => length,
        false => waited
            .chain(view.ahead.iter().map(|range| range.end()))
            .max()
            .unwrap_or(at),
    };
    let least = at.saturating_add(WORTHWHILE_BYTES);
    let range = ByteRange::new(at, end.max(least).min(length));
    range.map(|range| Step::Start(range, class)).into_iter().collect()
}

/// The class of a session, as readers stand now.
pub(super) fn class_of(session: &Running, waiting: &[WaitingAt]) -> Class {
    let serves = |waiter: &WaitingAt| session.at <= waiter.at && waiter.at < session.stop;
    match waiting.iter().any(serves) {
        true => Class::Waiting,
        false if session.attended => Class::Ahead,
        false => Class::Background,
    }
}

/// The bytes to ask for at once in the first request of an object, of which nothing is known.
pub(super) fn worthwhile(range: ByteRange) -> ByteRange {
    ByteRange::with_len(range.start(), range.len().max(WORTHWHILE_BYTES)).unwrap_or(range)
}

struct Draft<'a> {
    view: &'a PlanView<'a>,
    length: u64,
    running: Vec<Running>,
    steps: Vec<Step>,
}

impl<'a> Draft<'a> {
    fn new(view: &'a PlanView<'a>, length: u64) -> Self {
        Self {
            view,
            length,
            running: view.running.to_vec(),
            steps: Vec::new(),
        }
    }

    /// Where a reader waits too long, sessions that readers left behind (each seek leaves one) give it
    /// their share of the line.
    fn clear_the_line(&mut self) {
        let waited = |waiter: &WaitingAt| self.view.now.saturating_duration_since(waiter.since) >= LONG_WAIT;
        if !self.view.waiting.iter().any(waited) {
            return;
        }
        let left_behind = |session: &Running| {
            !session.attended && session.stop.saturating_sub(session.at) > SHORT_BYTES && !self.is_waited_for(session)
        };
        let stopped: Vec<u64> = self.running.iter().filter(|s| left_behind(s)).map(|s| s.id).collect();
        self.running.retain(|session| !stopped.contains(&session.id));
        self.steps.extend(stopped.into_iter().map(|id| Step::Stop { id }));
    }

    fn is_waited_for(&self, session: &Running) -> bool {
        let there = |waiter: &WaitingAt| session.at <= waiter.at && waiter.at < session.stop;
        self.view.waiting.iter().any(there)
    }

    fn serve(&mut self, waiter: &WaitingAt) {
        let at = waiter.at;
        if at >= self.length || self.view.present.run_at(at).is_some() || self.coming_to(waiter) {
            return;
        }
        if self.running.len() >= self.view.max_sessions && !self.make_room() {
            return;
        }
        self.end_passing_session_at(at);
        // Behind the session that was just shortened, which ends at `at`.
        let free = self.free_until(at);
        let mut end = waiter.end;
        if waiter.asked < WORTHWHILE_BYTES {
            end = end.max(at.saturating_add(WORTHWHILE_BYTES));
            if free.saturating_sub(end) < WORTHWHILE_BYTES {
                // Nor is a crumb left for others to come back for.
                end = free;
            }
        }
        let end = self.with_neighbours(at, end).min(free);
        if let Some(range) = ByteRange::new(at, end) {
            self.start(range, Class::Waiting);
        }
    }

    /// The end of a request for `at..end` that takes those along who wait a little further on: as many as it
    /// reaches before they would be better served alone.
    fn with_neighbours(&self, at: ByteOffset, mut end: ByteOffset) -> ByteOffset {
        for other in self.view.waiting.iter().filter(|other| other.at > at) {
            if other.at > end.saturating_add(CRUMB_BYTES) || other.at - at > ALONG_BYTES {
                break;
            }
            end = end.max(other.end);
        }
        end
    }

    /// The session that would come to `at` ends there; its place in the plan is a step of its own
    /// where it runs, and the step that starts it where it is as new as this one.
    fn end_passing_session_at(&mut self, at: ByteOffset) {
        let Some(passing) = self
            .running
            .iter_mut()
            .find(|session| session.at < at && at < session.stop)
        else {
            return;
        };
        passing.stop = at;
        let (id, begin) = (passing.id, passing.at);
        let planned = self
            .steps
            .iter_mut()
            .find(|step| matches!(step, Step::Start(range, _) if range.start() == begin));
        match (planned, ByteRange::new(begin, at)) {
            (Some(step), Some(range)) => *step = Step::Start(range, Class::Waiting),
            _ => self.steps.push(Step::Shorten { id, stop: at }),
        }
    }

    /// Whether a session will be there soon.
    fn coming_to(&self, waiter: &WaitingAt) -> bool {
        let at = waiter.at;
        // The rate is that of the fill: its sessions share it.
        let share = self.view.rate.map(|rate| rate / self.view.running.len().max(1) as f64);
        let near = share.map_or(0, |share| (share * NEAR_SECONDS) as u64).max(NEAR_BYTES);
        let short = |session: &Running| {
            session.stop.saturating_sub(session.at) <= SHORT_BYTES
                && share.is_none_or(|share| (at - session.at) as f64 <= share * SHORT_SECONDS)
        };
        // A reader that waited already when the request was made is taken along by it (`with_neighbours`).
        let taken_along = |session: &Running| waiter.since <= session.asked && at - session.at <= ALONG_BYTES;
        self.running
            .iter()
            .filter(|session| session.at <= at && at < session.stop)
            .any(|session| at - session.at <= near || short(session) || taken_along(session))
    }

    /// The end of the gap at `at`: the next byte that is present or promised, or the end.
    fn free_until(&self, at: ByteOffset) -> ByteOffset {
        let present = self.view.present.next_present(at).unwrap_or(u64::MAX);
        let promised = self
            .running
            .iter()
            .map(|session| session.at)
            .filter(|begin| *begin > at)
            .min();
        present.min(promised.unwrap_or(u64::MAX)).min(self.length)
    }

    /// Ends the session that is missed least; `false` where none can be: what is under way of a cut
    /// session comes twice, so one that will be over soon is waited for, and none is cut that has just
    /// begun.
    fn make_room(&mut self) -> bool {
        let long = |session: &&Running| session.stop.saturating_sub(session.at) > SHORT_BYTES;
        let idle = self
            .running
            .iter()
            .filter(long)
            .filter(|session| !session.attended || session.moved >= SHORT_BYTES)
            .filter(|session| !self.is_waited_for(session))
            .max_by_key(|session| (!session.attended, session.moved));
        let over = || {
            let turn_over = self.running.iter().filter(long);
            turn_over
                .filter(|session| session.moved >= QUANTUM_BYTES)
                .max_by_key(|session| session.moved)
        };
        // A session that no reader follows goes before one whose reader has had its share.
        let Some(id) = idle.or_else(over).map(|session| session.id) else {
            return false;
        };
        self.running.retain(|session| session.id != id);
        self.steps.push(Step::Stop { id });
        true
    }

    fn start(&mut self, range: ByteRange, class: Class) {
        self.steps.push(Step::Start(range, class));
        // Planned, not begun: no session has that number, so no step can mean it.
        self.running.push(Running {
            id: u64::MAX,
            at: range.start(),
            stop: range.end(),
            moved: 0,
            asked: Instant::now(),
            attended: true,
        });
    }

    /// Fetches what readers will want soon, while connections are left.
    fn read_ahead(&mut self) {
        for soon in self.view.ahead {
            if self.running.len() >= self.view.max_sessions {
                return;
            }
            let gap = self.view.present.gaps(*soon).find(|gap| {
                let promised = |session: &Running| session.at <= gap.start() && gap.start() < session.stop;
                !self.running.iter().any(promised)
            });
            if let Some(gap) = gap
                && let Some(range) = ByteRange::new(gap.start(), gap.end().min(self.free_until(gap.start())))
            {
                self.start(range, Class::Ahead);
            }
        }
    }

    /// Fills a stretch of the next hole where nothing else is to do.
    fn complete(&mut self) {
        if !self.view.background || !self.running.is_empty() || !self.view.waiting.is_empty() {
            return;
        }
        let hint = self.view.hint.min(self.length);
        let ahead = ByteRange::new(hint, self.length);
        let behind = ByteRange::new(0, hint);
        let hole = [ahead, behind]
            .into_iter()
            .flatten()
            .find_map(|part| self.view.present.gaps(part).next());
        if let Some(hole) = hole
            && let Some(stretch) = ByteRange::with_len(hole.start(), hole.len().min(STRETCH_BYTES))
        {
            self.start(stretch, Class::Background);
        }
    }
}

#[cfg(test)]
mod tests;
