//! Small answers that one worker gives again and again, without a look at the store: they end when they must.

use crate::support::{Client, Pond, Upstream, request, rule};
use millpond::clock::{ManualClock, from_unix_seconds};
use std::sync::Arc;
use std::time::Duration;

const TEXT: &[u8] = b"a small answer";

fn upstream() -> Upstream {
    Upstream::scripted(|seen, conn| {
        let mut head = vec![
            ("Content-Type", "text/plain".to_owned()),
            ("Cache-Control", "max-age=60".to_owned()),
            ("ETag", "\"a\"".to_owned()),
        ];
        if seen.header("if-none-match") == Some("\"a\"") {
            return conn.head(304, &head);
        }
        head.push(("Content-Length", TEXT.len().to_string()));
        conn.head(200, &head);
        conn.raw(TEXT);
    })
}

/// Asks on a connection that stays: all its requests meet the same worker.
fn ask(client: &mut Client, fields: &[(&str, &str)]) -> String {
    client.ask("GET", "/small", fields);
    client.read_head();
    assert_eq!(client.status, 200);
    assert_eq!(client.read(TEXT.len()), TEXT);
    let story = client.header("cache-status").unwrap_or_default();
    let age = client.header("age").unwrap_or_default();
    format!("{} age={age}", story.split("; key=").next().unwrap_or_default())
}

/// Which of the two serves a connection that has asked for nothing but hits, and one that has asked for more.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Lane,
    Framework,
}

const WAYS: [Way; 2] = [Way::Lane, Way::Framework];

fn warmed(upstream: &Upstream, clock: &Arc<ManualClock>, way: Way) -> (Pond, Client) {
    let pond = Pond::with_clock(upstream, Arc::clone(clock));
    let mut client = Client::connect(pond.address());
    ask(&mut client, &[]);
    if way == Way::Lane {
        client = Client::connect(pond.address());
    }
    for _ in 0..10 {
        assert_eq!(ask(&mut client, &[]), "millpond; hit; ttl=60 age=0");
    }
    assert_eq!(upstream.requests().len(), 1);
    (pond, client)
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(from_unix_seconds(1_000_000_000)))
}

#[test]
fn a_small_body_in_memory_ages_and_becomes_stale() {
    for way in WAYS {
        let (upstream, clock) = (upstream(), clock());
        let (_pond, mut client) = warmed(&upstream, &clock, way);
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask(&mut client, &[]), "millpond; hit; ttl=59 age=1");
        clock.advance(Duration::from_secs(58));
        for _ in 0..3 {
            assert_eq!(ask(&mut client, &[]), "millpond; hit; ttl=1 age=59");
        }
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask(&mut client, &[]), "millpond; fwd=stale; fwd-status=304 age=0");
        assert_eq!(upstream.requests().len(), 2);
    }
}

#[test]
fn purge_and_invalidation_of_a_small_body_act_at_once() {
    for way in WAYS {
        let (upstream, clock) = (upstream(), clock());
        let (pond, mut client) = warmed(&upstream, &clock, way);
        let address = pond.address();
        let id = request(address, "GET", "/-/api/v1/objects", &[]).json()["objects"][0]["id"].clone();
        let object = format!("/-/api/v1/objects/{}", id.as_str().expect("an id"));
        rule(address, "DELETE", &object, &[]).expect(200);
        assert_eq!(ask(&mut client, &[]), "millpond; fwd=uri-miss; stored age=0");
        for _ in 0..3 {
            assert_eq!(ask(&mut client, &[]), "millpond; hit; ttl=60 age=0");
        }
        // An object that a POST may have changed is validated; it has not changed.
        request(address, "POST", "/small", &[("Content-Length", "0")]).expect(200);
        assert_eq!(ask(&mut client, &[]), "millpond; fwd=stale; fwd-status=304 age=0");
        assert_eq!(upstream.requests().len(), 4);
    }
}

#[test]
fn ranges_and_conditions_on_a_small_body_are_evaluated() {
    for way in WAYS {
        let (upstream, clock) = (upstream(), clock());
        let (pond, mut client) = warmed(&upstream, &clock, way);
        assert_eq!(
            ask(&mut client, &[("Cache-Control", "no-cache")]),
            "millpond; fwd=request; fwd-status=304 age=0"
        );
        for (fields, status) in [
            ([("Range", "bytes=2-6")], 206),
            ([("If-None-Match", "\"a\"")], 304),
            ([("If-Match", "\"b\"")], 412),
        ] {
            assert_eq!(request(pond.address(), "GET", "/small", &fields).status, status);
            assert_eq!(ask(&mut client, &[]), "millpond; hit; ttl=60 age=0");
        }
        let head = request(pond.address(), "HEAD", "/small", &[]);
        assert_eq!((head.status, head.header("content-length")), (200, Some("14")));
    }
}

#[test]
fn every_hit_on_a_small_body_is_counted() {
    for way in WAYS {
        let (upstream, clock) = (upstream(), clock());
        let (pond, mut client) = warmed(&upstream, &clock, way);
        for _ in 0..1000 {
            ask(&mut client, &[]);
        }
        assert_eq!(pond.metric("millpond_hits_total"), 1010);
        // The object is told of them by the score, and of the rest when the second is over.
        clock.advance(Duration::from_secs(1));
        ask(&mut client, &[]);
        assert_eq!(pond.object()["hits"], 1012);
    }
}
