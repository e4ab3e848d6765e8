//! The budget of an upstream, shared by all objects: connections, order, rests, an upstream that is down.

use crate::support::{Answer, Client, Film, Pond, Upstream, Valve, eventually, get, get_range};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LEN: u64 = 2_000_000;

#[test]
fn all_objects_together_keep_to_the_connections_of_their_upstream() {
    let film = Film::new(LEN);
    let served = film.clone();
    let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (here, peak) = (Arc::clone(&busy), Arc::clone(&most));
    let upstream = Upstream::start(Valve::open(), 8_000_000, move |seen, conn| {
        let now = here.fetch_add(1, Ordering::AcqRel) + 1;
        peak.fetch_max(now, Ordering::AcqRel);
        // Counted as ended before the last byte goes out: whoever has it may ask for the next.
        let (start, end) = seen.range(served.len).unwrap_or((0, served.len));
        conn.part_head(&served, start, end);
        conn.body(&served, start, end - 1);
        here.fetch_sub(1, Ordering::AcqRel);
        conn.body(&served, end - 1, end);
    });
    let pond = Pond::with(&upstream, &[("connections_per_upstream", "3")]);
    let address = pond.address();
    let readers: Vec<_> = (0..12)
        .map(|number| std::thread::spawn(move || get(address, &format!("/film-{number}"))))
        .collect();
    for reader in readers {
        film.check(0, &reader.join().expect("answered").expect(200).body);
    }
    assert_eq!(most.load(Ordering::Acquire), 3);
    assert_eq!(upstream.sent(), 12 * LEN);
}

#[test]
fn a_waiting_reader_preempts_a_fill_without_readers() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.target == "/wanted" {
            return conn.serve(&served, seen);
        }
        conn.part_head(&served, 0, LEN);
        conn.body(&served, 0, 50_000);
        conn.stall();
    });
    let settings = [("connections_per_upstream", "2"), ("read_idle_timeout", "1h")];
    let pond = Pond::with(&upstream, &settings);
    for name in ["/left-1", "/left-2"] {
        let mut reader = Client::open(pond.address(), "GET", name, &[]);
        film.check(0, &reader.read(50_000));
    }
    // Both connections are held by fills whose readers have left and whose upstream says nothing more.
    let wanted = get(pond.address(), "/wanted");
    film.check(0, &wanted.expect(200).body);
}

#[test]
fn an_object_that_says_retry_after_rests_and_keeps_nobody_from_the_others() {
    for status in [503, 429] {
        let film = Film::new(1000);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| match seen.target.as_str() {
            "/limited" => conn.head(
                status,
                &[("Retry-After", "30".to_owned()), ("Content-Length", "0".to_owned())],
            ),
            _ => conn.serve(&served, seen),
        });
        let pond = Pond::before(&upstream);
        let first = get(pond.address(), "/limited");
        assert_eq!(first.expect(status).header("retry-after"), Some("30"));
        let rest = seconds_to_rest(&get(pond.address(), "/limited"));
        assert!((25..=30).contains(&rest), "{rest}");
        assert_eq!(upstream.requests().len(), 1);
        film.check(0, &get(pond.address(), "/other").expect(200).body);
    }
}

/// The `Retry-After` of an answer that the upstream was not asked for.
fn seconds_to_rest(answer: &Answer) -> u64 {
    let rest = answer.expect(503).header("retry-after");
    rest.and_then(|rest| rest.parse().ok()).expect("seconds")
}

#[test]
fn two_objects_that_are_limited_rest_the_upstream_for_a_minute_at_most() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(
            429,
            &[("Retry-After", "3600".to_owned()), ("Content-Length", "0".to_owned())],
        );
    });
    let pond = Pond::before(&upstream);
    for name in ["/a", "/b"] {
        get(pond.address(), name).expect(429);
    }
    let rest = seconds_to_rest(&get(pond.address(), "/c"));
    assert!((55..=60).contains(&rest), "{rest}");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_503_in_mid_fill_is_waited_out() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => {
            conn.part_head(&served, 0, LEN);
            conn.body(&served, 0, 500_000);
            conn.close();
        }
        1 => conn.head(
            503,
            &[("Retry-After", "1".to_owned()), ("Content-Length", "0".to_owned())],
        ),
        _ => conn.serve(&served, seen),
    });
    let pond = Pond::before(&upstream);
    let started = Instant::now();
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    assert!(started.elapsed().as_millis() >= 1000, "{:?}", started.elapsed());
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn an_upstream_that_is_down_becomes_503_with_retry_after() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", nobody.local_addr().expect("bound"));
    drop(nobody);
    let pond = Pond::start(&[("upstream", &url), ("header_wait", "1ms")]);
    let mut statuses = Vec::new();
    eventually("503", || {
        let answer = get(pond.address(), "/film");
        statuses.push(answer.status);
        answer.status == 503 && answer.header("retry-after").is_some()
    });
    assert!(statuses.len() > 4, "{statuses:?}");
    assert!(statuses[..4].iter().all(|status| *status == 502), "{statuses:?}");
}

#[test]
fn an_upstream_that_sends_tiny_parts_is_not_hammered() {
    let film = Film::new(LEN);
    for cuts in [false, true] {
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
            if cuts {
                conn.part_head(&served, start, end);
                conn.body(&served, start, start + 100);
                conn.reset();
            } else {
                conn.part_head(&served, start, start + 100);
                conn.body(&served, start, start + 100);
            }
        });
        let pond = Pond::before(&upstream);
        let _reader = Client::open(pond.address(), "GET", "/film", &[]);
        let started = Instant::now();
        eventually("three seconds are over", || started.elapsed() >= Duration::from_secs(3));
        let requests = upstream.requests().len();
        assert!(requests < 25, "{requests} requests in three seconds (cuts: {cuts})");
    }
}

#[test]
fn many_tiny_ranges_out_of_order_are_merged_into_few_requests() {
    let film = Film::new(64 << 20);
    let upstream = Upstream::limited(&film, Valve::open(), 20_000_000);
    let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    let address = pond.address();
    let readers: Vec<_> = (0..16u64)
        .map(|worker| {
            let film = film.clone();
            std::thread::spawn(move || {
                for step in 0..16u64 {
                    // 256 reads of 4 KiB in 4 MiB, each in its turn far from the one before.
                    let at = (10 << 20) + ((worker * 16 + step) * 97 % 256) * (16 << 10);
                    let answer = get_range(address, "/film", &format!("bytes={at}-{}", at + 4095));
                    film.check(at, &answer.expect(206).body);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().expect("answered");
    }
    let requests = upstream.requests().len();
    assert!(requests <= 64, "{requests} requests for 256 reads");
    assert!(upstream.sent() <= 5 << 20, "{}", upstream.sent());
}

#[test]
fn bytes_and_requests_a_second_keep_to_their_settings() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let pond = Pond::with(&upstream, &[("bytes_per_second", "2MB"), ("requests_per_second", "2")]);
    let started = Instant::now();
    get(pond.address(), "/film").expect(200);
    let took = started.elapsed().as_secs_f64();
    // The last batch is handed over before its time is up.
    assert!((0.4..3.0).contains(&took), "{took}");
    let started = Instant::now();
    for number in 0..4 {
        get_range(pond.address(), &format!("/other-{number}"), "bytes=0-99").expect(206);
    }
    assert!(started.elapsed().as_secs_f64() >= 0.9, "{:?}", started.elapsed());
}
