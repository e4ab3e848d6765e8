//! A directory read: files, ranges, conditions, tags that tell every state from every other, listings.

use crate::support::{Film, Origin, eventually, token};
use std::fs::{File, FileTimes};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::time::{Duration, SystemTime};

/// Makes the file look as if nobody had written to it for an hour.
fn age(path: &std::path::Path) {
    let hour_ago = std::fs::metadata(path).expect("inspected").modified().expect("a time") - Duration::from_secs(3600);
    let file = File::options().write(true).open(path).expect("open");
    file.set_times(FileTimes::new().set_modified(hour_ago)).expect("set");
}

#[test]
fn a_file_is_answered_like_a_stored_object() {
    let origin = Origin::with(&[]);
    let film = Film::new(300_000);
    age(&origin.write("film.mp4", film.bytes(0, film.len)));
    let whole = origin.get("/film.mp4");
    whole.expect(200);
    film.check(0, &whole.body);
    let etag = whole.header("etag").expect("a tag").to_owned();
    assert!(etag.starts_with('"') && etag.len() == 66, "{etag}");
    assert_eq!(whole.header("content-type"), Some("video/mp4"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let modified = whole.header("last-modified").expect("a date").to_owned();
    for (range, start, end) in [
        ("bytes=0-9", 0, 10),
        ("bytes=299990-", 299_990, 300_000),
        ("bytes=-5", 299_995, 300_000),
    ] {
        let part = origin.request("GET", "/film.mp4", &[("Range", range)]);
        part.expect(206);
        film.check(start, &part.body);
        assert_eq!(
            part.header("content-range"),
            Some(format!("bytes {start}-{}/300000", end - 1).as_str())
        );
    }
    let several = origin.request("GET", "/film.mp4", &[("Range", "bytes=0-1,100-101")]);
    assert!(
        several
            .expect(206)
            .header("content-type")
            .is_some_and(|media| media.starts_with("multipart/byteranges"))
    );
    let beyond = origin.request("GET", "/film.mp4", &[("Range", "bytes=300000-")]);
    assert_eq!(beyond.expect(416).header("content-range"), Some("bytes */300000"));
    origin
        .request("GET", "/film.mp4", &[("If-None-Match", &etag)])
        .expect(304);
    origin
        .request("GET", "/film.mp4", &[("If-Modified-Since", &modified)])
        .expect(304);
    origin
        .request("GET", "/film.mp4", &[("If-Match", "\"other\"")])
        .expect(412);
    let other = [("If-Range", "\"other\""), ("Range", "bytes=0-1")];
    origin.request("GET", "/film.mp4", &other).expect(200);
    for by in [&etag, &modified] {
        origin
            .request("GET", "/film.mp4", &[("If-Range", by), ("Range", "bytes=0-1")])
            .expect(206);
    }
    let head = origin.request("HEAD", "/film.mp4", &[("Range", "bytes=0-1")]);
    assert_eq!(head.expect(200).header("content-length"), Some("300000"));
    let digest = origin.request("GET", "/film.mp4", &[("Want-Repr-Digest", "sha-256=1")]);
    assert!(digest.header("repr-digest").is_some());
    origin.get("/film.mp4/").expect(404);
    origin.get("/none").expect(404);
    let refused = origin.put("/film.mp4", &[], b"x");
    refused.expect(405);
    assert!(refused.text().contains("--writable"));
}

#[test]
fn the_same_size_written_again_within_a_second_has_another_tag() {
    let origin = Origin::with(&[]);
    let path = origin.write("a", "one");
    let first = origin.etag("/a");
    std::fs::write(&path, "two").expect("written");
    let second = origin.etag("/a");
    assert_ne!(first, second);
    // Even with its old time put back.
    age(&path);
    let then = std::fs::metadata(&path).expect("inspected").modified().expect("a time");
    let third = origin.etag("/a");
    assert_eq!(second, third);
    let file = File::options().write(true).open(&path).expect("open");
    file.write_all_at(b"six", 0).expect("written");
    file.set_times(FileTimes::new().set_modified(then)).expect("set");
    assert_ne!(origin.etag("/a"), third);
    assert_eq!(origin.get("/a").text(), "six");
}

#[test]
fn a_large_file_has_a_weak_tag_until_it_has_rested() {
    let origin = Origin::with(&[]);
    let film = Film::new(5 << 20);
    let path = origin.write("big.mkv", film.bytes(0, film.len));
    let weak = origin.etag("/big.mkv");
    assert!(weak.starts_with("W/"), "{weak}");
    eventually("its tag is strong", || !origin.etag("/big.mkv").starts_with("W/"));
    let strong = origin.etag("/big.mkv");
    assert_eq!(weak, format!("W/{strong}"));
    // A client that has the file under the weak tag has the same bytes.
    let again = origin.request("GET", "/big.mkv", &[("If-None-Match", &weak)]);
    assert_eq!(again.expect(304).header("etag"), Some(weak.as_str()));
    // A date does not join what a weak tag does not.
    let whole = origin.request("GET", "/big.mkv", &[("If-Range", &weak), ("Range", "bytes=0-9")]);
    whole.expect(200);
    let mut file = File::options().append(true).open(&path).expect("open");
    file.write_all(b"more").expect("written");
    origin
        .request("GET", "/big.mkv", &[("If-None-Match", &weak)])
        .expect(200);
    assert_ne!(origin.etag("/big.mkv"), strong);
}

#[test]
fn a_weak_tag_is_not_of_an_edit_whose_time_was_put_back() {
    let origin = Origin::with(&[]);
    let film = Film::new(5 << 20);
    let path = origin.write("big.mkv", film.bytes(0, film.len));
    let weak = origin.etag("/big.mkv");
    assert!(weak.starts_with("W/"), "{weak}");
    let then = std::fs::metadata(&path).expect("inspected").modified().expect("a time");
    let file = File::options().write(true).open(&path).expect("open");
    file.write_all_at(b"retagged", 1000).expect("written");
    file.set_times(FileTimes::new().set_modified(then)).expect("set");
    origin
        .request("GET", "/big.mkv", &[("If-None-Match", &weak)])
        .expect(200);
}

#[test]
fn tags_are_known_after_a_restart_without_reading_the_files() {
    let mut origin = Origin::with(&[]);
    let film = Film::new(5 << 20);
    origin.write("big.mkv", film.bytes(0, film.len));
    eventually("its tag is strong", || !origin.etag("/big.mkv").starts_with("W/"));
    let strong = origin.etag("/big.mkv");
    origin.restart();
    assert_eq!(origin.etag("/big.mkv"), strong);
}

#[test]
fn a_file_that_is_written_while_it_is_sent_breaks_the_connection() {
    let origin = Origin::with(&[]);
    let film = Film::new(64 << 20);
    let path = origin.write("film.mkv", film.bytes(0, film.len));
    eventually("its tag is strong", || !origin.etag("/film.mkv").starts_with("W/"));
    let mut client = crate::support::Client::open(origin.address(), "GET", "/film.mkv", &[]);
    film.check(0, &client.read(1000));
    let file = File::options().write(true).open(&path).expect("open");
    file.write_all_at(b"another edition", film.len - 100).expect("written");
    let answer = client.finish();
    assert_eq!(answer.ended, crate::support::Ended::Cut);
    film.check(1000, &answer.body);
}

#[test]
fn readers_of_an_old_version_finish_on_it() {
    let origin = Origin::writable();
    let film = Film::new(32 << 20);
    origin.put("/film.mkv", &[], &film.bytes(0, film.len)).expect(201);
    let client = crate::support::Client::open(origin.address(), "GET", "/film.mkv", &[]);
    origin.put("/film.mkv", &[], b"short").expect(204);
    let answer = client.finish();
    answer.expect(200);
    film.check(0, &answer.body);
    assert_eq!(answer.body.len() as u64, film.len);
    assert_eq!(origin.get("/film.mkv").text(), "short");
}

#[test]
fn a_collection_without_its_slash_is_redirected_with_its_query() {
    let origin = Origin::with(&[]);
    origin.write("a b/c", "x");
    let moved = origin.get("/a%20b?as=json");
    assert_eq!(moved.expect(308).header("location"), Some("./a%20b/?as=json"));
    origin.get("/a%20b/").expect(200);
}

#[test]
fn a_listing_for_programs_is_paged_and_says_whether_it_is_all() {
    let origin = Origin::with(&[]);
    for index in 0..25 {
        origin.write(&format!("d/{index:02}.bin"), vec![0; index]);
    }
    origin.write("d/sub/x", "x");
    origin.write("d/.hidden", "x");
    origin.get("/d/07.bin").expect(200);
    let mut names = Vec::new();
    let mut target = "/d/?as=json&limit=10".to_owned();
    let mut states = Vec::new();
    loop {
        let page = origin.get(&target);
        let page = page.expect(200).json();
        assert_eq!(page["complete"], true);
        assert_eq!(page["total"], 26);
        states.push(page["listing"].as_str().expect("a text").to_owned());
        for entry in page["entries"].as_array().expect("a list") {
            names.push(entry["name"].as_str().expect("a name").to_owned());
        }
        match page["next"].as_str() {
            Some(next) => target = format!("/d/{next}"),
            None => break,
        }
    }
    assert_eq!(names.len(), 26);
    assert!(names.is_sorted() && !names.contains(&".hidden".to_owned()));
    assert!(states.len() == 3 && states.iter().all(|state| *state == states[0]));
    let json = [("Accept", "application/json")];
    let whole = origin.request("GET", "/d/", &json);
    let tag = whole.expect(200).header("etag").expect("a tag").to_owned();
    let unchanged = [("Accept", "application/json"), ("If-None-Match", tag.as_str())];
    origin.request("GET", "/d/", &unchanged).expect(304);
    origin.write("d/new", "");
    origin.request("GET", "/d/", &unchanged).expect(200);
    let listed = origin.request("GET", "/d/", &json).json();
    let kinds: Vec<_> = listed["entries"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| &entry["type"])
        .collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "collection").count(), 1);
    assert_eq!(listed["entries"][0]["size"], 0);
    origin.get("/d/?limit=none&as=json").expect(400);
}

#[test]
fn a_listing_holds_while_the_directory_changes_or_says_that_it_does_not() {
    let origin = Origin::with(&[]);
    for index in 0..300 {
        origin.write(&format!("stays-{index}"), "x");
    }
    let over = std::sync::atomic::AtomicBool::new(false);
    let root = origin.root();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut index = 0u64;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                index += 1;
                let name = root.join(format!("comes-{}", index % 50));
                let _ = std::fs::write(&name, "x");
                let _ = std::fs::remove_file(root.join(format!("comes-{}", (index + 25) % 50)));
            }
        });
        for _ in 0..40 {
            let listing = origin.get("/?as=json&limit=10000").json();
            let entries = listing["entries"].as_array().expect("a list");
            let stays = entries
                .iter()
                .filter(|entry| entry["name"].as_str().is_some_and(|name| name.starts_with("stays-")));
            if listing["complete"] == true {
                assert_eq!(stays.count(), 300);
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let listing = origin.get("/?as=json").json();
    assert_eq!(listing["complete"], true);
}

#[test]
fn a_page_for_people_sorts_links_and_plays() {
    let origin = Origin::with(&[]);
    origin.write("films/Episode 10.mp4", vec![0; 3000]);
    origin.write("films/Episode 2.mp4", vec![0; 5000]);
    origin.write("films/Episode 2.en.vtt", "WEBVTT\n");
    origin.write("films/<b>&.txt", "x");
    let at = |page: &str, part: &str| page.find(part).unwrap_or_else(|| panic!("{part} in {page}"));
    let page = origin.get("/films/");
    assert!(
        page.header("content-security-policy")
            .is_some_and(|policy| policy.contains("default-src 'none'"))
    );
    let page = page.expect(200).text();
    assert!(at(&page, ">Episode 2.mp4<") < at(&page, ">Episode 10.mp4<"));
    assert!(page.contains("4.9 KiB") && page.contains("?play=Episode+2.mp4"));
    assert!(page.contains("&lt;b&gt;&amp;.txt") && !page.contains("<b>&"));
    let page = origin.get("/films/?sort=size&order=asc").text();
    assert!(at(&page, ">Episode 10.mp4<") < at(&page, ">Episode 2.mp4<"));
    let player = origin.get("/films/?play=Episode+2.mp4").text();
    assert!(player.contains("<video controls") && player.contains("\"Episode%202.en.vtt\""));
    origin.get("/films/?play=none.mp4").expect(404);
    let list = origin
        .request("GET", "/films/", &[("Accept", "audio/x-mpegurl")])
        .text();
    assert!(list.starts_with("#EXTM3U\n") && at(&list, "\nEpisode%202.mp4") < at(&list, "\nEpisode%2010.mp4"));
}

#[test]
fn links_are_followed_beneath_the_root_only_and_marked() {
    let origin = Origin::writable();
    origin.write("d/film", "inside");
    std::fs::write(origin.outside().join("secret"), "outside").expect("written");
    let root = origin.root();
    symlink("d/film", root.join("good")).expect("linked");
    symlink("../secret", root.join("up")).expect("linked");
    symlink(origin.outside().join("secret"), root.join("absolute")).expect("linked");
    symlink("..", root.join("d/top")).expect("linked");
    symlink("nowhere", root.join("broken")).expect("linked");
    assert_eq!(origin.get("/good").expect(200).text(), "inside");
    for path in ["/up", "/absolute", "/broken", "/d/top/../secret"] {
        assert!(matches!(origin.get(path).status, 400 | 404), "{path}");
    }
    // Still within the root.
    origin.get("/d/top/good").expect(200);
    let listing = origin.get("/?as=json").json();
    let names: Vec<_> = listing["entries"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["name"].clone())
        .collect();
    assert_eq!(names, ["d", "good"]);
    assert_eq!(listing["entries"][1]["link"], true);
    // Never followed for writes.
    origin.put("/good", &[], b"x").expect(409);
    origin.put("/d/top/new", &[], b"x").expect(409);
    // A link itself is removed, never what it leads to.
    origin.request("DELETE", "/up", &[]).expect(204);
    assert_eq!(
        std::fs::read_to_string(origin.outside().join("secret")).expect("read"),
        "outside"
    );
}

#[test]
fn a_socket_is_neither_served_nor_listed_nor_replaced() {
    let origin = Origin::writable();
    let _socket = std::os::unix::net::UnixListener::bind(origin.root().join("socket")).expect("bound");
    origin.get("/socket").expect(404);
    assert_eq!(origin.get("/?as=json").json()["total"], 0);
    origin.put("/socket", &[], b"x").expect(409);
}

#[test]
fn files_that_could_run_scripts_do_so_in_a_sandbox_and_others_are_not_touched() {
    let origin = Origin::with(&[]);
    for name in ["a.html", "a.svg", "a.xml", "a.atom", "a.mht", "a.xhtml"] {
        origin.write(name, "<script>");
        let file = origin.get(&format!("/{name}"));
        assert_eq!(
            file.expect(200).header("content-security-policy"),
            Some("sandbox"),
            "{name}"
        );
    }
    for name in ["a.mp4", "a.txt", "a.jpg", "a.pdf"] {
        origin.write(name, "x");
        let file = origin.get(&format!("/{name}"));
        assert_eq!(file.expect(200).header("content-security-policy"), None, "{name}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"), "{name}");
    }
}

#[test]
fn hidden_names_are_shown_to_writers_alone_unless_configured() {
    let shown = Origin::with(&[("hidden", "true"), ("writable", "true")]);
    shown.write(".cover.jpg", "x");
    shown.get("/.cover.jpg").expect(200);
    assert_eq!(shown.get("/?as=json").json()["total"], 1);
    shown.get("/.millpond/").expect(404);
    shown.put("/.millpond/x", &[], b"x").expect(403);
    shown.put("/.millpond-1", &[], b"x").expect(403);
    let dir = tempfile::TempDir::new().expect("a directory");
    let tokens = dir.path().join("tokens.toml");
    let writer = format!("Bearer {}", token(&tokens, "writer", &["--write"]));
    let mut text = std::fs::read_to_string(&tokens).expect("read");
    text.push_str("\n[anonymous]\nscopes = [\"play\"]\n");
    std::fs::write(&tokens, text).expect("written");
    let hidden = Origin::with(&[("writable", "true"), ("tokens", &tokens.display().to_string())]);
    let writer = ("Authorization", writer.as_str());
    hidden.write(".cover.jpg", "x");
    let cover = hidden.request("GET", "/.cover.jpg", &[writer]);
    let caching = cover.expect(200).header("cache-control").expect("a field");
    assert!(caching.contains("private"), "{caching}");
    let listing = hidden.request("GET", "/?as=json", &[writer]);
    assert_eq!(listing.json()["total"], 1);
    assert!(
        listing
            .header("cache-control")
            .is_some_and(|field| field.contains("private"))
    );
    hidden.put("/.cover.jpg", &[writer], b"y").expect(204);
    hidden.request("MKCOL", "/.d", &[writer]).expect(201);
    hidden
        .put("/.d/.x.swp", &[writer, ("If-None-Match", "*")], b"x")
        .expect(201);
    // A reader who may not write.
    hidden.get("/.cover.jpg").expect(404);
    hidden.get("/.d/").expect(404);
    assert_eq!(hidden.get("/?as=json").json()["total"], 0);
    let properties = hidden.request("PROPFIND", "/", &[("Depth", "1")]);
    assert!(!properties.text().contains(".cover"), "{}", properties.text());
}

#[test]
fn file_managers_read_properties_at_depth_0_and_1() {
    let origin = Origin::with(&[]);
    origin.write("d/a b.mp4", "film");
    let ask = |target: &str, depth: &str, body: &[u8]| {
        crate::support::origin::send(origin.address(), "PROPFIND", target, &[("Depth", depth)], body)
    };
    let all = ask("/d/", "1", b"");
    let text = all.expect(207).text();
    assert!(
        text.contains("<D:href>/d/</D:href>") && text.contains("<D:href>/d/a%20b.mp4</D:href>"),
        "{text}"
    );
    assert!(text.contains("<D:getcontentlength>4</D:getcontentlength>"));
    let none = ask("/d/", "0", b"").text();
    assert!(!none.contains("a%20b"));
    let some = ask(
        "/d/a%20b.mp4",
        "0",
        b"<propfind xmlns='DAV:' xmlns:x='urn:x'><prop><getetag/><x:unknown/></prop></propfind>",
    );
    let text = some.expect(207).text();
    assert!(
        text.contains("<D:getetag>&quot;") && text.contains("<unknown xmlns=\"urn:x\"/>") && text.contains("404"),
        "{text}"
    );
    assert!(
        ask("/d/", "infinity", b"")
            .expect(403)
            .text()
            .contains("propfind-finite-depth")
    );
    ask("/d/", "1", b"<propfind").expect(400);
    ask("/none", "0", b"").expect(404);
    let options = origin.request("OPTIONS", "/", &[]);
    assert_eq!(options.expect(204).header("dav"), Some("1"));
}

#[test]
fn a_file_beyond_four_gibibytes_is_served_at_both_ends() {
    let origin = Origin::with(&[]);
    let path = origin.write("huge.mkv", "begin");
    let file = File::options().write(true).open(&path).expect("open");
    let size = (5u64 << 30) + 3;
    file.write_all_at(b"end", size - 3).expect("written");
    for (range, body, part) in [
        ("bytes=0-4", "begin", "bytes 0-4/5368709123"),
        ("bytes=-3", "end", "bytes 5368709120-5368709122/5368709123"),
    ] {
        let answer = origin.request("GET", "/huge.mkv", &[("Range", range)]);
        assert_eq!(
            (answer.expect(206).text().as_str(), answer.header("content-range")),
            (body, Some(part))
        );
    }
    assert_eq!(origin.get("/?as=json").json()["entries"][0]["size"], size);
}

#[test]
fn a_file_of_the_future_is_never_later_than_now() {
    let origin = Origin::with(&[]);
    let path = origin.write("a", "x");
    let file = File::options().write(true).open(&path).expect("open");
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    file.set_times(FileTimes::new().set_modified(far)).expect("set");
    let answer = origin.get("/a");
    let date = |name: &str| httpdate(answer.header(name).expect("a date"));
    assert!(date("last-modified") <= date("date"));
}

fn httpdate(text: &str) -> SystemTime {
    millpond::header::parse_date(text).expect("a date")
}
