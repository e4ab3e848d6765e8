//! The plan of requests to the upstream. Pure: wanted − present − in flight → start, shorten, stop.
//!
//! - A reader near ahead of a session waits for it; one that is far gets a session of its own, and
//!   the session that would have come there is shortened to end where the new one begins.
//! - A session asks for no byte that is present or promised by another session, and for little that
//!   the reader it serves did not ask for: a wish is rounded up to a worthwhile request, and wishes
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

/// The least that is worth a request: tiny reads come in swarms. A wish for more is asked as it is. A judgement.
const WORTHWHILE_BYTES: u64 = 256 * 1024;

/// Wishes with no more than this between them become one request. A judgement.
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
    /// Whether some reader's wish lies where it is going.
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
        if waiter.wish < WORTHWHILE_BYTES {
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
        for wish in self.view.ahead {
            if self.running.len() >= self.view.max_sessions {
                return;
            }
            let gap = self.view.present.gaps(*wish).find(|gap| {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTH: u64 = 64 << 20;

    fn wait(at: u64, end: u64) -> WaitingAt {
        WaitingAt {
            at,
            end,
            since: Instant::now(),
            wish: end - at,
        }
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).expect("not empty")
    }

    fn view<'a>(present: &'a RangeSet, waiting: &'a [WaitingAt], running: &'a [Running]) -> PlanView<'a> {
        PlanView {
            length: Some(LENGTH),
            present,
            waiting,
            ahead: &[],
            running,
            ranges: true,
            grows_at: None,
            background: true,
            hint: 0,
            max_sessions: 4,
            rate: None,
            now: Instant::now(),
        }
    }

    #[test]
    fn a_far_reader_gets_its_own_session_and_the_passing_one_ends_there() {
        let running = [Running {
            id: 1,
            at: 1000,
            stop: LENGTH,
            moved: 1000,
            asked: Instant::now(),
            attended: true,
        }];
        let waiting = [wait(50 << 20, LENGTH)];
        let steps = plan(&view(&RangeSet::new(), &waiting, &running));
        assert_eq!(
            steps,
            [
                Step::Shorten { id: 1, stop: 50 << 20 },
                Step::Start(range(50 << 20, LENGTH), Class::Waiting)
            ]
        );
    }

    #[test]
    fn a_near_reader_waits_for_the_session_that_is_coming() {
        let running = [Running {
            id: 1,
            at: 1000,
            stop: LENGTH,
            moved: 1000,
            asked: Instant::now(),
            attended: true,
        }];
        let waiting = [wait(100_000, LENGTH)];
        assert_eq!(plan(&view(&RangeSet::new(), &waiting, &running)), []);
    }

    #[test]
    fn a_reader_inside_a_merged_request_gets_no_session() {
        let piece = 700 << 10;
        let waiting = [wait(0, piece), wait(piece, 2 * piece), wait(2 * piece, 3 * piece)];
        let empty = RangeSet::new();
        let mut now = view(&empty, &waiting, &[]);
        let Some(Step::Start(range, _)) = plan(&now).first().copied() else {
            panic!("one request");
        };
        assert_eq!(range, self::range(0, 3 * piece));
        // The merged request has begun, and the line looks slow: the reader of its last piece still waits for it.
        let running = [Running {
            id: 1,
            at: 1000,
            stop: range.end(),
            moved: 1000,
            asked: Instant::now(),
            attended: true,
        }];
        let waiting = &waiting[1..];
        now.waiting = waiting;
        now.running = &running;
        now.rate = Some(1000.0);
        assert_eq!(plan(&now), []);
    }

    #[test]
    fn a_session_stops_where_it_meets_present_bytes() {
        let present: RangeSet = [range(10 << 20, 20 << 20)].into_iter().collect();
        let waiting = [wait(5 << 20, LENGTH)];
        assert_eq!(
            plan(&view(&present, &waiting, &[])),
            [Step::Start(range(5 << 20, 10 << 20), Class::Waiting)]
        );
    }

    #[test]
    fn without_waiting_readers_holes_ahead_are_filled_in_the_background() {
        let present: RangeSet = [range(10 << 20, 20 << 20)].into_iter().collect();
        let mut view = view(&present, &[], &[]);
        view.hint = 20 << 20;
        assert_eq!(plan(&view), [Step::Start(range(20 << 20, 52 << 20), Class::Background)]);
        view.background = false;
        assert_eq!(plan(&view), []);
    }

    #[test]
    fn without_ranges_or_length_the_whole_is_read_once() {
        let (none, waiting) = (RangeSet::new(), [wait(50 << 20, LENGTH)]);
        let mut view = view(&none, &waiting, &[]);
        view.ranges = false;
        assert_eq!(plan(&view), [Step::StartWhole(Class::Waiting)]);
        let running = [Running {
            id: 1,
            at: 0,
            stop: u64::MAX,
            moved: 0,
            asked: Instant::now(),
            attended: true,
        }];
        view.running = &running;
        assert_eq!(plan(&view), []);
    }

    #[test]
    fn a_reader_without_a_session_takes_the_place_of_one_whose_turn_is_over() {
        let running: Vec<Running> = (0..4)
            .map(|n| Running {
                id: n,
                at: n * (10 << 20),
                stop: (n + 1) * (10 << 20),
                moved: n * (2 << 20),
                asked: Instant::now(),
                attended: true,
            })
            .collect();
        let mut waiting: Vec<WaitingAt> = running.iter().map(|s| wait(s.at, LENGTH)).collect();
        waiting.push(wait(60 << 20, LENGTH));
        let steps = plan(&view(&RangeSet::new(), &waiting, &running));
        assert_eq!(
            steps,
            [
                Step::Stop { id: 3 },
                Step::Start(range(60 << 20, LENGTH), Class::Waiting)
            ]
        );
    }

    #[test]
    fn an_unattended_session_is_stopped_for_a_reader_that_waits_long() {
        let session = |id: u64, at: u64, attended| Running {
            id,
            at,
            stop: at + (8 << 20),
            moved: 1,
            asked: Instant::now(),
            attended,
        };
        let running = [
            session(1, 0, false),
            session(2, 10 << 20, true),
            session(3, 20 << 20, true),
        ];
        let waiting = [wait((20 << 20) + 1, LENGTH)];
        let nothing = RangeSet::new();
        let mut view = view(&nothing, &waiting, &running);
        assert_eq!(plan(&view), []);
        view.now = waiting[0].since + LONG_WAIT;
        assert_eq!(plan(&view), [Step::Stop { id: 1 }]);
    }

    /// A fill whose sessions each bring a piece a turn, with readers that come, wait and go.
    #[derive(Debug)]
    struct Simulation {
        length: u64,
        present: RangeSet,
        running: Vec<Running>,
        readers: Vec<WaitingAt>,
        asked: u64,
        next_id: u64,
    }

    impl Simulation {
        fn turn(&mut self, piece: u64, background: bool) {
            self.readers.retain_mut(|reader| {
                reader.at = self.present.run_at(reader.at).unwrap_or(reader.at);
                reader.at < reader.end
            });
            let mut waiting = self.readers.clone();
            waiting.sort_by_key(|reader| reader.at);
            let steps = plan(&PlanView {
                length: Some(self.length),
                background,
                ..view(&self.present, &waiting, &self.running)
            });
            for step in steps {
                match step {
                    Step::Start(range, _) => {
                        let taken = |s: &Running| s.at < range.end() && range.start() < s.stop;
                        assert!(!self.running.iter().any(taken), "{range:?} is on its way");
                        assert_eq!(self.present.covered(range), 0, "{range:?} is here");
                        self.next_id += 1;
                        self.running.push(Running {
                            id: self.next_id,
                            at: range.start(),
                            stop: range.end(),
                            moved: 0,
                            asked: Instant::now(),
                            attended: true,
                        });
                    }
                    Step::Shorten { id, stop } => {
                        self.running
                            .iter_mut()
                            .filter(|s| s.id == id)
                            .for_each(|s| s.stop = stop);
                    }
                    Step::Stop { id } => self.running.retain(|session| session.id != id),
                    Step::StartWhole(_) | Step::StartFrom(..) => panic!("the length is known and ranges work"),
                }
            }
            assert!(self.running.len() <= 4);
            for session in &mut self.running {
                if let Some(got) = ByteRange::new(session.at, (session.at + piece).min(session.stop)) {
                    assert_eq!(self.present.insert(got), got.len(), "bytes asked twice: {got:?}");
                    self.asked += got.len();
                    session.at = got.end();
                    session.moved += got.len();
                }
            }
            self.running.retain(|session| session.at < session.stop);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_reader_is_served_and_no_byte_is_asked_twice(
            arrivals in proptest::collection::vec((0u64..40, 0u64..LENGTH, 1u64..LENGTH), 1..12),
            piece in (64u64 << 10)..(2 << 20),
        ) {
            let mut simulation = Simulation {
                length: LENGTH, present: RangeSet::new(), running: Vec::new(), readers: Vec::new(), asked: 0, next_id: 0,
            };
            let bound = 200 + 20 * LENGTH / piece;
            for turn in 0..bound {
                let coming = arrivals.iter().filter(|(when, ..)| *when == turn);
                simulation.readers.extend(coming.map(|&(_, at, len)| wait(at, (at + len).min(LENGTH))));
                simulation.turn(piece, false);
            }
            prop_assert!(simulation.readers.is_empty(), "still waiting: {:?}", simulation.readers);
            prop_assert_eq!(simulation.asked, simulation.present.total());
            for _ in 0..bound {
                simulation.turn(piece, true);
            }
            prop_assert_eq!(simulation.present.total(), LENGTH);
            prop_assert_eq!(simulation.asked, LENGTH);
        }
    }
}
