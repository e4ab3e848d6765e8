//! The plan of requests: which steps follow from what is wanted, present and in flight.
//!
//! Each case is a view with few sessions and waiters; the properties at the end draw many, and ask that a plan carried out
//! brings every byte that is wanted, and none twice.

use super::*;
use proptest::prelude::*;

const LENGTH: u64 = 64 << 20;

fn wait(at: u64, end: u64) -> WaitingAt {
    WaitingAt {
        at,
        end,
        since: Instant::now(),
        asked: end - at,
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

/// A session that has begun at 0 and goes to the end.
fn passing_at(at: ByteOffset) -> Running {
    Running {
        id: 1,
        at,
        stop: LENGTH,
        moved: at,
        asked: Instant::now(),
        attended: true,
    }
}

#[test]
fn a_far_reader_gets_its_own_session_and_the_passing_one_ends_there() {
    let running = [passing_at(1000)];
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
    let running = [passing_at(1000)];
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
