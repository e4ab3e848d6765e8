//! The quota holds at every moment, and what is played is played to its end.

use crate::cli::Program;
use crate::support::{Client, Film, Pond, Upstream, Valve, eventually, get, get_range, rule};
use millpond::clock::{ManualClock, from_unix_seconds};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const LEN: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

/// A manifest that is being replaced is there twice for a moment: a page each. Everything else is counted
/// before it is written.
const REPLACED: u64 = 16 * 4096;

/// A data directory, and by how much what its files take may seem to pass a quota.
struct Place {
    dir: TempDir,
    slack: u64,
}

impl Place {
    /// A place in memory, where there is room for `bytes`: there files take just their pages. On a disk their blocks
    /// are counted twice for moments, while they are written out, and no more is shown than is promised: a
    /// block of 1 MiB for each session.
    fn for_bytes(bytes: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let free = rustix::fs::statvfs(memory).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
        let in_memory = (free > bytes + 32 * MIB)
            .then(|| TempDir::new_in(memory).ok())
            .flatten();
        match in_memory {
            Some(dir) => Self { dir, slack: REPLACED },
            None => Self {
                dir: TempDir::new().expect("a directory"),
                slack: REPLACED + 16 * MIB,
            },
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn pond(&self, upstream: &Upstream, quota: u64) -> Pond {
        let data = self.path().display().to_string();
        Pond::with(
            upstream,
            &[("quota", &quota.to_string()), ("data", &data), ("min_free", "0")],
        )
    }
}

/// `POND_FULL_SCALE=1` plays 2 GiB under 256 MiB, and bursts as large.
fn scale() -> u64 {
    match std::env::var("POND_FULL_SCALE") {
        Ok(_) => 16,
        Err(_) => 1,
    }
}

/// The bytes that the files of all objects take on the disk.
pub(crate) fn taken(dir: &Path) -> u64 {
    sizes(dir).values().sum()
}

fn sizes(dir: &Path) -> HashMap<PathBuf, u64> {
    let shards = std::fs::read_dir(dir.join("objects")).into_iter().flatten().flatten();
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.path()).into_iter().flatten().flatten());
    // A file that has just been removed takes no space.
    files
        .filter_map(|file| Some((file.path(), file.metadata().ok()?.blocks() * 512)))
        .collect()
}

/// Looks every few milliseconds how much is taken; the most there was. One look goes from file to file, and sees those
/// that go and those that come for them; so what counts is the less that a file takes in two looks that follow each
/// other: so much there was between the two.
fn watching<T>(dir: &Path, work: impl FnOnce() -> T) -> (T, u64) {
    watching_by(|| sizes(dir), work)
}

/// [`watching`], for what `sizes` finds.
fn watching_by<T>(sizes: impl Fn() -> HashMap<PathBuf, u64> + Sync, work: impl FnOnce() -> T) -> (T, u64) {
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let (before, now) = (sizes(), sizes());
                let both = before
                    .iter()
                    .map(|(path, size)| now.get(path).map_or(0, |now| *size.min(now)));
                most.fetch_max(both.sum(), Ordering::AcqRel);
                // The rate of the samples; nothing waits for it.
                thread::park_timeout(Duration::from_millis(10));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Release);
        done
    });
    match done {
        Ok(done) => (done, most.load(Ordering::Acquire)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// All that is in a directory, itself and what is within its own directories.
fn sizes_of_all(dir: &Path) -> HashMap<PathBuf, u64> {
    let mut sizes = HashMap::new();
    let mut paths = vec![dir.to_owned()];
    while let Some(path) = paths.pop() {
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            paths.extend(entries.map(|entry| entry.path()));
        }
        sizes.insert(path, metadata.blocks() * 512);
    }
    sizes
}

/// An upstream of tiny replies with 31 KiB of header in 99 fields, which are stale at once and never change.
fn with_large_heads() -> Upstream {
    Upstream::scripted(|seen, conn| {
        let own = [
            ("Cache-Control", "max-age=0".to_owned()),
            ("ETag", format!("\"{}\"", seen.target)),
            ("Content-Type", "image/png".to_owned()),
        ];
        let mut fields: Vec<(&str, String)> = own.into();
        let names: Vec<String> = (0..95).map(|number| format!("Field-{number}")).collect();
        fields.extend(names.iter().map(|name| (&**name, format!("{:>320}", seen.target))));
        if seen.header("if-none-match").is_some() {
            conn.head(304, &fields);
        } else {
            fields.push(("Content-Length", "10".to_owned()));
            conn.head(200, &fields);
            conn.raw(b"0123456789");
        }
    })
}

/// `POND_FULL_SCALE=1` asks for 1,500 objects.
#[test]
fn the_catalog_and_all_else_in_the_data_directory_keep_within_the_quota() {
    const ROUNDS: usize = 10;
    const CLIENTS: usize = 4;
    let objects = 94 * scale() as usize;
    let quota = 20 * MIB;
    let upstream = with_large_heads();
    let place = Place::for_bytes(quota);
    let data = place.path().to_owned();
    let mut pond = place.pond(&upstream, quota);
    let ((), most) = watching_by(
        || sizes_of_all(&data),
        || {
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let address = pond.address();
                    scope.spawn(move || {
                        for number in (client..objects).step_by(CLIENTS) {
                            // Stored by the first, validated by each of the others.
                            for _ in 0..=ROUNDS {
                                let answer = get(address, &format!("/{number}"));
                                assert_eq!(answer.expect(200).body, b"0123456789");
                                assert_eq!(
                                    answer
                                        .headers
                                        .iter()
                                        .filter(|(name, _)| name.starts_with("field-"))
                                        .count(),
                                    95
                                );
                            }
                        }
                    });
                }
            });
        },
    );
    eprintln!("{objects} objects: the most taken: {most} of {quota}");
    assert!(most <= quota, "{most} of {quota}");
    let requests = upstream.requests();
    let validations = requests.iter().filter(|seen| seen.header("if-none-match").is_some());
    assert_eq!(validations.count(), objects * ROUNDS, "each was stored");
    assert_eq!(requests.len(), objects * (ROUNDS + 1));
    let stats = rule(pond.address(), "GET", "/-/api/v1/stats", &[]).json();
    let told = |name: &str| stats[name].as_u64().expect(name);
    assert!(told("reserved_bytes") + told("disk_bytes") <= quota, "{stats}");
    assert!(told("objects") >= 10, "{stats}");
    // The same objects are there after another start.
    let listed = told("objects");
    pond.restart();
    let stats = rule(pond.address(), "GET", "/-/api/v1/stats", &[]).json();
    assert_eq!(stats["objects"].as_u64(), Some(listed));
}

#[test]
fn past_the_quota_the_least_recently_used_objects_go() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let clock = Arc::new(ManualClock::at(from_unix_seconds(1_800_000_000)));
    let settings = [("upstream", upstream.url()), ("quota", "3500000".to_owned())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let pond = Pond::start_at(&settings, Arc::<ManualClock>::clone(&clock));
    for name in ["/a", "/b", "/c"] {
        film.check(0, &get(pond.address(), name).expect(200).body);
        clock.advance(Duration::from_secs(1));
    }
    // The oldest is used again, so the second oldest is the one to go.
    get(pond.address(), "/a").expect(200);
    clock.advance(Duration::from_secs(1));
    eventually("the fills to end", || pond.metric("millpond_fills") == 0);
    film.check(0, &get(pond.address(), "/d").expect(200).body);
    assert!(pond.metric("millpond_stored_bytes") <= 3_500_000);
    let list = get(pond.address(), "/-/api/v1/objects").json();
    let mut kept: Vec<String> = list["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|object| {
            object["url"]
                .as_str()
                .expect("a URL")
                .rsplit('/')
                .next()
                .expect("a name")
                .to_owned()
        })
        .collect();
    kept.sort();
    assert_eq!(kept, ["a", "c", "d"]);
    assert_eq!(pond.metric("millpond_evicted_total"), 1);
    // On the disk too: what was evicted is gone.
    let bodies = std::fs::read_dir(pond.dir().join("objects"))
        .expect("listed")
        .flat_map(|shard| {
            std::fs::read_dir(shard.expect("a shard").path())
                .expect("listed")
                .map(|entry| entry.expect("an entry").path())
        });
    assert_eq!(
        bodies
            .filter(|path| path.extension().is_some_and(|ext| ext == "body"))
            .count(),
        3
    );
    film.check(0, &get(pond.address(), "/b").expect(200).body);
}

#[test]
fn a_burst_of_ten_times_the_quota_never_passes_it() {
    const READERS: u64 = 16;
    let quota = 24 * MIB * scale();
    let (films, len) = (60, 4 * MIB * scale() + 4321);
    let film = Film::new(len);
    let upstream = Upstream::of(&film);
    let place = Place::for_bytes(quota);
    let pond = place.pond(&upstream, quota);
    let next = AtomicU64::new(0);
    let ((), most) = watching(place.path(), || {
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::AcqRel);
                        if number >= films {
                            return;
                        }
                        let answer = get(pond.address(), &format!("/film-{number}"));
                        answer.expect(200);
                        assert_eq!(answer.body.len() as u64, len);
                        film.check(0, &answer.body);
                    }
                });
            }
        });
    });
    eprintln!("the most taken: {most} of {quota}");
    assert!(most <= quota + place.slack, "{most} of {quota}");
    assert!(most >= quota / 2, "the quota was not even used: {most} of {quota}");
    assert!(films * len >= 10 * quota);
    eventually("the fills to end", || pond.metric("millpond_fills") == 0);
    assert!(pond.metric("millpond_stored_bytes") <= quota);
}

#[test]
fn slow_readers_of_more_films_than_fit_at_once_get_every_byte() {
    let quota = 8 * MIB;
    let film = Film::new(4 * MIB);
    let upstream = Upstream::of(&film);
    let place = Place::for_bytes(quota);
    let pond = place.pond(&upstream, quota);
    let ((), most) = watching(place.path(), || {
        // Each takes a little and keeps what is ahead of it, until all that the quota has is ahead of somebody.
        let mut readers: Vec<Client> = (0..8)
            .map(|number| Client::open(pond.address(), "GET", &format!("/film-{number}"), &[]))
            .collect();
        for reader in &mut readers {
            film.check(0, &reader.read(100_000));
        }
        for reader in readers {
            let answer = reader.finish();
            assert_eq!(answer.body.len() as u64, film.len - 100_000);
            film.check(100_000, &answer.body);
        }
    });
    assert!(most <= quota + place.slack, "{most} of {quota}");
}

#[test]
fn a_film_eight_times_the_quota_is_played_to_its_end() {
    let quota = 16 * MIB * scale();
    let film = Film::new(8 * quota + 12_345);
    let upstream = Upstream::of(&film);
    let place = Place::for_bytes(quota);
    let pond = place.pond(&upstream, quota);
    let ((), most) = watching(place.path(), || {
        let mut player = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=0-")]);
        assert_eq!(player.status, 206);
        let mut at = 0;
        while at < film.len {
            let count = (film.len - at).min(MIB);
            film.check(at, &player.read(count as usize));
            at += count;
        }
        assert_eq!(player.finish().body, b"");
    });
    eprintln!("the most taken: {most} of {quota}");
    assert!(most <= quota + place.slack, "{most} of {quota}");
    assert!(pond.metric("millpond_punched_bytes_total") > 6 * quota);
    // Every byte was asked for once, but for what was under way at an end.
    let asked = upstream.sent() as f64 / film.len as f64;
    eprintln!(
        "asked of the upstream: {asked:.3} times the film, in {} requests",
        upstream.requests().len()
    );
    assert!(asked < 1.1, "{asked}");
    // The beginning is still here: a player that opens the film again begins at once.
    let asked = upstream.requests().len();
    film.check(0, &get_range(pond.address(), "/film", "bytes=0-99999").expect(206).body);
    assert_eq!(upstream.requests().len(), asked);
    // Watched parts are absent, and are fetched again for a reader that seeks back.
    let back = quota * 3;
    let range = format!("bytes={back}-{}", back + MIB - 1);
    film.check(back, &get_range(pond.address(), "/film", &range).expect(206).body);
    assert!(upstream.requests().len() > asked);
}

#[test]
fn a_player_that_asks_piece_by_piece_plays_a_film_larger_than_the_quota() {
    let quota = 16 * MIB;
    let film = Film::new(6 * quota);
    let upstream = Upstream::of(&film);
    let place = Place::for_bytes(quota);
    let pond = place.pond(&upstream, quota);
    let ((), most) = watching(place.path(), || {
        for start in (0..film.len).step_by(2 << 20) {
            let range = format!("bytes={start}-{}", start + 2 * MIB - 1);
            film.check(start, &get_range(pond.address(), "/film", &range).expect(206).body);
        }
    });
    assert!(most <= quota + place.slack, "{most} of {quota}");
    let asked = upstream.sent() as f64 / film.len as f64;
    assert!(asked < 1.2, "{asked}");
}

/// An upstream that sends the whole film, whatever it is asked for, in pieces of that length.
fn without_ranges(film: &Film, piece: u64) -> Upstream {
    let film = film.clone();
    Upstream::scripted(move |_, conn| {
        conn.head(
            200,
            &[
                ("Content-Type", "video/mp4".to_owned()),
                ("Content-Length", film.len.to_string()),
            ],
        );
        for start in (0..film.len).step_by(piece as usize) {
            conn.body(&film, start, (start + piece).min(film.len));
        }
    })
}

#[test]
fn a_film_without_ranges_larger_than_the_quota_is_passed_on() {
    let quota = 4 * MIB;
    let film = Film::new(5 * quota);
    let upstream = without_ranges(&film, film.len);
    let place = Place::for_bytes(quota);
    let pond = place.pond(&upstream, quota);
    let (answer, most) = watching(place.path(), || get(pond.address(), "/film"));
    answer.expect(200);
    assert_eq!(answer.body.len() as u64, film.len);
    film.check(0, &answer.body);
    assert!(most <= quota + place.slack, "{most} of {quota}");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn passed_through_bytes_reach_their_reader_between_stored_ones() {
    let quota = 2 * MIB;
    let film = Film::new(2 * quota);
    // Small pieces: most of them fit into a page that an earlier one has taken, one in six does not.
    let upstream = without_ranges(&film, 700);
    let pond = Pond::with(&upstream, &[("quota", &quota.to_string())]);
    let answer = get(pond.address(), "/film");
    film.check(0, &answer.expect(200).body);
    assert_eq!(answer.body.len() as u64, film.len);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_quota_holds_from_the_first_moment_after_a_kill() {
    let quota = 12 * MIB;
    let film = Film::new(2 * MIB);
    let upstream = Upstream::of(&film);
    let place = Place::for_bytes(quota);
    let dir = &place.dir;
    let setting = ["--quota", &quota.to_string()].map(str::to_owned);
    let flags: Vec<&str> = setting.iter().map(String::as_str).collect();
    for kill in 0..6 {
        let program = Program::serve(dir.path(), &upstream, &flags);
        let ((), most) = watching(dir.path(), || {
            thread::scope(|scope| {
                for reader in 0..4 {
                    let address = program.address;
                    let film = &film;
                    scope.spawn(move || {
                        for number in 0..4 {
                            let answer = get(address, &format!("/{kill}-{reader}-{number}"));
                            film.check(0, &answer.expect(200).body);
                        }
                    });
                }
            });
        });
        assert!(most <= quota + place.slack, "kill {kill}: {most} of {quota}");
        program.kill();
    }
}

#[test]
fn a_smaller_quota_than_before_is_met_after_the_start() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let mut first = Program::serve(dir.path(), &upstream, &[]);
    for number in 0..8 {
        get(first.address, &format!("/{number}")).expect(200);
    }
    first.terminate();
    assert!(first.child.wait().expect("ended").success());
    assert!(taken(dir.path()) > 8 * LEN);
    let second = Program::serve(dir.path(), &upstream, &["--quota", "3MiB"]);
    eventually("no more than the quota", || taken(dir.path()) <= 3 * MIB);
    drop(second);
}

#[test]
fn preallocation_is_released_when_a_fill_ends_early() {
    const HAD: u64 = 9_000_000;
    let film = Film::new(8 * HAD);
    let valve = Valve::new(HAD);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let mut pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    let mut reader = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &reader.read(HAD as usize));
    eventually("room ahead", || taken(pond.dir()) >= HAD + 2 * MIB);
    drop(reader);
    eventually("the fill to end", || pond.metric("millpond_fills") == 0);
    // The last of what it brought may be written when it has ended.
    eventually("the room to be given back", || taken(pond.dir()) < HAD + MIB);
    let told = pond.object()["disk_bytes"].as_u64().expect("a number");
    assert!((HAD..HAD + MIB / 2).contains(&told), "{told}");

    // Preallocation is released where the server is stopped, too.
    let mut reader = Client::open(pond.address(), "GET", "/film", &[]);
    valve.allow(4 * HAD);
    film.check(0, &reader.read(4 * HAD as usize));
    eventually("room ahead", || taken(pond.dir()) >= 4 * HAD + 2 * MIB);
    pond.stop();
    assert!(taken(pond.dir()) < 5 * HAD + MIB);
    drop(reader);
}

#[test]
fn a_cache_without_a_quota_takes_a_share_of_its_file_system() {
    let pond = Pond::start(&[]);
    let stats = rule(pond.address(), "GET", "/-/api/v1/stats", &[]).json();
    let quota = stats["quota_bytes"].as_u64().expect("a quota");
    let system = rustix::fs::statvfs(pond.dir()).expect("asked");
    let size = system.f_blocks * system.f_frsize;
    assert!(quota > size / 2 && quota < size, "{quota} of {size}");
    let unbounded = Pond::start(&[("quota", "none")]);
    let stats = rule(unbounded.address(), "GET", "/-/api/v1/stats", &[]).json();
    assert_eq!(stats["quota_bytes"], serde_json::Value::Null);
}
