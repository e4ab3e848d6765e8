//! Streams: read once to their end, whoever leaves; joined anywhere; ended truly.

use crate::cli::Program;
use crate::support::upstream::{Conn, Seen};
use crate::support::{Client, Ended, Film, Pond, Upstream, Valve, eventually, get, request, rule};
use millpond::clock::{ManualClock, from_unix_seconds};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A minute of a stream, a sixtieth of it at a time.
const MINUTE: u64 = 1_200_000;
const SECOND: u64 = MINUTE / 60;

/// An upstream that sends chunks of a second each, as the valve allows, and then ends as it should.
fn radio(film: &Film, valve: &Valve) -> Upstream {
    paced(film, valve, 0)
}

/// As `radio`, at so many bytes a second.
fn paced(film: &Film, valve: &Valve, rate: u64) -> Upstream {
    let film = film.clone();
    Upstream::start(valve.clone(), rate, move |_, conn| {
        conn.head(200, &chunked("audio/mpeg"));
        for second in 0..film.len / SECOND {
            if !conn.chunk(&film, second * SECOND, (second + 1) * SECOND) {
                return;
            }
        }
        conn.raw(b"0\r\n\r\n");
    })
}

/// The head of a stream in chunks; of a radio where it is audio.
fn chunked(media: &str) -> Vec<(&'static str, String)> {
    let mut head = vec![
        ("Content-Type", media.to_owned()),
        ("Transfer-Encoding", "chunked".to_owned()),
    ];
    if media.starts_with("audio/") {
        head.push(("icy-name", "A".to_owned()));
    }
    head
}

fn streams(address: SocketAddr) -> Vec<Value> {
    let list = rule(address, "GET", "/-/api/v1/streams", &[]);
    list.json()["streams"].as_array().expect("a list").clone()
}

/// The one stream there is.
fn the_stream(address: SocketAddr) -> Value {
    let list = streams(address);
    assert_eq!(list.len(), 1, "{list:?}");
    list[0].clone()
}

fn path(stream: &Value) -> String {
    stream["stream"].as_str().expect("a path").to_owned()
}

fn until_bytes(address: SocketAddr, bytes: u64) -> Value {
    let mut seen = Value::Null;
    eventually("bytes of the stream", || {
        seen = streams(address).first().cloned().unwrap_or_default();
        seen["bytes"].as_u64().unwrap_or_default() >= bytes
    });
    seen
}

fn until_state(address: SocketAddr, stream: &str, state: &str) -> Value {
    let status = format!("{stream}/status");
    let mut seen = Value::Null;
    eventually(&format!("the stream to be {state}"), || {
        seen = get(address, &status).json();
        seen["state"] == state
    });
    seen
}

fn from(offset: u64) -> String {
    format!("bytes={offset}-")
}

#[test]
fn a_stream_is_fetched_once_whichever_listeners_leave() {
    let film = Film::new(MINUTE);
    let valve = Valve::new(MINUTE / 6);
    let upstream = radio(&film, &valve);
    let pond = Pond::with(&upstream, &[("stream_burst", "1B")]);
    let address = pond.address();
    let mut first = Client::open(address, "GET", "/live", &[]);
    assert_eq!((first.status, first.header("content-type")), (200, Some("audio/mpeg")));
    assert_eq!((first.header("etag"), first.header("accept-ranges")), (None, None));
    film.check(0, &first.read_stream((MINUTE / 6) as usize));
    drop(first);
    // A listener that takes a KiB at a time, from the start.
    let stream = path(&the_stream(address));
    let mut slow = Client::open(address, "GET", &stream, &[]);
    film.check(0, &slow.read_stream(1024));
    // A third is over: one joins where the stream is, another goes on from an offset.
    valve.allow(MINUTE / 6);
    until_bytes(address, MINUTE / 3);
    let tail = Client::open(address, "GET", "/live", &[]);
    let joined: u64 = tail
        .header("stream-offset")
        .and_then(|at| at.parse().ok())
        .expect("an offset");
    assert!(joined + 1 >= MINUTE / 3, "{joined}");
    let range = from(123_456);
    let mut second = Client::open(address, "GET", &stream, &[("Range", &range)]);
    assert_eq!(second.status, 206);
    assert_eq!(second.header("content-range"), Some("bytes 123456-9007199254740991/*"));
    film.check(123_456, &second.read_stream(100_000));
    // At two thirds all leave.
    valve.allow(MINUTE / 3);
    film.check(223_456, &second.read_stream(100_000));
    film.check(1024, &slow.read_stream(1024));
    let mut tail = tail;
    film.check(joined, &tail.read_stream(50_000));
    drop((second, slow, tail));
    eventually("nobody to listen", || the_stream(address)["listeners"] == 0);
    valve.allow(MINUTE);
    let ended = until_state(address, &stream, "complete");
    assert_eq!(ended["bytes"], MINUTE);
    assert_eq!((upstream.requests().len(), upstream.sent()), (1, MINUTE));
    // A later reader gets the same bytes, now with a length.
    let whole = get(address, &stream);
    whole.expect(200);
    assert_eq!(whole.header("content-length"), Some("1200000"));
    film.check(0, &whole.body);
    let rest = request(address, "GET", &stream, &[("Range", "bytes=600001-")]);
    rest.expect(206);
    film.check(600_001, &rest.body);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn two_hundred_listeners_share_one_connection() {
    let film = Film::new(MINUTE);
    let valve = Valve::new(SECOND);
    let upstream = radio(&film, &valve);
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let mut first = Client::open(address, "GET", "/live", &[]);
    film.check(0, &first.read_stream(1));
    let mut others: Vec<Client> = (0..199).map(|_| Client::open(address, "GET", "/live", &[])).collect();
    eventually("all to listen", || the_stream(address)["listeners"] == 200);
    valve.allow(MINUTE);
    for other in &mut others {
        // Within the burst from the start on: all of it.
        film.check(0, &other.read_stream(MINUTE as usize));
    }
    film.check(1, &first.finish().body);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn listeners_that_wait_for_a_stream_to_begin_share_it() {
    let film = Film::new(SECOND);
    let valve = Valve::new(0);
    let upstream = {
        let film = film.clone();
        Upstream::start(valve.clone(), 0, move |_, conn| {
            // The upstream is silent before the valve opens: all listeners wait for the head.
            conn.wait_for_valve();
            conn.head(200, &chunked("audio/mpeg"));
            conn.chunk(&film, 0, SECOND);
            conn.stall();
        })
    };
    let pond = Pond::before(&upstream);
    let mut waiting: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Client::connect(pond.address());
            client.ask("GET", "/live", &[]);
            client
        })
        .collect();
    eventually("all to wait", || {
        get(pond.address(), "/-/api/v1/fills").json()["fills"][0]["readers"] == 50
    });
    valve.allow(SECOND + 1);
    for client in &mut waiting {
        client.read_head();
        film.check(0, &client.read_stream(SECOND as usize));
    }
    assert_eq!((upstream.requests().len(), streams(pond.address()).len()), (1, 1));
}

#[test]
#[ignore = "measures: scripts/check runs it by itself"]
fn stream_bytes_reach_a_listener_within_milliseconds() {
    let film = Film::new(MINUTE);
    let valve = Valve::new(0);
    let upstream = radio(&film, &valve);
    let pond = Pond::before(&upstream);
    let mut listener = Client::open(pond.address(), "GET", "/live", &[]);
    let mut delays: Vec<Duration> = (0..50)
        .map(|_| {
            let sent = Instant::now();
            valve.allow(1000);
            listener.read_stream(1000);
            sent.elapsed()
        })
        .collect();
    delays.sort_unstable();
    eprintln!("first byte: median {:?}, worst {:?}", delays[25], delays[49]);
    assert!(delays[25] <= Duration::from_millis(5), "{delays:?}");
}

#[test]
fn an_upstream_that_resets_half_way_leaves_a_partial_stream_and_broken_readers() {
    let film = Film::new(MINUTE);
    let upstream = {
        let film = film.clone();
        Upstream::scripted(move |_, conn| {
            conn.head(200, &chunked("audio/mpeg"));
            conn.chunk(&film, 0, MINUTE / 2);
            conn.reset();
        })
    };
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let reader = get(address, "/live");
    assert_eq!((reader.status, reader.ended), (200, Ended::Cut));
    film.check(0, &reader.body);
    let stream = path(&the_stream(address));
    let status = until_state(address, &stream, "partial");
    assert!(status["why"].as_str().is_some_and(|why| !why.is_empty()), "{status}");
    // A replay is as broken as the stream was.
    let replay = get(address, &stream);
    assert_eq!((replay.status, replay.ended), (200, Ended::Cut));
    assert_eq!(replay.body.len() as u64, status["bytes"].as_u64().expect("a number"));
    film.check(0, &replay.body);
    // The partial stream is no ordinary object: the next listener begins another stream.
    get(address, "/live");
    assert_eq!((upstream.requests().len(), streams(address).len()), (2, 2));
}

#[test]
fn a_closed_connection_is_no_end_unless_a_setting_says_so() {
    let script = |_: &Seen, conn: &mut Conn| {
        conn.head(
            200,
            &[
                ("Content-Type", "video/mp2t".to_owned()),
                ("Connection", "close".to_owned()),
            ],
        );
        conn.raw(&[0x47; 188 * 100]);
        conn.close();
    };
    for (setting, state) in [("false", "partial"), ("true", "complete")] {
        let upstream = Upstream::scripted(script);
        let pond = Pond::with(&upstream, &[("keep_unverified", setting)]);
        let answer = get(pond.address(), "/live");
        assert_eq!(answer.body.len(), 18_800);
        assert_eq!(answer.ended == Ended::Clean, state == "complete");
        until_state(pond.address(), &path(&the_stream(pond.address())), state);
    }
}

#[test]
fn a_complete_stream_becomes_an_ordinary_object() {
    let film = Film::new(MINUTE);
    let upstream = {
        let film = film.clone();
        Upstream::scripted(move |_, conn| {
            let mut head = chunked("audio/mpeg");
            head.push(("ETag", "\"a\"".to_owned()));
            conn.head(200, &head);
            conn.chunk(&film, 0, MINUTE);
            conn.raw(b"0\r\n\r\n");
        })
    };
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let first = get(address, "/live");
    first.expect(200);
    until_state(address, &path(&the_stream(address)), "complete");
    let url = format!("{}live", upstream.url()).parse().expect("a URL");
    let id = millpond::key::ObjectKey::of(&url).id();
    eventually("the log to be an object", || {
        get(address, &format!("/-/api/v1/objects/{id}")).json()["state"] == "complete"
    });
    let part = request(address, "GET", "/live", &[("Range", "bytes=1000-1999")]);
    part.expect(206);
    film.check(1000, &part.body);
    assert_eq!(
        (part.header("etag"), part.header("content-range")),
        (Some("\"a\""), Some("bytes 1000-1999/1200000"))
    );
    assert!(part.is_hit(), "{:?}", part.story());
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_kill_in_mid_stream_leaves_durable_bytes_to_be_replayed() {
    let film = Film::new(MINUTE);
    let upstream = paced(&film, &Valve::open(), 400_000);
    let dir = TempDir::new().expect("a directory");
    // The program dies when it has recorded progress for the third time.
    let program = Program::serve_and_die_at("recorded:3", dir.path(), &upstream, &[]);
    let mut reader = Client::open(program.address, "GET", "/live", &[]);
    let stream = path(&the_stream(program.address));
    let mut heard = 0;
    loop {
        let second = reader.read_stream(SECOND as usize);
        film.check(heard, &second);
        heard += second.len() as u64;
        if (second.len() as u64) < SECOND {
            break;
        }
    }
    drop(program);
    let program = Program::serve(dir.path(), &upstream, &[]);
    let status = get(program.address, &format!("{stream}/status")).json();
    assert_eq!(status["state"], "partial", "{status}");
    let replay = get(program.address, &stream);
    assert_eq!((replay.status, replay.ended), (200, Ended::Cut));
    film.check(0, &replay.body);
    let durable = replay.body.len() as u64;
    assert_eq!(status["bytes"].as_u64(), Some(durable), "{status}");
    // How much was recorded twice before depends on the disk; that it was does not.
    assert!(durable > 1000, "{durable} of {heard}");
    eprintln!("{durable} of {heard} bytes were durable");
    // A client that was cut goes on where it was.
    let range = from(durable - 1000);
    let rest = request(program.address, "GET", &stream, &[("Range", &range)]);
    assert_eq!((rest.status, rest.ended, rest.body.len()), (206, Ended::Cut, 1000));
    film.check(durable - 1000, &rest.body);
    program.kill();
}

#[test]
fn events_are_resumed_after_a_restart() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(200, &chunked("text/event-stream"));
        conn.raw(b"1c\r\nid: 1\ndata: a\n\nid: 2\ndata:\r\n5\r\n b\n\ni\r\n");
        conn.stall();
    });
    let mut pond = Pond::before(&upstream);
    let mut listener = Client::open(pond.address(), "GET", "/events", &[]);
    let sent = listener.read_stream(33);
    let stream = path(&the_stream(pond.address()));
    pond.restart();
    let rest = request(pond.address(), "GET", &stream, &[("Last-Event-ID", "1")]);
    assert_eq!((rest.body.as_slice(), rest.ended), (&sent[15..], Ended::Cut));
    let same = request(pond.address(), "GET", &stream, &[]);
    assert_eq!(same.body, sent);
}

#[test]
fn a_listener_that_the_window_has_left_behind_is_cut_and_can_go_on() {
    const LONG: u64 = 48 << 20;
    let film = Film::new(LONG);
    let valve = Valve::new(SECOND);
    let upstream = {
        let film = film.clone();
        Upstream::start(valve.clone(), 0, move |_, conn| {
            conn.head(200, &chunked("audio/mpeg"));
            conn.chunk(&film, 0, LONG);
            conn.stall();
        })
    };
    let pond = Pond::with(&upstream, &[("stream_window", "1MiB"), ("stream_burst", "1B")]);
    let address = pond.address();
    let mut slow = Client::open(address, "GET", "/live", &[]);
    film.check(0, &slow.read_stream(1));
    valve.allow(LONG);
    let stream = until_bytes(address, LONG);
    eventually("the window to move on", || {
        the_stream(address)["first"].as_u64().expect("a number") + (3 << 20) > LONG
    });
    let cut = slow.finish();
    assert_eq!(cut.ended, Ended::Cut, "{} bytes", cut.body.len());
    film.check(1, &cut.body);
    // The listener's place has left the window, and the 416 tells which bytes there are.
    let gone = request(address, "GET", &path(&stream), &[("Range", "bytes=5-")]);
    assert_eq!(gone.status, 416, "{}", gone.text());
    let first = the_stream(address)["first"].as_u64().expect("a number");
    assert!(gone.text().contains(&format!("bytes={first}-")), "{}", gone.text());
    let range = from(first);
    let mut again = Client::open(address, "GET", &path(&stream), &[("Range", &range)]);
    film.check(first, &again.read_stream((LONG - first) as usize));
    // The log takes no more on the disk than its window, and what is on its way.
    let used = get(address, "/-/api/v1/objects").json()["objects"][0]["present_bytes"].as_u64();
    assert!(used.is_some_and(|used| used <= 4 << 20), "{used:?}");
}

/// Audio with metadata after every `EVERY` bytes; the metadata says how many bytes of audio were before it.
const EVERY: usize = 1000;

fn icy(blocks: usize) -> Vec<u8> {
    let mut log = Vec::new();
    for block in 1..=blocks {
        log.extend((0..EVERY).map(|index| ((block * EVERY + index) % 251) as u8));
        let mut title = format!("StreamTitle='{block}';").into_bytes();
        let length = title.len().div_ceil(16) * usize::from(block % 3 == 0);
        title.resize(length * 16, 0);
        log.push(length as u8);
        log.extend(title);
    }
    log
}

#[test]
fn a_late_listener_with_metadata_joins_at_a_metadata_boundary() {
    let log = icy(300);
    let valve = Valve::new(0);
    let upstream = {
        let log = log.clone();
        Upstream::scripted(move |seen, conn| {
            let with = seen.header("icy-metadata") == Some("1");
            let mut head = vec![("Content-Type", "audio/mpeg".to_owned()), ("icy-name", "A".to_owned())];
            if with {
                head.push(("icy-metaint", EVERY.to_string()));
            }
            conn.head(200, &head);
            conn.raw(if with { &log } else { &[1; 5000] });
            conn.stall();
        })
    };
    drop(valve);
    let pond = Pond::with(&upstream, &[("stream_burst", "4KiB")]);
    let address = pond.address();
    let with = [("Icy-MetaData", "1")];
    let mut first = Client::open(address, "GET", "/live", &with);
    assert_eq!(first.header("icy-metaint"), Some("1000"));
    assert_eq!(first.read_stream(log.len()), log);
    until_bytes(address, log.len() as u64);
    let mut late = Client::open(address, "GET", "/live", &with);
    let at: usize = late
        .header("stream-offset")
        .and_then(|at| at.parse().ok())
        .expect("an offset");
    assert!(at > log.len() - 6000 && at < log.len(), "{at} of {}", log.len());
    let rest = late.read_stream(log.len() - at);
    assert_eq!(rest, log[at..]);
    // Counted from where it came in, the metadata is where it must be.
    let mut index = EVERY;
    while index < rest.len() {
        let length = usize::from(rest[index]) * 16;
        let text = &rest[index + 1..index + 1 + length];
        assert!(length == 0 || text.starts_with(b"StreamTitle='"), "{index}");
        index += 1 + length + EVERY;
    }
    assert_eq!(upstream.requests().len(), 1);
    // A listener that cannot read metadata gets a stream without it, which the next such listener shares.
    let mut plain = Client::open(address, "GET", "/live", &[]);
    assert_eq!(
        (plain.read_stream(5000), plain.header("icy-metaint")),
        (vec![1; 5000], None)
    );
    let mut another = Client::open(address, "GET", "/live", &[]);
    another.read_stream(1);
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn events_cut_a_hundred_times_are_neither_lost_nor_doubled() {
    const EVENTS: usize = 10_000;
    let upstream = Upstream::scripted(|_, conn| {
        let mut head = chunked("text/event-stream");
        head.push(("Cache-Control", "no-cache".to_owned()));
        conn.head(200, &head);
        for batch in 0..EVENTS / 100 {
            let events: String = (batch * 100..(batch + 1) * 100)
                .map(|id| format!("id: {id}\nevent: tick\ndata: {{\"n\": {id}}}\n\n"))
                .collect();
            conn.raw(format!("{:x}\r\n{events}\r\n", events.len()).as_bytes());
        }
        conn.stall();
    });
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let (mut seen, mut cuts, mut dice) = (Vec::new(), 0, 7u64);
    while seen.len() < EVENTS {
        let last = seen.last().map(usize::to_string);
        let fields: Vec<(&str, &str)> = last.iter().map(|id| ("Last-Event-ID", id.as_str())).collect();
        let mut client = Client::open(address, "GET", "/events", &fields);
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let take = if cuts < 100 {
            1 + (dice >> 33) as usize % 7000
        } else {
            10_000_000
        };
        let left: usize = (seen.len()..EVENTS)
            .map(|id| format!("id: {id}\nevent: tick\ndata: {{\"n\": {id}}}\n\n").len())
            .sum();
        let text = client.read_stream(take.min(left));
        // Only whole events count, as in a browser.
        let text = String::from_utf8(text).expect("text");
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        for event in whole.split("\n\n").filter(|event| !event.is_empty()) {
            let id = event
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("id: "))
                .expect("an id");
            seen.push(id.parse().expect("a number"));
        }
        cuts += 1;
    }
    assert!(cuts >= 100, "{cuts}");
    assert!(seen.iter().copied().eq(0..EVENTS), "lost or doubled after {cuts} cuts");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_request_outlives_its_client_and_the_same_key_is_one_request() {
    let film = Film::new(MINUTE);
    let valve = Valve::new(SECOND);
    let upstream = {
        let film = film.clone();
        Upstream::start(valve.clone(), 0, move |_, conn| {
            conn.head(200, &chunked("text/plain"));
            conn.chunk(&film, 0, MINUTE);
            conn.raw(b"0\r\n\r\n");
        })
    };
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let fields = [
        ("Prefer", "respond-async"),
        ("Idempotency-Key", "k1"),
        ("Content-Length", "5"),
    ];
    let ask = || {
        let mut client = Client::connect(address);
        client.ask("POST", "/generate", &fields);
        client.send(b"hello");
        client.read_head();
        client.finish()
    };
    let accepted = ask();
    assert_eq!(
        (accepted.status, accepted.header("preference-applied")),
        (202, Some("respond-async"))
    );
    let stream = accepted.header("location").expect("where").to_owned();
    assert_eq!(accepted.json()["stream"], stream);
    // A repeated request with the same key is the same request, and one with another body a mistake.
    assert_eq!(ask().header("location"), Some(stream.as_str()));
    for other in [Some("HELLO"), None] {
        let mut client = Client::connect(address);
        client.ask("POST", "/generate", &fields[..if other.is_some() { 3 } else { 2 }]);
        client.send(other.unwrap_or_default().as_bytes());
        client.read_head();
        let refused = client.finish();
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert!(refused.text().contains("Idempotency-Key"));
    }
    upstream.wait_for_requests(1);
    // Two read along; one from an offset.
    let mut reader = Client::open(address, "GET", &stream, &[]);
    film.check(0, &reader.read_stream(SECOND as usize));
    drop(reader);
    valve.allow(2 * MINUTE);
    until_state(address, &stream, "complete");
    let whole = get(address, &stream);
    whole.expect(200);
    film.check(0, &whole.body);
    assert_eq!((whole.body.len() as u64, upstream.requests().len()), (MINUTE, 1));
    assert_eq!(request(address, "DELETE", &stream, &[]).status, 409);
    // The answer to a POST is nobody's ordinary object.
    assert_eq!(upstream.requests()[0].method, "POST");
    get(address, "/generate");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_rule_makes_a_request_outlive_its_client() {
    let film = Film::new(MINUTE);
    let valve = Valve::new(SECOND);
    let upstream = {
        let film = film.clone();
        Upstream::start(valve.clone(), 0, move |_, conn| {
            conn.head(201, &chunked("application/json"));
            conn.chunk(&film, 0, MINUTE);
            conn.raw(b"0\r\n\r\n");
        })
    };
    let pond = Pond::with(&upstream, &[("detach", "/llm/*")]);
    let address = pond.address();
    let mut client = Client::connect(address);
    client.ask("POST", "/llm/chat", &[("Content-Length", "0")]);
    client.read_head();
    assert_eq!(
        (client.status, client.header("content-type")),
        (201, Some("application/json"))
    );
    let stream = client.header("content-location").expect("where").to_owned();
    film.check(0, &client.read_stream(1000));
    drop(client);
    valve.allow(MINUTE);
    until_state(address, &stream, "complete");
    let whole = get(address, &stream);
    assert_eq!((whole.status, whole.ended == Ended::Clean), (201, true));
    film.check(0, &whole.body);
}

#[test]
fn a_stream_is_stopped_even_before_the_upstream_has_answered() {
    let upstream = Upstream::scripted(|_, conn| conn.stall());
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let accepted = request(address, "GET", "/slow", &[("Prefer", "respond-async")]);
    assert_eq!(accepted.status, 202);
    let stream = accepted.header("location").expect("where").to_owned();
    let status = get(address, &format!("{stream}/status")).json();
    assert_eq!(status["state"], "opening", "{status}");
    let waiting = {
        let stream = stream.clone();
        thread::spawn(move || get(address, &stream))
    };
    let stopped = request(address, "DELETE", &stream, &[]);
    assert_eq!(stopped.status, 200, "{}", stopped.text());
    assert_eq!(
        (&stopped.json()["state"], &stopped.json()["stopped_by"]),
        (&"stopped".into(), &"127.0.0.1".into())
    );
    assert_eq!(request(address, "DELETE", &stream, &[]).status, 409);
    assert_eq!(waiting.join().expect("answered").status, 502);
    // An id that was never given is 404.
    let unknown = format!("/-/api/v1/streams/{:032x}", 7);
    for method in ["GET", "DELETE"] {
        assert_eq!(request(address, method, &unknown, &[]).status, 404);
    }
}

#[test]
fn a_stopped_stream_breaks_its_readers_and_keeps_its_bytes() {
    let film = Film::new(MINUTE);
    let valve = Valve::new(SECOND);
    let upstream = radio(&film, &valve);
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let mut reader = Client::open(address, "GET", "/live", &[]);
    film.check(0, &reader.read_stream(SECOND as usize));
    let stream = path(&the_stream(address));
    assert_eq!(request(address, "DELETE", &stream, &[]).status, 200);
    assert_eq!(reader.finish().ended, Ended::Cut);
    let replay = get(address, &stream);
    assert_eq!((replay.body.len() as u64, replay.ended), (SECOND, Ended::Cut));
    eventually("the upstream to be left", || pond.metric("millpond_fills") == 0);
}

#[test]
fn the_log_of_a_stream_is_removed_after_its_lifetime() {
    let clock = Arc::new(ManualClock::at(from_unix_seconds(1_000_000_000)));
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(200, &chunked("audio/mpeg"));
        conn.raw(b"5\r\nhello\r\n");
        conn.reset();
    });
    let settings = [("upstream", upstream.url()), ("stream_lifetime", "10m".to_owned())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let mut pond = Pond::start_at(&settings, Arc::clone(&clock) as _);
    get(pond.address(), "/live");
    let stream = path(&the_stream(pond.address()));
    until_state(pond.address(), &stream, "partial");
    clock.advance(Duration::from_secs(601));
    eventually("the log to go", || get(pond.address(), &stream).status == 410);
    assert_eq!(
        get(pond.address(), "/-/api/v1/objects").json()["objects"],
        serde_json::json!([])
    );
    // Also after a restart it is known that there was one.
    pond.restart();
    assert_eq!(get(pond.address(), &stream).status, 410);
    clock.advance(Duration::from_secs(8 * 24 * 3600));
    eventually("it to be forgotten", || get(pond.address(), &stream).status == 404);
}

#[test]
fn limits_end_a_stream_as_partial() {
    for (setting, value, why) in [
        ("stream_total", "200ms", "stream_total"),
        ("stream_unattended", "200ms", "stream_unattended"),
        ("stream_idle", "200ms", ""),
    ] {
        let upstream = Upstream::scripted(|_, conn| {
            conn.head(200, &chunked("audio/mpeg"));
            conn.raw(b"5\r\nhello\r\n");
            conn.stall();
        });
        let pond = Pond::with(&upstream, &[(setting, value)]);
        let mut reader = Client::open(pond.address(), "GET", "/live", &[]);
        assert_eq!(reader.read_stream(5), b"hello");
        if setting == "stream_unattended" {
            drop(reader);
        } else {
            assert_eq!(reader.finish().ended, Ended::Cut, "{setting}");
        }
        let stream = path(&the_stream(pond.address()));
        let status = until_state(pond.address(), &stream, "partial");
        assert!(
            status["why"].as_str().is_some_and(|told| told.contains(why)),
            "{status}"
        );
    }
}

/// An upstream of streams that never end, with what they say of themselves.
fn endless(fields: &'static [(&'static str, &'static str)]) -> Upstream {
    Upstream::scripted(move |_, conn| {
        let mut head = chunked("audio/mpeg");
        head.extend(fields.iter().map(|(name, value)| (*name, (*value).to_owned())));
        conn.head(200, &head);
        conn.raw(b"5\r\nhello\r\n");
        conn.stall();
    })
}

#[test]
fn a_stream_more_than_may_run_is_refused() {
    let upstream = endless(&[]);
    let pond = Pond::with(&upstream, &[("streams", "1")]);
    let address = pond.address();
    let mut first = Client::open(address, "GET", "/a", &[]);
    assert_eq!(first.read_stream(5), b"hello");
    let refused = request(address, "GET", "/b", &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(streams(address).len(), 1);
    // A refused client that comes back once the first stream has ended is served.
    drop(first);
    assert_eq!(request(address, "DELETE", &path(&the_stream(address)), &[]).status, 200);
    let mut second = Client::open(address, "GET", "/b", &[]);
    assert_eq!(second.read_stream(5), b"hello");
}

#[test]
fn streams_do_not_keep_others_from_their_upstream() {
    let film = Film::new(100_000);
    let upstream = {
        let film = film.clone();
        Upstream::scripted(move |seen, conn| {
            if seen.target == "/film" {
                return conn.serve(&film, seen);
            }
            conn.head(200, &chunked("audio/mpeg"));
            conn.raw(b"5\r\nhello\r\n");
            conn.stall();
        })
    };
    let pond = Pond::with(&upstream, &[("connections_per_upstream", "2")]);
    let listeners: Vec<Client> = (0..5)
        .map(|name| {
            let mut listener = Client::open(pond.address(), "GET", &format!("/live-{name}"), &[]);
            assert_eq!(listener.read_stream(5), b"hello");
            listener
        })
        .collect();
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    drop(listeners);
}

#[test]
fn a_radio_for_one_is_not_shared_because_it_also_says_no_store() {
    for (fields, ask) in [
        (&[("Cache-Control", "no-cache, no-store, private")][..], &[][..]),
        (&[("Cache-Control", "no-store"), ("Set-Cookie", "a=b")], &[]),
        (&[("Cache-Control", "no-store")], &[("Authorization", "Basic Zm9v")]),
    ] {
        let upstream = endless(fields);
        let pond = Pond::before(&upstream);
        let mut first = Client::open(pond.address(), "GET", "/mine", ask);
        assert_eq!(first.read_stream(5), b"hello");
        let mut second = Client::open(pond.address(), "GET", "/mine", &[]);
        assert_eq!(second.read_stream(5), b"hello");
        assert_eq!(upstream.requests().len(), 2, "{fields:?}");
    }
}

#[test]
fn a_radio_that_says_no_store_is_shared_also_after_a_head() {
    let upstream = endless(&[("Cache-Control", "no-cache, no-store"), ("icy-name", "A")]);
    let pond = Pond::before(&upstream);
    let address = pond.address();
    assert_eq!(request(address, "HEAD", "/live", &[]).status, 200);
    let listeners: Vec<Client> = (0..3)
        .map(|_| {
            let mut listener = Client::open(address, "GET", "/live", &[]);
            assert_eq!(listener.read_stream(5), b"hello");
            listener
        })
        .collect();
    assert_eq!((upstream.requests().len(), streams(address).len()), (2, 1));
    drop(listeners);
}

#[test]
fn a_detached_reply_to_a_clients_own_fields_is_not_shared() {
    let upstream = Upstream::scripted(|seen, conn| {
        let body = format!("for {}", seen.header("x-forwarded-host").unwrap_or("all"));
        let head = [
            ("Content-Type", "text/plain".to_owned()),
            ("Cache-Control", "max-age=600".to_owned()),
            ("Content-Length", body.len().to_string()),
        ];
        assert_eq!(
            seen.header("range")
                .filter(|_| seen.header("x-forwarded-host") == Some("evil")),
            None
        );
        conn.head(200, &head);
        conn.raw(body.as_bytes());
    });
    let pond = Pond::with(&upstream, &[("detach", "/own")]);
    let address = pond.address();
    let own = request(
        address,
        "GET",
        "/own",
        &[("X-Forwarded-Host", "evil"), ("Range", "bytes=2-")],
    );
    assert_eq!((own.status, own.text().as_str()), (200, "for evil"));
    let stream = own.header("content-location").expect("where").to_owned();
    until_state(address, &stream, "complete");
    // Of the log a part can be had.
    let part = request(address, "GET", &stream, &[("Range", "bytes=4-")]);
    assert_eq!((part.status, part.text().as_str()), (206, "evil"));
    let url = format!("{}own", upstream.url()).parse().expect("a URL");
    let id = millpond::key::ObjectKey::of(&url).id();
    eventually("the fill to end", || pond.metric("millpond_fills") == 0);
    assert_eq!(get(address, &format!("/-/api/v1/objects/{id}")).status, 404);
}

#[test]
fn the_id_of_a_stream_never_opens_another() {
    let upstream = Upstream::scripted(|seen, conn| {
        conn.head(200, &chunked("audio/mpeg"));
        conn.raw(format!("5\r\nrun {}\r\n0\r\n\r\n", seen.number).as_bytes());
    });
    let pond = Pond::before(&upstream);
    let address = pond.address();
    assert_eq!(get(address, "/live").text(), "run 0");
    let first = path(&the_stream(address));
    until_state(address, &first, "complete");
    eventually("the fill to end", || pond.metric("millpond_fills") == 0);
    let again = request(address, "GET", "/live", &[("Cache-Control", "no-cache")]);
    assert_eq!(again.text(), "run 1");
    eventually("the second log to take its place", || {
        let old = get(address, &first);
        assert!(
            old.status == 410 || old.text() == "run 0",
            "{} {}",
            old.status,
            old.text()
        );
        old.status == 410
    });
}

#[test]
fn a_window_in_time_moves_on_without_new_bytes() {
    const LONG: u64 = 4 << 20;
    let film = Film::new(LONG);
    let upstream = {
        let film = film.clone();
        Upstream::scripted(move |_, conn| {
            conn.head(200, &chunked("audio/mpeg"));
            conn.chunk(&film, 0, LONG);
            conn.stall();
        })
    };
    let pond = Pond::with(&upstream, &[("stream_window_time", "1s")]);
    let address = pond.address();
    let mut listener = Client::open(address, "GET", "/live", &[]);
    film.check(0, &listener.read_stream(LONG as usize));
    eventually("what is older than a second to go", || {
        the_stream(address)["first"].as_u64() == Some(LONG)
    });
    let gone = request(address, "GET", &path(&the_stream(address)), &[("Range", "bytes=0-")]);
    assert_eq!(gone.status, 416);
    eventually("its room to be given back", || {
        get(address, "/-/api/v1/objects").json()["objects"][0]["present_bytes"] == 0
    });
}

#[test]
fn a_stream_larger_than_the_quota_goes_on_in_a_smaller_window() {
    const LONG: u64 = 24 << 20;
    let film = Film::new(LONG);
    // Unread bytes may leave the window, so the valve lets come only what the listener then reads.
    let valve = Valve::new(0);
    let upstream = {
        let film = film.clone();
        Upstream::start(valve.clone(), 0, move |_, conn| {
            conn.head(200, &chunked("audio/mpeg"));
            conn.chunk(&film, 0, LONG);
            conn.raw(b"0\r\n\r\n");
        })
    };
    let pond = Pond::with(&upstream, &[("quota", "8MiB")]);
    let mut listener = Client::open(pond.address(), "GET", "/live", &[]);
    for piece in 0..LONG >> 20 {
        valve.allow(1 << 20);
        film.check(piece << 20, &listener.read_stream(1 << 20));
    }
    assert_eq!(listener.finish().ended, Ended::Clean);
    let stream = path(&the_stream(pond.address()));
    let status = until_state(pond.address(), &stream, "complete");
    let first = status["first"].as_u64().expect("a number");
    assert!(first > LONG - (8 << 20) && first < LONG, "{status}");
    // The bytes left in the window are served; those before them are 416.
    let range = from(first);
    let rest = request(pond.address(), "GET", &stream, &[("Range", &range)]);
    film.check(first, &rest.body);
    assert_eq!((rest.body.len() as u64, rest.ended), (LONG - first, Ended::Clean));
    assert_eq!(
        request(pond.address(), "GET", &stream, &[("Range", "bytes=1-")]).status,
        416
    );
}

#[test]
fn a_private_stream_is_not_shared() {
    let upstream = Upstream::scripted(|_, conn| {
        let mut head = chunked("audio/mpeg");
        head.push(("Cache-Control", "private".to_owned()));
        conn.head(200, &head);
        conn.raw(b"5\r\nhello\r\n");
        conn.stall();
    });
    let pond = Pond::before(&upstream);
    let mut first = Client::open(pond.address(), "GET", "/mine", &[]);
    assert_eq!(first.read_stream(5), b"hello");
    let mut second = Client::open(pond.address(), "GET", "/mine", &[]);
    assert_eq!(second.read_stream(5), b"hello");
    assert_eq!((upstream.requests().len(), streams(pond.address()).len()), (2, 0));
}

#[test]
fn a_head_begins_no_stream() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(200, &chunked("audio/mpeg"));
        conn.raw(b"5\r\nhello\r\n");
        conn.stall();
    });
    let pond = Pond::before(&upstream);
    let head = request(pond.address(), "HEAD", "/live", &[]);
    assert_eq!((head.status, head.header("content-type")), (200, Some("audio/mpeg")));
    assert_eq!(streams(pond.address()).len(), 0);
    let mut reader = Client::open(pond.address(), "GET", "/live", &[]);
    assert_eq!(reader.read_stream(5), b"hello");
}

#[test]
fn the_list_of_streams_is_refused_under_a_foreign_host() {
    let upstream = Upstream::scripted(|_, conn| conn.head(404, &[]));
    let pond = Pond::before(&upstream);
    let list = |host: &str| request(pond.address(), "GET", "/-/api/v1/streams", &[("Host", host)]).status;
    assert_eq!(list("evil.example"), 421);
    assert_eq!(list(&pond.address().to_string()), 403);
}

/// Anonymous memory of a program, in KiB.
fn anonymous_kib(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.child.id())).expect("running");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .expect("a figure");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
#[ignore = "measures: scripts/check runs it by itself"]
fn a_stream_takes_a_mebibyte_at_most_however_long_it_is() {
    const LONG: u64 = 6 << 20;
    const STREAMS: u64 = 24;
    let film = Film::new(LONG);
    let valve = Valve::new(0);
    let upstream = {
        let film = film.clone();
        // 4 Mbit/s each: what waits where the machine cannot keep up with them is not what a stream takes.
        Upstream::start(valve.clone(), 500_000, move |_, conn| {
            conn.head(200, &chunked("audio/mpeg"));
            conn.chunk(&film, 0, LONG);
            conn.stall();
        })
    };
    let dir = TempDir::new().expect("a directory");
    let more = [
        // The memory of streams is measured, not what the allocator keeps for each thread that once held some of it.
        ("MALLOC_ARENA_MAX", "2"),
        ("MILLPOND_STREAM_WINDOW", "2MiB"),
        ("MILLPOND_CONNECTIONS_PER_UPSTREAM", "64"),
    ];
    let program = Program::serve_with(&more, dir.path(), &upstream);
    let address = program.address;
    let play = |names: std::ops::Range<u64>| {
        valve.allow(LONG * (names.end - names.start));
        let listeners: Vec<_> = names
            .map(|name| {
                let film = film.clone();
                thread::spawn(move || {
                    let mut listener = Client::open(address, "GET", &format!("/live-{name}"), &[]);
                    for piece in 0..LONG >> 20 {
                        film.check(piece << 20, &listener.read_stream(1 << 20));
                    }
                    listener
                })
            })
            .collect();
        let listeners: Vec<Client> = listeners
            .into_iter()
            .map(|listener| listener.join().expect("played"))
            .collect();
        listeners
    };
    // The threads and pools that any stream needs are there after the first.
    let first = play(0..2);
    let before = anonymous_kib(&program);
    let others = play(2..STREAMS);
    let each = anonymous_kib(&program).saturating_sub(before) / (STREAMS - 2);
    eprintln!("{each} KiB a stream of 6 MiB, beside {before} KiB");
    assert!(each <= 1024, "{each} KiB a stream");
    drop((first, others));
    program.kill();
}

#[test]
fn two_hundred_slow_listeners_take_a_bounded_memory() {
    const LONG: u64 = 32 << 20;
    let film = Film::new(LONG);
    let valve = Valve::new(1000);
    let upstream = {
        let film = film.clone();
        Upstream::start(valve.clone(), 0, move |_, conn| {
            conn.head(200, &chunked("audio/mpeg"));
            conn.chunk(&film, 0, LONG);
            conn.stall();
        })
    };
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    let listen = |count: usize| -> Vec<Client> {
        (0..count)
            .map(|_| Client::open(program.address, "GET", "/live", &[]))
            .collect()
    };
    let mut first = listen(1);
    film.check(0, &first[0].read_stream(1000));
    let before = anonymous_kib(&program);
    let others = listen(199);
    eventually("all to listen", || the_stream(program.address)["listeners"] == 200);
    // No listener reads: all wait with their buffers full.
    valve.allow(LONG);
    until_bytes(program.address, LONG);
    let more = anonymous_kib(&program).saturating_sub(before);
    eprintln!("200 listeners that do not read: {more} KiB more");
    assert!(more <= 64 * 1024, "{more} KiB");
    assert_eq!(upstream.requests().len(), 1);
    drop((first, others));
    program.kill();
}
