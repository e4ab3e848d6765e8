//! Killed at any moment, a directory holds what was answered, and of everything else the old or the new.

use crate::support::origin::send;
use crate::support::{Answer, Film};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const PUTS: usize = 200;
const PATHS: usize = 40;
const CLIENTS: usize = 4;

struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn start(root: &Path, data: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_millpond"))
            .args(["origin", "--writable", "--open", "--listen", "127.0.0.1:0"])
            .arg(root)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let url = url::Url::parse(line.trim().strip_prefix("listening on ").expect("ready")).expect("a URL");
        let address = url.socket_addrs(|| None).expect("an address")[0];
        Self { child, address }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes of a version: their length tells it too.
fn version(number: usize) -> Vec<u8> {
    let length = 1000 + (number as u64 * 7919) % 300_000;
    Film::edition(length, number as u64).bytes(0, length)
}

/// Puts a version in one of the ways there are: unasked, under the tag of what is there, in two requests.
fn put(address: SocketAddr, target: &str, number: usize, tag: Option<&str>) -> Answer {
    let bytes = version(number);
    let condition = tag.map_or(("If-None-Match", "*"), |tag| ("If-Match", tag));
    match number % 3 {
        0 => send(address, "PUT", target, &[], &bytes),
        1 => send(address, "PUT", target, &[condition], &bytes),
        _ => {
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            let begun = send(address, "PUT", target, &[condition, ("Upload-Complete", "?0")], first);
            let place = begun.expect(201).header("location").expect("a place");
            let offset = first.len().to_string();
            let headers = [
                ("Content-Type", "application/partial-upload"),
                ("Upload-Offset", offset.as_str()),
                ("Upload-Complete", "?1"),
            ];
            send(address, "PATCH", place, &headers, rest)
        }
    }
}

/// Puts one version after another until the program is gone; each answer is noted before the next is sent.
fn put_until_it_dies(
    address: SocketAddr,
    client: usize,
    answered: &AtomicUsize,
    tried: &Mutex<HashMap<usize, Vec<(usize, bool)>>>,
) {
    let mut tags = HashMap::new();
    for number in (client..PUTS).step_by(CLIENTS) {
        // Each path belongs to one client, so its versions are in order.
        let path = client + CLIENTS * ((number / CLIENTS) % (PATHS / CLIENTS));
        tried
            .lock()
            .expect("whole")
            .entry(path)
            .or_default()
            .push((number, false));
        let tag = tags.get(&path).cloned();
        let put = std::panic::catch_unwind(|| put(address, &format!("/d/{path}"), number, tag.as_deref()));
        match put {
            Ok(answer) if matches!(answer.status, 201 | 204) => {
                tags.insert(path, answer.header("etag").expect("a tag").to_owned());
            }
            Ok(answer) => panic!("{}", answer.status),
            Err(_) => return,
        }
        let mut tried = tried.lock().expect("whole");
        tried
            .get_mut(&path)
            .and_then(|versions| versions.last_mut())
            .expect("tried")
            .1 = true;
        answered.fetch_add(1, Ordering::Release);
    }
}

/// Whether nothing is left but uploads that can be resumed.
fn is_clean(root: &Path) -> bool {
    left_over(root).iter().all(|name| name.starts_with("upload-"))
}

fn files(root: &Path) -> HashMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(root.join("d")).expect("listed");
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (format!("/d/{name}"), std::fs::read(entry.path()).expect("read"))
    };
    entries.map(|entry| file(entry.expect("an entry"))).collect()
}

/// After a crash an upload holds the beginning of the bytes that were sent, and never those of the file it replaces.
fn check_uploads(root: &Path, before: &HashMap<String, Vec<u8>>) {
    for name in left_over(root) {
        let Some(id) = name.strip_prefix("upload-").and_then(|name| name.strip_suffix(".json")) else {
            continue;
        };
        let record = std::fs::read(root.join(".millpond").join(&name)).expect("read");
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        if record["complete"] == true {
            continue;
        }
        let body = std::fs::read(root.join(format!(".millpond/upload-{id}"))).expect("read");
        let begins = (0..PUTS).any(|number| number % 3 == 2 && version(number).starts_with(&body));
        assert!(begins, "{record}");
        let path = record["path"].as_str().expect("a path");
        assert!(body.is_empty() || before.get(path) != Some(&body), "{record}");
    }
}

fn left_over(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(".millpond")).expect("listed");
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        // The mark by which the directory is known again.
        .filter(|name| name != "root")
        .collect()
}

#[test]
fn killed_at_any_of_200_puts_a_path_has_its_old_bytes_or_its_new() {
    let rounds = if std::env::var_os("POND_FULL_SCALE").is_some() {
        100
    } else {
        12
    };
    // A connection that the kill cuts ends in the panic of a client that expects an answer: that is not printed.
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let ours = info
            .location()
            .is_some_and(|at| at.file().ends_with("support/client.rs") || at.file().ends_with("support/origin.rs"));
        if !ours {
            quiet(info);
        }
    }));
    let (mut answered_in_all, mut interrupted) = (0, 0);
    for round in 0..rounds {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, data) = (dir.path().join("root"), dir.path().join("data"));
        std::fs::create_dir_all(root.join("d")).expect("made");
        let mut program = Program::start(&root, &data);
        let (answered, tried) = (AtomicUsize::new(0), Mutex::default());
        // Some moment, another in each round: so many answers, and a few turns of this loop.
        let (limit, spins) = ((round * 61) % PUTS, (round * 977) % 20_000);
        std::thread::scope(|scope| {
            let address = program.address;
            let (answered, tried) = (&answered, &tried);
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| scope.spawn(move || put_until_it_dies(address, client, answered, tried)))
                .collect();
            while answered.load(Ordering::Acquire) < limit && clients.iter().any(|client| !client.is_finished()) {
                std::thread::yield_now();
            }
            (0..spins).for_each(|_| std::hint::spin_loop());
            program.child.kill().expect("killed");
        });
        drop(program);
        let before: HashMap<String, Vec<u8>> = files(&root);
        for (path, versions) in tried.into_inner().expect("whole") {
            let last = versions.iter().rposition(|(_, answered)| *answered);
            let found = std::fs::read(root.join(format!("d/{path}"))).ok();
            interrupted += usize::from(versions.last().is_some_and(|(_, answered)| !answered));
            // From the last that was answered on: at most one was under way after it.
            let possible = &versions[last.unwrap_or(0)..];
            let is_one = possible
                .iter()
                .any(|(number, _)| found.as_ref() == Some(&version(*number)));
            assert!(
                is_one || (last.is_none() && found.is_none()),
                "path {path} after {versions:?}"
            );
        }
        answered_in_all += answered.into_inner();
        let again = Program::start(&root, &data);
        assert!(is_clean(&root), "{:?}", left_over(&root));
        check_uploads(&root, &before);
        drop(again);
    }
    assert!(
        answered_in_all > 0 && interrupted > 0,
        "{answered_in_all} answered, {interrupted} interrupted"
    );
    eprintln!("{rounds} kills: {answered_in_all} puts answered, {interrupted} interrupted");
}

#[test]
fn leftovers_of_a_crash_are_removed_and_uploads_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, data) = (dir.path().join("root"), dir.path().join("data"));
    let ours = root.join(".millpond");
    std::fs::create_dir_all(ours.join("gone-1/sub")).expect("made");
    std::fs::create_dir_all(root.join("d")).expect("made");
    std::fs::write(ours.join("gone-1/sub/file"), "x").expect("written");
    std::fs::write(ours.join("put-1"), "x").expect("written");
    // A body that lay beneath a mount point, and the note that says where.
    std::fs::write(root.join("d/.millpond-7"), "x").expect("written");
    std::fs::write(ours.join("note-1"), "/d/.millpond-7").expect("written");
    std::fs::write(ours.join("note-2"), "/d/stays").expect("written");
    std::fs::write(root.join("d/stays"), "x").expect("written");
    let program = Program::start(&root, &data);
    let begun = send(program.address, "PUT", "/film", &[("Upload-Complete", "?0")], b"half");
    let place = begun.expect(201).header("location").expect("a place").to_owned();
    drop(program);
    let program = Program::start(&root, &data);
    assert!(is_clean(&root) && left_over(&root).len() == 2, "{:?}", left_over(&root));
    let told = crate::support::request(program.address, "HEAD", &place, &[]);
    assert_eq!(told.header("upload-offset"), Some("4"));
    let left: Vec<_> = std::fs::read_dir(root.join("d"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["stays"]);
}
