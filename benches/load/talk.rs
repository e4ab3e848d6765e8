//! One HTTP/1.1 connection of a client that waits, as a socket shows it.

use crate::content;
use rustix::net::{RecvFlags, recv};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Longer than any answer that counts takes.
const PATIENCE: Duration = Duration::from_secs(60);

const MAX_HEAD_BYTES: usize = 16 << 10;

/// What the head of an answer says.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length: Option<u64>,
}

/// A connection, and what of the current body has come with the head.
pub(crate) struct Talk {
    stream: TcpStream,
    ahead: Vec<u8>,
    host: String,
}

impl Talk {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        Self::on(stream, address)
    }

    /// On a connection that is there already.
    pub(crate) fn on(stream: TcpStream, address: &str) -> Self {
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self {
            stream,
            ahead: Vec::new(),
            host: address.to_owned(),
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a GET; `range` has an end, or reaches to the object's.
    pub(crate) fn ask(&mut self, path: &str, range: Option<(u64, Option<u64>)>) {
        let range = range.map_or(String::new(), |(start, end)| {
            let last = end.map_or(String::new(), |end| (end - 1).to_string());
            format!("Range: bytes={start}-{last}\r\n")
        });
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{range}\r\n", self.host);
        self.stream.write_all(request.as_bytes()).expect("sent");
    }

    /// The head of the answer, which must bring content.
    pub(crate) fn head(&mut self) -> Head {
        let mut bytes = std::mem::take(&mut self.ahead);
        let end = loop {
            if let Some(end) = head_end(&bytes) {
                break end;
            }
            assert!(bytes.len() < MAX_HEAD_BYTES, "a head without an end");
            let mut piece = [0; 1024];
            let count = self.stream.read(&mut piece).expect("an answer");
            assert!(count > 0, "closed before an answer");
            bytes.extend_from_slice(&piece[..count]);
        };
        self.ahead = bytes.split_off(end);
        let head = parse(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        assert!(matches!(head.status, 200 | 206), "{text}");
        head
    }

    /// The next bytes of the body.
    pub(crate) fn read<'a>(&mut self, into: &'a mut [u8]) -> &'a [u8] {
        if self.ahead.is_empty() {
            let count = self.stream.read(into).expect("bytes");
            assert!(count > 0, "the body was cut");
            return &into[..count];
        }
        let count = self.ahead.len().min(into.len());
        into[..count].copy_from_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        &into[..count]
    }

    /// What has come with the head and was not read yet.
    pub(crate) fn take_ahead(&mut self, most: usize) -> Option<Vec<u8>> {
        let count = most.min(self.ahead.len());
        (count > 0).then(|| self.ahead.drain(..count).collect())
    }

    /// Has the kernel throw away so many bytes of the body.
    pub(crate) fn discard(&mut self, bytes: u64) {
        let mut left = bytes - self.ahead.len() as u64;
        self.ahead.clear();
        let mut scratch = vec![0; 1 << 20];
        while left > 0 {
            let room = usize::try_from(left).map_or(scratch.len(), |left| left.min(scratch.len()));
            let (count, _) = recv(&self.stream, &mut scratch[..room], RecvFlags::TRUNC).expect("bytes");
            assert!(count > 0, "the body was cut {left} bytes before its end");
            left -= count as u64;
        }
    }
}

/// When the bytes of an answer came.
pub(crate) struct Arrival {
    pub(crate) asked: Instant,
    pub(crate) first: Instant,
    pub(crate) last: Instant,
}

impl Arrival {
    pub(crate) fn first_ms(&self) -> f64 {
        (self.first - self.asked).as_secs_f64() * 1e3
    }

    pub(crate) fn total_ms(&self) -> f64 {
        (self.last - self.asked).as_secs_f64() * 1e3
    }
}

/// Fetches a range, or a whole object, and checks each of its bytes.
pub(crate) fn fetch(talk: &mut Talk, path: &str, wanted: Option<Range<u64>>) -> Arrival {
    let asked = Instant::now();
    talk.ask(path, wanted.clone().map(|range| (range.start, Some(range.end))));
    let head = talk.head();
    let length = head.length.expect("a length");
    let start = wanted.as_ref().map_or(0, |range| range.start);
    // Without ranges, a client reads up to what it wants.
    let skipped = if head.status == 200 { start } else { 0 };
    let end = wanted.map_or(length, |range| range.end);
    assert!(head.status == 200 || length == end - start, "a range of {length} bytes");
    read_past(talk, skipped);
    let mut piece = vec![0; 64 << 10];
    let (mut at, mut first) = (start, None);
    while at < end {
        let room = usize::try_from(end - at).map_or(piece.len(), |left| left.min(piece.len()));
        let bytes = talk.read(&mut piece[..room]);
        first.get_or_insert_with(Instant::now);
        assert!(content::is_right(at, bytes), "{path}: WRONG BYTES at {at}");
        at += bytes.len() as u64;
    }
    let last = Instant::now();
    Arrival {
        asked,
        first: first.unwrap_or(last),
        last,
    }
}

fn read_past(talk: &mut Talk, bytes: u64) {
    let mut piece = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let room = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        left -= talk.read(&mut piece[..room]).len() as u64;
    }
}

/// Where the body begins.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(at + 4)
}

pub(crate) fn parse(head: &[u8]) -> Head {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).unwrap_or(0);
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    Head { status, length }
}

/// The least figure that this share of them does not exceed.
pub(crate) fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let rank = (figures.len() as f64 * share).ceil() as usize;
    figures.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// splitmix64.
pub(crate) fn random(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |n: u64| {
        let mut x = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

pub(crate) fn pause_until(when: Instant) {
    pause(when.saturating_duration_since(Instant::now()));
}

#[expect(clippy::disallowed_methods, reason = "slow lines and late readers are simulated")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The clock that all processes of the machine share, in seconds.
pub(crate) fn clock() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
