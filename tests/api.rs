//! The API under `/-/`: what its document says is there, and nothing else is.

use crate::support::{Film, Pond, Upstream, request};
use serde_json::Value;
use std::collections::BTreeSet;

/// The methods that an operation can have in an OpenAPI document.
const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"];

/// The path of a resource that names no stored thing.
fn example(path: &str) -> String {
    path.replace("{id}", "00000000000000000000000000000000")
}

#[test]
fn every_documented_operation_exists_and_every_existing_one_is_documented() {
    let pond = Pond::start(&[]);
    let ask = |method: &str, path: &str| request(pond.address(), method, path, &[]);
    let document = ask("GET", "/-/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 12, "{}", paths.len());
    for (path, operations) in paths {
        let documented: BTreeSet<String> = operations
            .as_object()
            .expect("operations")
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        for method in METHODS {
            let answer = ask(method, &example(path));
            if documented.contains(method) {
                assert_ne!(answer.status, 405, "{method} {path} is documented");
                let is_unrouted = String::from_utf8_lossy(&answer.body).contains("there is api/v1");
                assert!(!is_unrouted, "{method} {path} is documented");
            } else {
                assert_eq!(answer.status, 405, "{method} {path} is not documented");
            }
        }
        let refused = ask("BREW", &example(path));
        refused.expect(405);
        let allowed: BTreeSet<String> = refused
            .header("allow")
            .expect("Allow")
            .split(", ")
            .filter(|method| *method != "HEAD")
            .map(str::to_owned)
            .collect();
        assert_eq!(allowed, documented, "{path}");
    }
    // The text of a 404 names the resources of the same table.
    let unknown = ask("GET", "/-/api/v1/nothing");
    let unknown = unknown.expect(404).json();
    let detail = unknown["detail"].as_str().expect("a detail").to_owned();
    for path in paths.keys() {
        let path = path.trim_start_matches("/-/");
        assert!(detail.contains(path), "{path} is not in {detail}");
    }
    assert_eq!(detail.matches(", ").count() + 1, paths.len(), "{detail}");
}

#[test]
fn a_problem_of_the_api_names_the_parameter_and_no_cache() {
    let pond = Pond::start(&[]);
    for (path, what) in [
        (
            "/-/api/v1/objects?limit=0",
            "limit=0 is not understood; there is limit=1..1000, after=ID",
        ),
        ("/-/api/v1/objects?colour=red", "colour=red is not understood"),
        ("/-/api/v1/fills?colour=red", "there is no parameter"),
        ("/-/api/v1/objects/abc", "an id has 32 hexadecimal digits"),
    ] {
        let answer = request(pond.address(), "GET", path, &[]);
        answer.expect(400);
        assert_eq!(answer.header("cache-status"), None, "{path}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{path}"
        );
        let problem: Value = answer.json();
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(what), "{detail}");
        assert_eq!(problem["status"], 400);
    }
}

#[test]
fn a_head_request_to_the_api_has_the_fields_of_a_get_and_no_body() {
    let pond = Pond::start(&[]);
    let [get, head] = ["GET", "HEAD"].map(|method| request(pond.address(), method, "/-/api/v1/objects", &[]));
    assert_eq!((get.status, head.status), (200, 200));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert!(head.body.is_empty());
}

#[test]
fn a_refused_change_is_counted_as_an_answer() {
    let pond = Pond::start(&[]);
    let page = [("Origin", "https://evil.example")];
    let refused = request(pond.address(), "DELETE", "/-/api/v1/objects?prefix=http", &page);
    assert_eq!(refused.expect(403).header("cache-status"), None);
    assert_eq!(pond.metric("millpond_answers_total{status=\"403\"}"), 1);
}

#[test]
fn a_health_check_may_have_parameters() {
    let pond = Pond::start(&[]);
    for path in ["/-/healthz?verbose", "/-/readyz?x=1", "/-/metrics?format=text"] {
        request(pond.address(), "GET", path, &[]).expect(200);
    }
}

#[test]
fn an_escaped_spelling_of_the_api_is_a_path_of_the_upstream() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    for method in ["GET", "POST"] {
        let before = upstream.requests().len();
        let _ = request(pond.address(), method, "/%2D/healthz", &[("Content-Length", "0")]);
        assert!(upstream.requests().len() > before, "{method} goes to the upstream");
    }
}
