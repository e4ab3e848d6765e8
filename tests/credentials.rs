//! Bytes that were fetched with one client's credentials are another's only when the upstream has said so.

use crate::support::{Answer, Film, Pond, Upstream, eventually, get, request};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
