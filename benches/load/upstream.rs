//! An upstream: objects of any length, at any rate, that counts what the kernel took from it.
//!
//! `/BYTES/RATE/NAME` is an object of so many bytes, sent at so many bytes per second on each connection (0: as
//! fast as it goes). `/-/seen/BYTES/RATE/NAME` tells what was sent of it.

use crate::content;
use crate::talk::{clock, pause_until};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is sent in one go over a line that has a rate, and over one that has none.
const PACED_PIECE_BYTES: u64 = 16 << 10;
const PIECE_BYTES: u64 = 256 << 10;

const SEEN: &str = "/-/seen";

/// One piece after the other, each for as long as its rate says.
struct Link {
    bytes_per_second: f64,
    free: Mutex<Instant>,
}

impl Link {
    fn new(bytes_per_second: f64) -> Self {
        let free = Mutex::new(Instant::now());
        Self { bytes_per_second, free }
    }

    /// When a piece that is ready may leave, and when it has left.
    fn carry(&self, ready: Instant, bytes: u64) -> (Instant, Instant) {
        let mut free = self.free.lock().expect("whole");
        let leaves = ready.max(*free);
        *free = leaves + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        (leaves, *free)
    }
}

/// What was sent of one object: a range for each request.
#[derive(Default)]
struct Sent {
    ranges: Vec<Range<u64>>,
    last: f64,
}

struct Upstream {
    link: Link,
    sent: Mutex<HashMap<String, Sent>>,
}

/// Serves at a free port of `address` until the input ends: the program that started it has gone then.
pub(crate) fn serve(address: &str, link: f64) {
    let listener = TcpListener::bind((address, 0)).expect("a free port");
    let upstream = Arc::new(Upstream {
        link: Link::new(link),
        sent: Mutex::default(),
    });
    crate::say(&json!({ "address": listener.local_addr().expect("bound").to_string() }));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let upstream = Arc::clone(&upstream);
            std::thread::spawn(move || upstream.converse(&stream));
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// A request, as far as it matters.
struct Asked {
    is_head: bool,
    path: String,
    range: Option<String>,
    if_range: Option<String>,
    closes: bool,
}

impl Upstream {
    fn converse(&self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream);
        while let Some(asked) = read_request(&mut reader) {
            // A client that has gone is no failure of the upstream.
            if self.answer(stream, &asked).is_err() || asked.closes {
                return;
            }
        }
    }

    fn answer(&self, mut stream: &TcpStream, asked: &Asked) -> std::io::Result<()> {
        if let Some(path) = asked.path.strip_prefix(SEEN) {
            let body = self.seen(path).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            return stream.write_all((head + &body).as_bytes());
        }
        let mut words = asked.path.trim_start_matches('/').split('/');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(length), Some(rate)) = (number(), number()) else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        };
        let tag = format!("\"{}\"", asked.path.replace('/', "-"));
        let joins = asked.if_range.as_ref().is_none_or(|found| *found == tag);
        let part = asked
            .range
            .as_ref()
            .filter(|_| joins)
            .and_then(|text| part(text, length));
        let sent = part.clone().unwrap_or(0..length);
        let status = match part {
            Some(Range { start, end }) => {
                let last = end - 1;
                format!("206 Partial Content\r\nContent-Range: bytes {start}-{last}/{length}")
            }
            None => "200 OK".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: {tag}\r\nLast-Modified: Mon, 05 Jan 2026 10:00:00 GMT\r\n\
             Cache-Control: max-age=86400\r\nContent-Type: video/mp4\r\nAccept-Ranges: bytes\r\n\
             Content-Length: {}\r\n\r\n",
            sent.end - sent.start
        );
        stream.write_all(head.as_bytes())?;
        if asked.is_head {
            return Ok(());
        }
        let request = self.note(&asked.path, sent.start);
        self.send(stream, &asked.path, request, sent, rate)
    }

    fn send(
        &self,
        mut stream: &TcpStream,
        path: &str,
        request: usize,
        part: Range<u64>,
        rate: u64,
    ) -> std::io::Result<()> {
        let own;
        let (link, is_paced) = match rate {
            0 => (&self.link, self.link.bytes_per_second.is_finite()),
            rate => {
                own = Link::new(rate as f64);
                (&own, true)
            }
        };
        let most = if is_paced { PACED_PIECE_BYTES } else { PIECE_BYTES };
        let mut piece = vec![0; most as usize];
        let (mut at, mut ready) = (part.start, Instant::now());
        while at < part.end {
            let bytes = most.min(part.end - at);
            let piece = &mut piece[..bytes as usize];
            content::write(at, piece);
            if is_paced {
                // A client that has gone takes up no more of the link.
                stream.take_error()?.map_or(Ok(()), Err)?;
                // The next piece is ready when this one has left, not when the thread wakes: each late waking
                // would make the link slower than it is said to be.
                let (leaves, left) = link.carry(ready, bytes);
                pause_until(leaves);
                ready = left;
            }
            // Counted before: whoever has the bytes must find them counted.
            self.count(path, request, at + bytes);
            let begun = Instant::now();
            match stream.write(piece) {
                Ok(count) => at += count as u64,
                Err(error) => {
                    self.count(path, request, at);
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

    fn note(&self, path: &str, start: u64) -> usize {
        let mut sent = self.sent.lock().expect("whole");
        let sent = sent.entry(path.to_owned()).or_default();
        sent.ranges.push(start..start);
        sent.ranges.len() - 1
    }

    fn count(&self, path: &str, request: usize, end: u64) {
        let mut sent = self.sent.lock().expect("whole");
        if let Some(sent) = sent.get_mut(path) {
            sent.ranges[request].end = end;
            sent.last = clock();
        }
    }

    /// What was sent of an object: requests, bytes, bytes counted once, the ranges, and when the last byte left.
    fn seen(&self, path: &str) -> Value {
        let sent = self.sent.lock().expect("whole");
        let Some(sent) = sent.get(path) else {
            return json!({ "requests": 0, "bytes": 0, "distinct": 0, "last": 0.0, "ranges": [] });
        };
        let bytes: u64 = sent.ranges.iter().map(|range| range.end - range.start).sum();
        let ranges: Vec<_> = sent.ranges.iter().map(|range| [range.start, range.end]).collect();
        json!({
            "requests": sent.ranges.len(),
            "bytes": bytes,
            "distinct": distinct(&sent.ranges),
            "last": sent.last,
            "ranges": ranges,
        })
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let lines = reader.lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let mut first = lines.first()?.split(' ');
    let (method, path) = (first.next()?, first.next()?);
    let field = |wanted: &str| {
        let mut fields = lines.iter().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim().to_owned())
    };
    Some(Asked {
        is_head: method == "HEAD",
        path: path.to_owned(),
        range: field("range"),
        if_range: field("if-range"),
        closes: field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    })
}

/// The one range that was asked for.
fn part(text: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start = first.parse().ok()?;
    let end = match last {
        "" => length,
        last => length.min(last.parse::<u64>().ok()? + 1),
    };
    (start < end).then_some(start..end)
}

/// The bytes that are in any of the ranges, each counted once.
pub(crate) fn distinct(ranges: &[Range<u64>]) -> u64 {
    let mut ranges = ranges.to_vec();
    ranges.sort_by_key(|range| range.start);
    let (mut bytes, mut end) = (0, 0);
    for range in ranges {
        bytes += range.end.saturating_sub(range.start.max(end));
        end = end.max(range.end);
    }
    bytes
}
