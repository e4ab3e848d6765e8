//! An upstream that is away: what is stored answers at once, and nothing that comes in its place is believed.
//!
//! The upstream here goes in the ways in which they go: it closes connections, its network answers for it, a gateway does.
//! A line that drops packets is in `scripts/offline`, which needs a network of its own.

use crate::support::{Answer, Film, Pond, Upstream, eventually, get, get_range, passes, request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const HERE: u8 = 0;
/// Each connection is closed without a word.
const GONE: u8 = 1;
/// Every request is redirected to the login page of a network, on another host.
const LOGIN: u8 = 2;
/// The network answers by itself (RFC 6585 §6).
const WANTS_LOGIN: u8 = 3;
/// A gateway before the upstream finds it down.
const GATEWAY: u8 = 4;

/// An upstream of a film, with fields of its own, that can go away.
struct Leaving {
    upstream: Upstream,
    how: Arc<AtomicU8>,
    _login: Upstream,
}

impl Leaving {
    fn with(film: &Film, fields: &'static [(&'static str, &'static str)]) -> Self {
        let login = Upstream::scripted(|_, conn| {
            let page = "<!DOCTYPE html><title>Hotel</title>";
            let fields = [
                ("Content-Type", "text/html".to_owned()),
                ("Content-Length", page.len().to_string()),
            ];
            conn.head(200, &fields);
            conn.raw(page.as_bytes());
        });
        let how = Arc::new(AtomicU8::new(HERE));
        let (told, film) = (Arc::clone(&how), film.clone());
        // Another host by name, the same machine.
        let there = login.url().replace("127.0.0.1", "localhost");
        let upstream = Upstream::scripted(move |seen, conn| {
            let empty = [("Content-Length", "0".to_owned())];
            match told.load(Ordering::Relaxed) {
                GONE => return conn.close(),
                LOGIN => {
                    let location = [("Location", there.clone()), ("Content-Length", "0".to_owned())];
                    return conn.head(302, &location);
                }
                WANTS_LOGIN => return conn.head(511, &empty),
                GATEWAY => return conn.head(503, &empty),
                _ => {}
            }
            if seen.target == "/" {
                return conn.head(404, &empty);
            }
            if seen.header("authorization").is_none() && fields.iter().any(|(name, _)| *name == "X-Guarded") {
                return conn.head(401, &empty);
            }
            let mut head: Vec<(&str, String)> = vec![
                ("Content-Type", "video/mp4".to_owned()),
                ("ETag", "\"film\"".to_owned()),
                ("Accept-Ranges", "bytes".to_owned()),
            ];
            head.extend(fields.iter().map(|(name, value)| (*name, (*value).to_owned())));
            if seen.header("if-none-match") == Some("\"film\"") {
                return conn.head(304, &head);
            }
            let (start, end) = seen.range(film.len).unwrap_or((0, film.len));
            let is_part = seen.header("range").is_some();
            if is_part {
                head.push(("Content-Range", format!("bytes {start}-{}/{}", end - 1, film.len)));
            }
            head.push(("Content-Length", (end - start).to_string()));
            conn.head(if is_part { 206 } else { 200 }, &head);
            conn.body(&film, start, end);
        });
        Self {
            upstream,
            how,
            _login: login,
        }
    }

    fn goes(&self, how: u8) {
        self.how.store(how, Ordering::Relaxed);
    }

    /// A server before it, which asks about all that is stored at each request.
    fn pond(&self, more: &[(&str, &str)]) -> Pond {
        let settings = [("offline", "serve"), ("fresh_for", "0s"), ("allow_private", "true")];
        Pond::with(&self.upstream, &[&settings[..], more].concat())
    }
}

fn is_offline(answer: &Answer) -> bool {
    answer
        .story()
        .is_some_and(|story| story.contains("hit") && story.contains("detail=offline"))
}

/// Asks for what is stored until it is answered without the upstream.
fn until_offline(pond: &Pond, target: &str, film: &Film) {
    eventually("the upstream is known to be away", || {
        let answer = get(pond.address(), target);
        answer.expect(200);
        film.check(0, &answer.body);
        is_offline(&answer)
    });
}

fn until_live(pond: &Pond, target: &str) {
    eventually("the upstream is known to be back", || {
        let answer = get(pond.address(), target);
        answer.status == 200 && !is_offline(&answer)
    });
}

#[test]
fn stored_objects_answer_in_every_way_while_the_upstream_is_away() {
    let film = Film::new(2 << 20);
    for how in [GONE, LOGIN, WANTS_LOGIN, GATEWAY] {
        let leaving = Leaving::with(&film, &[]);
        let pond = leaving.pond(&[("after_last_reader", "stop")]);
        get(pond.address(), "/whole.mp4").expect(200);
        get_range(pond.address(), "/part.mp4", "bytes=0-99").expect(206);
        leaving.goes(how);
        until_offline(&pond, "/whole.mp4", &film);
        let part = get_range(pond.address(), "/whole.mp4", "bytes=1000000-1000099");
        part.expect(206);
        film.check(1_000_000, &part.body);
        assert!(
            is_offline(&part) && part.header("age").is_some(),
            "{how}: {:?}",
            part.story()
        );
        let head = request(pond.address(), "HEAD", "/whole.mp4", &[]);
        assert_eq!((head.status, head.header("content-length")), (200, Some("2097152")));
        let tag = head.header("etag").expect("a tag").to_owned();
        request(pond.address(), "GET", "/whole.mp4", &[("If-None-Match", &tag)]).expect(304);
        request(pond.address(), "GET", "/whole.mp4", &[("If-Match", "\"other\"")]).expect(412);
        get_range(pond.address(), "/whole.mp4", "bytes=9999999-").expect(416);
        let here = get_range(pond.address(), "/part.mp4", "bytes=10-19");
        here.expect(206);
        film.check(10, &here.body);
        for (target, range) in [
            ("/part.mp4", "bytes=1000000-"),
            ("/unread.mp4", "bytes=0-"),
            ("/part.mp4", "bytes=0-"),
        ] {
            let missing = get_range(pond.address(), target, range);
            missing.expect(504);
            assert!(missing.text().contains("away"), "{}", missing.text());
        }
        leaving.goes(HERE);
        until_live(&pond, "/whole.mp4");
        // What another host has said was kept for nothing.
        let unread = get(pond.address(), "/unread.mp4");
        unread.expect(200);
        film.check(0, &unread.body);
    }
}

#[test]
fn a_reply_that_must_be_revalidated_is_refused_unless_the_operator_says_always() {
    let film = Film::new(1000);
    for (rule, status) in [("serve", 504), ("always", 200)] {
        let leaving = Leaving::with(&film, &[("Cache-Control", "max-age=0, must-revalidate")]);
        let pond = leaving.pond(&[("offline", rule)]);
        get(pond.address(), "/film.mp4").expect(200);
        leaving.goes(GONE);
        eventually("the upstream is known to be away", || {
            let answer = get(pond.address(), "/film.mp4");
            assert!(answer.status == 504 || answer.status == 200, "{}", answer.status);
            answer.status == status && answer.story().is_some_and(|story| story.contains("detail=offline"))
        });
    }
}

#[test]
fn bytes_that_credentials_have_brought_are_no_others_while_the_upstream_is_away() {
    let film = Film::new(1000);
    let leaving = Leaving::with(
        &film,
        &[("X-Guarded", "yes"), ("Cache-Control", "max-age=0, no-transform")],
    );
    let pond = leaving.pond(&[]);
    let by = |who: &str| request(pond.address(), "GET", "/film.mp4", &[("Authorization", who)]);
    by("Bearer alice").expect(200);
    let kept = by("Bearer alice");
    kept.expect(200);
    leaving.goes(GONE);
    eventually("the upstream is known to be away", || by("Bearer bob").status == 504);
    assert_ne!(
        by("Bearer bob").status,
        200,
        "nobody can be asked whether bob may have it"
    );
    assert_ne!(get(pond.address(), "/film.mp4").status, 200);
}

#[test]
fn an_upstream_without_the_rule_is_waited_for_as_ever() {
    let film = Film::new(1000);
    let leaving = Leaving::with(&film, &[]);
    let pond = leaving.pond(&[("offline", "refuse")]);
    get(pond.address(), "/film.mp4").expect(200);
    leaving.goes(GONE);
    let answer = get(pond.address(), "/film.mp4");
    // RFC 5861 §4, as before: the object outlives the error, and the answer says so.
    answer.expect(200);
    assert!(!is_offline(&answer), "{:?}", answer.story());
    assert!(answer.story().is_some_and(|story| story.contains("not-revalidated")));
}

#[test]
fn an_upstream_whose_own_page_is_elsewhere_is_not_away_for_that() {
    let film = Film::new(1000);
    let probed = Arc::new(AtomicU8::new(0));
    let told = Arc::clone(&probed);
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.target == "/" {
            told.store(1, Ordering::Relaxed);
            let there = [
                ("Location", "http://elsewhere.example/".to_owned()),
                ("Content-Length", "0".to_owned()),
            ];
            return conn.head(302, &there);
        }
        // Slow enough to be suspected: it answers when it was probed.
        eventually("a probe", || told.load(Ordering::Relaxed) == 1);
        conn.serve(&film, seen);
    });
    let pond = Pond::with(&upstream, &[("offline", "serve")]);
    get(pond.address(), "/film.mp4").expect(200);
    assert_eq!(probed.load(Ordering::Relaxed), 1, "it was suspected, and probed");
    get(pond.address(), "/other.mp4").expect(200);
}

#[test]
fn a_line_that_drops_packets_keeps_nobody_waiting() {
    passes("offline");
}
