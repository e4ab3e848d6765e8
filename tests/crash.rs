//! Promise 6: after a crash, truth.

use crate::cli::Program;
use crate::quota::taken;
use crate::support::{Client, Film, Pond, Upstream, Valve, data_of, eventually, get};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use tempfile::TempDir;

const LEN: u64 = 24_000_000;
const KILLS: u64 = 50;

/// A number below the bound, the same every run: where a reader begins, how far it gets before the kill.
fn draw(seed: u64, below: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 32)) % below
}

#[test]
fn fifty_kills_at_random_moments_leave_no_wrong_byte() {
    let film = Film::new(LEN);
    let upstream = Upstream::limited(&film, Valve::open(), 30_000_000);
    let mut dir = TempDir::new().expect("a directory");
    let mut resumed = 0;
    for kill in 0..KILLS {
        let program = Program::serve(dir.path(), &upstream, &[]);
        let listed = get(program.address, "/-/api/v1/objects").json();
        let present: Vec<(u64, u64)> = listed["objects"][0]["present"]
            .as_array()
            .map(|list| {
                list.iter()
                    .map(|pair| (pair[0].as_u64().unwrap(), pair[1].as_u64().unwrap()))
                    .collect()
            })
            .unwrap_or_default();
        let asked_before = upstream.requests().len();
        resumed += usize::from(!present.is_empty());
        // A reader somewhere, to be killed with some of its bytes read.
        let start = draw(kill, LEN - 1);
        let wanted = 1 + draw(kill + 1000, (LEN - start).min(20_000_000));
        let range = format!("bytes={start}-");
        let mut reader = Client::open(program.address, "GET", "/film", &[("Range", &range)]);
        assert_eq!(reader.status, 206);
        film.check(start, &reader.read(wanted as usize));
        program.kill();
        // Recorded bytes are not asked for again.
        for seen in &upstream.requests()[asked_before..] {
            let (from, to) = seen
                .range(LEN)
                .unwrap_or_else(|| panic!("no range, kill {kill}, start {start}: {seen:?}, {listed}"));
            let again = present.iter().find(|(start, end)| from < *end && *start < to);
            assert_eq!(again, None, "asked {from}..{to} with {present:?} recorded");
        }
        // A film that has become complete leaves nothing to kill: begin another.
        let whole = present.first().is_some_and(|(start, end)| (*start, *end) == (0, LEN));
        if whole {
            dir = TempDir::new().expect("a directory");
        }
    }
    eprintln!("{resumed} of {KILLS} starts found recorded bytes");
    assert!(resumed >= 10, "the kills came too early to prove anything: {resumed}");
    let program = Program::serve(dir.path(), &upstream, &[]);
    let whole = get(program.address, "/film");
    whole.expect(200);
    assert_eq!(whole.body.len() as u64, LEN);
    film.check(0, &whole.body);
}

#[test]
fn a_catalog_that_will_not_open_is_set_aside_and_written_anew() {
    let film = Film::new(1_000_000);
    let upstream = Upstream::of(&film);
    let mut pond = Pond::before(&upstream);
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    let before = pond.object();
    pond.stop();
    let catalog = pond.dir().join("catalog");
    for entry in std::fs::read_dir(&catalog).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::write(path, b"not what sled wrote").expect("written");
        }
    }
    pond.restart();
    // Found at once, however far the new catalog is.
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    assert_eq!(upstream.requests().len(), 1);
    pond.until_state("complete");
    let after = pond.object();
    for field in ["url", "id", "complete_length", "present", "etag"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    assert_eq!(upstream.requests().len(), 1);
    let aside = std::fs::read_dir(pond.dir()).expect("listed").filter_map(Result::ok);
    assert_eq!(
        aside
            .filter(|entry| entry.file_name().to_string_lossy().contains("set-aside"))
            .count(),
        1
    );
}

#[test]
fn a_body_that_was_deleted_or_cut_under_the_record_is_fetched_again() {
    let film = Film::new(1_000_000);
    let upstream = Upstream::of(&film);
    let mut pond = Pond::before(&upstream);
    for damage in ["cut", "delete"] {
        film.check(0, &get(pond.address(), "/film").expect(200).body);
        pond.until_state("complete");
        pond.stop();
        let objects = pond.dir().join("objects");
        let bodies = std::fs::read_dir(&objects).expect("listed").flat_map(|shard| {
            std::fs::read_dir(shard.expect("a shard").path())
                .expect("listed")
                .map(|entry| entry.expect("an entry").path())
        });
        for body in bodies
            .filter(|path| path.extension().is_some_and(|ext| ext == "body"))
            .collect::<Vec<_>>()
        {
            match damage {
                "cut" => std::fs::OpenOptions::new()
                    .write(true)
                    .open(body)
                    .unwrap()
                    .set_len(300_000)
                    .unwrap(),
                _ => std::fs::remove_file(body).unwrap(),
            }
        }
        pond.restart();
        let whole = get(pond.address(), "/film");
        whole.expect(200);
        film.check(0, &whole.body);
    }
}

/// Every step at which the process can die, and what lies between two of them.
const PLACES: [&str; 17] = [
    "body-created",
    "manifest-written",
    "manifest-made",
    "record-made",
    "room-taken",
    "written",
    "present",
    "synced",
    "sums-recorded",
    "recorded",
    "complete-manifest",
    "manifest-retracted",
    "record-put-before-sums",
    "record-retracted",
    "punched",
    "evicted-record",
    "discarded",
];

/// The steps in which the catalog is written anew.
const COMPACTION_PLACES: [&str; 3] = ["compaction-begun", "compaction-copied", "compaction-current"];

const QUOTA: u64 = 8 << 20;
const QUOTA_FLAGS: [&str; 2] = ["--quota", "8MiB"];

/// The film at a path: its length and bytes are those of its number.
fn film_of(number: u64) -> Film {
    let len = match number % 5 {
        0 => 3_000_017,
        1 => 12_000_000,
        2 => 4096,
        _ => 300_000 + number * 1001,
    };
    Film::edition(len, number + 1)
}

/// An upstream of all those films, as `/0`, `/1` and so on.
fn films() -> Upstream {
    Upstream::scripted(|seen, conn| {
        let number = seen.target.trim_start_matches('/').parse().unwrap_or(0);
        conn.serve(&film_of(number), seen);
    })
}

/// Plays a film for as long as the server lives; what comes is right. `true` where all of it came.
fn play(address: SocketAddr, number: u64, from: u64) -> bool {
    let film = film_of(number);
    let from = from % film.len;
    let mut answer = Vec::new();
    let read = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(
            format!("GET /{number} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nRange: bytes={from}-\r\n\r\n")
                .as_bytes(),
        )?;
        stream.read_to_end(&mut answer)
    });
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = answer.split_at(head + 4);
    let head = String::from_utf8_lossy(head);
    assert!(head.starts_with("HTTP/1.1 206"), "{head}");
    film.check(from, body);
    read.is_ok() && body.len() as u64 == film.len - from
}

/// Has a film removed, by a server that may die of it.
fn purge(address: SocketAddr, upstream: &Upstream, number: u64) {
    let url = upstream.url();
    let request =
        format!("DELETE /-/api/v1/objects?url={url}{number} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = UnixStream::connect(data_of(address).join("control.sock")).and_then(|mut stream| {
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut answer)
    });
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

fn bodies(dir: &Path) -> Vec<PathBuf> {
    let shards = std::fs::read_dir(dir.join("objects")).expect("listed").flatten();
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.path()).expect("listed").flatten());
    files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "body"))
        .collect()
}

/// A data directory with a film that is complete, but for a byte that the disk has changed.
fn damaged(upstream: &Upstream) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let mut program = Program::serve(dir.path(), upstream, &QUOTA_FLAGS);
    assert!(play(program.address, 0, 0));
    eventually("a complete film", || {
        let list = get(program.address, "/-/api/v1/objects").json();
        list["objects"][0]["state"] == "complete"
    });
    program.terminate();
    assert!(program.child.wait().expect("ended").success());
    for body in bodies(dir.path()) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(body).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1_500_000).unwrap();
        file.write_all_at(&[!byte[0]], 1_500_000).unwrap();
    }
    dir
}

/// A start after any death serves the right bytes, keeps the quota, and holds nothing that does not verify.
fn expect_a_sound_cache(dir: &Path, upstream: &Upstream) {
    let mut program = Program::serve(dir, upstream, &QUOTA_FLAGS);
    for number in 0..6 {
        assert!(play(program.address, number, 0));
    }
    let stored = || {
        let stats = get(program.address, "/-/api/v1/stats").json();
        stats["disk_bytes"].as_u64().expect("told")
    };
    eventually("the fills to end", || {
        get(program.address, "/-/api/v1/stats").json()["fills"] == 0
    });
    assert!(stored() <= QUOTA);
    // The disk holds no more than the server has counted.
    eventually("nothing beside what is known", || taken(dir) <= stored());
    program.terminate();
    assert!(program.child.wait().expect("ended").success());
    let verified = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["verify", "--json", "--data"])
        .arg(dir)
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(
        verified.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&verified.stderr)
    );
    assert!(said.contains("\"unchecked_bytes\":0"), "{said}");
}

/// The names of all places in the sources.
fn named_places() -> BTreeSet<String> {
    let mut rooms = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/store"
    ))];
    let mut names = BTreeSet::new();
    while let Some(room) = rooms.pop() {
        for entry in std::fs::read_dir(room).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                rooms.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).expect("readable");
            let calls = text.split("fault::point(\"").skip(1);
            names.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    names
}

#[test]
fn a_death_between_any_two_steps_leaves_a_sound_cache() {
    let known = PLACES.iter().chain(&COMPACTION_PLACES);
    assert_eq!(named_places(), known.map(|place| (*place).to_owned()).collect());
    let upstream = films();
    for place in PLACES {
        for time in [1, 4] {
            let dir = damaged(&upstream);
            let mut program =
                Program::serve_and_die_at(&format!("{place}:{time}"), dir.path(), &upstream, &QUOTA_FLAGS);
            // A play fails where the program has died, and for no other cause.
            let died = (0..400).any(|number| {
                if number % 8 == 7 {
                    purge(program.address, &upstream, number % 12);
                }
                !play(program.address, number % 12, number / 12 * 1_000_003)
            });
            if died {
                eventually("the end of the process", || {
                    program.child.try_wait().expect("asked").is_some()
                });
            }
            // A complete object loses bytes only once here.
            let rare = ["manifest-retracted"].contains(&place) && time > 1;
            assert!(died || rare, "{place} was not passed {time} times");
            drop(program);
            expect_a_sound_cache(dir.path(), &upstream);
        }
    }
}

#[test]
fn a_death_while_the_catalog_is_written_anew_loses_no_record() {
    const HEADS: u64 = 200;
    let flags = ["--quota", "16MiB"];
    let upstream = with_large_heads();
    for place in COMPACTION_PLACES {
        for time in [1, 3] {
            let dir = TempDir::new().expect("a directory");
            let mut program = Program::serve_and_die_at(&format!("{place}:{time}"), dir.path(), &upstream, &flags);
            // Complete before the catalog is written anew for the first time, and used more than all that follow.
            let first = |address| (0..64).all(|_| play(address, 2, 0));
            assert!(first(program.address), "{place}");
            let died = (0..HEADS).any(|number| answer_to(program.address, &format!("/large-{number}")).is_none());
            assert!(died, "{place} was not passed {time} times");
            eventually("the end of the process", || {
                program.child.try_wait().expect("asked").is_some()
            });
            drop(program);
            let mut program = Program::serve(dir.path(), &upstream, &flags);
            let asked = upstream.requests().len();
            assert!(first(program.address));
            assert_eq!(upstream.requests().len(), asked, "{place}: the record is here");
            for number in 0..HEADS {
                let answer = answer_to(program.address, &format!("/large-{number}"));
                assert!(
                    answer.is_some_and(|answer| answer.ends_with("\r\n\r\n0123456789")),
                    "{place}"
                );
            }
            program.terminate();
            assert!(program.child.wait().expect("ended").success());
            let generations = std::fs::read_dir(dir.path().join("catalog")).expect("listed").flatten();
            let generations = generations.filter(|entry| entry.file_name().to_string_lossy().starts_with('g'));
            assert_eq!(generations.count(), 1, "{place}");
            assert!(
                !dir.path().join("catalog/db").exists(),
                "{place}: the first one is gone"
            );
        }
    }
}

/// An upstream of those films, and of replies with 31 KiB of header.
fn with_large_heads() -> Upstream {
    Upstream::scripted(|seen, conn| {
        if !seen.target.starts_with("/large") {
            let number = seen.target.trim_start_matches('/').parse().unwrap_or(0);
            conn.serve(&film_of(number), seen);
            return;
        }
        let mut headers: Vec<(String, String)> = (0..96)
            .map(|field| (format!("X-{field}"), format!("{field:0320}")))
            .collect();
        headers.push(("Cache-Control".to_owned(), "max-age=100000".to_owned()));
        headers.push(("Content-Length".to_owned(), "10".to_owned()));
        let headers: Vec<(&str, String)> = headers.iter().map(|(name, value)| (&**name, value.clone())).collect();
        conn.head(200, &headers);
        conn.raw(b"0123456789");
    })
}

/// The answer to a GET, as it came; `None` where the server does not answer.
fn answer_to(address: SocketAddr, target: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

#[test]
fn kills_of_a_busy_cache_leave_it_sound() {
    let upstream = films();
    let dir = TempDir::new().expect("a directory");
    let kills = if std::env::var("POND_FULL_SCALE").is_ok() {
        200
    } else {
        40
    };
    let (mut whole, played) = (0, AtomicU64::new(0));
    for kill in 0..kills {
        let program = Program::serve(dir.path(), &upstream, &QUOTA_FLAGS);
        let (address, over) = (program.address, AtomicBool::new(false));
        let before = played.load(Ordering::Acquire);
        let enough = before + 1 + draw(kill, 24);
        thread::scope(|scope| {
            for reader in 0..4 {
                let (over, played) = (&over, &played);
                scope.spawn(move || {
                    let mut round = 0;
                    while !over.load(Ordering::Acquire) {
                        let drawn = draw(kill * 1000 + reader * 100 + round, 1 << 40);
                        if play(address, drawn % 12, drawn / 12) {
                            played.fetch_add(1, Ordering::AcqRel);
                        }
                        round += 1;
                    }
                });
            }
            eventually("some films", || played.load(Ordering::Acquire) >= enough);
            program.kill();
            over.store(true, Ordering::Release);
        });
        whole += played.load(Ordering::Acquire) - before;
    }
    eprintln!("{kills} kills, {whole} films played");
    expect_a_sound_cache(dir.path(), &upstream);
}
