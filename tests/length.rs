//! Promise 1: a body is exactly as long as its header says, or the connection is visibly broken.

use crate::support::{Client, Ended, Film, Pond, Upstream, get, get_range};

const LEN: u64 = 1_000_000;

fn head_of(film: &Film, start: u64) -> Vec<(&'static str, String)> {
    vec![
        ("ETag", film.etag.clone().expect("a tag")),
        ("Content-Length", (film.len - start).to_string()),
        ("Content-Range", format!("bytes {start}-{}/{}", film.len - 1, film.len)),
    ]
}

#[test]
fn a_short_upstream_body_is_resumed_within_the_same_answer() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(206, &head_of(&served, 0));
            conn.body(&served, 0, 400_000);
            conn.close();
        } else {
            conn.serve(&served, seen);
        }
    });
    let pond = Pond::before(&upstream);
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    assert_eq!(answer.body.len() as u64, LEN);
    film.check(0, &answer.body);
    let asked = upstream.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("range"), Some("bytes=400000-999999"));
    assert_eq!(asked[1].header("if-range"), film.etag.as_deref());
    assert_eq!(upstream.sent(), LEN);
}

#[test]
fn a_reset_in_the_middle_is_resumed_from_the_exact_byte() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number < 3 {
            let start = seen.range(served.len).map_or(0, |range| range.0);
            conn.head(206, &head_of(&served, start));
            conn.body(&served, start, start + 200_000);
            conn.reset();
        } else {
            conn.serve(&served, seen);
        }
    });
    let pond = Pond::before(&upstream);
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    film.check(0, &answer.body);
    assert_eq!(answer.body.len() as u64, LEN);
    assert!(upstream.requests().len() >= 4);
}

#[test]
fn a_stall_is_cut_after_the_idle_limit_and_resumed() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(206, &head_of(&served, 0));
            conn.body(&served, 0, 300_000);
            conn.stall();
        } else {
            conn.serve(&served, seen);
        }
    });
    let pond = Pond::with(&upstream, &[("read_idle_timeout", "300ms")]);
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    film.check(0, &answer.body);
    assert_eq!(upstream.requests()[1].header("range"), Some("bytes=300000-999999"));
}

#[test]
fn bytes_beyond_the_declared_length_are_discarded() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(206, &head_of(&served, 0));
        conn.body(&served, 0, served.len);
        conn.raw(b"and a word more");
        conn.close();
    });
    let pond = Pond::before(&upstream);
    // The client checks that nothing follows the declared length.
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    film.check(0, &answer.body);
    pond.until_state("complete");
    assert_eq!(pond.object()["complete_length"], LEN);
}

#[test]
fn a_chunked_206_longer_than_its_range_is_clipped() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(
            206,
            &[
                ("ETag", served.etag.clone().expect("a tag")),
                ("Transfer-Encoding", "chunked".to_owned()),
                ("Content-Range", format!("bytes 0-{}/{}", LEN - 1, LEN)),
            ],
        );
        conn.chunk(&served, 0, LEN + 5000);
        conn.raw(b"0\r\n\r\n");
    });
    let pond = Pond::before(&upstream);
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    assert_eq!(answer.body.len() as u64, LEN);
    film.check(0, &answer.body);
}

#[test]
fn an_upstream_gone_for_good_cuts_the_answer_after_its_bytes() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(206, &head_of(&served, 0));
            conn.body(&served, 0, 123_456);
        }
        conn.reset();
    });
    let pond = Pond::with(&upstream, &[("hold_limit", "1s")]);
    let answer = get(pond.address(), "/film");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), Some("1000000"));
    assert_eq!(answer.ended, Ended::Cut);
    // A reset may cost the upstream's last bytes, which never arrived; what arrived is passed on.
    film.check(0, &answer.body);
    assert!(answer.body.len() <= 123_456);
    assert_ne!(pond.object()["state"], "complete");
    assert_eq!(pond.metric("millpond_broken_bodies_total"), 1);
}

#[test]
fn a_missing_last_chunk_breaks_the_body_and_is_never_complete() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(200, &[("Transfer-Encoding", "chunked".to_owned())]);
        conn.chunk(&served, 0, 100_000);
        conn.close();
    });
    let pond = Pond::with(&upstream, &[("hold_limit", "1s")]);
    let answer = get(pond.address(), "/film");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.ended, Ended::Cut);
    film.check(0, &answer.body);
    assert_ne!(pond.object()["state"], "complete");
}

#[test]
fn a_second_request_on_the_connection_finds_its_own_framing() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    let mut client = Client::connect(pond.address());
    for (range, start, end) in [("bytes=5-104", 5, 105), ("bytes=-7", LEN - 7, LEN), ("bytes=0-0", 0, 1)] {
        client.ask("GET", "/film", &[("Range", range)]);
        client.read_head();
        assert_eq!(client.status, 206);
        let body = client.read((end - start) as usize);
        film.check(start, &body);
    }
    get_range(pond.address(), "/film", "bytes=0-").expect(206);
}
