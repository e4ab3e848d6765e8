//! Clients that are slow, silent or broken hold nothing that belongs to others: not an upstream's connection, not its good
//! name, not the server's descriptors.

use crate::support::origin::send;
use crate::support::{Client, Film, PATIENCE, Pond, Upstream, eventually, get, request, rule};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// An upstream that reads what it is sent, and answers every path with its name.
fn upstream() -> Upstream {
    Upstream::scripted(|seen, conn| {
        let body = seen.target.clone();
        conn.head(200, &[("Content-Length", body.len().to_string())]);
        conn.raw(body.as_bytes());
    })
}

fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// A client that has sent these bytes, and does nothing more.
fn silent_client(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connected(address);
    stream.write_all(bytes).expect("sent");
    stream
}

/// The longest that a GET took of several, one after the other.
fn slowest_get(pond: &Pond, name: &str) -> Duration {
    let took = (0..5).map(|number| {
        let begun = Instant::now();
        get(pond.address(), &format!("/{name}{number}")).expect(200);
        begun.elapsed()
    });
    took.max().expect("some")
}

/// A GET that waits for another client's time-out takes far longer than this.
const QUICK: Duration = Duration::from_secs(5);

#[test]
fn silent_uploads_hold_no_connection_of_the_upstream() {
    for connections in ["1", "2"] {
        let upstream = upstream();
        let pond = Pond::with(&upstream, &[("connections_per_upstream", connections)]);
        // Where there is one connection alone, its beginning is not enough.
        let begun: &[u8] = if connections == "1" { b"x" } else { b"" };
        let head = b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
        let post = [head, begun].concat();
        let silent: Vec<TcpStream> = (0..8).map(|_| silent_client(pond.address(), &post)).collect();
        let took = slowest_get(&pond, "beside");
        assert!(took < QUICK, "{took:?}");
        drop(silent);
    }
}

/// An upstream that never reads the body of a POST, with the number of POSTs that have reached it.
fn upstream_that_waits() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&posts);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counted) = (stream.expect("connected"), Arc::clone(&counted));
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    head.push(byte[0]);
                }
                if head.starts_with(b"POST") {
                    counted.fetch_add(1, Ordering::Relaxed);
                    // Until the client's side of the pond is gone.
                    let _ = std::io::copy(&mut stream, &mut std::io::sink());
                } else {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                }
            });
        }
    });
    (format!("http://{address}/"), posts)
}

#[test]
fn uploads_that_stop_half_way_leave_a_connection_to_readers() {
    let (url, posts) = upstream_that_waits();
    let pond = Pond::start(&[("upstream", &url), ("connections_per_upstream", "2")]);
    let mut post = b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    post.extend(vec![0; 100_000]);
    let silent: Vec<TcpStream> = (0..8).map(|_| silent_client(pond.address(), &post)).collect();
    eventually("one of them is under way", || posts.load(Ordering::Relaxed) > 0);
    let took = slowest_get(&pond, "beside");
    assert!(took < QUICK, "{took:?}");
    assert_eq!(posts.load(Ordering::Relaxed), 1);
    drop(silent);
}

#[test]
fn answers_that_are_not_read_give_way_to_readers() {
    let upstream = Upstream::scripted(|seen, conn| {
        let length: u64 = if seen.target.starts_with("/big") { 256 << 20 } else { 4 };
        let fields = [
            ("Cache-Control", "no-store".to_owned()),
            ("Content-Length", length.to_string()),
        ];
        conn.head(200, &fields);
        let piece = vec![0; 1 << 16];
        let mut left = length;
        while left > 0 {
            let count = left.min(piece.len() as u64);
            if !conn.raw(&piece[..count as usize]) {
                return;
            }
            left -= count;
        }
    });
    for method in ["POST", "PROPFIND"] {
        let pond = Pond::with(&upstream, &[("connections_per_upstream", "2")]);
        let request = format!("{method} /big HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let unread: Vec<TcpStream> = (0..8)
            .map(|_| silent_client(pond.address(), request.as_bytes()))
            .collect();
        let took = slowest_get(&pond, "beside");
        assert!(took < QUICK, "{method}: {took:?}");
        drop(unread);
    }
}

#[test]
fn malformed_and_broken_uploads_say_nothing_of_the_upstream() {
    let upstream = upstream();
    let pond = Pond::before(&upstream);
    for _ in 0..8 {
        let mut bad = silent_client(
            pond.address(),
            b"POST /bad HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n",
        );
        let mut answer = Vec::new();
        let _ = bad.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
        // One that has begun, so that the upstream has it, and breaks off.
        let mut broken = connected(pond.address());
        let head = "POST /broken HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
        broken.write_all(head.as_bytes()).expect("sent");
        broken.write_all(&vec![0; 100_000]).expect("sent");
    }
    let took = slowest_get(&pond, "after");
    assert!(took < QUICK, "the upstream was taken for down: {took:?}");
    assert_eq!(
        send(pond.address(), "POST", "/good", &[], b"x").expect(200).text(),
        "/good"
    );
}

#[test]
fn a_detached_upload_that_stays_silent_holds_nothing_either() {
    let upstream = upstream();
    let pond = Pond::with(&upstream, &[("connections_per_upstream", "2")]);
    let post = b"POST /up HTTP/1.1\r\nHost: localhost\r\nPrefer: respond-async\r\nContent-Length: 1000000\r\n\r\nx";
    let silent: Vec<TcpStream> = (0..8).map(|_| silent_client(pond.address(), post)).collect();
    eventually("they are known", || {
        let list = rule(pond.address(), "GET", "/-/api/v1/streams", &[]).json();
        list["streams"].as_array().is_some_and(|streams| streams.len() == 8)
    });
    let took = slowest_get(&pond, "beside");
    assert!(took < QUICK, "{took:?}");
    drop(silent);
}

#[test]
fn requests_that_outlive_their_clients_take_no_place_of_a_radio() {
    let upstream = Upstream::scripted(|seen, conn| {
        let media = if seen.target == "/radio" {
            "audio/mpeg"
        } else {
            "text/event-stream"
        };
        conn.head(200, &[("Content-Type", media.to_owned()), ("icy-name", "A".to_owned())]);
        conn.raw(b"hello");
        conn.stall();
    });
    let pond = Pond::with(&upstream, &[("streams", "4")]);
    let detached = |number: usize| {
        request(
            pond.address(),
            "GET",
            &format!("/x{number}"),
            &[("Prefer", "respond-async")],
        )
    };
    for number in 0..4 {
        detached(number).expect(202);
    }
    detached(4).expect(503);
    let mut listener = Client::open(pond.address(), "GET", "/radio", &[]);
    assert_eq!(listener.status, 200);
    assert_eq!(listener.read_stream(5), b"hello");
}

#[test]
fn the_oldest_idle_connections_make_room_for_others() {
    let upstream = upstream();
    let pond = Pond::with(&upstream, &[("connections", "64"), ("connections_per_client", "64")]);
    let idle: Vec<TcpStream> = (0..64).map(|_| connected(pond.address())).collect();
    eventually("another client is answered", || {
        let mut stream = connected(pond.address());
        let asked = stream.write_all(b"GET /other HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        asked.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200")
    });
    let closed = idle.into_iter().filter_map(|mut stream| {
        stream.set_nonblocking(true).expect("set");
        stream.read(&mut [0]).ok()
    });
    let closed = closed.count();
    assert!((1..64).contains(&closed), "{closed} were closed");
}

#[test]
fn a_player_keeps_its_connection_however_many_others_come() {
    let film = Film::new(64 << 20);
    let upstream = Upstream::of(&film);
    let pond = Pond::with(&upstream, &[("connections", "64"), ("connections_per_client", "64")]);
    for headers in [&[][..], &[("TE", "trailers")]] {
        let mut player = Client::open(pond.address(), "GET", "/film", headers);
        film.check(0, &player.read(1000));
        let idle: Vec<TcpStream> = (0..200).map(|_| connected(pond.address())).collect();
        get(pond.address(), "/film?other").expect(200);
        film.check(1000, &player.finish().body);
        drop(idle);
    }
}

/// A run of bytes that is sent so often, with a second in between.
struct Dripping {
    head: &'static str,
    bytes: &'static [u8],
}

#[test]
#[ignore = "waits for time-outs: scripts/check runs it by itself"]
fn clients_that_never_end_a_request_are_let_go() {
    let upstream = upstream();
    let pond = Pond::before(&upstream);
    const FIRST: &str = "GET /small HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\n\r\n";
    let clients = [
        ("nothing", Dripping { head: "", bytes: b"" }),
        (
            "half a head",
            Dripping {
                head: "GET / HTTP/1.1\r\nHost: localhost\r\n",
                bytes: b"",
            },
        ),
        (
            "a head byte by byte",
            Dripping {
                head: "GET / HTTP/1.1\r\nX: ",
                bytes: b"a",
            },
        ),
        (
            "half a second head",
            Dripping {
                head: FIRST,
                bytes: b"",
            },
        ),
        (
            "a silent body",
            Dripping {
                head: "POST /u HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx",
                bytes: b"",
            },
        ),
        (
            "a body byte by byte",
            Dripping {
                head: "POST /u HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n",
                bytes: b"a",
            },
        ),
    ];
    let threads: Vec<_> = clients
        .into_iter()
        .map(|(name, client)| {
            let address = pond.address();
            std::thread::spawn(move || (name, held_for(address, &client)))
        })
        .collect();
    for thread in threads {
        let (name, held) = thread.join().expect("whole");
        assert!(held < Duration::from_secs(120), "{name}: held for {held:?}");
    }
}

/// How long a connection is held on which a client drips.
fn held_for(address: SocketAddr, client: &Dripping) -> Duration {
    let mut stream = connected(address);
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
    stream.write_all(client.head.as_bytes()).expect("sent");
    if client.head.starts_with("GET /small") {
        let mut answer = [0; 4096];
        let _ = stream.read(&mut answer);
        stream.write_all(b"GET /x HTT").expect("sent");
    }
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if stream.write_all(client.bytes).is_err() {
            break;
        }
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    begun.elapsed()
}

/// The longest of these seeks in a stored film, each on a connection of its own that stays open.
fn longest_seek(player: &mut Client, film: &Film) -> Duration {
    let seeks = (0..300).map(|number| {
        let start = number * 7919 * 64 % (film.len - 65536);
        let range = format!("bytes={start}-{}", start + 65535);
        let begun = Instant::now();
        player.ask("GET", "/film", &[("Range", &range)]);
        player.read_head();
        film.check(start, &player.read(65536));
        begun.elapsed()
    });
    seeks.max().expect("some")
}

#[test]
#[ignore = "measures: scripts/check runs it by itself"]
fn a_player_beside_a_thousand_slow_clients_waits_no_longer() {
    let film = Film::new(64 << 20);
    let upstream = Upstream::of(&film);
    let pond = Pond::with(
        &upstream,
        &[("connections", "4000"), ("connections_per_client", "4000")],
    );
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    let mut player = Client::connect(pond.address());
    let alone = longest_seek(&mut player, &film);
    let slow: Vec<TcpStream> = (0..1000)
        .map(|number| match number % 3 {
            0 => silent_client(pond.address(), b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "),
            1 => silent_client(
                pond.address(),
                b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx",
            ),
            _ => silent_client(pond.address(), b"GET /film HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        })
        .collect();
    let beside = longest_seek(&mut player, &film);
    eprintln!(
        "the longest of 300 seeks: {alone:?} alone, {beside:?} beside {} slow clients",
        slow.len()
    );
    assert!(
        beside < alone + Duration::from_millis(100),
        "{alone:?} alone, {beside:?} beside them"
    );
    drop(slow);
}
