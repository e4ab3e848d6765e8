//! A directory changed: every change happens wholly or not at all, and none takes another's away.

use crate::support::origin::send;
use crate::support::{Client, Film, Origin};
use std::sync::Barrier;

/// Fifty clients at once; what each was answered.
fn fifty(origin: &Origin, target: &str, headers: &[(&str, &str)], body: impl Fn(usize) -> Vec<u8> + Sync) -> Vec<u16> {
    let start = Barrier::new(50);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..50)
            .map(|index| {
                let (start, body) = (&start, &body);
                scope.spawn(move || {
                    let body = body(index);
                    start.wait();
                    origin.put(target, headers, &body).status
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("answered"))
            .collect()
    })
}

#[test]
fn exactly_one_of_fifty_concurrent_replacements_wins() {
    let origin = Origin::writable();
    origin.put("/a", &[], b"before").expect(201);
    let tag = origin.etag("/a");
    let body = |index: usize| vec![index as u8; 100_000 + index];
    let answers = fifty(&origin, "/a", &[("If-Match", &tag)], body);
    let winner = answers.iter().position(|status| *status == 204).expect("a winner");
    assert_eq!(
        answers.iter().filter(|status| **status == 412).count(),
        49,
        "{answers:?}"
    );
    assert_eq!(origin.get("/a").body, body(winner));
    assert_eq!(origin.everything(), [".millpond", "a"]);
}

#[test]
fn exactly_one_of_fifty_concurrent_creations_wins() {
    let origin = Origin::writable();
    let body = |index: usize| vec![index as u8; 100_000];
    let answers = fifty(&origin, "/new", &[("If-None-Match", "*")], body);
    let winner = answers.iter().position(|status| *status == 201).expect("a winner");
    assert_eq!(
        answers.iter().filter(|status| **status == 412).count(),
        49,
        "{answers:?}"
    );
    assert_eq!(origin.get("/new").body, body(winner));
    assert_eq!(origin.everything(), [".millpond", "new"]);
}

#[test]
fn a_write_of_the_same_size_within_a_second_is_not_lost() {
    let origin = Origin::writable();
    let put = origin.put("/a", &[], b"one");
    let tag = put.expect(201).header("etag").expect("a tag").to_owned();
    // Another program writes the file.
    std::fs::write(origin.root().join("a"), "two").expect("written");
    assert_ne!(origin.etag("/a"), tag);
    origin.put("/a", &[("If-Match", &tag)], b"six").expect(412);
    origin.request("DELETE", "/a", &[("If-Match", &tag)]).expect(412);
    assert_eq!(origin.get("/a").text(), "two");
}

/// Tells another thread to end, however this one does.
struct Ending<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_writer_behind_our_back_is_not_overwritten_in_between() {
    // The other exchanges, so it knows what it has displaced. What it wrote must have been displaced by itself, or named
    // by one of ours that was told 204: then nobody's change is lost.
    let origin = Origin::writable();
    let path = origin.root().join("a");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::fs::write(&path, "0").expect("written");
    let (displaced, mut named, given_up) = std::thread::scope(|scope| {
        let outside = origin.outside().join("next");
        let (path, over) = (&path, &over);
        let other = scope.spawn(move || {
            let mut displaced = Vec::new();
            for count in 1u64.. {
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                std::fs::write(&outside, format!("{count}")).expect("written");
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &outside, cwd, path, flags).expect("exchanged");
                displaced.push(std::fs::read_to_string(&outside).expect("read"));
                // A file of its own each time: the tag is of the bytes, the look of the file.
                std::fs::remove_file(&outside).expect("removed");
            }
            displaced
        });
        // The drop of this value ends the other writer, also where a request fails.
        let ending = Ending(over);
        let (mut named, mut given_up, mut unlike) = (Vec::new(), 0, None);
        for _ in 0..300 {
            let seen = origin.get("/a");
            // The file is there at every moment. Its tag is weak where the file never rests while it is read.
            let tag = seen.expect(200).header("etag").expect("a tag").to_owned();
            let answer = origin.put("/a", &[("If-Match", &tag)], b"ours");
            match answer.status {
                204 => named.push(seen.text()),
                412 => {}
                503 => given_up += 1,
                status => unlike = Some(status),
            }
        }
        drop(ending);
        assert_eq!(unlike, None);
        (other.join().expect("ended"), named, given_up)
    });
    let last = displaced.len() as u64;
    named.push(std::fs::read_to_string(&path).expect("read"));
    // Ours shows for an instant before it is taken back. Who replaces it at that very instant has replaced what was before
    // it, without being given that; then we give up.
    let told: std::collections::HashSet<String> = displaced.into_iter().chain(named).collect();
    let lost: Vec<u64> = (0..=last).filter(|count| !told.contains(&count.to_string())).collect();
    assert!(lost.len() <= given_up, "lost: {lost:?}, given up {given_up} times");
    assert_eq!(origin.everything(), [".millpond", "a"]);
}

#[test]
fn a_true_if_match_silences_a_false_date() {
    let origin = Origin::writable();
    let tag = origin.put("/a", &[], b"one").header("etag").expect("a tag").to_owned();
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    origin
        .put("/a", &[("If-Unmodified-Since", long_ago)], b"two")
        .expect(412);
    let both = [("If-Match", tag.as_str()), ("If-Unmodified-Since", long_ago)];
    origin.put("/a", &both, b"two").expect(204);
    // A file that does not exist was not modified.
    origin
        .put("/new", &[("If-Unmodified-Since", long_ago)], b"x")
        .expect(201);
    origin
        .put("/a", &[("If-Unmodified-Since", "whenever")], b"six")
        .expect(204);
}

#[test]
fn a_weak_tag_in_if_match_never_holds() {
    let origin = Origin::writable();
    let tag = origin.put("/a", &[], b"one").header("etag").expect("a tag").to_owned();
    origin
        .put("/a", &[("If-Match", &format!("W/{tag}"))], b"two")
        .expect(412);
    origin
        .put("/a", &[("If-None-Match", &format!("W/{tag}"))], b"two")
        .expect(412);
    let film = Film::new(6 << 20);
    origin.write("big", film.bytes(0, film.len));
    let weak = origin.etag("/big");
    assert!(weak.starts_with("W/"));
    origin.put("/big", &[("If-Match", &weak)], b"x").expect(412);
}

#[test]
fn malformed_conditions_are_refused_without_effect() {
    let origin = Origin::writable();
    origin.put("/a", &[], b"one").expect(201);
    for field in [("If-Match", "abc"), ("If-None-Match", "abc"), ("If-Match", "")] {
        origin.put("/a", &[field], b"two").expect(400);
    }
    origin.put("/a", &[("If", "(<urn:uuid:1>)")], b"two").expect(412);
    assert_eq!(origin.get("/a").text(), "one");
}

#[test]
fn ordinary_checks_come_before_conditions() {
    let origin = Origin::writable();
    let tag = [("If-Match", "\"x\"")];
    origin.request("DELETE", "/none", &tag).expect(404);
    origin.put("/none", &tag, b"x").expect(412);
    origin.put("/no/where", &tag, b"x").expect(409);
    origin
        .request("MOVE", "/none", &[("Destination", "/b"), tag[0]])
        .expect(404);
}

#[test]
fn a_put_answers_with_the_tag_that_readers_see() {
    let origin = Origin::writable();
    // Larger than what is read while a client waits: the digest was taken as it came.
    let film = Film::new(6 << 20);
    let put = origin.put("/film.mkv", &[("If-None-Match", "*")], &film.bytes(0, film.len));
    let tag = put.expect(201).header("etag").expect("a tag").to_owned();
    assert_eq!(origin.etag("/film.mkv"), tag);
    assert_eq!(origin.get("/?as=json").json()["entries"][0]["etag"], tag.as_str());
    // A move changes its name, and nothing that its tag is of.
    origin
        .request("MOVE", "/film.mkv", &[("Destination", "/moved.mkv")])
        .expect(201);
    assert_eq!(origin.etag("/moved.mkv"), tag);
    let again = origin.put("/moved.mkv", &[("If-Match", &tag)], b"x");
    again.expect(204);
}

#[test]
fn a_put_that_contradicts_its_digest_is_refused() {
    let origin = Origin::writable();
    let hello = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    for name in ["Repr-Digest", "Content-Digest"] {
        origin.put("/a", &[(name, hello)], b"hello").expect(201);
        let wrong = origin.put("/a", &[(name, hello)], b"hallo");
        assert!(wrong.expect(400).text().contains("sha-256"));
        origin.put("/a", &[(name, "sha-256=:AAAA:")], b"hello").expect(400);
        origin.put("/a", &[(name, "md5=:AAAA:")], b"hello").expect(204);
        assert_eq!(origin.get("/a").text(), "hello");
        origin.request("DELETE", "/a", &[]).expect(204);
    }
    let sha512 = "sha-512=:m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==:";
    origin.put("/a", &[("Repr-Digest", sha512)], b"hello").expect(201);
    origin.put("/a", &[("Repr-Digest", sha512)], b"hallo").expect(400);
}

#[test]
fn a_put_whose_body_is_cut_changes_nothing() {
    let origin = Origin::writable();
    origin.put("/a", &[], b"before").expect(201);
    for framing in [("Content-Length", "100000"), ("Transfer-Encoding", "chunked")] {
        let mut client = Client::connect(origin.address());
        client.ask("PUT", "/a", &[framing]);
        client.send(b"5\r\nhello\r\n");
        drop(client);
    }
    crate::support::eventually("what was begun is gone", || origin.everything() == [".millpond", "a"]);
    assert_eq!(origin.get("/a").text(), "before");
}

#[test]
fn a_chunked_body_is_taken_whole() {
    let origin = Origin::writable();
    let mut client = Client::connect(origin.address());
    client.ask("PUT", "/a", &[("Transfer-Encoding", "chunked")]);
    client.send(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    client.read_head();
    client.finish().expect(201);
    assert_eq!(origin.get("/a").text(), "hello world");
}

#[test]
fn an_unacceptable_put_is_refused_before_its_body_comes() {
    let origin = Origin::with(&[
        ("writable", "true"),
        ("largest_upload", "64MiB"),
        ("demand_conditions", "true"),
    ]);
    origin.write("d/there", "x");
    let new = ("If-None-Match", "*");
    for (target, headers, status) in [
        ("/a", vec![("Content-Length", "9")], 428),
        ("/a", vec![new, ("Content-Length", "67108865")], 413),
        (
            "/a",
            vec![new, ("Content-Length", "9"), ("Content-Range", "bytes 0-8/9")],
            400,
        ),
        (
            "/a",
            vec![new, ("Content-Length", "9"), ("Content-Encoding", "gzip")],
            415,
        ),
        ("/a/", vec![new, ("Content-Length", "9")], 409),
        ("/d", vec![new, ("Content-Length", "9")], 409),
        ("/none/a", vec![new, ("Content-Length", "9")], 409),
        ("/d/there/a", vec![new, ("Content-Length", "9")], 409),
        ("/d/there", vec![new, ("Content-Length", "9")], 412),
        ("/d//a", vec![new, ("Content-Length", "9")], 400),
        ("/%2e%2e/a", vec![new, ("Content-Length", "9")], 400),
    ] {
        let mut client = Client::connect(origin.address());
        let all = [&headers[..], &[("Expect", "100-continue")]].concat();
        client.ask("PUT", target, &all);
        // The refusal is the first thing that comes.
        client.read_head();
        assert_eq!(client.status, status, "{target} {headers:?}");
        assert_eq!(client.header("connection"), Some("close"));
    }
    // A client that does not wait is answered all the same.
    let refused = origin.put("/d/there", &[new], &vec![0; 30_000_000]);
    refused.expect(412);
    let mut client = Client::connect(origin.address());
    client.ask("PUT", "/a", &[new, ("Transfer-Encoding", "chunked")]);
    // A chunked body one byte too long, whose length is known only as it comes.
    let chunk = [b"800000\r\n".to_vec(), vec![0; 0x80_0000], b"\r\n".to_vec()].concat();
    (0..8).for_each(|_| client.send(&chunk));
    client.send(b"1\r\nx\r\n0\r\n\r\n");
    client.read_head();
    assert_eq!(client.status, 413);
    assert_eq!(origin.everything(), [".millpond", "d", "d/there"]);
}

#[test]
fn a_full_disk_is_507_before_the_body_comes() {
    let origin = Origin::with(&[("writable", "true"), ("min_free", "8000000TiB")]);
    let full = origin.put("/a", &[], b"x");
    full.expect(507);
    assert_eq!(origin.everything(), [".millpond"]);
}

#[test]
fn collections_with_members_are_removed_only_where_allowed() {
    let origin = Origin::with(&[("writable", "true"), ("deep_delete", "false")]);
    origin.request("MKCOL", "/d/", &[]).expect(201);
    origin.request("MKCOL", "/d", &[]).expect(405);
    origin.request("MKCOL", "/no/where/", &[]).expect(409);
    send(origin.address(), "MKCOL", "/e/", &[], b"<body/>").expect(415);
    origin.put("/d/a", &[], b"x").expect(201);
    origin.request("MKCOL", "/d/a/b", &[]).expect(409);
    for more in [&[][..], &[("Depth", "infinity")]] {
        let refused = origin.request("DELETE", "/d/", more);
        assert!(refused.expect(409).text().contains("not empty"));
    }
    origin.request("DELETE", "/d/a/", &[]).expect(404);
    origin.request("DELETE", "/d/a", &[]).expect(204);
    origin.request("DELETE", "/d/", &[("If-Match", "\"x\"")]).expect(412);
    origin.request("DELETE", "/d/", &[("If-Match", "*")]).expect(204);
    origin.request("DELETE", "/d/", &[]).expect(404);
    origin.request("DELETE", "/", &[]).expect(403);
    let deep = Origin::writable();
    // A single request may demand the same by a field.
    deep.write("e/f", "x");
    for demand in [("Millpond-Only-Empty", "?1"), ("Depth", "0")] {
        deep.request("DELETE", "/e/", &[demand]).expect(409);
    }
    deep.request("DELETE", "/e/", &[("Millpond-Only-Empty", "yes")])
        .expect(400);
    deep.request("DELETE", "/e/f", &[]).expect(204);
    deep.request("DELETE", "/e/", &[("Millpond-Only-Empty", "?1")])
        .expect(204);
    deep.write("d/e/f", "x");
    std::os::unix::fs::symlink("..", deep.root().join("d/up")).expect("linked");
    deep.write("stays", "x");
    deep.request("DELETE", "/d", &[]).expect(204);
    deep.get("/d/e/f").expect(404);
    // The files of the collection are removed after the answer.
    crate::support::eventually("all of it is gone", || deep.everything() == [".millpond", "stays"]);
}

#[test]
fn a_move_is_one_step_and_replaces_only_when_it_may() {
    let origin = Origin::writable();
    let address = format!("http://{}", origin.address());
    origin.write("d/a", "one");
    origin.write("b", "two");
    let to = |name: &str| format!("{address}{name}");
    let host = origin.address().to_string();
    let move_to = |from: &str, target: &str, more: &[(&str, &str)]| {
        let headers = [&[("Host", host.as_str()), ("Destination", target)], more].concat();
        origin.request("MOVE", from, &headers)
    };
    move_to("/d/a", &to("/b"), &[("Overwrite", "F")]).expect(412);
    move_to("/d/a", &to("/b"), &[("If-Match", "\"x\"")]).expect(412);
    let tag = origin.etag("/d/a");
    move_to("/d/a", &to("/b"), &[("If-Match", &tag)]).expect(204);
    assert_eq!(origin.get("/b").text(), "one");
    move_to("/d/a", &to("/c"), &[]).expect(404);
    move_to("/b", &to("/d"), &[("Overwrite", "F")]).expect(412);
    move_to("/b", &to("/none/b"), &[]).expect(409);
    move_to("/b", &to("/%2e%2e/b"), &[]).expect(400);
    move_to("/b", &to("/../b"), &[]).expect(400);
    move_to("/b", "http://other.example/b", &[]).expect(502);
    move_to("/b", "elsewhere", &[]).expect(400);
    move_to("/b", &to("/c"), &[("Overwrite", "maybe")]).expect(400);
    move_to("/b", &to("/b"), &[]).expect(409);
    move_to("/b", &to("/new/"), &[]).expect(409);
    origin.request("COPY", "/b", &[("Destination", "/new/")]).expect(409);
    origin.request("MOVE", "/b", &[]).expect(400);
    move_to("/b", &to("/d/b%20c"), &[]).expect(201);
    move_to("/d/", &to("/d/e/"), &[]).expect(409);
    move_to("/d/", &to("/e/"), &[]).expect(201);
    assert_eq!(origin.get("/e/b%20c").text(), "one");
    move_to("/e/b%20c", "/.millpond/x", &[]).expect(403);
    assert_eq!(origin.everything(), [".millpond", "e", "e/b c"]);
}

#[test]
fn a_copy_is_a_file_of_its_own() {
    let origin = Origin::writable();
    origin.write("a", "one");
    origin.request("COPY", "/a", &[("Destination", "/b")]).expect(201);
    origin
        .request("COPY", "/a", &[("Destination", "/b"), ("Overwrite", "F")])
        .expect(412);
    origin.put("/a", &[], b"two").expect(204);
    assert_eq!(origin.get("/b").text(), "one");
    assert_eq!(
        origin
            .request("COPY", "/a", &[("Destination", "/b")])
            .expect(204)
            .header("etag"),
        Some(origin.etag("/a").as_str())
    );
    origin.request("COPY", "/a", &[("Destination", "/a")]).expect(409);
    origin.request("COPY", "/none", &[("Destination", "/c")]).expect(404);
}

#[test]
fn the_file_systems_own_properties_cannot_be_set_and_then_none_are() {
    let origin = Origin::writable();
    origin.write("a", "x");
    let body = b"<propertyupdate xmlns='DAV:'><set><prop><x xmlns='urn:x'>1</x><getetag>2</getetag></prop></set></propertyupdate>";
    let answer = send(origin.address(), "PROPPATCH", "/a", &[], body);
    let text = answer.expect(207).text();
    let refused = "<D:prop><D:getetag/></D:prop><D:status>HTTP/1.1 403 Forbidden</D:status>";
    let dependent = "<D:prop><x xmlns=\"urn:x\"/></D:prop><D:status>HTTP/1.1 424 Failed Dependency</D:status>";
    assert!(text.contains(refused) && text.contains(dependent), "{text}");
    let names = send(
        origin.address(),
        "PROPFIND",
        "/a",
        &[("Depth", "0")],
        b"<propfind xmlns='DAV:'><propname/></propfind>",
    );
    assert!(!names.text().contains("urn:x"));
    send(origin.address(), "PROPPATCH", "/a", &[], b"").expect(400);
    origin.request("LOCK", "/a", &[]).expect(405);
}

#[test]
fn a_file_keeps_its_rights_and_takes_the_time_that_it_is_given() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let origin = Origin::writable();
    let path = origin.write("a", "x");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("set");
    let put = origin.put("/a", &[("X-OC-Mtime", "1000000000")], b"y");
    assert_eq!(put.expect(204).header("x-oc-mtime"), Some("accepted"));
    let metadata = std::fs::metadata(&path).expect("inspected");
    assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o640, 1_000_000_000));
    origin.put("/a", &[("X-OC-Mtime", "soon")], b"z").expect(400);
}

#[test]
fn a_second_writing_process_on_a_directory_is_refused() {
    let origin = Origin::writable();
    let root = origin.root().display().to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["origin", &root, "--writable", "--open", "--listen", "127.0.0.1:0"])
        .arg("--data")
        .arg(origin.outside().join("data2"))
        .output()
        .expect("ran");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another millpond writes to this directory"), "{said}");
}
