//! Chaos: readers that come and go, an upstream that fails in every way, a server that is killed.
//!
//! Whatever happens, an answer that comes to its end is right: its length, its `Content-Range`, and its
//! bytes, all of the one edition that its `ETag` names. One that is cut is right as far as it came.
//!
//! Everything random is drawn from one seed, which is printed. `MILLPOND_CHAOS_SEED` asks the same
//! questions and draws the same faults again, though threads still meet as they like;
//! `MILLPOND_CHAOS_SECONDS` is the time.

use crate::leaks::{port_of_our_own, start};
use crate::support::upstream::{Conn, Seen};
use crate::support::{Answer, Ended, Film, Upstream, Valve, eventually, get};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Of `/f0`, `/f1` and so on, the same in every edition: nothing but the tag tells two of them apart.
const LENGTHS: [u64; 4] = [3_000_017, 4_194_304, 5_000_000, 6_291_455];

/// The path stands above this in an edition's number, so that no two paths share their bytes.
const EDITIONS: u64 = 1 << 14;

/// Bytes that a wrong total adds. A wrong total is never too small: such a film could not be told from a shorter one.
const EXCESS: u64 = 4_099;

/// Half of the requests to the upstream are served well; the others draw one of these. `whole` is a 200 to
/// any request, `astray` a 206 that begins elsewhere, `total` one with a wrong total, `identity` a length beside
/// `Transfer-Encoding: identity` and a cut, `plain` a part that comes as 200, `unranged` a 406 or 403 to a range, `node` what is
/// right under a second node's tag.
const FAULTS: [&str; 38] = [
    "identity", "identity", "plain", "plain", "unranged", "unranged", "node", "node", "changed", "cut", "cut", "cut",
    "cut", "reset", "reset", "reset", "reset", "stall", "stall", "stall", "silent", "failing", "failing", "failing",
    "failing", "busy", "busy", "whole", "whole", "astray", "astray", "total", "total", "garbage", "garbage", "closed",
    "closed", "closed",
];

/// `fresh_for` is short, so that complete objects meet the upstream, and its faults, again and again.
const SETTINGS: [(&str, &str); 6] = [
    ("hold_limit", "2s"),
    ("header_wait", "1s"),
    ("reply_timeout", "1s"),
    ("read_idle_timeout", "300ms"),
    ("fresh_for", "300ms"),
    ("grace", "1s"),
];

const READERS: u64 = 64;
const UPSTREAM_BYTES_PER_SECOND: u64 = 12_000_000;

/// The longest that an answer may be silent.
const SILENCE: Duration = Duration::from_secs(20);

/// Streams of random numbers: one for each request to the upstream from 0 on, and these.
const READER_STREAMS: u64 = 1 << 40;
const KILL_STREAM: u64 = 1 << 41;

/// Numbers below the bound that each call names: splitmix64, the same for the same seed and stream.
fn dice(seed: u64, stream: u64) -> impl FnMut(u64) -> u64 {
    let mut state = mix(seed) ^ mix(!stream);
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(state) % below
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A reader's wish, as the upstream would see it.
fn wish(path: usize, range: Option<String>) -> Seen {
    Seen {
        method: String::from("GET"),
        body: Vec::new(),
        number: 0,
        target: format!("/f{path}"),
        headers: range.map(|range| ("Range".to_owned(), range)).into_iter().collect(),
    }
}

/// Both sides of the server.
struct Chaos {
    seed: u64,
    address: SocketAddr,
    /// No more faults, and no more readers.
    over: AtomicBool,
    editions: [AtomicU64; LENGTHS.len()],
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Chaos {
    fn count(&self, what: &'static str) {
        *self.counts.lock().expect("whole").entry(what).or_default() += 1;
    }

    /// The film as it is now.
    fn film(&self, path: usize) -> Film {
        let edition = self.editions[path].load(Ordering::Acquire) % EDITIONS;
        Film::edition(LENGTHS[path], path as u64 * EDITIONS + edition)
    }

    /// The upstream's script. It may lie about lengths and places, but its bytes are those of its tag.
    fn answer(&self, seen: &Seen, conn: &mut Conn) {
        let mut dice = dice(self.seed, seen.number as u64);
        let well = dice(2) == 0 || self.over.load(Ordering::Acquire);
        let fault = if well {
            "well"
        } else {
            FAULTS[dice(FAULTS.len() as u64) as usize]
        };
        self.count(fault);
        let path = path_of(&seen.target);
        self.editions[path].fetch_add(u64::from(fault == "changed"), Ordering::AcqRel);
        let film = self.film(path);
        let (len, asked) = (film.len, seen.range(film.len));
        let (start, end) = asked.unwrap_or((0, len));
        let broken_at = start + dice(end.saturating_sub(start).max(1));
        let elsewhere = (start + 1 + dice(len - 1)) % len;
        let empty = ("Content-Length", "0".to_owned());
        match fault {
            // 416, which no fault makes worse.
            _ if start >= end => return conn.serve(&film, seen),
            "cut" | "reset" | "stall" => send(conn, &film, asked, len, broken_at),
            "identity" => {
                let fields = [
                    ("ETag", film.etag.clone().expect("a tag")),
                    ("Transfer-Encoding", "identity".to_owned()),
                    ("Content-Length", len.to_string()),
                ];
                conn.head(200, &fields);
                conn.body(&film, 0, broken_at);
            }
            "plain" => {
                let fields = [
                    ("ETag", film.etag.clone().expect("a tag")),
                    ("Content-Length", (end - start).to_string()),
                    ("Content-Range", format!("bytes {start}-{}/{len}", end - 1)),
                ];
                conn.head(200, &fields);
                conn.body(&film, start, end);
            }
            "unranged" if asked.is_some() => conn.head([406, 403][dice(2) as usize], &[empty]),
            "node" => {
                // The second node has the bytes of the edition under a tag of its own.
                let other = film.clone().with_etag(Some(&format!("\"edition-{}-b\"", film.edition)));
                send(conn, &other, asked, len, end);
            }
            "failing" => conn.head([500, 502, 503][dice(3) as usize], &[empty]),
            "busy" => conn.head(429, &[("Retry-After", dice(2).to_string()), empty]),
            "whole" => send(conn, &film, None, len, len),
            "astray" => send(conn, &film, Some((elsewhere, len)), len, len),
            "total" => send(conn, &film, Some((start, end)), len + EXCESS, end),
            "garbage" => {
                conn.raw(b"\x16\x03\x01 what is this\r\n\r\n");
            }
            "silent" | "closed" => {}
            _ => conn.serve(&film, seen),
        }
        match fault {
            "cut" | "garbage" | "closed" | "identity" => conn.close(),
            "reset" => conn.reset(),
            "stall" | "silent" => conn.stall(),
            _ => {}
        }
    }

    /// Asks and checks; the edition, where the film came to its promised end.
    fn ask(&self, method: &str, wanted: &Seen, leaves_after: Option<u64>) -> Option<u64> {
        let answered = exchange(self.address, method, wanted, leaves_after);
        self.count(match &answered {
            Ok(Some(_)) => "right",
            Ok(None) => "left or turned away",
            Err(error) => match error.kind() {
                ErrorKind::Other => panic!("seed {}: {method} {wanted:?}: {error}", self.seed),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    panic!("seed {}: {method} {wanted:?}: silent for {SILENCE:?}", self.seed)
                }
                ErrorKind::ConnectionRefused => {
                    // The server is down: asking in a circle would only delay its start.
                    thread::park_timeout(Duration::from_millis(20));
                    "refused"
                }
                _ => "broken",
            },
        });
        answered.ok().flatten()
    }

    /// A reader: random requests in a row, many of them left before their answer has ended.
    fn read(&self, reader: u64, end: Instant) {
        let mut dice = dice(self.seed, READER_STREAMS + reader);
        while Instant::now() < end && !self.over.load(Ordering::Acquire) {
            let path = dice(LENGTHS.len() as u64) as usize;
            let (start, some) = (dice(LENGTHS[path]), 1 + dice(1 << 20));
            let (method, range) = match dice(16) {
                0 => ("HEAD", None),
                1 | 2 => ("GET", None),
                3..6 => ("GET", Some(format!("bytes={start}-"))),
                6..12 => ("GET", Some(format!("bytes={start}-{}", start + some))),
                12..15 => ("GET", Some(format!("bytes=-{some}"))),
                _ => ("GET", Some(format!("bytes={}-", LENGTHS[path] + dice(2 * EXCESS)))),
            };
            let leaves_after = (dice(4) == 0).then(|| dice(8) * some / 4);
            self.ask(method, &wish(path, range), leaves_after);
        }
    }

    /// The faults are over: every film comes to be served whole as it is now, and what is listed as
    /// complete is what the list says.
    fn settle(&self) {
        let whole = |path| self.ask("GET", &wish(path, None), None);
        for path in 0..LENGTHS.len() {
            let what = format!("seed {}: all of /f{path} as it is now", self.seed);
            eventually(&what, || whole(path) == Some(self.film(path).edition));
        }
        let list = get(self.address, "/-/api/v1/objects").json();
        let objects = list["objects"].as_array().expect("a list").iter();
        let complete: Vec<_> = objects.filter(|object| object["state"] == "complete").collect();
        assert_eq!(complete.len(), LENGTHS.len(), "seed {}: {list}", self.seed);
        for object in complete {
            let served = whole(path_of(object["url"].as_str().expect("a URL")));
            let listed = object["etag"].as_str().and_then(edition_of);
            assert!(served.is_some(), "seed {}: {object}", self.seed);
            assert_eq!(served, listed, "seed {}: {object}", self.seed);
        }
    }
}

/// Sends the head of a 206, or of a 200 where there is no part, and the body up to `stop`.
fn send(conn: &mut Conn, film: &Film, part: Option<(u64, u64)>, total: u64, stop: u64) {
    let (start, end) = part.unwrap_or((0, film.len));
    let mut fields = vec![
        ("ETag", film.etag.clone().expect("a tag")),
        ("Content-Length", (end - start).to_string()),
    ];
    fields.extend(part.map(|_| ("Content-Range", format!("bytes {start}-{}/{total}", end - 1))));
    conn.head(if part.is_some() { 206 } else { 200 }, &fields);
    conn.body(film, start, stop);
}

/// Asks, and checks what comes: the edition, where the film came as promised; `None`, where the reader
/// left when it had so many bytes (with 0, before the header) or was turned away.
///
/// What is wrong is an error of the kind `Other`, which sockets do not have.
fn exchange(address: SocketAddr, method: &str, wanted: &Seen, leaves_after: Option<u64>) -> Result<Option<u64>> {
    let mut wire = BufReader::new(TcpStream::connect(address)?);
    wire.get_ref().set_read_timeout(Some(SILENCE))?;
    let range = wanted.header("range").map(|range| format!("Range: {range}\r\n"));
    let (target, range) = (&wanted.target, range.unwrap_or_default());
    let text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{range}\r\n");
    wire.get_mut().write_all(text.as_bytes())?;
    if leaves_after == Some(0) {
        return Ok(None);
    }
    let head = read_head(&mut wire)?;
    let asked = wanted.range(LENGTHS[path_of(target)]);
    match (head.status, promised(&head, wanted)) {
        (200 | 206, Some((edition, start, end))) => {
            let stayed = method == "HEAD" || receive(&mut wire, edition, start, end, leaves_after)?;
            Ok(Some(edition).filter(|_| stayed))
        }
        (416, _) if asked.is_some_and(|(start, end)| start >= end) => Ok(None),
        // The upstream's own is passed on as it came; nothing that it does excuses one of ours.
        (500, _) if head.header("content-type") != Some("application/problem+json") => Ok(None),
        (403 | 406 | 429 | 502..=504, _) => Ok(None),
        _ => Err(Error::other(format!("not what was asked: {head:?}"))),
    }
}

fn read_head(wire: &mut impl BufRead) -> Result<Answer> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        wire.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            None => return Err(ErrorKind::UnexpectedEof.into()),
            Some([]) => break,
            Some(line) => lines.push(String::from_utf8_lossy(line).into_owned()),
        }
    }
    let status = lines.first().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3));
    let fields = lines.iter().filter_map(|line| line.split_once(": "));
    Ok(Answer {
        status: status.and_then(|status| status.parse().ok()).unwrap_or_default(),
        headers: fields.map(|(name, value)| (name.into(), value.into())).collect(),
        body: Vec::new(),
        ended: Ended::Cut,
    })
}

/// The edition that the tag names, and the part that the head promises, where that is what was asked: of
/// the film, or of the longer one that the upstream may have claimed to have.
fn promised(head: &Answer, wanted: &Seen) -> Option<(u64, u64, u64)> {
    let path = path_of(&wanted.target);
    let edition = head.header("etag").and_then(edition_of)?;
    [LENGTHS[path], LENGTHS[path] + EXCESS].into_iter().find_map(|total| {
        let asked = wanted.range(total);
        let (start, end) = asked.unwrap_or((0, total));
        let length = end.checked_sub(start)?.to_string();
        let content_range = asked.map(|_| format!("bytes {start}-{}/{total}", end - 1));
        let right = edition / EDITIONS == path as u64
            && (head.status == 206) == asked.is_some()
            && head.header("content-range") == content_range.as_deref()
            && head.header("content-length") == Some(length.as_str())
            && head.header("transfer-encoding").is_none();
        right.then_some((edition, start, end))
    })
}

/// Reads a body, checking its bytes as they come; `false` where the reader left before its end.
fn receive(wire: &mut BufReader<TcpStream>, edition: u64, start: u64, end: u64, leaves: Option<u64>) -> Result<bool> {
    let film = Film::edition(LENGTHS[(edition / EDITIONS) as usize], edition);
    let (mut at, mut piece) = (start, vec![0; 64 << 10]);
    while at < end {
        if leaves.is_some_and(|bytes| at >= start + bytes) {
            return Ok(false);
        }
        let room = (end - at).min(piece.len() as u64) as usize;
        let count = wire.read(&mut piece[..room])?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let due = film.bytes(at, film.len.min(at + count as u64));
        if due != piece[..count] {
            let same = due.iter().zip(&piece).take_while(|(due, came)| due == came);
            let first = at + same.count() as u64;
            let what = format!("the byte at {first} of {start}..{end} is not that of edition {edition}");
            return Err(Error::other(what));
        }
        at += count as u64;
    }
    match wire.buffer().len() {
        0 => Ok(true),
        more => Err(Error::other(format!("{more} bytes came after the last, at {end}"))),
    }
}

fn edition_of(etag: &str) -> Option<u64> {
    let name = etag.strip_prefix("\"edition-")?.strip_suffix('"')?;
    name.strip_suffix("-b").unwrap_or(name).parse().ok()
}

fn path_of(url: &str) -> usize {
    let path = url.rsplit_once("/f").and_then(|(_, path)| path.parse().ok());
    path.expect("a path of ours")
}

#[test]
#[ignore = "a minute of load: scripts/check runs it by itself"]
fn every_answer_that_ends_is_right_whatever_the_upstream_does() {
    let setting = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seconds = setting("MILLPOND_CHAOS_SECONDS").unwrap_or(60);
    let seed = setting("MILLPOND_CHAOS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0u8));
    eprintln!("MILLPOND_CHAOS_SEED={seed} MILLPOND_CHAOS_SECONDS={seconds}");
    let chaos = Arc::new(Chaos {
        seed,
        address: port_of_our_own(),
        over: AtomicBool::default(),
        editions: Default::default(),
        counts: Mutex::default(),
    });
    let script = Arc::clone(&chaos);
    let upstream = Upstream::start(Valve::open(), UPSTREAM_BYTES_PER_SECOND, move |seen, conn| {
        script.answer(seen, conn);
    });
    let (dir, listen) = (TempDir::new().expect("a directory"), chaos.address.to_string());
    let restart = || start(dir.path(), &listen, &upstream, &SETTINGS);
    let (chaos, mut dice) = (&*chaos, dice(seed, KILL_STREAM));
    let program = thread::scope(|scope| {
        let mut program = restart();
        let end = Instant::now() + Duration::from_secs(seconds);
        let reader = |reader| scope.spawn(move || chaos.read(reader, end));
        let readers: Vec<_> = (0..READERS).map(reader).collect();
        loop {
            let pause = Duration::from_millis(8_000 + dice(4_000));
            let left = end.saturating_duration_since(Instant::now());
            thread::park_timeout(pause.min(left));
            // A reader that is through before the time is over has found something wrong.
            if pause >= left || readers.iter().any(ScopedJoinHandle::is_finished) {
                break;
            }
            program.kill();
            program = restart();
            chaos.count("kills");
        }
        chaos.over.store(true, Ordering::Release);
        program
    });
    let counts = chaos.counts.lock().expect("whole").clone();
    eprintln!("seed {seed}: {counts:?}");
    chaos.settle();
    program.kill();
    let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
    // sled may panic over a catalog that was hit by a kill, which is met; nothing of ours may.
    assert!(!log.contains("panicked at src/"), "seed {seed}: {log}");
    let right = counts.get("right").copied().unwrap_or_default();
    assert!(right > (10 * seconds).min(200), "seed {seed}: {counts:?}");
    if seconds >= 30 {
        let missing = FAULTS.iter().chain(&["kills"]).find(|what| !counts.contains_key(*what));
        assert_eq!(missing, None, "seed {seed}: {counts:?}");
    }
}
