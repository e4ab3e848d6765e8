//! The right column of the table of deliveries: capped, and `Prefer: wait=N`.

use crate::support::{Answer, Client, Film, Pond, Upstream, Valve, eventually, get, get_range, request};
use std::time::{Duration, Instant};

const LEN: u64 = 4_000_000;
const HERE: u64 = 1_000_000;

/// A capped pond with the first bytes here and the upstream holding the rest.
fn partly() -> (Film, Valve, Upstream, Pond) {
    let film = Film::new(LEN);
    let valve = Valve::new(HERE);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::with(&upstream, &[("delivery", "capped")]);
    let first = get(pond.address(), "/film");
    first.expect(503);
    pond.until_present(HERE);
    (film, valve, upstream, pond)
}

fn retry_after(answer: &Answer) -> u64 {
    answer
        .header("retry-after")
        .and_then(|after| after.parse().ok())
        .expect("a Retry-After")
}

#[test]
fn a_range_ends_at_the_last_contiguous_byte_with_the_true_total() {
    let (film, _valve, _upstream, pond) = partly();
    for (range, start, end) in [
        ("bytes=0-", 0, HERE),
        ("bytes=500000-", 500_000, HERE),
        ("bytes=500000-3999999", 500_000, HERE),
        ("bytes=10-19", 10, 20),
    ] {
        let answer = get_range(pond.address(), "/film", range);
        answer.expect(206);
        let content_range = format!("bytes {start}-{}/{LEN}", end - 1);
        assert_eq!(answer.header("content-range"), Some(content_range.as_str()), "{range}");
        film.check(start, &answer.body);
        assert_eq!(answer.body.len() as u64, end - start);
    }
}

#[test]
fn a_start_not_here_is_503_and_the_fill_goes_there() {
    let (film, valve, upstream, pond) = partly();
    let answer = get_range(pond.address(), "/film", "bytes=3000000-");
    answer.expect(503);
    assert!(retry_after(&answer) >= 1);
    upstream.wait_for_requests(2);
    assert_eq!(upstream.requests()[1].range(LEN), Some((3_000_000, LEN)));
    valve.allow(LEN * 2);
    eventually("the far bytes", || {
        get_range(pond.address(), "/film", "bytes=3000000-3000999").status == 206
    });
    let far = get_range(pond.address(), "/film", "bytes=3000000-3000999");
    film.check(3_000_000, &far.body);
}

#[test]
fn a_start_past_the_end_is_416_at_once() {
    let (_film, _valve, _upstream, pond) = partly();
    let answer = get_range(pond.address(), "/film", "bytes=4000000-");
    answer.expect(416);
    assert_eq!(answer.header("content-range"), Some("bytes */4000000"));
}

#[test]
fn no_range_is_503_while_incomplete_then_200() {
    let (film, valve, _upstream, pond) = partly();
    assert!(retry_after(get(pond.address(), "/film").expect(503)) >= 1);
    valve.allow(LEN);
    pond.until_state("complete");
    let whole = get(pond.address(), "/film");
    whole.expect(200);
    film.check(0, &whole.body);
}

#[test]
fn an_unknown_length_is_503_until_it_is_known() {
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
    let pond = Pond::with(&upstream, &[("delivery", "capped")]);
    get(pond.address(), "/film").expect(503);
    get_range(pond.address(), "/film", "bytes=0-99").expect(503);
    valve.allow(LEN);
    pond.until_state("complete");
    get_range(pond.address(), "/film", "bytes=0-99").expect(206);
    get(pond.address(), "/film").expect(200);
}

#[test]
fn with_the_upstream_gone_present_bytes_are_206_and_others_503() {
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
            conn.body(&served, 0, HERE);
            conn.close();
        } else {
            conn.reset();
        }
    });
    let pond = Pond::with(&upstream, &[("delivery", "capped"), ("hold_limit", "1s")]);
    let _ = get_range(pond.address(), "/film", "bytes=0-");
    pond.until_present(HERE);
    let answer = get_range(pond.address(), "/film", "bytes=900000-");
    answer.expect(206);
    assert_eq!(answer.header("content-range"), Some("bytes 900000-999999/4000000"));
    get_range(pond.address(), "/film", "bytes=2000000-").expect(503);
}

#[test]
fn prefer_wait_waits_no_longer_than_it_says_and_is_echoed() {
    let film = Film::new(LEN);
    let valve = Valve::new(HERE);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    // The server's own delivery is follow: the preference alone chooses.
    let pond = Pond::with(&upstream, &[("header_wait", "1h")]);
    let _reader = Client::open(pond.address(), "GET", "/film", &[]);
    pond.until_present(HERE);
    let now = request(
        pond.address(),
        "GET",
        "/film",
        &[("Range", "bytes=0-"), ("Prefer", "wait=0")],
    );
    now.expect(206);
    assert_eq!(now.header("content-range"), Some("bytes 0-999999/4000000"));
    assert_eq!(now.header("preference-applied"), Some("wait=0"));
    let started = Instant::now();
    let later = request(
        pond.address(),
        "GET",
        "/film",
        &[("Range", "bytes=2000000-"), ("Prefer", "wait=1")],
    );
    later.expect(503);
    assert_eq!(later.header("preference-applied"), Some("wait=1"));
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    // With time enough the answer is the full one.
    let address = pond.address();
    let patient = std::thread::spawn(move || {
        request(
            address,
            "GET",
            "/film",
            &[("Range", "bytes=500000-1999999"), ("Prefer", "wait=30")],
        )
    });
    valve.allow(LEN * 2);
    let patient = patient.join().expect("answered");
    patient.expect(206);
    assert_eq!(patient.header("content-range"), Some("bytes 500000-1999999/4000000"));
    film.check(500_000, &patient.body);
}

/// The answer's Retry-After and the time after which it could really be answered.
fn estimate_and_truth(pond: &Pond, range: Option<&str>) -> (f64, f64) {
    let headers: Vec<(&str, &str)> = range.map(|range| ("Range", range)).into_iter().collect();
    let estimate = retry_after(&request(pond.address(), "GET", "/film", &headers)) as f64;
    let started = Instant::now();
    eventually("an answer", || {
        request(pond.address(), "GET", "/film", &headers).status != 503
    });
    (estimate, started.elapsed().as_secs_f64())
}

#[track_caller]
fn within_a_factor_of_two(estimate: f64, truth: f64) {
    assert!(
        estimate <= truth * 2.0 && estimate >= truth / 2.0,
        "Retry-After {estimate}, truth {truth}"
    );
}

#[test]
fn retry_after_for_the_whole_is_within_a_factor_of_two() {
    let film = Film::new(LEN);
    let upstream = Upstream::limited(&film, Valve::open(), 500_000);
    let pond = Pond::with(&upstream, &[("delivery", "capped")]);
    get(pond.address(), "/film").expect(503);
    pond.until_present(HERE);
    let (estimate, truth) = estimate_and_truth(&pond, None);
    within_a_factor_of_two(estimate, truth);
}

#[test]
fn retry_after_for_a_far_start_without_ranges_is_within_a_factor_of_two() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::start(Valve::open(), 500_000, move |_, conn| {
        conn.head(
            200,
            &[
                ("ETag", "\"edition-1\"".to_owned()),
                ("Content-Length", LEN.to_string()),
            ],
        );
        conn.body(&served, 0, LEN);
    });
    let pond = Pond::with(&upstream, &[("delivery", "capped")]);
    get(pond.address(), "/film").expect(503);
    pond.until_present(HERE);
    let (estimate, truth) = estimate_and_truth(&pond, Some("bytes=3500000-3500099"));
    within_a_factor_of_two(estimate, truth);
}
