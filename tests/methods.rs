//! Methods that are not answered from the store, what they change, and messages that are refused (TRAPS 37).

use crate::support::{Answer, Client, Ended, Pond, Upstream, eventually, get, request};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

/// Sends bytes as they are and reads all that comes back.
fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("set");
    stream.write_all(bytes).expect("sent");
    let mut answer = Vec::new();
    // A server that refuses a request may reset the connection.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn send(pond: &Pond, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
    let length = body.len().to_string();
    let mut all = vec![("Content-Length", length.as_str())];
    all.extend(fields);
    let mut client = Client::connect(pond.address());
    client.ask(method, target, &all);
    client.send(body);
    client.read_head();
    client.finish()
}

#[test]
fn a_request_with_a_body_is_passed_on_as_it_is_and_its_answer_is_not_kept() {
    let upstream = Upstream::scripted(|seen, conn| {
        let body = format!("{} of {}", seen.method, seen.body.len());
        let fields = [
            ("ETag", "\"new\"".to_owned()),
            ("Content-Range", "bytes 0-1/2".to_owned()),
            ("Set-Cookie", "a=b".to_owned()),
            ("Content-Length", body.len().to_string()),
        ];
        conn.head(201, &fields);
        conn.raw(body.as_bytes());
    });
    let pond = Pond::before(&upstream);
    let large = vec![7; 3_000_000];
    let answer = send(
        &pond,
        "POST",
        "/form?x=%2B",
        &[("Content-Type", "a/b"), ("Cookie", "c=d")],
        &large,
    );
    assert_eq!(answer.expect(201).text(), "POST of 3000000");
    for (name, value) in [
        ("etag", Some("\"new\"")),
        ("content-range", Some("bytes 0-1/2")),
        ("set-cookie", Some("a=b")),
        ("cache-status", Some("millpond; fwd=method; fwd-status=201")),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let chunked = b"PUT /form HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert!(raw(pond.address(), chunked).ends_with("PUT of 5"));
    assert_eq!(send(&pond, "POST", "/form", &[], b"").text(), "POST of 0");
    let bare = request(pond.address(), "DELETE", "/form", &[]);
    assert_eq!(bare.text(), "DELETE of 0");
    let seen = upstream.requests();
    assert_eq!(seen[0].target, "/form?x=%2B");
    assert_eq!(seen[0].header("content-length"), Some("3000000"));
    assert_eq!(
        (seen[0].header("content-type"), seen[0].header("cookie")),
        (Some("a/b"), Some("c=d"))
    );
    assert_eq!(seen[0].body, large);
    assert_eq!(seen[2].header("content-length"), Some("0"));
    assert_eq!(seen.len(), 4);
    assert!(pond.object().is_null());
}

#[test]
fn a_body_streams_both_ways_before_it_has_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (told, first_bytes) = mpsc::channel();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("asked");
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.ends_with(b"first") {
            let count = stream.read(&mut buffer).expect("more");
            seen.extend_from_slice(&buffer[..count]);
        }
        told.send(()).expect("heard");
        while !seen.ends_with(b"second") {
            let count = stream.read(&mut buffer).expect("more");
            seen.extend_from_slice(&buffer[..count]);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            .expect("sent");
        // The reply breaks off: four bytes are missing.
    });
    let pond = Pond::start(&[("upstream", &format!("http://{address}/"))]);
    let mut client = Client::connect(pond.address());
    client.ask("POST", "/form", &[("Content-Length", "11")]);
    client.send(b"first");
    first_bytes
        .recv_timeout(crate::support::PATIENCE)
        .expect("passed on at once");
    client.send(b"second");
    client.read_head();
    let answer = client.finish();
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.ended),
        (200, "half", Ended::Cut)
    );
    serving.join().expect("served");
}

#[test]
fn a_post_is_not_retried_after_a_reset() {
    let upstream = Upstream::scripted(|_, conn| conn.reset());
    let pond = Pond::before(&upstream);
    for number in 1..=3 {
        send(&pond, "POST", "/form", &[], b"pay").expect(502);
        assert_eq!(upstream.requests().len(), number);
    }
}

#[test]
fn a_successful_unsafe_method_invalidates_the_urls_it_names() {
    let upstream = Upstream::scripted(|seen, conn| {
        let mut fields = vec![
            ("Cache-Control", "max-age=1000".to_owned()),
            ("Content-Length", "2".to_owned()),
        ];
        let status = match (seen.method.as_str(), seen.header("x-fail")) {
            ("GET", _) => 200,
            (_, Some(_)) => 500,
            _ => 201,
        };
        if let Some(place) = seen.header("x-place") {
            fields.push(("Location", place.to_owned()));
        }
        if let Some(place) = seen.header("x-content") {
            fields.push(("Content-Location", place.to_owned()));
        }
        conn.head(status, &fields);
        conn.raw(b"ok");
    });
    let pond = Pond::before(&upstream);
    let asked = |path: &str| {
        let gets = upstream
            .requests()
            .into_iter()
            .filter(|seen| seen.method == "GET" && seen.target == path);
        gets.count()
    };
    let stored = |path: &str| {
        get(pond.address(), path).expect(200);
        eventually("it is stored", || pond.metric("millpond_fills") == 0);
        asked(path)
    };
    assert_eq!((stored("/a"), stored("/b"), stored("/c"), stored("/d?x")), (1, 1, 1, 1));
    // Neither a failure nor a safe method changes anything.
    send(&pond, "PUT", "/a", &[("X-Fail", "1")], b"x").expect(500);
    request(pond.address(), "OPTIONS", "/a", &[]);
    assert_eq!(stored("/a"), 1);
    send(&pond, "PUT", "/a", &[("X-Place", "/b")], b"x").expect(201);
    assert_eq!((stored("/a"), stored("/b"), stored("/c")), (2, 2, 1));
    let url = format!("{}d?x", upstream.url());
    send(&pond, "PATCH", "/a", &[("X-Content", &url)], b"x").expect(201);
    assert_eq!((stored("/a"), stored("/b"), stored("/d?x")), (3, 2, 2));
    // Another host's business is none of this one's.
    let other = upstream.url().replace("127.0.0.1", "localhost");
    send(&pond, "DELETE", "/a", &[("X-Place", &format!("{other}c"))], b"").expect(201);
    assert_eq!((stored("/a"), stored("/c")), (4, 1));
}

#[test]
fn trace_upgrades_and_spent_max_forwards_are_answered_here() {
    let upstream = Upstream::scripted(|seen, conn| {
        conn.head(
            200,
            &[
                ("X-Left", seen.header("max-forwards").unwrap_or("none").to_owned()),
                ("Content-Length", "0".to_owned()),
            ],
        );
    });
    let pond = Pond::before(&upstream);
    let options = |fields: &[(&str, &str)]| request(pond.address(), "OPTIONS", "/a", fields);
    assert_eq!(options(&[("Max-Forwards", "3")]).header("x-left"), Some("2"));
    assert_eq!(options(&[]).header("x-left"), Some("none"));
    let here = options(&[("Max-Forwards", "0")]);
    assert!(
        here.expect(200)
            .header("allow")
            .is_some_and(|allow| allow.contains("PUT"))
    );
    options(&[("Max-Forwards", "many")]).expect(400);
    assert_eq!(upstream.requests().len(), 2);
    request(pond.address(), "TRACE", "/a", &[]).expect(405);
    let socket = [("Upgrade", "websocket"), ("Connection", "Upgrade")];
    request(pond.address(), "GET", "/a", &socket).expect(501);
    assert_eq!(upstream.requests().len(), 2);
    // An offer of another HTTP is passed over.
    let offer = [
        ("Upgrade", "h2c"),
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("HTTP2-Settings", "AAMA"),
    ];
    request(pond.address(), "GET", "/a", &offer).expect(200);
    assert_eq!(upstream.requests()[2].header("upgrade"), None);
}

#[test]
fn ambiguous_framing_is_refused_and_reaches_no_upstream() {
    let upstream = Upstream::scripted(|_, conn| conn.head(200, &[("Content-Length", "0".to_owned())]));
    let pond = Pond::before(&upstream);
    let cases: [(&str, &[u8]); 14] = [
        (
            "both lengths",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        ),
        (
            "a list of lengths",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 6\r\n\r\nhello",
        ),
        (
            "a signed length",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello",
        ),
        (
            "a length that is no number",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: five\r\n\r\nhello",
        ),
        (
            "an unknown coding",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a coding after chunked",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked twice",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("a folded line", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n"),
        ("white space before the colon", b"GET / HTTP/1.1\r\nHost : h\r\n\r\n"),
        ("a bare CR", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n"),
        ("a NUL", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n"),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: i\r\n\r\n"),
        ("no host", b"GET / HTTP/1.1\r\n\r\n"),
    ];
    for (what, bytes) in cases {
        let answer = raw_closing(pond.address(), bytes);
        assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer:?}");
        assert!(upstream.requests().is_empty(), "{what}: {:?}", upstream.requests());
    }
    // A chunk that is none cuts the request; what has been passed on by then is cut too.
    let bad = b"POST /bad HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n";
    let answer = raw_closing(pond.address(), bad);
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer:?}");
    assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
}

/// As [`raw`], with no more to come from us.
fn raw_closing(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    stream.write_all(bytes).expect("sent");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // The head of the answer is enough: the connection may stay open.
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => answer.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}
