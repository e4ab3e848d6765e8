//! Fills whose readers have left, pause, or read on slowly.

use crate::support::{Client, Film, Pond, Upstream, Valve, eventually, get, get_range};

const LEN: u64 = 8_000_000;

/// Reads so many bytes of the film, which come only then, and leaves.
fn read_and_leave(pond: &Pond, film: &Film, path: &str, valve: &Valve, bytes: usize) {
    valve.allow(bytes as u64);
    let mut reader = Client::open(pond.address(), "GET", path, &[]);
    film.check(0, &reader.read(bytes));
}

fn fills(pond: &Pond) -> usize {
    let fills = get(pond.address(), "/-/api/v1/fills").json();
    fills["fills"].as_array().map_or(0, Vec::len)
}

#[test]
fn finish_completes_only_objects_past_its_threshold() {
    let film = Film::new(LEN);
    let valve = Valve::new(0);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::with(&upstream, &[("after_last_reader", "finish:50%,1MB")]);
    read_and_leave(&pond, &film, "/film", &valve, 1_000_000);
    eventually("the fill is over", || fills(&pond) == 0);
    assert_eq!(pond.object()["state"], "incomplete");
    let so_far = upstream.requests().len();
    let mut reader = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=1000000-")]);
    // The first connection may have taken a piece with it.
    valve.allow(3_700_000);
    film.check(1_000_000, &reader.read(3_500_000));
    drop(reader);
    // More than half is here: the rest is fetched for nobody.
    valve.allow(LEN);
    pond.until_state("complete");
    assert!(upstream.requests().len() > so_far);
}

#[test]
fn an_upstream_can_have_a_policy_of_its_own() {
    let film = Film::new(LEN);
    let valve = Valve::new(0);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let url = upstream.url();
    let pond = Pond::start(&[
        ("upstreams.brief.url", &url),
        ("upstreams.brief.after_last_reader", "stop"),
    ]);
    read_and_leave(&pond, &film, "/brief/film", &valve, 1_000_000);
    eventually("the fill is over", || fills(&pond) == 0);
    assert_eq!(pond.object()["state"], "incomplete");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn read_ahead_for_a_stalled_reader_is_bounded() {
    const LONG: u64 = 96 << 20;
    let film = Film::new(LONG);
    let upstream = Upstream::of(&film);
    let pond = Pond::with(&upstream, &[("read_ahead", "1s")]);
    let mut reader = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &reader.read(100_000));
    // Sockets take some megabytes of their own; then the reader stands, and so must the fill.
    let mut before = u64::MAX;
    eventually("nothing more is asked", || {
        let fill = get(pond.address(), "/-/api/v1/fills").json()["fills"][0].clone();
        let present = fill["present_bytes"].as_u64().expect("a number");
        let still = fill["sessions"].as_array().is_some_and(Vec::is_empty) && present == before;
        before = present;
        still
    });
    assert!(upstream.sent() < LONG / 2, "{}", upstream.sent());
    film.check(100_000, &reader.finish().body);
    let asked: Vec<_> = upstream.requests().iter().map(|seen| seen.range(LONG)).collect();
    // A reader that is ahead of a session by one large piece of the body gets no session of its own.
    assert_eq!(upstream.sent(), LONG, "{asked:?}");
}

#[test]
fn read_ahead_asks_in_pieces_that_never_overlap() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let pond = Pond::with(&upstream, &[("read_ahead", "1s"), ("after_last_reader", "stop")]);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    film.check(
        5_000_000,
        &get_range(pond.address(), "/film", "bytes=5000000-").expect(206).body,
    );
    let asked: Vec<_> = upstream.requests().iter().map(|seen| seen.range(LEN)).collect();
    assert_eq!(upstream.sent(), LEN, "{asked:?}");
}

#[test]
fn bytes_a_reader_received_are_stored_though_it_leaves_at_once() {
    let film = Film::new(LEN);
    for turn in 0..20 {
        let valve = Valve::new(0);
        let upstream = Upstream::limited(&film, valve.clone(), 0);
        let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
        // The reader is given bytes while they are being written, and is gone before they are.
        read_and_leave(&pond, &film, "/film", &valve, 500_000 + turn);
        pond.until_present(500_000 + turn as u64);
        assert_eq!(upstream.requests().len(), 1);
    }
}
