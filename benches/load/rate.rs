//! How many requests a second a server answers: 64 connections, each with one request at a time.
//!
//! Two threads of their own event loop cost the server's cores as little as a client can. One answer in sixteen is
//! read and checked; of the others the kernel throws the body away.

use crate::content;
use crate::talk::{clock, head_end, parse, quantile, random};
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const THREADS: u64 = 2;
const CONNECTIONS_PER_THREAD: usize = 32;

/// The length of one range, and its alignment.
const RANGE_BYTES: u64 = 16 << 10;

/// One answer in so many is checked.
const CHECKED: u64 = 16;

/// Room for a head, and for more of the body than that only where it is checked.
const HEAD_BYTES: usize = 1024;

/// What each request asks for.
pub(crate) enum Ask {
    /// A range of an object of so many bytes.
    Ranges(String, u64),
    /// One of so many objects with this beginning of their path.
    Objects(String, u64),
}

impl Ask {
    /// Writes a request, and returns the offset of what it asks for.
    fn write(&self, word: u64, host: &str, into: &mut Vec<u8>) -> u64 {
        into.clear();
        let (written, start) = match self {
            Self::Ranges(path, bytes) => {
                let start = word % (bytes / RANGE_BYTES) * RANGE_BYTES;
                let last = start + RANGE_BYTES - 1;
                let line = format_args!("GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{last}\r\n\r\n");
                (into.write_fmt(line), start)
            }
            Self::Objects(prefix, count) => {
                let number = word % count;
                (write!(into, "GET {prefix}{number} HTTP/1.1\r\nHost: {host}\r\n\r\n"), 0)
            }
        };
        written.expect("memory");
        start
    }
}

/// Asks for so many seconds.
pub(crate) fn measure(address: &str, ask: &Ask, seconds: u64) -> Value {
    let end = Instant::now() + Duration::from_secs(seconds);
    let begun = Instant::now();
    let micros: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || run(address, ask, end, thread)))
            .collect();
        let all = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("right answers"));
        all.collect()
    });
    let elapsed = begun.elapsed().as_secs_f64();
    json!({
        "requests": micros.len(),
        "requests/s": micros.len() as f64 / elapsed,
        "p50 ms": quantile(&micros, 0.5) / 1e3,
        "p99 ms": quantile(&micros, 0.99) / 1e3,
    })
}

fn run(address: &str, ask: &Ask, end: Instant, thread: u64) -> Vec<f64> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let mut words = random(clock().to_bits() ^ thread);
    let mut word = || words.next().unwrap_or_default();
    let mut asking: Vec<Asking> = (0..CONNECTIONS_PER_THREAD)
        .map(|number| {
            let stream = TcpStream::connect(address).expect("connected");
            stream.set_nodelay(true).expect("set");
            stream.set_nonblocking(true).expect("set");
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&poll, &stream, data, epoll::EventFlags::IN).expect("added");
            Asking::new(stream, address)
        })
        .collect();
    for one in &mut asking {
        one.next(ask, word());
    }
    let (mut micros, mut scratch) = (Vec::with_capacity(1 << 20), vec![0; HEAD_BYTES + (64 << 10)]);
    let mut events = Vec::with_capacity(64);
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    while Instant::now() < end {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience)).expect("events");
        assert!(!events.is_empty(), "no answer for ten seconds");
        for event in events.drain(..) {
            let one = &mut asking[event.data.u64() as usize];
            if one.is_answered(&mut scratch) {
                micros.push(one.asked.elapsed().as_secs_f64() * 1e6);
                one.next(ask, word());
            }
        }
    }
    micros
}

/// One connection.
struct Asking {
    stream: TcpStream,
    host: String,
    request: Vec<u8>,
    asked: Instant,
    number: u64,
    /// Where in the object the content of the answer lies.
    start: u64,
    /// The head as far as it has come; empty behind it.
    head: Vec<u8>,
    /// What is left of the body, once the head is read.
    left: Option<u64>,
    at: u64,
}

impl Asking {
    fn new(stream: TcpStream, host: &str) -> Self {
        Self {
            stream,
            host: host.to_owned(),
            request: Vec::new(),
            asked: Instant::now(),
            number: 0,
            start: 0,
            head: Vec::new(),
            left: None,
            at: 0,
        }
    }

    fn next(&mut self, ask: &Ask, word: u64) {
        self.start = ask.write(word, &self.host, &mut self.request);
        self.number += 1;
        (self.left, self.at) = (None, self.start);
        self.asked = Instant::now();
        self.stream.write_all(&self.request).expect("sent");
    }

    /// Takes what has come; whether that was all.
    fn is_answered(&mut self, scratch: &mut [u8]) -> bool {
        loop {
            let is_checked = self.number.is_multiple_of(CHECKED);
            let (room, flags) = match self.left {
                Some(_) if is_checked => (scratch.len(), RecvFlags::empty()),
                Some(left) => (scratch.len().min(left as usize), RecvFlags::TRUNC),
                None if is_checked => (scratch.len(), RecvFlags::empty()),
                None => (HEAD_BYTES, RecvFlags::empty()),
            };
            let count = match recv(&self.stream, &mut scratch[..room], flags) {
                Ok((_, count)) => count,
                Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            };
            assert!(count > 0, "closed in an answer");
            match self.left {
                None => {
                    self.head.extend_from_slice(&scratch[..count]);
                    let Some(end) = head_end(&self.head) else { continue };
                    let head = parse(&self.head[..end]);
                    assert!(
                        matches!(head.status, 200 | 206),
                        "{}",
                        String::from_utf8_lossy(&self.head)
                    );
                    self.left = head.length;
                    let come = self.head.split_off(end);
                    self.head.clear();
                    self.take(&come, come.len());
                }
                Some(_) if is_checked => self.take(&scratch[..count], count),
                Some(_) => self.take(&[], count),
            }
            if self.left == Some(0) {
                return true;
            }
        }
    }

    /// So many bytes of the body have come, these among them.
    fn take(&mut self, bytes: &[u8], count: usize) {
        let left = self.left.expect("a length");
        assert!(count as u64 <= left, "more bytes than promised");
        if !bytes.is_empty() {
            assert!(content::is_right(self.at, bytes), "WRONG BYTES at {}", self.at);
        }
        self.at += count as u64;
        self.left = Some(left - count as u64);
    }
}
