//! Bytes that were fetched with one client's credentials are another's only when the upstream has said so.

use crate::support::{Answer, Film, Pond, Upstream, eventually, get, request};
use millpond::clock::{ManualClock, from_unix_seconds};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Fields by which upstreams know their clients.
const FIELDS: [&str; 6] = [
    "Cookie",
    "X-Emby-Token",
    "X-Plex-Token",
    "X-Api-Key",
    "X-Auth-Token",
    "Api-Key",
];

/// An upstream of one film that alice and bob may see, and mallory and strangers may not; with a tag or without any
/// validator. It counts the bytes of bodies that it has sent.
fn upstream(film: &Film, tagged: bool) -> (Upstream, Arc<AtomicUsize>) {
    let (film, sent) = (film.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&sent);
    let upstream = Upstream::scripted(move |seen, conn| {
        let who = FIELDS.iter().find_map(|name| seen.header(name)).unwrap_or_default();
        if !(who.contains("alice") || who.contains("bob")) {
            return conn.head(403, &[("Content-Length", "0".to_owned())]);
        }
        let mut fields = vec![
            ("Content-Type", "video/mp4".to_owned()),
            ("Accept-Ranges", "bytes".to_owned()),
        ];
        if tagged {
            fields.push(("ETag", "\"film\"".to_owned()));
        }
        if seen.header("if-none-match") == Some("\"film\"") {
            return conn.head(304, &fields);
        }
        let (start, end) = seen.range(film.len).unwrap_or((0, film.len));
        let is_part = seen.header("range").is_some();
        if is_part {
            fields.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)));
        }
        fields.push(("Content-Length", (end - start).to_string()));
        conn.head(if is_part { 206 } else { 200 }, &fields);
        counted.fetch_add((end - start) as usize, Ordering::Relaxed);
        conn.body(&film, start, end);
    });
    (upstream, sent)
}

fn play(pond: &Pond, path: &str, field: &str, who: &str) -> Answer {
    request(pond.address(), "GET", path, &[(field, &format!("session={who}"))])
}

#[test]
fn a_film_that_one_clients_credentials_have_brought_is_anothers_when_the_upstream_allows_it() {
    // A film of a mebibyte and more is reused without a validator.
    let film = Film::new(2 << 20);
    for tagged in [true, false] {
        let (upstream, sent) = upstream(&film, tagged);
        let pond = Pond::before(&upstream);
        for field in FIELDS {
            let path = format!("/film?{field}");
            film.check(0, &play(&pond, &path, field, "alice").expect(200).body);
            eventually("it is stored", || play(&pond, &path, field, "alice").is_hit());
            let once = sent.load(Ordering::Relaxed);
            for who in ["mallory", "mallory"] {
                let refused = play(&pond, &path, field, who);
                assert_eq!(refused.status, 403, "{field} {tagged}: {:?}", refused.story());
                assert!(refused.body.is_empty());
            }
            let stranger = get(pond.address(), &path);
            assert_eq!(stranger.status, 403, "{field} {tagged}: {:?}", stranger.story());
            let asked = upstream.requests().len();
            film.check(0, &play(&pond, &path, field, "bob").expect(200).body);
            assert_eq!(upstream.requests().len(), asked + 1, "bob is asked about, once");
            assert!(play(&pond, &path, field, "bob").is_hit(), "and remembered");
            assert!(
                play(&pond, &path, field, "alice").is_hit(),
                "a refusal takes nothing from the others"
            );
            assert!(sent.load(Ordering::Relaxed) <= once + 1, "the film was fetched once");
        }
    }
}

#[test]
fn the_word_on_whose_a_film_is_outlives_a_restart() {
    let film = Film::new(300_000);
    let (upstream, _) = upstream(&film, true);
    let mut pond = Pond::before(&upstream);
    play(&pond, "/film", "Cookie", "alice").expect(200);
    pond.until_state("complete");
    pond.restart();
    assert_eq!(get(pond.address(), "/film").status, 403);
    film.check(0, &play(&pond, "/film", "Cookie", "bob").expect(200).body);
}

#[test]
fn a_client_that_comes_while_another_ones_film_is_fetched_is_asked_about_too() {
    let film = Film::new(4 << 20);
    let valve = crate::support::Valve::new(100_000);
    let (shown, gate) = (film.clone(), valve.clone());
    let upstream = Upstream::start(valve.clone(), u64::MAX, move |seen, conn| {
        let who = seen.header("cookie").unwrap_or_default();
        if !who.contains("alice") {
            return conn.head(403, &[("Content-Length", "0".to_owned())]);
        }
        let _ = &gate;
        conn.serve(&shown, seen);
    });
    let pond = Pond::before(&upstream);
    let mut alice = crate::support::Client::open(pond.address(), "GET", "/film", &[("Cookie", "session=alice")]);
    film.check(0, &alice.read(1000));
    assert_eq!(get(pond.address(), "/film").status, 403);
    assert_eq!(play(&pond, "/film", "Cookie", "mallory").status, 403);
    valve.allow(u64::MAX);
    film.check(1000, &alice.finish().body);
}

#[test]
fn a_reply_that_says_that_it_is_for_all_is_given_to_all_without_a_question() {
    let upstream = Upstream::scripted(|seen, conn| {
        let control = if seen.target.contains("public") {
            "public"
        } else {
            "max-age=60"
        };
        let fields = [
            ("Content-Type", "video/mp4".to_owned()),
            ("Cache-Control", control.to_owned()),
            ("ETag", "\"picture\"".to_owned()),
            ("Content-Length", "4".to_owned()),
        ];
        conn.head(200, &fields);
        conn.raw(b"here");
    });
    let pond = Pond::before(&upstream);
    for path in ["/public", "/fresh"] {
        play(&pond, path, "Cookie", "alice").expect(200);
        eventually("it is stored", || play(&pond, path, "Cookie", "alice").is_hit());
        let asked = upstream.requests().len();
        assert!(get(pond.address(), path).is_hit());
        assert!(play(&pond, path, "Cookie", "mallory").is_hit());
        assert_eq!(upstream.requests().len(), asked);
    }
}

#[test]
fn a_field_that_the_operator_names_is_a_credential() {
    let upstream = Upstream::scripted(|seen, conn| {
        let is_known = seen.header("x-house-pass").is_some();
        let fields = [
            ("Content-Type", "video/mp4".to_owned()),
            ("ETag", "\"photo\"".to_owned()),
            ("Content-Length", "4".to_owned()),
        ];
        conn.head(if is_known { 200 } else { 403 }, &fields);
        conn.raw(b"here");
    });
    for (setting, status) in [("X-House-Pass", 403), ("", 200)] {
        let pond = Pond::with(&upstream, &[("credentials", setting)]);
        let known = || request(pond.address(), "GET", "/photo", &[("X-House-Pass", "1")]);
        known().expect(200);
        eventually("it is stored", || known().is_hit());
        assert_eq!(get(pond.address(), "/photo").status, status, "{setting}");
    }
}

#[test]
fn an_object_that_credentials_go_on_with_is_guarded_from_then_on() {
    let film = Film::new(2 << 20);
    let (shown, closed) = (film.clone(), Arc::new(AtomicUsize::new(0)));
    let is_closed = Arc::clone(&closed);
    let upstream = Upstream::scripted(move |seen, conn| {
        let is_stranger = !seen.header("cookie").unwrap_or_default().contains("alice");
        if is_stranger && is_closed.load(Ordering::Relaxed) == 1 {
            return conn.head(403, &[("Content-Length", "0".to_owned())]);
        }
        conn.serve(&shown, seen);
    });
    let pond = Pond::with(&upstream, &[("after_last_reader", "stop")]);
    let preview = request(pond.address(), "GET", "/film", &[("Range", "bytes=0-9")]);
    film.check(0, &preview.expect(206).body);
    eventually("the fill for the preview has ended", || {
        let fills = crate::support::rule(pond.address(), "GET", "/-/api/v1/fills", &[]).json();
        fills["fills"].as_array().is_some_and(Vec::is_empty)
    });
    closed.store(1, Ordering::Relaxed);
    film.check(0, &play(&pond, "/film", "Cookie", "alice").expect(200).body);
    pond.until_state("complete");
    assert_eq!(get(pond.address(), "/film").status, 403);
    assert_eq!(play(&pond, "/film", "Cookie", "mallory").status, 403);
}

#[test]
fn a_client_that_is_refused_gets_nothing_by_a_condition_when_strangers_are_allowed() {
    let upstream = Upstream::scripted(|seen, conn| {
        if seen.header("cookie").unwrap_or_default().contains("mallory") {
            return conn.head(403, &[("Content-Length", "0".to_owned())]);
        }
        let tag = ("ETag", "\"film\"".to_owned());
        if seen.header("if-none-match") == Some("\"film\"") {
            return conn.head(304, &[tag]);
        }
        conn.head(
            200,
            &[
                tag,
                ("Content-Type", "video/mp4".to_owned()),
                ("Content-Length", "4".to_owned()),
            ],
        );
        conn.raw(b"here");
    });
    let pond = Pond::before(&upstream);
    play(&pond, "/film", "Cookie", "alice").expect(200);
    eventually("it is stored", || play(&pond, "/film", "Cookie", "alice").is_hit());
    get(pond.address(), "/film").expect(200);
    for field in [
        ("If-None-Match", "\"other\""),
        ("Range", "bytes=0-0,2-2"),
        ("Range", "bytes=0-1"),
    ] {
        for method in ["GET", "HEAD"] {
            let refused = request(pond.address(), method, "/film", &[("Cookie", "session=mallory"), field]);
            assert_eq!(refused.status, 403, "{method} {field:?}");
        }
    }
}

#[test]
fn a_signed_redirect_is_told_to_its_client_alone() {
    let (gate, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asked, is_open) = (Arc::clone(&gate), Arc::clone(&opened));
    let upstream = Upstream::scripted(move |seen, conn| {
        let is_alice = seen.header("cookie").is_some_and(|who| who.contains("alice"));
        if seen.target.starts_with("/signed") {
            let fields = [
                ("Content-Type", "application/vnd.apple.mpegurl".to_owned()),
                ("Content-Length", "8".to_owned()),
            ];
            conn.head(200, &fields);
            conn.raw(b"#EXTM3U\n");
        } else if is_alice {
            asked.store(1, Ordering::Relaxed);
            while is_open.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let location = ("Location", "/signed-for-alice.m3u8".to_owned());
            conn.head(302, &[location, ("Content-Length", "0".to_owned())]);
        } else {
            conn.head(403, &[("Content-Length", "0".to_owned())]);
        }
    });
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let alice = std::thread::spawn(move || request(address, "GET", "/list.m3u8", &[("Cookie", "session=alice")]));
    eventually("alice's request is under way", || gate.load(Ordering::Relaxed) == 1);
    let mallory = std::thread::spawn(move || get(address, "/list.m3u8"));
    eventually("mallory waits with her", || {
        let fills = crate::support::rule(address, "GET", "/-/api/v1/fills", &[]).json();
        let readers = |fill: &serde_json::Value| fill["readers"].as_u64();
        let fills = fills["fills"].as_array().cloned().unwrap_or_default();
        fills.iter().filter_map(readers).sum::<u64>() >= 2
    });
    opened.store(1, Ordering::Relaxed);
    let mallory = mallory.join().expect("answered");
    assert!(!format!("{mallory:?}").contains("signed"), "{mallory:?}");
    assert_eq!(mallory.status, 403, "{}", mallory.text());
    alice.join().expect("answered");
}

#[test]
fn an_upstream_that_is_down_takes_nothing_from_a_client_that_was_allowed_before() {
    let film = Film::new(2 << 20);
    let (shown, down) = (film.clone(), Arc::new(AtomicUsize::new(0)));
    let is_down = Arc::clone(&down);
    let upstream = Upstream::scripted(move |seen, conn| match is_down.load(Ordering::Relaxed) {
        0 => conn.serve(&shown, seen),
        _ => conn.reset(),
    });
    let clock = Arc::new(ManualClock::at(from_unix_seconds(1_700_000_000)));
    let pond = Pond::with_clock(&upstream, Arc::clone(&clock));
    play(&pond, "/film", "Cookie", "alice").expect(200);
    pond.until_state("complete");
    down.store(1, Ordering::Relaxed);
    clock.advance(Duration::from_secs(2 * 3600));
    film.check(0, &play(&pond, "/film", "Cookie", "alice").expect(200).body);
    assert!(play(&pond, "/film", "Cookie", "mallory").status >= 500);
}
