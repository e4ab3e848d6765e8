//! Conditional requests, several ranges, and what the header says.

use crate::support::{Film, Pond, Upstream, get, get_range, request};

const LEN: u64 = 100_000;
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn pond() -> (Film, Upstream, Pond) {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let (start, end) = seen.range(LEN).unwrap_or((0, LEN));
        conn.head(
            206,
            &[
                ("ETag", "\"a\"".to_owned()),
                ("Last-Modified", MODIFIED.to_owned()),
                ("Date", "Sun, 06 Nov 2022 08:49:37 GMT".to_owned()),
                ("Content-Type", "video/webm".to_owned()),
                ("Content-Language", "en".to_owned()),
                ("Set-Cookie", "secret=1".to_owned()),
                ("X-Power", "9000".to_owned()),
                ("Content-Length", (end - start).to_string()),
                ("Content-Range", format!("bytes {start}-{}/{LEN}", end - 1)),
            ],
        );
        conn.body(&served, start, end);
    });
    let pond = Pond::with(&upstream, &[("drop_cookies", "true")]);
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    (film, upstream, pond)
}

#[test]
fn conditions_are_met_in_the_order_of_the_rfc() {
    let (_film, _upstream, pond) = pond();
    let ask = |headers: &[(&str, &str)]| request(pond.address(), "GET", "/film", headers);
    let range = ("Range", "bytes=0-9");
    for (headers, status) in [
        (vec![("If-None-Match", "\"a\"")], 304),
        (vec![("If-None-Match", "W/\"a\"")], 304),
        (vec![("If-None-Match", "\"b\"")], 200),
        (vec![("If-None-Match", "\"a\""), range], 304),
        (vec![("If-Modified-Since", MODIFIED)], 304),
        (vec![("If-None-Match", "\"b\""), ("If-Modified-Since", MODIFIED)], 200),
        (vec![("If-Match", "\"b\"")], 412),
        (vec![("If-Match", "W/\"a\"")], 412),
        (vec![("If-Match", "\"a\""), range], 206),
        (vec![("If-Match", "\"a\""), ("Range", "bytes=100000-")], 416),
        (vec![("If-Match", "\"b\""), ("Range", "bytes=100000-")], 412),
        (vec![("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")], 412),
        (vec![("If-Range", "\"a\""), range], 206),
        (vec![("If-Range", MODIFIED), range], 206),
    ] {
        ask(&headers).expect(status);
    }
}

#[test]
fn if_range_with_a_weak_tag_sends_the_whole_body() {
    let (film, _upstream, pond) = pond();
    for if_range in ["W/\"a\"", "\"b\"", "Sun, 06 Nov 1994 08:49:38 GMT"] {
        let answer = request(
            pond.address(),
            "GET",
            "/film",
            &[("Range", "bytes=5-9"), ("If-Range", if_range)],
        );
        answer.expect(200);
        film.check(0, &answer.body);
    }
}

#[test]
fn the_upstreams_header_is_kept_and_its_cookies_are_not_where_the_operator_says_so() {
    let (_film, _upstream, pond) = pond();
    let answer = get_range(pond.address(), "/film", "bytes=0-9");
    answer.expect(206);
    for (name, value) in [
        ("ETag", Some("\"a\"")),
        ("Last-Modified", Some(MODIFIED)),
        ("Content-Type", Some("video/webm")),
        ("Content-Language", Some("en")),
        ("X-Power", Some("9000")),
        ("Accept-Ranges", Some("bytes")),
        ("Set-Cookie", None),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert!(answer.is_hit(), "{:?}", answer.headers);
    assert!(answer.header("age").is_some());
    let once = |name: &str| {
        answer
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .count()
    };
    assert!(
        ["date", "etag", "content-type", "content-length"]
            .iter()
            .all(|name| once(name) == 1),
        "{:?}",
        answer.headers
    );
    let unchanged = request(pond.address(), "GET", "/film", &[("If-None-Match", "\"a\"")]);
    assert_eq!(unchanged.header("etag"), Some("\"a\""));
}

#[test]
fn several_ranges_come_as_multipart_of_the_declared_length() {
    let (film, _upstream, pond) = pond();
    let answer = get_range(pond.address(), "/film", "bytes=0-9,50000-50099,-5");
    answer.expect(206);
    let kind = answer.header("content-type").expect("a type").to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("multipart");
    let mut wanted = Vec::new();
    for (start, end) in [(0, 10), (50_000, 50_100), (LEN - 5, LEN)] {
        let open = if wanted.is_empty() { "" } else { "\r\n" };
        let head = format!(
            "{open}--{boundary}\r\nContent-Type: video/webm\r\nContent-Range: bytes {start}-{}/{LEN}\r\n\r\n",
            end - 1
        );
        wanted.extend(head.as_bytes());
        wanted.extend(film.bytes(start, end));
    }
    wanted.extend(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(answer.body, wanted);
    assert_eq!(answer.header("content-range"), None);
}

#[test]
fn ranges_that_touch_come_as_one_and_too_many_as_the_whole() {
    let (film, _upstream, pond) = pond();
    let one = get_range(pond.address(), "/film", "bytes=0-9,5-19,20-29");
    one.expect(206);
    assert_eq!(one.header("content-range"), Some("bytes 0-29/100000"));
    film.check(0, &one.body);
    let many: Vec<String> = (0..17).map(|n| format!("{}-{}", n * 100, n * 100)).collect();
    get_range(pond.address(), "/film", &format!("bytes={}", many.join(","))).expect(200);
}

#[test]
fn a_malformed_range_or_unknown_unit_is_ignored() {
    let (_film, _upstream, pond) = pond();
    for range in [
        "items=0-5",
        "bytes=",
        "bytes=5-2",
        "bytes=0--1",
        "rubbish",
        "bytes=+1-2",
    ] {
        get_range(pond.address(), "/film", range).expect(200);
    }
    let clipped = get_range(pond.address(), "/film", "bytes=99990-18446744073709551616");
    clipped.expect(206);
    assert_eq!(clipped.header("content-range"), Some("bytes 99990-99999/100000"));
}
