//! Promise 3: truncated until proven whole.

use crate::support::{Ended, Film, Pond, Upstream, Valve, get, get_range, request};

const LEN: u64 = 500_000;

#[test]
fn a_cut_body_is_incomplete_before_and_after_a_restart() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(
                200,
                &[
                    ("ETag", "\"edition-1\"".to_owned()),
                    ("Content-Length", LEN.to_string()),
                ],
            );
            conn.body(&served, 0, 200_000);
        }
        conn.close();
    });
    let mut pond = Pond::with(&upstream, &[("hold_limit", "300ms")]);
    assert_eq!(get(pond.address(), "/film").ended, Ended::Cut);
    for _ in 0..2 {
        let object = pond.object();
        assert_eq!(object["state"], "incomplete");
        assert_eq!(object["complete_length"], LEN);
        assert!(object["present_bytes"].as_u64() <= Some(200_000));
        pond.restart();
    }
}

#[test]
fn a_clean_chunked_end_is_complete_and_gets_a_length() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(
            200,
            &[
                ("ETag", "\"edition-1\"".to_owned()),
                ("Transfer-Encoding", "chunked".to_owned()),
            ],
        );
        conn.chunk(&served, 0, 200_000);
        conn.chunk(&served, 200_000, LEN);
        conn.raw(b"0\r\n\r\n");
    });
    let pond = Pond::before(&upstream);
    let first = get(pond.address(), "/film");
    first.expect(200);
    film.check(0, &first.body);
    pond.until_state("complete");
    let tail = get_range(pond.address(), "/film", "bytes=-100");
    tail.expect(206);
    assert_eq!(tail.header("content-range"), Some("bytes 499900-499999/500000"));
    film.check(LEN - 100, &tail.body);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_close_delimited_body_is_unverified_and_fetched_anew() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(200, &[("Connection", "close".to_owned())]);
        conn.body(&served, 0, LEN);
        conn.close();
    });
    let pond = Pond::before(&upstream);
    let first = get(pond.address(), "/film");
    first.expect(200);
    film.check(0, &first.body);
    pond.until_state("unverified");
    get(pond.address(), "/film").expect(200);
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn an_operator_can_choose_to_keep_unverified_bodies() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(200, &[("Connection", "close".to_owned()), ("ETag", "\"e\"".to_owned())]);
        conn.body(&served, 0, LEN);
        conn.close();
    });
    let pond = Pond::with(&upstream, &[("keep_unverified", "true")]);
    get(pond.address(), "/film").expect(200);
    pond.until_state("unverified");
    get(pond.address(), "/film").expect(200);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_upstream_without_ranges_is_read_once_and_far_readers_wait() {
    let film = Film::new(LEN);
    let valve = Valve::new(100_000);
    let served = film.clone();
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
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let far = std::thread::spawn(move || get_range(address, "/film", "bytes=400000-400999"));
    pond.until_present(100_000);
    valve.allow(LEN);
    let far = far.join().expect("answered");
    far.expect(206);
    film.check(400_000, &far.body);
    pond.until_state("complete");
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(upstream.sent(), LEN);
}

#[test]
fn an_error_page_never_becomes_the_film() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        // With the range that we have made of the request, and without.
        0 | 1 => {
            conn.head(
                404,
                &[
                    ("Content-Type", "text/plain".to_owned()),
                    ("Content-Length", "9".to_owned()),
                ],
            );
            conn.raw(b"not here\n");
        }
        2 => {
            conn.head(
                503,
                &[("Retry-After", "0".to_owned()), ("Content-Length", "0".to_owned())],
            );
        }
        _ => conn.serve(&served, seen),
    });
    let pond = Pond::before(&upstream);
    let missing = get(pond.address(), "/film");
    missing.expect(404);
    assert_eq!(missing.text(), "not here\n");
    assert_eq!(
        missing.story(),
        Some("millpond; fwd=uri-miss; fwd-status=404; detail=no-freshness")
    );
    let busy = get(pond.address(), "/film");
    busy.expect(503);
    assert_eq!(busy.header("retry-after"), Some("0"));
    let list = get(pond.address(), "/-/api/v1/objects").json();
    assert_eq!(list["objects"].as_array().map(Vec::len), Some(0));
    let found = get(pond.address(), "/film");
    found.expect(200);
    film.check(0, &found.body);
}

#[test]
fn an_empty_object_is_an_empty_answer() {
    let film = Film::new(0);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    for _ in 0..2 {
        let answer = get(pond.address(), "/empty");
        answer.expect(200);
        assert_eq!(answer.header("content-length"), Some("0"));
        get_range(pond.address(), "/empty", "bytes=-5").expect(200);
        let past = get_range(pond.address(), "/empty", "bytes=0-");
        past.expect(416);
        assert_eq!(past.header("content-range"), Some("bytes */0"));
        request(pond.address(), "HEAD", "/empty", &[]).expect(200);
    }
}

#[test]
fn a_known_length_is_final_whatever_a_later_framing_says() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => {
            conn.head(
                206,
                &[
                    ("ETag", "\"edition-1\"".to_owned()),
                    ("Content-Length", LEN.to_string()),
                    ("Content-Range", format!("bytes 0-{}/{LEN}", LEN - 1)),
                ],
            );
            conn.body(&served, 0, 200_000);
            conn.close();
        }
        1 => {
            // The reply has the same tag, no length, and an end that is clean and much too early.
            conn.head(
                200,
                &[
                    ("ETag", "\"edition-1\"".to_owned()),
                    ("Transfer-Encoding", "chunked".to_owned()),
                ],
            );
            conn.chunk(&served, 0, 300_000);
            conn.raw(b"0\r\n\r\n");
        }
        _ => conn.serve(&served, seen),
    });
    let pond = Pond::before(&upstream);
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    assert_eq!(answer.body.len() as u64, LEN);
    film.check(0, &answer.body);
    pond.until_state("complete");
    assert_eq!(pond.object()["complete_length"], LEN);
}
