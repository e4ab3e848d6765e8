//! Whether the store scales: the same measurements with few objects and with many, side by side.
//!
//! `cargo bench --bench objects -- 10000 100000 1000000` fills a data directory with so many objects of
//! 1 KiB through the library, then starts the real program on it, kills it and starts it again. One table
//! tells it; what each row would show if it were wrong:
//!
//! ```text
//! populate          objects a second fall as the catalog grows: something is sorted or scanned for each
//! ready after kill  a start looks at every object before it serves: the time grows with their number
//! counted           what a start owes is never done, or requests wait for it
//! memory            objects that nobody asks for are held in memory: bytes an object do not fall
//! hit, not open     a look-up grows with the catalog
//! miss, no room     an eviction looks at all objects: its cost over a miss with room is not flat
//! descriptors       objects stay open that nobody reads
//! ```
//!
//! *Ready* is the first answered hit: from the start of the process to the end of the body of an object
//! drawn at random. The first start finds all that the catalog wrote for so many objects since it was
//! made; those after a kill, what it wrote under load since the start before. The exit code is 1 where, with a million objects or more, that takes longer than
//! [`READY_WITHIN`], or an object costs more than [`BYTES_PER_OBJECT`] of anonymous memory; `--no-limits`
//! lets that pass. A wrong byte, a hit that asks the upstream or a miss that does not, panics.
//!
//! The data lies in memory (`/dev/shm`) where there is room, since syncing a million files on a disk
//! measures the disk; `--in DIR` names another place. There, where the page cache may be dropped, the
//! start is measured from a cold disk too. `--keep` leaves the data for a closer look. A million objects
//! take about 12 GB. Server, upstream and load share the cores: times are those of a busy machine.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests' own; this program uses a part")]
mod support;

use millpond::clock::SystemClock;
use millpond::header::Validators;
use millpond::key::ObjectKey;
use millpond::store::{Representation, Store, StoreSettings};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{Client, get};
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(3);
const BYTES_PER_OBJECT: f64 = 200.0;

/// The limits hold for so many objects and more: with few, what a process costs anyway hides the rest.
const LIMITS_FROM: usize = 1_000_000;

const DEFAULT_COUNTS: [usize; 2] = [10_000, 100_000];

/// Objects of the store whose memory is taken off: too few to weigh anything, and enough that not all can
/// stay open, so that the same code runs.
const BASE_COUNT: usize = 1000;

const BODY_BYTES: usize = 1024;

/// What an object may take in memory or on the disk, with its inodes, in bytes: for choosing the place.
const PLACE_PER_OBJECT: u64 = 13 << 10;

/// A file system in memory, where there is one; and the number by which the kernel knows its kind.
const MEMORY: &str = "/dev/shm";
const TMPFS: i64 = 0x0102_1994;

const THREADS: usize = 4;
const KILLS: usize = 3;
const CONNECTIONS: usize = 16;
const HITS: usize = 200_000;
const TIMED_HITS: usize = 20_000;
const MISSES: usize = 2000;

/// The load before a kill.
const LOAD: Duration = Duration::from_secs(2);

/// How far the quota is below what is used, in bytes: every new object then needs another's room.
const BELOW_USED: u64 = 256 << 10;

/// What a server logs when it knows how much is stored, after a kill.
const COUNTED: &str = "counted what is stored";

/// The longest that a count or an orderly stop may take.
const PATIENCE: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let upstream = Upstream::start();
    let base = {
        let place = Place::choose(&arguments, BASE_COUNT);
        populate(&place.dir, &upstream, BASE_COUNT);
        drop(Server::start(&place.dir, &upstream, &[]));
        let server = Server::start(&place.dir, &upstream, &[]);
        server.hit(&mut random(1), BASE_COUNT);
        server.memory(BASE_COUNT)
    };
    let mut columns = Vec::new();
    let mut missed = Vec::new();
    for count in &arguments.counts {
        let (column, broken) = measure(*count, &arguments, &upstream, &base);
        columns.push(column);
        missed.extend(broken);
    }
    print_table(&columns);
    for limit in &missed {
        say(&format!("MISSED  {limit}"));
    }
    ExitCode::from(u8::from(!missed.is_empty() && !arguments.no_limits))
}

/// What the command line says.
struct Arguments {
    counts: Vec<usize>,
    no_limits: bool,
    keep: bool,
    place: Option<PathBuf>,
}

impl Arguments {
    fn read() -> Self {
        let mut read = Self {
            counts: Vec::new(),
            no_limits: false,
            keep: false,
            place: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--no-limits" => read.no_limits = true,
                "--keep" => read.keep = true,
                "--in" => read.place = Some(words.next().expect("--in DIR").into()),
                // Cargo passes flags of its own to benches.
                flag if flag.starts_with("--") => {}
                count => read
                    .counts
                    .push(count.replace('_', "").parse().expect("a number of objects")),
            }
        }
        if read.counts.is_empty() {
            read.counts = DEFAULT_COUNTS.to_vec();
        }
        read
    }
}

// --- one number of objects -----------------------------------------------------------------

/// The figures of one number of objects by the names of their rows, and the limits that were missed.
type Column = Vec<(String, String)>;

#[expect(clippy::too_many_lines, reason = "the rows of one table, in their order")]
fn measure(count: usize, arguments: &Arguments, upstream: &Arc<Upstream>, base: &Memory) -> (Column, Vec<String>) {
    let place = Place::choose(arguments, count);
    note(&format!("{count} objects in {}", place.dir.display()));
    let mut column = vec![("objects".to_owned(), count.to_string())];
    let mut row = |name: &str, figure: String| {
        note(&format!("  {name}: {figure}"));
        column.push((name.to_owned(), figure));
    };
    row(
        "data in",
        if place.in_memory { "memory" } else { "files on disk" }.to_owned(),
    );

    let took = populate(&place.dir, upstream, count);
    row("populate, s", format!("{:.1}", took.as_secs_f64()));
    row(
        "populate, objects/s",
        format!("{:.0}", count as f64 / took.as_secs_f64()),
    );

    let asked = upstream.requests();
    let first = Server::start(&place.dir, upstream, &[]);
    let mut ready = vec![first.hit(&mut random(2), count)];
    row("ready, the catalog's whole log to be read, ms", ms(ready[0]));
    first.load(3, count);
    drop(first);
    let starts: Vec<Start> = (0..KILLS)
        .map(|n| Start::after_kill(&place.dir, upstream, n, count))
        .collect();
    let of = |time: fn(&Start) -> Duration| starts.iter().map(time).collect::<Vec<_>>();
    row(
        "listening after kill -9, ms, median / worst",
        median_and_worst(&of(|start| start.listening)),
    );
    row(
        "ready after kill -9, ms, median / worst",
        median_and_worst(&of(|start| start.ready)),
    );
    ready.extend(of(|start| start.ready));
    let early = starts.iter().filter(|start| start.before_count).count();
    row("first hit came before the count", format!("{early} of {KILLS}"));
    if let Some(cold) = cold_starts(&place, upstream, count) {
        row("the same from a cold disk, ms, median / worst", median_and_worst(&cold));
    }

    let server = Server::start(&place.dir, upstream, &[]);
    server.hit(&mut random(4), count);
    let memory = server.memory(count);
    row("counted after, s", format!("{:.1}", memory.counted_after.as_secs_f64()));
    let mut per_object: f64 = 0.0;
    for ((name, ours), (_, theirs)) in memory.figures().into_iter().zip(base.figures()) {
        let above = (ours as f64 - theirs as f64) / (count - BASE_COUNT) as f64;
        per_object = per_object.max(above);
        let figure = format!("{:.1} MB, {above:.0} B", ours as f64 / 1e6);
        row(
            &format!("memory {name}, and above that of {BASE_COUNT}, an object"),
            figure,
        );
    }

    let mut client = Client::connect(server.address);
    let times: Vec<Duration> = random(5)
        .map(|word| word as usize % count)
        .take(TIMED_HITS)
        .map(|number| fetch(&mut client, number, Story::Hit))
        .collect();
    row("hit, random, p50 / p99 ms", quantiles(&times));
    assert_eq!(upstream.requests(), asked, "a hit asked the upstream");

    let times = misses(&mut client, upstream, count);
    row("miss with room, p50 / p99 ms", quantiles(&times));
    row("descriptors open after that", server.descriptors().to_string());
    drop(client);
    let used = server.metric("millpond_stored_bytes");
    server.stop();

    let quota = used - BELOW_USED;
    let server = Server::start(&place.dir, upstream, &["--quota", &quota.to_string()]);
    eventually("room for the quota", || server.metric("millpond_stored_bytes") <= quota);
    let evicted = server.metric("millpond_evicted_total");
    let times = misses(&mut Client::connect(server.address), upstream, count + MISSES);
    row("miss with an eviction, p50 / p99 ms", quantiles(&times));
    let evicted = server.metric("millpond_evicted_total") - evicted;
    assert!(
        evicted > MISSES as u64 / 2,
        "{evicted} evictions made room for {MISSES} objects"
    );
    row(&format!("evicted for {MISSES} new ones"), evicted.to_string());

    (column, limits(count, &ready, per_object))
}

/// The limits that were missed.
fn limits(count: usize, ready: &[Duration], per_object: f64) -> Vec<String> {
    let mut missed = Vec::new();
    let worst = ready.iter().max().copied().unwrap_or_default();
    if count >= LIMITS_FROM && worst > READY_WITHIN {
        missed.push(format!(
            "{count} objects: ready after {} ms, limit {} ms",
            ms(worst),
            ms(READY_WITHIN)
        ));
    }
    if count >= LIMITS_FROM && per_object > BYTES_PER_OBJECT {
        missed.push(format!(
            "{count} objects: {per_object:.0} B of memory each, limit {BYTES_PER_OBJECT} B"
        ));
    }
    missed
}

/// Fetches so many new objects, one after the other.
fn misses(client: &mut Client, upstream: &Upstream, from: usize) -> Vec<Duration> {
    let asked = upstream.requests();
    let times = (from..from + MISSES)
        .map(|number| fetch(client, number, Story::Miss))
        .collect();
    assert_eq!(
        upstream.requests(),
        asked + MISSES as u64,
        "a miss asks the upstream once"
    );
    times
}

/// One start after a kill.
struct Start {
    listening: Duration,
    ready: Duration,
    /// The first hit was answered before all objects had been counted.
    before_count: bool,
}

impl Start {
    /// Starts, notes, loads and kills again.
    fn after_kill(dir: &Path, upstream: &Upstream, number: usize, count: usize) -> Self {
        let server = Server::start(dir, upstream, &[]);
        let ready = server.hit(&mut random(10 + number as u64), count);
        let before_count = server.counted_after().is_none_or(|counted| counted > ready);
        server.load(20 + number as u64, count);
        Self {
            listening: server.listening,
            ready,
            before_count,
        }
    }
}

/// Times until ready when the kernel holds nothing of the disk; `None` where that cannot be had.
fn cold_starts(place: &Place, upstream: &Upstream, count: usize) -> Option<Vec<Duration>> {
    if place.in_memory {
        return None;
    }
    let starts = (0..KILLS).map(|number| {
        fs::write("/proc/sys/vm/drop_caches", "3").ok()?;
        Some(Start::after_kill(&place.dir, upstream, 30 + number, count).ready)
    });
    starts.collect()
}

// --- the data ------------------------------------------------------------------------------

/// A data directory, which goes with this.
struct Place {
    dir: PathBuf,
    in_memory: bool,
    _temporary: Option<TempDir>,
}

impl Place {
    fn choose(arguments: &Arguments, count: usize) -> Self {
        let parent = match &arguments.place {
            Some(named) => named.clone(),
            None if has_room(Path::new(MEMORY), count) => MEMORY.into(),
            None => std::env::temp_dir(),
        };
        let mut builder = tempfile::Builder::new();
        let temporary = builder
            .prefix("millpond-objects-")
            .tempdir_in(&parent)
            .expect("a directory");
        let dir = temporary.path().to_owned();
        let temporary = if arguments.keep {
            note(&format!("kept: {}", temporary.keep().display()));
            None
        } else {
            Some(temporary)
        };
        let in_memory = rustix::fs::statfs(&dir).is_ok_and(|kind| kind.f_type == TMPFS);
        Self {
            dir,
            in_memory,
            _temporary: temporary,
        }
    }
}

/// Whether a file system in memory can take so many objects.
fn has_room(path: &Path, count: usize) -> bool {
    let needed = count as u64 * PLACE_PER_OBJECT;
    let memory = field(Path::new("/proc/meminfo"), "MemAvailable:").unwrap_or_default();
    let fits = |disk: rustix::fs::StatVfs| {
        let inodes = disk.f_files == 0 || disk.f_favail > 3 * count as u64;
        inodes && disk.f_bavail.saturating_mul(disk.f_frsize) > needed
    };
    memory > needed && rustix::fs::statvfs(path).is_ok_and(fits)
}

/// Makes so many complete objects with several threads, and closes the store in the orderly way.
fn populate(dir: &Path, upstream: &Upstream, count: usize) -> Duration {
    let begin = Instant::now();
    let settings = StoreSettings {
        dir: dir.to_owned(),
        quota: millpond::store::Quota::None,
        min_free_bytes: None,
    };
    let store = Store::open(&settings, Arc::new(SystemClock)).expect("an empty store");
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (store, next) = (&store, &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    make(store, upstream, number);
                }
            });
        }
    });
    store.flush().expect("written out");
    let ending = store.ending().expect("the first to ask");
    drop(store);
    // It yields nothing: it ends when the catalog is closed.
    let _ = ending.recv();
    begin.elapsed()
}

fn make(store: &Store, upstream: &Upstream, number: usize) {
    let representation = Representation {
        complete_length: Some(BODY_BYTES as u64),
        validators: Validators {
            etag: Some(etag(number)),
            ..Validators::default()
        },
        headers: FIELDS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ranges: true,
        ..Representation::default()
    };
    let created = store.create(&upstream.key(number), representation).expect("made");
    store.write(&created.object, 0, &[body(number)]).expect("room");
    created.object.sink().commit().expect("recorded");
}

/// Header fields of every object.
const FIELDS: [(&str, &str); 2] = [("content-type", "video/mp4"), ("cache-control", "max-age=86400")];

fn etag(number: usize) -> String {
    format!("\"{number}\"")
}

/// Each object tells its number.
fn body(number: usize) -> Vec<u8> {
    format!("{number:016}").repeat(BODY_BYTES / 16).into_bytes()
}

// --- the server ----------------------------------------------------------------------------

/// The real program, killed when this is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    spawned: Instant,
    /// From the start to the line that says where it listens.
    listening: Duration,
    /// When it had counted what is stored.
    counted: Arc<Mutex<Option<Instant>>>,
}

impl Server {
    fn start(dir: &Path, upstream: &Upstream, flags: &[&str]) -> Self {
        let url = upstream.url();
        let spawned = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_millpond"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--grace",
                "1s",
                "--upstream",
                &url,
                "--data",
            ])
            .arg(dir)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let counted = Arc::new(Mutex::new(None));
        let told = Arc::clone(&counted);
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains(COUNTED) {
                    *told.lock().expect("whole") = Some(Instant::now());
                } else if line.contains("ERROR") || line.contains("WARN") {
                    note(&line);
                }
            }
        });
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("a line");
        let listening = spawned.elapsed();
        let address = line
            .trim_end()
            .rsplit('/')
            .next()
            .and_then(|address| address.parse().ok());
        Self {
            child,
            address: address.expect("a line that says where it listens"),
            spawned,
            listening,
            counted,
        }
    }

    /// The time from the start to the end of a hit that is made now.
    fn hit(&self, dice: &mut impl Iterator<Item = u64>, count: usize) -> Duration {
        let number = dice.next().map_or(0, |word| word as usize % count);
        fetch(&mut Client::connect(self.address), number, Story::Hit);
        self.spawned.elapsed()
    }

    /// Random hits for a while.
    fn load(&self, seed: u64, count: usize) {
        let begin = Instant::now();
        self.hits(seed, count, |_| begin.elapsed() < LOAD);
    }

    /// Random hits over several connections, each while `goes_on` says so of the hits it has had.
    fn hits(&self, seed: u64, count: usize, goes_on: impl Fn(usize) -> bool + Sync) {
        thread::scope(|scope| {
            for connection in 0..CONNECTIONS as u64 {
                let goes_on = &goes_on;
                scope.spawn(move || {
                    let mut client = Client::connect(self.address);
                    let numbers = random(seed * 1000 + connection).map(|word| word as usize % count);
                    for (had, number) in numbers.enumerate() {
                        if !goes_on(had) {
                            return;
                        }
                        fetch(&mut client, number, Story::Hit);
                    }
                });
            }
        });
    }

    /// How long after the start all was counted; `None` while it is not.
    fn counted_after(&self) -> Option<Duration> {
        let counted = *self.counted.lock().expect("whole");
        counted.map(|counted| counted - self.spawned)
    }

    /// Anonymous memory as time goes by: now, while it counts, after that, and after many hits.
    fn memory(&self, count: usize) -> Memory {
        let started = self.anonymous_bytes();
        let mut counting = started;
        eventually("a count", || {
            counting = counting.max(self.anonymous_bytes());
            self.counted_after().is_some()
        });
        let counted = self.anonymous_bytes();
        self.hits(6, count, |had| had < HITS / CONNECTIONS);
        Memory {
            started,
            counting,
            counted,
            hit: self.anonymous_bytes(),
            counted_after: self.counted_after().unwrap_or_default(),
        }
    }

    fn anonymous_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        field(Path::new(&path), "RssAnon:").expect("a running process")
    }

    fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(path).expect("a running process").count()
    }

    fn metric(&self, name: &str) -> u64 {
        let text = get(self.address, "/-/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).expect("a metric")
    }

    /// Stops it in the orderly way.
    fn stop(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("sent");
        self.child.wait().expect("ended");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Anonymous memory of a server, in bytes.
struct Memory {
    started: u64,
    counting: u64,
    counted: u64,
    hit: u64,
    counted_after: Duration,
}

impl Memory {
    fn figures(&self) -> [(String, u64); 4] {
        [
            ("after the start".to_owned(), self.started),
            ("while counting, at most".to_owned(), self.counting),
            ("after the count".to_owned(), self.counted),
            (format!("after {HITS} hits"), self.hit),
        ]
    }
}

/// A figure in bytes out of a file of the kernel's that tells it in kB.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

// --- requests ------------------------------------------------------------------------------

/// What `Cache-Status` must say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Story {
    Hit,
    Miss,
}

/// Fetches an object, checks every byte of it and where it came from; returns how long that took.
fn fetch(client: &mut Client, number: usize, story: Story) -> Duration {
    let begin = Instant::now();
    client.ask("GET", &path_of(number), &[]);
    client.read_head();
    let bytes = client.read(BODY_BYTES);
    let took = begin.elapsed();
    let told = client.header("cache-status").unwrap_or_default();
    let hit = told.contains("; hit");
    assert!(
        client.status == 200 && hit == (story == Story::Hit),
        "{number}: {} {told}",
        client.status
    );
    assert!(bytes == body(number), "{number}: wrong bytes");
    took
}

fn path_of(number: usize) -> String {
    format!("/o/{number}")
}

/// A file server that has every object there can be, and counts how often it is asked.
struct Upstream {
    address: SocketAddr,
    requests: AtomicU64,
}

impl Upstream {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let upstream = Arc::new(Self {
            address: listener.local_addr().expect("bound"),
            requests: AtomicU64::new(0),
        });
        let host = Arc::clone(&upstream);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let host = Arc::clone(&host);
                // A server that was killed is no failure of the upstream.
                thread::spawn(move || host.converse(&stream));
            }
        });
        upstream
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn key(&self, number: usize) -> ObjectKey {
        let url = format!("http://{}{}", self.address, path_of(number));
        ObjectKey::of(&url::Url::parse(&url).expect("a URL"))
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Acquire)
    }

    fn converse(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        loop {
            let lines = reader.by_ref().lines().map_while(Result::ok);
            let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let target = lines.first().and_then(|line| line.split(' ').nth(1));
            let Some(number) = target.and_then(|target| target.strip_prefix("/o/")?.parse().ok()) else {
                return Ok(());
            };
            self.requests.fetch_add(1, Ordering::AcqRel);
            let fields: String = FIELDS
                .iter()
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect();
            let tag = etag(number);
            let head = format!("HTTP/1.1 200 Whole\r\nETag: {tag}\r\nContent-Length: {BODY_BYTES}\r\n{fields}\r\n");
            (&mut &*stream).write_all(&[head.as_bytes(), &body(number)].concat())?;
        }
    }
}

// --- arithmetic and print ------------------------------------------------------------------

/// splitmix64.
fn random(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |n: u64| {
        let mut x = seed
            .wrapping_mul(0xd1b5_4a32_d192_ed03)
            .wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

/// The least time that this share of them does not exceed.
fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (times.len() as f64 * share).ceil() as usize;
    times[rank.saturating_sub(1)]
}

fn quantiles(times: &[Duration]) -> String {
    let [half, most] = [0.5, 0.99].map(|share| quantile(times, share).as_secs_f64() * 1e3);
    format!("{half:.3} / {most:.3}")
}

fn median_and_worst(times: &[Duration]) -> String {
    format!("{} / {}", ms(quantile(times, 0.5)), ms(quantile(times, 1.0)))
}

fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process is waited for, which rings no bell"
)]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never came: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Rows by name, a column for each number of objects; what one has and another has not is left empty.
fn print_table(columns: &[Column]) {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in columns.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for name in names {
        let figures = columns.iter().map(|column| {
            let figure = column.iter().find(|(other, _)| other == name);
            format!(" {:>20}", figure.map_or("", |(_, figure)| figure))
        });
        say(&format!("{name:<66}{}", figures.collect::<String>()));
    }
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("written");
}

/// What is under way, for who waits for the table.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
