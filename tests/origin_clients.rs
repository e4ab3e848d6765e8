//! Real clients: rclone over WebDAV and HTTP, curl, cadaver, the test suite litmus; and millpond in front of millpond.

use crate::support::{Origin, Pond, is_missing};
use std::path::Path;
use std::process::Command;

/// Whether the program is there; in CI it has to be.
fn have(program: &str) -> bool {
    !is_missing(program)
}

/// The output of a command, which must have ended well.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("ran");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn rclone(origin: &Origin, arguments: &[&str]) -> String {
    let url = format!("http://{}", origin.address());
    let mut command = Command::new("timeout");
    command
        .args([
            "120",
            "rclone",
            "--config",
            "/dev/null",
            "--retries",
            "1",
            "--low-level-retries",
            "1",
        ])
        .args(arguments)
        .env("RCLONE_CONFIG_DAV_TYPE", "webdav")
        .env("RCLONE_CONFIG_DAV_VENDOR", "other")
        .env("RCLONE_CONFIG_DAV_URL", &url)
        .env("RCLONE_CONFIG_WEB_TYPE", "http")
        .env("RCLONE_CONFIG_WEB_URL", &url);
    run(&mut command)
}

fn same_tree(left: &Path, right: &Path) {
    run(Command::new("diff").arg("-r").arg(left).arg(right));
}

#[test]
fn rclone_copies_to_lists_checks_and_copies_from() {
    if !have("rclone") {
        return;
    }
    let origin = Origin::writable();
    let source = origin.outside().join("source");
    std::fs::create_dir_all(source.join("a b/c")).expect("made");
    for (index, name) in [
        "a b/film (1).mkv",
        "a b/c/50% é #1.txt",
        "top+;&.bin",
        "empty",
        "a b/c/映画.mp4",
    ]
    .iter()
    .enumerate()
    {
        std::fs::write(source.join(name), vec![index as u8; index * 400_000]).expect("written");
    }
    let from = source.display().to_string();
    rclone(&origin, &["copy", &from, "dav:copied"]);
    same_tree(&source, &origin.root().join("copied"));
    rclone(&origin, &["check", "--download", &from, "dav:copied"]);
    let listed = rclone(&origin, &["lsf", "-R", "dav:copied"]);
    assert!(
        listed.contains("a b/c/50% é #1.txt") && listed.lines().count() == 7,
        "{listed}"
    );
    for remote in ["dav", "web"] {
        let target = origin.outside().join(remote);
        rclone(
            &origin,
            &["copy", &format!("{remote}:copied"), &target.display().to_string()],
        );
        same_tree(&source, &target);
    }
    // A second copy finds nothing to do; a changed file is replaced, a removed one removed.
    std::fs::write(source.join("empty"), "no more").expect("written");
    std::fs::remove_file(source.join("top+;&.bin")).expect("removed");
    rclone(&origin, &["sync", &from, "dav:copied"]);
    same_tree(&source, &origin.root().join("copied"));
    rclone(&origin, &["moveto", "dav:copied/empty", "dav:copied/full"]);
    rclone(&origin, &["copyto", "dav:copied/full", "dav:copied/again"]);
    assert_eq!(origin.get("/copied/again").text(), "no more");
    rclone(&origin, &["delete", "--rmdirs", "dav:copied"]);
    assert!(!origin.root().join("copied/a b").exists());
}

#[test]
fn rclone_keeps_times_where_it_can_set_them() {
    if !have("rclone") {
        return;
    }
    let origin = Origin::writable();
    let source = origin.outside().join("source");
    std::fs::create_dir_all(&source).expect("made");
    std::fs::write(source.join("a"), "x").expect("written");
    run(Command::new("touch")
        .args(["-d", "2001-02-03T04:05:06Z"])
        .arg(source.join("a")));
    let from = source.display().to_string();
    let vendor = "--webdav-vendor=owncloud";
    rclone(&origin, &["copy", vendor, &from, "dav:"]);
    let listed = rclone(&origin, &["lsl", vendor, "dav:"]);
    assert!(listed.contains("2001-02-03 04:05:06"), "{listed}");
}

#[test]
fn curl_puts_a_file_and_fetches_it() {
    if !have("curl") {
        return;
    }
    let origin = Origin::writable();
    let url = format!("http://{}/file", origin.address());
    let source = origin.outside().join("source");
    std::fs::write(&source, vec![7; 3_000_000]).expect("written");
    run(Command::new("curl").args(["-fsS", "-T"]).arg(&source).arg(&url));
    let back = origin.outside().join("back");
    run(Command::new("curl").args(["-fsS", "-o"]).arg(&back).arg(&url));
    same_tree(&source, &back);
    // Asked before it sends: the refusal costs no body.
    let sent = Command::new("curl")
        .args([
            "-sS",
            "-H",
            "If-Match: \"x\"",
            "-H",
            "Expect: 100-continue",
            "--expect100-timeout",
            "30",
        ])
        .args(["-w", "%{http_code} %{size_upload}", "-o", "/dev/null", "-T"])
        .arg(&source)
        .arg(&url)
        .output()
        .expect("ran");
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "412 0");
}

#[test]
fn cadaver_browses_puts_moves_and_removes() {
    if !have("cadaver") {
        return;
    }
    let origin = Origin::writable();
    let source = origin.outside().join("source");
    std::fs::write(&source, "from cadaver").expect("written");
    let script = format!(
        "mkcol col\ncd col\nput {} file\nmove file moved\ncopy moved copied\nls\nget moved {}\ndelete moved\ncd ..\nls\nquit\n",
        source.display(),
        origin.outside().join("back").display()
    );
    let rc = origin.outside().join("script");
    std::fs::write(&rc, script).expect("written");
    let mut command = Command::new("timeout");
    command.args(["60", "sh", "-c", "cadaver \"$1\" < \"$2\"", "sh"]);
    let said = run(command.arg(format!("http://{}/", origin.address())).arg(&rc));
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(
        std::fs::read_to_string(origin.outside().join("back")).expect("fetched"),
        "from cadaver"
    );
    assert_eq!(origin.everything(), [".millpond", "col", "col/copied"]);
}

#[test]
fn cadaver_enters_a_collection_with_parentheses_and_removes_and_copies_collections() {
    if !have("cadaver") {
        return;
    }
    let origin = Origin::writable();
    origin.write("c (1)/inside", "x");
    origin.write("full/a/b", "x");
    let script = "cd \"c (1)\"\nls\ncd ..\ncopy full copied\nrmcol full\nquit\n";
    let rc = origin.outside().join("script");
    std::fs::write(&rc, script).expect("written");
    let mut command = Command::new("timeout");
    command.args(["60", "sh", "-c", "cadaver \"$1\" < \"$2\"", "sh"]);
    let said = run(command.arg(format!("http://{}/", origin.address())).arg(&rc));
    assert!(said.contains("inside") && !said.contains("failed"), "{said}");
    assert_eq!(origin.get("/copied/a/b").text(), "x");
    origin.get("/full/").expect(404);
}

#[test]
fn litmus_passes() {
    if !have("litmus") {
        return;
    }
    let origin = Origin::writable();
    let mut command = Command::new("timeout");
    command
        .args(["300", "litmus", "-k", &format!("http://{}/", origin.address())])
        .current_dir(origin.outside())
        .env("TESTS", "basic copymove props http");
    let output = command.output().expect("ran");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for suite in ["basic", "copymove", "props", "http"] {
        let summary = said
            .lines()
            .find(|line| line.contains(&format!("summary for `{suite}'")));
        let summary = summary.unwrap_or_else(|| panic!("no {suite}: {said}"));
        assert!(summary.contains(" 0 failed"), "{said}");
    }
}

#[test]
fn rclone_purges_and_keeps_times_by_properties() {
    if !have("rclone") {
        return;
    }
    let origin = Origin::writable();
    origin.write("tree/a/b", "x");
    origin.write("tree/.hidden", "x");
    rclone(&origin, &["purge", "dav:tree"]);
    assert!(!origin.root().join("tree").exists());
    let source = origin.outside().join("source");
    std::fs::create_dir_all(source.join(".git")).expect("made");
    std::fs::write(source.join(".git/config"), "x").expect("written");
    let from = source.display().to_string();
    rclone(&origin, &["sync", &from, "dav:synced"]);
    same_tree(&source, &origin.root().join("synced"));
}

/// The md5 of every packet that ffmpeg finds.
fn packets(input: &str, seek: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["120", "ffmpeg", "-v", "error"]).args(seek);
    run(command.args(["-i", input, "-map", "0", "-c", "copy", "-f", "framemd5", "-"]))
}

#[test]
fn a_film_plays_from_an_origin_through_a_cache() {
    if !have("ffmpeg") {
        return;
    }
    let origin = Origin::writable();
    let film = origin.outside().join("film.mkv");
    let mut make = Command::new("ffmpeg");
    make.args([
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=640x360:rate=25:duration=20",
    ]);
    make.args([
        "-f",
        "lavfi",
        "-i",
        "sine=duration=20",
        "-c:v",
        "mpeg4",
        "-b:v",
        "3M",
        "-c:a",
        "aac",
    ]);
    run(make.arg(&film));
    let bytes = std::fs::read(&film).expect("made");
    assert!(bytes.len() > 5 << 20, "{} bytes", bytes.len());
    // Put behind our back: its tag is weak until it has been read.
    std::fs::copy(&film, origin.root().join("film é.mkv")).expect("copied");
    let pond = Pond::start(&[("upstream", &format!("http://{}/", origin.address()))]);
    let url = format!("http://{}/film%20%C3%A9.mkv", pond.address());
    let local = film.display().to_string();
    assert_eq!(packets(&url, &[]), packets(&local, &[]));
    assert_eq!(packets(&url, &["-ss", "16"]), packets(&local, &["-ss", "16"]));
    // A change at the origin is seen at once.
    let seen = crate::support::get(pond.address(), "/film%20%C3%A9.mkv");
    assert_eq!(seen.expect(200).body, bytes);
    crate::support::eventually("its tag is strong", || {
        !origin.etag("/film%20%C3%A9.mkv").starts_with("W/")
    });
    let tag = origin.etag("/film%20%C3%A9.mkv");
    origin
        .put("/film%20%C3%A9.mkv", &[("If-Match", &tag)], b"another")
        .expect(204);
    let changed = crate::support::get(pond.address(), "/film%20%C3%A9.mkv");
    assert_eq!(changed.expect(200).text(), "another");
}

#[test]
fn a_cache_serves_a_stored_file_while_the_origin_is_down() {
    let mut origin = Origin::writable();
    origin.put("/a", &[], b"kept").expect(201);
    let pond = Pond::start(&[("upstream", &format!("http://{}/", origin.address()))]);
    assert_eq!(crate::support::get(pond.address(), "/a").expect(200).text(), "kept");
    let again = crate::support::get(pond.address(), "/a");
    assert!(
        again.story().is_some_and(|story| story.contains("fwd-status=304")),
        "{:?}",
        again.story()
    );
    origin.stop();
    assert_eq!(crate::support::get(pond.address(), "/a").expect(200).text(), "kept");
}

#[test]
fn a_write_through_a_cache_reaches_the_origin_and_the_next_reader() {
    let origin = Origin::writable();
    origin.put("/a", &[], b"one").expect(201);
    let pond = Pond::start(&[("upstream", &format!("http://{}/", origin.address()))]);
    let seen = crate::support::get(pond.address(), "/a");
    let tag = seen.expect(200).header("etag").expect("a tag").to_owned();
    assert_eq!(tag, origin.etag("/a"));
    let put = crate::support::origin::send(pond.address(), "PUT", "/a", &[("If-Match", &tag)], b"two");
    put.expect(204);
    assert_eq!(crate::support::get(pond.address(), "/a").expect(200).text(), "two");
    let late = crate::support::origin::send(pond.address(), "PUT", "/a", &[("If-Match", &tag)], b"six");
    late.expect(412);
}
