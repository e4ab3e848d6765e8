//! Random upstreams of the ordinary kind, and random readers of them.
//!
//! Whatever the upstream says of its film, and however it cuts, refuses, changes or alternates, an answer that comes to
//! its end is one representation, whole; one that is cut is right as far as it came. What an upstream would give at
//! once is not waited for while the budget has room; where it has none, what serves nobody makes way.
//!
//! An upstream that changes its bytes changes its tag, length, date or a byte at the seam with them: that is what
//! millpond can see. `MILLPOND_RANDOM_CASES` is the number of cases.

use crate::support::upstream::{Conn, Seen};
use crate::support::{Client, Ended, Film, Pond, Upstream, Valve};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::sync::atomic::{AtomicU64, Ordering};

const LEN: u64 = 3_000_000;
const OLD: u64 = 784_111_777;

/// The validators that the upstream gives its film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Strong,
    /// Two nodes with a tag each.
    TwoNodes,
    WeakAndOld,
    Weak,
    Date,
    Nothing,
}

/// How the upstream takes ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Gives,
    Ignores,
    Refuses(u16),
    /// `If-Range` is answered by the whole.
    KnowsNoIfRange,
    /// Parts come as 200.
    As200,
}

/// The fields that show a change of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Never,
    Tag,
    Length,
    Date,
    /// The bytes alone, all of them.
    Bytes,
}

#[derive(Debug, Clone)]
struct Behaviour {
    proof: Proof,
    ranges: Ranges,
    change: Change,
    /// The number of the first request for which the film has changed.
    changes_at: usize,
    /// Whole replies between two that are cut; 0 cuts none.
    cuts: usize,
    no_store: bool,
    identity: bool,
}

/// A reader's request: where it begins, how much it takes before it leaves.
#[derive(Debug, Clone)]
enum Reader {
    Whole,
    Head,
    From(u64),
    Part(u64, u64),
    Tail(u64),
    Leaves(u64, usize),
}

fn behaviours() -> impl Strategy<Value = Behaviour> {
    let proof = prop_oneof![
        Just(Proof::Strong),
        Just(Proof::TwoNodes),
        Just(Proof::WeakAndOld),
        Just(Proof::Weak),
        Just(Proof::Date),
        Just(Proof::Nothing),
    ];
    let ranges = prop_oneof![
        4 => Just(Ranges::Gives),
        1 => Just(Ranges::Ignores),
        1 => prop_oneof![Just(403), Just(406), Just(500), Just(404)].prop_map(Ranges::Refuses),
        1 => Just(Ranges::KnowsNoIfRange),
        1 => Just(Ranges::As200),
    ];
    let change = prop_oneof![
        4 => Just(Change::Never),
        1 => Just(Change::Tag),
        1 => Just(Change::Length),
        1 => Just(Change::Date),
        1 => Just(Change::Bytes),
    ];
    (
        proof,
        ranges,
        change,
        1usize..8,
        0usize..4,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(proof, ranges, change, changes_at, cuts, no_store, identity)| Behaviour {
                proof,
                ranges,
                change: visible(proof, change),
                changes_at,
                cuts,
                no_store,
                identity,
            },
        )
}

/// A change shows in what the upstream says at all.
fn visible(proof: Proof, change: Change) -> Change {
    match (proof, change) {
        // Strong validators that do not change with the bytes lie; nobody could tell.
        (Proof::Strong | Proof::TwoNodes, Change::Bytes | Change::Date) => Change::Tag,
        (Proof::Date, Change::Bytes | Change::Tag) => Change::Date,
        (_, change) => change,
    }
}

fn readers() -> impl Strategy<Value = Vec<Reader>> {
    let reader = prop_oneof![
        2 => Just(Reader::Whole),
        1 => Just(Reader::Head),
        3 => (0..LEN - 100).prop_map(Reader::From),
        2 => (0..LEN - 100, 1u64..600_000).prop_map(|(at, count)| Reader::Part(at, count)),
        1 => (1u64..500_000).prop_map(Reader::Tail),
        3 => (0..LEN - 500_000, 1usize..400_000).prop_map(|(at, count)| Reader::Leaves(at, count)),
    ];
    prop::collection::vec(reader, 2..9)
}

impl Behaviour {
    fn edition(&self, number: usize) -> u64 {
        1 + u64::from(self.change != Change::Never && number >= self.changes_at)
    }

    fn film(&self, edition: u64) -> Film {
        let longer = u64::from(edition == 2 && self.change == Change::Length) * 4096;
        Film::edition(LEN + longer, edition)
    }

    fn says(&self, number: usize, edition: u64) -> Vec<(&'static str, String)> {
        let tag = if self.change == Change::Tag { edition } else { 1 };
        let date = if self.change == Change::Date {
            OLD + edition
        } else {
            OLD
        };
        let date = ("Last-Modified", http_date(date));
        let mut says = match self.proof {
            Proof::Strong => vec![("ETag", format!("\"t{tag}\""))],
            Proof::TwoNodes => vec![("ETag", format!("\"t{tag}-node{}\"", number % 2)), date],
            Proof::WeakAndOld => vec![("ETag", format!("W/\"t{tag}\"")), date],
            Proof::Weak => vec![("ETag", format!("W/\"t{tag}\""))],
            Proof::Date => vec![date],
            Proof::Nothing => vec![],
        };
        if self.no_store {
            says.push(("Cache-Control", "no-store".to_owned()));
        }
        says.push(("Date", http_date(OLD + 1_000_000)));
        says
    }

    fn answer(&self, seen: &Seen, conn: &mut Conn) {
        let edition = self.edition(seen.number);
        let film = self.film(edition);
        let says = self.says(seen.number, edition);
        let tag = says
            .iter()
            .find(|(name, _)| *name == "ETag")
            .map(|(_, tag)| tag.clone());
        let date = says
            .iter()
            .find(|(name, _)| *name == "Last-Modified")
            .map(|(_, date)| date.clone());
        let mut range = seen.range(film.len);
        if let (Ranges::Refuses(status), Some(_)) = (self.ranges, range) {
            return conn.head(status, &[("Content-Length", "0".to_owned())]);
        }
        let strong = tag.as_deref().filter(|tag| !tag.starts_with("W/"));
        if let Some(asked) = seen.header("if-match")
            && Some(asked) != strong
        {
            return conn.head(412, &[("Content-Length", "0".to_owned())]);
        }
        if let Some(asked) = seen.header("if-range") {
            let holds = Some(asked) == strong || Some(asked) == date.as_deref();
            range = range.filter(|_| holds && self.ranges != Ranges::KnowsNoIfRange);
        }
        range = range.filter(|_| self.ranges != Ranges::Ignores);
        let (start, end) = range.unwrap_or((0, film.len));
        if start >= end {
            let unsatisfied = format!("bytes */{}", film.len);
            return conn.head(
                416,
                &[("Content-Range", unsatisfied), ("Content-Length", "0".to_owned())],
            );
        }
        let mut fields = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("Content-Length", (end - start).to_string()),
        ];
        fields.extend(says);
        if self.identity {
            fields.push(("Transfer-Encoding", "identity".to_owned()));
        }
        if range.is_some() {
            fields.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)));
        }
        let status = if range.is_some() && self.ranges != Ranges::As200 {
            206
        } else {
            200
        };
        conn.head(status, &fields);
        let is_cut = self.cuts > 0 && seen.number.is_multiple_of(self.cuts + 1) && end - start > 1000;
        let stop = if is_cut { start + (end - start) / 2 } else { end };
        conn.body(&film, start, stop);
        if is_cut || self.identity {
            conn.close();
        }
    }

    /// Fails where the bytes are those of no edition, or of two.
    fn check(&self, at: u64, bytes: &[u8], total: Option<u64>) -> Result<(), TestCaseError> {
        let is_of = |edition: u64| {
            let film = self.film(edition);
            let fits = total.is_none_or(|total| total == film.len) && at + bytes.len() as u64 <= film.len;
            fits && film.bytes(at, at + bytes.len() as u64) == bytes
        };
        prop_assert!(
            is_of(1) || is_of(2),
            "bytes of no edition at {at}, {} of them",
            bytes.len()
        );
        Ok(())
    }

    /// Whether nothing is wrong with the upstream, so that every answer must be right and whole.
    fn is_well(&self) -> bool {
        self.change == Change::Never && self.cuts == 0
    }
}

fn http_date(seconds: u64) -> String {
    millpond::header::print_date(millpond::clock::from_unix_seconds(seconds))
}

fn read(pond: &Pond, behaviour: &Behaviour, reader: &Reader) -> Result<(), TestCaseError> {
    let (method, range) = match reader {
        Reader::Whole => ("GET", None),
        Reader::Head => ("HEAD", None),
        Reader::From(at) | Reader::Leaves(at, _) => ("GET", Some(format!("bytes={at}-"))),
        Reader::Part(at, count) => ("GET", Some(format!("bytes={at}-{}", at + count - 1))),
        Reader::Tail(count) => ("GET", Some(format!("bytes=-{count}"))),
    };
    let fields: Vec<(&str, &str)> = range.iter().map(|range| ("Range", range.as_str())).collect();
    let mut client = Client::open(pond.address(), method, "/film.mp4", &fields);
    let total = client
        .header("content-range")
        .and_then(|range| range.rsplit_once('/')?.1.parse().ok());
    let start = client
        .header("content-range")
        .and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok())
        .unwrap_or(0);
    if behaviour.is_well() {
        prop_assert!(matches!(client.status, 200 | 206), "{reader:?}: {}", client.status);
    }
    let too_fast = client.status == 502 && behaviour.is_well();
    prop_assert!(!too_fast);
    if !matches!(client.status, 200 | 206) || method == "HEAD" {
        return Ok(());
    }
    let total = total.or_else(|| client.header("content-length")?.parse().ok());
    if let Reader::Leaves(_, count) = reader {
        if behaviour.cuts == 0 && behaviour.change == Change::Never {
            behaviour.check(start, &client.read(*count), total)?;
        }
        return Ok(());
    }
    let answer = client.finish();
    if behaviour.is_well() {
        prop_assert_eq!(answer.ended, Ended::Clean, "{:?}", reader);
    }
    match answer.ended {
        Ended::Clean => behaviour.check(start, &answer.body, total),
        // The total was of the edition that it began with.
        Ended::Cut => behaviour.check(start, &answer.body, None),
    }
}

fn cases() -> u32 {
    let told = std::env::var("MILLPOND_RANDOM_CASES").ok();
    told.map_or(48, |cases| cases.parse().expect("MILLPOND_RANDOM_CASES is a number"))
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: cases(),
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn every_answer_of_a_random_upstream_is_one_representation() {
    let run = runner().run(
        &(behaviours(), readers(), any::<bool>()),
        |(behaviour, readers, at_once)| {
            let script = behaviour.clone();
            let upstream = Upstream::scripted(move |seen, conn| script.answer(seen, conn));
            let pond = Pond::with(&upstream, &[("hold_limit", "1s"), ("header_wait", "1s")]);
            if !at_once {
                return readers.iter().try_for_each(|reader| read(&pond, &behaviour, reader));
            }
            std::thread::scope(|scope| {
                let run = |reader| {
                    let (pond, behaviour) = (&pond, &behaviour);
                    scope.spawn(move || read(pond, behaviour, reader))
                };
                let running: Vec<_> = readers.iter().map(run).collect();
                running
                    .into_iter()
                    .try_for_each(|reader| reader.join().expect("no panic"))
            })
        },
    );
    run.expect("every answer is right");
}

#[test]
fn far_ranges_do_not_wait_for_a_stalled_session() {
    let spots = prop::collection::vec(0..LEN - 200_000, 1..4);
    let run = runner().run(&(behaviours(), spots, 1u32..4), |(behaviour, spots, connections)| {
        let behaviour = Behaviour {
            change: Change::Never,
            cuts: 0,
            ranges: match behaviour.ranges {
                Ranges::Ignores | Ranges::Refuses(_) => Ranges::Gives,
                ranges => ranges,
            },
            ..behaviour
        };
        let (script, hold) = (behaviour.clone(), Valve::new(0));
        let (held, first) = (hold.clone(), AtomicU64::new(0));
        let upstream = Upstream::scripted(move |seen, conn| {
            let film = script.film(1);
            let from_start = seen.range(LEN).is_none_or(|(start, end)| start == 0 && end == LEN);
            // The first reply that would bring everything comes to a stop soon after its start.
            if from_start && first.fetch_add(1, Ordering::AcqRel) == 0 {
                let mut fields = vec![
                    ("Content-Type", "video/mp4".to_owned()),
                    ("Content-Length", LEN.to_string()),
                    ("Content-Range", format!("bytes 0-{}/{LEN}", LEN - 1)),
                ];
                fields.extend(script.says(seen.number, 1));
                conn.head(206, &fields);
                conn.body(&film, 0, 300_000);
                conn.wait_for(&held);
                return conn.close();
            }
            script.answer(seen, conn);
        });
        let pond = Pond::with(&upstream, &[("connections_per_upstream", &connections.to_string())]);
        let mut first = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", "bytes=0-")]);
        prop_assert_eq!(first.status, 206);
        behaviour.check(0, &first.read(200_000), Some(LEN))?;
        // The first exchange serves no reader any more.
        drop(first);
        for at in spots {
            let at = at.max(1_000_000);
            let range = format!("bytes={at}-{}", at + 99_999);
            let part = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", &range)]).finish();
            prop_assert_eq!((part.status, part.ended), (206, Ended::Clean), "at {}", at);
            behaviour.check(at, &part.body, Some(LEN))?;
        }
        hold.allow(u64::MAX);
        Ok(())
    });
    run.expect("nobody waits");
}
