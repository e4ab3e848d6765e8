//! Fills under load, each row against its target: what the upstream is asked for, how soon readers have it.
//!
//! `cargo bench --bench fills -- NAME` measures the rows whose names contain NAME. A line tells name,
//! figure, target and whether it holds; the exit code is 1 where one is missed. A wrong byte panics.
//!
//! ```text
//! storm          50 readers x 4 seeks of 1 MiB in 256 MiB: the upstream sends each byte once
//! storm-limited  the same behind a link of 20 MB/s: it is never idle and carries nothing twice
//! followers      16 readers join 31 MB that fill in 1 s or 3 s: what arrives is passed on at once
//! slow-first     a reader at 50 KB/s came first: the second is as fast as with the upstream itself
//! far-seek       256 KiB at 80 % of 200 MB that fill at 10 MB/s: asked for, not waited for
//! ```
//!
//! The upstream counts what the kernel took from it, so bytes lost in socket buffers count as sent.
//! Upstream, server and readers share a process and its cores: times are those of a busy machine.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests' own; this program uses a part")]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::upstream::Seen;
use support::{Client, Film, Pond, eventually, get};

/// What the upstream sends in one go, in bytes.
const PIECE_BYTES: usize = 16 << 10;

/// Sending and arrival are timed each time that this much of a body has passed, in bytes.
const MARK_BYTES: usize = 64 << 10;

/// The path of a small object that warms a server up.
const WARM_UP: &str = "/warm-up";
const WARM_UP_BYTES: usize = 1024;

const STORM: &str = "/storm";
const STORM_BYTES: usize = 256 << 20;
const STORM_READERS: usize = 50;
const SEEKS_PER_READER: usize = 4;
const SEEK_BYTES: usize = 1 << 20;
const FILM: &str = "/film";
const FILM_BYTES: usize = 31_000_000;
const FAR_BYTES: usize = 200_000_000;
const REPETITIONS: usize = 5;

/// Every object is a beginning of this.
static BODY: LazyLock<Vec<u8>> = LazyLock::new(|| Film::new(STORM_BYTES as u64).bytes(0, STORM_BYTES as u64));

type Row = (&'static str, fn(&mut Report));

const ROWS: [Row; 5] = [
    ("storm", storm_unlimited),
    ("storm-limited", storm_limited),
    ("followers", followers),
    ("slow-first", slow_first),
    ("far-seek", far_seek),
];

fn main() -> ExitCode {
    // Cargo passes flags of its own to benches.
    let words = std::env::args().skip(1);
    let names: Vec<String> = words.filter(|word| !word.starts_with("--")).collect();
    let mut report = Report { missed: false };
    for (name, measure) in ROWS {
        if names.is_empty() || names.iter().any(|part| name.contains(part.as_str())) {
            measure(&mut report);
        }
    }
    ExitCode::from(u8::from(report.missed))
}

struct Report {
    missed: bool,
}

impl Report {
    /// One line: what was measured, and the most that it may be.
    fn row(&mut self, name: &str, figure: f64, most: f64, note: &str) {
        // No number, where nothing was measured, holds nothing.
        let holds = figure <= most;
        self.missed |= !holds;
        let verdict = if holds { "holds" } else { "MISSED" };
        let line = format!("{name:<42} {figure:>8.3}  target ≤ {most:<5}  {verdict:<6}  {note}\n");
        std::io::stdout().write_all(line.as_bytes()).expect("written");
    }
}

// --- rows ----------------------------------------------------------------------------------

fn storm_unlimited(report: &mut Report) {
    let upstream = Upstream::start(STORM_BYTES, Limit::Connection(f64::INFINITY));
    let pond = warm_pond(&upstream);
    storm(report, "storm", &upstream, &pond);
    eventually("a complete object", || {
        pause(Duration::from_millis(20));
        let list = get(pond.address(), "/-/api/v1/objects").json();
        let objects = list["objects"].as_array().expect("a list");
        objects.iter().any(|object| object["present_bytes"] == STORM_BYTES)
    });
    let sent = upstream.sent(STORM);
    let ratio = total(&sent) as f64 / STORM_BYTES as f64;
    let note = format!("{} upstream requests", sent.len());
    report.row("storm: sent / object, when complete", ratio, 1.001, &note);
}

fn storm_limited(report: &mut Report) {
    const BYTES_PER_SECOND: f64 = 20e6;
    let upstream = Upstream::start(STORM_BYTES, Limit::Shared(Link::new(BYTES_PER_SECOND)));
    let pond = warm_pond(&upstream);
    let (seconds, wanted_bytes) = storm(report, "storm-limited", &upstream, &pond);
    let least = wanted_bytes as f64 / BYTES_PER_SECOND;
    let note = format!("{seconds:.2} s, at least {least:.2} s");
    report.row("storm-limited: time / least", seconds / least, 1.05, &note);
}

/// Returns the seconds until all were answered, and how many bytes they wanted, each counted once.
fn storm(report: &mut Report, name: &str, upstream: &Upstream, pond: &Pond) -> (f64, usize) {
    let wanted: Vec<Range<usize>> = random(2)
        .map(|word| word as usize % (STORM_BYTES - SEEK_BYTES))
        .map(|start| start..start + SEEK_BYTES)
        .take(STORM_READERS * SEEKS_PER_READER)
        .collect();
    let (gate, address) = (Barrier::new(STORM_READERS), pond.address());
    let reader = |seeks: &[Range<usize>]| {
        let mut client = Client::connect(address);
        gate.wait();
        let begun = Instant::now();
        for seek in seeks {
            fetch(&mut client, STORM, seek.clone(), STORM_BYTES);
        }
        // Looked at now, not when all have been joined: by then the fill goes on with the rest.
        (Instant::now(), begun, upstream.sent(STORM))
    };
    let readers: Vec<_> = thread::scope(|scope| {
        let seeks = wanted.chunks(SEEKS_PER_READER);
        let threads: Vec<_> = seeks.map(|seeks| scope.spawn(move || reader(seeks))).collect();
        threads.into_iter().map(joined).collect()
    });
    let begun = readers.iter().map(|(_, begun, _)| *begun).min().expect("readers");
    let last = readers.iter().max_by_key(|(answered, ..)| *answered);
    let (answered, _, sent) = last.expect("readers");
    let wanted_bytes = distinct(&wanted);
    let again = (total(sent) - distinct(sent)) as f64 / 1e6;
    let unwanted = (distinct(&[&wanted[..], &sent[..]].concat()) - wanted_bytes) as f64 / 1e6;
    let note = format!(
        "{:.1} MB wanted; {} upstream requests; {again:.2} MB sent again, {unwanted:.2} MB that nobody wanted",
        wanted_bytes as f64 / 1e6,
        sent.len()
    );
    let ratio = total(sent) as f64 / wanted_bytes as f64;
    report.row(&format!("{name}: sent / wanted"), ratio, 1.02, &note);
    ((*answered - begun).as_secs_f64(), wanted_bytes)
}

fn followers(report: &mut Report) {
    /// After this a follower has caught up with what was there before it came.
    const CATCH_UP: Duration = Duration::from_millis(200);
    /// Fills of each length: with 16 followers each, enough that a 99th percentile is not the maximum.
    const FILLS: usize = 13;
    for seconds in [1.0, 3.0] {
        let (mut joining, mut all, mut first, mut requests) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..FILLS {
            let upstream = Upstream::start(FILM_BYTES, Limit::Connection(FILM_BYTES as f64 / seconds));
            let pond = warm_pond(&upstream);
            let arrivals = follow(pond.address(), seconds);
            let sent = upstream.marks(FILM);
            for arrival in &arrivals {
                let pieces = sent.iter().zip(&arrival.passed[1..]);
                let late: Vec<f64> = pieces
                    .filter(|(sent, _)| **sent >= arrival.asked + CATCH_UP)
                    .map(|(sent, got)| ms(got.saturating_duration_since(*sent)))
                    .collect();
                first.extend(late.first().copied());
                all.extend(late);
            }
            joining.extend(arrivals.iter().map(Arrival::first_byte_ms));
            requests = requests.max(upstream.sent(FILM).len());
        }
        let name = |what: &str| format!("followers, {seconds} s: {what}");
        let shares = |of: &[f64]| [0.5, 0.99, 1.0].map(|share| quantile(of, share));
        let [p50, p99, most] = shares(&joining);
        let note = format!("p50 {p50:.3}, most {most:.3}, of {} followers", joining.len());
        report.row(&name("first byte, p99 ms"), p99, 2.0, &note);
        // How soon each has what the upstream has just sent: with a reader's share of two cores in it.
        let [[p50, p99, _], [all_p50, all_p99, _]] = [shares(&first), shares(&all)];
        let note = format!("p99 {p99:.3}; of all pieces p50 {all_p50:.3}, p99 {all_p99:.3}");
        report.row(&name("arrival, p50 ms"), p50, 2.0, &note);
        report.row(&name("upstream requests"), requests as f64, 1.0, "");
    }
}

/// One reader begins a fill that lasts so long; the followers come in its first 60 %.
fn follow(address: SocketAddr, seconds: f64) -> Vec<Arrival> {
    const FOLLOWERS: u32 = 16;
    let begin = Instant::now();
    let read = |share: f64| {
        pause_until(begin + Duration::from_secs_f64(seconds * share));
        fetch(&mut Client::connect(address), FILM, 0..FILM_BYTES, FILM_BYTES)
    };
    thread::scope(|scope| {
        let opener = scope.spawn(move || read(0.0));
        let shares = (1..=FOLLOWERS).map(|n| 0.6 * f64::from(n) / f64::from(FOLLOWERS));
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || read(share))).collect();
        joined(opener);
        threads.into_iter().map(joined).collect()
    })
}

fn slow_first(report: &mut Report) {
    let upstream = Upstream::start(FILM_BYTES, Limit::Connection(100e6));
    let pond = warm_pond(&upstream);
    let whole = |address, path: &str| {
        let arrival = fetch(&mut Client::connect(address), path, 0..FILM_BYTES, FILM_BYTES);
        arrival.passed.last().map_or(f64::NAN, |last| ms(*last - arrival.asked))
    };
    let (mut second, mut direct) = (Vec::new(), Vec::new());
    for n in 0..REPETITIONS {
        let path = format!("/slow-first-{n}");
        let leave = read_along(pond.address(), &path, 50e3);
        pause(Duration::from_millis(200));
        second.push(whole(pond.address(), &path));
        leave();
        direct.push(whole(upstream.address, &format!("/direct-{n}")));
    }
    let (second, direct) = (quantile(&second, 0.5), quantile(&direct, 0.5));
    let note = format!("medians: {second:.0} ms, directly {direct:.0} ms");
    report.row("slow-first: second reader / direct", second / direct, 1.2, &note);
}

fn far_seek(report: &mut Report) {
    const START: usize = FAR_BYTES / 5 * 4;
    let upstream = Upstream::start(FAR_BYTES, Limit::Connection(10e6));
    let seek = |address, path: &str| {
        let wanted = START..START + (256 << 10);
        fetch(&mut Client::connect(address), path, wanted, FAR_BYTES).first_byte_ms()
    };
    let (mut through, mut direct) = (Vec::new(), Vec::new());
    for n in 0..REPETITIONS {
        // A server each: in one, the fill of the object before would go on beside this one's.
        let pond = warm_pond(&upstream);
        let path = format!("/far-seek-{n}");
        let leave = read_along(pond.address(), &path, f64::INFINITY);
        pause(Duration::from_secs(1));
        through.push(seek(pond.address(), &path));
        leave();
        direct.push(seek(upstream.address, &format!("/direct-{n}")));
    }
    let (most, direct) = (quantile(&through, 1.0), quantile(&direct, 0.5));
    let note = format!("max {most:.3}, directly {direct:.3}");
    report.row("far-seek: first byte, median ms", quantile(&through, 0.5), 5.0, &note);
}

/// A server in front of the upstream that has served once.
fn warm_pond(upstream: &Upstream) -> Pond {
    let url = format!("http://{}/", upstream.address);
    let pond = Pond::start(&[("upstream", url.as_str())]);
    get(pond.address(), WARM_UP).expect(200);
    pond
}

// --- readers -------------------------------------------------------------------------------

/// When an answer came.
struct Arrival {
    asked: Instant,
    /// The first byte of the body, then each [`MARK_BYTES`] of it, then what is left.
    passed: Vec<Instant>,
}

impl Arrival {
    fn first_byte_ms(&self) -> f64 {
        ms(self.passed[0] - self.asked)
    }
}

/// Fetches a part of an object of `len` bytes, or all of it, and checks every byte.
fn fetch(client: &mut Client, path: &str, wanted: Range<usize>, len: usize) -> Arrival {
    let range = format!("bytes={}-{}", wanted.start, wanted.end - 1);
    let headers = [("Range", range.as_str())];
    let ranged = wanted.len() < len;
    let asked = Instant::now();
    client.ask("GET", path, &headers[..usize::from(ranged)]);
    client.read_head();
    let status = if ranged { 206 } else { 200 };
    assert_eq!(client.status, status, "{path}: {:?}", client.headers);
    let (mut at, mut passed) = (wanted.start, Vec::new());
    while at < wanted.end {
        let end = wanted.end.min(wanted.start + (passed.len() * MARK_BYTES).max(1));
        let bytes = client.read(end - at);
        passed.push(Instant::now());
        assert!(bytes == BODY[at..end], "{path}: wrong bytes within {at}..{end}");
        at = end;
    }
    Arrival { asked, passed }
}

/// Reads an object from its start, unmeasured, until the returned order to leave is given.
fn read_along(address: SocketAddr, path: &str, bytes_per_second: f64) -> impl FnOnce() {
    let leaves = Arc::new(AtomicBool::new(false));
    let (told, begin) = (Arc::clone(&leaves), Instant::now());
    let mut client = Client::connect(address);
    client.ask("GET", path, &[]);
    let thread = thread::spawn(move || {
        client.read_head();
        let mut taken = 0;
        while !told.load(Ordering::Acquire) {
            taken += client.read(4 << 10).len();
            pause_until(begin + Duration::from_secs_f64(taken as f64 / bytes_per_second));
        }
    });
    move || {
        leaves.store(true, Ordering::Release);
        thread.join().expect("an uncut body");
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().expect("right bytes")
}

// --- the upstream --------------------------------------------------------------------------

/// How fast bodies are sent.
enum Limit {
    /// In bytes per second of each connection; infinity is no limit.
    Connection(f64),
    /// Over one link that all connections share.
    Shared(Arc<Link>),
}

/// A link carries one piece after the other, each for as long as its rate says.
struct Link {
    bytes_per_second: f64,
    free: Mutex<Instant>,
}

impl Link {
    fn new(bytes_per_second: f64) -> Arc<Self> {
        let free = Mutex::new(Instant::now());
        Arc::new(Self { bytes_per_second, free })
    }

    /// When a piece that is ready may leave, and when it has left.
    fn carry(&self, ready: Instant, bytes: usize) -> (Instant, Instant) {
        let mut free = self.free.lock().expect("whole");
        let leaves = ready.max(*free);
        *free = leaves + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        (leaves, *free)
    }
}

/// A request, as far as it was served.
struct Served {
    path: String,
    sent: Range<usize>,
    /// When each [`MARK_BYTES`] of it were about to have been written.
    marks: Vec<Instant>,
}

/// A file server with the same bytes under every path, each path with a strong tag of its own.
struct Upstream {
    address: SocketAddr,
    len: usize,
    limit: Limit,
    served: Mutex<Vec<Served>>,
}

impl Upstream {
    fn start(len: usize, limit: Limit) -> Arc<Self> {
        LazyLock::force(&BODY);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let upstream = Arc::new(Self {
            address: listener.local_addr().expect("bound"),
            len,
            limit,
            served: Mutex::default(),
        });
        let host = Arc::clone(&upstream);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let host = Arc::clone(&host);
                thread::spawn(move || host.converse(&stream));
            }
        });
        upstream
    }

    /// What was sent of the object under `path`: a range for each request.
    fn sent(&self, path: &str) -> Vec<Range<usize>> {
        let served = self.served.lock().expect("whole");
        let of_path = served.iter().filter(|request| request.path == path);
        of_path.map(|request| request.sent.clone()).collect()
    }

    /// When the body of the first request for `path` was sent.
    fn marks(&self, path: &str) -> Vec<Instant> {
        let served = self.served.lock().expect("whole");
        let first = served.iter().find(|request| request.path == path);
        first.map(|request| request.marks.clone()).unwrap_or_default()
    }

    fn converse(&self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream);
        loop {
            let lines = (&mut reader).lines().map_while(Result::ok);
            let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let Some(target) = lines.first().and_then(|line| line.split(' ').nth(1)) else {
                return;
            };
            let fields = lines.iter().filter_map(|line| line.split_once(": "));
            let headers = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let seen = Seen {
                method: "GET".to_owned(),
                body: Vec::new(),
                number: 0,
                target: target.to_owned(),
                headers: headers.collect(),
            };
            // A client that has gone is no failure of the upstream.
            if self.answer(stream, &seen).is_err() {
                return;
            }
        }
    }

    fn answer(&self, mut stream: &TcpStream, seen: &Seen) -> std::io::Result<()> {
        let path = &seen.target;
        let len = if path == WARM_UP { WARM_UP_BYTES } else { self.len };
        let etag = format!("\"{path}\"");
        let joins = seen.header("if-range").is_none_or(|tag| tag == etag);
        let range = seen.range(len as u64).filter(|(start, end)| joins && start < end);
        let (start, end) = range.map_or((0, len), |(start, end)| (start as usize, end as usize));
        let status = match range {
            Some(_) => format!("206 Part\r\nContent-Range: bytes {start}-{}/{len}", end - 1),
            None => "200 Whole".to_owned(),
        };
        let framing = format!("Accept-Ranges: bytes\r\nContent-Length: {}", end - start);
        let request = self.note(path, start);
        stream.write_all(format!("HTTP/1.1 {status}\r\nETag: {etag}\r\n{framing}\r\n\r\n").as_bytes())?;
        self.send(stream, request, start..end)
    }

    fn send(&self, mut stream: &TcpStream, request: usize, part: Range<usize>) -> std::io::Result<()> {
        let link = match &self.limit {
            // A connection serves one request at a time, so a link for each will do.
            Limit::Connection(rate) => Link::new(*rate),
            Limit::Shared(link) => Arc::clone(link),
        };
        let (mut at, mut ready) = (part.start, Instant::now());
        while at < part.end {
            let end = part.end.min(at + PIECE_BYTES);
            // A client that has gone takes up no more of the link.
            stream.take_error()?.map_or(Ok(()), Err)?;
            // The next piece is ready when this one has left, not when the thread wakes: each late waking
            // would make the link slower than it is said to be.
            let (leaves, left) = link.carry(ready, end - at);
            pause_until(leaves);
            ready = left;
            // Counted before: whoever has the bytes must find them counted.
            self.count(request, end);
            let begun = Instant::now();
            match stream.write(&BODY[at..end]) {
                Ok(count) => at += count,
                Err(error) => {
                    self.count(request, at);
                    return Err(error);
                }
            }
            // The client held it up: what the link could have carried meanwhile is lost.
            if begun.elapsed() > Duration::from_millis(5) {
                ready = Instant::now();
            }
        }
        Ok(())
    }

    fn note(&self, path: &str, start: usize) -> usize {
        let (path, sent, marks) = (path.to_owned(), start..start, Vec::new());
        let mut served = self.served.lock().expect("whole");
        served.push(Served { path, sent, marks });
        served.len() - 1
    }

    fn count(&self, request: usize, end: usize) {
        let mut served = self.served.lock().expect("whole");
        let Served { sent, marks, .. } = &mut served[request];
        sent.end = end;
        marks.resize(sent.len() / MARK_BYTES, Instant::now());
    }
}

// --- arithmetic ----------------------------------------------------------------------------

/// splitmix64.
fn random(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |n: u64| {
        let mut x = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

fn total(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(|range| range.len()).sum()
}

/// The bytes that are in any of the ranges, each counted once.
fn distinct(ranges: &[Range<usize>]) -> usize {
    let mut ranges = ranges.to_vec();
    ranges.sort_by_key(|range| range.start);
    let (mut bytes, mut end) = (0, 0);
    for range in ranges {
        bytes += range.end.saturating_sub(range.start.max(end));
        end = end.max(range.end);
    }
    bytes
}

/// The least figure that this share of them does not exceed; no number where there are none.
fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let rank = (figures.len() as f64 * share).ceil() as usize;
    figures.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn pause_until(when: Instant) {
    pause(when.saturating_duration_since(Instant::now()));
}

#[expect(clippy::disallowed_methods, reason = "slow lines and late readers are simulated")]
fn pause(time: Duration) {
    thread::sleep(time);
}
