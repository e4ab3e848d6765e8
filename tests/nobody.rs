//! Promise 5: nobody cancels anybody, and nobody slows anybody.

use crate::support::{Client, Ended, Film, Pond, Upstream, Valve, eventually, get, get_range, request};

const LEN: u64 = 6_000_000;

#[test]
fn the_first_reader_leaves_and_the_second_gets_everything() {
    let film = Film::new(LEN);
    let valve = Valve::new(500_000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::before(&upstream);
    let mut first = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &first.read(1000));
    let address = pond.address();
    let second = std::thread::spawn(move || get(address, "/film"));
    eventually("the second reader", || pond.metric("millpond_collapsed_total") == 1);
    drop(first);
    valve.allow(LEN);
    let second = second.join().expect("answered");
    second.expect(200);
    film.check(0, &second.body);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_fill_goes_on_after_the_last_reader() {
    let film = Film::new(LEN);
    let valve = Valve::new(500_000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::before(&upstream);
    let mut only = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &only.read(1000));
    drop(only);
    valve.allow(LEN);
    pond.until_state("complete");
    eventually("the fill to end", || pond.metric("millpond_fills") == 0);
    assert_eq!(upstream.sent(), LEN);
}

#[test]
fn with_after_last_reader_stop_the_fill_stops_and_resumes() {
    let film = Film::new(LEN);
    let valve = Valve::new(500_000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    let mut only = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &only.read(1000));
    drop(only);
    // A reader that waits with nothing to write notices that its client has gone.
    eventually("the fill to end", || pond.metric("millpond_fills") == 0);
    valve.allow(LEN * 2);
    assert_eq!(pond.object()["state"], "incomplete");
    let kept = pond.object()["present_bytes"].as_u64().expect("a number");
    let whole = get(pond.address(), "/film");
    assert_eq!(whole.expect(200).body.len() as u64, LEN);
    film.check(0, &whole.body);
    let asked: Vec<_> = upstream.requests().iter().map(|seen| seen.range(LEN)).collect();
    assert_eq!(asked, [Some((0, LEN)), Some((kept, LEN))], "no byte came twice");
}

#[test]
fn bytes_of_a_reader_that_left_are_not_fetched_again() {
    // In no whole number of anything: the last of it was on its way to the disk.
    const HAD: u64 = 150_001;
    let film = Film::new(LEN);
    let valve = Valve::new(HAD);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    let mut only = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &only.read(HAD as usize));
    drop(only);
    eventually("the fill to end", || pond.metric("millpond_fills") == 0);
    valve.allow(LEN * 2);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    let asked: Vec<_> = upstream.requests().iter().map(|seen| seen.range(LEN)).collect();
    assert_eq!(asked, [Some((0, LEN)), Some((HAD, LEN))]);
}

#[test]
fn a_stalled_reader_does_not_delay_another() {
    let film = Film::new(LEN * 4);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    let mut slow = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &slow.read(10));
    // The slow one holds its connection and reads nothing more meanwhile.
    let whole = get(pond.address(), "/film");
    whole.expect(200);
    film.check(0, &whole.body);
    pond.until_state("complete");
    let rest = slow.read(1_000_000);
    film.check(10, &rest);
}

#[test]
fn a_far_reader_does_not_wait_behind_a_stalled_session() {
    let film = Film::new(LEN);
    let served = film.clone();
    // The connection of the first reader never gets past its first bytes.
    let upstream = Upstream::scripted(move |seen, conn| {
        let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
        if start == 0 {
            conn.head(
                206,
                &[
                    ("ETag", served.etag.clone().expect("a tag")),
                    ("Content-Length", LEN.to_string()),
                    ("Content-Range", format!("bytes 0-{}/{LEN}", end - 1)),
                ],
            );
            conn.body(&served, 0, 10_000);
            conn.stall();
        } else {
            conn.serve(&served, seen);
        }
    });
    let pond = Pond::before(&upstream);
    let mut first = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &first.read(10_000));
    let tail = get_range(pond.address(), "/film", "bytes=-5000");
    tail.expect(206);
    film.check(LEN - 5000, &tail.body);
}

#[test]
fn a_refused_seek_fails_only_its_reader() {
    let film = Film::new(LEN);
    let served = film.clone();
    // The first connection is served, slowly; every further one is turned away for ever.
    let upstream = Upstream::start(Valve::open(), 1_500_000, move |seen, conn| {
        if seen.number == 0 {
            conn.serve(&served, seen);
        } else {
            conn.head(
                503,
                &[
                    ("Retry-After", u64::MAX.to_string()),
                    ("Content-Length", "0".to_owned()),
                ],
            );
        }
    });
    let pond = Pond::with(&upstream, &[("hold_limit", "1s"), ("header_wait", "200ms")]);
    let address = pond.address();
    let first = std::thread::spawn(move || get(address, "/film"));
    pond.until_present(100_000);
    let seek = get_range(pond.address(), "/film", "bytes=5900000-");
    assert_eq!(seek.ended, Ended::Cut, "it was held for its time, then visibly broken");
    let first = first.join().expect("answered");
    first.expect(200);
    assert_eq!(first.body.len() as u64, LEN);
    film.check(0, &first.body);
}

#[test]
fn a_stalled_error_page_is_cut_and_delays_no_other_reader() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(404, &[("Content-Length", "1000".to_owned())]);
        conn.raw(b"so far");
        conn.stall();
    });
    let pond = Pond::with(&upstream, &[("read_idle_timeout", "1s")]);
    let address = pond.address();
    let other = std::thread::spawn(move || get(address, "/film"));
    let answer = get(pond.address(), "/film");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.text(), "so far");
    // The page ended short of its promised length, and the client sees that.
    assert_eq!(answer.ended, Ended::Cut);
    assert_eq!(other.join().expect("answered").status, 404);
}

/// An upstream that sends the whole whatever it is asked for, so many bytes a second.
fn without_ranges(film: &Film, rate: u64) -> Upstream {
    let film = film.clone();
    Upstream::start(Valve::open(), rate, move |_, conn| {
        let fields = [
            ("Content-Type", "video/mp4".to_owned()),
            ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT".to_owned()),
            ("Content-Length", film.len.to_string()),
        ];
        conn.head(200, &fields);
        conn.body(&film, 0, film.len);
    })
}

#[test]
fn a_probe_of_an_upstream_without_ranges_costs_no_second_fetch() {
    for (first, policy) in [("HEAD", "stop"), ("bytes=0-1", "stop"), ("HEAD", "complete")] {
        let film = Film::new(LEN);
        let upstream = without_ranges(&film, 2_000_000);
        let pond = Pond::with(&upstream, &[("after_last_reader", policy)]);
        match first {
            "HEAD" => assert_eq!(request(pond.address(), "HEAD", "/film.mp4", &[]).status, 200),
            range => film.check(0, &get_range(pond.address(), "/film.mp4", range).expect(206).body),
        }
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
        assert_eq!(
            (upstream.requests().len(), upstream.sent()),
            (1, film.len),
            "after {first}"
        );
    }
}

#[test]
fn an_abandoned_fill_ends_though_its_upstream_cannot_resume_it() {
    for first in ["HEAD", "GET"] {
        let film = Film::new(64 << 20);
        let upstream = without_ranges(&film, 2_000_000);
        let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
        let mut client = Client::open(pond.address(), first, "/film.mp4", &[]);
        if first == "GET" {
            film.check(0, &client.read(1000));
        }
        eventually("its head is here", || pond.metric("millpond_fills") == 1);
        drop(client);
        eventually("the fill to end", || pond.metric("millpond_fills") == 0);
        // Five seconds, or 16 MiB; what the sockets hold comes on top.
        assert!(upstream.sent() < 48 << 20, "{} bytes", upstream.sent());
    }
}

#[test]
fn with_stop_the_session_left_behind_by_a_seek_ends() {
    const LEN: u64 = 12_000_000;
    const PLACE: u64 = 6_000_000;
    let film = Film::new(LEN);
    let upstream = Upstream::limited(&film, Valve::open(), 1_000_000);
    let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    let mut start = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=0-")]);
    film.check(0, &start.read(100_000));
    drop(start);
    let range = format!("bytes={PLACE}-");
    film.check(PLACE, &get_range(pond.address(), "/film", &range).expect(206).body);
    // The session left behind would have brought as much again.
    let beside = upstream.sent() - (LEN - PLACE);
    assert!(beside < 3_000_000, "{beside} bytes");
}
