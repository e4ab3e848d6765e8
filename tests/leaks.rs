//! Readers that leave and fills that fail leave no descriptor, thread or memory behind.
//!
//! Seen from outside, on the real program, whose descriptors, threads and memory are its own. The program is
//! warmed up first, so that whatever it keeps for good is there when the figures are noted.
//! `MILLPOND_LEAKS_SCALE` multiplies the counts.

use crate::cli::Program;
use crate::support::upstream::Conn;
use crate::support::{Client, Film, Upstream, Valve, eventually, get, get_range};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tempfile::TempDir;

const FILMS: u64 = 4;

/// Readers begin at so many places, so far apart that no session comes from one to the next.
const PLACES: u64 = 64;
const SPACING: u64 = 4 << 20;

const CLIENTS: usize = 16;
const UPSTREAM_BYTES_PER_SECOND: u64 = 256 << 10;

const SETTINGS: [(&str, &str); 5] = [
    ("after_last_reader", "stop"),
    ("hold_limit", "1s"),
    ("header_wait", "200ms"),
    ("reply_timeout", "1s"),
    ("workers", "2"),
];

/// The real program with its settings as variables, since some have no flag. Its log is `log` in `dir`.
pub(crate) fn start(dir: &Path, listen: &str, upstream: &Upstream, settings: &[(&str, &str)]) -> Program {
    let log = dir.join("log");
    let stderr = OpenOptions::new().create(true).append(true).open(&log);
    let (url, data) = (upstream.url(), dir.join("data").display().to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("serve").stdout(Stdio::piped());
    command.stderr(stderr.expect("a log"));
    // Variables that steer the tests would be settings that the program does not know.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MILLPOND_")) {
        command.env_remove(name);
    }
    let (listen, upstream, data) = (("listen", listen), ("upstream", &*url), ("data", &*data));
    for (key, value) in [listen, upstream, data, ("log", "error")].iter().chain(settings) {
        command.env(format!("MILLPOND_{}", key.to_uppercase()), value);
    }
    let mut child = command.spawn().expect("started");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let address = line.trim_end().strip_prefix("listening on http://");
    let Some(address) = address.and_then(|address| address.parse().ok()) else {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        panic!("not the line that was promised: {line:?}\n{log}");
    };
    Program { child, address }
}

/// A port that the system gives to nobody: while the server is down none can take it, and no client can
/// be given it as its own and so connect to itself.
pub(crate) fn port_of_our_own() -> SocketAddr {
    let first = 15_000 + (std::process::id() % 10_000) as u16;
    (first..first + 5_000)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a free port")
}

/// Descriptors, threads and memory of a process, as the system tells them.
#[derive(Debug)]
struct Figures {
    descriptors: usize,
    threads: usize,
    /// Memory of its own, without the pages of files.
    anonymous_kb: usize,
}

impl Figures {
    fn of(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.expect("a number")
        };
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
        Self {
            descriptors: descriptors.count(),
            threads: field("Threads:"),
            anonymous_kb: field("RssAnon:"),
        }
    }
}

fn fills(address: SocketAddr) -> u64 {
    let text = get(address, "/-/metrics").text();
    let gauge = text.lines().find_map(|line| line.strip_prefix("millpond_fills "));
    gauge.and_then(|count| count.parse().ok()).expect("the gauge")
}

/// Fails the fill, each number in another way than its neighbours.
fn refuse(number: u64, conn: &mut Conn) {
    // Closed after the answer: connections that are kept for the next request would blur the count.
    let head = [("Content-Length", "0".to_owned()), ("Connection", "close".to_owned())];
    match number % 4 {
        0 => conn.head(404, &head),
        1 => conn.head(500, &head),
        2 => {}
        _ => return conn.reset(),
    }
    conn.close();
}

/// A reader that leaves: half of them have the header, the others do not wait for it, and one in sixteen
/// would get none.
fn abort(address: SocketAddr, number: u64) {
    // The upper bits of the product are as good as drawn.
    let place = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % PLACES;
    let range = format!("bytes={}-", place * SPACING);
    let target = match number % 16 {
        0 => "/silent/film".to_owned(),
        _ => format!("/film/{}", number % FILMS),
    };
    let mut client = Client::connect(address);
    client.ask("GET", &target, &[("Range", &range)]);
    if number % 16 >= 8 {
        client.read_head();
        assert_eq!(client.status, 206, "{:?}", client.headers);
    }
}

/// A fill that fails. After failures in a row the upstream may be left alone for a while: then it is
/// asked for again.
fn fail(address: SocketAddr, number: u64) {
    let target = format!("/gone/{number}");
    eventually(&target, || {
        let answer = get(address, &target);
        assert!(matches!(answer.status, 404 | 500 | 502..=504), "{answer:?}");
        answer.status != 503
    });
}

/// Calls with every number, from several threads.
fn each(numbers: Range<u64>, call: impl Fn(u64) + Sync) {
    let (next, end) = (AtomicU64::new(numbers.start), numbers.end);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                numbers.take_while(|number| *number < end).for_each(&call);
            });
        }
    });
}

#[test]
#[ignore = "a load of its own: scripts/check runs it by itself"]
fn ten_thousand_aborted_requests_and_a_thousand_failed_fills_leak_nothing() {
    let scale: f64 = std::env::var("MILLPOND_LEAKS_SCALE").map_or(1.0, |text| text.parse().expect("a number"));
    let scaled = |count: f64| (count * scale) as u64;
    let film = Film::new(PLACES * SPACING);
    let upstream = Upstream::start(Valve::open(), UPSTREAM_BYTES_PER_SECOND, move |seen, conn| {
        match seen.target.rsplit_once('/') {
            Some(("/gone", number)) => refuse(number.parse().expect("a number"), conn),
            Some(("/silent", _)) => conn.stall(),
            _ => conn.serve(&film, seen),
        }
    });
    let dir = TempDir::new().expect("a directory");
    let program = start(dir.path(), "127.0.0.1:0", &upstream, &SETTINGS);
    let (address, process) = (program.address, program.child.id());
    let begun = Instant::now();
    // From now on a reader of a film gets its header at once, or when it has waited for `header_wait`.
    for film in 0..FILMS {
        get_range(address, &format!("/film/{film}"), "bytes=0-99").expect(206);
    }
    // The allocator's heaps grow with the first thread of each that had much to do, and stay.
    each(0..scaled(3_000.0), |number| abort(address, number));
    each(0..scaled(300.0), |number| fail(address, number));
    eventually("the end of the first fills", || fills(address) == 0);
    let noted = Figures::of(process);
    each(0..scaled(10_000.0), |number| abort(address, number));
    each(scaled(300.0)..scaled(1_300.0), |number| fail(address, number));
    let loaded = Figures::of(process);
    eventually("the end of all fills", || fills(address) == 0);
    eventually(&format!("the descriptors of {noted:?}"), || {
        Figures::of(process).descriptors <= noted.descriptors + 16
    });
    // Threads for the disk retire when they have been idle for ten seconds.
    eventually(&format!("the threads of {noted:?}"), || {
        Figures::of(process).threads <= noted.threads + 8
    });
    let left = Figures::of(process);
    eprintln!(
        "noted {noted:?}, under load {loaded:?}, left {left:?}, in {:?}",
        begun.elapsed()
    );
    let bound = (noted.anonymous_kb + (16 << 10)).max(noted.anonymous_kb * 13 / 10);
    assert!(left.anonymous_kb <= bound, "{left:?} of {noted:?}");
    let asked = upstream.requests();
    let failed = asked.iter().filter(|seen| seen.target.starts_with("/gone/"));
    assert!(failed.count() as u64 >= scaled(1_300.0));
}
