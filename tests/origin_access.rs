//! Rights are checked before anything of the directory is told; the access log; HTTPS.

use crate::support::origin::send;
use crate::support::{Origin, eventually};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn token(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millpond"))
        .arg("token")
        .args(arguments)
        .output()
        .expect("ran")
}

/// An origin whose tokens are those of the file.
fn guarded(file: &Path) -> Origin {
    Origin::with(&[("writable", "true"), ("tokens", &file.display().to_string())])
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("tokens.toml")
}

#[test]
fn scopes_and_prefixes_are_checked_before_preconditions() {
    let dir = TempDir::new().expect("a directory");
    let file_of_tokens = file(&dir);
    let file = &file_of_tokens;
    let writer = format!(
        "Bearer {}",
        crate::support::token(file, "laptop", &["--write", "--prefix", "/films/"])
    );
    let reader = format!("Bearer {}", crate::support::token(file, "tv", &[]));
    let origin = guarded(file);
    origin.write("films/a", "one");
    origin.write("b", "two");
    let as_ = |who: &str, method: &str, target: &str, more: &[(&str, &str)]| {
        origin.request(method, target, &[&[("Authorization", who)], more].concat())
    };
    let false_condition = [("If-Match", "\"x\"")];
    // Requests without a token.
    for (method, target) in [
        ("GET", "/b"),
        ("GET", "/none"),
        ("PROPFIND", "/"),
        ("DELETE", "/b"),
        ("MKCOL", "/c"),
    ] {
        let answer = origin.request(method, target, &false_condition);
        let challenges = answer
            .expect(401)
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"));
        assert_eq!(challenges.count(), 2, "{method} {target}");
    }
    origin.put("/films/a", &false_condition, b"x").expect(401);
    as_("Bearer wrong", "GET", "/b", &[]).expect(401);
    // The reader's token.
    as_(&reader, "GET", "/b", &[]).expect(200);
    as_(&reader, "GET", "/films/a", &[]).expect(200);
    for method in ["DELETE", "MKCOL", "PROPPATCH"] {
        as_(&reader, method, "/films/a", &false_condition).expect(403);
    }
    send(
        origin.address(),
        "PUT",
        "/films/a",
        &[("Authorization", &reader), false_condition[0]],
        b"x",
    )
    .expect(403);
    as_(&reader, "MOVE", "/b", &[("Destination", "/c")]).expect(403);
    as_(&reader, "COPY", "/b", &[("Destination", "/c")]).expect(403);
    // The writer's token, which is good beneath its prefix.
    as_(&writer, "GET", "/b", &[]).expect(403);
    as_(&writer, "GET", "/", &[]).expect(403);
    as_(&writer, "MOVE", "/films/a", &[("Destination", "/b")]).expect(403);
    as_(&writer, "COPY", "/films/a", &[("Destination", "/b")]).expect(403);
    as_(&writer, "DELETE", "/films/a", &false_condition).expect(412);
    as_(&writer, "MOVE", "/films/a", &[("Destination", "/films/b")]).expect(201);
    // As a password, for clients that know no better.
    let basic = [
        "Basic ".to_owned(),
        base64(&format!("me:{}", writer.trim_start_matches("Bearer "))),
    ]
    .concat();
    as_(&basic, "DELETE", "/films/b", &[]).expect(204);
    origin.get("/-/healthz").expect(200);
    origin.get("/-/metrics").expect(401);
    as_(&reader, "GET", "/-/metrics", &[]).expect(403);
    let looker = format!(
        "Bearer {}",
        crate::support::token(&file_of_tokens, "board", &["--look"])
    );
    eventually("the new token counts", || {
        as_(&looker, "GET", "/-/metrics", &[]).status == 200
    });
}

fn base64(text: &str) -> String {
    let mut child = Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_client_that_waits_is_refused_before_it_sends() {
    let dir = TempDir::new().expect("a directory");
    let file = file(&dir);
    crate::support::token(&file, "tv", &[]);
    let origin = guarded(&file);
    let mut client = crate::support::Client::connect(origin.address());
    client.ask(
        "PUT",
        "/a",
        &[("Content-Length", "100000000"), ("Expect", "100-continue")],
    );
    client.read_head();
    assert_eq!(client.status, 401);
}

#[test]
fn tokens_come_and_go_while_the_server_runs() {
    let dir = TempDir::new().expect("a directory");
    let file = file(&dir);
    let first = format!("Bearer {}", crate::support::token(&file, "first", &[]));
    let origin = guarded(&file);
    origin.write("a", "x");
    let status = |who: &str| origin.request("GET", "/a", &[("Authorization", who)]).status;
    assert_eq!(status(&first), 200);
    let second = format!("Bearer {}", crate::support::token(&file, "second", &[]));
    eventually("the new token counts", || status(&second) == 200);
    let path = file.display().to_string();
    assert!(token(&["rm", &path, "first"]).status.success());
    eventually("the old one does not", || status(&first) == 401);
    // A malformed file leaves the tokens as they were.
    let good = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, "[second").expect("written");
    std::fs::write(origin.outside().join("anything"), "").expect("written");
    for _ in 0..50 {
        assert_eq!(status(&second), 200);
    }
    let listed = token(&["ls", &path]);
    assert_eq!(listed.status.code(), Some(2));
    std::fs::write(&file, format!("{good}\n[anonymous]\nscopes = [\"read\"]\n")).expect("written");
    eventually("all may read", || origin.get("/a").status == 200);
    origin.put("/a", &[], b"x").expect(401);
    let listed = String::from_utf8(token(&["ls", &path]).stdout).expect("text");
    assert_eq!(listed, "second\tplay\t/\nanonymous\tplay\t/\n");
}

#[test]
fn the_token_command_names_the_mistake() {
    let dir = TempDir::new().expect("a directory");
    let file = file(&dir);
    let path = file.display().to_string();
    let secret = crate::support::token(&file, "tv", &["--write"]);
    let text = std::fs::read_to_string(&file).expect("read");
    assert!(!text.contains(&secret) && text.contains("sha256"));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&file).expect("inspected").permissions().mode() & 0o777,
        0o600
    );
    for (arguments, part) in [
        (&["add", &path, "tv"][..], "already"),
        (&["add", &path, "a b"], "letters"),
        (&["rm", &path, "none"], "no token none"),
        (&["ls", "/nonexistent/file"], "could not read"),
    ] {
        let output = token(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(part), "{said}");
    }
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("made");
    let output = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args([
            "origin",
            "--tokens",
            "/nonexistent/file",
            "--listen",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(dir.path().join("data"))
        .arg(&root)
        .output()
        .expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("tokens"), "{said}");
}

#[test]
fn without_tokens_cross_site_changes_are_refused() {
    let origin = Origin::writable();
    origin.write("a", "x");
    let host = origin.address().to_string();
    origin
        .put("/a", &[("Origin", "https://evil.example")], b"y")
        .expect(403);
    origin
        .request("DELETE", "/a", &[("Host", "evil.example"), ("If-Match", "\"x\"")])
        .expect(421);
    assert_eq!(origin.get("/a").text(), "x");
    origin
        .put("/a", &[("Origin", &format!("http://{host}"))], b"y")
        .expect(204);
    // An uploaded file that could run as a page does so in a sandbox.
    origin.put("/page.html", &[], b"<script>").expect(201);
    assert_eq!(
        origin.get("/page.html").header("content-security-policy"),
        Some("sandbox")
    );
}

#[test]
fn the_access_log_has_a_line_per_request_and_no_secrets() {
    let logs = TempDir::new().expect("a directory");
    let log = logs.path().join("access.log");
    let dir = TempDir::new().expect("a directory");
    let file = file(&dir);
    let secret = crate::support::token(&file, "laptop", &["--write"]);
    let who = format!("Bearer {secret}");
    let mut origin = Origin::with(&[
        ("writable", "true"),
        ("tokens", &file.display().to_string()),
        ("access_log", &log.display().to_string()),
    ]);
    let film = crate::support::Film::new(40 << 20);
    let bytes = film.bytes(0, film.len);
    let auth = ("Authorization", who.as_str());
    origin.put("/film.mkv", &[auth], &bytes).expect(201);
    origin
        .request(
            "GET",
            "/film.mkv",
            &[auth, ("Range", "bytes=0-99"), ("User-Agent", "mpv\u{9}\"x\"")],
        )
        .expect(206);
    origin.get("/film.mkv?token=abc").expect(401);
    origin.request("HEAD", "/film.mkv", &[auth]).expect(200);
    let mut client = crate::support::Client::open(origin.address(), "GET", "/film.mkv", &[auth]);
    client.read(1000);
    drop(client);
    origin
        .put("/none/film.mkv", &[auth, ("Expect", "100-continue")], b"")
        .expect(409);
    // Moved away, as logrotate does: what comes goes to a new file.
    let moved = logs.path().join("access.log.1");
    let lines = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    eventually("all is written", || lines(&log) == 6);
    std::fs::rename(&log, &moved).expect("moved");
    eventually("a new file", || {
        origin.get("/none");
        lines(&log) > 0
    });
    origin.stop();
    let text = std::fs::read_to_string(&moved).expect("read");
    assert!(!text.contains(&secret) && !text.contains("abc"), "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of = |method: &str, status: u16| {
        let mut found = lines
            .iter()
            .filter(|line| line["method"] == method && line["status"] == status);
        found.next().unwrap_or_else(|| panic!("{method} {status}: {text}"))
    };
    let part = of("GET", 206);
    assert_eq!(
        (&part["bytes"], &part["whole"], &part["token"]),
        (&100.into(), &true.into(), &"laptop".into())
    );
    assert_eq!(
        (&part["client"], &part["range"]),
        (&"127.0.0.1".into(), &"bytes=0-99".into())
    );
    assert!(part["seconds"].as_f64().is_some() && part["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    let refused = of("GET", 401);
    assert_eq!(
        (&refused["token"], &refused["target"]),
        (&serde_json::Value::Null, &"/film.mkv?token=…".into())
    );
    let left = of("GET", 200);
    assert!(left["whole"] == false && left["bytes"].as_u64().is_some_and(|bytes| bytes < film.len));
    let head = of("HEAD", 200);
    assert_eq!((&head["bytes"], &head["whole"]), (&0.into(), &true.into()));
    of("PUT", 201);
    of("PUT", 409);
}

#[test]
fn https_is_served_by_certificate_files() {
    let dir = TempDir::new().expect("a directory");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let origin = Origin::with(&[
        ("writable", "true"),
        ("tls_certificate", &certificate.display().to_string()),
        ("tls_key", &key.display().to_string()),
    ]);
    assert!(origin.url().starts_with("https://"));
    let url = format!("https://localhost:{}/", origin.address().port());
    let film = crate::support::Film::new(3_000_000);
    origin.write("film.mkv", film.bytes(0, film.len));
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "60", "--cacert"])
            .arg(&certificate)
            .args(arguments)
            .output()
            .expect("ran");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    film.check(0, &curl(&[&format!("{url}film.mkv")]));
    film.check(1000, &curl(&["-r", "1000-1999", &format!("{url}film.mkv")]));
    let put = curl(&[
        "-T",
        &key.display().to_string(),
        "-w",
        "%{http_code}",
        &format!("{url}key"),
    ]);
    assert_eq!(String::from_utf8_lossy(&put), "201");
    // And as the upstream of a cache.
    let pond = crate::support::Pond::start(&[("upstream", &url), ("upstream_ca", &certificate.display().to_string())]);
    let cached = crate::support::get(pond.address(), "/film.mkv");
    film.check(0, &cached.expect(200).body);
}
