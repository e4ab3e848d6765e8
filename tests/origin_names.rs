//! Names: whatever the file system takes travels unharmed, and no spelling leads out of the directory.

use crate::support::{Origin, Pond};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Names that servers and clients stumble over.
fn odd_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "a b",
        "(a)",
        "a+b",
        "a%b",
        "a%20b",
        "a#b",
        "a?b",
        "a;b=c,d",
        "caf\u{e9}",
        "cafe\u{301}",
        "映画",
        "a&b",
        "a'b",
        "a\"b",
        "<b>",
        "a:b",
        "a@b",
        "~a",
        "a=b",
        "$a",
        "[a]",
        "a|b",
        "^a",
        "`a`",
        "{a}",
        "100%",
        "%2e%2e",
        "a..b",
        "...",
        "-",
        "CON",
        "a ",
        "🎬",
    ]
    .map(str::to_owned)
    .into();
    names.push("n".repeat(255));
    names.push("é".repeat(127));
    names
}

/// As a client spells it that escapes all it can.
fn escaped(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn odd_names_are_put_listed_and_fetched_each_by_itself() {
    let origin = Origin::with(&[("writable", "true"), ("hidden", "true")]);
    let names = odd_names();
    origin.request("MKCOL", "/d/", &[]).expect(201);
    for (index, name) in names.iter().enumerate() {
        let put = origin.put(
            &format!("/d/{}", escaped(name)),
            &[("If-None-Match", "*")],
            format!("{index}").as_bytes(),
        );
        assert_eq!(put.status, 201, "{name}: {}", put.text());
    }
    let listing = origin.get("/d/?as=json").json();
    let entries = listing["entries"].as_array().expect("a list");
    assert_eq!(entries.len(), names.len());
    let page = origin.get("/d/").text();
    let properties = origin.request("PROPFIND", "/d/", &[("Depth", "1")]).text();
    for entry in entries {
        let name = entry["name"].as_str().expect("a name");
        let index = names.iter().position(|other| other == name).expect("one of them");
        let href = entry["href"].as_str().expect("a reference");
        let target = format!("/d/{href}");
        assert_eq!(origin.get(&target).expect(200).text(), index.to_string(), "{name}");
        assert!(page.contains(&format!("<a href=\"{href}\">")), "{name}");
        assert!(properties.contains(&format!("<D:href>{target}</D:href>")), "{name}");
        // By the reference that a browser would make of it.
        let base = url::Url::parse("http://h/d/").expect("a URL");
        let joined = base.join(href).expect("a URL");
        assert_eq!(
            origin.get(joined.path()).expect(200).text(),
            index.to_string(),
            "{name}"
        );
        assert_eq!(joined.query(), None, "{name}");
    }
    // Equal spellings are one file.
    origin.put("/d/%61%20b", &[("If-None-Match", "*")], b"x").expect(412);
}

#[test]
fn odd_names_travel_through_a_cache_in_front() {
    let origin = Origin::with(&[("hidden", "true")]);
    let names = odd_names();
    for (index, name) in names.iter().enumerate() {
        origin.write(&format!("d/{name}"), format!("{index}"));
    }
    let url = format!("http://{}/", origin.address());
    let pond = Pond::start(&[("upstream", &url)]);
    let listing = crate::support::get(pond.address(), "/d/?as=json").json();
    for entry in listing["entries"].as_array().expect("a list") {
        let name = entry["name"].as_str().expect("a name");
        let index = names.iter().position(|other| other == name).expect("one of them");
        let target = format!("/d/{}", entry["href"].as_str().expect("a reference"));
        let answer = crate::support::get(pond.address(), &target);
        assert_eq!(answer.expect(200).text(), index.to_string(), "{name}");
    }
}

#[test]
fn names_that_no_path_can_name_are_counted_not_listed() {
    use std::os::unix::ffi::OsStrExt;
    let origin = Origin::with(&[]);
    for name in [&b"latin-\xe9"[..], b"line\nbreak", b"back\\slash"] {
        std::fs::write(origin.root().join(std::ffi::OsStr::from_bytes(name)), "x").expect("written");
    }
    origin.write("plain", "x");
    let listing = origin.get("/?as=json").json();
    assert_eq!((&listing["total"], &listing["skipped"]), (&1.into(), &3.into()));
}

#[test]
fn portable_names_are_demanded_where_the_operator_says_so() {
    let origin = Origin::with(&[("writable", "true"), ("portable", "true")]);
    for name in ["/CON", "/a%3A", "/a.", "/a%20"] {
        assert!(
            origin.put(name, &[], b"x").expect(400).text().contains("some systems"),
            "{name}"
        );
    }
    origin.put("/a", &[], b"x").expect(201);
}

/// Targets that have led others out of their trees.
const WAYS_OUT: &[&str] = &[
    "/../secret",
    "/..",
    "/d/../../secret",
    "/%2e%2e/secret",
    "/%2e./secret",
    "/.%2E/secret",
    "/%252e%252e/secret",
    "/..%2fsecret",
    "/..%2Fsecret",
    "/..%5csecret",
    "/..%5Csecret",
    "/..\\secret",
    "/d/..%00/secret",
    "/d%00/../secret",
    "/%00",
    "/%c0%ae%c0%ae/secret",
    "/%e0%80%ae/secret",
    "/..%c0%afsecret",
    "/%uff0e%uff0e/secret",
    "//secret",
    "//../secret",
    "/./../secret",
    "/....//secret",
    "/..;/secret",
    "/out/secret",
    "/out",
    "/.millpond/",
    "/%2emillpond/",
    "/.%6dillpond",
];

fn with_a_secret(settings: &[(&str, &str)]) -> Origin {
    let origin = Origin::with(settings);
    origin.write("d/inside", "inside");
    std::fs::write(origin.outside().join("secret"), "the secret").expect("written");
    std::os::unix::fs::symlink("../", origin.root().join("out")).expect("linked");
    origin
}

fn expect_no_way_out(origin: &Origin, target: &str) {
    for method in ["GET", "HEAD", "PROPFIND"] {
        let answer = origin.request(method, target, &[("Depth", "1")]);
        assert!(
            (400..500).contains(&answer.status),
            "{method} {target}: {}",
            answer.status
        );
        assert!(!answer.text().contains("the secret"), "{method} {target}");
    }
    let before = origin.everything();
    for answer in [
        origin.put(target, &[], b"changed"),
        origin.request("DELETE", target, &[("Depth", "infinity")]),
        origin.request("MKCOL", target, &[]),
        origin.request("MOVE", target, &[("Destination", "/stolen")]),
        origin.request("COPY", target, &[("Destination", "/stolen")]),
        origin.request("MOVE", "/d/inside", &[("Destination", target)]),
        origin.request("COPY", "/d/inside", &[("Destination", target)]),
    ] {
        assert!((400..500).contains(&answer.status), "{target}: {}", answer.status);
    }
    assert_eq!(origin.everything(), before, "{target}");
    let secret = std::fs::read_to_string(origin.outside().join("secret")).expect("read");
    assert_eq!(secret, "the secret", "{target}");
}

#[test]
fn no_known_spelling_leads_out_of_the_directory() {
    for settings in [&[][..], &[("writable", "true")]] {
        let origin = with_a_secret(settings);
        for target in WAYS_OUT {
            // Targets that are merely other names within the tree may be made; a link that leads out may itself be
            // removed or moved.
            let within = ["/%252e%252e/secret", "/..;/secret", "/....//secret", "/out"].contains(target);
            if !within || settings.is_empty() {
                expect_no_way_out(&origin, target);
            }
        }
    }
    let origin = with_a_secret(&[("writable", "true")]);
    origin.request("MOVE", "/out", &[("Destination", "/link")]).expect(201);
    assert_eq!(origin.get("/link/secret").status, 404);
    origin.request("DELETE", "/link", &[]).expect(204);
    assert!(origin.outside().join("secret").exists(), "the link was followed");
}

#[test]
fn no_known_spelling_leads_out_through_a_cache_in_front() {
    let origin = with_a_secret(&[]);
    let url = format!("http://{}/d/", origin.address());
    let pond = Pond::start(&[("upstream", &url), ("ad_hoc", "false")]);
    for target in WAYS_OUT {
        let answer = crate::support::get(pond.address(), target);
        assert!(answer.status >= 400, "{target}: {}", answer.status);
        assert!(!answer.text().contains("the secret"), "{target}");
    }
}

#[test]
fn no_random_spelling_leads_out_of_the_directory() {
    let pieces = vec![
        "..", ".", "%2e", "%2E", "%2f", "%5c", "\\", "%00", "%25", "2e", "/", "/", "out", "d", "secret", "%c0%ae", ";",
        "..%2f",
    ];
    let spellings = proptest::collection::vec(proptest::sample::select(pieces), 1..8);
    // One server for all cases: starting one costs more than asking it.
    let origin = with_a_secret(&[("writable", "true")]);
    let url = format!("http://{}/", origin.address());
    let pond = Pond::start(&[("upstream", &url), ("ad_hoc", "false")]);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(200));
    let tried = runner.run(&spellings, |parts| {
        let target = format!("/{}", parts.concat());
        for address in [origin.address(), pond.address()] {
            let answer = crate::support::get(address, &target);
            prop_assert!(!answer.text().contains("the secret"), "{target}");
            let put = crate::support::origin::send(address, "PUT", &target, &[("If-None-Match", "*")], b"changed");
            prop_assert!(put.status != 500, "{target}");
        }
        let secret = std::fs::read_to_string(origin.outside().join("secret")).expect("read");
        prop_assert_eq!(secret, "the secret", "{}", target);
        // No file has come into being beside the directory: root, data and the secret are there.
        let beside = std::fs::read_dir(origin.outside()).expect("listed").count();
        prop_assert!(beside <= 3, "{target}");
        Ok(())
    });
    tried.expect("no way out");
}
