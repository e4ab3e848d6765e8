//! An upstream on a raw socket: it can hold, drop, stall, reset, change its validator or lie.

use super::Film;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Counts the requests, from 0.
    pub(crate) number: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    /// The body of the request.
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The asked range as `(start, end)`, end exclusive and clipped to `len`.
    pub(crate) fn range(&self, len: u64) -> Option<(u64, u64)> {
        let (start, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        if start.is_empty() {
            return Some((len.saturating_sub(last.parse().expect("a number")), len));
        }
        let end = if last.is_empty() {
            len
        } else {
            last.parse::<u64>().expect("a number") + 1
        };
        Some((start.parse().expect("a number"), end.min(len)))
    }
}

/// Lets a number of body bytes pass, then holds until more are allowed.
#[derive(Debug, Clone)]
pub(crate) struct Valve(Arc<(Mutex<u64>, Condvar)>);

impl Valve {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new((Mutex::new(bytes), Condvar::new())))
    }

    pub(crate) fn open() -> Self {
        Self::new(u64::MAX)
    }

    pub(crate) fn allow(&self, bytes: u64) {
        let mut allowed = self.0.0.lock().expect("whole");
        *allowed = allowed.saturating_add(bytes);
        self.0.1.notify_all();
    }

    /// Takes up to `wanted` bytes out of what is allowed; waits for at least one.
    fn take(&self, wanted: u64, gone: &AtomicBool) -> Option<u64> {
        let mut allowed = self.0.0.lock().expect("whole");
        while *allowed == 0 {
            if gone.load(Ordering::Acquire) {
                return None;
            }
            allowed = self
                .0
                .1
                .wait_timeout(allowed, Duration::from_millis(100))
                .expect("whole")
                .0;
        }
        let taken = wanted.min(*allowed);
        if *allowed != u64::MAX {
            *allowed -= taken;
        }
        Some(taken)
    }
}

/// The upstream's side of one connection.
pub(crate) struct Conn {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
    gone: Arc<AtomicBool>,
    valve: Valve,
    /// Bytes per second; 0 is no limit.
    rate: u64,
    closed: bool,
    /// Requests of this connection that were answered before the one at hand.
    served: usize,
}

impl Conn {
    pub(crate) fn served(&self) -> usize {
        self.served
    }

    pub(crate) fn head(&mut self, status: u16, headers: &[(&str, String)]) {
        let mut text = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        self.raw(text.as_bytes());
    }

    /// Writes bytes as they are; a peer that has gone is no failure of the upstream.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> bool {
        let written = self.stream.write_all(bytes).is_ok();
        self.closed |= !written;
        written
    }

    /// Sends the film's bytes, through the valve and at the rate; `false` where the peer has gone.
    pub(crate) fn body(&mut self, film: &Film, start: u64, end: u64) -> bool {
        let mut at = start;
        let begin = Instant::now();
        while at < end {
            let piece = (end - at).min(if self.rate > 0 { 16 << 10 } else { 64 << 10 });
            let Some(piece) = self.valve.take(piece, &self.gone) else {
                return false;
            };
            // Counted before: whoever has the bytes must find them counted.
            self.sent.fetch_add(piece, Ordering::AcqRel);
            if !self.raw(&film.bytes(at, at + piece)) {
                return false;
            }
            at += piece;
            if self.rate > 0 {
                let due = Duration::from_secs_f64((at - start) as f64 / self.rate as f64);
                // A slow line is what is simulated here; nothing waits for this pause to be right.
                std::thread::park_timeout(due.saturating_sub(begin.elapsed()));
            }
        }
        true
    }

    /// Returns when the valve lets something pass; takes one byte of it.
    pub(crate) fn wait_for_valve(&mut self) {
        let _ = self.valve.take(1, &self.gone);
    }

    /// Returns when another valve than that of the upstream lets something pass, or the upstream is gone.
    pub(crate) fn wait_for(&mut self, valve: &Valve) {
        let _ = valve.take(1, &self.gone);
    }

    /// Sends one chunk of chunked coding.
    pub(crate) fn chunk(&mut self, film: &Film, start: u64, end: u64) -> bool {
        self.raw(format!("{:x}\r\n", end - start).as_bytes()) && self.body(film, start, end) && self.raw(b"\r\n")
    }

    /// Closes in the orderly way.
    pub(crate) fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.closed = true;
    }

    /// Closes with a reset.
    pub(crate) fn reset(&mut self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        self.closed = true;
    }

    /// Says nothing more until the peer goes.
    pub(crate) fn stall(&mut self) {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(100)));
        let mut byte = [0];
        while !self.gone.load(Ordering::Acquire) {
            match std::io::Read::read(&mut self.stream, &mut byte) {
                Ok(0) => break,
                Err(error)
                    if !matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    break;
                }
                _ => {}
            }
        }
        self.closed = true;
    }

    /// The head of a 206 for `start..end` of the film, whose body is for the script to send, or not.
    pub(crate) fn part_head(&mut self, film: &Film, start: u64, end: u64) {
        let mut headers = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("Content-Length", (end - start).to_string()),
            ("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)),
        ];
        headers.extend(film.etag.clone().map(|etag| ("ETag", etag)));
        self.head(206, &headers);
    }

    /// Answers as a well-behaved file server does.
    pub(crate) fn serve(&mut self, film: &Film, seen: &Seen) {
        let mut headers = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("Accept-Ranges", "bytes".to_owned()),
        ];
        headers.extend(film.etag.clone().map(|etag| ("ETag", etag)));
        if seen.header("if-none-match").is_some() && seen.header("if-none-match") == film.etag.as_deref() {
            return self.head(304, &headers);
        }
        let range_counts = seen
            .header("if-range")
            .is_none_or(|tag| Some(tag) == film.etag.as_deref());
        match seen.range(film.len).filter(|_| range_counts) {
            Some((start, end)) if start < end => {
                headers.push(("Content-Length", (end - start).to_string()));
                headers.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)));
                self.head(206, &headers);
                self.body(film, start, end);
            }
            Some(_) => {
                headers.push(("Content-Length", "0".to_owned()));
                headers.push(("Content-Range", format!("bytes */{}", film.len)));
                self.head(416, &headers);
            }
            None => {
                headers.push(("Content-Length", film.len.to_string()));
                self.head(200, &headers);
                self.body(film, 0, film.len);
            }
        }
    }
}

type Script = dyn Fn(&Seen, &mut Conn) + Send + Sync;

/// A server on loopback that answers by a script.
pub(crate) struct Upstream {
    address: SocketAddr,
    requests: Arc<(Mutex<Vec<Seen>>, Condvar)>,
    sent: Arc<AtomicU64>,
    gone: Arc<AtomicBool>,
    valve: Valve,
}

impl Upstream {
    /// Serves the film as a well-behaved server does.
    pub(crate) fn of(film: &Film) -> Self {
        Self::limited(film, Valve::open(), 0)
    }

    /// As `of`, through a valve and at a rate in bytes per second (0: no limit).
    pub(crate) fn limited(film: &Film, valve: Valve, rate: u64) -> Self {
        let film = film.clone();
        Self::start(valve, rate, move |seen, conn| conn.serve(&film, seen))
    }

    pub(crate) fn scripted(script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static) -> Self {
        Self::start(Valve::open(), 0, script)
    }

    pub(crate) fn start(valve: Valve, rate: u64, script: impl Fn(&Seen, &mut Conn) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let upstream = Self {
            address: listener.local_addr().expect("bound"),
            requests: Arc::default(),
            sent: Arc::default(),
            gone: Arc::default(),
            valve: valve.clone(),
        };
        let (requests, sent, gone) = (
            Arc::clone(&upstream.requests),
            Arc::clone(&upstream.sent),
            Arc::clone(&upstream.gone),
        );
        let script: Arc<Script> = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if gone.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let _ = stream.set_nodelay(true);
                let conn = Conn {
                    stream,
                    sent: Arc::clone(&sent),
                    gone: Arc::clone(&gone),
                    valve: valve.clone(),
                    rate,
                    closed: false,
                    served: 0,
                };
                let (script, requests) = (Arc::clone(&script), Arc::clone(&requests));
                std::thread::spawn(move || converse(conn, &*script, &requests));
            }
        });
        upstream
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.requests.0.lock().expect("whole").clone()
    }

    /// Waits until that many requests have come.
    pub(crate) fn wait_for_requests(&self, count: usize) {
        let guard = self.requests.0.lock().expect("whole");
        let (guard, result) = self
            .requests
            .1
            .wait_timeout_while(guard, super::PATIENCE, |seen| seen.len() < count)
            .expect("whole");
        assert!(!result.timed_out(), "only {} requests came: {guard:#?}", guard.len());
    }

    /// Body bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
        self.valve.allow(1);
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(mut conn: Conn, script: &Script, requests: &(Mutex<Vec<Seen>>, Condvar)) {
    let Ok(stream) = conn.stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while !conn.closed {
        let Some(mut seen) = read_request(&mut reader) else {
            return;
        };
        {
            let mut list = requests.0.lock().expect("whole");
            seen.number = list.len();
            list.push(seen.clone());
            requests.1.notify_all();
        }
        script(&seen, &mut conn);
        conn.served += 1;
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first()?.split(' ').map(str::to_owned);
    let headers = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen {
        number: 0,
        method: words.next()?,
        target: words.next()?,
        body: Vec::new(),
        headers,
    };
    seen.body = read_body(reader, &seen)?;
    Some(seen)
}

/// The body of a request; `None` where it was cut.
fn read_body(reader: &mut impl BufRead, seen: &Seen) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = seen.header("content-length") {
        body.resize(length.parse().expect("a length"), 0);
        reader.read_exact(&mut body).ok()?;
    } else if seen.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Some(body)
}
