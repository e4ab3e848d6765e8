//! A page of another site in a real browser: it reads nothing of the server, and changes nothing.
//!
//! Chromium is told that the page's name is this machine's, as it would be after DNS rebinding. The page tries what pages
//! can: requests by script, forms, pictures, WebSockets.

use crate::support::{Film, Pond, Upstream, get, is_missing, rule};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use tempfile::TempDir;

/// The page; `POND` stands for the server's port. What it could read stands in its body at the end.
const PAGE: &str = r#"<!DOCTYPE html><title>attack</title><body><iframe name=f></iframe><script>
const pond = "http://127.0.0.1:POND", own = "http://evil.example:POND", seen = [];
const note = (what, text) => seen.push(what + ": " + String(text).slice(0, 200));
async function read(what, url, options) {
    try { const r = await fetch(url, options); note(what, r.type + " " + r.status + " " + await r.text()); }
    catch (error) { note(what, "blocked"); }
}
function form(action) {
    const form = document.createElement("form");
    form.method = "POST"; form.enctype = "text/plain"; form.action = action; form.target = "f";
    const field = document.createElement("input"); field.name = '{"code":"'; field.value = '"}'; form.append(field);
    document.body.append(form); form.submit();
}
function picture(url) { return new Promise(done => { const i = new Image(); i.onload = i.onerror = done; i.src = url; }); }
function socket(url) {
    return new Promise(done => {
        const s = new WebSocket(url);
        s.onopen = () => { note("socket", "open"); done(); };
        s.onerror = () => { note("socket", "refused"); done(); };
    });
}
(async () => {
    await read("list", pond + "/-/api/v1/objects");
    await read("list opaque", pond + "/-/api/v1/objects", {mode: "no-cors", credentials: "include"});
    await read("rebound list", own + "/-/api/v1/objects", {mode: "no-cors"});
    await read("rebound film", own + "/film");
    await read("metrics", pond + "/-/metrics");
    await read("purge", pond + "/-/api/v1/objects?prefix=http", {method: "DELETE"});
    await read("purge opaque", pond + "/-/api/v1/objects?prefix=http", {method: "POST", mode: "no-cors"});
    await read("put", pond + "/mine/owned", {method: "PUT", body: "owned"});
    await read("code", pond + "/-/api/v1/codes", {method: "POST", mode: "no-cors"});
    form(pond + "/-/api/v1/verify");
    form(pond + "/-/api/v1/codes");
    await picture(pond + "/-/api/v1/objects?prefix=http");
    await socket("ws://127.0.0.1:POND/film");
    await socket("ws://127.0.0.1:POND/-/api/v1/objects");
    document.body.textContent = "DONE " + seen.join(" | ");
})();
</script></body>"#;

/// A server of that page, whatever is asked for; its port.
fn serve_page(page: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, page) = (stream.expect("connected"), page.clone());
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let length = page.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(page.as_bytes());
            });
        }
    });
    port
}

/// The document of the URL in Chromium, when its scripts have come to rest.
fn browse(url: &str) -> String {
    let profile = TempDir::new().expect("a directory");
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP evil.example 127.0.0.1",
            "--virtual-time-budget=60000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output()
        .expect("chromium is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_page_of_another_site_reads_nothing_and_changes_nothing() {
    if is_missing("chromium") {
        return;
    }
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let (mine, data) = (
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
    );
    let pond = Pond::with(
        &upstream,
        &[
            ("directory", &format!("mine={},writable", mine.path().display())),
            ("data", &data.path().display().to_string()),
            ("open", "true"),
        ],
    );
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    let before = pond.object();
    let page = PAGE.replace("POND", &pond.address().port().to_string());
    let port = serve_page(page);
    let seen = browse(&format!("http://evil.example:{port}/"));
    assert!(seen.contains("DONE "), "the page did not come to its end: {seen}");
    for read in [
        "complete",
        upstream.url().as_str(),
        "millpond_",
        "socket: open",
        "\"code\"",
    ] {
        assert!(!seen.contains(read), "{read} was read: {seen}");
    }
    assert_eq!(
        seen.matches("basic 200").count() + seen.matches("cors 200").count(),
        0,
        "{seen}"
    );
    // By the name that was made to point here, as the whole page.
    let rebound = browse(&format!(
        "http://evil.example:{}/-/api/v1/objects",
        pond.address().port()
    ));
    assert!(
        rebound.contains("evil.example") && !rebound.contains("complete"),
        "{rebound}"
    );
    assert_eq!(pond.object(), before, "nothing was purged or pinned");
    assert!(!mine.path().join("owned").exists(), "nothing was written");
    let changes = rule(pond.address(), "GET", "/-/metrics", &[]).text();
    assert!(!changes.contains("status=\"201\""), "{changes}");
}
