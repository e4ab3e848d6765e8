//! Promise 6: after a crash, truth.

use crate::cli::Program;
use crate::support::{Client, Film, Pond, Upstream, Valve, get};
use tempfile::TempDir;

const LEN: u64 = 24_000_000;
const KILLS: u64 = 50;

/// Where the next reader begins and how far it gets before the kill: any place, the same every run.
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
        // What was recorded is not asked for again.
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
