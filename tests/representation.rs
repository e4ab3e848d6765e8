//! Promise 2: all bytes of one answer, and of one object, come from one representation.

use crate::support::{Client, Ended, Film, Pond, Upstream, get, get_range};

const LEN: u64 = 2_000_000;

#[test]
fn a_tag_that_changes_on_resume_breaks_the_reader_and_starts_a_generation() {
    let (first, second) = (Film::edition(LEN, 1), Film::edition(LEN, 2));
    let (one, two) = (first.clone(), second.clone());
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(
                206,
                &[
                    ("ETag", one.etag.clone().expect("a tag")),
                    ("Content-Length", LEN.to_string()),
                    ("Content-Range", format!("bytes 0-{}/{LEN}", LEN - 1)),
                ],
            );
            conn.body(&one, 0, 700_000);
            conn.close();
        } else {
            conn.serve(&two, seen);
        }
    });
    let pond = Pond::before(&upstream);
    let old = get(pond.address(), "/film");
    assert_eq!((old.status, old.ended), (200, Ended::Cut));
    first.check(0, &old.body);
    let new = get(pond.address(), "/film");
    new.expect(200);
    assert_eq!(new.header("etag"), second.etag.as_deref());
    second.check(0, &new.body);
    assert_eq!(new.body.len() as u64, LEN);
    // The resume asked for the rest of the first edition, and got the second from 0.
    assert_eq!(upstream.requests()[1].header("if-range"), first.etag.as_deref());
}

#[test]
fn a_206_under_another_tag_is_not_joined() {
    let (first, second) = (Film::edition(LEN, 1), Film::edition(LEN, 2));
    let (one, two) = (first.clone(), second.clone());
    let upstream = Upstream::scripted(move |seen, conn| {
        let (start, _) = seen.range(LEN).unwrap_or((0, LEN));
        // The upstream ignores If-Range, as some servers do.
        let film = if seen.number == 0 { &one } else { &two };
        conn.head(
            206,
            &[
                ("ETag", film.etag.clone().expect("a tag")),
                ("Content-Length", (LEN - start).to_string()),
                ("Content-Range", format!("bytes {start}-{}/{LEN}", LEN - 1)),
            ],
        );
        if seen.number == 0 {
            conn.body(film, 0, 500_000);
            conn.close();
        } else {
            conn.body(film, start, LEN);
        }
    });
    let pond = Pond::before(&upstream);
    let old = get(pond.address(), "/film");
    assert_eq!(old.ended, Ended::Cut);
    first.check(0, &old.body);
    let new = get(pond.address(), "/film");
    new.expect(200);
    second.check(0, &new.body);
}

#[test]
fn a_reader_whose_bytes_are_all_here_finishes_on_its_generation() {
    let (one, two) = (Film::edition(LEN, 1), Film::edition(LEN, 2));
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(
                206,
                &[
                    ("ETag", one.etag.clone().expect("a tag")),
                    ("Content-Length", LEN.to_string()),
                    ("Content-Range", format!("bytes 0-{}/{LEN}", LEN - 1)),
                ],
            );
            conn.body(&one, 0, 1_000_000);
            conn.stall();
        } else {
            conn.serve(&two, seen);
        }
    });
    let pond = Pond::before(&upstream);
    // Every byte that this reader wants arrives; it reads a little and pauses.
    let mut early = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=0-899999")]);
    pond.until_present(1_000_000);
    let head = early.read(1000);
    Film::edition(LEN, 1).check(0, &head);
    // Another one asks for the tail; the upstream has the next edition by now.
    let tail = get_range(pond.address(), "/film", "bytes=-1000");
    tail.expect(206);
    Film::edition(LEN, 2).check(LEN - 1000, &tail.body);
    let rest = early.read(899_000);
    Film::edition(LEN, 1).check(1000, &rest);
}

#[test]
fn pieces_are_never_joined_under_weak_tags_or_none() {
    for etag in [Some("W/\"same\""), None] {
        let film = Film::new(LEN).with_etag(etag);
        let served = film.clone();
        let upstream = Upstream::scripted(move |seen, conn| {
            if seen.number == 0 {
                let mut headers = vec![
                    ("Content-Length", LEN.to_string()),
                    ("Content-Range", format!("bytes 0-{}/{LEN}", LEN - 1)),
                ];
                headers.extend(served.etag.clone().map(|etag| ("ETag", etag)));
                conn.head(206, &headers);
                conn.body(&served, 0, 600_000);
                conn.close();
            } else {
                conn.serve(&served, seen);
            }
        });
        let pond = Pond::before(&upstream);
        let old = get(pond.address(), "/film");
        assert_eq!(old.ended, Ended::Cut, "{etag:?}");
        let new = get(pond.address(), "/film");
        new.expect(200);
        film.check(0, &new.body);
        // Read anew from 0: no request ever asked for the rest.
        assert!(
            upstream.requests()[1..]
                .iter()
                .all(|seen| seen.header("range").is_none_or(|range| range == "bytes=0-"))
        );
        assert!(
            !new.header("etag").expect("a tag").starts_with("W/"),
            "clients get a strong tag of our own"
        );
    }
}

#[test]
fn a_content_range_that_contradicts_the_question_brings_no_byte() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let (start, _) = seen.range(LEN).unwrap_or((0, LEN));
        match seen.number {
            0 => {
                conn.head(
                    206,
                    &[
                        ("ETag", served.etag.clone().expect("a tag")),
                        ("Content-Length", LEN.to_string()),
                        ("Content-Range", format!("bytes 0-{}/{LEN}", LEN - 1)),
                    ],
                );
                conn.body(&served, 0, 500_000);
                conn.close();
            }
            1 => {
                // Off by one, with bytes to match: a cache that shifts would store them.
                conn.head(
                    206,
                    &[
                        ("ETag", served.etag.clone().expect("a tag")),
                        ("Content-Length", (LEN - start - 1).to_string()),
                        ("Content-Range", format!("bytes {}-{}/{LEN}", start + 1, LEN - 1)),
                    ],
                );
                conn.body(&served, start + 1, LEN);
            }
            _ => conn.serve(&served, seen),
        }
    });
    let pond = Pond::before(&upstream);
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    film.check(0, &answer.body);
    assert_eq!(answer.body.len() as u64, LEN);
}

#[test]
fn a_200_to_a_range_is_never_appended_at_the_offset() {
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
            conn.body(&served, 0, 500_000);
            conn.close();
        } else {
            conn.head(
                200,
                &[
                    ("ETag", served.etag.clone().expect("a tag")),
                    ("Content-Length", LEN.to_string()),
                ],
            );
            conn.body(&served, 0, LEN);
        }
    });
    let pond = Pond::before(&upstream);
    // The tag and the length are the same, so the reader is served on out of the second body.
    let answer = get(pond.address(), "/film");
    answer.expect(200);
    film.check(0, &answer.body);
    assert_eq!(answer.body.len() as u64, LEN);
}
