//! Invariants between threads, starts and failures, where no request could show them reliably.

use super::*;
use crate::clock::Instant;
use crate::clock::{ManualClock, from_unix_seconds};
use crate::header::Validators;
use crate::key::ObjectKey;
use crate::ranges::ByteRange;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

pub(super) const NOW: u64 = 1_800_000_000;
const PAGE: u64 = 4096;

pub(super) fn open_at(dir: &Path, quota: Option<u64>, now: u64) -> Store {
    let settings = StoreSettings {
        dir: dir.to_owned(),
        quota: quota.map_or(Quota::None, Quota::Bytes),
        min_free_bytes: Some(0),
    };
    Store::open(&settings, Arc::new(ManualClock::at(from_unix_seconds(now)))).expect("a store")
}

pub(super) fn open(dir: &Path) -> Store {
    open_at(dir, None, NOW)
}

/// Closes the store, in order or as a crash would.
pub(super) fn close(store: Store, in_order: bool) {
    if in_order {
        store.flush().expect("written out");
    } else {
        store.shared.catalog.flush().expect("written out");
    }
    let ending = store.ending().expect("the first to ask");
    drop(store);
    let _ = ending.recv();
}

pub(super) fn key(number: u64) -> ObjectKey {
    ObjectKey::of(&url::Url::parse(&format!("http://h/{number}")).expect("a URL"))
}

pub(super) fn representation(length: u64) -> Representation {
    Representation {
        complete_length: Some(length),
        validators: Validators {
            etag: Some("\"a\"".to_owned()),
            ..Validators::default()
        },
        ranges: true,
        ..Representation::default()
    }
}

/// An object with its first `present` bytes of `length`, recorded.
pub(super) fn film(store: &Store, number: u64, present: u64, length: u64) -> Arc<Object> {
    let object = store.create(&key(number), representation(length)).expect("made").object;
    store.write(&object, 0, &[vec![7; present as usize]]).expect("room");
    object.commit().expect("recorded");
    object
}

pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let shards = std::fs::read_dir(dir.join("objects")).expect("listed").flatten();
    let all = shards.flat_map(|shard| std::fs::read_dir(shard.path()).expect("listed").flatten());
    all.map(|file| file.path()).collect()
}

#[test]
fn a_catalog_that_cannot_be_asked_is_no_reason_to_remove_a_file() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    drop(film(&store, 1, 10_000, 10_000));
    close(store, false);
    let store = open(dir.path());
    let believed = store.used_bytes();
    store.shared.catalog.close();
    store.remove_strays().expect_err("no catalog");
    store.count(store.believed).expect_err("no catalog");
    assert_eq!(files(dir.path()).len(), 2);
    assert_eq!(store.used_bytes(), believed);
    assert!(!store.recount().is_exact);
}

#[test]
fn no_reader_under_the_new_epoch_finds_retracted_bytes() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    for round in 0..300 {
        let object = film(&store, round, PAGE, PAGE);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                // The last look that found the byte, and the epoch from before it.
                let mut seen = None;
                while !over.load(Ordering::Acquire) {
                    let epoch = object.presence.epoch();
                    if matches!(object.presence.look(0), Some(Availability::Here(_))) {
                        seen = Some(epoch);
                    }
                }
                seen
            });
            object
                .retract(ByteRange::new(0, PAGE).expect("not empty"))
                .expect("taken");
            over.store(true, Ordering::Release);
            assert_ne!(
                reader.join().expect("read"),
                Some(object.presence.epoch()),
                "round {round}"
            );
        });
    }
}

#[test]
fn an_object_removed_during_its_commit_does_not_come_back() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    for round in 0..200 {
        let object = store.create(&key(round), representation(PAGE)).expect("made").object;
        store.write(&object, 0, &[[7; PAGE as usize]]).expect("room");
        thread::scope(|scope| {
            scope.spawn(|| object.commit().expect("recorded"));
            scope.spawn(|| store.remove(&object));
        });
        assert!(
            store.show(key(round).id()).expect("readable").is_none(),
            "round {round}"
        );
        drop(object);
        assert_eq!(store.used_bytes(), 0, "round {round}");
        assert!(files(dir.path()).is_empty());
    }
}

#[test]
fn an_object_being_created_is_not_evicted() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                store.evict_some().expect("readable");
            }
        });
        for number in 0..500 {
            let object = film(&store, number, 100, 100);
            let line = store.show(object.id()).expect("readable");
            assert!(line.is_some_and(|line| line.present_bytes == 100), "{number}");
            assert!(object.durability.body().path().exists(), "{number}");
        }
        over.store(true, Ordering::Release);
    });
    while store.evict_some().expect("readable").is_some() {}
    assert_eq!(store.used_bytes(), 0);
}

#[test]
fn a_catalog_deleted_after_an_orderly_stop_leaks_no_room() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    drop(film(&store, 1, 1 << 20, 2 << 20));
    close(store, true);
    std::fs::remove_dir_all(dir.path().join("catalog")).expect("deleted");
    let store = open(dir.path());
    store.look_after();
    // The object begins again without bytes; its manifest is there.
    assert_eq!(store.used_bytes(), PAGE);
}

#[test]
fn a_clock_that_was_set_back_changes_no_count() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    drop(film(&store, 1, 1 << 20, 1 << 20));
    close(store, false);
    let store = open_at(dir.path(), None, NOW - 3600);
    drop(film(&store, 2, 1 << 20, 1 << 20));
    store.look_after();
    assert_eq!(store.used_bytes(), 2 * ((1 << 20) + PAGE));
}

#[test]
fn changes_before_the_recount_are_counted_once() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    for number in 0..4 {
        drop(film(&store, number, 1 << 20, 4 << 20));
    }
    close(store, false);
    let store = open(dir.path());
    // Object 0 loses bytes, 1 gets more, 2 is purged, 3 is made anew; all before the count.
    let load = |number| store.load(&key(number)).expect("readable").expect("there");
    load(0)
        .retract(ByteRange::new(0, 1 << 19).expect("not empty"))
        .expect("taken");
    store.write(&load(1), 1 << 20, &[vec![7; 1 << 20]]).expect("room");
    load(1).commit().expect("recorded");
    load(1).release_preallocated().expect("given back");
    store.purge(key(2).id()).expect("removed");
    drop(film(&store, 3, 1 << 18, 4 << 20));
    drop(film(&store, 4, 1 << 18, 1 << 18));
    store.look_after();
    let bodies = (1 << 19) + (2 << 20) + 2 * (1 << 18);
    assert_eq!(store.used_bytes(), bodies + 4 * PAGE);
    assert!(store.recount().is_exact);
}

#[test]
fn the_room_of_a_manifest_is_counted() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let long = Representation {
        headers: vec![("x-long".to_owned(), "a".repeat(16 << 10))],
        ..representation(100)
    };
    let object = store.create(&key(1), long).expect("made").object;
    store.write(&object, 0, &[[7; 100]]).expect("room");
    object.commit().expect("recorded");
    // The body takes a page, the manifest five.
    assert_eq!(store.used_bytes(), 6 * PAGE);
    drop(object);
    close(store, true);
    let store = open(dir.path());
    assert_eq!(store.used_bytes(), 6 * PAGE);
    store.evict_some().expect("readable").expect("evicted");
    assert_eq!(store.used_bytes(), 0);
}

#[test]
fn an_object_purged_without_a_catalog_stays_purged() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = film(&store, 1, 100, 100);
    store.shared.catalog.flush().expect("written out");
    store.shared.catalog.close();
    assert_eq!(store.purge(key(1).id()).expect("removed").removed, 1);
    drop(object);
    store.look_after();
    assert!(store.shared.catalog.is_open());
    assert!(store.show(key(1).id()).expect("readable").is_none());
    assert!(store.load(&key(1)).expect("readable").is_none());
}

#[test]
fn records_lost_by_a_failed_catalog_are_recovered_from_manifests() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let mut generations = Vec::new();
    for (number, present) in [(1, 2 << 20), (2, 1 << 20), (3, 1 << 20)] {
        generations.push(film(&store, number, present, 2 << 20).generation);
    }
    close(store, true);
    let store = open(dir.path());
    let used = store.used_bytes();
    // Object 1 is complete; 2 is not, and begins again; 3 is open, and knows itself how far it has come.
    let third = store.load(&key(3)).expect("readable").expect("there");
    for (number, generation) in (1..).zip(generations) {
        let gone = store.shared.catalog.remove(key(number).id(), generation);
        gone.expect("forgotten");
    }
    store.shared.catalog.close();
    store.look_after();
    let present = |number| {
        let object = store
            .load(&key(number))
            .expect("readable")
            .expect("its manifest is there");
        object.presence.present().total()
    };
    assert_eq!([present(1), present(2), present(3)], [2 << 20, 0, 1 << 20]);
    assert_eq!(third.presence.present().total(), 1 << 20);
    assert_eq!(store.used_bytes(), used - (1 << 20));
    let on_disk = files(dir.path()).into_iter().map(|path| {
        let metadata = std::fs::metadata(path).expect("there");
        std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
    });
    assert_eq!(on_disk.sum::<u64>(), store.used_bytes());
    // The next start counts: bytes may have come while this was counted.
    assert!(!store.recount().is_exact);
}

#[test]
fn a_complete_object_is_not_cut_to_an_outdated_record() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = film(&store, 1, 1 << 20, 2 << 20);
    let older = store.shared.catalog.get(key(1).id()).expect("read").expect("recorded");
    store.write(&object, 1 << 20, &[vec![7; 1 << 20]]).expect("room");
    object.commit().expect("recorded");
    drop(object);
    close(store, true);
    let store = open(dir.path());
    let used = store.used_bytes();
    // The newest record is lost.
    store.shared.catalog.put(key(1).id(), &older).expect("written");
    store.shared.catalog.close();
    store.look_after();
    assert!(store.load(&key(1)).expect("readable").expect("there").is_whole());
    assert_eq!(store.used_bytes(), used);
}

#[test]
fn an_object_created_without_a_catalog_replaces_the_stored_one() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    film(&store, 1, 1 << 20, 1 << 20);
    store.pin(key(1).id(), true).expect("readable").expect("there");
    close(store, true);
    let store = open_at(dir.path(), None, NOW + 10);
    store.shared.catalog.close();
    let object = store.create(&key(1), representation(1 << 20)).expect("made").object;
    store.look_after();
    assert!(object.is_pinned());
    store.write(&object, 0, &[vec![7; 1 << 20]]).expect("room");
    object.commit().expect("recorded");
    assert_eq!(store.used_bytes(), (1 << 20) + PAGE);
    assert_eq!(files(dir.path()).len(), 2, "the one before has gone");
}

#[test]
fn a_file_that_cannot_be_removed_does_not_keep_the_catalog_closed() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = film(&store, 1, 1 << 20, 1 << 20);
    let stray = object
        .durability
        .body()
        .path()
        .with_file_name(format!("{:032x}-{:016x}.body", 5, 5));
    std::fs::create_dir(&stray).expect("made");
    drop(object);
    store.shared.catalog.close();
    store.look_after();
    assert!(store.has_catalog() && !store.is_restoring());
    std::fs::remove_dir_all(dir.path().join("objects")).expect("deleted");
    store.shared.catalog.close();
    store.look_after();
    assert!(store.has_catalog() && !store.is_restoring());
}

#[test]
fn a_damaged_block_written_in_two_pieces_is_counted_once() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = film(&store, 1, 10_000, 20_000);
    store.write(&object, 10_000, &[[7; 10_000]]).expect("room");
    object.commit().expect("recorded");
    let path = object.durability.body().path().to_owned();
    drop(object);
    close(store, true);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[5000] = 8;
    std::fs::write(&path, bytes).expect("written");
    let store = open(dir.path());
    let object = store.load(&key(1)).expect("readable").expect("there");
    object.read_blocking(0, 100).expect("read");
    assert_eq!((store.bad_blocks(), object.presence.present_bytes()), (1, 0));
}

#[test]
fn bytes_are_not_punched_out_while_they_are_sent() {
    const LEN: u64 = 64 << 10;
    const TIMES: usize = 5;
    /// Far longer than a hole takes to be punched.
    const PATIENCE: Duration = Duration::from_millis(100);
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = film(&store, 1, LEN, LEN);
    let whole = ByteRange::new(0, LEN).expect("not empty");
    let (mut times, begun) = (0, Instant::now());
    while times < TIMES {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let taken = AtomicBool::new(false);
        let was_sent = thread::scope(|scope| {
            // Taken away at the worst moment: after they were found here.
            let take = || {
                let begun = Instant::now();
                let before = object.presence.epoch();
                scope.spawn(|| {
                    object.retract(whole).expect("taken away");
                    taken.store(true, Ordering::Release);
                });
                while object.presence.epoch() == before
                    || (!taken.load(Ordering::Acquire) && begun.elapsed() < PATIENCE)
                {
                    thread::yield_now();
                }
            };
            let sent = object.send_after(take, &ours, 0, LEN as usize).expect("a socket");
            let Some(sent) = sent else { return false };
            let mut bytes = vec![0; sent];
            std::io::Read::read_exact(&mut theirs, &mut bytes).expect("what was sent");
            assert!(bytes.iter().all(|byte| *byte == 7), "bytes that were taken away");
            true
        });
        if !was_sent {
            // A call that took long has been taken for a wait for the disk: sending rests for a while.
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "bytes that are here are not sent"
            );
            thread::yield_now();
            continue;
        }
        times += 1;
        assert_eq!(
            object.source().send_now(&ours, 0, 1).expect("a socket"),
            None,
            "absent bytes were sent"
        );
        store.write(&object, 0, &[vec![7; LEN as usize]]).expect("room");
    }
}

/// Has the reader look at `at`; what it finds, or that it waits.
fn looks(watch: &mut Watch, at: u64) -> Option<Availability> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match watch.poll(at, u64::MAX, &mut cx) {
        std::task::Poll::Ready(found) => Some(found),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn readers_have_the_bytes_before_they_are_written() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let created = store.create(&key(1), representation(1000)).expect("made");
    let object = created.object;
    let pieces = [Bytes::from_static(b"abc"), Bytes::from_static(b"defg")];
    let mut watch = Watch::new(Arc::clone(&object));
    assert_eq!(looks(&mut watch, 11), None);
    let epoch = object.presence.epoch();
    let mut handed = object.sink().in_flight_write();
    handed.publish(10, &pieces, || ());
    assert_eq!(handed.end(), 17);
    assert!(files(dir.path()).is_empty(), "no file is made for that");
    assert_eq!(looks(&mut watch, 11), Some(Availability::Here(13)));
    assert_eq!(object.read_now(11, 100).expect("read").as_deref(), Some(&b"bc"[..]));
    assert_eq!(object.read_now(14, 2).expect("read").as_deref(), Some(&b"ef"[..]));
    assert_eq!(
        (object.presence.present_bytes(), object.presence.available().total()),
        (0, 7)
    );
    let all = ByteRange::new(10, 17).expect("not empty");
    assert!(!object.presence.covers(all), "not to be sent from a file");
    store.write(&object, 10, &[b"abcd", &b"efg"[..]]).expect("written");
    handed.written_to(16);
    assert_eq!(object.presence.held(11), None, "it is in the file");
    assert!(object.presence.held(15).is_some(), "not all of the piece is");
    drop(handed);
    assert!(object.presence.covers(all));
    assert_eq!(object.presence.epoch(), epoch, "nothing went");
    assert_eq!(object.presence.held(15), None);
}

#[test]
fn in_flight_bytes_that_are_never_written_become_absent() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let created = store.create(&key(1), representation(1000)).expect("made");
    let object = created.object;
    let mut watch = Watch::new(Arc::clone(&object));
    assert_eq!(looks(&mut watch, 0), None);
    let epoch = object.presence.epoch();
    let mut handed = object.sink().in_flight_write();
    handed.publish(0, &[Bytes::from_static(b"abc")], || ());
    assert_eq!(looks(&mut watch, 0), Some(Availability::Here(3)));
    let mut others = object.sink().in_flight_write();
    others.publish(10, &[Bytes::from_static(b"def")], || ());
    drop(handed);
    assert!(object.presence.held(10).is_some(), "what another has in hand stays");
    // A reader that read the removed bytes discards them (the epoch changed).
    assert!(object.presence.epoch() > epoch);
    assert_eq!(looks(&mut watch, 0), None);
    assert_eq!(object.presence.held(0), None);
}

#[test]
fn an_object_of_which_only_the_head_was_asked_gets_its_record() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = store.create(&key(1), representation(1000)).expect("made").object;
    assert!(!object.is_materialized());
    store.materialize(&object);
    assert!(object.is_materialized());
    drop(object);
    close(store, true);
    let store = open(dir.path());
    assert!(store.load(&key(1)).expect("looked for").is_some());
}

#[test]
fn an_object_purged_before_its_first_write_is_gone() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let all = PurgeScope::Prefix(String::new());
    let object = store.create(&key(1), representation(1000)).expect("made").object;
    assert_eq!(store.purge_all(&all, PurgeMode::Remove).expect("purged").removed, 1);
    assert!(object.is_discarded());
    assert!(store.load(&key(1)).expect("looked for").is_none());
}

#[test]
fn a_hit_does_not_wait_for_opening_or_eviction() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = store.create(&key(1), representation(1000)).expect("made").object;
    let _turn = store.open.changing();
    let found = store.resident(&key(1)).expect("open");
    assert!(Arc::ptr_eq(&found, &object));
}

#[test]
fn a_stored_object_is_never_taken_for_absent() {
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    let object = store.create(&key(1), representation(1000)).expect("made").object;
    store.write(&object, 0, &[[7; 100]]).expect("room");
    drop(object);
    close(store, true);
    let store = open(dir.path());
    assert!(!store.known_absent(&key(2)), "how long it takes is not known yet");
    for _ in 0..100 {
        assert!(store.load(&key(2)).expect("looked for").is_none());
    }
    // Quick or not: what is stored is never taken for absent.
    for number in 0..100 {
        assert!(!store.known_absent(&key(1)), "{number}");
    }
}

#[test]
fn objects_with_large_heads_are_closed_before_they_fill_the_memory() {
    const HEAD: usize = 64 << 10;
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    for number in 0..256 {
        let representation = Representation {
            headers: vec![("x".to_owned(), "y".repeat(HEAD))],
            ..representation(10)
        };
        let object = store.create(&key(number), representation).expect("made").object;
        store.write(&object, 0, &[[7; 10]]).expect("room");
        object.commit().expect("recorded");
    }
    let heads: usize = store.open.all().iter().map(|object| object.head_bytes()).sum();
    assert!((4 << 20..=9 << 20).contains(&heads), "{heads}");
    let reopened = store.load(&key(0)).expect("readable").expect("recorded");
    assert_eq!(reopened.representation().header_bytes(), HEAD + 1);
}

/// The bytes that a data directory takes on the disk, with all that is in it.
fn on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let metadata = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    let sizes = metadata.map(|(path, metadata)| match metadata.is_dir() {
        true => super::body_file::disk_bytes(&metadata) + on_disk(&path),
        false => super::body_file::disk_bytes(&metadata),
    });
    sizes.sum()
}

fn headers(bytes: usize) -> Vec<(String, String)> {
    vec![("x".to_owned(), "y".repeat(bytes))]
}

/// A whole object of ten bytes, with so much header.
fn tiny(store: &Store, number: u64, header_bytes: usize) -> Arc<Object> {
    let representation = Representation {
        headers: headers(header_bytes),
        ..representation(10)
    };
    let object = store.create(&key(number), representation).expect("made").object;
    store.write(&object, 0, &[[7; 10]]).expect("room");
    object.commit().expect("recorded");
    object
}

#[test]
fn a_catalog_larger_than_a_smaller_quota_is_brought_within_it() {
    const QUOTA: u64 = 20 << 20;
    let dir = TempDir::new().expect("a directory");
    let store = open(dir.path());
    for number in 0..300 {
        let object = tiny(&store, number, 31 << 10);
        for age in 0..5 {
            object.confirm(headers(31 << 10), age).expect("recorded");
        }
    }
    close(store, true);
    let before = on_disk(dir.path());
    assert!(before > 2 * QUOTA, "{before}");
    let store = open_at(dir.path(), Some(QUOTA), NOW);
    store.look_after();
    let after = on_disk(dir.path());
    assert!(after <= QUOTA, "{after}");
    let left = store.totals().expect("told").objects;
    assert!((10..300).contains(&left), "{left}");
    // What has gone makes room for others.
    tiny(&store, 1000, 31 << 10);
    assert!(store.load(&key(1000)).expect("readable").is_some());
}

#[test]
fn heads_that_grow_when_they_are_validated_keep_within_the_quota() {
    const QUOTA: u64 = 20 << 20;
    let dir = TempDir::new().expect("a directory");
    let store = open_at(dir.path(), Some(QUOTA), NOW);
    for number in 0..600 {
        drop(tiny(&store, number, 300));
    }
    let mut most = 0;
    for number in 0..600 {
        let Some(object) = store.load(&key(number)).expect("readable") else {
            continue;
        };
        store.confirm(&object, &headers(31 << 10), 1).expect("recorded");
        most = most.max(on_disk(dir.path()));
    }
    assert!(most <= QUOTA, "{most}");
    store.look_after();
    assert!(store.totals().expect("told").objects >= 10);
}
