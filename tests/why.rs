//! Why a reader waits: in the API, in `Cache-Status`, in the metrics.

use crate::support::{Client, Film, Pond, Upstream, Valve, eventually, get};
use serde_json::Value;

const LEN: u64 = 8_000_000;

/// The first waiting reader of the only fill.
fn waiting(pond: &Pond) -> Value {
    let fills = get(pond.address(), "/-/api/v1/fills").json();
    fills["fills"][0]["waiting"][0].clone()
}

#[track_caller]
fn until_why(pond: &Pond, why: &str) -> Value {
    let mut last = Value::Null;
    eventually(why, || {
        last = waiting(pond);
        last["why"] == why
    });
    last
}

#[test]
fn a_slow_upstream_is_named_in_all_three_places() {
    let film = Film::new(LEN);
    let valve = Valve::new(0);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::with(&upstream, &[("header_wait", "50ms")]);
    let reader = Client::open(pond.address(), "GET", "/film", &[]);
    let status = reader.header("cache-status").expect("told").to_owned();
    assert!(status.contains("detail=upstream-slow"), "{status}");
    let line = until_why(&pond, "upstream-slow");
    assert_eq!(line["at"], 0);
    assert_eq!(pond.metric("millpond_waiting{why=\"upstream-slow\"}"), 1);
    let fill = get(pond.address(), "/-/api/v1/fills").json()["fills"][0].clone();
    assert_eq!(fill["complete_length"], LEN);
    assert_eq!(fill["readers"], 1);
    assert_eq!(fill["sessions"].as_array().map(Vec::len), Some(1));
    valve.allow(LEN);
    film.check(0, &reader.finish().body);
}

#[test]
fn a_full_budget_is_named() {
    let film = Film::new(LEN);
    let valve = Valve::new(100_000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::with(&upstream, &[("connections_per_upstream", "1"), ("header_wait", "50ms")]);
    let near = Client::open(pond.address(), "GET", "/film", &[]);
    let far = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=6000000-")]);
    assert!(far.header("cache-status").expect("told").contains("detail=budget"));
    eventually("a reader that waits for the budget", || {
        let fills = get(pond.address(), "/-/api/v1/fills").json();
        let waiting = fills["fills"][0]["waiting"].as_array().expect("a list").clone();
        waiting
            .iter()
            .any(|line| line["at"] == 6_000_000 && line["why"] == "budget")
    });
    valve.allow(LEN * 2);
    film.check(0, &near.finish().body);
    film.check(6_000_000, &far.finish().body);
}

#[test]
fn a_rest_after_failures_is_named_with_its_end() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => {
            conn.part_head(&served, 0, LEN);
            conn.body(&served, 0, 1_000_000);
            conn.close();
        }
        1 => conn.head(
            503,
            &[("Retry-After", "2".to_owned()), ("Content-Length", "0".to_owned())],
        ),
        _ => conn.serve(&served, seen),
    });
    let pond = Pond::before(&upstream);
    // The reader reads on: one that leaves present bytes unread waits for none.
    let reader = Client::open(pond.address(), "GET", "/film", &[]);
    let reading = std::thread::spawn(move || reader.finish());
    let line = until_why(&pond, "backoff");
    assert_eq!(line["at"], 1_000_000);
    assert!(line["until_ms"].as_u64().is_some_and(|rest| rest <= 2000), "{line}");
    film.check(0, &reading.join().expect("read").body);
}

#[test]
fn an_upstream_without_ranges_is_named_with_how_far_it_is() {
    let film = Film::new(LEN);
    let served = film.clone();
    let valve = Valve::new(300_000);
    let upstream = Upstream::start(valve.clone(), 0, move |_, conn| {
        conn.head(
            200,
            &[
                ("ETag", "\"edition-1\"".to_owned()),
                ("Content-Length", LEN.to_string()),
            ],
        );
        conn.body(&served, 0, LEN);
    });
    let pond = Pond::with(&upstream, &[("header_wait", "50ms")]);
    let far = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=7000000-")]);
    eventually("the line has come to 300000", || {
        let line = waiting(&pond);
        line["why"] == "no-ranges" && line["of"] == 7_000_000 && line["at"] == 300_000
    });
    valve.allow(LEN);
    film.check(7_000_000, &far.finish().body);
}
