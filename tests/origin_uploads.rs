//! Bodies that come in several requests: nothing is lost that was acknowledged, and nothing shows before it is whole.

use crate::support::origin::send;
use crate::support::{Answer, Client, Film, Origin, eventually};
use millpond::clock::{Clock, ManualClock, SystemClock};
use std::sync::Arc;
use std::time::Duration;

const PARTIAL: (&str, &str) = ("Content-Type", "application/partial-upload");

fn begin(origin: &Origin, target: &str, more: &[(&str, &str)], body: &[u8]) -> String {
    let answer = origin.put(target, &[&[("Upload-Complete", "?0")], more].concat(), body);
    let begun = answer.expect(201);
    assert_eq!(begun.header("upload-complete"), Some("?0"));
    assert_eq!(begun.header("upload-offset"), Some(body.len().to_string().as_str()));
    begun.header("location").expect("a place").to_owned()
}

fn append(origin: &Origin, place: &str, offset: u64, complete: bool, body: &[u8]) -> Answer {
    let offset = offset.to_string();
    let complete = if complete { "?1" } else { "?0" };
    let headers = [
        PARTIAL,
        ("Upload-Offset", offset.as_str()),
        ("Upload-Complete", complete),
    ];
    send(origin.address(), "PATCH", place, &headers, body)
}

fn offset(origin: &Origin, place: &str) -> u64 {
    let answer = origin.request("HEAD", place, &[]);
    assert_eq!(answer.expect(204).header("cache-control"), Some("no-store"));
    answer
        .header("upload-offset")
        .and_then(|offset| offset.parse().ok())
        .expect("an offset")
}

/// The bytes written of an upload so far, read without taking the upload over from a running append.
fn written(origin: &Origin, place: &str) -> u64 {
    let id = place.rsplit('/').next().expect("an id");
    let body = origin.root().join(format!(".millpond/upload-{id}"));
    body.metadata().map_or(0, |metadata| metadata.len())
}

#[test]
fn a_film_comes_in_pieces_over_a_restart() {
    let mut origin = Origin::writable();
    let film = Film::new(9_000_000);
    let place = begin(
        &origin,
        "/film.mkv",
        &[("Upload-Length", "9000000")],
        &film.bytes(0, 1_000_000),
    );
    origin.get("/film.mkv").expect(404);
    assert_eq!(origin.get("/?as=json").json()["total"], 0);
    append(&origin, &place, 1_000_000, false, &film.bytes(1_000_000, 4_000_000)).expect(204);
    let wrong = append(&origin, &place, 5_000_000, false, b"x");
    assert_eq!(wrong.expect(409).header("upload-offset"), Some("4000000"));
    assert_eq!(wrong.json()["expected-offset"], 4_000_000);
    origin.restart();
    let head = origin.request("HEAD", &place, &[]);
    assert_eq!(head.header("upload-length"), Some("9000000"));
    assert_eq!(head.header("upload-complete"), Some("?0"));
    assert_eq!(offset(&origin, &place), 4_000_000);
    let done = append(&origin, &place, 4_000_000, true, &film.bytes(4_000_000, film.len));
    assert_eq!(done.expect(201).header("upload-complete"), Some("?1"));
    let tag = done.header("etag").expect("a tag").to_owned();
    let whole = origin.get("/film.mkv");
    film.check(0, &whole.expect(200).body);
    assert_eq!(
        (whole.body.len() as u64, whole.header("etag")),
        (film.len, Some(tag.as_str()))
    );
    // The upload stays known as complete, after a restart too.
    origin.restart();
    assert_eq!(
        origin.request("HEAD", &place, &[]).header("upload-complete"),
        Some("?1")
    );
    let again = append(&origin, &place, 9_000_000, true, b"");
    assert!(
        again.expect(400).json()["type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("completed-upload"))
    );
    assert!(!origin.everything().iter().any(|name| name.starts_with(".millpond/put")));
}

#[test]
fn bytes_received_before_a_connection_broke_are_kept() {
    let origin = Origin::writable();
    let film = Film::new(6_000_000);
    let place = begin(&origin, "/film.mkv", &[], b"");
    let mut client = Client::connect(origin.address());
    client.ask(
        "PATCH",
        &place,
        &[
            PARTIAL,
            ("Upload-Offset", "0"),
            ("Upload-Complete", "?1"),
            ("Content-Length", "6000000"),
        ],
    );
    client.send(&film.bytes(0, 3_000_000));
    drop(client);
    // Every byte that had come before the connection broke is kept.
    eventually("what came is written", || written(&origin, &place) == 3_000_000);
    let came = offset(&origin, &place);
    assert_eq!(came, 3_000_000);
    append(&origin, &place, came, true, &film.bytes(came, film.len)).expect(201);
    film.check(0, &origin.get("/film.mkv").expect(200).body);
}

#[test]
fn a_later_request_takes_over_from_one_that_hangs() {
    let origin = Origin::writable();
    let film = Film::new(4_000_000);
    let place = begin(&origin, "/film.mkv", &[], b"");
    let mut hanging = Client::connect(origin.address());
    hanging.ask(
        "PATCH",
        &place,
        &[
            PARTIAL,
            ("Upload-Offset", "0"),
            ("Upload-Complete", "?1"),
            ("Content-Length", "4000000"),
        ],
    );
    hanging.send(&film.bytes(0, 2_500_000));
    // The hanging client sends no more, and its connection does not tell. To ask for the offset is to take over.
    eventually("some is written", || written(&origin, &place) > 0);
    let came = offset(&origin, &place);
    assert!(came > 0 && came <= 2_500_000);
    append(&origin, &place, came, true, &film.bytes(came, film.len)).expect(201);
    film.check(0, &origin.get("/film.mkv").expect(200).body);
    hanging.read_head();
    assert_eq!(hanging.status, 409);
}

#[test]
fn preconditions_of_an_upload_hold_at_its_start_and_its_end() {
    let origin = Origin::writable();
    origin.put("/a", &[], b"one").expect(201);
    let tag = origin.etag("/a");
    let refused = [("Upload-Complete", "?0"), ("If-None-Match", "*")];
    origin.put("/a", &refused, b"").expect(412);
    origin.put("/none/a", &[("Upload-Complete", "?0")], b"").expect(409);
    let place = begin(&origin, "/a", &[("If-Match", &tag)], b"mine");
    origin.put("/a", &[("If-Match", &tag)], b"theirs").expect(204);
    let late = append(&origin, &place, 4, true, b"");
    assert_eq!(late.expect(412).header("upload-complete"), Some("?1"));
    assert_eq!(origin.get("/a").text(), "theirs");
    assert_eq!(
        origin
            .everything()
            .iter()
            .filter(|name| !name.ends_with(".json"))
            .count(),
        2
    );
}

#[test]
fn digests_and_lengths_are_held_to() {
    let origin = Origin::with(&[("writable", "true"), ("largest_upload", "1MiB")]);
    let hello = ("Repr-Digest", "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:");
    let place = begin(&origin, "/a", &[hello], b"hel");
    append(&origin, &place, 3, true, b"lo").expect(201);
    let place = begin(&origin, "/b", &[hello], b"hal");
    append(&origin, &place, 3, true, b"lo").expect(400);
    origin.get("/b").expect(404);
    let sha512 = "sha-512=:m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==:";
    let place = begin(&origin, "/c", &[("Repr-Digest", sha512)], b"hel");
    append(&origin, &place, 3, true, b"lo").expect(201);
    // Lengths.
    let place = begin(&origin, "/d", &[("Upload-Length", "5")], b"hel");
    for (header, value) in [("Upload-Length", "2"), ("Content-Length", "18446744073709551615")] {
        let headers = [
            PARTIAL,
            ("Upload-Offset", "3"),
            ("Upload-Complete", "?1"),
            (header, value),
            ("Expect", "100-continue"),
        ];
        let mut client = Client::connect(origin.address());
        client.ask("PATCH", &place, &headers);
        client.read_head();
        assert_eq!(client.status, 400, "{header}: {value}");
    }
    let more = append(&origin, &place, 3, true, b"lo!");
    assert!(
        more.expect(400).json()["type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("inconsistent-upload-length"))
    );
    append(&origin, &place, 3, true, b"lo").expect(201);
    let large = [("Upload-Complete", "?0"), ("Upload-Length", "1048577")];
    origin.put("/e", &large, b"").expect(413);
    let place = begin(&origin, "/e", &[], &vec![0; 1 << 20]);
    append(&origin, &place, 1 << 20, false, b"x").expect(413);
    origin.request("DELETE", &place, &[]).expect(204);
    origin.request("HEAD", &place, &[]).expect(404);
    let options = origin.request("OPTIONS", "/", &[]);
    assert_eq!(options.header("accept-patch"), Some("application/partial-upload"));
    assert_eq!(options.header("upload-limit"), Some("max-size=1048576, max-age=604800"));
}

#[test]
fn each_upload_request_is_checked_against_its_content_digest() {
    let origin = Origin::writable();
    let hello = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    let world = "sha-256=:SG6kYiTRu0+2gPNPfJrZao8k7Ii+c+qOWmxlJg6cuKc=:";
    let place = begin(&origin, "/a", &[("Content-Digest", hello)], b"hello");
    let patch = |digest: &str, body: &[u8]| {
        let headers = [
            PARTIAL,
            ("Upload-Offset", "5"),
            ("Upload-Complete", "?1"),
            ("Content-Digest", digest),
        ];
        send(origin.address(), "PATCH", &place, &headers, body)
    };
    // Bytes that contradict their digest are taken back, and can be sent again.
    let wrong = patch(hello, b"world");
    assert_eq!(wrong.expect(400).header("upload-offset"), Some("5"));
    assert_eq!(offset(&origin, &place), 5);
    patch(world, b"world").expect(201);
    assert_eq!(origin.get("/a").text(), "helloworld");
    origin
        .put("/b", &[("Upload-Complete", "?0"), ("Content-Digest", world)], b"hello")
        .expect(400);
    // An upload whose first request was refused has no location that was told: no file of it stays.
    eventually("nothing of it to be left", || origin.everything().len() == 3);
}

#[test]
fn an_upload_whose_collection_is_gone_keeps_its_bytes() {
    let origin = Origin::writable();
    origin.request("MKCOL", "/d/", &[]).expect(201);
    let place = begin(&origin, "/d/a", &[("Upload-Length", "6")], b"abc");
    origin.request("DELETE", "/d/", &[]).expect(204);
    let refused = append(&origin, &place, 3, true, b"def");
    assert_eq!(refused.expect(409).header("upload-complete"), Some("?0"));
    assert_eq!(offset(&origin, &place), 6);
    origin.request("MKCOL", "/d/", &[]).expect(201);
    append(&origin, &place, 6, true, b"").expect(201);
    assert_eq!(origin.get("/d/a").text(), "abcdef");
}

#[test]
fn many_uploads_hold_no_descriptors() {
    let mut origin = Origin::writable();
    let places: Vec<String> = (0..300)
        .map(|index| begin(&origin, &format!("/{index}"), &[], b"ab"))
        .collect();
    let ours = std::fs::read_dir("/proc/self/fd")
        .expect("listed")
        .filter_map(|entry| std::fs::read_link(entry.expect("an entry").path()).ok())
        .filter(|link| link.starts_with(origin.root().join(".millpond")) && link != &origin.root().join(".millpond"))
        .count();
    assert!(ours <= 129, "{ours}");
    origin.restart();
    for place in [&places[0], &places[299]] {
        append(&origin, place, 2, true, b"cd").expect(201);
    }
    assert_eq!(origin.get("/299").text(), "abcd");
}

#[test]
fn a_malformed_append_is_refused_with_its_reason() {
    let origin = Origin::writable();
    let place = begin(&origin, "/a", &[], b"x");
    let patch = |headers: &[(&str, &str)]| send(origin.address(), "PATCH", &place, headers, b"y");
    patch(&[("Upload-Offset", "1"), ("Upload-Complete", "?1")]).expect(415);
    assert!(
        patch(&[PARTIAL, ("Upload-Complete", "?1")])
            .expect(400)
            .text()
            .contains("upload-offset")
    );
    assert!(
        patch(&[PARTIAL, ("Upload-Offset", "1"), ("Upload-Complete", "yes")])
            .expect(400)
            .text()
            .contains("upload-complete")
    );
    origin.put(&place, &[], b"x").expect(405);
    origin.request("HEAD", "/-/uploads/none", &[]).expect(404);
    origin.request("HEAD", "/-/uploads/", &[]).expect(404);
    origin.request("HEAD", "/-/uploads/..%2f..%2fetc", &[]).expect(404);
    // Asked before it sends.
    let mut client = Client::connect(origin.address());
    let headers = [
        PARTIAL,
        ("Upload-Offset", "9"),
        ("Upload-Complete", "?1"),
        ("Content-Length", "9000"),
        ("Expect", "100-continue"),
    ];
    client.ask("PATCH", &place, &headers);
    client.read_head();
    assert_eq!(client.status, 409);
}

#[test]
fn an_upload_past_its_lifetime_is_removed() {
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let mut origin = Origin::at(
        &[("writable", "true"), ("upload_lifetime", "1h")],
        Arc::clone(&clock) as _,
    );
    let old = begin(&origin, "/old", &[], b"x");
    clock.advance(Duration::from_secs(3000));
    let young = begin(&origin, "/young", &[], b"x");
    clock.advance(Duration::from_secs(1000));
    // A start looks at once.
    origin.restart();
    eventually("the old one is gone", || {
        origin.request("HEAD", &old, &[]).status == 404
    });
    assert_eq!(offset(&origin, &young), 1);
    assert_eq!(origin.everything().len(), 3);
}

#[test]
fn a_damaged_record_costs_only_its_upload() {
    let mut origin = Origin::writable();
    let bad = begin(&origin, "/bad", &[], b"x");
    let short = begin(&origin, "/short", &[], b"123456");
    let good = begin(&origin, "/good", &[], b"abc");
    let file = |place: &str, end: &str| {
        origin.root().join(format!(
            ".millpond/upload-{}{end}",
            place.rsplit('/').next().expect("an id")
        ))
    };
    let (record, body, orphan, grown) = (
        file(&bad, ".json"),
        file(&short, ""),
        file("/-/uploads/77", ""),
        file(&good, ""),
    );
    let unreadable = file("/-/uploads/88", ".json");
    origin.stop();
    std::fs::write(record, "{").expect("written");
    std::fs::write(body, "12").expect("written");
    std::fs::write(orphan, "x").expect("written");
    // Not damaged, but not to be read just now: it stays.
    std::fs::create_dir(unreadable).expect("made");
    // Beyond what was recorded: it was never acknowledged, and may be zeros.
    std::fs::write(grown, "abc\0\0\0").expect("written");
    origin.restart();
    origin.request("HEAD", &bad, &[]).expect(404);
    origin.request("HEAD", &short, &[]).expect(404);
    assert_eq!(offset(&origin, &good), 3);
    assert_eq!(origin.everything().len(), 4);
    append(&origin, &good, 3, true, b"def").expect(201);
    assert_eq!(origin.get("/good").text(), "abcdef");
}

#[test]
fn large_new_files_are_digested_before_they_are_requested() {
    let origin = Origin::with(&[]);
    std::fs::create_dir(origin.root().join("d")).expect("made");
    let film = Film::new(5 << 20);
    let etag = |origin: &Origin| origin.get("/d/?as=json").json()["entries"][0]["etag"].clone();
    // The watch itself begins a moment after the server: what appears before it is not told.
    let mut count = 0;
    eventually("the watch tells", || {
        count += 1;
        let path = origin.write("d/film.mkv", film.bytes(0, film.len));
        let first = std::time::Instant::now();
        while first.elapsed() < Duration::from_secs(5) {
            if etag(&origin).is_string() {
                return true;
            }
        }
        std::fs::remove_file(path).expect("removed");
        false
    });
    let listed = etag(&origin);
    assert_eq!(listed, origin.etag("/d/film.mkv").as_str());
}
