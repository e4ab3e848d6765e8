//! One server for all that is served: an upstream, a directory that may be changed, any URL; by every listener.

use crate::support::origin::send;
use crate::support::{Film, Pond, Upstream, request, token};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A certificate for localhost, with its key.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new(dir: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
        let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        Self { certificate, key }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The body and the status that curl gets.
fn curl(arguments: &[&str]) -> (Vec<u8>, String) {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "60", "-w", "%{stderr}%{http_code} %{http_version}"])
        .args(arguments)
        .output()
        .expect("curl is installed");
    (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_single_process_serves_upstreams_directories_and_any_url_by_tls_and_tokens() {
    let dir = TempDir::new().expect("a directory");
    let (film, other) = (Film::new(3_000_000), Film::new(500_000));
    let (upstream, elsewhere) = (Upstream::of(&film), Upstream::of(&other));
    let Certificate { certificate, key } = Certificate::new(dir.path());
    let tokens = dir.path().join("tokens.toml");
    let writer = format!("Authorization: Bearer {}", token(&tokens, "laptop", &["--write"]));
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("made");
    let pond = Pond::start(&[
        ("upstream", &format!("films={}", upstream.url())),
        ("directory", &format!("mine={},writable", root.display())),
        ("tls_certificate", &text(&certificate)),
        ("tls_key", &text(&key)),
        ("tokens", &text(&tokens)),
        ("allow_private", "true"),
    ]);
    let url = format!("https://localhost:{}", pond.address().port());
    let any = format!("{url}/{}film.mkv", elsewhere.url().replacen("://", "/", 1));
    for version in ["--http1.1", "--http2"] {
        let told = if version == "--http2" { "2" } else { "1.1" };
        let curl = |more: &[&str]| {
            let common = [version, "--cacert", certificate.to_str().expect("text")];
            curl(&[&common[..], more].concat())
        };
        // Without a token there is nothing but the probes.
        for path in ["/films/film.mkv", "/mine/", "/-/metrics", "/-/api/v1/objects"] {
            assert_eq!(curl(&[&format!("{url}{path}")]).1, format!("401 {told}"), "{path}");
        }
        assert_eq!(curl(&[&any]).1, format!("401 {told}"));
        assert_eq!(curl(&[&format!("{url}/-/readyz")]).1, format!("200 {told}"));

        let with = |more: &[&str]| curl(&[&["-H", &writer], more].concat());
        film.check(0, &with(&[&format!("{url}/films/film.mkv")]).0);
        let (part, status) = with(&["-r", "1000000-1999999", &format!("{url}/films/film.mkv")]);
        film.check(1_000_000, &part);
        assert_eq!(status, format!("206 {told}"));
        other.check(0, &with(&[&any]).0);
        // A change of the directory, read back, listed, moved and removed.
        let put = with(&["-T", certificate.to_str().expect("text"), &format!("{url}/mine/a.pem")]);
        assert_eq!(put.1, format!("201 {told}"));
        assert_eq!(
            with(&[&format!("{url}/mine/a.pem")]).0,
            std::fs::read(&certificate).expect("read")
        );
        let (listing, _) = with(&["-X", "PROPFIND", "-H", "Depth: 1", &format!("{url}/mine/")]);
        let listing = String::from_utf8_lossy(&listing).into_owned();
        assert!(
            listing.contains(">/mine/a.pem<") && listing.contains(">/mine/<"),
            "{listing}"
        );
        let destination = format!("Destination: {url}/mine/b.pem");
        let moved = with(&["-X", "MOVE", "-H", &destination, &format!("{url}/mine/a.pem")]);
        assert_eq!(moved.1, format!("201 {told}"));
        assert!(root.join("b.pem").exists() && !root.join("a.pem").exists());
        let elsewhere = format!("Destination: {url}/films/b.pem");
        assert_eq!(
            with(&["-X", "MOVE", "-H", &elsewhere, &format!("{url}/mine/b.pem")]).1,
            format!("502 {told}")
        );
        assert_eq!(
            with(&["-X", "DELETE", &format!("{url}/mine/b.pem")]).1,
            format!("204 {told}")
        );
        // A mount's name without a slash leads to its root.
        assert_eq!(with(&[&format!("{url}/mine")]).1, format!("308 {told}"));
        assert_eq!(with(&["-L", &format!("{url}/mine")]).1, format!("200 {told}"));
    }
    assert_eq!(upstream.requests().len(), 1, "the film was fetched once");
}

#[test]
fn a_named_mount_is_seen_only_beneath_its_name() {
    let dir = TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("a.txt"), "a").expect("written");
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let data = TempDir::new().expect("a directory");
    let pond = Pond::start(&[
        ("upstream", &upstream.url()),
        ("directory", &format!("mine={}", dir.path().display())),
        ("data", &text(data.path())),
    ]);
    let get = |target: &str| request(pond.address(), "GET", target, &[]);
    assert_eq!(get("/mine/a.txt").expect(200).text(), "a");
    film.check(0, &get("/film.mkv").expect(200).body);
    // A name that only begins like the mount's is the upstream's.
    film.check(0, &get("/mine.mkv").expect(200).body);
    assert!(get("/mine/").expect(200).text().contains("a.txt"));
    get("/mine/film.mkv").expect(404);
    send(pond.address(), "PUT", "/mine/b.txt", &[], b"b").expect(405);
    assert!(pond.object()["url"].as_str().is_some_and(|url| !url.contains("/mine/")));
}

#[test]
fn a_directory_without_a_name_leaves_names_and_any_url_to_the_cache() {
    let dir = TempDir::new().expect("a directory");
    std::fs::create_dir(dir.path().join("films")).expect("made");
    std::fs::write(dir.path().join("films/film.mkv"), "mine").expect("written");
    std::fs::write(dir.path().join("a.txt"), "a").expect("written");
    let (film, data) = (Film::new(1000), TempDir::new().expect("a directory"));
    let upstream = Upstream::of(&film);
    let pond = Pond::start(&[
        ("upstream", &format!("films={}", upstream.url())),
        ("directory", &text(dir.path())),
        ("data", &text(data.path())),
        ("allow_private", "true"),
    ]);
    let get = |target: &str| request(pond.address(), "GET", target, &[]);
    film.check(0, &get("/films/film.mkv").expect(200).body);
    assert_eq!(get("/a.txt").expect(200).text(), "a");
    let any = format!("/{}other.mkv", upstream.url().replacen("://", "/", 1));
    film.check(0, &get(&any).expect(200).body);
}

#[test]
fn a_token_of_this_server_reaches_no_upstream_and_a_hit_stays_a_hit() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(100_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.target.as_str() {
        "/moved.mkv" => conn.head(
            302,
            &[("Location", "/film.mkv".to_owned()), ("Content-Length", "0".to_owned())],
        ),
        _ => conn.serve(&served, seen),
    });
    let tokens = dir.path().join("tokens.toml");
    let secret = token(&tokens, "tv", &[]);
    let pond = Pond::start(&[
        ("upstream", &format!("films={}", upstream.url())),
        ("tokens", &text(&tokens)),
        ("allow_private", "true"),
    ]);
    let any = format!("/{}any.mkv", upstream.url().replacen("://", "/", 1));
    let bearer = format!("Bearer {secret}");
    let as_basic = [("Authorization", "Basic dXNlcjpvdGhlcg==")];
    let with_token = [
        ("Authorization", bearer.as_str()),
        ("Cookie", "millpond-session=abc; theirs=1"),
    ];
    let get = |target: &str, headers: &[(&str, &str)]| request(pond.address(), "GET", target, headers);
    for target in ["/films/film.mkv", any.as_str(), "/films/moved.mkv"] {
        film.check(0, &get(target, &with_token).expect(200).body);
    }
    // Methods that are passed on are stripped in the same way.
    send(pond.address(), "POST", "/films/form", &with_token, b"x").expect(200);
    for seen in upstream.requests() {
        let told = format!("{seen:?}");
        assert!(!told.contains(&secret) && !told.contains("millpond-session"), "{told}");
        assert_eq!(seen.header("authorization"), None);
    }
    assert!(
        upstream
            .requests()
            .iter()
            .any(|seen| seen.header("cookie") == Some("theirs=1"))
    );
    let asked = upstream.requests().len();
    // The upstream's own cookie: another client would be asked about, once.
    let theirs = ("Cookie", "theirs=1");
    assert!(
        get("/films/film.mkv", &[("Millpond-Token", &secret), theirs])
            .expect(200)
            .is_hit()
    );
    assert!(
        get("/films/film.mkv", &[("Authorization", &bearer), theirs])
            .expect(200)
            .is_hit()
    );
    assert_eq!(upstream.requests().len(), asked, "a hit asks nobody");
    // The upstream's own credentials pass where the token comes in its own field.
    let both = [as_basic[0], ("Millpond-Token", secret.as_str())];
    get("/films/theirs.mkv", &both).expect(200);
    let last = upstream.requests().pop().expect("asked");
    assert_eq!(last.header("authorization"), Some(as_basic[0].1));
    assert_eq!(last.header("millpond-token"), None);
    // A client that shows its token in both fields shows it to no upstream.
    let twice = [("Authorization", bearer.as_str()), ("Millpond-Token", secret.as_str())];
    get("/films/twice.mkv", &twice).expect(200);
    let last = upstream.requests().pop().expect("asked");
    assert_eq!(
        (last.target.as_str(), last.header("authorization")),
        ("/twice.mkv", None)
    );
    // Without a token of ours they are nobody's here.
    get("/films/theirs.mkv", &as_basic).expect(401);
    get("/films/theirs.mkv", &[("Millpond-Token", "millpond_x")]).expect(401);
}

#[test]
fn a_scope_reaches_upstreams_by_the_path_of_their_mount() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let tokens = dir.path().join("tokens.toml");
    let bearer = format!("Bearer {}", token(&tokens, "tv", &["--prefix", "/films/kids/"]));
    let pond = Pond::start(&[
        ("upstream", &format!("films={}", upstream.url())),
        ("tokens", &text(&tokens)),
    ]);
    let get = |target: &str| request(pond.address(), "GET", target, &[("Authorization", bearer.as_str())]);
    get("/films/kids/film.mkv").expect(200);
    for target in [
        "/films/film.mkv",
        "/films/kids/../film.mkv",
        "/films/kids/%2e%2e/film.mkv",
        "/%66ilms/kids/film.mkv",
        "/-/api/v1/objects",
        "/-/metrics",
    ] {
        get(target).expect(403);
    }
}

#[test]
fn several_addresses_and_a_socket_in_the_file_system_serve_the_same() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(100_000);
    let upstream = Upstream::of(&film);
    let socket = dir.path().join("pond.sock");
    let listen = format!("127.0.0.1:0 [::1]:0 unix:{}", socket.display());
    let mut pond = Pond::start(&[("upstream", &upstream.url()), ("listen", &listen)]);
    film.check(0, &request(pond.address(), "GET", "/film.mkv", &[]).expect(200).body);
    let ports = pond.addresses();
    assert_eq!(ports.len(), 2);
    for address in ports {
        let answer = request(address, "GET", "/film.mkv", &[]);
        assert!(answer.expect(200).is_hit(), "{address}");
    }
    let by_socket = |path: &str| {
        let socket = text(&socket);
        curl(&["--unix-socket", &socket, &format!("http://pond{path}")])
    };
    let (body, status) = by_socket("/film.mkv");
    film.check(0, &body);
    assert_eq!(status, "200 1.1");
    // A socket may stand behind a proxy: any URL is off, and nothing is changed through it.
    assert_eq!(by_socket("/http/127.0.0.1:1/x").1, "200 1.1", "a path of the upstream");
    let purge = curl(&[
        "-X",
        "DELETE",
        "--unix-socket",
        &text(&socket),
        "http://localhost/-/api/v1/objects?prefix=http",
    ]);
    assert_eq!(purge.1, "403 1.1");
    pond.stop();
    assert!(!socket.exists(), "the socket's name goes with the server");
}

#[test]
fn a_refused_upload_is_refused_before_its_body_beneath_a_name() {
    let (dir, data) = (
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
    );
    let pond = Pond::start(&[
        ("directory", &format!("mine={},writable", dir.path().display())),
        ("data", &text(data.path())),
    ]);
    let expect = [("Expect", "100-continue")];
    send(pond.address(), "PUT", "/mine/none/a.txt", &expect, b"").expect(409);
    send(pond.address(), "PUT", "/mine/a.txt", &expect, b"").expect(201);
}

#[test]
fn an_upload_is_resumed_at_the_directory_that_has_it() {
    let (one, two, data) = (
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
    );
    let directories = format!(
        "one={},writable two={},writable",
        one.path().display(),
        two.path().display()
    );
    let pond = Pond::start(&[("directory", &directories), ("data", &text(data.path()))]);
    let begun = send(
        pond.address(),
        "PUT",
        "/two/film.mkv",
        &[("Upload-Complete", "?0")],
        b"ab",
    );
    let place = begun.expect(201).header("location").expect("a place").to_owned();
    let more = [
        ("Upload-Complete", "?1"),
        ("Upload-Offset", "2"),
        ("Content-Type", "application/partial-upload"),
    ];
    send(pond.address(), "PATCH", &place, &more, b"cd").expect(201);
    assert_eq!(std::fs::read(two.path().join("film.mkv")).expect("there"), b"abcd");
    request(pond.address(), "HEAD", "/-/uploads/none", &[]).expect(404);
}

#[test]
fn a_raw_hash_is_refused_in_the_path_of_an_upstream() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    let answer = request(pond.address(), "GET", "/film#1.mkv", &[]);
    assert!(answer.expect(400).text().contains("%23"));
    assert!(upstream.requests().is_empty());
}

/// A server with HTTPS before the upstream, and the arguments by which curl trusts it.
fn secure(dir: &Path, upstream: &Upstream, more: &[(&str, &str)]) -> (Pond, [String; 2]) {
    let Certificate { certificate, key } = Certificate::new(dir);
    let (url, certificate, key) = (upstream.url(), text(&certificate), text(&key));
    let own = [
        ("upstream", url.as_str()),
        ("tls_certificate", certificate.as_str()),
        ("tls_key", key.as_str()),
    ];
    let pond = Pond::start(&[&own[..], more].concat());
    (pond, ["--cacert".to_owned(), certificate])
}

#[test]
fn a_body_that_breaks_is_a_reset_stream_over_http2() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(100_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.number == 0 {
            conn.head(200, &[("Content-Length", served.len.to_string())]);
            conn.body(&served, 0, 1000);
        }
        conn.close();
    });
    let (pond, trust) = secure(dir.path(), &upstream, &[("hold_limit", "100ms")]);
    let url = format!("https://localhost:{}/film.mkv", pond.address().port());
    let (body, told) = curl(&["--http2", &trust[0], &trust[1], &url]);
    assert!(body.len() < 100_000, "{}", body.len());
    assert!(told.contains("HTTP/2 stream"), "{told}");
}

#[test]
fn many_streams_of_one_connection_are_answered_whole() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(1 << 20);
    let upstream = Upstream::of(&film);
    let (pond, trust) = secure(dir.path(), &upstream, &[]);
    let url = format!("https://localhost:{}/film.mkv", pond.address().port());
    // More streams than one connection may have at once: the rest waits its turn.
    let mut arguments = vec!["--http2", "--parallel", "--parallel-immediate", &trust[0], &trust[1]];
    let places: Vec<String> = (0..150)
        .map(|number| text(&dir.path().join(format!("part{number}"))))
        .collect();
    for place in &places {
        arguments.extend([url.as_str(), "-o", place.as_str()]);
    }
    let (_, told) = curl(&arguments);
    for place in &places {
        let bytes = std::fs::read(place).unwrap_or_else(|error| panic!("{place}: {error}: {told}"));
        film.check(0, &bytes);
        assert_eq!(bytes.len() as u64, film.len);
    }
}

#[test]
fn a_client_that_resets_its_stream_takes_its_request_along() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(1 << 20);
    let valve = crate::support::Valve::new(1000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let settings = [("after_last_reader", "stop")];
    let (pond, trust) = secure(dir.path(), &upstream, &settings);
    let url = format!("https://localhost:{}", pond.address().port());
    // curl gives up by its time-out, while it waits for bytes that do not come.
    let film_url = format!("{url}/film.mkv");
    let (_, told) = curl(&["--http2", "--max-time", "1", &trust[0], &trust[1], &film_url]);
    assert!(told.contains("timed out"), "{told}");
    let fills = format!("{url}/-/api/v1/fills");
    crate::support::eventually("the fill has no reader", || {
        let (body, _) = curl(&["--http2", &trust[0], &trust[1], &fills]);
        let told: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let readers = |fill: &serde_json::Value| fill["readers"].as_u64().unwrap_or_default();
        told["fills"]
            .as_array()
            .expect("fills")
            .iter()
            .all(|fill| readers(fill) == 0)
    });
    valve.allow(u64::MAX / 2);
}

#[test]
fn an_escaped_spelling_of_a_mount_is_no_path_of_the_directory_at_the_root() {
    let (all, films, data) = (
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
    );
    std::fs::create_dir(all.path().join("films")).expect("made");
    std::fs::write(all.path().join("films/hidden.txt"), "of the other mount's name").expect("written");
    std::fs::write(all.path().join("a.txt"), "a").expect("written");
    let directories = format!(
        "{},writable films={},writable",
        all.path().display(),
        films.path().display()
    );
    let pond = Pond::start(&[("directory", &directories), ("data", &text(data.path()))]);
    let ask = |method: &str, target: &str, headers: &[(&str, &str)]| request(pond.address(), method, target, headers);
    ask("GET", "/%66ilms/hidden.txt", &[]).expect(404);
    ask("DELETE", "/%66ilms/hidden.txt", &[]).expect(404);
    send(pond.address(), "PUT", "/%66ilms/new.txt", &[], b"x").expect(404);
    for destination in ["/films/a.txt", "/%66ilms/a.txt"] {
        ask("MOVE", "/a.txt", &[("Destination", destination)]).expect(502);
    }
    assert_eq!(ask("GET", "/a.txt", &[]).expect(200).text(), "a");
    send(pond.address(), "PUT", "/films/new.txt", &[], b"x").expect(201);
    assert!(films.path().join("new.txt").exists() && !all.path().join("films/new.txt").exists());
}

#[test]
fn a_client_of_a_directory_that_has_closed_its_side_gets_its_listing() {
    use std::io::{Read, Write};
    let (dir, data) = (
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
    );
    for number in 0..200 {
        std::fs::write(dir.path().join(format!("film{number}.mkv")), "a film").expect("written");
    }
    let pond = Pond::start(&[("directory", &text(dir.path())), ("data", &text(data.path()))]);
    let mut client = std::net::TcpStream::connect(pond.address()).expect("connected");
    client
        .write_all(b"GET /?as=json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    client.shutdown(std::net::Shutdown::Write).expect("closed");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("answered to the end");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("film199.mkv"),
        "{answer}"
    );
}

#[test]
fn changes_through_the_api_need_a_token_where_there_are_tokens() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let tokens = dir.path().join("tokens.toml");
    let reader = format!("Bearer {}", token(&tokens, "tv", &[]));
    let writer = format!("Bearer {}", token(&tokens, "laptop", &["--write"]));
    let looker = format!("Bearer {}", token(&tokens, "board", &["--look"]));
    let ruler = format!("Bearer {}", token(&tokens, "operator", &["--rule"]));
    let pond = Pond::start(&[("upstream", &upstream.url()), ("tokens", &text(&tokens))]);
    let ask = |method: &str, target: &str, who: &str| {
        let headers = [("Authorization", who)];
        request(
            pond.address(),
            method,
            target,
            if who.is_empty() { &[] } else { &headers },
        )
    };
    ask("GET", "/film.mkv", &reader).expect(200);
    let purge = "/-/api/v1/objects?prefix=http";
    ask("DELETE", purge, "").expect(401);
    ask("DELETE", purge, &reader).expect(403);
    ask("GET", "/-/api/v1/streams", &reader).expect(403);
    ask("GET", "/-/api/v1/stats", &reader).expect(403);
    ask("GET", "/-/healthz", "").expect(200);
    ask("DELETE", purge, &writer).expect(403);
    ask("GET", "/-/api/v1/stats", &looker).expect(200);
    ask("DELETE", purge, &looker).expect(403);
    let purged = ask("DELETE", purge, &ruler);
    assert_eq!(purged.expect(200).json()["removed"], 1);
}

#[test]
fn requests_of_two_tokens_with_one_idempotency_key_are_two() {
    let dir = TempDir::new().expect("a directory");
    let upstream = Upstream::scripted(|seen, conn| {
        let body = format!("answer {}", seen.number);
        conn.head(200, &[("Content-Length", body.len().to_string())]);
        conn.raw(body.as_bytes());
    });
    let tokens = dir.path().join("tokens.toml");
    let (one, two) = (token(&tokens, "one", &[]), token(&tokens, "two", &[]));
    let pond = Pond::start(&[
        ("upstream", &upstream.url()),
        ("tokens", &text(&tokens)),
        ("detach", "/llm/*"),
    ]);
    let post = |secret: &str| {
        let headers = [("Millpond-Token", secret), ("Idempotency-Key", "1")];
        send(pond.address(), "POST", "/llm/chat", &headers, b"x")
            .expect(200)
            .text()
    };
    let first = post(&one);
    assert_eq!(post(&one), first, "sent once, answered twice");
    assert_ne!(post(&two), first, "another caller's request is another");
    assert_eq!(upstream.requests().len(), 2);
    // What an upstream knows its client by tells one caller's requests apart as well.
    let with_key = |key: &str| {
        let headers = [
            ("Millpond-Token", one.as_str()),
            ("Idempotency-Key", "1"),
            ("X-Api-Key", key),
        ];
        send(pond.address(), "POST", "/llm/chat", &headers, b"x")
            .expect(200)
            .text()
    };
    let alices = with_key("alice");
    assert_eq!(with_key("alice"), alices);
    assert!(with_key("mallory") != alices && alices != first);
}
