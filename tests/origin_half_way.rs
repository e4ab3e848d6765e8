//! Changes of a directory that end half way: a crash, an original that cannot be removed. What was there is not lost.

use crate::support::mounts::{Mounted, run, skip};
use crate::support::{Origin, eventually};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The names in the place for unfinished files, without its mark.
fn left(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root.join(".millpond")).expect("read");
    let names = names.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "root").collect()
}

#[test]
fn a_move_whose_original_cannot_be_removed_changes_nothing() {
    let origin = Origin::writable();
    let disk = origin.root().join("disk");
    std::fs::create_dir(&disk).expect("made");
    let Some(_disk) = Mounted::new(&["-t", "tmpfs", "none"], &disk) else {
        return;
    };
    for name in ["disk/film", "disk/films/one", "disk/fresh"] {
        origin.write(name, "new");
    }
    std::os::unix::fs::symlink("film", disk.join("link")).expect("linked");
    for name in ["film", "films/old", "over/old", "link"] {
        origin.write(name, "old");
    }
    if let Err(why) = run("mount", &["-o", "remount,ro", &disk.display().to_string()]) {
        return skip(&format!("a read-only mount: {why}"));
    }
    for (from, to) in [
        ("/disk/film", "/film"),
        ("/disk/film", "/over"),
        ("/disk/films/", "/films/"),
        ("/disk/films/", "/film"),
        ("/disk/link", "/link"),
        ("/disk/fresh", "/fresh"),
    ] {
        origin.request("MOVE", from, &[("Destination", to)]).expect(403);
    }
    for name in ["/film", "/films/old", "/over/old", "/link"] {
        assert_eq!(origin.get(name).expect(200).text(), "old", "{name}");
    }
    for name in ["/disk/film", "/disk/films/one", "/disk/fresh", "/disk/link"] {
        assert_eq!(origin.get(name).expect(200).text(), "new", "{name}");
    }
    origin.get("/fresh").expect(404);
    origin.get("/films/one").expect(404);
    eventually("nothing is left of them", || left(&origin.root()).is_empty());
    // Once the originals can be removed, the moves succeed.
    run("mount", &["-o", "remount,rw", &disk.display().to_string()]).expect("writable again");
    origin
        .request("MOVE", "/disk/film", &[("Destination", "/over")])
        .expect(204);
    origin
        .request("MOVE", "/disk/films/", &[("Destination", "/films/")])
        .expect(204);
    origin
        .request("MOVE", "/disk/link", &[("Destination", "/link")])
        .expect(204);
    assert_eq!(origin.get("/over").text(), "new");
    assert_eq!(origin.get("/films/one").text(), "new");
    origin.get("/films/old").expect(404);
    let link = std::fs::read_link(origin.root().join("link")).expect("a link");
    assert_eq!(link, Path::new("film"));
    assert!(!disk.join("film").exists() && !disk.join("films").exists() && !disk.join("link").is_symlink());
    eventually("nothing is left of what they replaced", || {
        left(&origin.root()).is_empty()
    });
}

#[test]
fn a_collection_that_changes_after_it_was_copied_is_moved_back() {
    let origin = Origin::writable();
    let disk = origin.root().join("disk");
    std::fs::create_dir(&disk).expect("made");
    let Some(_disk) = Mounted::new(&["-t", "tmpfs", "none"], &disk) else {
        return;
    };
    for round in 0..20 {
        let _ = std::fs::create_dir(origin.root().join("films"));
        let films: Vec<_> = (0..40).map(|film| format!("films/{round}-{film}")).collect();
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let written = films.iter().filter(|film| {
                    std::thread::yield_now();
                    // Gone while it is moved.
                    std::fs::write(origin.root().join(film), "new").is_ok()
                });
                written.count()
            });
            let moved = origin.request("MOVE", "/films/", &[("Destination", "/disk/films/")]);
            let written = writing.join().expect("written");
            (moved.status, written)
        });
        let there = |dir: &Path| std::fs::read_dir(dir.join("films")).map(Iterator::count).ok();
        match written {
            // Writes after the move fail, as the collection is gone; files from before the move have moved.
            (201, written) => {
                assert_eq!(there(&disk), Some(written), "some is lost");
                assert_eq!(there(&origin.root()), None, "it is there twice");
                std::fs::remove_dir_all(disk.join("films")).expect("removed");
            }
            // A collection that changed meanwhile is where it was, and nowhere else.
            (503, written) => {
                assert!(
                    there(&origin.root()).is_some_and(|count| count >= written),
                    "some is lost"
                );
                assert_eq!(there(&disk), None, "it is there twice");
                std::fs::remove_dir_all(origin.root().join("films")).expect("removed");
            }
            (status, _) => panic!("{status}"),
        }
    }
}

#[test]
fn a_collection_that_a_file_replaces_has_a_name_at_every_moment() {
    let origin = Origin::writable();
    origin.write("file", "x");
    let path = origin.root().join("both");
    for how in ["COPY", "MOVE"] {
        for _ in 0..20 {
            origin.write("both/in", "y");
            origin.write("moved", "z");
            let (copying, missing) = (AtomicBool::new(true), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while copying.load(Ordering::Acquire) {
                        if path.symlink_metadata().is_err() {
                            missing.store(true, Ordering::Release);
                        }
                    }
                });
                let from = if how == "COPY" { "/file" } else { "/moved" };
                origin.request(how, from, &[("Destination", "/both")]).expect(204);
                copying.store(false, Ordering::Release);
            });
            assert!(
                !missing.load(Ordering::Acquire),
                "{how}: nothing had the name for a moment"
            );
            assert!(path.is_file());
            std::fs::remove_file(&path).expect("removed");
        }
    }
}

#[test]
fn files_displaced_by_a_killed_server_go_back_to_their_names() {
    let mut origin = Origin::writable();
    origin.write("d/stays", "newer");
    origin.stop();
    let place = origin.root().join(".millpond");
    for name in ["kept-free", "kept-taken"] {
        std::fs::create_dir(place.join(name)).expect("made");
        std::fs::write(place.join(name).join("film"), "old").expect("written");
    }
    std::fs::write(origin.root().join("d/.millpond-beside"), "old").expect("written");
    for (note, text) in [
        ("note-1", "/.millpond/kept-free\n/a%20film"),
        ("note-2", "/.millpond/kept-taken\n/d/stays"),
        ("note-3", "/d/.millpond-beside\n/d/back"),
    ] {
        std::fs::write(place.join(note), text).expect("written");
    }
    origin.restart();
    assert_eq!(origin.get("/a%20film/film").expect(200).text(), "old");
    assert_eq!(origin.get("/d/back").expect(200).text(), "old");
    // Something has its name by now: neither of the two is lost, at this start or the next.
    origin.restart();
    assert_eq!(origin.get("/d/stays").text(), "newer");
    let kept = std::fs::read_to_string(place.join("kept-taken/film")).expect("kept");
    assert_eq!(kept, "old");
    let mut names = left(&origin.root());
    names.sort();
    assert_eq!(names, ["kept-taken", "note-2"]);
    // When the name is free it goes back.
    std::fs::remove_file(origin.root().join("d/stays")).expect("removed");
    origin.restart();
    assert_eq!(origin.get("/d/stays/film").expect(200).text(), "old");
    assert!(left(&origin.root()).is_empty());
}
