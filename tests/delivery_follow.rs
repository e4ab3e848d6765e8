//! The left column of the table of deliveries: follow.

use crate::support::{Client, Ended, Film, Pond, Upstream, Valve, eventually, get, get_range, request};
use std::net::TcpListener;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const LEN: u64 = 4_000_000;

/// A header that waits for so long does not come within a test's patience.
const NEVER: (&str, &str) = ("header_wait", "1h");

/// A pond whose upstream has let `bytes` through and holds the rest.
fn partly(bytes: u64) -> (Film, Valve, Upstream, Pond) {
    partly_with(bytes, &[])
}

/// The same with settings.
fn partly_with(bytes: u64, settings: &[(&str, &str)]) -> (Film, Valve, Upstream, Pond) {
    let film = Film::new(LEN);
    let valve = Valve::new(bytes);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::with(&upstream, settings);
    (film, valve, upstream, pond)
}

#[test]
fn every_kind_of_range_is_answered_in_full_while_the_object_is_incomplete() {
    for (range, start, end) in [
        ("bytes=0-", 0, LEN),
        ("bytes=1000000-", 1_000_000, LEN),
        ("bytes=1000000-2999999", 1_000_000, 3_000_000),
        ("bytes=3999000-9999999", 3_999_000, LEN),
        ("bytes=-5000", LEN - 5000, LEN),
    ] {
        let (film, valve, _upstream, pond) = partly(1000);
        let client = Client::open(pond.address(), "GET", "/film", &[("Range", range)]);
        assert_eq!(client.status, 206, "{range}");
        let content_range = format!("bytes {start}-{}/{LEN}", end - 1);
        assert_eq!(client.header("content-range"), Some(content_range.as_str()));
        assert_eq!(
            client.header("content-length"),
            Some((end - start).to_string().as_str())
        );
        assert_eq!(client.header("etag"), film.etag.as_deref());
        assert_eq!(client.header("content-type"), Some("video/mp4"));
        valve.allow(LEN * 3);
        let answer = client.finish();
        assert_eq!(answer.ended, Ended::Clean);
        film.check(start, &answer.body);
        assert_eq!(answer.body.len() as u64, end - start);
    }
}

#[test]
fn no_range_is_200_with_the_full_length() {
    let (film, valve, _upstream, pond) = partly(1000);
    let client = Client::open(pond.address(), "GET", "/film", &[]);
    assert_eq!(client.status, 200);
    assert_eq!(client.header("content-length"), Some("4000000"));
    assert_eq!(client.header("accept-ranges"), Some("bytes"));
    valve.allow(LEN);
    film.check(0, &client.finish().body);
}

#[test]
fn a_start_past_the_end_is_416_at_once() {
    let (_film, _valve, _upstream, pond) = partly_with(1000, &[NEVER]);
    let _first = Client::open(pond.address(), "GET", "/film", &[]);
    for range in ["bytes=4000000-", "bytes=5000000-6000000", "bytes=-0"] {
        let answer = get_range(pond.address(), "/film", range);
        answer.expect(416);
        assert_eq!(answer.header("content-range"), Some("bytes */4000000"), "{range}");
    }
}

#[test]
fn a_start_past_the_end_of_an_object_never_seen_is_416_too() {
    let (_film, valve, _upstream, pond) = partly(0);
    let answer = get_range(pond.address(), "/film", "bytes=4000000-");
    answer.expect(416);
    assert_eq!(answer.header("content-range"), Some("bytes */4000000"));
    valve.allow(LEN);
    get(pond.address(), "/film").expect(200);
}

#[test]
fn a_reader_beside_one_past_the_end_gets_206() {
    let film = Film::new(LEN);
    let served = film.clone();
    let all_there = Arc::new(Barrier::new(2));
    let first_is_held = Arc::clone(&all_there);
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            first_is_held.wait();
        }
        conn.serve(&served, seen);
    });
    let pond = Pond::before(&upstream);
    let mut past = Client::connect(pond.address());
    past.ask("GET", "/film", &[("Range", "bytes=4000000-")]);
    upstream.wait_for_requests(1);
    let mut inside = Client::connect(pond.address());
    inside.ask("GET", "/film", &[("Range", "bytes=1000-2999")]);
    let mut too = Client::connect(pond.address());
    too.ask("GET", "/film", &[("Range", "bytes=5000000-")]);
    eventually("three readers of one fill", || {
        get(pond.address(), "/-/api/v1/fills").json()["fills"][0]["readers"] == 3
    });
    all_there.wait();
    for mut client in [past, too] {
        client.read_head();
        let answer = client.finish();
        answer.expect(416);
        assert_eq!(answer.header("content-range"), Some("bytes */4000000"));
    }
    inside.read_head();
    let answer = inside.finish();
    answer.expect(206);
    film.check(1000, &answer.body);
}

#[test]
fn the_header_comes_after_the_set_wait_while_the_body_waits() {
    // The default keeps the promise of six seconds.
    let default = millpond::config::settings().find(|setting| setting.key == "header_wait");
    assert_eq!(default.map(|setting| setting.default), Some("5s"));
    // The other limits do not end the wait within a test's patience.
    let settings = [
        ("header_wait", "2s"),
        ("reply_timeout", "1h"),
        ("read_idle_timeout", "1h"),
    ];
    let (film, valve, _upstream, pond) = partly_with(0, &settings);
    let started = Instant::now();
    let client = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=2000000-")]);
    let waited = started.elapsed();
    assert_eq!(client.status, 206);
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    assert_eq!(client.header("content-range"), Some("bytes 2000000-3999999/4000000"));
    assert!(
        client
            .header("cache-status")
            .expect("told")
            .contains("detail=upstream-slow")
    );
    valve.allow(LEN * 2);
    let answer = client.finish();
    assert_eq!(answer.ended, Ended::Clean);
    film.check(2_000_000, &answer.body);
}

#[test]
fn present_bytes_are_served_while_the_upstream_is_gone() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(
                206,
                &[
                    ("ETag", served.etag.clone().expect("a tag")),
                    ("Content-Length", LEN.to_string()),
                    ("Content-Range", format!("bytes 0-{}/{LEN}", LEN - 1)),
                ],
            );
            conn.body(&served, 0, 1_000_000);
            conn.close();
        } else {
            conn.reset();
        }
    });
    let pond = Pond::with(&upstream, &[("hold_limit", "1s"), ("header_wait", "500ms")]);
    assert_eq!(get(pond.address(), "/film").ended, Ended::Cut);
    let inside = get_range(pond.address(), "/film", "bytes=500000-999999");
    inside.expect(206);
    film.check(500_000, &inside.body);
    // The full promise is made, kept as far as it goes, and then visibly broken.
    let across = get_range(pond.address(), "/film", "bytes=900000-1999999");
    assert_eq!((across.status, across.ended), (206, Ended::Cut));
    assert_eq!(across.header("content-length"), Some("1100000"));
    film.check(900_000, &across.body);
    assert_eq!(across.body.len(), 100_000);
}

#[test]
fn a_refusal_while_the_header_waits_becomes_the_status() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.serve(&served, seen);
        } else {
            conn.head(403, &[("Content-Length", "6".to_owned())]);
            conn.raw(b"expiry");
        }
    });
    let pond = Pond::with(&upstream, &[NEVER]);
    // The head is known and one byte is here; the rest is refused.
    request(pond.address(), "HEAD", "/film", &[]).expect(200);
    let refused = get_range(pond.address(), "/film", "bytes=2000000-");
    refused.expect(403);
    assert_eq!(refused.text(), "expiry");
    // Present bytes are still served.
    get_range(pond.address(), "/film", "bytes=0-0").expect(206);
}

#[test]
fn an_unreachable_upstream_is_502_with_a_problem() {
    let free = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let pond = Pond::start(&[("upstream", &format!("http://{free}/"))]);
    let answer = get(pond.address(), "/film");
    answer.expect(502);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["status"], 502);
    assert!(problem["detail"].as_str().expect("text").contains(&free.to_string()));
}

#[test]
fn a_silent_upstream_is_504() {
    let upstream = Upstream::scripted(|_, conn| conn.stall());
    let pond = Pond::with(&upstream, &[("reply_timeout", "300ms")]);
    get(pond.address(), "/film").expect(504);
}

#[test]
fn an_unknown_length_is_200_chunked_without_ranges() {
    let film = Film::new(LEN);
    let valve = Valve::new(100_000);
    let served = film.clone();
    let upstream = Upstream::start(valve.clone(), 0, move |_, conn| {
        conn.head(
            200,
            &[
                ("Transfer-Encoding", "chunked".to_owned()),
                ("ETag", "\"edition-1\"".to_owned()),
            ],
        );
        conn.chunk(&served, 0, LEN);
        conn.raw(b"0\r\n\r\n");
    });
    let pond = Pond::before(&upstream);
    let client = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=1000-")]);
    assert_eq!(client.status, 200);
    assert_eq!(client.header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.header("accept-ranges"), None);
    assert_eq!(client.header("content-range"), None);
    valve.allow(LEN);
    let answer = client.finish();
    assert_eq!(answer.ended, Ended::Clean);
    film.check(0, &answer.body);
    assert_eq!(answer.body.len() as u64, LEN);
    pond.until_state("complete");
    get_range(pond.address(), "/film", "bytes=1000-").expect(206);
}

#[test]
fn head_tells_the_length_and_fetches_no_film() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    let answer = request(pond.address(), "HEAD", "/film", &[]);
    answer.expect(200);
    assert_eq!(answer.header("content-length"), Some("4000000"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    // On a connection that lives on, the next answer follows at once: nothing was waited for.
    let mut client = Client::connect(pond.address());
    for _ in 0..3 {
        client.ask("HEAD", "/film", &[]);
        client.read_head();
        assert_eq!(client.status, 200);
    }
    eventually("the one byte", || upstream.sent() == 1);
    let whole = get(pond.address(), "/film");
    whole.expect(200);
    film.check(0, &whole.body);
    assert_eq!(upstream.sent(), LEN);
}
