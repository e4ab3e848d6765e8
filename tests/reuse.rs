//! When a complete object answers, and when the upstream is asked again.

use crate::support::{Film, Pond, Upstream, eventually, get};
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
    assert_eq!(
        confirmed.header("cache-status"),
        Some("millpond; fwd=stale; fwd-status=304")
    );
    assert_eq!(upstream.requests()[1].header("if-none-match"), film.etag.as_deref());
    assert_eq!(upstream.sent(), LEN);
    // Confirmed, it is fresh again.
    assert_eq!(
        get(pond.address(), "/film").header("cache-status"),
        Some("millpond; hit")
    );
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
    assert!(
        stale
            .header("cache-status")
            .expect("told")
            .contains("detail=not-revalidated")
    );
}

#[test]
fn no_store_is_shared_with_those_who_wait_and_kept_for_nobody() {
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
