//! A stored object is served only as the upstream sent it: damage, purges, pins and digests.

use crate::support::upstream::{Conn, Seen};
use crate::support::{
    Answer, Client, Ended, Film, PATIENCE, Pond, Upstream, Valve, eventually, get, get_range, request, rule,
};
use millpond::clock::{ManualClock, from_unix_seconds};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Blocks 0 to 3 are full, the last one is not.
const LEN: u64 = 5_000_000;

/// A byte in block 2, and that block.
const FLIPPED: u64 = 2_500_000;
const BLOCK: (u64, u64) = (2 * MIB, 3 * MIB);

/// More than the sockets between server and client hold: who has read its first bytes has not got the rest.
const LONG: u64 = 48_000_000;

/// Bytes per second of an upstream that brings a film in one session: of a faster one a reader may come so
/// far ahead of what the session says of itself that it gets one of its own.
const STEADY: u64 = 30_000_000;

/// An id that no test's object has.
const NOBODY: &str = "ffffffffffffffffffffffffffffffff";

const WANTED: (&str, &str) = ("Want-Repr-Digest", "sha-256=1");

// --- the disk -----------------------------------------------------------------------------

/// All bodies in the data directory.
fn bodies(dir: &Path) -> Vec<PathBuf> {
    let shards = std::fs::read_dir(dir.join("objects")).expect("listed");
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.expect("a shard").path()).expect("listed"));
    files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "body"))
        .collect()
}

/// Stops the server, does this to its only body, and starts it again.
fn damage(pond: &mut Pond, damage: impl FnOnce(&File)) {
    pond.stop();
    let bodies = bodies(pond.dir());
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let file = OpenOptions::new().read(true).write(true).open(&bodies[0]);
    damage(&file.expect("opened"));
    pond.restart();
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[!byte[0]], at).expect("written");
}

// --- the server ---------------------------------------------------------------------------

/// Plays the film to its end.
fn play(pond: &Pond, film: &Film, path: &str) {
    let whole = get(pond.address(), path);
    whole.expect(200);
    assert_eq!(whole.body.len() as u64, film.len);
    film.check(0, &whole.body);
}

fn until_idle(pond: &Pond) {
    eventually("the fills to end", || pond.metric("millpond_fills") == 0);
}

/// A server that holds the whole film, and what it takes on the disk.
fn complete(upstream: &Upstream, film: &Film, settings: &[(&str, &str)]) -> (Pond, u64) {
    let pond = Pond::with(upstream, settings);
    play(&pond, film, "/film");
    pond.until_state("complete");
    until_idle(&pond);
    let stored = pond.metric("millpond_stored_bytes");
    assert!(stored >= film.len, "{stored}");
    (pond, stored)
}

/// The ranges asked for after the first `before` requests; a request without a range asks for everything.
fn asked(upstream: &Upstream, before: usize, len: u64) -> Vec<(u64, u64)> {
    let requests = upstream.requests();
    let since = requests[before..].iter();
    since.map(|seen| seen.range(len).unwrap_or((0, len))).collect()
}

#[track_caller]
fn expect_only_the_block(asked: &[(u64, u64)]) {
    assert!(!asked.is_empty(), "the block was not asked for");
    let within = |(start, end): &(u64, u64)| BLOCK.0 <= *start && *end <= BLOCK.1;
    assert!(asked.iter().all(within), "{asked:?}");
}

/// A request by the control socket, which may change things; with `lines`, which may name another `Host`, by the network.
pub(crate) fn change(address: SocketAddr, method: &str, target: &str, lines: &[&str]) -> Answer {
    if lines.is_empty() {
        return rule(address, method, target, &[("Content-Length", "0")]);
    }
    let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n");
    if !lines.iter().any(|line| line.starts_with("Host:")) {
        text.push_str("Host: 127.0.0.1\r\n");
    }
    for line in lines {
        text.push_str(&format!("{line}\r\n"));
    }
    text.push_str("\r\n");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(text.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer before the time-out");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).expect("text");
    let mut lines = head.trim_end().lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
    let headers = lines
        .map(|line| line.split_once(": ").expect("a field"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Answer {
        status: status.parse().expect("a number"),
        headers,
        body,
        ended: Ended::Clean,
    }
}

/// Removes what the query names; returns how many objects that were.
#[track_caller]
fn purge(pond: &Pond, query: &str) -> u64 {
    let target = format!("/-/api/v1/objects?{query}");
    let answer = change(pond.address(), "DELETE", &target, &[]);
    answer.expect(200).json()["removed"].as_u64().expect("a number")
}

/// None while what is stored is not known yet.
fn objects(pond: &Pond) -> Vec<Value> {
    let list = get(pond.address(), "/-/api/v1/objects");
    if list.status == 503 {
        return Vec::new();
    }
    let list = list.json();
    list["objects"].as_array().expect("a list").clone()
}

/// The object whose URL ends so.
fn object_at(pond: &Pond, path: &str) -> Option<Value> {
    let ends_so = |object: &Value| object["url"].as_str().is_some_and(|url| url.ends_with(path));
    objects(pond).into_iter().find(ends_so)
}

// --- the upstream -------------------------------------------------------------------------

/// Two editions of a film, and the upstream that has the first until it is told to have the second.
fn two_editions(len: u64, valve: Valve, rate: u64) -> (Film, Film, Arc<AtomicBool>, Upstream) {
    let (first, second) = (Film::edition(len, 1), Film::edition(len, 2));
    let changed = Arc::new(AtomicBool::new(false));
    let (one, two, is_changed) = (first.clone(), second.clone(), Arc::clone(&changed));
    let upstream = Upstream::start(valve, rate, move |seen, conn| {
        let film = if is_changed.load(Ordering::Acquire) { &two } else { &one };
        conn.serve(film, seen);
    });
    (first, second, changed, upstream)
}

/// Answers as a file server does that states this `Repr-Digest` of what it has.
fn serve_stating(conn: &mut Conn, film: &Film, seen: &Seen, field: &str) {
    let asked = seen.range(film.len);
    let (start, end) = asked.unwrap_or((0, film.len));
    let mut headers = vec![
        ("Content-Type", "video/mp4".to_owned()),
        ("Content-Length", (end - start).to_string()),
        ("ETag", film.etag.clone().expect("a tag")),
        ("Repr-Digest", field.to_owned()),
    ];
    if asked.is_some() {
        headers.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)));
    }
    conn.head(if asked.is_some() { 206 } else { 200 }, &headers);
    conn.body(film, start, end);
}

// --- digests ------------------------------------------------------------------------------

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, place| {
            (word << 8) | usize::from(three.get(place).copied().unwrap_or(0))
        });
        for place in 0..4 {
            text.push(match place <= three.len() {
                true => char::from(ALPHABET[(word >> (18 - 6 * place)) & 63]),
                false => '=',
            });
        }
    }
    text
}

/// The `Repr-Digest` of bytes.
fn digest_of(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", base64(digest(&SHA256, bytes).as_ref()))
}

fn digests(headers: &[(String, String)]) -> Vec<&str> {
    let named = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("repr-digest"));
    named.map(|(_, value)| value.as_str()).collect()
}

// --- damage -------------------------------------------------------------------------------

#[test]
fn a_flipped_byte_is_fetched_again_before_it_is_served() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let (mut pond, stored) = complete(&upstream, &film, &[]);
    // The second time it is in what was fetched again: that has a checksum too.
    for flipped in [FLIPPED, FLIPPED + 1] {
        let before = upstream.requests().len();
        damage(&mut pond, |file| flip(file, flipped));
        play(&pond, &film, "/film");
        expect_only_the_block(&asked(&upstream, before, LEN));
        assert_eq!(pond.metric("millpond_bad_blocks_total"), 1);
        pond.until_state("complete");
        until_idle(&pond);
        assert_eq!(pond.metric("millpond_stored_bytes"), stored);
        // From here on it is a film like any other.
        let mended = upstream.requests().len();
        play(&pond, &film, "/film");
        assert_eq!(upstream.requests().len(), mended);
    }
}

#[test]
fn a_flipped_byte_reaches_none_of_many_concurrent_readers() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let (mut pond, _) = complete(&upstream, &film, &[]);
    let before = upstream.requests().len();
    damage(&mut pond, |file| flip(file, FLIPPED));
    let readers = [
        (None, 0, LEN),
        (None, 0, LEN),
        (Some("bytes=0-"), 0, LEN),
        (Some("bytes=0-1999999"), 0, 2_000_000),
        (Some("bytes=2000000-2999999"), 2_000_000, 3_000_000),
        (Some("bytes=2097152-"), 2_097_152, LEN),
        (Some("bytes=2500000-2500000"), 2_500_000, 2_500_001),
        (Some("bytes=3145727-3145728"), 3_145_727, 3_145_729),
        (Some("bytes=4000000-"), 4_000_000, LEN),
        (Some("bytes=-3000000"), LEN - 3_000_000, LEN),
    ];
    let together = Barrier::new(readers.len());
    std::thread::scope(|scope| {
        for (range, start, end) in readers {
            let (pond, film, together) = (&pond, &film, &together);
            scope.spawn(move || {
                let headers: Vec<(&str, &str)> = range.map(|range| ("Range", range)).into_iter().collect();
                together.wait();
                let answer = request(pond.address(), "GET", "/film", &headers);
                answer.expect(if range.is_some() { 206 } else { 200 });
                assert_eq!(answer.body.len() as u64, end - start, "{range:?}");
                film.check(start, &answer.body);
            });
        }
    });
    expect_only_the_block(&asked(&upstream, before, LEN));
    assert_eq!(pond.metric("millpond_bad_blocks_total"), 1);
    pond.until_state("complete");
}

#[test]
fn a_slow_reader_that_meets_a_second_damage_is_not_left_waiting() {
    const FAR: u64 = LONG - 500_000;
    let film = Film::new(LONG);
    let upstream = Upstream::of(&film);
    let (mut pond, _) = complete(&upstream, &film, &[]);
    let before = upstream.requests().len();
    damage(&mut pond, |file| {
        flip(file, FLIPPED);
        flip(file, FAR);
    });
    let mut reader = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &reader.read(4_000_000));
    // The fill that mended the first damage is over when the reader comes to the second.
    until_idle(&pond);
    assert_eq!(
        pond.metric("millpond_bad_blocks_total"),
        1,
        "the sockets hold the whole film"
    );
    let rest = reader.finish();
    assert_eq!((rest.ended, rest.body.len() as u64), (Ended::Clean, LONG - 4_000_000));
    film.check(4_000_000, &rest.body);
    assert_eq!(pond.metric("millpond_bad_blocks_total"), 2);
    let asked = asked(&upstream, before, LONG);
    for (start, end) in &asked {
        let within = |at: u64| at / MIB * MIB <= *start && *end <= (at / MIB + 1) * MIB;
        assert!(within(FLIPPED) || within(FAR), "{asked:?}");
    }
}

/// A server that was stopped when half of block 2 had come, with a byte of that half flipped since.
fn damaged_half() -> (Film, Upstream, Pond) {
    const HELD_AT: u64 = 2_500_000;
    let film = Film::new(LEN);
    let valve = Valve::new(HELD_AT);
    let upstream = Upstream::limited(&film, valve.clone(), STEADY);
    let mut pond = Pond::before(&upstream);
    let mut reader = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &reader.read(1_000_000));
    pond.until_present(HELD_AT);
    drop(reader);
    damage(&mut pond, |file| flip(file, 2_300_000));
    assert_eq!(
        pond.object()["present"],
        json!([[0, HELD_AT]]),
        "all of it was recorded"
    );
    valve.allow(u64::MAX);
    (film, upstream, pond)
}

#[test]
fn a_flipped_byte_in_a_block_that_was_half_here_is_fetched_again_too() {
    let (film, upstream, pond) = damaged_half();
    let before = upstream.requests().len();
    play(&pond, &film, "/film");
    let asked = asked(&upstream, before, LEN);
    assert!(
        asked.iter().all(|(start, _)| *start >= BLOCK.0),
        "what was undamaged came again: {asked:?}"
    );
    assert_eq!(pond.metric("millpond_bad_blocks_total"), 1);
    pond.until_state("complete");
}

#[test]
fn bytes_stored_behind_a_damaged_run_do_not_hide_its_damage() {
    let (film, _upstream, mut pond) = damaged_half();
    // The fill goes on where the damaged run ends: the two are one run of the same block from now on.
    let rest = get_range(pond.address(), "/film", "bytes=2500000-");
    rest.expect(206);
    film.check(2_500_000, &rest.body);
    until_idle(&pond);
    pond.restart();
    play(&pond, &film, "/film");
    pond.until_state("complete");
}

#[test]
fn a_body_that_was_cut_in_a_block_is_fetched_again_from_that_block_on() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let (mut pond, _) = complete(&upstream, &film, &[]);
    let before = upstream.requests().len();
    damage(&mut pond, |file| file.set_len(2_500_000).expect("cut"));
    play(&pond, &film, "/film");
    let asked = asked(&upstream, before, LEN);
    assert!(asked.iter().all(|(start, _)| *start >= BLOCK.0), "{asked:?}");
    pond.until_state("complete");
    until_idle(&pond);
    let mended = upstream.requests().len();
    pond.restart();
    play(&pond, &film, "/film");
    assert_eq!(upstream.requests().len(), mended);
}

#[test]
fn a_body_that_is_cut_under_the_running_server_costs_no_reader_a_byte() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let (pond, _) = complete(&upstream, &film, &[]);
    let file = OpenOptions::new().write(true).open(&bodies(pond.dir())[0]);
    file.expect("opened").set_len(2_500_000).expect("cut");
    play(&pond, &film, "/film");
    assert!(pond.metric("millpond_bad_blocks_total") > 0);
    pond.until_state("complete");
    until_idle(&pond);
    let mended = upstream.requests().len();
    play(&pond, &film, "/film");
    assert_eq!(upstream.requests().len(), mended);
}

#[test]
fn bytes_cut_off_a_body_are_no_longer_counted_as_stored() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let (mut pond, stored) = complete(&upstream, &film, &[]);
    damage(&mut pond, |file| file.set_len(2_500_000).expect("cut"));
    play(&pond, &film, "/film");
    pond.until_state("complete");
    until_idle(&pond);
    assert_eq!(pond.metric("millpond_stored_bytes"), stored, "the same film as before");
}

#[test]
fn damage_without_an_upstream_breaks_the_answer_and_spares_the_rest() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let (mut pond, _) = complete(&upstream, &film, &[("hold_limit", "1s"), ("header_wait", "200ms")]);
    drop(upstream);
    damage(&mut pond, |file| flip(file, FLIPPED));
    let whole = get(pond.address(), "/film");
    assert_eq!((whole.status, whole.ended), (200, Ended::Cut));
    film.check(0, &whole.body);
    assert_eq!(whole.body.len() as u64, BLOCK.0, "all that is good before the damage");
    assert_eq!(pond.metric("millpond_bad_blocks_total"), 1);
    for (range, start, end) in [
        ("bytes=0-2097151", 0, BLOCK.0),
        ("bytes=3145728-", BLOCK.1, LEN),
        ("bytes=1000000-1000009", 1_000_000, 1_000_010),
        ("bytes=-10", LEN - 10, LEN),
    ] {
        let spared = get_range(pond.address(), "/film", range);
        spared.expect(206);
        assert_eq!(spared.body.len() as u64, end - start, "{range}");
        film.check(start, &spared.body);
    }
    let across = get_range(pond.address(), "/film", "bytes=2000000-2199999");
    assert_eq!((across.status, across.ended), (206, Ended::Cut));
    film.check(2_000_000, &across.body);
    assert_eq!(across.body.len() as u64, BLOCK.0 - 2_000_000);
    let inside = get_range(pond.address(), "/film", "bytes=2600000-2600009");
    match inside.status {
        206 => assert_eq!((inside.ended, inside.body.len()), (Ended::Cut, 0)),
        status => assert!(status >= 500, "{inside:?}"),
    }
}

// --- purges -------------------------------------------------------------------------------

#[test]
fn a_film_purged_in_mid_fill_plays_on_and_is_fetched_anew() {
    const LEN: u64 = 4_000_000;
    let valve = Valve::new(LEN / 2);
    let (first, second, changed, upstream) = two_editions(LEN, valve.clone(), STEADY);
    let pond = Pond::before(&upstream);
    let mut watching = Client::open(pond.address(), "GET", "/film", &[]);
    first.check(0, &watching.read(LEN as usize / 2));
    let url = format!("url={}film", upstream.url());
    assert_eq!(purge(&pond, &url), 1);
    assert_eq!(objects(&pond), Vec::<Value>::new());
    assert_eq!(purge(&pond, &url), 0, "it is gone");
    changed.store(true, Ordering::Release);

    let mut later = Client::connect(pond.address());
    later.ask("GET", "/film", &[]);
    upstream.wait_for_requests(2);
    valve.allow(u64::MAX);
    later.read_head();
    let new = later.finish();
    new.expect(200);
    assert_eq!(new.header("etag"), second.etag.as_deref());
    assert_eq!(new.body.len() as u64, LEN);
    second.check(0, &new.body);
    let rest = watching.finish();
    assert_eq!((rest.ended, rest.body.len() as u64), (Ended::Clean, LEN / 2));
    first.check(LEN / 2, &rest.body);
    // The new edition alone stays stored.
    pond.until_state("complete");
    assert_eq!(objects(&pond).len(), 1);
    play(&pond, &second, "/film");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_purged_complete_film_plays_on_for_its_open_reader() {
    let (first, second, changed, upstream) = two_editions(LONG, Valve::open(), 0);
    let (pond, stored) = complete(&upstream, &first, &[]);
    let mut watching = Client::open(pond.address(), "GET", "/film", &[]);
    first.check(0, &watching.read(1000));
    let before = upstream.requests().len();
    changed.store(true, Ordering::Release);
    assert_eq!(purge(&pond, &format!("url={}film", upstream.url())), 1);
    assert_eq!(
        bodies(pond.dir()),
        Vec::<PathBuf>::new(),
        "the file's name is gone at once"
    );
    play(&pond, &second, "/film");
    until_idle(&pond);
    let asked = upstream.requests().len();
    assert!(asked > before);
    let rest = watching.finish();
    assert_eq!((rest.ended, rest.body.len() as u64), (Ended::Clean, LONG - 1000));
    first.check(1000, &rest.body);
    // With its last reader the old one's room is free.
    eventually("room for one film only", || {
        pond.metric("millpond_stored_bytes") == stored
    });
    play(&pond, &second, "/film");
    assert_eq!(upstream.requests().len(), asked, "the new one is kept");
}

#[test]
fn a_reply_asked_for_before_a_purge_is_not_stored() {
    const LEN: u64 = 300_000;
    let (first, second) = (Film::edition(LEN, 1), Film::edition(LEN, 2));
    let (one, two) = (first.clone(), second.clone());
    let answered = Arc::new(Barrier::new(2));
    let held = Arc::clone(&answered);
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            held.wait();
            conn.serve(&one, seen);
        } else {
            conn.serve(&two, seen);
        }
    });
    let pond = Pond::before(&upstream);
    let mut early = Client::connect(pond.address());
    early.ask("GET", "/film", &[]);
    upstream.wait_for_requests(1);
    purge(&pond, &format!("url={}film", upstream.url()));
    // No byte was stored yet, but a reader that comes after the purge does not join the fill from before it.
    play(&pond, &second, "/film");
    assert_eq!(upstream.requests().len(), 2);
    answered.wait();
    early.read_head();
    let old = early.finish();
    old.expect(200);
    first.check(0, &old.body);
    // The late answer has not taken the place of the new edition.
    play(&pond, &second, "/film");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_purged_film_whose_upstream_breaks_off_leaves_the_new_one_alone() {
    const LEN: u64 = 4_000_000;
    let (first, second) = (Film::edition(LEN, 1), Film::edition(LEN, 2));
    let (one, two) = (first.clone(), second.clone());
    let valve = Valve::new(1_500_000);
    let cut = Arc::new(Barrier::new(2));
    let held = Arc::clone(&cut);
    let upstream = Upstream::start(valve.clone(), STEADY, move |seen, conn| {
        if seen.number == 0 {
            conn.part_head(&one, 0, LEN);
            conn.body(&one, 0, 1_000_000);
            held.wait();
            conn.close();
        } else {
            conn.serve(&two, seen);
        }
    });
    let pond = Pond::with(&upstream, &[("hold_limit", "1s")]);
    let mut early = Client::open(pond.address(), "GET", "/film", &[]);
    first.check(0, &early.read(1_000_000));
    assert_eq!(purge(&pond, &format!("url={}film", upstream.url())), 1);
    let mut later = Client::open(pond.address(), "GET", "/film", &[]);
    second.check(0, &later.read(500_000));
    // The rest of the first edition is asked for, and is not to be had any more.
    cut.wait();
    let old = early.finish();
    assert_eq!((old.ended, old.body.len()), (Ended::Cut, 0));
    valve.allow(u64::MAX);
    // The break is seen by the reader of the purged edition alone.
    let new = later.finish();
    assert_eq!((new.ended, new.body.len() as u64), (Ended::Clean, LEN - 500_000));
    second.check(500_000, &new.body);
}

#[test]
fn a_purge_by_prefix_removes_only_urls_under_it() {
    let film = Film::new(100_000);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    let paths = ["/a/1", "/a/2", "/ab/1", "/b/a/1"];
    for path in paths {
        play(&pond, &film, path);
    }
    eventually("all are complete", || {
        objects(&pond).iter().all(|object| object["state"] == "complete")
    });
    assert_eq!(purge(&pond, &format!("prefix={}a/", upstream.url())), 2);
    let asked = |path| {
        let before = upstream.requests().len();
        play(&pond, &film, path);
        upstream.requests().len() > before
    };
    assert_eq!(paths.map(asked), [true, true, false, false]);
    assert_eq!(purge(&pond, "prefix=http://elsewhere.example/"), 0);
    assert_eq!(objects(&pond).len(), 4);
}

// --- pins ---------------------------------------------------------------------------------

#[test]
fn a_pinned_film_outlives_the_quota_a_restart_and_the_catalog() {
    let film = Film::new(1_000_000);
    let upstream = Upstream::of(&film);
    let url = upstream.url();
    let clock = Arc::new(ManualClock::at(from_unix_seconds(1_800_000_000)));
    // Four films fit.
    let settings = [("upstream", url.as_str()), ("quota", "4500000")];
    let mut pond = Pond::start_at(&settings, Arc::<ManualClock>::clone(&clock));
    let watch = |pond: &Pond, path: &str| {
        play(pond, &film, path);
        until_idle(pond);
        clock.advance(Duration::from_secs(10));
    };
    let is_pinned = |pond: &Pond, path: &str| object_at(pond, path).is_some_and(|object| object["pinned"] == true);
    watch(&pond, "/a");
    watch(&pond, "/b");
    let id = object_at(&pond, "/a").expect("listed")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let pin = format!("/-/api/v1/objects/{id}/pin");
    let pinned = change(pond.address(), "PUT", &pin, &[]);
    assert_eq!(pinned.expect(200).json()["pinned"], true);

    // From now on it is always the least recently used, which would be the first to go.
    for path in ["/c", "/d", "/e", "/f"] {
        watch(&pond, path);
    }
    assert!(pond.metric("millpond_evicted_total") >= 2);
    assert!(is_pinned(&pond, "/a") && object_at(&pond, "/b").is_none());

    pond.restart();
    assert!(is_pinned(&pond, "/a"));
    for path in ["/g", "/h", "/i", "/j"] {
        watch(&pond, path);
    }
    assert!(is_pinned(&pond, "/a"));

    pond.stop();
    std::fs::remove_dir_all(pond.dir().join("catalog")).expect("deleted");
    pond.restart();
    eventually("the pin is back", || is_pinned(&pond, "/a"));
    for path in ["/k", "/l", "/m", "/n"] {
        watch(&pond, path);
    }
    assert!(is_pinned(&pond, "/a"));
    let before = upstream.requests().len();
    play(&pond, &film, "/a");
    assert_eq!(upstream.requests().len(), before, "it was here all the time");

    let unpinned = change(pond.address(), "DELETE", &pin, &[]);
    assert_eq!(unpinned.expect(200).json()["pinned"], false);
    clock.advance(Duration::from_secs(10));
    for path in ["/o", "/p", "/q", "/r", "/s"] {
        watch(&pond, path);
    }
    assert_eq!(object_at(&pond, "/a"), None, "an unpinned film goes like any other");
}

// --- who may ------------------------------------------------------------------------------

#[test]
fn a_page_of_an_ad_hoc_url_is_sandboxed_and_its_film_is_not() {
    let film = Film::new(1000);
    let upstream = Upstream::scripted(move |seen, conn| {
        let (status, media) = match seen.target.as_str() {
            "/film" => return conn.serve(&film, seen),
            "/gone" => (404, "text/html"),
            "/picture" => (200, "image/svg+xml"),
            _ => (200, "text/html"),
        };
        let fields = [
            ("Content-Type", media.to_owned()),
            ("Cache-Control", "max-age=100".to_owned()),
            ("Content-Length", "0".to_owned()),
        ];
        conn.head(status, &fields);
    });
    let pond = Pond::start(&[("allow_private", "true")]);
    let url = |name: &str| format!("/{}{name}", upstream.url().replacen("://", "/", 1));
    for name in ["page", "page", "gone", "picture"] {
        let answer = get(pond.address(), &url(name));
        assert_eq!(answer.header("content-security-policy"), Some("sandbox"), "{name}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{name}");
    }
    // Chromium plays no film that is sandboxed, and a film can run nothing.
    for answer in [
        get(pond.address(), &url("film")),
        get_range(pond.address(), &url("film"), "bytes=5-9"),
    ] {
        assert_eq!(answer.header("content-security-policy"), None);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    // A configured upstream shares the origin of the API, too.
    let own = Pond::before(&upstream);
    let page = get(own.address(), "/page");
    assert_eq!(page.expect(200).header("content-security-policy"), Some("sandbox"));
}

#[test]
fn cross_site_changes_are_refused() {
    let film = Film::new(100_000);
    let upstream = Upstream::of(&film);
    let (pond, _) = complete(&upstream, &film, &[]);
    let object = pond.object();
    let id = object["id"].as_str().expect("an id");
    for (method, target) in [
        ("DELETE", format!("/-/api/v1/objects?url={}film", upstream.url())),
        ("DELETE", format!("/-/api/v1/objects?prefix={}", upstream.url())),
        ("DELETE", format!("/-/api/v1/objects/{id}")),
        ("PUT", format!("/-/api/v1/objects/{id}/pin")),
        ("POST", "/-/api/v1/verify?repair=true".to_owned()),
    ] {
        for lines in [
            &["Origin: https://evil.example"] as &[&str],
            &["Origin: null"],
            &["Origin: http://localhost"],
            &["Origin: http://127.0.0.1"],
            &["Host: evil.example"],
            &["Host: pond"],
            &["Host: evil.example:8080", "Origin: http://evil.example:8080"],
        ] {
            let refused = change(pond.address(), method, &target, lines);
            let status = if lines[0].starts_with("Host") { 421 } else { 403 };
            assert_eq!(
                refused.status,
                status,
                "{method} {target} {lines:?}: {}",
                refused.text()
            );
        }
    }
    assert_eq!(pond.object(), object);
    play(&pond, &film, "/film");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_change_that_names_no_object_is_refused_with_a_problem() {
    let film = Film::new(100_000);
    let upstream = Upstream::of(&film);
    let (pond, _) = complete(&upstream, &film, &[]);
    let url = format!("{}film", upstream.url());
    for (method, target, status) in [
        ("DELETE", format!("/-/api/v1/objects/{NOBODY}"), 404),
        ("PUT", format!("/-/api/v1/objects/{NOBODY}/pin"), 404),
        ("DELETE", format!("/-/api/v1/objects/{NOBODY}/pin"), 404),
        ("DELETE", "/-/api/v1/objects/no-id".to_owned(), 400),
        ("DELETE", "/-/api/v1/objects".to_owned(), 400),
        ("DELETE", "/-/api/v1/objects?prefix=".to_owned(), 400),
        ("DELETE", "/-/api/v1/objects?url=film".to_owned(), 400),
        ("DELETE", format!("/-/api/v1/objects?url={url}&prefix={url}"), 400),
        ("DELETE", format!("/-/api/v1/objects?URL={url}"), 400),
        ("POST", "/-/api/v1/objects".to_owned(), 405),
    ] {
        let answer = change(pond.address(), method, &target, &[]);
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("GET, HEAD, DELETE"));
        }
    }
    assert_eq!(objects(&pond).len(), 1);
}

// --- digests ------------------------------------------------------------------------------

#[test]
fn want_repr_digest_is_answered_for_complete_films_only() {
    // As RFC 9530 writes that of nothing: the measure is right.
    assert_eq!(digest_of(b""), "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:");
    let film = Film::new(LEN);
    let valve = Valve::new(LEN / 2);
    let upstream = Upstream::limited(&film, valve.clone(), STEADY);
    let mut pond = Pond::before(&upstream);
    let mut reader = Client::open(pond.address(), "GET", "/film", &[WANTED]);
    assert_eq!(digests(&reader.headers), Vec::<&str>::new(), "half of it is to come");
    film.check(0, &reader.read(LEN as usize / 2));
    let part = request(pond.address(), "GET", "/film", &[WANTED, ("Range", "bytes=0-99")]);
    assert_eq!(digests(&part.expect(206).headers), Vec::<&str>::new());
    valve.allow(u64::MAX);
    film.check(LEN / 2, &reader.finish().body);
    pond.until_state("complete");
    until_idle(&pond);

    let stated = digest_of(&film.bytes(0, LEN));
    // The digest is computed at the first request that wants it, and told only to requests that want it.
    let unasked = ("Want-Repr-Digest", "sha-256=0, sha-512=5");
    for _ in 0..2 {
        let whole = request(pond.address(), "GET", "/film", &[WANTED]);
        assert_eq!(digests(&whole.expect(200).headers), [&stated]);
        film.check(0, &whole.body);
        let part = request(pond.address(), "GET", "/film", &[WANTED, ("Range", "bytes=100-199")]);
        assert_eq!(
            digests(&part.expect(206).headers),
            [&stated],
            "of the film, not of the part"
        );
        let head = request(pond.address(), "HEAD", "/film", &[WANTED]);
        assert_eq!(digests(&head.expect(200).headers), [&stated]);
        for headers in [&[] as &[(&str, &str)], &[unasked]] {
            let without = request(pond.address(), "HEAD", "/film", headers);
            assert_eq!(digests(&without.expect(200).headers), Vec::<&str>::new(), "{headers:?}");
        }
    }

    // The digest was recorded: it is told without reading the body, which would give another one by now.
    damage(&mut pond, |file| flip(file, FLIPPED));
    let head = request(pond.address(), "HEAD", "/film", &[WANTED]);
    assert_eq!(digests(&head.expect(200).headers), [&stated]);
    assert_eq!(pond.metric("millpond_bad_blocks_total"), 0);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn no_digest_is_taken_of_a_damaged_film() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let (mut pond, _) = complete(&upstream, &film, &[]);
    damage(&mut pond, |file| flip(file, FLIPPED));
    let first = request(pond.address(), "GET", "/film", &[WANTED]);
    film.check(0, &first.expect(200).body);
    let stated = digest_of(&film.bytes(0, LEN));
    assert!(
        digests(&first.headers).iter().all(|field| *field == stated),
        "{first:?}"
    );
    pond.until_state("complete");
    until_idle(&pond);
    let second = request(pond.address(), "HEAD", "/film", &[WANTED]);
    assert_eq!(digests(&second.expect(200).headers), [&stated]);
}

#[test]
fn a_film_that_contradicts_its_stated_digest_is_not_kept() {
    let film = Film::new(300_000);
    let lie = digest_of(&Film::edition(film.len, 2).bytes(0, film.len));
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| serve_stating(conn, &served, seen, &lie));
    let pond = Pond::before(&upstream);
    for requests in 1..=2 {
        let answer = get(pond.address(), "/film");
        answer.expect(200);
        film.check(0, &answer.body);
        assert_eq!(upstream.requests().len(), requests);
        eventually("nothing is kept", || objects(&pond).is_empty());
    }
    // The record goes before the file.
    eventually("no file is left", || bodies(pond.dir()).is_empty());
    eventually("its room is free", || pond.metric("millpond_stored_bytes") == 0);
}

#[test]
fn a_film_that_matches_its_stated_digest_is_kept_with_it() {
    let film = Film::new(300_000);
    let stated = digest_of(&film.bytes(0, film.len));
    let (served, field) = (film.clone(), stated.clone());
    let upstream = Upstream::scripted(move |seen, conn| serve_stating(conn, &served, seen, &field));
    let (mut pond, _) = complete(&upstream, &film, &[]);
    // The stop waits for the comparison.
    pond.restart();
    for headers in [&[] as &[(&str, &str)], &[WANTED], &[WANTED, ("Range", "bytes=5-9")]] {
        let answer = request(pond.address(), "GET", "/film", headers);
        assert_eq!(digests(&answer.headers), [&stated], "once, {headers:?}");
    }
    play(&pond, &film, "/film");
    assert_eq!(upstream.requests().len(), 1);
}
