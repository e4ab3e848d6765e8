//! The losses that a mirror believes: only what complete listings lack twice, a day apart, and the upstream itself denies.
//!
//! The upstream is a tree in memory that lists itself as nginx does, in JSON, and can fail in every way in which servers
//! seem to say that files are gone. Time is in the test's hand.

use crate::support::{Conn, Pond, Seen, Upstream, get, request, rule};
use millpond::api::WalkReport;
use millpond::clock::{ManualClock, from_unix_seconds};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(25 * 3600);

/// The ways in which the upstream fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A listing ends in the middle, with a length that agrees.
    HalfListing,
    /// A body is shorter than its length.
    CutBody,
    /// 200 without a body.
    EmptyReply,
    /// A list without members, in the right format.
    EmptyList,
    /// A page for people who want to log in, as 200.
    LoginPage,
    /// The same by a redirect to another host.
    Redirect,
    /// Everything is 404.
    AllGone,
    Forbidden,
    ServerError,
    /// The connection is closed without a word.
    Silent,
    /// Listings show every second member.
    Hides,
}

const FAULTS: [Fault; 11] = [
    Fault::HalfListing,
    Fault::CutBody,
    Fault::EmptyReply,
    Fault::EmptyList,
    Fault::LoginPage,
    Fault::Redirect,
    Fault::AllGone,
    Fault::Forbidden,
    Fault::ServerError,
    Fault::Silent,
    Fault::Hides,
];

/// A tree in memory: files by their paths, each with the number of its version.
#[derive(Debug, Clone)]
struct Tree(Arc<Mutex<TreeState>>);

#[derive(Debug)]
struct TreeState {
    files: BTreeMap<String, u32>,
    fault: Fault,
    /// Names that are shown only to holders of this credential.
    private: Option<(String, String)>,
}

impl Tree {
    fn of(files: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(Mutex::new(TreeState {
            files: files.into_iter().map(|path| (path, 1)).collect(),
            fault: Fault::None,
            private: None,
        })))
    }

    fn change(&self, change: impl FnOnce(&mut TreeState)) {
        change(&mut self.0.lock().expect("whole"));
    }

    fn fails(&self, fault: Fault) {
        self.change(|state| state.fault = fault);
    }

    fn loses(&self, path: &str) {
        self.change(|state| state.files.retain(|file, _| file != path));
    }

    fn has(&self, path: &str) {
        self.change(|state| state.files.extend([(path.to_owned(), 1)]));
    }

    fn files(&self) -> BTreeMap<String, u32> {
        self.0.lock().expect("whole").files.clone()
    }

    fn serve(&self) -> Upstream {
        let tree = self.clone();
        Upstream::scripted(move |seen, conn| tree.answer(seen, conn))
    }

    fn answer(&self, seen: &Seen, conn: &mut Conn) {
        let state = self.0.lock().expect("whole");
        let empty = [("Content-Length", "0".to_owned())];
        let page = |conn: &mut Conn, kind: &str, body: &str, length: usize| {
            conn.head(
                200,
                &[
                    ("Content-Type", kind.to_owned()),
                    ("Content-Length", length.to_string()),
                ],
            );
            conn.raw(body.as_bytes());
        };
        match state.fault {
            Fault::AllGone => return conn.head(404, &empty),
            Fault::Forbidden => return conn.head(403, &empty),
            Fault::ServerError => return conn.head(500, &empty),
            Fault::Silent => return conn.close(),
            Fault::EmptyReply => {
                return conn.head(
                    200,
                    &[("Content-Type", "application/json".to_owned()), empty[0].clone()],
                );
            }
            Fault::Redirect => {
                return conn.head(
                    302,
                    &[("Location", "http://192.0.2.1/login".to_owned()), empty[0].clone()],
                );
            }
            Fault::LoginPage => return page(conn, "text/html", "<!DOCTYPE html><title>Log in</title>", 36),
            _ => {}
        }
        let shown = |path: &str| match &state.private {
            Some((token, prefix)) => !path.starts_with(prefix.as_str()) || seen.header("authorization") == Some(token),
            None => true,
        };
        if seen.target.ends_with('/') {
            let Some(text) = listing(&state, &seen.target, &shown) else {
                return conn.head(404, &empty);
            };
            // Listings have tags: one that lacks a file goes on lacking it by a 304.
            let tag = format!(
                "\"{:x}\"",
                text.bytes()
                    .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
            );
            if matches!(state.fault, Fault::None | Fault::Hides) {
                let head = [("ETag", tag.clone()), ("Content-Type", "application/json".to_owned())];
                if seen.header("if-none-match") == Some(&tag) {
                    return conn.head(304, &head);
                }
                conn.head(
                    200,
                    &[&head[..], &[("Content-Length", text.len().to_string())]].concat(),
                );
                conn.raw(text.as_bytes());
                return;
            }
            return match state.fault {
                Fault::HalfListing => page(conn, "application/json", &text[..text.len() / 2], text.len() / 2),
                Fault::CutBody => {
                    page(conn, "application/json", &text[..text.len() / 2], text.len());
                    conn.close();
                }
                Fault::EmptyList => page(conn, "application/json", "[]", 2),
                _ => page(conn, "application/json", &text, text.len()),
            };
        }
        let Some(version) = state.files.get(&seen.target).filter(|_| shown(&seen.target)) else {
            return conn.head(404, &empty);
        };
        let (tag, body) = (format!("\"{version}\""), body_of(&seen.target, *version));
        let head = [
            ("ETag", tag.clone()),
            ("Content-Type", "application/octet-stream".to_owned()),
        ];
        if seen.header("if-none-match") == Some(&tag) {
            return conn.head(304, &head);
        }
        let length = [("Content-Length", body.len().to_string())];
        conn.head(200, &[&head[..], &length[..]].concat());
        if seen.method != "HEAD" {
            conn.raw(body.as_bytes());
        }
    }
}

/// The listing of the collection, as nginx prints it; `None` where there is none.
fn listing(state: &TreeState, path: &str, shown: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut members = BTreeMap::new();
    for (file, version) in state.files.iter().filter(|(file, _)| shown(file)) {
        let Some(rest) = file.strip_prefix(path) else { continue };
        match rest.split_once('/') {
            Some((name, _)) => members.insert(name, None),
            None => members.insert(rest, Some((file, version))),
        };
    }
    if members.is_empty() && path != "/" {
        return None;
    }
    let hides = state.fault == Fault::Hides;
    let shown = members
        .into_iter()
        .enumerate()
        .filter(|(number, _)| !hides || number % 2 == 0);
    let lines = shown.map(|(_, (name, file))| match file {
        None => format!(r#"{{"name":"{name}","type":"directory","mtime":"Sun, 13 Sep 2020 12:26:40 GMT"}}"#),
        Some((file, version)) => {
            let (minute, size) = (version % 60, body_of(file, *version).len());
            format!(
                r#"{{"name":"{name}","type":"file","mtime":"Sun, 13 Sep 2020 12:{minute:02}:40 GMT","size":{size}}}"#
            )
        }
    });
    Some(format!("[{}]", lines.collect::<Vec<_>>().join(",\n")))
}

fn body_of(path: &str, version: u32) -> String {
    format!("{path} {version}")
}

/// A cache with a mirror of a tree, and a clock.
struct Mirrored {
    pond: Pond,
    clock: Arc<ManualClock>,
    tree: Tree,
    _upstream: Upstream,
}

impl Mirrored {
    fn of(tree: Tree) -> Self {
        Self::with(tree, &[])
    }

    fn with(tree: Tree, more: &[(&str, &str)]) -> Self {
        let upstream = tree.serve();
        let clock = Arc::new(ManualClock::at(from_unix_seconds(1_700_000_000)));
        let url = format!("m={}", upstream.url());
        let settings = [
            ("upstream", url.as_str()),
            ("mirror", "m/"),
            ("mirror_when", "access"),
            ("reply_timeout", "2s"),
        ];
        let pond = Pond::start_at(&[&settings[..], more].concat(), Arc::clone(&clock) as _);
        Self {
            pond,
            clock,
            tree,
            _upstream: upstream,
        }
    }

    /// Walks, and the next time is another day.
    fn walk(&self) -> WalkReport {
        self.walk_by("")
    }

    fn walk_by(&self, more: &str) -> WalkReport {
        let target = format!("/-/api/v1/mirrors/walk?mirror=m/{more}");
        let text = rule(self.pond.address(), "POST", &target, &[]).text();
        let last = text.lines().last().expect("a line");
        let line: serde_json::Value = serde_json::from_str(last).expect("JSON");
        self.clock.advance(DAY);
        serde_json::from_value(line["walked"].clone()).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The stored body of the file, without asking the upstream.
    fn stored(&self, path: &str) -> Option<String> {
        let fields = [("Cache-Control", "only-if-cached, max-stale")];
        let answer = request(self.pond.address(), "GET", &format!("/m{path}"), &fields);
        (answer.status == 200).then(|| answer.text())
    }

    fn assert_all_stored(&self, what: &str) {
        for (path, version) in self.tree.files() {
            assert_eq!(self.stored(&path), Some(body_of(&path, version)), "{what}: {path}");
        }
    }
}

fn thirty() -> Vec<String> {
    (0..30)
        .map(|number| format!("/{}/{number}.txt", ["a", "b", "c"][number % 3]))
        .collect()
}

#[test]
fn no_failure_of_any_kind_makes_a_mirror_remove_what_the_upstream_has() {
    for fault in FAULTS {
        let mirrored = Mirrored::of(Tree::of(thirty()));
        let first = mirrored.walk();
        assert!(
            first.complete && (first.dirs, first.files, first.fetched) == (4, 30, 30),
            "{first:?}"
        );
        mirrored.tree.fails(fault);
        // One that says nothing is left alone for longer and longer.
        let rounds = if fault == Fault::Silent { 2 } else { 7 };
        for round in 0..rounds {
            let report = mirrored.walk();
            assert_eq!(report.removed, 0, "{fault:?}, round {round}: {report:?}");
            mirrored.assert_all_stored(&format!("{fault:?}, round {round}"));
        }
        mirrored.tree.fails(Fault::None);
        let last = mirrored.walk();
        assert!(
            last.complete && last.files == 30 && last.suspect == 0,
            "{fault:?}: {last:?}"
        );
        assert_eq!(last.fetched, 0, "{fault:?}: nothing was lost");
    }
}

#[test]
fn a_file_that_is_gone_is_removed_after_two_listings_a_day_apart_and_the_upstreams_own_word() {
    let mirrored = Mirrored::of(Tree::of(thirty()));
    mirrored.walk();
    let lost = "/a/3.txt";
    mirrored.tree.loses(lost);
    let report = mirrored.walk();
    assert_eq!((report.suspect, report.removed, report.files), (1, 0, 29), "{report:?}");
    assert!(mirrored.stored(lost).is_some(), "one listing is not enough");
    let report = mirrored.walk();
    assert_eq!((report.suspect, report.removed), (0, 1), "{report:?}");
    assert_eq!(mirrored.stored(lost), None);
    // Its bytes are there for a week: the same file costs a question, no fetch.
    mirrored.tree.has(lost);
    let report = mirrored.walk();
    assert_eq!(
        (report.files, report.fetched, report.unchanged),
        (30, 0, 30),
        "{report:?}"
    );
    mirrored.assert_all_stored("it is back");
    mirrored.tree.loses(lost);
    for _ in 0..11 {
        mirrored.walk();
    }
    mirrored.tree.has(lost);
    assert_eq!(mirrored.walk().fetched, 1, "after a week its room was given back");
}

#[test]
fn a_collection_that_is_gone_goes_with_all_that_is_in_it() {
    let many = (0..60).map(|number| format!("/keep/{number}"));
    let mirrored = Mirrored::of(Tree::of(many.chain(["/old/x".to_owned(), "/old/deep/y".to_owned()])));
    mirrored.walk();
    mirrored
        .tree
        .change(|state| state.files.retain(|path, _| !path.starts_with("/old")));
    mirrored.walk();
    let report = mirrored.walk();
    assert_eq!(report.removed, 2, "{report:?}");
    assert_eq!(
        (mirrored.stored("/old/x"), mirrored.stored("/old/deep/y")),
        (None, None)
    );
    mirrored.assert_all_stored("the others stay");
}

#[test]
fn many_losses_at_once_are_held_until_three_more_listings_or_a_persons_word() {
    for confirms in [false, true] {
        let mirrored = Mirrored::of(Tree::of(thirty()));
        mirrored.walk();
        let before = mirrored.tree.files();
        mirrored
            .tree
            .change(|state| state.files.retain(|path, _| path.starts_with("/a")));
        let kept = mirrored.tree.files();
        let lost: Vec<&String> = before.keys().filter(|path| !kept.contains_key(*path)).collect();
        assert_eq!(mirrored.walk().held, 0, "they are suspect only");
        for round in 0..3 {
            let report = mirrored.walk();
            assert_eq!((report.held, report.removed), (20, 0), "round {round}: {report:?}");
            assert!(lost.iter().all(|path| mirrored.stored(path).is_some()));
            if confirms {
                break;
            }
        }
        let report = mirrored.walk_by(if confirms { "&confirm_removals=true" } else { "" });
        assert_eq!((report.held, report.removed), (0, 20), "{report:?}");
        assert!(lost.iter().all(|path| mirrored.stored(path).is_none()));
        mirrored.assert_all_stored("what the upstream has");
    }
}

#[test]
fn another_credential_or_filter_is_a_new_beginning_and_no_loss() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("credential");
    std::fs::write(&file, "Bearer all").expect("written");
    let tree = Tree::of(thirty());
    tree.change(|state| state.private = Some(("Bearer all".to_owned(), "/a/".to_owned())));
    let upstream = tree.serve();
    let clock = Arc::new(ManualClock::at(from_unix_seconds(1_700_000_000)));
    let settings = [
        ("upstreams.m.url", upstream.url()),
        ("upstreams.m.authorization_file", file.display().to_string()),
        ("upstreams.m.mirror", "/".to_owned()),
        ("mirror_when", "access".to_owned()),
    ];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let pond = Pond::start_at(&settings, Arc::clone(&clock) as _);
    let mirrored = Mirrored {
        pond,
        clock,
        tree,
        _upstream: upstream,
    };
    assert_eq!(mirrored.walk().files, 30);
    // Read again by each walk: a credential that sees less.
    std::fs::write(&file, "Bearer less").expect("written");
    for _ in 0..7 {
        let report = mirrored.walk();
        assert_eq!((report.removed, report.suspect, report.held), (0, 0, 0), "{report:?}");
    }
    mirrored.assert_all_stored("another credential's view is no loss");
    get(mirrored.pond.address(), "/m/b/1.txt").expect(200);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn files_that_the_upstream_has_stay_and_files_that_it_has_lost_go(
        start in proptest::collection::btree_set("/[a-c]/[a-f]", 15..18),
        steps in proptest::collection::vec((0..24_usize, "/[a-c]/[a-f]", any::<bool>()), 4..9),
    ) {
        let mirrored = Mirrored::of(Tree::of(start));
        mirrored.walk();
        for (fault, path, appears) in steps {
            // About every second walk meets a healthy upstream.
            mirrored.tree.fails(FAULTS.get(fault).copied().unwrap_or(Fault::None));
            mirrored.tree.change(|state| match appears {
                true => drop(state.files.insert(path.clone(), state.files.get(&path).map_or(1, |version| version + 1))),
                false => drop(state.files.remove(&path)),
            });
            let seen: BTreeSet<String> = mirrored.tree.files().into_keys().filter(|path| mirrored.stored(path).is_some()).collect();
            mirrored.walk();
            for path in &seen {
                prop_assert!(mirrored.stored(path).is_some(), "{path} was removed, and is there: {fault}");
            }
        }
        mirrored.tree.fails(Fault::None);
        // Two listings, and three more where much has gone at once.
        for _ in 0..6 {
            mirrored.walk();
        }
        mirrored.assert_all_stored("at the end");
        let all = ["a", "b", "c"].into_iter().flat_map(|dir| ["a", "b", "c", "d", "e", "f"].map(|file| format!("/{dir}/{file}")));
        for path in all.filter(|path| !mirrored.tree.files().contains_key(path)) {
            prop_assert_eq!(mirrored.stored(&path), None, "{} is gone, and served", path);
        }
    }
}
