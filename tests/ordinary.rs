//! Upstreams that are merely ordinary: weak tags or none, nodes that differ, ranges refused, connections closed.

use crate::support::upstream::{Conn, Seen};
use crate::support::{Client, Ended, Film, Pond, Upstream, Valve, get, get_range, request};
use millpond::clock::{ManualClock, from_unix_seconds};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LEN: u64 = 8_000_000;
const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const NOW: &str = "Sun, 06 Nov 2022 08:49:37 GMT";

/// The fields of an upstream's reply for its film, beside the framing.
type Says = &'static [(&'static str, &'static str)];

/// Nextcloud, Xtream panels and many scripts.
const NOTHING: Says = &[];
/// Jellyfin and scripts that are afraid of caches.
const NO_STORE: Says = &[("Cache-Control", "no-cache, no-store, must-revalidate")];
/// A weak tag alone.
const WEAK: Says = &[("ETag", "W/\"a\"")];
/// Express and `send`.
const EXPRESS: Says = &[
    ("ETag", "W/\"7a1200-18d2a4c1f00\""),
    ("Last-Modified", OLD),
    ("Date", NOW),
    ("Cache-Control", "public, max-age=0"),
];

/// The head of a 206 or 200 for what is asked; where its body begins and ends.
fn head(conn: &mut Conn, seen: &Seen, film: &Film, says: Says) -> (u64, u64) {
    let (start, end) = seen.range(film.len).unwrap_or((0, film.len));
    let mut fields = vec![
        ("Content-Type", "video/mp4".to_owned()),
        ("Accept-Ranges", "bytes".to_owned()),
        ("Content-Length", (end - start).to_string()),
    ];
    fields.extend(says.iter().map(|(name, value)| (*name, (*value).to_owned())));
    match seen.header("range") {
        Some(_) => {
            fields.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)));
            conn.head(206, &fields);
        }
        None => conn.head(200, &fields),
    }
    (start, end)
}

fn serve(conn: &mut Conn, seen: &Seen, film: &Film, says: Says) {
    let (start, end) = head(conn, seen, film, says);
    conn.body(film, start, end);
}

fn ranges(upstream: &Upstream) -> Vec<Option<String>> {
    let requests = upstream.requests();
    requests
        .iter()
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect()
}

// --- weak or missing validators ------------------------------------------------------------------

#[test]
fn a_seek_where_nothing_can_be_joined_is_answered_by_an_exchange_of_its_own_at_once() {
    for says in [NOTHING, NO_STORE, WEAK, EXPRESS] {
        let film = Film::new(LEN);
        let (served, rest) = (film.clone(), Valve::new(0));
        let held = rest.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            let (start, end) = head(conn, seen, &served, says);
            if start == 0 {
                conn.body(&served, 0, 400_000);
                // The line is slow: what follows comes when the test is over.
                conn.wait_for(&held);
            } else {
                conn.body(&served, start, end);
            }
        });
        let pond = Pond::before(&upstream);
        let mut playing = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", "bytes=0-")]);
        assert_eq!(playing.status, 206);
        film.check(0, &playing.read(300_000));
        for at in [LEN - 500_000, LEN / 2] {
            let mut seek = Client::open(
                pond.address(),
                "GET",
                "/film.mp4",
                &[("Range", &format!("bytes={at}-"))],
            );
            assert_eq!(seek.status, 206, "{says:?}");
            let total = format!("bytes {at}-{}/{LEN}", LEN - 1);
            assert_eq!(seek.header("content-range"), Some(total.as_str()));
            film.check(at, &seek.read(200_000));
        }
        let tail = get_range(pond.address(), "/film.mp4", "bytes=-1000");
        film.check(LEN - 1000, &tail.expect(206).body);
        // The player was not cut for that.
        film.check(300_000, &playing.read(100_000));
        rest.allow(u64::MAX);
    }
}

#[test]
fn a_first_request_with_an_end_does_not_break_later_readers() {
    for says in [NOTHING, NO_STORE, WEAK, EXPRESS] {
        for first in ["HEAD", "bytes=0-1", "bytes=0-0", "bytes=1000-1999"] {
            let film = Film::new(LEN);
            let served = film.clone();
            let upstream = Upstream::scripted(move |seen, conn| serve(conn, seen, &served, says));
            let pond = Pond::before(&upstream);
            match first {
                "HEAD" => {
                    let head = request(pond.address(), "HEAD", "/film.mp4", &[]);
                    assert_eq!((head.status, head.header("content-length")), (200, Some("8000000")));
                }
                range => {
                    let part = get_range(pond.address(), "/film.mp4", range);
                    let start = range[6..].split('-').next().and_then(|start| start.parse().ok());
                    film.check(start.expect("a start"), &part.expect(206).body);
                }
            }
            for _ in 0..2 {
                film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
            }
            let all = get_range(pond.address(), "/film.mp4", "bytes=0-");
            film.check(0, &all.expect(206).body);
        }
    }
}

#[test]
fn a_cut_under_a_weak_tag_and_an_old_date_is_resumed_where_the_bytes_agree() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let (start, end) = head(conn, seen, &served, EXPRESS);
        let stop = if seen.number < 3 {
            end.min(start + 1_000_000)
        } else {
            end
        };
        conn.body(&served, start, stop);
        if stop < end {
            conn.close();
        }
    });
    let mut pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    assert_eq!(upstream.requests().len(), 4);
    // Each of the three that went on asked for a few bytes once more.
    assert_eq!(upstream.sent() - LEN, 3 * 16 * 1024);
    // The API tells of the object that its bytes were joined so, also after a restart.
    pond.until_state("complete");
    pond.restart();
    let id = pond.object()["id"].as_str().expect("an id").to_owned();
    let told = get(pond.address(), &format!("/-/api/v1/objects/{id}")).json();
    assert_eq!(told["joined"], "compared");
    film.check(0, &get_range(pond.address(), "/film.mp4", "bytes=0-").expect(206).body);
}

#[test]
fn bytes_that_disagree_under_the_same_weak_tag_date_and_length_break_the_object_and_are_never_mixed() {
    let (old, new) = (Film::edition(LEN, 1), Film::edition(LEN, 2));
    let (before, after) = (old.clone(), new.clone());
    let upstream = Upstream::scripted(move |seen, conn| {
        let film = if seen.number == 0 { &before } else { &after };
        let (start, end) = head(conn, seen, film, EXPRESS);
        if seen.number == 0 {
            conn.body(film, 0, 1_000_000);
            conn.close();
        } else {
            conn.body(film, start, end);
        }
    });
    let pond = Pond::before(&upstream);
    let cut = get(pond.address(), "/film.mp4");
    assert_eq!(cut.ended, Ended::Cut);
    old.check(0, &cut.body);
    let again = get(pond.address(), "/film.mp4");
    new.check(0, &again.expect(200).body);
    assert_ne!(cut.header("etag"), again.header("etag"), "the tag is of other bytes");
}

#[test]
fn bytes_are_not_joined_under_a_doubtful_validator_or_length() {
    const YOUNG: Says = &[
        ("ETag", "W/\"a\""),
        ("Last-Modified", NOW),
        ("Date", "Sun, 06 Nov 2022 08:50:00 GMT"),
    ];
    for (says, longer) in [(NOTHING, 0), (WEAK, 0), (YOUNG, 0), (EXPRESS, 10)] {
        let film = Film::new(LEN);
        let (served, other) = (film.clone(), Film::new(LEN + longer));
        let upstream = Upstream::scripted(move |seen, conn| {
            if seen.number == 0 {
                head(conn, seen, &served, says);
                conn.body(&served, 0, 1_000_000);
                conn.close();
            } else {
                serve(conn, seen, &other, says);
            }
        });
        let pond = Pond::before(&upstream);
        let cut = get(pond.address(), "/film.mp4");
        assert_eq!(cut.ended, Ended::Cut, "{says:?}");
        film.check(0, &cut.body);
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    }
}

#[test]
fn a_reader_behind_an_exchange_that_has_ended_gets_one_of_its_own_where_nothing_joins_them() {
    const LEN: u64 = 20_000_000;
    const HEAD: usize = 200_000;
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::start(Valve::open(), 10_000_000, move |seen, conn| {
        serve(conn, seen, &served, NOTHING)
    });
    let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    // The third request of a player comes at any moment around the end of the first exchange: several players meet it.
    for path in (0..6).map(|number| format!("/{number}.mp4")) {
        let first = upstream.requests().len();
        for (start, bytes) in [(0, HEAD), (LEN - 500_000, 500_000), (HEAD as u64, 1_000_000)] {
            let range = format!("bytes={start}-");
            let mut reader = Client::open(pond.address(), "GET", &path, &[("Range", &range)]);
            film.check(start, &reader.read(bytes));
        }
        let asked: Vec<_> = upstream.requests()[first..]
            .iter()
            .map(|seen| seen.range(LEN))
            .collect();
        let starts: Vec<_> = asked.iter().map(|range| range.map(|(start, _)| start)).collect();
        let of_its_own = Some(HEAD as u64);
        assert!(
            starts
                .iter()
                .skip(1)
                .all(|start| *start == of_its_own || *start == Some(LEN - 500_000)),
            "the whole was asked for again: {asked:?}"
        );
    }
}

#[test]
fn a_film_behind_a_head_that_came_first_is_hardly_ever_asked_for_twice() {
    for says in [NOTHING, WEAK] {
        let film = Film::new(1_000_000);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| serve(conn, seen, &served, says));
        let pond = Pond::before(&upstream);
        let mut twice = 0;
        for path in (0..20).map(|number| format!("/{number}.mp4")) {
            let first = upstream.requests().len();
            let head = request(pond.address(), "HEAD", &path, &[]);
            assert_eq!(head.status, 200);
            // A player that has asked for the head goes on at once, while its fill may still be there.
            film.check(0, &get_range(pond.address(), &path, "bytes=0-").expect(206).body);
            twice += usize::from(upstream.requests().len() - first > 2);
        }
        // 17 and more of 20 where a reader at the start is sent to an exchange of its own.
        assert!(twice <= 3, "{twice} of 20");
    }
}

#[test]
fn a_stored_film_that_changes_under_a_weak_tag_is_given_whole_to_its_first_reader() {
    let edition = Arc::new(AtomicU64::new(1));
    let shown = Arc::clone(&edition);
    let upstream = Upstream::scripted(move |seen, conn| {
        let edition = shown.load(Ordering::Acquire);
        let film = Film::edition(LEN + edition, edition);
        let tag = format!("W/\"{edition}\"");
        if seen.header("if-none-match") == Some(&tag) {
            return conn.head(304, &[("ETag", tag)]);
        }
        let (start, end) = seen.range(film.len).unwrap_or((0, film.len));
        let mut fields = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("Content-Length", (end - start).to_string()),
            ("Cache-Control", "max-age=0".to_owned()),
            ("Last-Modified", OLD.to_owned()),
            ("ETag", tag),
        ];
        if seen.header("range").is_some() {
            fields.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)));
        }
        conn.head(if seen.header("range").is_some() { 206 } else { 200 }, &fields);
        conn.body(&film, start, end);
    });
    let pond = Pond::before(&upstream);
    for _ in 0..3 {
        let now = edition.load(Ordering::Acquire);
        let film = Film::edition(LEN + now, now);
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
        pond.until_state("complete");
        edition.fetch_add(1, Ordering::AcqRel);
        let film = Film::edition(LEN + now + 1, now + 1);
        film.check(0, &get_range(pond.address(), "/film.mp4", "bytes=0-").expect(206).body);
    }
}

#[test]
fn an_upstream_without_304_confirms_by_the_same_weak_tag_date_and_length() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| serve(conn, seen, &served, EXPRESS));
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    pond.until_state("complete");
    let sent = upstream.sent();
    for _ in 0..3 {
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    }
    assert!(
        upstream.sent() - sent <= 3,
        "a byte each at most: {:?}",
        ranges(&upstream)
    );
}

#[test]
fn read_ahead_of_a_film_under_a_weak_tag_is_not_cut_into_generations() {
    for says in [NOTHING, EXPRESS] {
        let film = Film::new(3 * LEN);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| serve(conn, seen, &served, says));
        let pond = Pond::with(&upstream, &[("read_ahead", "10s")]);
        film.check(0, &get_range(pond.address(), "/film.mp4", "bytes=0-").expect(206).body);
    }
}

#[test]
fn parts_of_one_film_have_one_tag_or_none() {
    for (says, tagged) in [(NOTHING, false), (WEAK, true), (EXPRESS, true)] {
        let film = Film::new(LEN);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            let (start, end) = head(conn, seen, &served, says);
            conn.body(&served, start, end.min(start + 300_000));
            conn.stall();
        });
        let pond = Pond::before(&upstream);
        let open = |range: &str| Client::open(pond.address(), "GET", "/film.mp4", &[("Range", range)]);
        let (first, far) = (open("bytes=0-"), open("bytes=6000000-"));
        assert_eq!(first.header("etag"), far.header("etag"), "{says:?}");
        assert_eq!(first.header("etag").is_some(), tagged, "{says:?}");
        if let Some(tag) = first.header("etag") {
            // As VLC does with each request after its first.
            let fields = [("Range", "bytes=3000000-"), ("If-Match", tag)];
            assert_eq!(Client::open(pond.address(), "GET", "/film.mp4", &fields).status, 206);
        }
    }
}

#[test]
fn an_unchanging_page_is_never_said_to_change() {
    const PAGE: u64 = 3000;
    for says in [NOTHING, WEAK, NO_STORE] {
        let page = Film::new(PAGE);
        let served = page.clone();
        let upstream = Upstream::scripted(move |_, conn| {
            let mut fields = vec![
                ("Content-Type", "text/html".to_owned()),
                ("Transfer-Encoding", "chunked".to_owned()),
            ];
            fields.extend(says.iter().map(|(name, value)| (*name, (*value).to_owned())));
            conn.head(200, &fields);
            conn.chunk(&served, 0, PAGE);
            conn.raw(b"0\r\n\r\n");
        });
        let pond = Pond::before(&upstream);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        page.check(0, &get(pond.address(), "/").expect(200).body);
                    }
                });
            }
        });
    }
}

// --- framing ---------------------------------------------------------------------------------------

#[test]
fn transfer_encoding_identity_beside_a_length_is_that_length() {
    let film = Film::new(400_000);
    for cut in [true, false] {
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            let fields = [
                ("Content-Type", "video/mp4".to_owned()),
                ("Transfer-Encoding", "identity".to_owned()),
                ("Content-Length", served.len.to_string()),
            ];
            conn.head(200, &fields);
            if cut && seen.number == 0 {
                conn.body(&served, 0, 150_000);
                conn.close();
            } else {
                conn.body(&served, 0, served.len);
                // The connection stays open: the length alone tells the end.
                conn.stall();
            }
        });
        let pond = Pond::before(&upstream);
        if cut {
            let short = get(pond.address(), "/film.mp4");
            assert_eq!(
                (short.ended, short.header("content-length")),
                (Ended::Cut, Some("400000"))
            );
        }
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
        pond.until_state("complete");
    }
}

#[test]
fn a_transfer_coding_that_is_not_known_is_502_and_named() {
    for coding in ["gzip", "gzip, chunked", "chunked, gzip", "br"] {
        let upstream = Upstream::scripted(move |_, conn| {
            conn.head(
                200,
                &[
                    ("Transfer-Encoding", coding.to_owned()),
                    ("Content-Type", "video/mp4".to_owned()),
                ],
            );
            conn.raw(b"5\r\nabcde\r\n0\r\n\r\n");
            conn.close();
        });
        let pond = Pond::before(&upstream);
        let answer = get(pond.address(), "/film.mp4");
        assert!(
            answer.expect(502).text().contains("transfer coding"),
            "{}",
            answer.text()
        );
        let posted = request(pond.address(), "POST", "/film.mp4", &[("Content-Length", "0")]);
        assert_eq!(posted.status, 502);
    }
}

#[test]
fn a_200_with_the_content_range_of_a_part_is_that_part() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
        let mut fields = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("ETag", "\"v\"".to_owned()),
            ("Content-Length", (end - start).to_string()),
        ];
        if seen.header("range").is_some() {
            fields.push(("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)));
        }
        conn.head(200, &fields);
        conn.body(&served, start, end);
    });
    let pond = Pond::before(&upstream);
    let head = request(pond.address(), "HEAD", "/film.mp4", &[]);
    assert_eq!(head.header("content-length"), Some("8000000"));
    film.check(
        7_000_000,
        &get_range(pond.address(), "/film.mp4", "bytes=7000000-7000999")
            .expect(206)
            .body,
    );
    film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
}

// --- ranges refused ----------------------------------------------------------------------------------

#[test]
fn an_upstream_that_refuses_ranges_is_asked_once_more_without() {
    for status in [400, 403, 404, 405, 406, 412, 500, 501] {
        let film = Film::new(300_000);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            if seen.header("range").is_some() {
                return conn.head(status, &[("Content-Length", "0".to_owned())]);
            }
            conn.head(
                200,
                &[
                    ("Content-Length", served.len.to_string()),
                    ("Content-Type", "video/mp4".to_owned()),
                ],
            );
            conn.body(&served, 0, served.len);
        });
        let pond = Pond::before(&upstream);
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
        assert_eq!(
            request(pond.address(), "HEAD", "/other.mp4", &[]).status,
            200,
            "{status}"
        );
        let part = get_range(pond.address(), "/third.mp4", "bytes=1000-1999");
        film.check(1000, &part.expect(206).body);
    }
}

#[test]
fn a_404_of_a_range_capable_upstream_is_not_retried() {
    let film = Film::new(300_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.target.as_str() {
        "/film.mp4" => conn.serve(&served, seen),
        _ => conn.head(404, &[("Content-Length", "0".to_owned())]),
    });
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    get(pond.address(), "/gone.mp4").expect(404);
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_refusal_with_and_without_a_range_is_the_upstreams_own() {
    let upstream = Upstream::scripted(|seen, conn| {
        let body = if seen.header("range").is_some() {
            "ranged"
        } else {
            "plainly"
        };
        conn.head(404, &[("Content-Length", body.len().to_string())]);
        conn.raw(body.as_bytes());
    });
    let pond = Pond::before(&upstream);
    assert_eq!(get(pond.address(), "/film.mp4").expect(404).text(), "ranged");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn accept_ranges_with_odd_values_beside_a_good_206_is_no_refusal() {
    for odd in ["0-8000000", "Bytes, x", "yes", "bytes=0-"] {
        let film = Film::new(LEN);
        let (served, rest) = (film.clone(), Valve::new(0));
        let held = rest.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
            let fields = [
                ("Content-Type", "video/mp4".to_owned()),
                ("Accept-Ranges", odd.to_owned()),
                ("ETag", "\"v\"".to_owned()),
                ("Content-Length", (end - start).to_string()),
                ("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)),
            ];
            conn.head(206, &fields);
            if start == 0 {
                conn.body(&served, 0, 300_000);
                conn.wait_for(&held);
            } else {
                conn.body(&served, start, end);
            }
        });
        let pond = Pond::before(&upstream);
        let mut playing = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", "bytes=0-")]);
        playing.read(1000);
        film.check(
            7_000_000,
            &get_range(pond.address(), "/film.mp4", "bytes=7000000-")
                .expect(206)
                .body,
        );
        rest.allow(u64::MAX);
    }
}

#[test]
fn an_upstream_that_answers_if_range_by_the_whole_is_asked_by_if_match() {
    let film = Film::new(LEN);
    let (served, rest) = (film.clone(), Valve::new(0));
    let held = rest.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let range = seen.range(LEN).filter(|_| seen.header("if-range").is_none());
        let (start, end) = range.unwrap_or((0, LEN));
        let mut fields = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("ETag", "\"v\"".to_owned()),
            ("Content-Length", (end - start).to_string()),
        ];
        if range.is_some() {
            fields.push(("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)));
        }
        conn.head(if range.is_some() { 206 } else { 200 }, &fields);
        if start == 0 {
            conn.body(&served, 0, 300_000);
            conn.wait_for(&held);
        } else {
            conn.body(&served, start, end);
        }
    });
    let pond = Pond::before(&upstream);
    let mut playing = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", "bytes=0-")]);
    film.check(0, &playing.read(1000));
    film.check(
        7_000_000,
        &get_range(pond.address(), "/film.mp4", "bytes=7000000-")
            .expect(206)
            .body,
    );
    let by_match = upstream
        .requests()
        .iter()
        .any(|seen| seen.header("if-match") == Some("\"v\""));
    assert!(by_match, "it was asked by If-Match");
    // The player was not cut for it.
    film.check(1000, &playing.read(200_000));
    rest.allow(u64::MAX);
}

#[test]
fn a_content_encoding_that_codes_nothing_leaves_a_film_its_ranges() {
    for coding in ["none", "", "identity", "aws-chunked", "binary", "utf-8"] {
        let film = Film::new(LEN);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
            let fields = [
                ("Content-Type", "video/mp4".to_owned()),
                ("Content-Encoding", coding.to_owned()),
                ("ETag", "\"v\"".to_owned()),
                ("Content-Length", (end - start).to_string()),
                ("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)),
            ];
            conn.head(206, &fields);
            conn.body(&served, start, end);
        });
        let pond = Pond::before(&upstream);
        let part = get_range(pond.address(), "/film.mp4", "bytes=7000000-7000999");
        film.check(7_000_000, &part.expect(206).body);
        assert_eq!(
            part.header("content-encoding"),
            None,
            "a client could not undo {coding:?}"
        );
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
        assert!(get_range(pond.address(), "/film.mp4", "bytes=0-9").is_hit());
    }
}

// --- nodes ---------------------------------------------------------------------------------------------

#[test]
fn two_nodes_with_a_tag_each_cut_no_player_and_answer_every_seek() {
    let film = Film::new(LEN);
    let (served, rest) = (film.clone(), Valve::new(0));
    let held = rest.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let tag = format!("\"node{}\"", seen.number % 2);
        let range = seen
            .range(LEN)
            .filter(|_| seen.header("if-range").is_none_or(|asked| asked == tag));
        let (start, end) = range.unwrap_or((0, LEN));
        let mut fields = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("ETag", tag),
            ("Content-Length", (end - start).to_string()),
        ];
        if range.is_some() {
            fields.push(("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)));
        }
        conn.head(if range.is_some() { 206 } else { 200 }, &fields);
        if start == 0 {
            conn.body(&served, 0, 300_000);
            conn.wait_for(&held);
        }
        conn.body(&served, start.max(if start == 0 { 300_000 } else { 0 }), end);
    });
    let pond = Pond::before(&upstream);
    let mut playing = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", "bytes=0-")]);
    film.check(0, &playing.read(300_000));
    for at in [LEN - 200_000, 5_000_000, 2_000_000] {
        let mut seek = Client::open(
            pond.address(),
            "GET",
            "/film.mp4",
            &[("Range", &format!("bytes={at}-"))],
        );
        assert_eq!(seek.status, 206);
        film.check(at, &seek.read(100_000));
    }
    rest.allow(u64::MAX);
    let all = playing.finish();
    film.check(300_000, &all.expect(206).body);
}

#[test]
fn a_stale_film_of_two_nodes_is_confirmed_by_the_one_that_knows_its_tag() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let tag = format!("\"node{}\"", seen.number % 2);
        if seen.header("if-none-match") == Some(&tag) {
            return conn.head(304, &[("ETag", tag)]);
        }
        let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
        let fields = [
            ("Content-Type", "video/mp4".to_owned()),
            ("Cache-Control", "max-age=0".to_owned()),
            ("Last-Modified", OLD.to_owned()),
            ("ETag", tag),
            ("Content-Length", (end - start).to_string()),
            ("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)),
        ];
        conn.head(206, &fields);
        conn.body(&served, start, end);
    });
    let pond = Pond::before(&upstream);
    film.check(0, &get_range(pond.address(), "/film.mp4", "bytes=0-").expect(206).body);
    pond.until_state("complete");
    let sent = upstream.sent();
    for _ in 0..4 {
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    }
    assert!(upstream.sent() < sent + 100, "the film was fetched again");
}

#[test]
fn a_node_that_fails_in_mid_film_is_left_for_the_one_that_the_router_names_now() {
    for fault in ["503", "500", "400", "451", "416", "page", "page as 206"] {
        let film = Film::new(LEN);
        let (served, rest) = (film.clone(), Valve::new(0));
        let held = rest.clone();
        let is_bad = Arc::new(AtomicBool::new(false));
        let bad = Arc::clone(&is_bad);
        let upstream = Upstream::scripted(move |seen, conn| {
            let now_bad = bad.load(Ordering::Acquire);
            match seen.target.as_str() {
                "/film.mp4" => {
                    let to = if now_bad { "/node2" } else { "/node1" };
                    conn.head(302, &[("Location", to.to_owned()), ("Content-Length", "0".to_owned())]);
                }
                "/node1" if now_bad && fault == "page" => {
                    conn.head(
                        200,
                        &[
                            ("Content-Type", "text/html".to_owned()),
                            ("Content-Length", "2".to_owned()),
                        ],
                    );
                    conn.raw(b"no");
                }
                "/node1" if now_bad && fault == "page as 206" => {
                    let (start, _) = seen.range(LEN).expect("a range");
                    let range = format!("bytes {start}-{}/{LEN}", start + 1);
                    conn.head(
                        206,
                        &[
                            ("Content-Type", "text/html".to_owned()),
                            ("Content-Length", "2".to_owned()),
                            ("Content-Range", range),
                        ],
                    );
                    conn.raw(b"no");
                }
                "/node1" if now_bad => {
                    conn.head(fault.parse().expect("a status"), &[("Content-Length", "0".to_owned())])
                }
                "/node1" => {
                    conn.part_head(&served, 0, LEN);
                    conn.body(&served, 0, 300_000);
                    conn.wait_for(&held);
                }
                _ => conn.serve(&served, seen),
            }
        });
        let pond = Pond::before(&upstream);
        let mut playing = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", "bytes=0-")]);
        film.check(0, &playing.read(300_000));
        is_bad.store(true, Ordering::Release);
        let seek = get_range(pond.address(), "/film.mp4", "bytes=7000000-");
        film.check(7_000_000, &seek.expect(206).body);
        rest.allow(u64::MAX);
    }
}

#[test]
fn a_failing_node_of_several_does_not_fail_the_film() {
    for status in [404, 403, 500, 502] {
        let film = Film::new(LEN);
        let (served, rest) = (film.clone(), Valve::new(0));
        let held = rest.clone();
        let asked = Mutex::new(std::collections::HashSet::new());
        let upstream = Upstream::scripted(move |seen, conn| match seen.number {
            0 => {
                conn.part_head(&served, 0, LEN);
                conn.body(&served, 0, 300_000);
                conn.wait_for(&held);
            }
            // What is asked for comes to the failing node first, and to another when it is asked for again: whatever else
            // is asked for between the two.
            _ if asked
                .lock()
                .expect("whole")
                .insert(seen.range(LEN).map(|(start, _)| start)) =>
            {
                conn.head(status, &[("Content-Length", "0".to_owned())]);
            }
            _ => conn.serve(&served, seen),
        });
        let pond = Pond::before(&upstream);
        let mut playing = Client::open(pond.address(), "GET", "/film.mp4", &[("Range", "bytes=0-")]);
        film.check(0, &playing.read(300_000));
        for at in [7_000_000, 4_000_000] {
            let mut seek = Client::open(
                pond.address(),
                "GET",
                "/film.mp4",
                &[("Range", &format!("bytes={at}-"))],
            );
            assert_eq!(seek.status, 206, "{status}");
            film.check(at, &seek.read(100_000));
        }
        rest.allow(u64::MAX);
    }
}

// --- connections ---------------------------------------------------------------------------------------

#[test]
fn a_kept_connection_that_closes_as_it_is_used_again_is_no_clients_502() {
    for resets in [false, true] {
        let film = Film::new(10_000);
        let served = film.clone();
        let upstream = Upstream::start(Valve::open(), 0, move |seen, conn| {
            // Every second request that comes finds its connection closed; the first of each connection is answered.
            if conn.served() > 0 {
                return if resets { conn.reset() } else { conn.close() };
            }
            conn.serve(&served, seen);
        });
        let pond = Pond::before(&upstream);
        for number in 0..40 {
            let part = get_range(pond.address(), &format!("/film{number}.mp4"), "bytes=0-999");
            film.check(0, &part.expect(206).body);
        }
    }
}

#[test]
fn an_upstream_that_allows_one_connection_is_learned_and_asked_with_one() {
    for status in [403, 458] {
        let film = Film::new(LEN);
        let served = film.clone();
        let (open, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, refusals) = (Arc::clone(&open), Arc::clone(&refused));
        let upstream = Upstream::start(Valve::open(), 2_000_000, move |seen, conn| {
            if now.fetch_add(1, Ordering::AcqRel) > 0 {
                refusals.fetch_add(1, Ordering::AcqRel);
                conn.head(
                    status,
                    &[("Content-Length", "0".to_owned()), ("Connection", "close".to_owned())],
                );
            } else {
                conn.serve(&served, seen);
            }
            now.fetch_sub(1, Ordering::AcqRel);
            conn.close();
        });
        let pond = Pond::before(&upstream);
        for at in [0, 7_500_000, 400_000, 5_000_000, 3_000_000] {
            let mut player = Client::open(
                pond.address(),
                "GET",
                "/film.mp4",
                &[("Range", &format!("bytes={at}-"))],
            );
            assert_eq!(player.status, 206, "{status} at {at}");
            film.check(at, &player.read(100_000));
        }
        let refused = refused.load(Ordering::Acquire);
        assert!(refused > 0, "the test has not come to the refusal");
    }
}

#[test]
fn a_403_for_one_url_preempts_no_other_exchange() {
    let film = Film::new(LEN);
    let (served, rest) = (film.clone(), Valve::new(0));
    let held = rest.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.target.as_str() {
        "/film.mp4" => {
            conn.part_head(&served, 0, LEN);
            conn.body(&served, 0, 300_000);
            conn.wait_for(&held);
            conn.body(&served, 300_000, LEN);
        }
        _ => conn.head(403, &[("Content-Length", "0".to_owned())]),
    });
    let pond = Pond::with(&upstream, &[("reply_timeout", "1s")]);
    let mut playing = Client::open(pond.address(), "GET", "/film.mp4", &[]);
    film.check(0, &playing.read(300_000));
    assert_eq!(get(pond.address(), "/secret.mp4").status, 403);
    rest.allow(u64::MAX);
    // The player was not called back for it.
    film.check(300_000, &playing.finish().expect(200).body);
}

#[test]
fn a_client_that_leaves_before_the_header_aborts_its_post() {
    let (told, is_told) = std::sync::mpsc::channel();
    let (came, has_come) = std::sync::mpsc::channel();
    let upstream = Upstream::scripted(move |_, conn| {
        let _ = came.send(());
        conn.stall();
        let _ = told.send(());
    });
    let pond = Pond::with(&upstream, &[("reply_timeout", "1h")]);
    let mut stream = TcpStream::connect(pond.address()).expect("connected");
    let post = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi";
    stream.write_all(post).expect("sent");
    has_come
        .recv_timeout(crate::support::PATIENCE)
        .expect("the upstream is asked");
    drop(stream);
    is_told
        .recv_timeout(crate::support::PATIENCE)
        .expect("the upstream is told");
}

// --- never by guess ------------------------------------------------------------------------------------

/// An upstream whose every answer is another, of that type, with these fields beside.
fn changing(media: &'static str, says: Says, size: u64) -> (Upstream, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let upstream = Upstream::scripted(move |_, conn| {
        let film = Film::edition(size, counted.fetch_add(1, Ordering::AcqRel) + 1);
        let mut fields = vec![("Content-Length", size.to_string()), ("Content-Type", media.to_owned())];
        fields.extend(says.iter().map(|(name, value)| (*name, (*value).to_owned())));
        conn.head(200, &fields);
        conn.body(&film, 0, size);
    });
    (upstream, count)
}

#[test]
fn changing_resources_without_freshness_are_fetched_each_time() {
    const RECENT: Says = &[("Last-Modified", NOW), ("Date", "Sun, 06 Nov 2022 08:49:39 GMT")];
    for (path, media, size) in [
        ("/live.m3u8", "application/octet-stream", 100),
        ("/live.mpd", "video/vnd.mpeg.dash.mpd", 900),
        ("/now.pls", "audio/x-scpls", 50),
        ("/snapshot.jpg", "image/jpeg", 30_000),
        ("/data", "application/json", 50),
        ("/", "text/html", 500),
        ("/tool_1_amd64.deb", "application/octet-stream", 50_000),
        ("/tool_1_amd64.deb", "application/vnd.debian.binary-package", 50_000),
    ] {
        for says in [NOTHING, RECENT] {
            let (upstream, count) = changing(media, says, size);
            let pond = Pond::before(&upstream);
            for edition in 1..=3 {
                let body = get(pond.address(), path).expect(200).body.clone();
                Film::edition(size, edition).check(0, &body);
            }
            assert_eq!(count.load(Ordering::Acquire), 3, "{path} as {media}");
        }
    }
}

#[test]
fn a_recording_that_grows_is_seen_to_grow() {
    let length = Arc::new(AtomicU64::new(2_000_000));
    let now = Arc::clone(&length);
    let film = Film::new(4_000_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let length = now.load(Ordering::Acquire);
        let (start, end) = seen.range(length).unwrap_or((0, length));
        if start >= length {
            let range = format!("bytes */{length}");
            return conn.head(416, &[("Content-Range", range), ("Content-Length", "0".to_owned())]);
        }
        let fields = [
            ("Content-Type", "video/mp2t".to_owned()),
            ("Last-Modified", NOW.to_owned()),
            ("Date", "Sun, 06 Nov 2022 08:49:38 GMT".to_owned()),
            ("Content-Length", (end - start).to_string()),
            ("Content-Range", format!("bytes {start}-{}/{length}", end - 1)),
        ];
        conn.head(206, &fields);
        conn.body(&served, start, end);
    });
    let clock = Arc::new(ManualClock::at(from_unix_seconds(1_800_000_000)));
    let pond = Pond::with_clock(&upstream, Arc::clone(&clock));
    film.check(
        0,
        &get_range(pond.address(), "/recording.ts", "bytes=0-").expect(206).body,
    );
    pond.until_state("complete");
    length.store(3_000_000, Ordering::Release);
    clock.advance(Duration::from_secs(2));
    let more = get_range(pond.address(), "/recording.ts", "bytes=2000000-");
    assert_eq!(more.expect(206).body.len(), 1_000_000);
    film.check(2_000_000, &more.body);
}

#[test]
fn an_empty_200_is_not_kept_by_guess_and_never_takes_a_films_place() {
    let empty = Arc::new(AtomicBool::new(true));
    let is_empty = Arc::clone(&empty);
    let film = Film::new(300_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if is_empty.load(Ordering::Acquire) {
            return conn.head(
                200,
                &[
                    ("Content-Type", "video/mp4".to_owned()),
                    ("Content-Length", "0".to_owned()),
                ],
            );
        }
        let mut says = vec![("Cache-Control", "max-age=0".to_owned()), ("ETag", "\"v\"".to_owned())];
        let (start, end) = seen.range(served.len).unwrap_or((0, served.len));
        says.push(("Content-Type", "video/mp4".to_owned()));
        says.push(("Content-Length", (end - start).to_string()));
        says.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, served.len)));
        conn.head(206, &says);
        conn.body(&served, start, end);
    });
    let pond = Pond::before(&upstream);
    assert_eq!(get(pond.address(), "/film.mp4").expect(200).body.len(), 0);
    empty.store(false, Ordering::Release);
    film.check(0, &get_range(pond.address(), "/film.mp4", "bytes=0-").expect(206).body);
    pond.until_state("complete");
    empty.store(true, Ordering::Release);
    for _ in 0..2 {
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    }
}

#[test]
fn an_empty_file_that_says_how_long_it_may_be_kept_is_asked_for_once() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(
            200,
            &[
                ("Cache-Control", "max-age=600".to_owned()),
                ("Content-Length", "0".to_owned()),
            ],
        );
    });
    let pond = Pond::before(&upstream);
    for _ in 0..3 {
        assert_eq!(get(pond.address(), "/empty.txt").expect(200).body.len(), 0);
    }
    assert_eq!(upstream.requests().len(), 1);
}

// --- redirects and fields ------------------------------------------------------------------------------

#[test]
fn redirects_of_playlists_and_pages_reach_the_client_and_those_of_films_do_not() {
    let film = Film::new(20_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let to = |conn: &mut Conn, status, to: &str| {
            conn.head(
                status,
                &[("Location", to.to_owned()), ("Content-Length", "0".to_owned())],
            );
        };
        let text = |conn: &mut Conn, media: &str, body: &str| {
            conn.head(
                200,
                &[
                    ("Content-Type", media.to_owned()),
                    ("Content-Length", body.len().to_string()),
                ],
            );
            conn.raw(body.as_bytes());
        };
        match seen.target.as_str() {
            "/live/1.m3u8" => to(conn, 302, "/x/y/index.m3u8?token=1"),
            "/x/y/index.m3u8?token=1" => text(conn, "application/vnd.apple.mpegurl", "#EXTM3U\nseg0.ts\n"),
            "/films" => to(conn, 301, "/films/"),
            "/films/" => text(conn, "text/html", "<a href=a.mkv>a</a>"),
            "/film.mp4" => to(conn, 302, "/cdn/film.mp4"),
            _ => conn.serve(&served, seen),
        }
    });
    let named = format!("site={}", upstream.url());
    let host = upstream.url()[7..].trim_end_matches('/').to_owned();
    for (pond, mount) in [
        (Pond::before(&upstream), String::new()),
        (Pond::start(&[("upstream", named.as_str())]), "/site".to_owned()),
        (Pond::start(&[("allow_private", "true")]), format!("/http/{host}")),
    ] {
        for method in ["GET", "HEAD"] {
            let list = request(pond.address(), method, &format!("{mount}/live/1.m3u8"), &[]);
            let there = format!("{mount}/x/y/index.m3u8?token=1");
            assert_eq!((list.status, list.header("location")), (302, Some(there.as_str())));
            let page = request(pond.address(), method, &format!("{mount}/films"), &[]);
            assert_eq!(
                (page.status, page.header("location")),
                (301, Some(format!("{mount}/films/").as_str()))
            );
        }
        let list = get(pond.address(), &format!("{mount}/x/y/index.m3u8?token=1"));
        assert_eq!(list.expect(200).text(), "#EXTM3U\nseg0.ts\n");
        film.check(0, &get(pond.address(), &format!("{mount}/film.mp4")).expect(200).body);
    }
}

#[test]
fn a_location_in_utf_8_or_latin_1_is_followed_as_its_bytes() {
    for (raw, escaped) in [
        (&b"/caf\xe9.mp4"[..], "/caf%E9.mp4"),
        ("/caf\u{e9} 1.mp4".as_bytes(), "/caf%C3%A9%201.mp4"),
    ] {
        let film = Film::new(20_000);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            if seen.target == escaped {
                return conn.serve(&served, seen);
            }
            conn.raw(b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: ");
            conn.raw(raw);
            conn.raw(b"\r\n\r\n");
        });
        let pond = Pond::before(&upstream);
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    }
}

/// Sends bytes, and reads what comes until the peer closes.
fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("set");
    stream.write_all(request).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer to its end");
    answer
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn field_values_in_latin_1_and_utf_8_travel_both_ways_as_their_bytes() {
    let names: [&[u8]; 2] = [b"caf\xe9.mkv", "caf\u{e9} \u{2014}.mkv".as_bytes()];
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                request.push(byte[0]);
            }
            heard.lock().expect("whole").push(request);
            let mut answer =
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"v\"\r\nConnection: close\r\n".to_vec();
            answer.extend_from_slice(b"Content-Length: 2\r\nContent-Disposition: attachment; filename=\"");
            answer.extend_from_slice(names[number % 2]);
            answer.extend_from_slice(b"\"\r\n\r\nhi");
            let _ = stream.write_all(&answer);
        }
    });
    let mut pond = Pond::start(&[("upstream", url.as_str())]);
    for (number, name) in names.into_iter().enumerate() {
        let mut request =
            format!("GET /{number} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Name: ").into_bytes();
        request.extend_from_slice(name);
        request.extend_from_slice(b"\r\n\r\n");
        for _ in 0..2 {
            let answer = exchange(pond.address(), &request);
            assert!(contains(&answer, name), "{}", String::from_utf8_lossy(&answer));
        }
        assert!(
            contains(&seen.lock().expect("whole")[number], name),
            "the upstream is told it as it was"
        );
    }
    pond.restart();
    let plain = b"GET /0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(
        contains(&exchange(pond.address(), plain), names[0]),
        "also after a restart"
    );
    assert_eq!(seen.lock().expect("whole").len(), 2, "it was stored");
}

#[test]
fn reply_heads_that_other_clients_take_are_taken() {
    let many: String = (0..300).map(|number| format!("X-{number}: y\r\n")).collect();
    for odd in [
        "Warning: Undefined variable $x in /var/www/film.php\r\n",
        "no colon at all in this line\r\n",
        "X-Folded: a\r\n b\r\n",
        "X-Spaced : a\r\n",
        many.as_str(),
    ] {
        let film = Film::new(20_000);
        let (served, odd_lines) = (film.clone(), odd.to_owned());
        let upstream = Upstream::scripted(move |_, conn| {
            conn.raw(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n");
            conn.raw(odd_lines.as_bytes());
            conn.raw(format!("Content-Length: {}\r\n\r\n", served.len).as_bytes());
            conn.body(&served, 0, served.len);
        });
        let pond = Pond::before(&upstream);
        film.check(0, &get(pond.address(), "/film.mp4").expect(200).body);
    }
}

#[test]
fn a_head_that_leaves_the_body_in_doubt_is_refused_and_its_cause_is_named() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef");
        conn.close();
    });
    let pond = Pond::before(&upstream);
    let answer = get(pond.address(), "/film.mp4");
    let text = answer.expect(502).text();
    assert!(
        text.contains("does not read") && !text.contains("error sending request"),
        "{text}"
    );
    assert_eq!(
        pond.metric("millpond_upstream_failures_total{cause=\"malformed-reply\"}"),
        1
    );
}

#[test]
fn a_refused_connection_and_an_unknown_name_are_told_by_their_cause() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("bound");
    drop(port);
    let refused = format!("http://{address}/");
    let pond = Pond::start(&[("upstream", refused.as_str())]);
    let answer = get(pond.address(), "/film.mp4");
    assert!(
        answer.expect(502).text().to_lowercase().contains("connection refused"),
        "{}",
        answer.text()
    );
    assert_eq!(
        pond.metric("millpond_upstream_failures_total{cause=\"connection-refused\"}"),
        1
    );
    let pond = Pond::start(&[("upstream", "http://no-such-host.invalid/")]);
    let text = get(pond.address(), "/film.mp4").expect(502).text();
    assert!(!text.contains("error sending request"), "{text}");
    assert_eq!(pond.metric("millpond_upstream_failures_total{cause=\"dns\"}"), 1);
}

// --- songs, segments and old clients -------------------------------------------------------------------

#[test]
fn a_second_reader_of_a_song_or_a_segment_in_chunks_gets_it_from_the_start() {
    for media in ["audio/mpeg", "audio/aac", "video/mp2t"] {
        let film = Film::new(600_000);
        let (served, rest) = (film.clone(), Valve::new(0));
        let held = rest.clone();
        let upstream = Upstream::scripted(move |_, conn| {
            conn.head(
                200,
                &[
                    ("Content-Type", media.to_owned()),
                    ("Transfer-Encoding", "chunked".to_owned()),
                ],
            );
            conn.chunk(&served, 0, 300_000);
            conn.wait_for(&held);
            conn.chunk(&served, 300_000, 600_000);
            conn.raw(b"0\r\n\r\n");
        });
        let pond = Pond::before(&upstream);
        let mut first = Client::open(pond.address(), "GET", "/song", &[]);
        film.check(0, &first.read_stream(200_000));
        let mut second = Client::open(pond.address(), "GET", "/song", &[]);
        film.check(0, &second.read_stream(200_000));
        rest.allow(u64::MAX);
        for client in [first, second] {
            let end = client.finish();
            assert_eq!(end.ended, Ended::Clean);
            film.check(600_000 - end.body.len() as u64, &end.body);
        }
        assert_eq!(upstream.requests().len(), 1, "{media}");
    }
}

#[test]
fn two_clients_of_an_event_stream_get_replies_of_their_own() {
    let upstream = Upstream::scripted(|seen, conn| {
        conn.head(
            200,
            &[
                ("Content-Type", "text/event-stream".to_owned()),
                ("Transfer-Encoding", "chunked".to_owned()),
            ],
        );
        let event = format!("data: tab {}\n\n", seen.number);
        conn.raw(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        conn.stall();
    });
    let pond = Pond::before(&upstream);
    let mut tabs = Vec::new();
    for number in 0..2 {
        let mut tab = Client::open(pond.address(), "GET", "/events", &[]);
        assert_eq!(tab.read_stream(13), format!("data: tab {number}\n\n").into_bytes());
        tabs.push(tab);
    }
}

#[test]
fn a_client_of_http_1_0_never_gets_chunks() {
    let film = Film::new(300_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let media = if seen.target == "/events" {
            "text/event-stream"
        } else {
            "text/html"
        };
        conn.head(
            200,
            &[
                ("Content-Type", media.to_owned()),
                ("Transfer-Encoding", "chunked".to_owned()),
                ("Cache-Control", "no-store".to_owned()),
            ],
        );
        conn.chunk(&served, 0, 300_000);
        conn.raw(b"0\r\n\r\n");
    });
    let pond = Pond::before(&upstream);
    for request in [
        "GET /page HTTP/1.0\r\n\r\n",
        "GET /events HTTP/1.0\r\n\r\n",
        "POST /page HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
    ] {
        let answer = exchange(pond.address(), request.as_bytes());
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        assert!(!head.contains("transfer-encoding"), "{request}: {head}");
        film.check(0, &answer[end + 4..]);
    }
}

#[test]
fn interim_replies_are_not_taken_for_the_reply_and_never_kept() {
    let page = Film::new(3000);
    let served = page.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        conn.raw(b"HTTP/1.1 102 Processing\r\n\r\n");
        conn.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n");
        conn.head(
            200,
            &[
                ("Content-Length", "3000".to_owned()),
                ("Cache-Control", "max-age=60".to_owned()),
            ],
        );
        conn.body(&served, 0, 3000);
    });
    let pond = Pond::before(&upstream);
    for _ in 0..2 {
        let answer = get(pond.address(), "/page");
        page.check(0, &answer.expect(200).body);
        assert_eq!(answer.header("link"), None);
    }
    assert_eq!(upstream.requests().len(), 1);
}

// --- all of it, for a while ----------------------------------------------------------------------------

#[test]
fn nine_hundred_requests_for_unchanging_objects_are_neither_refused_nor_cut() {
    const STALE_WEAK: Says = &[("ETag", "W/\"a\""), ("Cache-Control", "max-age=0")];
    let (page, film) = (Film::new(4000), Film::new(700_000));
    let (page_served, film_served) = (page.clone(), film.clone());
    let upstream = Upstream::scripted(move |seen, conn| match seen.target.as_str() {
        "/page" => {
            conn.head(
                200,
                &[
                    ("Content-Type", "text/html".to_owned()),
                    ("Transfer-Encoding", "chunked".to_owned()),
                ],
            );
            conn.chunk(&page_served, 0, page_served.len);
            conn.raw(b"0\r\n\r\n");
        }
        "/weak.mp4" => serve(conn, seen, &film_served, STALE_WEAK),
        "/express.mp4" => serve(conn, seen, &film_served, EXPRESS),
        _ => serve(conn, seen, &film_served, NOTHING),
    });
    let pond = Pond::before(&upstream);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Ordering::AcqRel)).filter(|number| *number < 900) {
                    let path = ["/page", "/weak.mp4", "/express.mp4", "/bare.mp4"][number % 4];
                    let body = if path == "/page" { &page } else { &film };
                    match number % 3 {
                        0 => body.check(0, &get(pond.address(), path).expect(200).body),
                        _ if path == "/page" => page.check(0, &get(pond.address(), path).expect(200).body),
                        1 => body.check(0, &get_range(pond.address(), path, "bytes=0-").expect(206).body),
                        _ => body.check(
                            600_000,
                            &get_range(pond.address(), path, "bytes=600000-").expect(206).body,
                        ),
                    }
                }
            });
        }
    });
}
