//! Mirrors of real servers; `scripts/mirrors` tells what it ran.

use crate::support::{Origin, Pond, Upstream, eventually, passes, request, rule};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

#[test]
fn trees_of_real_servers_are_mirrored_whole_and_read_when_they_have_gone() {
    passes("mirrors");
}

#[test]
fn a_file_that_has_changed_is_served_as_it_was_until_the_new_one_is_whole() {
    // 1: as it was. 2: changed, cut in the middle, and silent from then on. 3: changed, and whole.
    let state = Arc::new(AtomicU8::new(1));
    let (told, cuts) = (Arc::clone(&state), AtomicU8::new(0));
    let upstream = Upstream::scripted(move |seen, conn| {
        let state = told.load(Ordering::Relaxed);
        let version = if state == 1 { "old" } else { "new" };
        let body = version.repeat(100_000);
        if seen.target == "/" {
            let size = body.len();
            let minute = if state == 1 { 26 } else { 27 };
            let text = format!(
                r#"[{{"name":"f","type":"file","mtime":"Sun, 13 Sep 2020 12:{minute}:40 GMT","size":{size}}}]"#
            );
            let head = [
                ("Content-Type", "application/json".to_owned()),
                ("Content-Length", text.len().to_string()),
            ];
            conn.head(200, &head);
            conn.raw(text.as_bytes());
            return;
        }
        let tag = format!("\"{version}\"");
        if seen.header("if-none-match") == Some(&tag) {
            return conn.head(304, &[("ETag", tag)]);
        }
        if state == 2 && cuts.fetch_add(1, Ordering::Relaxed) > 0 {
            // No byte more comes of it.
            return conn.close();
        }
        conn.head(200, &[("ETag", tag), ("Content-Length", body.len().to_string())]);
        let sent = if state == 2 { body.len() / 2 } else { body.len() };
        conn.raw(&body.as_bytes()[..sent]);
        if state == 2 {
            conn.close();
        }
    });
    let url = format!("m={}", upstream.url());
    let mut pond = Pond::start(&[("upstream", &url), ("mirror", "m/"), ("mirror_when", "access")]);
    let walk = |pond: &Pond| {
        let text = rule(pond.address(), "POST", "/-/api/v1/mirrors/walk?mirror=m/", &[]).text();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        last["walked"].clone()
    };
    let stored = |pond: &Pond| {
        let fields = [("Cache-Control", "only-if-cached, max-stale")];
        let answer = request(pond.address(), "GET", "/m/f", &fields);
        answer.expect(200);
        answer.text()
    };
    assert_eq!(walk(&pond)["fetched"], 1);
    state.store(2, Ordering::Relaxed);
    let report = walk(&pond);
    assert!(report["complete"] == false && report["fetched"] == 0, "{report}");
    assert_eq!(stored(&pond), "old".repeat(100_000));
    pond.restart();
    assert_eq!(stored(&pond), "old".repeat(100_000));
    state.store(3, Ordering::Relaxed);
    let report = walk(&pond);
    assert!(report["complete"] == true && report["fetched"] == 1, "{report}");
    assert_eq!(stored(&pond), "new".repeat(100_000));
    pond.restart();
    assert_eq!(stored(&pond), "new".repeat(100_000));
}

#[test]
fn a_mirror_with_an_interval_is_walked_at_the_start_and_again() {
    let origin = Origin::writable();
    origin.write("a.txt", "first");
    let url = format!("m={}", origin.url());
    let mut pond = Pond::start(&[("upstream", &url), ("mirror", "m/"), ("mirror_when", "10s")]);
    let walked = |pond: &Pond, walk: u64| {
        let text = rule(pond.address(), "GET", "/-/api/v1/mirrors", &[]).text();
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let last = &all["mirrors"][0]["last"];
        last["complete"] == true && last["walk"].as_u64() >= Some(walk)
    };
    eventually("the first walk", || walked(&pond, 1));
    pond.restart();
    // Walked again when its interval is over, a tenth more or less, since its last walk began.
    eventually("the second walk", || walked(&pond, 2));
}

#[test]
fn a_mirror_whose_upstream_starts_later_is_walked_when_it_is_there() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let url = format!("m=http://{address}/");
    let pond = Pond::start(&[("upstream", &url), ("mirror", "m/"), ("mirror_when", "10s")]);
    let last = |pond: &Pond| {
        let text = rule(pond.address(), "GET", "/-/api/v1/mirrors", &[]).text();
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        all["mirrors"][0]["last"].clone()
    };
    eventually("a walk that came to nothing", || last(&pond)["complete"] == false);
    let origin = Origin::with(&[("listen", &address)]);
    origin.write("a.txt", "there");
    eventually("a walk that came to the end", || {
        // Asked for, so that the upstream is probed each second.
        request(pond.address(), "GET", "/m/other", &[]);
        last(&pond)["complete"] == true
    });
}

#[test]
fn the_operators_credential_reads_for_clients_and_changes_nothing_for_them() {
    let upstream = Upstream::scripted(|_, conn| conn.head(200, &[("Content-Length", "0".to_owned())]));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("credential");
    std::fs::write(&file, "reader:secret").expect("written");
    let (url, file) = (upstream.url(), file.display().to_string());
    let pond = Pond::start(&[("upstreams.m.url", &url), ("upstreams.m.authorization_file", &file)]);
    for method in ["GET", "PROPFIND", "PUT", "POST", "DELETE", "MKCOL", "PATCH", "MOVE"] {
        let target = format!("/m/{method}");
        request(pond.address(), method, &target, &[("Content-Length", "0")]);
        let own = [("Content-Length", "0"), ("Authorization", "Bearer mine")];
        request(pond.address(), method, &format!("{target}-mine"), &own);
    }
    for seen in upstream.requests() {
        let shown = seen.header("authorization");
        let wanted = match seen.method.as_str() {
            _ if seen.target.ends_with("-mine") => Some("Bearer mine"),
            "GET" | "PROPFIND" => Some("Basic cmVhZGVyOnNlY3JldA=="),
            _ => None,
        };
        assert_eq!(shown, wanted, "{} {}", seen.method, seen.target);
    }
    assert_eq!(upstream.requests().len(), 16, "all were passed on");
}
