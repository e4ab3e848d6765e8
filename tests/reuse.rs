//! When a complete object answers, and when the upstream is asked again.

use crate::support::{Answer, Client, Film, Pond, Upstream, eventually, get};
use millpond::clock::{ManualClock, from_unix_seconds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LEN: u64 = 50_000;
const HOUR: Duration = Duration::from_secs(3600);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(from_unix_seconds(1_800_000_000)))
}

#[test]
fn a_stale_object_is_confirmed_by_one_byte_and_served() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let clock = clock();
    let pond = Pond::with_clock(&upstream, Arc::clone(&clock));
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    get(pond.address(), "/film").expect(200);
    assert_eq!(upstream.requests().len(), 1);
    clock.advance(HOUR);
    let confirmed = get(pond.address(), "/film");
    film.check(0, &confirmed.expect(200).body);
    assert_eq!(confirmed.story(), Some("millpond; fwd=stale; fwd-status=304"));
    assert_eq!(upstream.requests()[1].header("if-none-match"), film.etag.as_deref());
    assert_eq!(upstream.sent(), LEN);
    // Confirmed, it is fresh again.
    assert!(get(pond.address(), "/film").is_hit());
}

#[test]
fn a_changed_upstream_is_noticed_when_the_object_is_stale() {
    let edition = Arc::new(AtomicU64::new(1));
    let current = Arc::clone(&edition);
    let upstream = Upstream::scripted(move |seen, conn| {
        conn.serve(&Film::edition(LEN, current.load(Ordering::Acquire)), seen);
    });
    let clock = clock();
    let pond = Pond::with_clock(&upstream, Arc::clone(&clock));
    Film::edition(LEN, 1).check(0, &get(pond.address(), "/film").expect(200).body);
    pond.until_state("complete");
    edition.store(2, Ordering::Release);
    clock.advance(HOUR);
    let new = get(pond.address(), "/film");
    Film::edition(LEN, 2).check(0, &new.expect(200).body);
    assert_eq!(new.header("etag"), Some("\"edition-2\""));
}

#[test]
fn a_stale_object_is_served_when_the_upstream_cannot_be_reached() {
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => conn.serve(&served, seen),
        _ => conn.reset(),
    });
    let clock = clock();
    let pond = Pond::with_clock(&upstream, Arc::clone(&clock));
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    clock.advance(HOUR * 24);
    let stale = get(pond.address(), "/film");
    film.check(0, &stale.expect(200).body);
    assert!(stale.story().expect("told").contains("detail=not-revalidated"));
}

#[test]
fn a_no_store_reply_is_not_stored() {
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(
            200,
            &[
                ("Cache-Control", "no-store".to_owned()),
                ("ETag", "\"a\"".to_owned()),
                ("Content-Length", "5".to_owned()),
            ],
        );
        conn.raw(b"hello");
    });
    let pond = Pond::before(&upstream);
    assert_eq!(get(pond.address(), "/private").expect(200).text(), "hello");
    eventually("nothing kept", || pond.object().is_null());
    get(pond.address(), "/private").expect(200);
    assert_eq!(upstream.requests().len(), 2);
}

/// An upstream of one small page, which vouches for it when asked; every reply says `control`.
fn pages(control: &'static str) -> Upstream {
    Upstream::scripted(move |seen, conn| {
        let mut fields = vec![
            ("Content-Type", "text/html".to_owned()),
            ("ETag", "\"page\"".to_owned()),
            ("Cache-Control", control.to_owned()),
        ];
        if seen.header("if-none-match") == Some("\"page\"") {
            conn.head(304, &fields);
            return;
        }
        fields.push(("Content-Length", "4".to_owned()));
        conn.head(200, &fields);
        conn.raw(b"page");
    })
}

fn stored(upstream: &Upstream, clock: &Arc<ManualClock>) -> Pond {
    let pond = Pond::with_clock(upstream, Arc::clone(clock));
    get(pond.address(), "/page").expect(200);
    pond.until_state("complete");
    pond
}

fn ask(pond: &Pond, fields: &[(&str, &str)]) -> Answer {
    Client::open(pond.address(), "GET", "/page", fields).finish()
}

/// The story without its `ttl`.
fn story(answer: &Answer) -> String {
    let told = answer.story().expect("told");
    let members = told.split("; ").filter(|member| !member.starts_with("ttl="));
    members.collect::<Vec<_>>().join("; ")
}

#[test]
fn request_directives_can_force_validation() {
    let upstream = pages("max-age=1000");
    let clock = clock();
    let pond = stored(&upstream, &clock);
    clock.advance(Duration::from_secs(100));
    assert_eq!(story(&ask(&pond, &[])), "millpond; hit");
    for (number, fields) in [
        [("Cache-Control", "no-cache")],
        [("Cache-Control", "max-age=0")],
        [("Pragma", "no-cache")],
    ]
    .iter()
    .enumerate()
    {
        let answer = ask(&pond, fields);
        assert_eq!(answer.expect(200).body, b"page");
        assert_eq!(story(&answer), "millpond; fwd=request; fwd-status=304", "{fields:?}");
        assert_eq!(upstream.requests().len(), number + 2);
    }
    // The page has just been validated: limits of requests count from now.
    clock.advance(Duration::from_secs(50));
    assert_eq!(story(&ask(&pond, &[("Cache-Control", "max-age=50")])), "millpond; hit");
    assert_eq!(
        story(&ask(&pond, &[("Cache-Control", "min-fresh=950")])),
        "millpond; hit"
    );
    clock.advance(Duration::from_secs(1));
    for field in ["max-age=50", "min-fresh=950"] {
        let answer = ask(&pond, &[("Cache-Control", field)]);
        assert!(story(&answer).contains("fwd=request"), "{field}");
        clock.advance(Duration::from_secs(51));
    }
}

#[test]
fn max_stale_accepts_a_stale_reply_unless_the_reply_forbids() {
    for (control, taken) in [
        ("max-age=10", true),
        ("max-age=10, must-revalidate", false),
        ("s-maxage=10", false),
    ] {
        let upstream = pages(control);
        let clock = clock();
        let pond = stored(&upstream, &clock);
        clock.advance(Duration::from_secs(30));
        let answer = ask(&pond, &[("Cache-Control", "max-stale=20")]);
        assert_eq!(story(&answer) == "millpond; hit; detail=max-stale", taken, "{control}");
        assert_eq!(upstream.requests().len(), if taken { 1 } else { 2 });
    }
}

#[test]
fn only_if_cached_never_asks_the_upstream() {
    let upstream = pages("max-age=10");
    let clock = clock();
    let pond = Pond::with_clock(&upstream, Arc::clone(&clock));
    let only = [("Cache-Control", "only-if-cached")];
    assert!(story(ask(&pond, &only).expect(504)).contains("fwd=uri-miss"));
    assert_eq!(upstream.requests().len(), 0);
    ask(&pond, &[]).expect(200);
    pond.until_state("complete");
    ask(&pond, &only).expect(200);
    clock.advance(Duration::from_secs(11));
    ask(&pond, &only).expect(504);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn cache_control_decides_on_stale_replies_while_the_upstream_fails() {
    for (control, used) in [
        ("max-age=10", true),
        ("max-age=10, must-revalidate", false),
        ("no-cache", false),
        ("max-age=10, stale-if-error=20", true),
        ("max-age=10, stale-if-error=19", false),
    ] {
        let upstream = Upstream::scripted(move |seen, conn| {
            if seen.number > 0 {
                return conn.reset();
            }
            conn.head(
                200,
                &[
                    ("ETag", "\"page\"".to_owned()),
                    ("Cache-Control", control.to_owned()),
                    ("Content-Length", "4".to_owned()),
                ],
            );
            conn.raw(b"page");
        });
        let clock = clock();
        let pond = stored(&upstream, &clock);
        clock.advance(Duration::from_secs(30));
        let answer = ask(&pond, &[]);
        assert_eq!(
            answer.status,
            if used { 200 } else { 504 },
            "{control}: {}",
            story(&answer)
        );
    }
}

#[test]
fn a_stale_page_answers_while_the_upstream_is_asked() {
    let upstream = pages("max-age=10, stale-while-revalidate=20");
    let clock = clock();
    let pond = stored(&upstream, &clock);
    clock.advance(Duration::from_secs(29));
    let answer = ask(&pond, &[]);
    assert_eq!(answer.expect(200).body, b"page");
    assert_eq!(story(&answer), "millpond; hit; detail=stale-while-revalidate");
    upstream.wait_for_requests(2);
    eventually("a page that is fresh again", || {
        story(&ask(&pond, &[])) == "millpond; hit"
    });
    assert_eq!(upstream.requests().len(), 2);
    clock.advance(Duration::from_secs(30));
    assert!(story(&ask(&pond, &[])).contains("fwd=stale"));
}

#[test]
fn a_page_without_freshness_is_revalidated() {
    let upstream = pages("public");
    let clock = clock();
    let pond = stored(&upstream, &clock);
    let answer = ask(&pond, &[]);
    assert_eq!(answer.expect(200).body, b"page");
    assert_eq!(story(&answer), "millpond; fwd=stale; fwd-status=304");
}

#[test]
fn a_targeted_field_outranks_cache_control() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(
            200,
            &[
                ("Cache-Control", "no-store".to_owned()),
                ("CDN-Cache-Control", "max-age=60".to_owned()),
                ("Content-Length", "4".to_owned()),
            ],
        );
        conn.raw(b"page");
    });
    let clock = clock();
    let pond = stored(&upstream, &clock);
    clock.advance(Duration::from_secs(59));
    assert_eq!(story(&ask(&pond, &[])), "millpond; hit");
}
