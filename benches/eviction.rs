//! Which object to evict: policies replayed over synthetic traces, in object and in byte hit ratio.
//!
//! `cargo bench --bench eviction -- SCALE` scales objects and requests alike; 1 is the default. Each
//! request is for a whole object and time is counted in requests; the first fifth warms up and is not
//! counted. What is asked for and not held is always admitted, after room was made. The catalogue is
//! 70 % small objects (artwork, playlists: 1 KiB to 4 MiB) and 30 % large ones (50 MiB to 8 GiB), each
//! log-normal; the capacity is a share of its bytes.
//!
//! ```text
//! zipf S      independent requests, popularity falls as rank^-S
//! scan        zipf 0.9; in the middle half a catalogue of objects that are asked for once
//! drift       zipf 0.9; every 50 000 requests the most popular tenth is replaced by new objects
//! releases    objects are born, popular at once, forgotten by a power law; a backlog beside them
//! ```
//!
//! The store keeps no queue. It evicts by sampling: draw K objects, evict the one with the worst score,
//! until there is room. A score is therefore a pure function of what a record knows: size, age, time
//! since the last use, hits since admission. Exact policies stand beside the sampled ones as references.
//!
//! # What was chosen
//!
//! `idle * cbrt(size) / sqrt(hits)`; of 64 drawn the greatest goes. All cells, as a multiple of exact LRU:
//!
//! ```text
//!                                        object hits       byte hits
//!                                        worst   mean      worst   mean
//! idle * size^1/3 / hits^1/2, K = 64     1.037   1.474     0.980   1.028
//! the same, K = 16                       1.034   1.369     0.975   1.004
//! idle * size / hits, K = 32             1.039   1.500     0.879   0.963
//! idle / hits, K = 32                    0.959   1.076     0.953   1.067
//! age / hits (hyperbolic), K = 32        0.964   1.031     0.959   1.030
//! exact GDSF, sqrt(size)                 1.040   1.664     0.941   1.054
//! exact S3-FIFO                          0.935   1.138     0.924   1.122
//! exact LFU                              0.394   0.995     0.277   0.926
//! ```
//!
//! - The *size* must count, for a small object costs next to nothing to keep. It must count little:
//!   `size`, and with the root of the hits `sqrt(size)` too, pay for object hits with bytes of films.
//! - The *hits* must count, against scans and what is seen once. As a square root, for with `hits` what
//!   was popular outlives its time: `idle / hits` loses to LRU in drift and releases.
//! - A power has no unit: neither the pace of requests nor the size of the catalogue needs a constant,
//!   and a film whose every viewing counts as thirty hits still compares rightly with other films.
//!   Hits that are halved with idle time win a hundredth of the bytes under drift, lose object hits, and
//!   need a half-life that fits the traffic.
//! - *GDSF* needs a global number and a stored one for each object. Exact, it wins most object hits and
//!   loses bytes under drift; sampled, its means are behind the chosen score in both.
//! - *K*: a small draw often holds none of the few large objects, and then small ones are evicted for
//!   little room. To go on until the draw holds four times the bytes wanted is hardly better than 64.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const OBJECTS: usize = 30_000;
const REQUESTS: usize = 300_000;

/// Requests until the popular objects of the drift are replaced.
const EPOCH_REQUESTS: usize = 50_000;

/// Shares of the catalogue's bytes.
const CAPACITIES: [f64; 3] = [0.02, 0.10, 0.30];

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const GIB: f64 = 1024.0 * MIB;

/// The least size of a large object, in bytes.
const LARGE_BYTES: f64 = 50.0 * MIB;

/// The K of the comparison.
const K: usize = 32;

/// The row that all others are compared with.
const YARDSTICK: usize = 0;

fn main() -> io::Result<()> {
    // Cargo passes flags of its own to benches.
    let scale = std::env::args()
        .skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or(1.0);
    let traces = Trace::all(scale);
    let policies = policies();
    let results = replay_all(&traces, &policies);
    let mut report = String::new();
    for (trace, cells) in traces.iter().zip(&results) {
        table(&mut report, trace, &policies, cells).map_err(io::Error::other)?;
    }
    let cells: Vec<&Vec<Ratios>> = results.iter().flatten().collect();
    summary(&mut report, &policies, &cells).map_err(io::Error::other)?;
    io::stdout().write_all(report.as_bytes())
}

/// Shares of the requests and of the bytes asked for that were held.
#[derive(Debug, Clone, Copy, Default)]
struct Ratios {
    objects: f64,
    bytes: f64,
}

/// Results by trace, capacity and policy. Each core takes the next run that is left.
fn replay_all(traces: &[Trace], policies: &[Row]) -> Vec<[Vec<Ratios>; CAPACITIES.len()]> {
    let cells = CAPACITIES.len() * policies.len();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            let Some(trace) = traces.get(run / cells) else {
                return done;
            };
            let (capacity, row) = (run % cells / policies.len(), run % policies.len());
            let capacity_bytes = (trace.live_bytes * CAPACITIES[capacity]) as u64;
            let mut policy = policies[row].kind.build(capacity_bytes, trace.sizes.len());
            done.push((run / cells, capacity, row, trace.replay(policy.as_mut())));
        }
    };
    let empty = || std::array::from_fn(|_| vec![Ratios::default(); policies.len()]);
    let mut results: Vec<_> = traces.iter().map(|_| empty()).collect();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for (trace, capacity, row, ratios) in worker.join().expect("a replay does not panic") {
                results[trace][capacity][row] = ratios;
            }
        }
    });
    results
}

fn table(out: &mut String, trace: &Trace, policies: &[Row], cells: &[Vec<Ratios>]) -> fmt::Result {
    write!(out, "{:38}", trace.name)?;
    for share in CAPACITIES {
        write!(out, " | {:>3.0} %: obj  byte  sum", share * 100.0)?;
    }
    writeln!(out)?;
    for (row, policy) in policies.iter().enumerate() {
        write!(out, "{:38}", policy.name)?;
        for cell in cells {
            let (ours, lru) = (cell[row], cell[YARDSTICK]);
            let sum = (ours.objects + ours.bytes) / (lru.objects + lru.bytes);
            write!(
                out,
                " | {:9.1} {:5.1} {sum:5.2}",
                ours.objects * 100.0,
                ours.bytes * 100.0
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// Each policy over all traces and capacities, as a multiple of the yardstick.
fn summary(out: &mut String, policies: &[Row], cells: &[&Vec<Ratios>]) -> fmt::Result {
    let head = "objects worst  mean | bytes worst  mean";
    writeln!(out, "{:38} | {head}", "all, as a multiple of exact LRU")?;
    for (row, policy) in policies.iter().enumerate() {
        let objects = cells.iter().map(|cell| cell[row].objects / cell[YARDSTICK].objects);
        let bytes = cells.iter().map(|cell| cell[row].bytes / cell[YARDSTICK].bytes);
        let (worst, mean) = worst_and_mean(objects);
        let (worst_bytes, mean_bytes) = worst_and_mean(bytes);
        let name = policy.name;
        writeln!(
            out,
            "{name:38} | {worst:13.3} {mean:5.3} | {worst_bytes:11.3} {mean_bytes:5.3}"
        )?;
    }
    Ok(())
}

fn worst_and_mean(ratios: impl ExactSizeIterator<Item = f64>) -> (f64, f64) {
    let count = ratios.len() as f64;
    let (worst, sum) = ratios.fold((f64::INFINITY, 0.0), |(worst, sum), ratio| {
        (ratio.min(worst), sum + ratio)
    });
    (worst, sum / count)
}

/// A cache under one policy. `now` rises with every request; identities are dense from 0.
trait Policy {
    /// Whether the object was held; afterwards it is, unless it is larger than the cache.
    fn request(&mut self, now: u64, id: u32, size: u64) -> bool;
}

struct Row {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    Exact(Rank),
    S3Fifo,
    Sampled(Draw, Score),
}

impl Kind {
    fn build(&self, capacity: u64, objects: usize) -> Box<dyn Policy> {
        match *self {
            Self::Exact(rank) => Box::new(Exact::new(rank, capacity, objects)),
            Self::S3Fifo => Box::new(S3Fifo::new(capacity, objects)),
            Self::Sampled(draw, score) => Box::new(Sampled::new(draw, score, capacity, objects)),
        }
    }
}

fn policies() -> Vec<Row> {
    let row = |name, kind| Row { name, kind };
    let sampled = |name, score| row(name, Kind::Sampled(Draw::of(K), score));
    let drawn = |name, draw| row(name, Kind::Sampled(draw, chosen));
    let filled = Draw {
        at_least: 16,
        at_most: 256,
        ..Draw::of(16)
    };
    let viewings = Draw {
        hits_per_viewing: 30,
        ..Draw::of(64)
    };
    vec![
        row("exact LRU", Kind::Exact(|touch| touch.now)),
        row("exact LFU", Kind::Exact(|touch| touch.hits + touch.now * 1e-9)),
        row(
            "exact GDSF",
            Kind::Exact(|touch| touch.inflation + touch.hits / touch.size),
        ),
        row(
            "exact GDSF, sqrt(size)",
            Kind::Exact(|touch| touch.inflation + touch.hits / touch.size.sqrt()),
        ),
        row("exact S3-FIFO", Kind::S3Fifo),
        sampled("idle (LRU)", |seen| seen.idle),
        sampled("age / hits (hyperbolic)", |seen| seen.age / seen.hits),
        sampled("age * size^1/4 / hits", |seen| {
            seen.age * seen.size.sqrt().sqrt() / seen.hits
        }),
        sampled("age * size / hits", |seen| seen.age * seen.size / seen.hits),
        sampled("idle / hits^1/2", |seen| seen.idle / seen.hits.sqrt()),
        sampled("idle / hits", |seen| seen.idle / seen.hits),
        sampled("idle * size^1/4 / hits^1/2", |seen| {
            seen.idle * seen.size.sqrt().sqrt() / seen.hits.sqrt()
        }),
        sampled("idle * size^1/4 / hits", |seen| {
            seen.idle * seen.size.sqrt().sqrt() / seen.hits
        }),
        sampled("idle * size^1/2 / hits^1/2", |seen| {
            seen.idle * (seen.size / seen.hits).sqrt()
        }),
        sampled("idle * size^1/2 / hits", |seen| {
            seen.idle * seen.size.sqrt() / seen.hits
        }),
        sampled("idle * size / hits^1/2", |seen| {
            seen.idle * seen.size / seen.hits.sqrt()
        }),
        sampled("idle * size / hits", |seen| seen.idle * seen.size / seen.hits),
        sampled("idle * size^1/3 / hits, halved/10k", |seen| decayed(seen, 10_000.0)),
        sampled("idle * size^1/3 / hits, halved/50k", |seen| decayed(seen, 50_000.0)),
        sampled("GDSF, sqrt(size)", |seen| -seen.value),
        drawn("idle * size^1/3 / hits^1/2, K = 8", Draw::of(8)),
        drawn("idle * size^1/3 / hits^1/2, K = 16", Draw::of(16)),
        drawn("idle * size^1/3 / hits^1/2, K = 32", Draw::of(32)),
        drawn("idle * size^1/3 / hits^1/2, K = 64", Draw::of(64)),
        drawn("  the same, K = 16 to 256 until filled", filled),
        drawn("  the same, K = 64, viewing = 30 hits", viewings),
    ]
}

fn chosen(seen: &Seen) -> f64 {
    seen.idle * seen.size.cbrt() / seen.hits.sqrt()
}

/// The hits are worth half after each half-life without use.
fn decayed(seen: &Seen, half_life: f64) -> f64 {
    seen.idle * seen.size.cbrt() / (1.0 + seen.hits * (-seen.idle / half_life).exp2())
}

/// What an object is worth at a use; the least is evicted. Never negative.
type Rank = fn(&Touch) -> f64;

struct Touch {
    now: f64,
    hits: f64,
    size: f64,
    /// The worth of what was evicted last: what is not used sinks against it.
    inflation: f64,
}

/// Evicts the least worth of all, which is determined at each use.
struct Exact {
    rank: Rank,
    capacity: u64,
    used: u64,
    inflation: f64,
    /// Worth, as bits: of numbers that are not negative they have the same order.
    order: BTreeSet<(u64, u32)>,
    held: Vec<Option<Ranked>>,
}

#[derive(Clone, Copy)]
struct Ranked {
    worth: u64,
    hits: u32,
    size: u64,
}

impl Exact {
    fn new(rank: Rank, capacity: u64, objects: usize) -> Self {
        Self {
            rank,
            capacity,
            used: 0,
            inflation: 0.0,
            order: BTreeSet::new(),
            held: vec![None; objects],
        }
    }

    fn make_room(&mut self, size: u64) {
        while self.used + size > self.capacity {
            let Some((worth, victim)) = self.order.pop_first() else {
                return;
            };
            self.inflation = f64::from_bits(worth);
            self.used -= self.held[victim as usize].take().map_or(0, |ranked| ranked.size);
        }
    }
}

impl Policy for Exact {
    fn request(&mut self, now: u64, id: u32, size: u64) -> bool {
        let before = self.held[id as usize];
        if let Some(ranked) = before {
            self.order.remove(&(ranked.worth, id));
        } else if size > self.capacity {
            return false;
        } else {
            self.make_room(size);
            self.used += size;
        }
        let hits = before.map_or(0, |ranked| ranked.hits) + 1;
        let worth = (self.rank)(&Touch {
            now: now as f64,
            hits: f64::from(hits),
            size: size as f64,
            inflation: self.inflation,
        });
        let worth = worth.to_bits();
        self.order.insert((worth, id));
        self.held[id as usize] = Some(Ranked { worth, hits, size });
        before.is_some()
    }
}

/// How readily an object is evicted; the greatest of a draw goes.
type Score = fn(&Seen) -> f64;

struct Seen {
    size: f64,
    /// Requests since it was admitted; at least 1.
    age: f64,
    /// Requests since it was last used; at least 1.
    idle: f64,
    /// Uses, with that which admitted it; at least 1.
    hits: f64,
    /// What GDSF stored at the last use.
    value: f64,
}

#[derive(Clone, Copy)]
struct Draw {
    at_least: usize,
    /// Up to here it goes on, until it holds four times the bytes wanted.
    at_most: usize,
    /// A large object is read in pieces, and each counts.
    hits_per_viewing: u32,
}

impl Draw {
    const fn of(k: usize) -> Self {
        Self {
            at_least: k,
            at_most: k,
            hits_per_viewing: 1,
        }
    }
}

/// Evicts the worst of a few that are drawn at random.
struct Sampled {
    draw: Draw,
    score: Score,
    capacity: u64,
    used: u64,
    /// GDSF's clock: the greatest value evicted so far.
    inflation: f64,
    entries: Vec<Entry>,
    /// Where in `entries` an object is.
    places: Vec<Option<u32>>,
    random: Random,
}

#[derive(Clone, Copy)]
struct Entry {
    id: u32,
    hits: u32,
    size: u64,
    created: u64,
    last_used: u64,
    value: f64,
}

impl Entry {
    fn touch(&mut self, now: u64, hits: u32, inflation: f64) {
        self.hits = self.hits.saturating_add(hits);
        self.last_used = now;
        self.value = inflation + f64::from(self.hits) / (self.size as f64).sqrt();
    }

    fn seen(&self, now: u64) -> Seen {
        Seen {
            size: self.size as f64,
            age: (now - self.created) as f64,
            idle: (now - self.last_used) as f64,
            hits: f64::from(self.hits),
            value: self.value,
        }
    }
}

impl Sampled {
    fn new(draw: Draw, score: Score, capacity: u64, objects: usize) -> Self {
        Self {
            draw,
            score,
            capacity,
            used: 0,
            inflation: 0.0,
            entries: Vec::new(),
            places: vec![None; objects],
            random: Random(99),
        }
    }

    /// The worst of one draw, as a place in `entries`, which is not empty. Objects may be drawn twice.
    fn victim(&mut self, now: u64, wanted_bytes: u64) -> usize {
        let (mut worst, mut worst_score) = (0, f64::NEG_INFINITY);
        let (mut drawn, mut drawn_bytes) = (0, 0);
        while drawn < self.draw.at_least || (drawn < self.draw.at_most && drawn_bytes < 4 * wanted_bytes) {
            let place = self.random.below(self.entries.len());
            let entry = &self.entries[place];
            let score = (self.score)(&entry.seen(now));
            if score > worst_score {
                (worst, worst_score) = (place, score);
            }
            drawn += 1;
            drawn_bytes += entry.size;
        }
        worst
    }

    fn evict(&mut self, place: usize) {
        let victim = self.entries.swap_remove(place);
        self.places[victim.id as usize] = None;
        if let Some(moved) = self.entries.get(place) {
            self.places[moved.id as usize] = Some(place as u32);
        }
        self.used -= victim.size;
        self.inflation = self.inflation.max(victim.value);
    }
}

impl Policy for Sampled {
    fn request(&mut self, now: u64, id: u32, size: u64) -> bool {
        let is_large = size as f64 >= LARGE_BYTES;
        let hits = if is_large { self.draw.hits_per_viewing } else { 1 };
        if let Some(place) = self.places[id as usize] {
            self.entries[place as usize].touch(now, hits, self.inflation);
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.used + size > self.capacity {
            let victim = self.victim(now, self.used + size - self.capacity);
            self.evict(victim);
        }
        let mut entry = Entry {
            id,
            hits: 0,
            size,
            created: now,
            last_used: now,
            value: 0.0,
        };
        entry.touch(now, hits, self.inflation);
        self.used += size;
        self.places[id as usize] = Some(self.entries.len() as u32);
        self.entries.push(entry);
        false
    }
}

/// S3-FIFO, with its queues measured in bytes: a tenth on probation, a main queue with second chances, a
/// memory of what left probation, as long as the main queue.
struct S3Fifo {
    capacity: u64,
    probation: Queue,
    main: Queue,
    /// Those who came back wait here for their turn and are then passed over.
    ghosts: Queue,
    states: Vec<Stage>,
    /// Uses while held, up to 3.
    uses: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Unknown,
    Held,
    Ghost,
}

#[derive(Default)]
struct Queue {
    objects: VecDeque<(u32, u64)>,
    bytes: u64,
}

impl Queue {
    fn push(&mut self, id: u32, size: u64) {
        self.objects.push_back((id, size));
        self.bytes += size;
    }

    fn pop(&mut self) -> Option<(u32, u64)> {
        let (id, size) = self.objects.pop_front()?;
        self.bytes -= size;
        Some((id, size))
    }
}

impl S3Fifo {
    fn new(capacity: u64, objects: usize) -> Self {
        Self {
            capacity,
            probation: Queue::default(),
            main: Queue::default(),
            ghosts: Queue::default(),
            states: vec![Stage::Unknown; objects],
            uses: vec![0; objects],
        }
    }

    fn evict(&mut self) {
        let from_probation = self.probation.bytes > self.capacity / 10 || self.main.objects.is_empty();
        if !(from_probation && self.end_probation()) {
            self.evict_main();
        }
    }

    /// Whether an object was evicted; else all were promoted.
    fn end_probation(&mut self) -> bool {
        while let Some((id, size)) = self.probation.pop() {
            if self.uses[id as usize] < 2 {
                self.states[id as usize] = Stage::Ghost;
                self.ghosts.push(id, size);
                self.forget_ghosts();
                return true;
            }
            self.uses[id as usize] = 0;
            self.main.push(id, size);
        }
        false
    }

    fn evict_main(&mut self) {
        while let Some((id, size)) = self.main.pop() {
            let uses = &mut self.uses[id as usize];
            if *uses == 0 {
                self.states[id as usize] = Stage::Unknown;
                return;
            }
            *uses -= 1;
            self.main.push(id, size);
        }
    }

    fn forget_ghosts(&mut self) {
        while self.ghosts.bytes > self.capacity / 10 * 9 {
            let Some((id, _)) = self.ghosts.pop() else {
                return;
            };
            if self.states[id as usize] == Stage::Ghost {
                self.states[id as usize] = Stage::Unknown;
            }
        }
    }
}

impl Policy for S3Fifo {
    fn request(&mut self, _now: u64, id: u32, size: u64) -> bool {
        let at = id as usize;
        if self.states[at] == Stage::Held {
            self.uses[at] = (self.uses[at] + 1).min(3);
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.probation.bytes + self.main.bytes + size > self.capacity {
            self.evict();
        }
        // Making room may have forgotten this very ghost.
        let queue = match self.states[at] {
            Stage::Ghost => &mut self.main,
            Stage::Unknown | Stage::Held => &mut self.probation,
        };
        queue.push(id, size);
        self.states[at] = Stage::Held;
        self.uses[at] = 0;
        false
    }
}

struct Trace {
    name: &'static str,
    requests: Vec<u32>,
    /// By identity; those past the catalogue are born, or scanned, later.
    sizes: Vec<u64>,
    /// The bytes of the catalogue.
    live_bytes: f64,
}

impl Trace {
    fn all(scale: f64) -> Vec<Self> {
        let scaled = |count: usize| ((count as f64 * scale) as usize).max(100);
        let (objects, requests, epoch) = (scaled(OBJECTS), scaled(REQUESTS), scaled(EPOCH_REQUESTS));
        let mut random = Random(7);
        let sizes: Vec<u64> = (0..objects * 3).map(|_| random.size()).collect();
        let live_bytes = sizes[..objects].iter().map(|size| *size as f64).sum();
        [
            ("zipf 0.7", zipf(0.7, objects, requests, Random(1))),
            ("zipf 0.9", zipf(0.9, objects, requests, Random(2))),
            ("zipf 1.1", zipf(1.1, objects, requests, Random(3))),
            ("scan", scan(objects, requests, Random(4))),
            ("drift", drift(objects, requests, epoch, Random(5))),
            ("releases", releases(objects, requests, Random(6))),
        ]
        .into_iter()
        .map(|(name, requests)| Self {
            name,
            requests,
            sizes: sizes.clone(),
            live_bytes,
        })
        .collect()
    }

    fn replay(&self, policy: &mut dyn Policy) -> Ratios {
        let warm_up = self.requests.len() / 5;
        let (mut asked, mut held) = ((0, 0), (0, 0));
        for (at, &id) in self.requests.iter().enumerate() {
            let size = self.sizes[id as usize];
            let is_hit = policy.request(at as u64 + 1, id, size);
            if at < warm_up {
                continue;
            }
            asked = (asked.0 + 1, asked.1 + size);
            if is_hit {
                held = (held.0 + 1, held.1 + size);
            }
        }
        Ratios {
            objects: f64::from(held.0) / f64::from(asked.0),
            bytes: held.1 as f64 / asked.1 as f64,
        }
    }
}

fn zipf(exponent: f64, objects: usize, requests: usize, mut random: Random) -> Vec<u32> {
    let ranks = Zipf::new(exponent, objects);
    (0..requests).map(|_| ranks.draw(&mut random) as u32).collect()
}

fn scan(objects: usize, requests: usize, random: Random) -> Vec<u32> {
    let mut before = zipf(0.9, objects, requests, random);
    let after = before.split_off(requests / 2);
    let once = (objects..objects + objects / 2).map(|id| id as u32);
    before.into_iter().chain(once).chain(after).collect()
}

fn drift(objects: usize, requests: usize, epoch: usize, mut random: Random) -> Vec<u32> {
    let ranks = Zipf::new(0.9, objects);
    let mut by_rank: Vec<u32> = (0..objects as u32).collect();
    let mut unborn = objects as u32..;
    (0..requests)
        .map(|at| {
            if at > 0 && at % epoch == 0 {
                by_rank
                    .iter_mut()
                    .take(objects / 10)
                    .zip(&mut unborn)
                    .for_each(|(old, new)| *old = new);
            }
            by_rank[ranks.draw(&mut random)]
        })
        .collect()
}

/// Three in ten requests go to the backlog, the others to new objects; one is born every ten requests.
///
/// The age of what is asked for, in births, has a Pareto tail; some objects are liked better than others.
fn releases(objects: usize, requests: usize, mut random: Random) -> Vec<u32> {
    let backlog = Zipf::new(0.8, objects);
    let births = objects as f64 / requests as f64;
    let youth = objects as f64 / 150.0;
    let liking: Vec<f64> = (0..=objects).map(|_| random.unit().powi(3)).collect();
    (0..requests)
        .map(|at| {
            if random.unit() < 0.3 {
                return backlog.draw(&mut random) as u32;
            }
            let newest = (at as f64 * births) as usize;
            loop {
                let age = youth * ((1.0 - random.unit()).powf(-1.0 / 1.2) - 1.0);
                let liked = newest
                    .checked_sub(age as usize)
                    .filter(|born| random.unit() < liking[*born]);
                if let Some(born) = liked {
                    return (objects + born) as u32;
                }
            }
        })
        .collect()
}

/// Ranks from 0, each as likely as `(rank + 1)^-exponent`: the running sum.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(exponent: f64, ranks: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-exponent));
        let running = weights.map(|weight| {
            sum += weight;
            sum
        });
        Self(running.collect())
    }

    fn draw(&self, random: &mut Random) -> usize {
        let last = self.0.len() - 1;
        let point = random.unit() * self.0[last];
        self.0.partition_point(|sum| *sum <= point).min(last)
    }
}

/// splitmix64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, less than 1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Mean 0, variance 1: Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// The size of an object, in bytes. What falls outside the bounds is drawn again.
    fn size(&mut self) -> u64 {
        let (median, sigma, bounds) = if self.unit() < 0.7 {
            (64.0 * KIB, 1.8, KIB..=4.0 * MIB)
        } else {
            (700.0 * MIB, 1.0, LARGE_BYTES..=8.0 * GIB)
        };
        loop {
            let size = median * (sigma * self.normal()).exp();
            if bounds.contains(&size) {
                return size as u64;
            }
        }
    }
}
