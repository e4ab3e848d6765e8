//! Readers that take so many bytes a second, as players do: whether the bytes are always there.
//!
//! A reader takes what is due four times a second, or more often where its socket would not hold all of that. It has
//! stalled where it is more than a second behind.
//!
//! The sockets of all readers are on the machine that is measured. Where they might hold as much as the kernel has for TCP
//! (`net.ipv4.tcp_mem`, a tenth of the memory), it drops segments that have come, and what is
//! measured are retransmissions: thousands of readers have small sockets.

use crate::content;
use crate::talk::{Talk, pause_until, random};
use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// How often each reader takes what is due, at least.
const PERIOD: Duration = Duration::from_millis(250);

/// A reader that is so far behind has nothing left to show.
const STALLED: Duration = Duration::from_secs(1);

/// What a reader's socket holds at most: more than is due at once. The kernel takes twice that for its own.
const RECEIVE_BYTES: usize = 256 << 10;

/// What all of them hold.
const ALL_RECEIVE_BYTES: usize = 384 << 20;

/// One reader in so many checks what it gets.
const CHECKED: usize = 16;

/// What the readers do.
pub(crate) struct Load<'a> {
    pub(crate) address: &'a str,
    pub(crate) path: &'a str,
    pub(crate) readers: usize,
    pub(crate) bytes_per_second: u64,
    pub(crate) seconds: u64,
    /// Whether each begins at a place of its own in the first half of the object, or all at its start.
    pub(crate) at_random: bool,
}

struct Reader {
    talk: Talk,
    begun: Instant,
    start: u64,
    taken: u64,
    /// The furthest that it was behind.
    behind: Duration,
}

/// Reads for so many seconds after all have begun; prints `{"begun": readers}` then.
pub(crate) fn measure(load: &Load<'_>) -> Value {
    let length = length_of(load.path);
    let mut words = random(7);
    let mut readers: Vec<Reader> = Vec::with_capacity(load.readers);
    let mut scratch = vec![0; 1 << 20];
    let mut end = None;
    let mut due = Instant::now();
    let held = RECEIVE_BYTES.min(ALL_RECEIVE_BYTES / load.readers);
    let lasts = Duration::from_secs_f64(held as f64 * 2.0 / 3.0 / load.bytes_per_second as f64);
    // Readers come one after the other in the first two periods, and keep that order.
    let step = PERIOD.min(lasts) / u32::try_from(load.readers).unwrap_or(u32::MAX);
    loop {
        let is_all = readers.len() == load.readers;
        if !is_all {
            let word = words.next().unwrap_or_default();
            let start = if load.at_random { word % (length / 2) } else { 0 };
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(held).expect("set");
            let address: std::net::SocketAddr = load.address.parse().expect("an address");
            socket.connect(&address.into()).expect("connected");
            let mut talk = Talk::on(socket.into(), load.address);
            talk.ask(load.path, Some((start, None)));
            talk.head();
            talk.stream().set_nonblocking(true).expect("set");
            readers.push(Reader {
                talk,
                begun: Instant::now(),
                start,
                taken: 0,
                behind: Duration::ZERO,
            });
            if readers.len() == load.readers {
                crate::say(&json!({ "begun": load.readers }));
                due = Instant::now();
                end = Some(due + Duration::from_secs(load.seconds));
                // What was late while others still came counts for nobody.
                readers.iter_mut().for_each(|reader| reader.begin_anew(due));
            }
            // Those that are there already go on meanwhile.
            if !readers.len().is_multiple_of(64) {
                continue;
            }
        }
        for (index, reader) in readers.iter_mut().enumerate() {
            if is_all {
                due += step;
                pause_until(due);
            }
            reader.take(load.bytes_per_second, &mut scratch, index.is_multiple_of(CHECKED));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
    }
    let stalled = readers.iter().filter(|reader| reader.behind > STALLED).count();
    let worst = readers.iter().map(|reader| reader.behind).max().unwrap_or_default();
    json!({
        "readers": load.readers,
        "stalled": stalled,
        "most behind ms": worst.as_secs_f64() * 1e3,
        "bytes": readers.iter().map(|reader| reader.taken).sum::<u64>(),
    })
}

impl Reader {
    fn begin_anew(&mut self, now: Instant) {
        self.start += std::mem::take(&mut self.taken);
        self.begun = now;
        self.behind = Duration::ZERO;
    }

    /// Takes what is due, as far as it is there.
    fn take(&mut self, rate: u64, scratch: &mut [u8], is_checked: bool) {
        let elapsed = self.begun.elapsed();
        let due = (elapsed.as_secs_f64() * rate as f64) as u64;
        let mut is_there = true;
        while self.taken < due && is_there {
            let room = scratch.len().min((due - self.taken) as usize);
            let ahead = self.talk.take_ahead(room);
            let count = match ahead {
                Some(bytes) => {
                    assert!(content::is_right(self.start + self.taken, &bytes), "WRONG BYTES");
                    bytes.len()
                }
                None => {
                    let flags = if is_checked {
                        RecvFlags::empty()
                    } else {
                        RecvFlags::TRUNC
                    };
                    match recv(self.talk.stream(), &mut scratch[..room], flags) {
                        Ok((_, 0)) => panic!("a reader was cut"),
                        Ok((_, count)) => {
                            let at = self.start + self.taken;
                            let is_right = !is_checked || content::is_right(at, &scratch[..count]);
                            assert!(is_right, "WRONG BYTES at {at}");
                            count
                        }
                        Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => {
                            is_there = false;
                            0
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            self.taken += count as u64;
        }
        if self.taken < due {
            let behind = Duration::from_secs_f64((due - self.taken) as f64 / rate as f64);
            self.behind = self.behind.max(behind);
        }
    }
}

/// An object's length is in its path.
fn length_of(path: &str) -> u64 {
    let mut words = path.split('/');
    words
        .find_map(|word| word.parse().ok())
        .expect("a path with the object's length in it")
}
