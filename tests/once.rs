//! Promise 4: each byte is asked of the upstream once, however many readers want it.

use crate::support::{Client, Film, Pond, Upstream, Valve, get, get_range};

const LEN: u64 = 8_000_000;

#[test]
fn many_readers_share_one_fill() {
    let film = Film::new(LEN);
    let valve = Valve::new(0);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::before(&upstream);
    let address = pond.address();
    let readers: Vec<_> = (0..20)
        .map(|_| std::thread::spawn(move || get(address, "/film")))
        .collect();
    upstream.wait_for_requests(1);
    valve.allow(LEN);
    let answers: Vec<_> = readers
        .into_iter()
        .map(|reader| reader.join().expect("answered"))
        .collect();
    for answer in &answers {
        answer.expect(200);
        assert_eq!(answer.body.len() as u64, LEN);
        film.check(0, &answer.body);
    }
    let leaders = answers
        .iter()
        .filter(|answer| !answer.story().expect("told").contains("collapsed"));
    assert!(leaders.count() >= 1);
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(upstream.sent(), LEN);
}

#[test]
fn a_stored_object_costs_the_upstream_nothing() {
    let film = Film::new(LEN);
    let upstream = Upstream::of(&film);
    let mut pond = Pond::before(&upstream);
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    for _ in 0..2 {
        let answer = get_range(pond.address(), "/film", "bytes=1000000-1999999");
        answer.expect(206);
        film.check(1_000_000, &answer.body);
        assert!(answer.is_hit(), "{:?}", answer.headers);
        pond.restart();
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_players_three_probes_cost_at_most_three_requests() {
    let film = Film::new(LEN);
    let valve = Valve::new(200_000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let pond = Pond::before(&upstream);
    let mut head = Client::open(pond.address(), "GET", "/film", &[("Range", "bytes=0-")]);
    film.check(0, &head.read(50_000));
    drop(head);
    valve.allow(LEN * 2);
    let tail = get_range(pond.address(), "/film", "bytes=7900000-");
    tail.expect(206);
    film.check(7_900_000, &tail.body);
    let again = get_range(pond.address(), "/film", "bytes=48-");
    again.expect(206);
    film.check(48, &again.body);
    pond.until_state("complete");
    assert!(upstream.requests().len() <= 3, "{:#?}", upstream.requests());
}

#[test]
#[ignore = "measures: scripts/check runs it by itself"]
fn a_seek_pulls_its_own_range_and_holes_are_filled_afterwards() {
    let film = Film::new(LEN);
    let upstream = Upstream::limited(&film, Valve::open(), 4_000_000);
    let pond = Pond::before(&upstream);
    let mut first = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &first.read(10_000));
    // The far reader is served long before the first session could be there.
    let far = get_range(pond.address(), "/film", "bytes=6400000-6500000");
    far.expect(206);
    film.check(6_400_000, &far.body);
    assert!(upstream.sent() < 6_400_000, "it waited for the sequential fill");
    drop(first);
    pond.until_state("complete");
    let whole = get(pond.address(), "/film");
    whole.expect(200);
    film.check(0, &whole.body);
    // The session that was shortened had a little more in its socket than it was let deliver.
    assert!(upstream.sent() <= LEN + 600_000, "{} bytes for {LEN}", upstream.sent());
}

#[test]
#[ignore = "measures: scripts/check runs it by itself"]
fn a_storm_of_seeks_fetches_wanted_bytes_then_the_rest_once() {
    const STORM: u64 = 48 << 20;
    const RANGE: u64 = 512 << 10;
    let film = Film::new(STORM);
    let (served, storm_is_over) = (film.clone(), Valve::new(0));
    let held = storm_is_over.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        if seen.range(STORM).is_some_and(|(start, _)| start == STORM - 1) {
            conn.part_head(&served, STORM - 1, STORM);
            conn.wait_for(&held);
            conn.body(&served, STORM - 1, STORM);
        } else {
            conn.serve(&served, seen);
        }
    });
    let pond = Pond::before(&upstream);
    let address = pond.address();
    // In peace the rest is fetched, and a pause of one reader while all others are through would be peace: somebody
    // waits for the last byte until the storm is over.
    let waiting = std::thread::spawn(move || get_range(address, "/film", &format!("bytes={}-", STORM - 1)));
    upstream.wait_for_requests(1);
    let place = |client: u64, turn: u64| (client * 4 + turn).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (STORM - RANGE);
    let readers: Vec<_> = (0..24)
        .map(|client| {
            std::thread::spawn(move || {
                let ask = |at| {
                    (
                        at,
                        get_range(address, "/film", &format!("bytes={at}-{}", at + RANGE - 1)),
                    )
                };
                (0..4).map(|turn| ask(place(client, turn))).collect::<Vec<_>>()
            })
        })
        .collect();
    let answers: Vec<_> = readers
        .into_iter()
        .flat_map(|reader| reader.join().expect("answered"))
        .collect();
    let sent = upstream.sent();
    storm_is_over.allow(u64::MAX);
    film.check(STORM - 1, &waiting.join().expect("answered").expect(206).body);
    let mut wanted: Vec<u64> = (0..24)
        .flat_map(|client| (0..4).map(move |turn| place(client, turn)))
        .collect();
    wanted.sort_unstable();
    let mut reached = 0;
    let distinct: u64 = wanted
        .iter()
        .map(|at| {
            let new = (at + RANGE).saturating_sub(reached.max(*at));
            reached = reached.max(at + RANGE);
            new
        })
        .sum();
    for (at, answer) in &answers {
        film.check(*at, &answer.expect(206).body);
    }
    let asked: Vec<_> = upstream.requests().iter().map(|seen| seen.range(STORM)).collect();
    // An exchange that is called back for a reader who waits may have sent all that was asked of it.
    assert!(
        sent <= distinct + 2 * RANGE,
        "{sent} bytes for {distinct} wanted: {asked:?}"
    );
    pond.until_state("complete");
    // The rest comes once, whatever the storm has cost.
    let twice = sent.saturating_sub(distinct);
    assert!(
        upstream.sent() <= STORM + STORM / 1000 + twice,
        "{} for {STORM}, {twice} of them twice in the storm",
        upstream.sent()
    );
}

#[test]
fn after_a_restart_only_absent_bytes_are_fetched() {
    let film = Film::new(LEN);
    let valve = Valve::new(3_000_000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let mut pond = Pond::before(&upstream);
    let mut client = Client::open(pond.address(), "GET", "/film", &[]);
    film.check(0, &client.read(2_000_000));
    pond.until_present(3_000_000);
    drop(client);
    pond.restart();
    assert_eq!(pond.object()["present_bytes"], 3_000_000);
    valve.allow(LEN * 2);
    let whole = get(pond.address(), "/film");
    whole.expect(200);
    film.check(0, &whole.body);
    assert_eq!(whole.story(), Some("millpond; fwd=partial; stored"));
    let asked = upstream.requests();
    let ranges: Vec<_> = asked.iter().map(|seen| seen.range(LEN)).collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!(asked[1].header("range"), Some("bytes=3000000-7999999"));
    assert_eq!(asked[1].header("if-range"), film.etag.as_deref());
}

#[test]
fn a_reader_that_causes_a_fetch_is_told_of_a_miss() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    // The film is so small that all of it is present before the head is written.
    for number in 0..300 {
        let answer = get(pond.address(), &format!("/{number}"));
        let story = answer.story().expect("told").to_owned();
        assert!(story.contains("fwd=uri-miss"), "{number}: {story}");
    }
}
