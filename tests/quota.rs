//! The quota: whole objects go, least recently used first.

use crate::support::{Film, Pond, Upstream, eventually, get};
use millpond::clock::{ManualClock, from_unix_seconds};
use std::sync::Arc;
use std::time::Duration;

const LEN: u64 = 1_000_000;

#[test]
fn past_the_quota_the_least_recently_used_objects_go() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let clock = Arc::new(ManualClock::at(from_unix_seconds(1_800_000_000)));
    let settings = [("upstream", upstream.url()), ("quota", "3500000".to_owned())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let pond = Pond::start_at(&settings, Arc::<ManualClock>::clone(&clock));
    for name in ["/a", "/b", "/c"] {
        film.check(0, &get(pond.address(), name).expect(200).body);
        clock.advance(Duration::from_secs(1));
    }
    // The oldest is used again, so the second oldest is the one to go.
    get(pond.address(), "/a").expect(200);
    clock.advance(Duration::from_secs(1));
    eventually("the fills to end", || pond.metric("millpond_fills") == 0);
    film.check(0, &get(pond.address(), "/d").expect(200).body);
    eventually("room", || pond.metric("millpond_stored_bytes") <= 3_500_000);
    let list = get(pond.address(), "/-/api/v1/objects").json();
    let mut kept: Vec<String> = list["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|object| {
            object["url"]
                .as_str()
                .expect("a URL")
                .rsplit('/')
                .next()
                .expect("a name")
                .to_owned()
        })
        .collect();
    kept.sort();
    assert_eq!(kept, ["a", "c", "d"]);
    // On the disk too: what was evicted is gone.
    let bodies = std::fs::read_dir(pond.dir().join("objects"))
        .expect("listed")
        .flat_map(|shard| {
            std::fs::read_dir(shard.expect("a shard").path())
                .expect("listed")
                .map(|entry| entry.expect("an entry").path())
        });
    assert_eq!(
        bodies
            .filter(|path| path.extension().is_some_and(|ext| ext == "body"))
            .count(),
        3
    );
    film.check(0, &get(pond.address(), "/b").expect(200).body);
}
