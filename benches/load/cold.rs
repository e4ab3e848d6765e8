//! Clients of objects that are not stored yet, or not wholly.

use crate::talk::{Arrival, Talk, clock, fetch, pause, pause_until, random};
use crate::upstream::distinct;
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

const STORM_BYTES: u64 = 256 << 20;
const STORM_READERS: usize = 50;
const SEEKS_PER_READER: usize = 4;
const SEEK_BYTES: u64 = 1 << 20;

const FOLLOWERS: u32 = 16;

/// The object that is sought in.
const FAR_BYTES: u64 = 200_000_000;
const FAR_SEEK_BYTES: u64 = 256 << 10;

/// What the slow reader takes, in bytes per second.
const SLOW_RATE: f64 = 50e3;

/// Many seeks into an object that nobody has asked for: what the upstream has sent when the last is answered.
pub(crate) fn storm(address: &str, upstream: &str, path: &str) -> Value {
    let wanted: Vec<Range<u64>> = random(2)
        .map(|word| word % (STORM_BYTES - SEEK_BYTES))
        .map(|start| start..start + SEEK_BYTES)
        .take(STORM_READERS * SEEKS_PER_READER)
        .collect();
    let gate = Barrier::new(STORM_READERS);
    let reader = |seeks: &[Range<u64>]| {
        let mut talk = Talk::open(address);
        gate.wait();
        let begun = Instant::now();
        for seek in seeks {
            fetch(&mut talk, path, Some(seek.clone()));
        }
        // Looked at now, not when all have been joined: by then a fill goes on with the rest.
        (begun, Instant::now(), seen(upstream, path))
    };
    let readers: Vec<_> = thread::scope(|scope| {
        let seeks = wanted.chunks(SEEKS_PER_READER);
        let threads: Vec<_> = seeks.map(|seeks| scope.spawn(move || reader(seeks))).collect();
        threads.into_iter().map(joined).collect()
    });
    let begun = readers.iter().map(|(begun, ..)| *begun).min().expect("readers");
    let (_, answered, seen) = readers
        .iter()
        .max_by_key(|(_, answered, _)| *answered)
        .expect("readers");
    let wanted_bytes = distinct(&wanted);
    json!({
        "seconds": (*answered - begun).as_secs_f64(),
        "wanted": wanted_bytes,
        "sent": seen["bytes"],
        "ratio": seen["bytes"].as_u64().expect("a count") as f64 / wanted_bytes as f64,
        "requests": seen["requests"],
    })
}

/// One reader begins a fill that lasts so long; the others come in its first 60 %.
pub(crate) fn follow(address: &str, upstream: &str, path: &str, seconds: u64) -> Value {
    let (begin, begin_clock) = (Instant::now(), clock());
    let read = |share: f64| {
        pause_until(begin + Duration::from_secs_f64(seconds as f64 * share));
        fetch(&mut Talk::open(address), path, None)
    };
    let arrivals: Vec<Arrival> = thread::scope(|scope| {
        let opener = scope.spawn(move || read(0.0));
        let shares = (1..=FOLLOWERS).map(|n| 0.6 * f64::from(n) / f64::from(FOLLOWERS));
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || read(share))).collect();
        joined(opener);
        threads.into_iter().map(joined).collect()
    });
    let seen = seen(upstream, path);
    let sent = seen["last"].as_f64().expect("a time") - begin_clock;
    let last = |arrival: &Arrival| ((arrival.last - begin).as_secs_f64() - sent) * 1e3;
    json!({
        "first ms": arrivals.iter().map(Arrival::first_ms).collect::<Vec<_>>(),
        "last ms": arrivals.iter().map(last).collect::<Vec<_>>(),
        "requests": seen["requests"],
    })
}

/// A seek far ahead of what has come; another reader has the object filled from its start for a second already.
pub(crate) fn seek(address: &str, path: &str) -> Value {
    let leave = read_along(address, path, f64::INFINITY);
    pause(Duration::from_secs(1));
    let start = FAR_BYTES / 5 * 4;
    let arrival = fetch(&mut Talk::open(address), path, Some(start..start + FAR_SEEK_BYTES));
    leave();
    json!({ "first ms": arrival.first_ms(), "total ms": arrival.total_ms() })
}

/// A reader of what one that is slow had come for first.
pub(crate) fn beside(address: &str, path: &str) -> Value {
    let leave = read_along(address, path, SLOW_RATE);
    pause(Duration::from_millis(200));
    let arrival = fetch(&mut Talk::open(address), path, None);
    leave();
    json!({ "total ms": arrival.total_ms() })
}

/// Readers of an object each that nobody has asked for, all at once.
pub(crate) fn miss(address: &str, path: &str, readers: u64) -> Value {
    let gate = Barrier::new(readers as usize);
    let read = |number: u64| {
        let mut talk = Talk::open(address);
        gate.wait();
        fetch(&mut talk, &format!("{path}{number}"), None)
    };
    let arrivals: Vec<Arrival> = thread::scope(|scope| {
        let read = &read;
        let threads: Vec<_> = (0..readers).map(|number| scope.spawn(move || read(number))).collect();
        threads.into_iter().map(joined).collect()
    });
    let begun = arrivals.iter().map(|arrival| arrival.asked).min().expect("readers");
    let ended = arrivals.iter().map(|arrival| arrival.last).max().expect("readers");
    json!({
        "first ms": arrivals.iter().map(Arrival::first_ms).collect::<Vec<_>>(),
        "total ms": (ended - begun).as_secs_f64() * 1e3,
    })
}

/// Reads an object from its start, unmeasured, until the returned order to leave is given.
fn read_along(address: &str, path: &str, bytes_per_second: f64) -> impl FnOnce() + use<> {
    let leaves = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&leaves);
    let mut talk = Talk::open(address);
    talk.ask(path, None);
    let thread = thread::spawn(move || {
        let begin = Instant::now();
        let length = talk.head().length.expect("a length");
        let (mut piece, mut taken) = (vec![0; 4 << 10], 0);
        while taken < length && !told.load(Ordering::Acquire) {
            taken += talk.read(&mut piece).len() as u64;
            pause_until(begin + Duration::from_secs_f64(taken as f64 / bytes_per_second));
        }
    });
    move || {
        leaves.store(true, Ordering::Release);
        thread.join().expect("an uncut body");
    }
}

/// What the upstream has sent of an object.
fn seen(upstream: &str, path: &str) -> Value {
    let mut talk = Talk::open(upstream);
    talk.ask(&format!("/-/seen{path}"), None);
    let length = talk.head().length.expect("a length") as usize;
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    while bytes.len() < length {
        bytes.extend_from_slice(talk.read(&mut piece));
    }
    serde_json::from_slice(&bytes).expect("what was sent")
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().expect("right bytes")
}
