//! Oddities of upstreams: faults, and habits of some of them.

use crate::support::{Client, Ended, Film, Pond, Upstream, Valve, eventually, get, get_range};
use millpond::clock::{ManualClock, from_unix_seconds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LEN: u64 = 2_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(from_unix_seconds(1_800_000_000)))
}

fn targets(upstream: &Upstream) -> Vec<String> {
    upstream.requests().into_iter().map(|seen| seen.target).collect()
}

#[test]
fn a_redirect_target_is_remembered_and_renewed_after_a_403() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let redirect = |conn: &mut crate::support::upstream::Conn, to: &str| {
            conn.head(302, &[("Location", to.to_owned()), ("Content-Length", "0".to_owned())]);
        };
        match (seen.target.as_str(), seen.number) {
            ("/film", 0) => redirect(conn, "/cdn?token=1"),
            ("/film", _) => redirect(conn, "/cdn?token=2"),
            ("/cdn?token=1", 1) => {
                conn.part_head(&served, 0, LEN);
                conn.body(&served, 0, 500_000);
                conn.close();
            }
            ("/cdn?token=1", 2) => {
                let (start, end) = seen.range(LEN).expect("a range");
                conn.part_head(&served, start, end);
                conn.body(&served, start, start + 500_000);
                conn.close();
            }
            ("/cdn?token=1", _) => conn.head(403, &[("Content-Length", "0".to_owned())]),
            _ => conn.serve(&served, seen),
        }
    });
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    let wanted = [
        "/film",
        "/cdn?token=1",
        "/cdn?token=1",
        "/cdn?token=1",
        "/film",
        "/cdn?token=2",
    ];
    assert_eq!(targets(&upstream), wanted);
}

#[test]
fn signed_urls_of_a_film_share_its_key() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let pond = Pond::with(&upstream, &[("ignore_query", "sig,X-Amz-*")]);
    film.check(0, &get(pond.address(), "/film?sig=a&id=1").expect(200).body);
    pond.until_state("complete");
    let again = get(pond.address(), "/film?id=1&sig=b&X-Amz-Date=now");
    assert!(again.expect(200).is_hit(), "{:?}", again.headers);
    assert_eq!(targets(&upstream), ["/film?sig=a&id=1"]);
    assert!(!pond.object()["url"].as_str().expect("a URL").contains("sig"));
}

#[test]
fn a_signature_that_ends_in_mid_film_is_renewed_by_the_next_reader() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match (seen.target.as_str(), seen.number) {
        ("/film?sig=old", 0) => {
            conn.part_head(&served, 0, LEN);
            conn.body(&served, 0, 500_000);
            conn.close();
        }
        ("/film?sig=old", _) => conn.head(403, &[("Content-Length", "0".to_owned())]),
        _ => conn.serve(&served, seen),
    });
    let pond = Pond::with(&upstream, &[("ignore_query", "sig")]);
    let mut first = Client::open(pond.address(), "GET", "/film?sig=old", &[]);
    film.check(0, &first.read(500_000));
    upstream.wait_for_requests(2);
    film.check(
        1_000_000,
        &get_range(pond.address(), "/film?sig=new", "bytes=1000000-")
            .expect(206)
            .body,
    );
    let first = first.finish();
    assert_eq!(first.ended, Ended::Clean);
    film.check(500_000, &first.body);
    assert!(targets(&upstream).contains(&"/film?sig=new".to_owned()));
}

#[test]
fn an_invalid_signature_of_one_reader_does_not_stop_another() {
    let film = Film::new(LEN);
    let served = film.clone();
    let valve = Valve::new(600_000);
    let upstream = Upstream::start(valve.clone(), 0, move |seen, conn| {
        match (seen.target.as_str(), seen.number) {
            ("/film?sig=good", 0) => {
                conn.part_head(&served, 0, LEN);
                conn.body(&served, 0, 600_000);
                conn.close();
            }
            ("/film?sig=good", _) => conn.serve(&served, seen),
            _ => conn.head(403, &[("Content-Length", "0".to_owned())]),
        }
    });
    let pond = Pond::with(&upstream, &[("ignore_query", "sig")]);
    let mut first = Client::open(pond.address(), "GET", "/film?sig=good", &[]);
    film.check(0, &first.read(400_000));
    let mut second = Client::open(pond.address(), "GET", "/film?sig=bad", &[]);
    film.check(0, &second.read(400_000));
    valve.allow(LEN * 2);
    for reader in [first, second] {
        let rest = reader.finish();
        assert_eq!(rest.ended, Ended::Clean);
        film.check(400_000, &rest.body);
    }
}

#[test]
fn a_coded_body_is_passed_on_whole_and_never_stored_as_the_film() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(
            200,
            &[
                ("Content-Encoding", "gzip".to_owned()),
                ("ETag", "\"coded\"".to_owned()),
                ("Content-Length", "5".to_owned()),
            ],
        );
        conn.raw(b"coded");
    });
    let pond = Pond::before(&upstream);
    let answer = get_range(pond.address(), "/film", "bytes=1-2");
    assert_eq!(answer.expect(200).text(), "coded");
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.header("accept-ranges"), None);
    eventually("it is gone", || pond.object().is_null());
    assert_eq!(upstream.requests()[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn a_coded_206_is_refused_and_the_whole_is_asked_for() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.range(LEN) {
        Some((start, end)) => {
            conn.head(
                206,
                &[
                    ("Content-Encoding", "gzip".to_owned()),
                    ("ETag", "\"edition-1\"".to_owned()),
                    ("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)),
                    ("Content-Length", (end - start).to_string()),
                ],
            );
            conn.close();
        }
        None => conn.serve(&served, seen),
    });
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
}

#[test]
fn accept_ranges_none_is_believed() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(
            200,
            &[
                ("Accept-Ranges", "none".to_owned()),
                ("ETag", "\"edition-1\"".to_owned()),
                ("Content-Length", LEN.to_string()),
            ],
        );
        conn.body(&served, 0, LEN);
    });
    let pond = Pond::before(&upstream);
    film.check(
        1_900_000,
        &get_range(pond.address(), "/film", "bytes=1900000-").expect(206).body,
    );
    pond.until_state("complete");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn http_1_0_is_understood_with_and_without_a_length() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let length = if seen.target == "/sized" {
            format!("Content-Length: {LEN}\r\n")
        } else {
            String::new()
        };
        conn.raw(format!("HTTP/1.0 200 OK\r\n{length}ETag: \"edition-1\"\r\n\r\n").as_bytes());
        conn.body(&served, 0, LEN);
        conn.close();
    });
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/sized").expect(200).body);
    pond.until_state("complete");
    film.check(0, &get(pond.address(), "/unsized").expect(200).body);
}

#[test]
fn a_header_that_comes_in_drops_is_read_and_one_that_never_ends_is_504() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.target == "/never" {
            conn.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ");
            return conn.stall();
        }
        for piece in [&b"HTTP/1.1 20"[..], b"0 OK\r\nETag: \"edit", b"ion-1\"\r\nContent-Le"] {
            conn.raw(piece);
        }
        conn.raw(format!("ngth: {LEN}\r\n\r\n").as_bytes());
        conn.body(&served, 0, LEN);
    });
    let pond = Pond::with(&upstream, &[("reply_timeout", "500ms")]);
    film.check(0, &get(pond.address(), "/drops").expect(200).body);
    get(pond.address(), "/never").expect(504);
}

#[test]
fn a_claim_of_a_tebibyte_costs_nothing_but_what_is_read() {
    const TIB: u64 = 1 << 40;
    let film = Film::new(TIB);
    let upstream = Upstream::of(&film);
    let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    for range in [(0, 1000), (TIB - 1000, TIB), (TIB / 2, TIB / 2 + 1000)] {
        let answer = get_range(pond.address(), "/film", &format!("bytes={}-{}", range.0, range.1 - 1));
        film.check(range.0, &answer.expect(206).body);
    }
    assert!(upstream.sent() < 1 << 20, "{}", upstream.sent());
    assert_eq!(pond.object()["complete_length"], TIB);
    assert_eq!(pond.object()["state"], "incomplete");
}

#[test]
fn a_content_range_that_is_no_number_brings_no_byte() {
    let film = Film::new(LEN);
    for field in [
        "bytes 0-99/99999999999999999999999".to_owned(),
        "bytes -5-99/2000000".to_owned(),
        "bytes 18446744073709551615-18446744073709551615/*".to_owned(),
        "bytes 99-0/2000000".to_owned(),
        format!("bytes 0-{LEN}/{LEN}"),
    ] {
        let served = film.clone();
        let said = field.clone();
        let upstream = Upstream::scripted(move |seen, conn| match seen.range(LEN) {
            Some(_) => {
                conn.head(
                    206,
                    &[
                        ("ETag", "\"edition-1\"".to_owned()),
                        ("Content-Range", said.clone()),
                        ("Content-Length", "100".to_owned()),
                    ],
                );
                conn.close();
            }
            None => conn.serve(&served, seen),
        });
        let pond = Pond::before(&upstream);
        film.check(0, &get(pond.address(), "/film").expect(200).body);
        assert_eq!(upstream.requests().len(), 2, "{field}");
    }
}

fn page(conn: &mut crate::support::upstream::Conn) {
    conn.head(
        200,
        &[
            ("Content-Type", "text/html; charset=utf-8".to_owned()),
            ("ETag", "\"page\"".to_owned()),
            ("Content-Length", "6".to_owned()),
        ],
    );
    conn.raw(b"log in");
}

#[test]
fn an_error_page_with_200_does_not_take_the_place_of_a_stored_film() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => conn.serve(&served, seen),
        _ => page(conn),
    });
    let clock = clock();
    let pond = Pond::with_clock(&upstream, Arc::clone(&clock));
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    clock.advance(HOUR * 2);
    for _ in 0..2 {
        let kept = get(pond.address(), "/film");
        film.check(0, &kept.expect(200).body);
        assert!(kept.story().expect("told").contains("not-revalidated"));
    }
}

#[test]
fn a_412_on_resume_is_taken_for_a_changed_film() {
    let (old, new) = (Film::edition(LEN, 1), Film::edition(LEN, 2));
    let upstream = Upstream::scripted(move |seen, conn| match (seen.number, seen.header("if-range")) {
        (0, _) => {
            conn.part_head(&old, 0, LEN);
            conn.body(&old, 0, 500_000);
            conn.close();
        }
        (_, Some(_)) => conn.head(412, &[("Content-Length", "0".to_owned())]),
        _ => conn.serve(&new, seen),
    });
    let pond = Pond::before(&upstream);
    let first = get(pond.address(), "/film");
    assert_eq!((first.status, first.ended), (200, Ended::Cut));
    Film::edition(LEN, 1).check(0, &first.body);
    let second = get(pond.address(), "/film");
    Film::edition(LEN, 2).check(0, &second.expect(200).body);
}

#[test]
fn an_error_page_in_mid_film_is_waited_out() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => {
            conn.part_head(&served, 0, LEN);
            conn.body(&served, 0, 500_000);
            conn.close();
        }
        1 | 2 => page(conn),
        _ => conn.serve(&served, seen),
    });
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    assert_eq!(upstream.requests().len(), 4);
}

/// Serves the film under a weak tag and a `Last-Modified` of 1994, with ranges, and cuts the first reply.
fn weakly(film: &Film) -> Upstream {
    let film = film.clone();
    Upstream::scripted(move |seen, conn| {
        let mut headers = vec![
            ("ETag", "W/\"a\"".to_owned()),
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
            ("Date", "Sun, 06 Nov 2022 08:49:37 GMT".to_owned()),
            ("Accept-Ranges", "bytes".to_owned()),
        ];
        let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
        headers.push(("Content-Length", (end - start).to_string()));
        let status = match seen.header("range") {
            Some(_) => {
                headers.push(("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)));
                206
            }
            None => 200,
        };
        conn.head(status, &headers);
        if seen.number == 0 {
            conn.body(&film, 0, 500_000);
            conn.close();
        } else {
            conn.body(&film, start, end);
        }
    })
}

#[test]
fn pieces_under_a_weak_tag_and_an_old_date_are_joined_where_their_bytes_agree() {
    let film = Film::new(LEN);
    let upstream = weakly(&film);
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    assert!(upstream.requests().iter().all(|seen| seen.header("if-range").is_none()));
    // The bytes before the cut came once more, to be compared.
    assert_eq!(upstream.sent(), LEN + 16 * 1024);
}

#[test]
fn pieces_under_a_weak_tag_are_joined_where_the_operator_trusts_an_old_date() {
    let film = Film::new(LEN);
    let upstream = weakly(&film);
    let pond = Pond::with(&upstream, &[("join_weak", "true")]);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    let resumed = &upstream.requests()[1];
    assert_eq!(resumed.header("if-range"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(upstream.sent(), LEN);
}

#[test]
fn after_the_machine_has_slept_dead_connections_are_not_waited_for() {
    let film = Film::new(LEN);
    let served = film.clone();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let upstream = Upstream::scripted(move |seen, conn| {
        if count.fetch_add(1, Ordering::AcqRel) == 0 {
            conn.part_head(&served, 0, LEN);
            conn.body(&served, 0, 500_000);
            return conn.stall();
        }
        conn.serve(&served, seen);
    });
    let clock = clock();
    let url = upstream.url();
    let settings = [("upstream", url.as_str()), ("read_idle_timeout", "1h")];
    let pond = Pond::start_at(&settings, clock.clone());
    let mut reader = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &reader.read(500_000));
    clock.sleep(HOUR / 2);
    let rest = reader.finish();
    assert_eq!(rest.ended, Ended::Clean);
    film.check(500_000, &rest.body);
}

#[test]
fn an_ad_hoc_url_does_not_block_a_configured_upstream() {
    let film = Film::new(LEN);
    let valve = Valve::open();
    let upstream = Upstream::limited(&film, valve, 0);
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let named = format!("/{}film", upstream.url().replacen("://", "/", 1));
    let pesterers: Vec<_> = (0..8)
        .map(|_| {
            let named = named.clone();
            std::thread::spawn(move || (0..50).for_each(|_| drop(get(address, &named))))
        })
        .collect();
    for _ in 0..20 {
        film.check(0, &get(address, "/film").expect(200).body);
    }
    pesterers
        .into_iter()
        .for_each(|thread| thread.join().expect("answered"));
}
