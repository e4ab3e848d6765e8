//! A directory on the file systems that there are: subvolumes, bind mounts, FUSE, what is unmounted, removed, or hangs.
//!
//! Most of this needs root. Where a mount cannot be made the test says so, loudly, and is over.

use crate::support::mounts::{Fuse, Mounted, run, skip};
use crate::support::origin::send;
use crate::support::{Film, Origin, eventually};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// All changes there are, in a collection that a rename from the top may not reach.
fn changes_work_in(origin: &Origin, collection: &str) {
    let at = |name: &str| format!("{collection}{name}");
    let film = Film::new(3_000_000);
    origin
        .put(&at("new"), &[("If-None-Match", "*")], &film.bytes(0, film.len))
        .expect(201);
    film.check(0, &origin.get(&at("new")).expect(200).body);
    let tag = origin.etag(&at("new"));
    origin.put(&at("new"), &[("If-Match", "\"x\"")], b"no").expect(412);
    origin.put(&at("new"), &[("If-Match", &tag)], b"replaced").expect(204);
    origin.put(&at("new"), &[], b"again").expect(204);
    origin
        .request("COPY", &at("new"), &[("Destination", &at("copy"))])
        .expect(201);
    origin
        .request("MOVE", &at("copy"), &[("Destination", &at("moved"))])
        .expect(201);
    // Over the border, both ways.
    origin
        .request("MOVE", &at("moved"), &[("Destination", "/over")])
        .expect(201);
    assert_eq!(origin.get("/over").text(), "again");
    origin.get(&at("moved")).expect(404);
    origin
        .request("MOVE", "/over", &[("Destination", &at("back"))])
        .expect(201);
    origin.request("DELETE", &at("back"), &[("If-Match", "*")]).expect(204);
    let begun = origin.put(&at("upload"), &[("Upload-Complete", "?0")], b"abc");
    let place = begun.expect(201).header("location").expect("a place").to_owned();
    let headers = [
        ("Content-Type", "application/partial-upload"),
        ("Upload-Offset", "3"),
        ("Upload-Complete", "?1"),
    ];
    send(origin.address(), "PATCH", &place, &headers, b"def").expect(201);
    assert_eq!(origin.get(&at("upload")).text(), "abcdef");
    origin.request("MKCOL", &at("d/"), &[]).expect(201);
    origin.put(&at("d/x"), &[], b"x").expect(201);
    origin
        .request("COPY", &at("d/"), &[("Destination", &at("e/"))])
        .expect(201);
    origin
        .request("COPY", &at("d/"), &[("Destination", &at("e/"))])
        .expect(204);
    assert_eq!(origin.get(&at("e/x")).text(), "x");
    for gone in ["d/", "e/", "upload", "new"] {
        origin.request("DELETE", &at(gone), &[]).expect(204);
    }
    let left = || {
        origin
            .everything()
            .into_iter()
            .filter(|name| name.contains(".millpond") && !name.ends_with(".json"))
    };
    eventually("nothing of ours is left", || left().count() == 1);
}

#[test]
fn changes_work_in_a_bind_mount_and_on_another_file_system() {
    let origin = Origin::writable();
    let behind = origin.outside().join("behind");
    for dir in [&behind, &origin.root().join("bind"), &origin.root().join("tmp")] {
        std::fs::create_dir(dir).expect("made");
    }
    let source = behind.display().to_string();
    let Some(_bind) = Mounted::new(&["--bind", &source], &origin.root().join("bind")) else {
        return;
    };
    let Some(_tmp) = Mounted::new(&["-t", "tmpfs", "none"], &origin.root().join("tmp")) else {
        return;
    };
    changes_work_in(&origin, "/bind/");
    changes_work_in(&origin, "/tmp/");
    // A mount point is neither removed nor moved.
    origin.put("/tmp/stays", &[], b"x").expect(201);
    eventually("the mount is known", || {
        origin.request("DELETE", "/tmp/", &[]).status == 409
    });
    origin
        .request("MOVE", "/tmp/", &[("Destination", "/elsewhere/")])
        .expect(409);
    assert_eq!(origin.get("/tmp/stays").text(), "x");
}

#[test]
fn a_collection_moves_to_another_file_system_with_all_that_it_holds() {
    let origin = Origin::writable();
    let disk = origin.root().join("disk");
    std::fs::create_dir(&disk).expect("made");
    let Some(_disk) = Mounted::new(&["-t", "tmpfs", "none"], &disk) else {
        return;
    };
    origin.write("films/one/film.mkv", "film");
    origin.write("films/two.mkv", "another");
    let root = origin.root();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let film = std::fs::File::open(root.join("films/one/film.mkv")).expect("open");
    film.set_modified(time).expect("set");
    std::fs::set_permissions(root.join("films/two.mkv"), PermissionsExt::from_mode(0o640)).expect("set");
    std::os::unix::fs::symlink("two.mkv", root.join("films/link")).expect("linked");
    let there = [("Destination", "/disk/films/")];
    origin.request("MOVE", "/films/", &there).expect(201);
    assert!(!root.join("films").exists(), "it is where it was");
    assert_eq!(origin.get("/disk/films/one/film.mkv").text(), "film");
    assert_eq!(origin.get("/disk/films/link").text(), "another");
    let metadata = |name: &str| std::fs::metadata(disk.join(name)).expect("there");
    assert_eq!(metadata("films/one/film.mkv").modified().expect("a time"), time);
    assert_eq!(metadata("films/two.mkv").permissions().mode() & 0o777, 0o640);
    // A pipe cannot be copied: nothing is lost, and nothing half made is left.
    origin.write("more/a", "x");
    run("mkfifo", &[&root.join("more/pipe").display().to_string()]).expect("made");
    origin
        .request("MOVE", "/more/", &[("Destination", "/disk/more/")])
        .expect(409);
    assert!(root.join("more/pipe").exists() && !disk.join("more").exists());
    let left = |dir: &Path| {
        let names = std::fs::read_dir(dir).expect("read");
        let names = names.map(|entry| entry.expect("read").file_name());
        names
            .filter(|name| name.to_string_lossy().contains("put-") || name.to_string_lossy().starts_with(".millpond-"))
            .count()
    };
    assert_eq!((left(&disk), left(&root.join(".millpond"))), (0, 0));
}

#[test]
fn changes_work_in_a_subvolume() {
    let origin = Origin::writable();
    let image = origin.outside().join("image");
    std::fs::File::create(&image)
        .and_then(|file| file.set_len(300 << 20))
        .expect("made");
    let text = image.display().to_string();
    if let Err(why) = run("mkfs.btrfs", &["-q", &text]) {
        return skip(&format!("mkfs.btrfs: {why}"));
    }
    let root = origin.root().join("btrfs");
    std::fs::create_dir(&root).expect("made");
    let Some(_mounted) = Mounted::new(&["-o", "loop", &text], &root) else {
        return;
    };
    let served = Origin::with(&[
        ("writable", "true"),
        ("directory", &root.display().to_string()),
        ("data", &origin.outside().join("data-btrfs").display().to_string()),
    ]);
    if let Err(why) = run(
        "btrfs",
        &["subvolume", "create", &root.join("photos").display().to_string()],
    ) {
        return skip(&format!("btrfs subvolume: {why}"));
    }
    changes_work_in(&served, "/photos/");
}

#[test]
fn changes_work_where_the_file_system_knows_neither_noreplace_nor_links() {
    let origin = Origin::writable();
    let (behind, root) = (origin.outside().join("behind"), origin.outside().join("fuse"));
    for dir in [&behind, &root] {
        std::fs::create_dir(dir).expect("made");
    }
    let text = |path: &Path| path.display().to_string();
    let cache = text(&origin.outside().join("rclone-cache"));
    let arguments = [
        "--config=/dev/null",
        "mount",
        &text(&behind),
        &text(&root),
        "--vfs-cache-mode=writes",
        "--vfs-write-back=0s",
        "--cache-dir",
        &cache,
    ];
    let Some(_fuse) = Fuse::new("rclone", &arguments, &root) else {
        return;
    };
    let served = Origin::with(&[
        ("writable", "true"),
        ("directory", &text(&root)),
        ("data", &text(&origin.outside().join("data-fuse"))),
    ]);
    served.put("/new.txt", &[("If-None-Match", "*")], b"1").expect(201);
    served.put("/new.txt", &[("If-None-Match", "*")], b"2").expect(412);
    served.put("/new.txt", &[], b"3").expect(204);
    served.put("/new.txt", &[("If-Match", "*")], b"4").expect(204);
    served
        .request("MOVE", "/new.txt", &[("Destination", "/moved.txt")])
        .expect(201);
    assert_eq!(served.get("/moved.txt").text(), "4");
    served.request("DELETE", "/moved.txt", &[("If-Match", "*")]).expect(204);
}

#[test]
fn new_files_inherit_from_their_directory_and_replaced_ones_keep_what_they_had() {
    let origin = Origin::writable();
    let share = origin.root().join("share");
    std::fs::create_dir(&share).expect("made");
    let keep = origin.write("keep", "x");
    if let Err(error) = std::os::unix::fs::chown(&share, None, Some(12345)) {
        return skip(&format!("chown: {error}"));
    }
    std::fs::set_permissions(&share, std::fs::Permissions::from_mode(0o2775)).expect("set");
    std::os::unix::fs::chown(&keep, Some(1234), Some(12345)).expect("given");
    std::fs::set_permissions(&keep, std::fs::Permissions::from_mode(0o6660)).expect("set");
    let attribute = rustix::fs::setxattr(&keep, "user.note", b"kept", rustix::fs::XattrFlags::empty());
    origin.put("/share/new", &[], b"x").expect(201);
    origin.put("/keep", &[], b"y").expect(204);
    origin.put("/keep", &[("If-Match", "*")], b"z").expect(204);
    let inspected = |path: &Path| std::fs::metadata(path).expect("inspected");
    assert_eq!(inspected(&share.join("new")).gid(), 12345);
    let kept = inspected(&keep);
    // Rights to run as another are not for bytes that the owner has not seen.
    assert_eq!((kept.uid(), kept.gid(), kept.mode() & 0o7777), (1234, 12345, 0o660));
    let mut space = [0; 16];
    let read = rustix::fs::getxattr(&keep, "user.note", &mut space[..]);
    assert_eq!(read.is_ok(), attribute.is_ok());
    let list = |path: &Path| {
        let mut space = [0; 256];
        let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut space[..]).unwrap_or(0);
        space[..length].to_vec()
    };
    let text = share.display().to_string();
    match run("setfacl", &["-d", "-m", "u:12345:rwx", &text]) {
        Ok(()) => {
            std::fs::write(share.join("by-hand"), "x").expect("written");
            origin.put("/share/acl", &[], b"x").expect(201);
            assert_eq!(list(&share.join("acl")), list(&share.join("by-hand")));
            assert!(!list(&share.join("acl")).is_empty());
        }
        Err(why) => skip(&format!("setfacl: {why}")),
    }
}

#[test]
fn a_place_for_unfinished_files_that_was_removed_is_made_again() {
    let origin = Origin::writable();
    origin.put("/a", &[], b"a").expect(201);
    std::fs::remove_dir_all(origin.root().join(".millpond")).expect("removed");
    origin.put("/b", &[], b"b").expect(201);
    origin.request("DELETE", "/b", &[("If-Match", "*")]).expect(204);
    std::fs::rename(origin.root().join(".millpond"), origin.root().join("tidied")).expect("renamed");
    origin.put("/c", &[], b"c").expect(201);
    origin.request("GET", "/-/readyz", &[]).expect(200);
}

#[test]
fn a_directory_that_was_removed_or_replaced_is_503_and_never_empty() {
    let mut origin = Origin::writable();
    origin.write("film.mkv", "x");
    let root = origin.root();
    let elsewhere = origin.outside().join("elsewhere");
    let is_away = |origin: &Origin| {
        for target in ["/", "/?as=json", "/film.mkv", "/-/readyz", "/-/uploads/x"] {
            let answer = origin.get(target);
            assert!(answer.expect(503).header("retry-after").is_some(), "{target}");
        }
        origin.put("/new", &[], b"x").expect(503);
        origin.request("PROPFIND", "/", &[("Depth", "1")]).expect(503);
        origin.get("/-/healthz").expect(200);
    };
    std::fs::rename(&root, &elsewhere).expect("renamed");
    is_away(&origin);
    std::fs::create_dir(&root).expect("made");
    is_away(&origin);
    // A start does not take the other for it.
    origin.stop();
    origin.restart();
    is_away(&origin);
    assert!(std::fs::read_dir(&root).expect("listed").next().is_none());
    std::fs::remove_dir(&root).expect("removed");
    std::fs::rename(&elsewhere, &root).expect("renamed");
    eventually("it is back", || origin.get("/-/readyz").status == 200);
    origin.get("/film.mkv").expect(200);
    origin.put("/new", &[("If-None-Match", "*")], b"x").expect(201);
    // Removed, and made again.
    std::fs::remove_dir_all(&root).expect("removed");
    std::fs::create_dir(&root).expect("made");
    is_away(&origin);
    origin.stop();
    origin.set("new_root", "true");
    origin.restart();
    assert_eq!(origin.get("/?as=json").expect(200).json()["total"], 0);
}

#[test]
fn an_unmounted_directory_is_503_until_it_is_mounted_again() {
    let outer = Origin::writable();
    let (behind, root) = (outer.outside().join("behind"), outer.outside().join("disk"));
    for dir in [&behind, &root] {
        std::fs::create_dir(dir).expect("made");
    }
    std::fs::write(behind.join("film"), "x").expect("written");
    let source = behind.display().to_string();
    let Some(mounted) = Mounted::new(&["--bind", &source], &root) else {
        return;
    };
    let mut origin = Origin::with(&[
        ("directory", &root.display().to_string()),
        ("data", &outer.outside().join("data-disk").display().to_string()),
    ]);
    origin.get("/film").expect(200);
    drop(mounted);
    origin.get("/?as=json").expect(503);
    origin.stop();
    origin.restart();
    origin.get("/?as=json").expect(503);
    let _mounted = Mounted::new(&["--bind", &source], &root);
    eventually("it is back", || origin.get("/film").status == 200);
}

#[test]
fn a_directory_whose_path_is_not_there_at_the_start_is_waited_for() {
    let mut origin = Origin::writable();
    origin.write("film", "x");
    let (root, elsewhere) = (origin.root(), origin.outside().join("elsewhere"));
    origin.stop();
    std::fs::rename(&root, &elsewhere).expect("renamed");
    origin.restart();
    origin.get("/?as=json").expect(503);
    origin.get("/-/readyz").expect(503);
    std::fs::rename(&elsewhere, &root).expect("renamed");
    eventually("it is there", || origin.get("/film").status == 200);
}

/// A mount in the directory that hangs on demand, and a file in it that was read.
fn nas(origin: &Origin) -> Option<Fuse> {
    let fuse = unread_nas(origin)?;
    eventually("the mount is served", || origin.get("/nas/film").status == 200);
    Some(fuse)
}

/// The same, of which no file was opened yet.
fn unread_nas(origin: &Origin) -> Option<Fuse> {
    let (behind, nas) = (origin.outside().join("behind"), origin.root().join("nas"));
    for dir in [&behind, &nas, &origin.root().join("mine")] {
        std::fs::create_dir(dir).expect("made");
    }
    std::fs::write(behind.join("film"), "x").expect("written");
    let text = |path: &Path| path.display().to_string();
    let fresh = "attr_timeout=0,entry_timeout=0";
    let fuse = Fuse::new("bindfs", &["-f", "-o", fresh, &text(&behind), &text(&nas)], &nas)?;
    let listed = || origin.get("/nas/?as=json").json()["total"] == 1;
    eventually("the mount is listed", listed);
    Some(fuse)
}

/// Sends a request whose answer nobody waits for.
fn ask(origin: &Origin, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(origin.address()).expect("connected");
    let host = origin.address();
    write!(stream, "{request} HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("sent");
    stream
}

#[test]
fn a_mount_that_hangs_does_not_block_changes_elsewhere() {
    let origin = Origin::writable();
    let Some(fuse) = nas(&origin) else { return };
    origin.write("old/film", "x");
    fuse.signal(rustix::process::Signal::STOP);
    // Each waits for the mount, with a lock of it.
    let hanging: Vec<TcpStream> = (0..4)
        .map(|index| ask(&origin, &format!("MKCOL /nas/{index}/")))
        .chain([ask(&origin, "DELETE /nas/film")])
        .collect();
    origin.put("/mine/one", &[], b"x").expect(201);
    // A change of a collection waits for all others on its own file system, and all others wait for it.
    origin.request("DELETE", "/old/", &[]).expect(204);
    origin.put("/mine/two", &[], b"x").expect(201);
    origin
        .request("MOVE", "/mine/", &[("Destination", "/yours/")])
        .expect(201);
    // A move onto the mount waits as well, and holds no lock on its source meanwhile.
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| origin.request("MOVE", "/yours/", &[("Destination", "/nas/yours/")]));
        origin.put("/yours/three", &[], b"x").expect(201);
        origin.request("DELETE", "/yours/two", &[]).expect(204);
        origin.request("MKCOL", "/theirs/", &[]).expect(201);
        origin.request("DELETE", "/theirs/", &[]).expect(204);
        fuse.signal(rustix::process::Signal::CONT);
        let moved = moving.join().expect("answered");
        assert_eq!(moved.status, 201, "{}", moved.text());
    });
    assert_eq!(origin.get("/nas/yours/?as=json").json()["total"], 2);
    origin.get("/yours/").expect(404);
    drop(hanging);
}

#[test]
fn a_link_into_a_mount_that_hangs_takes_neither_the_listing_nor_all_threads() {
    let origin = Origin::writable();
    let Some(fuse) = nas(&origin) else { return };
    for (target, link) in [("nas/film", "film"), ("nas", "films")] {
        std::os::unix::fs::symlink(target, origin.root().join(link)).expect("linked");
    }
    let listed = origin.get("/?as=json").expect(200).json();
    assert_eq!((&listed["total"], &listed["skipped"]), (&4.into(), &0.into()));
    let kinds: Vec<_> = (0..2).map(|index| listed["entries"][index]["type"].clone()).collect();
    assert_eq!(kinds, ["file", "collection"]);
    assert_eq!(origin.get("/film").text(), "x");
    assert_eq!(origin.get("/films/?as=json").json()["total"], 1);
    assert_eq!(origin.get("/films/film").text(), "x");
    fuse.signal(rustix::process::Signal::STOP);
    // More than there are threads ask through the links.
    let asking: Vec<TcpStream> = (0..300)
        .map(|index| ask(&origin, ["GET /film", "GET /films/film", "GET /films/"][index % 3]))
        .collect();
    let listed = origin.get("/?as=json").expect(200).json();
    // The targets of the links are unknown now, which is not the same as gone.
    assert_eq!((&listed["total"], &listed["skipped"]), (&2.into(), &2.into()));
    origin.put("/mine/new", &[], b"x").expect(201);
    assert!(origin.get("/film").expect(503).text().contains("does not answer"));
    drop(asking);
    fuse.signal(rustix::process::Signal::CONT);
    eventually("it answers again", || origin.get("/film").status == 200);
}

#[test]
fn a_mount_that_hangs_takes_neither_its_siblings_nor_all_threads() {
    let origin = Origin::writable();
    let Some(fuse) = nas(&origin) else { return };
    fuse.signal(rustix::process::Signal::STOP);
    // The parent of the mount is listed, the mount included.
    let listing = origin.get("/?as=json");
    assert_eq!(listing.expect(200).json()["total"], 2);
    origin.request("PROPFIND", "/", &[("Depth", "1")]).expect(207);
    // More than there are threads ask it.
    let asking: Vec<TcpStream> = (0..300)
        .map(|index| ask(&origin, ["GET /nas/", "GET /nas/film"][index % 2]))
        .collect();
    origin.put("/mine/new", &[], b"x").expect(201);
    assert_eq!(origin.get("/mine/?as=json").json()["total"], 1);
    origin
        .request("MOVE", "/mine/", &[("Destination", "/yours/")])
        .expect(201);
    let refused = origin.get("/nas/film");
    assert!(refused.expect(503).text().contains("does not answer"));
    drop(asking);
    fuse.signal(rustix::process::Signal::CONT);
    eventually("it answers again", || origin.get("/nas/film").status == 200);
}

#[test]
fn a_client_that_leaves_a_mount_that_hangs_does_not_stop_the_others() {
    let origin = Origin::writable();
    // A file system that knows no flush says so at the first close, and is asked no more: that close is to hang.
    let Some(fuse) = unread_nas(&origin) else { return };
    let large = std::fs::File::create(origin.outside().join("behind/large")).expect("made");
    // Reading all of it for its tag takes longer than this test, once it has rested: before that its tag is not made, and
    // the thread that found it so closes it.
    large.set_len(8 << 30).expect("sparse");
    let changed = large
        .metadata()
        .and_then(|metadata| metadata.modified())
        .expect("a time");
    let rested = || changed.elapsed().is_ok_and(|age| age > Duration::from_secs(3));
    eventually("the file has rested", rested);
    // Bodies under way, for each worker several. They wait for their clients, which take nothing: then no thread of the
    // disk has their files too.
    let reading: Vec<TcpStream> = (0..8).map(|_| ask(&origin, "GET /nas/large")).collect();
    let (mut before, mut looks) = (0, 0);
    eventually("the bodies wait for their clients", || {
        let arrived = |stream| rustix::io::ioctl_fionread(stream).expect("asked");
        let now: u64 = reading.iter().map(arrived).sum();
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
        now > 0 && looks >= 100
    });
    fuse.signal(rustix::process::Signal::STOP);
    // Their files are closed while the mount hangs.
    drop(reading);
    for _ in 0..16 {
        let status = origin.put("/mine/new", &[], b"x").status;
        assert!(matches!(status, 201 | 204), "{status}");
    }
    fuse.signal(rustix::process::Signal::CONT);
    eventually("it answers again", || origin.get("/nas/film").status == 200);
}
