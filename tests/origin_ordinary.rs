//! A directory among ordinary clients: what players, file managers, sync programs and proxies do, and rely on.

use crate::support::origin::send;
use crate::support::{Answer, Client, Ended, Film, Origin, eventually};
use millpond::clock::{Clock, ManualClock, SystemClock};
use std::fs::{File, FileTimes};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An origin for whose clock all that is written now is old.
fn later(settings: &[(&str, &str)]) -> Origin {
    let clock = ManualClock::at(SystemClock.now() + Duration::from_secs(3600));
    Origin::at(settings, Arc::new(clock))
}

/// All that comes on a connection until the server closes it.
fn raw(origin: &Origin, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(origin.address()).expect("connected");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("set");
    stream.write_all(request).expect("sent");
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

fn propfind(origin: &Origin, target: &str, depth: &str, body: &str) -> String {
    let answer = send(
        origin.address(),
        "PROPFIND",
        target,
        &[("Depth", depth)],
        body.as_bytes(),
    );
    answer.expect(207).text()
}

fn proppatch(origin: &Origin, target: &str, instructions: &str) -> String {
    let body = format!("<propertyupdate xmlns='DAV:' xmlns:z='urn:z'>{instructions}</propertyupdate>");
    let answer = send(origin.address(), "PROPPATCH", target, &[], body.as_bytes());
    answer.expect(207).text()
}

fn between(text: &str, start: &str, end: &str) -> Vec<String> {
    let pieces = text.split(start).skip(1);
    pieces
        .filter_map(|piece| Some(piece.split_once(end)?.0.to_owned()))
        .collect()
}

#[test]
fn vlc_seeks_by_a_weak_tag_without_its_prefix() {
    let film = Film::new(5 << 20);
    let origin = Origin::writable();
    origin.write("film.mp4", film.bytes(0, film.len));
    // Just written: the tag is weak, and VLC cuts its W/ off.
    let first = origin.request("GET", "/film.mp4", &[("Range", "bytes=0-")]);
    let weak = first.expect(206).header("etag").expect("a tag").to_owned();
    let cut = weak.strip_prefix("W/").expect("weak").to_owned();
    let seek = |tag: &str| origin.request("GET", "/film.mp4", &[("Range", "bytes=4000000-"), ("If-Match", tag)]);
    film.check(4_000_000, &seek(&cut).expect(206).body);
    eventually("it has rested", || !origin.etag("/film.mp4").starts_with("W/"));
    eventually("its digest is known", || {
        let asked = origin.request("HEAD", "/film.mp4", &[("Want-Repr-Digest", "sha-256=1")]);
        asked.header("repr-digest").is_some()
    });
    for tag in [&cut, &weak] {
        film.check(4_000_000, &seek(tag).expect(206).body);
    }
    seek("\"another\"").expect(412);
    // A write takes none but the strong one.
    origin.put("/film.mp4", &[("If-Match", &weak)], b"x").expect(412);
    origin.put("/film.mp4", &[("If-Match", &cut)], b"x").expect(204);
    seek(&cut).expect(412);
}

#[test]
fn reading_and_summing_change_no_tag() {
    let origin = later(&[("writable", "true")]);
    origin.write("note.md", "note");
    let film = Film::new(5 << 20);
    origin.write("film.mkv", film.bytes(0, film.len));
    let tags = || between(&propfind(&origin, "/", "1", ""), "<D:getetag>", "</D:getetag>");
    let before = tags();
    assert!(
        before.len() == 2 && before.iter().all(|tag| tag.starts_with("&quot;")),
        "{before:?}"
    );
    origin.get("/note.md").expect(200);
    origin.get("/film.mkv").expect(200);
    eventually("its digest is known", || {
        let asked = origin.request("HEAD", "/film.mkv", &[("Want-Repr-Digest", "sha-256=1")]);
        asked.header("repr-digest").is_some()
    });
    assert_eq!(tags(), before);
    let listed = origin.get("/?as=json").json();
    for (index, name) in ["film.mkv", "note.md"].iter().enumerate() {
        let tag = before[index].replace("&quot;", "\"");
        assert_eq!(listed["entries"][index]["etag"], tag.as_str());
        origin
            .put(&format!("/{name}"), &[("If-Match", &tag)], b"changed")
            .expect(204);
    }
}

#[test]
fn rights_that_are_changed_change_no_tag() {
    let origin = later(&[]);
    let film = Film::new(5 << 20);
    let paths = [
        origin.write("film.mkv", film.bytes(0, film.len)),
        origin.write("note.md", "note"),
    ];
    let digest = |name: &str| {
        let asked = origin.request("HEAD", name, &[("Want-Repr-Digest", "sha-256=1")]);
        asked.header("repr-digest").map(str::to_owned)
    };
    eventually("its digest is known", || digest("/film.mkv").is_some());
    let before = [origin.etag("/film.mkv"), origin.etag("/note.md")];
    for path in &paths {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
    }
    assert_eq!(origin.etag("/note.md"), before[1]);
    // A large file is read again to see that it was only that; meanwhile its tag is weak.
    eventually("its tag is what it was", || origin.etag("/film.mkv") == before[0]);
}

#[test]
fn conditions_on_a_huge_file_are_evaluated_without_reading_it() {
    let origin = later(&[("writable", "true")]);
    let huge = File::create(origin.root().join("huge.img")).expect("made");
    // Reading this would outlast any patience.
    huge.set_len(1 << 42).expect("set");
    let tag = origin.etag("/huge.img");
    origin
        .request("DELETE", "/huge.img", &[("If-Match", "\"x\"")])
        .expect(412);
    origin.put("/huge.img", &[("If-None-Match", &tag)], b"x").expect(412);
    origin
        .request(
            "MOVE",
            "/huge.img",
            &[("If-Match", &tag), ("Destination", "/moved.img")],
        )
        .expect(201);
    let moved = origin.etag("/moved.img");
    origin
        .request("DELETE", "/moved.img", &[("If-Match", &moved)])
        .expect(204);
}

#[test]
fn a_raw_hash_in_a_target_is_refused_without_effect() {
    let origin = Origin::writable();
    origin.put("/song.txt", &[], b"original").expect(201);
    origin.write("films/a.mkv", "a");
    for (line, more) in [
        ("PUT /song.txt#2.txt", "Content-Length: 3\r\n\r\nnew"),
        ("DELETE /films/#1%20best/", "\r\n"),
        ("DELETE /films/?x#y", "\r\n"),
        ("GET /song.txt#", "\r\n"),
    ] {
        let said = raw(
            &origin,
            format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}").as_bytes(),
        );
        assert!(said.starts_with("HTTP/1.1 400 "), "{line}: {said}");
    }
    assert_eq!(origin.get("/song.txt").text(), "original");
    origin.get("/films/a.mkv").expect(200);
    // A body is no target.
    origin.put("/b", &[], b"GET /#x HTTP/1.1\r\n\r\n").expect(201);
    assert_eq!(origin.get("/b").text(), "GET /#x HTTP/1.1\r\n\r\n");
}

#[test]
fn a_valid_request_before_a_malformed_one_is_answered() {
    let origin = Origin::writable();
    // As lftp sends it behind each put.
    for index in 0..20 {
        let request = format!(
            "PUT /p{index} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabcConnection: keep-alive\r\n\r\n"
        );
        let said = raw(&origin, request.as_bytes());
        assert!(said.starts_with("HTTP/1.1 201 "), "{said:?}");
        assert!(said.contains("HTTP/1.1 400 "), "{said:?}");
    }
}

#[test]
fn a_client_that_has_closed_its_side_gets_its_answer() {
    let origin = Origin::writable();
    origin.put("/a", &[], &vec![7; 3_000_000]).expect(201);
    let mut stream = TcpStream::connect(origin.address()).expect("connected");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("set");
    stream
        .write_all(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    stream.shutdown(Shutdown::Write).expect("closed");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("read");
    assert!(said.len() > 3_000_000, "{} bytes", said.len());
}

#[test]
fn a_collection_is_removed_copied_and_replaced_with_all_that_is_in_it() {
    let origin = Origin::writable();
    origin.write("a/deep/er/x", "x");
    origin.write("a/.hidden", "h");
    symlink("deep/er/x", origin.root().join("a/link")).expect("linked");
    let to = |target: &'static str| [("Destination", target)];
    origin.request("COPY", "/a/", &to("/c/")).expect(201);
    assert_eq!(origin.get("/c/deep/er/x").text(), "x");
    assert_eq!(
        std::fs::read_link(origin.root().join("c/link")).expect("a link"),
        Path::new("deep/er/x")
    );
    origin
        .request("COPY", "/a/", &[("Destination", "/shallow/"), ("Depth", "0")])
        .expect(201);
    assert_eq!(origin.get("/shallow/?as=json").json()["total"], 0);
    // Over one that has members.
    origin.write("b/old", "old");
    origin
        .request("COPY", "/a/", &[("Destination", "/b/"), ("Overwrite", "F")])
        .expect(412);
    origin
        .request("COPY", "/a/", &[("Destination", "/b/"), ("Millpond-Only-Empty", "?1")])
        .expect(409);
    assert_eq!(origin.get("/b/old").text(), "old");
    origin.request("COPY", "/a/", &to("/b/")).expect(204);
    origin.get("/b/old").expect(404);
    origin.request("MOVE", "/c/", &to("/b/")).expect(204);
    assert_eq!(origin.get("/b/deep/er/x").text(), "x");
    origin.get("/c/").expect(404);
    // A file in the place of a collection, and the other way round (RFC 4918 §9.8.4).
    origin.put("/file", &[], b"f").expect(201);
    origin.request("COPY", "/file", &to("/b")).expect(204);
    assert_eq!(origin.get("/b").text(), "f");
    origin.request("MOVE", "/a/", &to("/b")).expect(204);
    assert_eq!(origin.get("/b/deep/er/x").text(), "x");
    for (method, target) in [("COPY", "/b/deep/"), ("MOVE", "/b/deep/")] {
        origin.request(method, "/b/", &to("/b/deep/in/")).expect(409);
        origin.request(method, target, &to("/b/")).expect(409);
    }
    for gone in ["/b/", "/file", "/shallow/"] {
        origin.request("DELETE", gone, &[]).expect(204);
    }
    eventually("all of it is gone", || origin.everything() == [".millpond"]);
}

#[test]
fn links_are_removed_and_moved_and_those_that_lead_nowhere_are_counted() {
    let origin = Origin::writable();
    origin.write("e/real", "r");
    std::fs::write(origin.outside().join("secret"), "s").expect("written");
    let root = origin.root();
    std::fs::create_dir(root.join("d")).expect("made");
    symlink("nowhere", root.join("d/link")).expect("linked");
    symlink("real", root.join("e/link")).expect("linked");
    symlink(root.join("e/real"), root.join("e/absolute")).expect("linked");
    symlink(root.join("e"), root.join("to-e")).expect("linked");
    symlink(origin.outside().join("secret"), root.join("e/out")).expect("linked");
    symlink(root.join("e/circle"), root.join("e/circle")).expect("linked");
    let listing = origin.get("/d/?as=json").json();
    assert_eq!((&listing["total"], &listing["skipped"]), (&0.into(), &1.into()));
    // Absolute links are followed as long as they stay.
    assert_eq!(origin.get("/e/absolute").expect(200).text(), "r");
    assert_eq!(origin.get("/to-e/link").expect(200).text(), "r");
    for target in ["/e/out", "/e/circle", "/d/link"] {
        origin.get(target).expect(404);
    }
    let tag = origin.etag("/e/link");
    origin
        .request("DELETE", "/e/link", &[("If-Match", "\"x\"")])
        .expect(412);
    origin
        .request("MOVE", "/e/link", &[("Destination", "/e/other"), ("If-Match", &tag)])
        .expect(201);
    assert_eq!(
        std::fs::read_link(root.join("e/other")).expect("a link"),
        Path::new("real")
    );
    for target in ["/e/other", "/e/out", "/e/circle", "/e/absolute", "/to-e", "/d/"] {
        origin.request("DELETE", target, &[]).expect(204);
    }
    assert_eq!(origin.get("/e/real").text(), "r");
    assert_eq!(
        std::fs::read_to_string(origin.outside().join("secret")).expect("read"),
        "s"
    );
}

#[test]
fn times_before_1970_are_kept_and_told() {
    let origin = Origin::writable();
    let put = origin.put("/photo.jpg", &[("X-OC-Mtime", "-146808000")], b"x");
    put.expect(201);
    let metadata = std::fs::metadata(origin.root().join("photo.jpg")).expect("inspected");
    assert_eq!(metadata.mtime(), -146_808_000);
    let told = origin.request("HEAD", "/photo.jpg", &[]);
    assert_eq!(told.header("last-modified"), Some("Fri, 07 May 1965 20:00:00 GMT"));
    assert!(propfind(&origin, "/photo.jpg", "0", "").contains(" 1965 "));
    let listed = origin.get("/?as=json").json();
    assert!(
        listed["entries"][0]["modified"]
            .as_str()
            .is_some_and(|time| time.starts_with("1965-"))
    );
}

#[test]
fn a_date_is_told_when_its_second_is_over() {
    let clock = Arc::new(ManualClock::at(
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000),
    ));
    let origin = Origin::at(&[("writable", "true")], Arc::clone(&clock) as _);
    let put = origin.put("/n.txt", &[], b"base");
    // A client that sent it in If-Unmodified-Since would overwrite what another puts within the second.
    assert_eq!(put.expect(201).header("last-modified"), None);
    assert_eq!(origin.get("/n.txt").header("last-modified"), None);
    clock.advance(Duration::from_secs(2));
    let date = origin.get("/n.txt").header("last-modified").expect("a date").to_owned();
    origin
        .put("/n.txt", &[("If-Unmodified-Since", &date)], b"mine")
        .expect(204);
    origin
        .put("/n.txt", &[("If-Unmodified-Since", &date)], b"late")
        .expect(412);
}

#[test]
fn references_are_spelled_as_cadaver_kodi_and_wget_expect() {
    let origin = Origin::writable();
    origin.write("c (1)/a:b.mp4", "x");
    let href = between(&propfind(&origin, "/c%20%281%29/", "0", ""), "<D:href>", "</D:href>");
    assert_eq!(href, ["/c%20%281%29/"]);
    let page = origin.get("/").text();
    assert!(page.contains("<a href=\"c%20%281%29/\">c (1)/</a>"), "{page}");
    let page = origin.get("/c%20(1)/").text();
    assert!(page.contains("<a href=\"a%3Ab.mp4\">a:b.mp4</a>"), "{page}");
    let listed = origin.get("/c%20(1)/?as=json").json();
    assert_eq!(listed["entries"][0]["href"], "a%3Ab.mp4");
}

#[test]
fn a_path_of_eight_kibibytes_is_served_however_it_is_escaped() {
    let origin = Origin::writable();
    // Longer than the kernel takes at once.
    let names: Vec<String> = (0..33).map(|_| "漢".repeat(80)).collect();
    let mut target = String::new();
    for name in &names {
        target.push('/');
        target.extend(name.bytes().map(|byte| format!("%{byte:02X}")));
        origin.request("MKCOL", &target, &[]).expect(201);
    }
    origin.put(&format!("{target}/f"), &[], b"deep").expect(201);
    assert_eq!(origin.get(&format!("{target}/f")).expect(200).text(), "deep");
    assert_eq!(origin.get(&format!("{target}/?as=json")).json()["total"], 1);
    origin.request("DELETE", &target, &[]).expect(204);
    origin
        .get(&format!("{target}/{}", &target[1..target.len() / names.len()]))
        .expect(414);
}

#[test]
fn a_move_behind_a_proxy_goes_by_the_name_that_the_client_knows() {
    let origin = Origin::writable();
    let fresh = |name: &str| drop(origin.put(name, &[], b"x"));
    fresh("/a");
    let there = ("Destination", "https://dav.example.org/b");
    origin.request("MOVE", "/a", &[there]).expect(502);
    origin
        .request("MOVE", "/a", &[there, ("X-Forwarded-Host", "dav.example.org")])
        .expect(201);
    fresh("/a");
    origin
        .request(
            "COPY",
            "/a",
            &[there, ("Forwarded", "host=\"dav.example.org\";proto=https")],
        )
        .expect(204);
    // A default port spelled out names the same server.
    let address = origin.address();
    let host = format!("{}:80", address.ip());
    origin
        .request(
            "MOVE",
            "/a",
            &[
                ("Host", &address.ip().to_string()),
                ("Destination", &format!("http://{host}/c")),
            ],
        )
        .expect(201);
    let named = Origin::with(&[("writable", "true"), ("public_url", "https://example.org/films/")]);
    named.write("d/a", "x");
    named
        .request("MOVE", "/d/a", &[("Destination", "https://example.org/films/d/b")])
        .expect(201);
    let listed = propfind(&named, "/d/", "1", "");
    assert_eq!(between(&listed, "<D:href>", "</D:href>"), ["/films/d/", "/films/d/b"]);
    let any = Origin::with(&[("writable", "true"), ("public_url", "any")]);
    any.write("a", "x");
    any.request("MOVE", "/a", &[there]).expect(201);
}

#[test]
fn a_remote_client_does_not_write_through_a_local_proxy() {
    let origin = Origin::writable();
    for field in [
        ("X-Forwarded-For", "203.0.113.7"),
        ("Forwarded", "for=\"[2001:db8::1]:80\""),
        ("X-Real-IP", "203.0.113.7"),
    ] {
        origin.put("/a", &[field], b"x").expect(403);
        origin.request("GET", "/", &[field]).expect(200);
    }
    origin.put("/a", &[("X-Forwarded-For", "127.0.0.1")], b"x").expect(201);
}

#[test]
fn a_pipe_is_not_opened_for_a_look_at_it() {
    use rustix::fs::inotify;
    let origin = Origin::writable();
    let pipe = origin.root().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("ran");
    assert!(made.success());
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("a watch");
    inotify::add_watch(&watch, &pipe, inotify::WatchFlags::OPEN).expect("watched");
    origin.get("/pipe").expect(404);
    origin.get("/?as=json").expect(200);
    propfind(&origin, "/", "1", "");
    origin.put("/pipe", &[], b"x").expect(409);
    let mut space = [std::mem::MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(&watch, &mut space);
    assert!(events.next().is_err(), "the pipe was opened");
    origin.request("DELETE", "/pipe", &[]).expect(204);
}

#[test]
fn a_file_that_is_touched_while_it_is_sent_is_sent_whole() {
    let film = Film::new(64 << 20);
    let origin = Origin::writable();
    origin.put("/film.mkv", &[], &film.bytes(0, film.len)).expect(201);
    let mut client = Client::open(origin.address(), "GET", "/film.mkv", &[]);
    film.check(0, &client.read(1000));
    let file = File::options()
        .write(true)
        .open(origin.root().join("film.mkv"))
        .expect("open");
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
        .expect("set");
    let answer = client.finish();
    assert_eq!(answer.ended, Ended::Clean);
    film.check(1000, &answer.body);
}

#[test]
fn bytes_of_a_file_that_another_program_fills_elsewhere_are_sent() {
    let film = Film::new(20 << 20);
    let origin = Origin::with(&[]);
    let path = origin.write("film.mkv", film.bytes(0, film.len));
    let file = File::options().write(true).open(path).expect("open");
    file.set_len(3 * film.len).expect("set");
    let mut client = Client::open(origin.address(), "GET", "/film.mkv", &[("Range", "bytes=0-19999999")]);
    film.check(0, &client.read(1000));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 2 * film.len;
            while !over.load(std::sync::atomic::Ordering::Relaxed) && at < 3 * film.len {
                file.write_all_at(&[1; 4096], at).expect("written");
                at += 4096;
            }
        });
        let answer = client.finish();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!((answer.ended, answer.body.len()), (Ended::Clean, 20_000_000 - 1000));
        film.check(1000, &answer.body);
    });
    // A write into the range that is being sent breaks the connection.
    let mut client = Client::open(origin.address(), "GET", "/film.mkv", &[("Range", "bytes=0-19999999")]);
    film.check(0, &client.read(1000));
    file.write_all_at(b"another edition", 0).expect("written");
    assert_eq!(client.finish().ended, Ended::Cut);
}

#[test]
fn a_collection_of_many_members_is_described_once_each_in_many_pieces() {
    const MEMBERS: usize = 2000;
    let origin = Origin::writable();
    for number in 0..MEMBERS {
        File::create(origin.root().join(format!("{number:04}"))).expect("made");
    }
    let text = propfind(&origin, "/", "1", "");
    assert!(text.len() > 4 * (64 << 10), "{}", text.len());
    let mut names = between(&text, "<D:href>", "</D:href>");
    names.sort();
    let expected = std::iter::once("/".to_owned()).chain((0..MEMBERS).map(|number| format!("/{number:04}")));
    assert!(names.into_iter().eq(expected));
    assert!(text.trim_end().ends_with("</D:multistatus>"));
}

#[test]
fn pages_of_one_listing_are_of_one_reading() {
    let origin = Origin::with(&[]);
    for index in 0..50 {
        origin.write(&format!("{index:02}"), "x");
    }
    let first = origin.get("/?as=json&limit=20").json();
    let next = first["next"].as_str().expect("more").to_owned();
    // A later page is of the same reading, whatever happens to the directory.
    origin.write("zz", "new");
    std::fs::remove_file(origin.root().join("25")).expect("removed");
    let second = origin.get(&format!("/{next}")).json();
    assert_eq!(second["listing"], first["listing"]);
    assert_eq!((&second["total"], &second["complete"]), (&50.into(), &true.into()));
    assert_eq!(second["entries"].as_array().expect("a list").len(), 19);
    let third = origin
        .get(&format!("/{}", second["next"].as_str().expect("more")))
        .json();
    assert_eq!(third["entries"].as_array().expect("a list").len(), 10);
    assert!(third["next"].is_null());
    // A state that is not kept is read anew, and said to be another.
    let forgotten = next.replace(first["listing"].as_str().expect("a state"), "forgotten");
    let anew = origin.get(&format!("/{forgotten}")).json();
    assert_ne!(anew["listing"], first["listing"]);
    assert_eq!(anew["total"], 50);
}

#[test]
fn large_collections_come_in_pieces_and_pages() {
    let origin = Origin::with(&[]);
    std::fs::create_dir(origin.root().join("many")).expect("made");
    for index in 0..10_500 {
        File::create(origin.root().join(format!("many/{index:05}.mp4"))).expect("made");
    }
    let properties = propfind(
        &origin,
        "/many/",
        "1",
        "<propfind xmlns='DAV:'><prop><getcontentlength/></prop></propfind>",
    );
    assert_eq!(properties.matches("<D:response>").count(), 10_501);
    assert!(properties.ends_with("</D:multistatus>\n"));
    let page = origin.get("/many/").text();
    assert!(page.contains("10500 entries") && page.contains(">00999.mp4<") && !page.contains(">01000.mp4<"));
    let next = between(&page, "<nav><a href=\"?as=html", "\">more")
        .pop()
        .expect("more")
        .replace("&amp;", "&");
    let page = origin.get(&format!("/many/?as=html{next}")).text();
    assert!(page.contains(">01000.mp4<") && !page.contains(">00999.mp4<"));
    let list = origin.get("/many/?as=m3u").text();
    assert_eq!(list.matches("#EXTINF").count(), 10_500);
}

fn patch(origin: &Origin, place: &str, offset: u64, complete: &str, body: &[u8]) -> Answer {
    let offset = offset.to_string();
    let headers = [
        ("Content-Type", "application/partial-upload"),
        ("Upload-Offset", offset.as_str()),
        ("Upload-Complete", complete),
    ];
    send(origin.address(), "PATCH", place, &headers, body)
}

#[test]
fn uploads_meet_the_requirements_of_the_resumable_upload_draft() {
    let origin = Origin::writable();
    // Lengths that contradict each other are rejected.
    origin
        .put("/l", &[("Upload-Complete", "?1"), ("Upload-Length", "5")], b"abc")
        .expect(400);
    origin
        .put("/l", &[("Upload-Complete", "?0"), ("Upload-Length", "2")], b"abc")
        .expect(400);
    origin.get("/l").expect(404);
    let whole = origin.put("/w", &[("Upload-Complete", "?1"), ("Upload-Length", "3")], b"abc");
    assert_eq!(whole.expect(201).header("upload-offset"), Some("3"));
    let begin = |target: &str, more: &[(&str, &str)]| {
        let begun = origin.put(target, &[&[("Upload-Complete", "?0")], more].concat(), b"abc");
        begun.expect(201).header("location").expect("a place").to_owned()
    };
    let place = begin("/a", &[]);
    assert_eq!(
        patch(&origin, &place, 9, "?0", b"x")
            .expect(409)
            .header("upload-complete"),
        Some("?0")
    );
    let told = origin.get(&place);
    assert_eq!(told.expect(204).header("upload-offset"), Some("3"));
    let last = patch(&origin, &place, 3, "?1", b"def");
    assert_eq!(last.expect(201).header("upload-offset"), Some("6"));
    // An upload that got more than its length is invalid.
    let place = begin("/b", &[("Upload-Length", "4")]);
    patch(&origin, &place, 3, "?0", b"defgh").expect(400);
    origin.request("HEAD", &place, &[]).expect(404);
}

#[test]
fn an_upload_cut_before_its_location_was_sent_leaves_no_file() {
    let origin = Origin::writable();
    for reset in [false, true] {
        let mut client = Client::connect(origin.address());
        client.ask(
            "PUT",
            "/film.mkv",
            &[("Upload-Complete", "?0"), ("Content-Length", "50000000")],
        );
        client.send(&vec![7; 3_000_000]);
        eventually("some of it is written", || {
            origin.everything().iter().any(|name| name.contains("upload-"))
        });
        if reset {
            client.reset();
        }
        drop(client);
        eventually("nothing is left", || origin.everything() == [".millpond"]);
    }
}

#[test]
fn an_upload_keeps_its_bytes_until_the_file_is_in_its_place() {
    let mut origin = Origin::writable();
    origin.put("/a", &[], b"theirs").expect(201);
    let begun = origin.put("/a", &[("Upload-Complete", "?0"), ("If-Match", "*")], b"mine");
    let place = begun.expect(201).header("location").expect("a place").to_owned();
    let id = place.rsplit('/').next().expect("an id").to_owned();
    let record = origin.root().join(format!(".millpond/upload-{id}.json"));
    let body = origin.root().join(format!(".millpond/upload-{id}"));
    origin.stop();
    // As a crash leaves it right before the exchange, and right behind it.
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).expect("read")).expect("JSON");
    text["placing"] = std::fs::metadata(&body).expect("inspected").ino().into();
    std::fs::write(&record, text.to_string()).expect("written");
    origin.restart();
    let told = origin.request("HEAD", &place, &[]);
    assert_eq!(
        (told.header("upload-offset"), told.header("upload-complete")),
        (Some("4"), Some("?0"))
    );
    origin.stop();
    std::fs::write(&record, text.to_string()).expect("written");
    std::fs::rename(&body, origin.root().join("a")).expect("renamed");
    std::fs::write(&body, "theirs").expect("written");
    origin.restart();
    let told = origin.request("HEAD", &place, &[]);
    assert_eq!(told.expect(204).header("upload-complete"), Some("?1"));
    assert!(!body.exists());
    assert_eq!(origin.get("/a").text(), "mine");
}

#[test]
fn properties_set_by_clients_persist() {
    let mut origin = Origin::writable();
    origin.put("/a", &[], b"x").expect(201);
    let tag = origin.etag("/a");
    let said = proppatch(
        &origin,
        "/a",
        "<set><prop><z:colour>blue &lt;<z:b/></z:colour><z:gone/></prop></set><remove><prop><z:gone/></prop></remove>",
    );
    if said.contains("507") {
        eprintln!(
            "SKIPPED: the file system of {} keeps no attributes",
            origin.root().display()
        );
        return;
    }
    assert!(said.contains("200 OK"), "{said}");
    // Setting a property changes neither the bytes nor the tag.
    assert_eq!(origin.etag("/a"), tag);
    let value = "<colour xmlns=\"urn:z\">blue &lt;<b xmlns=\"urn:z\"/></colour>";
    let named = "<propfind xmlns='DAV:'><prop><colour xmlns='urn:z'/><gone xmlns='urn:z'/></prop></propfind>";
    let has = |origin: &Origin, target: &str| {
        let text = propfind(origin, target, "0", named);
        text.contains(value) && text.contains("<gone xmlns=\"urn:z\"/></D:prop><D:status>HTTP/1.1 404")
    };
    assert!(has(&origin, "/a"));
    assert!(propfind(&origin, "/", "1", "").contains(value));
    origin.restart();
    origin.put("/a", &[], b"replaced").expect(204);
    origin.request("COPY", "/a", &[("Destination", "/b")]).expect(201);
    origin.request("MOVE", "/a", &[("Destination", "/c")]).expect(201);
    assert!(has(&origin, "/b") && has(&origin, "/c"));
    proppatch(&origin, "/b", "<remove><prop><z:colour/></prop></remove>");
    assert!(!has(&origin, "/b"));
    // Times, as lftp, rclone and Windows set them.
    for (instruction, seconds) in [
        (
            "<getlastmodified>Fri, 27 Nov 2026 12:49:23 GMT</getlastmodified>",
            1_795_783_763,
        ),
        ("<lastmodified>1000000000</lastmodified>", 1_000_000_000),
        (
            "<w:Win32LastModifiedTime xmlns:w='urn:schemas-microsoft-com:'>Sun, 06 Nov 1994 08:49:37 GMT</w:Win32LastModifiedTime>",
            784_111_777,
        ),
    ] {
        let said = proppatch(&origin, "/c", &format!("<set><prop>{instruction}</prop></set>"));
        assert!(said.contains("200 OK"), "{said}");
        let metadata = std::fs::metadata(origin.root().join("c")).expect("inspected");
        assert_eq!(metadata.mtime(), seconds);
    }
    proppatch(&origin, "/", "<set><prop><z:colour>1</z:colour></prop></set>");
    assert!(propfind(&origin, "/", "0", "").contains("colour"));
    let conditional = [("If-Match", "\"x\"")];
    send(
        origin.address(),
        "PROPPATCH",
        "/c",
        &conditional,
        b"<propertyupdate xmlns='DAV:'><remove><prop><a/></prop></remove></propertyupdate>",
    )
    .expect(412);
}

#[test]
fn a_time_that_a_client_sets_changes_no_tag() {
    let origin = later(&[("writable", "true")]);
    let film = Film::new(5 << 20);
    let path = origin.write("film.mkv", film.bytes(0, film.len));
    std::os::unix::fs::symlink("film.mkv", origin.root().join("link.mkv")).expect("linked");
    eventually("its digest is known", || {
        let asked = origin.request("HEAD", "/film.mkv", &[("Want-Repr-Digest", "sha-256=1")]);
        asked.header("repr-digest").is_some()
    });
    let tag = origin.etag("/film.mkv");
    let instruction = "<set><prop><lastmodified>1000000000</lastmodified></prop></set>";
    assert!(proppatch(&origin, "/film.mkv", instruction).contains("200 OK"));
    assert_eq!(std::fs::metadata(&path).expect("inspected").mtime(), 1_000_000_000);
    assert_eq!(origin.etag("/film.mkv"), tag);
    // The file that a link leads to is changed by its own path.
    let body = format!("<propertyupdate xmlns='DAV:'>{instruction}</propertyupdate>");
    send(origin.address(), "PROPPATCH", "/link.mkv", &[], body.as_bytes()).expect(409);
}

#[test]
fn a_link_to_a_reserved_name_is_404() {
    let origin = Origin::writable();
    for (target, link) in [(".millpond", "door"), (".millpond/root", "mark"), ("/-", "own")] {
        std::os::unix::fs::symlink(target, origin.root().join(link)).expect("linked");
    }
    for target in ["/door/", "/door/root", "/mark", "/own"] {
        origin.get(target).expect(404);
    }
    assert_eq!(origin.get("/?as=json").json()["skipped"], 3);
}
