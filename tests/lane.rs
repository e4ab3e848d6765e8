//! Hits on connections of our own: the same answers as those of the long way, and the same ends.

use crate::support::{Client, Film, Pond, Upstream, Valve, eventually, get, get_range};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LEN: u64 = 3_000_000;

fn serving(film: &Film) -> Upstream {
    let film = film.clone();
    Upstream::scripted(move |seen, conn| conn.serve(&film, seen))
}

fn stored() -> (Upstream, Pond, Film) {
    stored_with(&[])
}

fn stored_with(settings: &[(&str, &str)]) -> (Upstream, Pond, Film) {
    let film = Film::new(LEN);
    let upstream = serving(&film);
    let pond = Pond::with(&upstream, settings);
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    (upstream, pond, film)
}

#[test]
fn the_fast_path_answers_like_the_full_one() {
    let (_upstream, pond, film) = stored();
    let last = (LEN - 1).to_string();
    for range in [
        None,
        Some("bytes=0-".to_owned()),
        Some("bytes=0-0".to_owned()),
        Some("bytes=1000-1999".to_owned()),
        Some("bytes=2999000-99999999".to_owned()),
        Some("bytes=-1".to_owned()),
        Some("bytes=-99999999".to_owned()),
        Some(format!("bytes={last}-{last}")),
        Some("bytes=5-1".to_owned()),
        Some("lines=0-1".to_owned()),
        Some(format!("bytes={LEN}-")),
        Some("bytes=0-0,5-5".to_owned()),
    ] {
        let ask = |more: &[(&str, &str)]| {
            let range = range.as_deref().map(|range| ("Range", range));
            let fields: Vec<_> = range.into_iter().chain(more.iter().copied()).collect();
            let mut client = Client::connect(pond.address());
            client.ask("GET", "/film", &fields);
            client.read_head();
            client.finish()
        };
        // Fields that change nothing: one that the lane has the application look at, one that it leaves to others.
        for more in [("Pragma", "none"), ("TE", "trailers")] {
            let (quick, long) = (ask(&[]), ask(&[more]));
            assert_eq!(quick.status, long.status, "{range:?}");
            assert!(quick.body == long.body, "{range:?}: other bytes");
            let told = |answer: &crate::support::Answer| {
                let mut fields = answer.headers.to_vec();
                // Seconds pass between two requests, and the boundary of parts is another each time.
                let passing = ["date", "age", "cache-status", "content-type"];
                fields.retain(|(name, _)| !passing.contains(&name.to_ascii_lowercase().as_str()));
                fields.sort();
                fields
            };
            assert_eq!(told(&quick), told(&long), "{range:?}");
            for name in ["date", "age", "cache-status", "content-type"] {
                assert_eq!(quick.header(name).is_some(), long.header(name).is_some(), "{name}");
            }
            if let Some((start, _)) = quick
                .header("content-range")
                .and_then(|field| field.strip_prefix("bytes ")?.split_once('-'))
            {
                film.check(
                    start.parse().unwrap_or(0),
                    if quick.status == 206 { &quick.body } else { &[] },
                );
            }
        }
    }
}

#[test]
fn a_connection_serves_ranges_again_after_a_416() {
    let (_upstream, pond, film) = stored();
    let mut client = Client::connect(pond.address());
    for (range, status) in [("bytes=0-9", 206), ("bytes=9999999-", 416), ("bytes=7-9", 206)] {
        client.ask("GET", "/film", &[("Range", range)]);
        client.read_head();
        assert_eq!(client.status, status);
        let length = client.header("content-length").and_then(|length| length.parse().ok());
        let body = client.read(length.expect("a length"));
        if status == 206 {
            film.check(if range.starts_with("bytes=0") { 0 } else { 7 }, &body);
        }
    }
}

/// The bytes that come on a connection until the server closes it.
fn raw_exchange(pond: &Pond, pieces: &[&str]) -> String {
    let mut stream = TcpStream::connect(pond.address()).expect("connected");
    for piece in pieces {
        stream.write_all(piece.as_bytes()).expect("sent");
        stream.flush().expect("sent");
    }
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an end");
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let (_upstream, pond, _film) = stored();
    let ask = |range: &str, more: &str| {
        format!("GET /film HTTP/1.1\r\nHost: localhost\r\nRange: bytes={range}\r\n{more}\r\n")
    };
    let all = [
        ask("0-9", ""),
        ask("10-19", ""),
        ask("15-19", "Pragma: none\r\n"),
        ask("20-29", "TE: trailers\r\n"),
        ask("30-39", ""),
        ask("40-49", "Connection: close\r\n"),
    ];
    let said = raw_exchange(&pond, &[&all.concat()]);
    let ranges: Vec<&str> = said
        .lines()
        .filter_map(|line| {
            line.to_ascii_lowercase()
                .starts_with("content-range")
                .then(|| line.split(' ').nth(2))
                .flatten()
        })
        .collect();
    let total = |range: &str| format!("{range}/{LEN}");
    assert_eq!(ranges, ["0-9", "10-19", "15-19", "20-29", "30-39", "40-49"].map(total));
}

#[test]
fn a_request_that_comes_in_pieces_is_answered() {
    let (_upstream, pond, _film) = stored();
    let request = "GET /film HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-9\r\nConnection: close\r\n\r\n";
    for cut in [1, 5, 20, request.len() - 1] {
        let (first, second) = request.split_at(cut);
        let said = raw_exchange(&pond, &[first, second]);
        assert!(said.starts_with("HTTP/1.1 206"), "{cut}: {said}");
    }
}

#[test]
fn a_connection_that_is_to_close_does_after_all_of_the_answer() {
    let (_upstream, pond, film) = stored();
    let mut stream = TcpStream::connect(pond.address()).expect("connected");
    stream
        .write_all(b"GET /film HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an end, not a reset");
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a header") + 4;
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    film.check(0, &all[end..]);
    assert_eq!(all.len() - end, LEN as usize);
}

#[test]
fn players_that_leave_in_mid_answer_do_not_disturb_the_next() {
    let (upstream, pond, film) = stored();
    for _ in 0..50 {
        let mut client = Client::connect(pond.address());
        client.ask("GET", "/film", &[]);
        client.read_head();
        client.read(1000);
    }
    film.check(500, &get_range(pond.address(), "/film", "bytes=500-2000").body);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_hit_count_of_an_object_lags_by_fewer_than_64() {
    let (_upstream, pond, film) = stored();
    let uses = || pond.object()["hits"].as_u64().expect("a number");
    let before = uses();
    let mut client = Client::connect(pond.address());
    let mut ask = |times: u64| {
        for _ in 0..times {
            client.ask("GET", "/film", &[("Range", "bytes=5-14")]);
            client.read_head();
            film.check(5, &client.read(10));
        }
    };
    ask(8);
    assert_eq!(uses(), before + 8);
    ask(1000);
    let known = uses() - before;
    assert!((1008 - 63..=1008).contains(&known), "{known}");
}

#[test]
fn a_body_dropped_from_memory_is_served_from_the_disk() {
    let (upstream, mut pond, film) = stored();
    // Stopped in order, so that all of it is on the disk and may be dropped from memory.
    pond.restart();
    for file in bodies(&pond.dir().join("objects")) {
        let file = std::fs::File::open(file).expect("a body");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("dropped");
    }
    for (range, start, len) in [("bytes=2000000-", 2_000_000, 1_000_000), ("bytes=0-", 0, LEN)] {
        let answer = get_range(pond.address(), "/film", range);
        assert_eq!(answer.expect(206).body.len() as u64, len);
        film.check(start, &answer.body);
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_busy_body_is_served_intact_while_its_pages_are_dropped() {
    // At so many requests a second not every one is probed for residency, until one misses its pages.
    const ASKED: u64 = 1500;
    let (upstream, mut pond, film) = stored();
    pond.restart();
    let bodies = bodies(&pond.dir().join("objects"));
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (film, pond, answered) = (&film, &pond, &answered);
        let clients = [0, 1, 2, 3].map(|number: u64| {
            scope.spawn(move || {
                let mut client = Client::connect(pond.address());
                for asked in 0..ASKED {
                    let start = (number * 1_234_577 + asked * 7_654_321) % (LEN - 9000);
                    let end = start + 8191;
                    client.ask("GET", "/film", &[("Range", &format!("bytes={start}-{end}"))]);
                    client.read_head();
                    film.check(start, &client.read(8192));
                    answered.fetch_add(1, Ordering::Release);
                }
            })
        });
        while !clients.iter().all(|client| client.is_finished()) {
            // A request of this thread beside those of the clients.
            get_range(pond.address(), "/film", "bytes=0-0").expect(206);
            if answered.load(Ordering::Acquire) < ASKED {
                continue;
            }
            for body in &bodies {
                let file = std::fs::File::open(body).expect("a body");
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("dropped");
            }
        }
    });
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_last_segment_of_a_long_body_is_not_held_back() {
    // No whole number of segments, whatever their length: the kernel keeps such an end for a fifth of a second.
    const ANSWERS: u32 = 20;
    let (_upstream, pond, film) = stored();
    let mut client = Client::connect(pond.address());
    let begun = Instant::now();
    for _ in 0..ANSWERS {
        client.ask("GET", "/film", &[("Range", "bytes=1-1000001")]);
        client.read_head();
        film.check(1, &client.read(1_000_001));
    }
    let took = begun.elapsed();
    assert!(took < ANSWERS * Duration::from_millis(150), "{took:?}");
}

#[test]
fn many_readers_of_one_film_at_once_get_every_byte() {
    let film = Film::new((9 << 20) + 77);
    let upstream = serving(&film);
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    pond.until_state("complete");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (film, pond) = (&film, &pond);
            scope.spawn(move || {
                for round in 0..4 {
                    // Some begin within a block.
                    let at = (number % 3) * 700_001 + round;
                    let answer = get_range(pond.address(), "/film", &format!("bytes={at}-"));
                    answer.expect(206);
                    assert_eq!(answer.body.len() as u64, film.len - at);
                    film.check(at, &answer.body);
                }
            });
        }
    });
    assert_eq!(upstream.requests().len(), 1);
}

fn bodies(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let shards = std::fs::read_dir(dir).expect("listed").flatten();
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.path()).expect("listed").flatten());
    let bodies = files.map(|file| file.path());
    bodies
        .filter(|path| path.extension().is_some_and(|kind| kind == "body"))
        .collect()
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    // A stop that waits for the connection waits longer than a test's patience.
    let (_upstream, mut pond, _film) = stored_with(&[("grace", "1h")]);
    let mut client = Client::connect(pond.address());
    client.ask("GET", "/film", &[("Range", "bytes=0-9")]);
    client.read_head();
    client.read(10);
    let silent = TcpStream::connect(pond.address()).expect("connected");
    let (stopped, is_stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        pond.stop();
        let _ = stopped.send(());
    });
    is_stopped.recv_timeout(crate::support::PATIENCE).expect("stopped");
    drop(silent);
}

#[test]
fn a_stalled_reader_holds_little_kernel_memory() {
    const LONG: u64 = 64 << 20;
    const MOST: u64 = 1 << 20;
    let upstream = serving(&Film::new(LONG));
    let pond = Pond::before(&upstream);
    // While it comes, and when it is stored.
    for _ in 0..2 {
        let mut client = Client::connect(pond.address());
        client.ask("GET", "/film", &[]);
        client.read_head();
        pond.until_state("complete");
        let queued = queued(pond.address().port());
        assert!((1..=MOST).contains(&queued), "{queued} bytes wait in the kernel");
    }
}

/// The bytes that the kernel holds to be sent from a port, as /proc/net/tcp tells.
fn queued(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let local = format!(":{port:04X}");
    let mut total = 0;
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[1].ends_with(&local) {
            let waiting = words[4].split(':').next().expect("a queue");
            total += u64::from_str_radix(waiting, 16).expect("a number");
        }
    }
    total
}

#[test]
fn the_close_of_a_client_with_unread_input_is_noticed() {
    let film = Film::new(LEN);
    let valve = Valve::new(0);
    let upstream = Upstream::limited(&film, valve, 0);
    let pond = Pond::before(&upstream);
    let readers = || {
        let fills = get(pond.address(), "/-/api/v1/fills").json();
        fills["fills"][0]["readers"].as_u64()
    };
    let mut client = TcpStream::connect(pond.address()).expect("connected");
    client
        .write_all(b"GET /film HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    eventually("it waits", || readers() == Some(1));
    // Not with the request: what comes now lies in the socket while nobody reads it.
    client.write_all(b"GET /film HTTP/1.1\r\nHo").expect("sent");
    drop(client);
    eventually("it is noticed that it has left", || readers() == Some(0));
}
