//! Replies that are shared between clients and those that are not: variants, private answers, cookies, statuses
//! (TRAPS 34–36).

use crate::integrity::change;
use crate::support::{Answer, Client, Ended, Film, Pond, Upstream, eventually, get, get_range, request};
use std::sync::{Arc, Condvar, Mutex};

/// Lets nobody pass until `count` have come.
#[derive(Debug)]
struct Gate(Mutex<usize>, Condvar, usize);

impl Gate {
    fn of(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(0), Condvar::new(), count))
    }

    fn pass(&self) {
        let mut here = self.0.lock().expect("whole");
        *here += 1;
        self.1.notify_all();
        let all = crate::support::PATIENCE;
        let (_here, waited) = self
            .1
            .wait_timeout_while(here, all, |here| *here < self.2)
            .expect("whole");
        assert!(!waited.timed_out(), "they came one after the other");
    }
}

fn together(pond: &Pond, count: usize, ask: impl Fn(usize) -> Vec<(&'static str, String)> + Sync) -> Vec<Answer> {
    let address = pond.address();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|number| {
                let fields = ask(number);
                scope.spawn(move || {
                    let fields: Vec<(&str, &str)> =
                        fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                    request(address, "GET", "/page", &fields)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("answered"))
            .collect()
    })
}

#[test]
fn coalescing_across_vary_each_gets_the_language_it_asked_for() {
    let gate = Gate::of(2);
    let held = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |seen, conn| {
        let language = seen.header("accept-language").unwrap_or("none").to_owned();
        // The first one does not know of the others; those wait for it, and then for nobody.
        if seen.number > 0 {
            held.pass();
        }
        let fields = [
            ("Cache-Control", "max-age=100".to_owned()),
            ("Vary", "Accept-Language".to_owned()),
            ("Content-Length", language.len().to_string()),
        ];
        conn.head(200, &fields);
        conn.raw(language.as_bytes());
    });
    let pond = Pond::before(&upstream);
    let languages = ["de", "fr", "en"];
    let language = |number: usize| vec![("Accept-Language", languages[number % 3].to_owned())];
    for (number, answer) in together(&pond, 9, language).iter().enumerate() {
        assert_eq!(answer.expect(200).text(), languages[number % 3]);
    }
    assert_eq!(upstream.requests().len(), 3, "{:#?}", upstream.requests());
    eventually("they are stored", || pond.metric("millpond_fills") == 0);
    for (number, answer) in together(&pond, 9, language).iter().enumerate() {
        assert_eq!(answer.expect(200).text(), languages[number % 3]);
        assert!(answer.is_hit(), "{:?}", answer.headers);
    }
    // Another spelling of the same wish.
    let spelled = request(pond.address(), "GET", "/page", &[("Accept-Language", " FR ")]);
    assert_eq!(spelled.text(), "fr");
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn private_answers_let_waiting_requests_through_in_parallel_and_are_remembered() {
    const CLIENTS: usize = 8;
    let gate = Gate::of(CLIENTS - 1);
    let again = Gate::of(CLIENTS);
    let (held, held_again) = (Arc::clone(&gate), Arc::clone(&again));
    let upstream = Upstream::scripted(move |seen, conn| {
        let who = seen.header("cookie").unwrap_or("nobody").to_owned();
        match seen.number {
            0 => {}
            number if number < CLIENTS => held.pass(),
            _ => held_again.pass(),
        }
        let fields = [
            ("Cache-Control", "private, max-age=100".to_owned()),
            ("Content-Length", who.len().to_string()),
        ];
        conn.head(200, &fields);
        conn.raw(who.as_bytes());
    });
    let pond = Pond::before(&upstream);
    let cookie = |number: usize| vec![("Cookie", format!("user={number}"))];
    for round in 1..=2 {
        for (number, answer) in together(&pond, CLIENTS, cookie).iter().enumerate() {
            assert_eq!(answer.expect(200).text(), format!("user={number}"));
            let story = answer.story().expect("told");
            assert!(story.contains("detail=private") && !story.contains("stored"), "{story}");
        }
        assert_eq!(upstream.requests().len(), round * CLIENTS);
    }
    assert!(pond.object().is_null(), "{}", pond.object());
}

#[test]
fn a_set_cookie_reply_is_shared_only_where_it_is_public() {
    let upstream = Upstream::scripted(|seen, conn| {
        let control = if seen.target == "/public" {
            "public, max-age=100"
        } else {
            "max-age=100"
        };
        let body = format!("for {}", seen.number);
        let fields = [
            ("Cache-Control", control.to_owned()),
            ("Set-Cookie", format!("id={}", seen.number)),
            ("Content-Length", body.len().to_string()),
        ];
        conn.head(200, &fields);
        conn.raw(body.as_bytes());
    });
    let pond = Pond::before(&upstream);
    for number in 0..3 {
        let answer = get(pond.address(), "/page");
        assert_eq!(answer.expect(200).text(), format!("for {number}"));
        assert_eq!(answer.header("set-cookie"), Some(format!("id={number}").as_str()));
    }
    let first = get(pond.address(), "/public").text();
    eventually("it is stored", || pond.metric("millpond_fills") == 0);
    let second = get(pond.address(), "/public");
    assert_eq!(second.text(), first);
    assert!(second.is_hit(), "{:?}", second.headers);
}

#[test]
fn a_reply_to_credentials_is_not_shared() {
    let upstream = Upstream::scripted(|seen, conn| {
        let who = seen.header("authorization").unwrap_or("nobody").to_owned();
        let fields = [
            ("Cache-Control", "max-age=100".to_owned()),
            ("Content-Length", who.len().to_string()),
        ];
        conn.head(200, &fields);
        conn.raw(who.as_bytes());
    });
    let pond = Pond::before(&upstream);
    for who in ["Basic YQ==", "Basic Yg=="] {
        let answer = request(pond.address(), "GET", "/page", &[("Authorization", who)]);
        assert_eq!(answer.expect(200).text(), who);
    }
    assert_eq!(get(pond.address(), "/page").text(), "nobody");
}

#[test]
fn a_long_error_page_comes_whole_and_is_kept_as_long_as_it_says() {
    const LEN: u64 = 300_000;
    let page = Film::new(LEN);
    let served = page.clone();
    let upstream = Upstream::scripted(move |_, conn| {
        let fields = [
            ("Cache-Control", "max-age=60".to_owned()),
            ("Content-Type", "text/html".to_owned()),
            ("Content-Length", LEN.to_string()),
        ];
        conn.head(410, &fields);
        conn.body(&served, 0, LEN);
    });
    let mut pond = Pond::before(&upstream);
    for turn in 0..3 {
        if turn == 2 {
            pond.restart();
        }
        // Ranges and conditions are of films, not of what is said in their place.
        let answer = get_range(pond.address(), "/page", "bytes=5-9");
        assert_eq!(
            (answer.expect(410).body.len() as u64, &answer.ended),
            (LEN, &Ended::Clean)
        );
        page.check(0, &answer.body);
        assert_eq!(answer.header("accept-ranges"), None);
        eventually("it is stored", || pond.metric("millpond_fills") == 0);
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_304_updates_stored_fields_and_never_empties_the_object() {
    let upstream = Upstream::scripted(|seen, conn| {
        if seen.header("if-none-match").is_some() {
            let fields = [
                ("Cache-Control", "max-age=0".to_owned()),
                ("Content-Length", "0".to_owned()),
                ("Content-Type", "text/plain".to_owned()),
                ("Content-Encoding", "gzip".to_owned()),
                ("X-Count", seen.number.to_string()),
            ];
            return conn.head(304, &fields);
        }
        let fields = [
            ("Cache-Control", "max-age=0".to_owned()),
            ("ETag", "\"a\"".to_owned()),
            ("Content-Type", "text/html".to_owned()),
            ("Content-Length", "5".to_owned()),
            ("X-Count", "0".to_owned()),
        ];
        conn.head(200, &fields);
        conn.raw(b"hello");
    });
    let mut pond = Pond::before(&upstream);
    get(pond.address(), "/page").expect(200);
    pond.until_state("complete");
    for turn in 1..=2 {
        let answer = get(pond.address(), "/page");
        assert_eq!(answer.expect(200).text(), "hello");
        assert_eq!(answer.header("x-count"), Some(turn.to_string().as_str()));
        assert_eq!(answer.header("content-type"), Some("text/html"));
        assert_eq!(answer.header("content-encoding"), None);
        eventually("it is over", || pond.metric("millpond_fills") == 0);
        if turn == 1 {
            pond.restart();
        }
    }
}

#[test]
fn hop_by_hop_fields_are_dropped_and_via_is_extended() {
    let upstream = Upstream::scripted(|_, conn| {
        let fields = [
            ("Connection", "keep-alive, X-Hop".to_owned()),
            ("Keep-Alive", "timeout=5".to_owned()),
            ("X-Hop", "1".to_owned()),
            ("X-End", "2".to_owned()),
            ("Content-Length", "2".to_owned()),
        ];
        conn.head(200, &fields);
        conn.raw(b"ok");
    });
    let pond = Pond::before(&upstream);
    let mut client = Client::connect(pond.address());
    client.ask(
        "GET",
        "/page",
        &[
            ("Connection", "X-Mine"),
            ("X-Mine", "1"),
            ("X-Theirs", "2"),
            ("TE", "trailers"),
            ("Cookie", "a=b"),
            ("User-Agent", "player/1"),
            ("Via", "1.1 other"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-Host", "evil"),
            ("X-Original-URL", "/evil"),
            ("Forwarded", "host=evil"),
            ("Accept-Encoding", "gzip"),
        ],
    );
    client.read_head();
    let answer = client.finish();
    assert_eq!((answer.header("x-hop"), answer.header("keep-alive")), (None, None));
    assert_eq!(answer.header("x-end"), Some("2"));
    let seen = &upstream.requests()[0];
    for (name, value) in [
        ("x-mine", None),
        ("te", None),
        ("x-theirs", Some("2")),
        ("cookie", Some("a=b")),
        ("user-agent", Some("player/1")),
        ("via", Some("1.1 other, 1.1 millpond")),
        ("x-forwarded-for", Some("192.0.2.1, 127.0.0.1")),
        // A client's claims of where it asked are no part of a key.
        ("x-forwarded-host", None),
        ("x-original-url", None),
        ("forwarded", Some("for=127.0.0.1;proto=http")),
        ("accept-encoding", Some("identity")),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[test]
fn a_url_that_a_client_names_is_shown_no_cookies_and_sets_none() {
    let upstream = Upstream::scripted(|_, conn| {
        let fields = [
            ("Set-Cookie", "theirs=1".to_owned()),
            ("Cache-Control", "max-age=100".to_owned()),
            ("Content-Length", "2".to_owned()),
        ];
        conn.head(200, &fields);
        conn.raw(b"ok");
    });
    let pond = Pond::start(&[("allow_private", "true")]);
    let target = format!("/http/{}page", upstream.url().trim_start_matches("http://"));
    for _ in 0..2 {
        let answer = request(pond.address(), "GET", &target, &[("Cookie", "ours=1")]);
        assert_eq!(answer.expect(200).header("set-cookie"), None);
        eventually("it is over", || pond.metric("millpond_fills") == 0);
    }
    let seen = upstream.requests();
    assert_eq!((seen.len(), seen[0].header("cookie")), (1, None));
    assert_eq!(
        seen[0].header("x-forwarded-for"),
        None,
        "who asks is our user's business"
    );
}

#[test]
fn a_request_that_goes_in_circles_is_told_so() {
    let upstream = Upstream::scripted(|_, conn| conn.head(204, &[]));
    let pond = Pond::before(&upstream);
    let via = ["1.1 millpond"; 8].join(", ");
    request(pond.address(), "GET", "/page", &[("Via", &via)]).expect(508);
    assert!(upstream.requests().is_empty());
    get(pond.address(), "/page").expect(204);
}

/// Pages of three tags, which their upstream vouches for when asked.
fn tagged() -> Upstream {
    Upstream::scripted(|seen, conn| {
        let tags = match seen.target.as_str() {
            "/a" => ("Surrogate-Key", "news front\tsport"),
            "/b" => ("Cache-Tag", "sport, weather"),
            _ => ("Cache-Tag", "sports"),
        };
        let language = seen.header("accept-language").unwrap_or("none").to_owned();
        let mut fields = vec![
            ("Cache-Control", "max-age=1000".to_owned()),
            ("Vary", "Accept-Language".to_owned()),
            ("ETag", format!("\"{language}\"")),
            (tags.0, tags.1.to_owned()),
        ];
        if seen.header("if-none-match") == Some(&format!("\"{language}\"")) {
            return conn.head(304, &fields);
        }
        fields.push(("Content-Length", language.len().to_string()));
        conn.head(200, &fields);
        conn.raw(language.as_bytes());
    })
}

fn remove(pond: &Pond, which: &str) -> Answer {
    change(pond.address(), "DELETE", &format!("/-/api/v1/objects?{which}"), &[])
}

fn fetch(pond: &Pond, path: &str, language: &str) -> Answer {
    let answer = request(pond.address(), "GET", path, &[("Accept-Language", language)]);
    assert_eq!(answer.expect(200).text(), language);
    eventually("it is stored", || pond.metric("millpond_fills") == 0);
    answer
}

#[test]
fn a_purge_by_tag_removes_exactly_the_tagged_objects() {
    let upstream = tagged();
    let mut pond = Pond::before(&upstream);
    for (path, language) in [("/a", "de"), ("/a", "fr"), ("/b", "de"), ("/c", "de")] {
        fetch(&pond, path, language);
    }
    pond.restart();
    let removed = remove(&pond, "tag=sport").json();
    assert_eq!(removed["removed"], 3);
    assert!(fetch(&pond, "/c", "de").is_hit());
    for (path, language) in [("/a", "de"), ("/a", "fr"), ("/b", "de")] {
        assert!(!fetch(&pond, path, language).is_hit(), "{path} {language}");
    }
    let none = remove(&pond, "tag=spor").json();
    assert_eq!(none["removed"], 0);
    remove(&pond, "tag=").expect(400);
}

#[test]
fn a_purge_of_a_url_takes_all_its_variants() {
    let upstream = tagged();
    let pond = Pond::before(&upstream);
    for language in ["de", "fr", "en"] {
        fetch(&pond, "/a", language);
    }
    assert_eq!(remove(&pond, &format!("url={}a", upstream.url())).json()["removed"], 3);
    assert!(pond.object().is_null());
}

#[test]
fn a_soft_purge_has_the_upstream_asked_before_the_next_use() {
    let upstream = tagged();
    let mut pond = Pond::before(&upstream);
    for language in ["de", "fr"] {
        fetch(&pond, "/a", language);
    }
    let soft = |pond: &Pond, which: &str| remove(pond, &format!("{which}&soft=true")).json()["removed"].clone();
    assert_eq!(soft(&pond, "tag=front"), 2);
    pond.restart();
    for language in ["de", "fr"] {
        let story = fetch(&pond, "/a", language).story().expect("told").to_owned();
        assert_eq!(story, "millpond; fwd=stale; fwd-status=304");
        assert!(fetch(&pond, "/a", language).is_hit());
    }
    assert_eq!(soft(&pond, &format!("prefix={}", upstream.url())), 2);
    assert_eq!(soft(&pond, &format!("url={}a", upstream.url())), 2);
    assert!(!fetch(&pond, "/a", "de").is_hit());
    remove(&pond, "tag=x&soft=perhaps").expect(400);
    // While the upstream is away it answers all the same.
    soft(&pond, "tag=front");
    drop(upstream);
    let answer = request(pond.address(), "GET", "/a", &[("Accept-Language", "fr")]);
    assert_eq!(answer.expect(200).text(), "fr");
}

#[test]
fn a_private_reply_is_not_shared_with_a_client_that_waits() {
    for field in ["Authorization", "Cookie"] {
        let (come, go) = (Gate::of(2), Gate::of(2));
        let gates = (Arc::clone(&come), Arc::clone(&go));
        let upstream = Upstream::scripted(move |seen, conn| {
            let who = seen.header(field).unwrap_or_default().to_owned();
            if seen.number == 0 {
                gates.0.pass();
                gates.1.pass();
            }
            let (status, body) = if who.is_empty() { (401, "who?") } else { (200, "secret") };
            let fields = [
                ("Cache-Control", "private".to_owned()),
                ("Content-Length", body.len().to_string()),
            ];
            conn.head(status, &fields);
            conn.raw(body.as_bytes());
        });
        let pond = Pond::before(&upstream);
        let address = pond.address();
        let (bare, known) = std::thread::scope(|scope| {
            let bare = scope.spawn(move || request(address, "GET", "/page", &[]));
            come.pass();
            let known = scope.spawn(move || request(address, "GET", "/page", &[(field, "me")]));
            eventually("both hold the fill", || {
                get(address, "/-/api/v1/fills").json()["fills"][0]["readers"] == 2
            });
            go.pass();
            (bare.join().expect("answered"), known.join().expect("answered"))
        });
        assert_eq!((bare.status, bare.text().as_str()), (401, "who?"), "{field}");
        assert_eq!((known.status, known.text().as_str()), (200, "secret"), "{field}");
    }
}

#[test]
fn a_page_without_freshness_is_not_shared_across_cookies() {
    let upstream = Upstream::scripted(|seen, conn| {
        let who = seen.header("cookie").unwrap_or("nobody").to_owned();
        let fields = [
            ("Content-Type", "text/html".to_owned()),
            ("Content-Length", who.len().to_string()),
        ];
        conn.head(200, &fields);
        conn.raw(who.as_bytes());
    });
    let pond = Pond::before(&upstream);
    for who in ["a=1", "a=2"] {
        assert_eq!(request(pond.address(), "GET", "/page", &[("Cookie", who)]).text(), who);
        eventually("it is over", || pond.metric("millpond_fills") == 0);
    }
}

#[test]
fn a_refusal_to_one_client_leaves_the_stored_film() {
    let film = Film::new(50_000);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| {
        let long_ago = ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT".to_owned());
        match seen.header("authorization") {
            Some("expired") => conn.head(403, &[long_ago, ("Content-Length", "0".to_owned())]),
            Some("hidden") => conn.head(404, &[("Content-Length", "0".to_owned())]),
            _ if seen.header("if-none-match").is_some() => conn.head(304, &[]),
            _ => conn.serve(&served, seen),
        }
    });
    let pond = Pond::before(&upstream);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    pond.until_state("complete");
    let reload = ("Cache-Control", "no-cache");
    for (who, status) in [("expired", 403), ("hidden", 404), ("right", 200)] {
        let answer = request(pond.address(), "GET", "/film", &[reload, ("Authorization", who)]);
        assert_eq!(answer.status, status, "{who}");
        eventually("it is over", || pond.metric("millpond_fills") == 0);
        assert!(get(pond.address(), "/film").is_hit(), "{who}");
    }
    // A request with `no-store` does not remove the film either.
    request(
        pond.address(),
        "GET",
        "/film",
        &[("Cache-Control", "no-cache, no-store")],
    )
    .expect(200);
    assert!(get(pond.address(), "/film").is_hit());
    // A change that was told of is asked about; the film is not fetched again.
    let before = upstream.sent();
    request(pond.address(), "POST", "/film", &[("Content-Length", "0")]);
    let after = get(pond.address(), "/film");
    assert_eq!(after.story(), Some("millpond; fwd=stale; fwd-status=304"));
    film.check(0, &after.body);
    assert!(
        upstream.sent() <= before + film.bytes(0, 50_000).len() as u64,
        "only the POST's own answer"
    );
}

#[test]
fn a_refusal_in_mid_film_tells_others_its_status_and_no_secrets() {
    const LEN: u64 = 4_000_000;
    let film = Film::new(LEN);
    let served = film.clone();
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => {
            conn.part_head(&served, 0, LEN);
            conn.body(&served, 0, 1_000_000);
            conn.close();
        }
        _ => {
            let fields = [
                ("Set-Cookie", "sid=1".to_owned()),
                ("X-Who", "me".to_owned()),
                ("Cache-Control", "private".to_owned()),
                ("Content-Length", "6".to_owned()),
            ];
            conn.head(403, &fields);
            conn.raw(b"for me");
        }
    });
    let pond = Pond::with(&upstream, &[("hold_limit", "1s")]);
    let _first = Client::open(pond.address(), "GET", "/film", &[]);
    pond.until_present(1_000_000);
    let other = get_range(pond.address(), "/film", "bytes=3000000-");
    assert_eq!((other.status, other.text().as_str()), (403, ""));
    assert_eq!((other.header("set-cookie"), other.header("x-who")), (None, None));
}

#[test]
fn a_film_that_becomes_private_in_mid_fill_is_not_shared_any_more() {
    const LEN: u64 = 3_000_000;
    let (old, new) = (Film::new(LEN), Film::edition(LEN, 2));
    let served = (old.clone(), new.clone());
    let upstream = Upstream::scripted(move |seen, conn| match seen.number {
        0 => {
            conn.part_head(&served.0, 0, LEN);
            conn.body(&served.0, 0, 500_000);
            conn.close();
        }
        _ => {
            let fields = [
                ("ETag", served.1.etag.clone().expect("a tag")),
                ("Cache-Control", "private".to_owned()),
                ("Content-Length", LEN.to_string()),
            ];
            conn.head(200, &fields);
            conn.body(&served.1, 0, LEN);
        }
    });
    let pond = Pond::before(&upstream);
    let first = get(pond.address(), "/film");
    assert_eq!(first.ended, Ended::Cut, "two films are never mixed");
    for _ in 0..2 {
        let next = get(pond.address(), "/film");
        new.check(0, &next.expect(200).body);
        assert!(!next.is_hit());
    }
    assert!(pond.object().is_null(), "{}", pond.object());
}

#[test]
fn clients_that_select_different_error_pages_each_get_their_own() {
    let upstream = Upstream::scripted(|seen, conn| {
        let who = seen.header("cookie").unwrap_or_default().to_owned();
        let fields = [("Vary", "Cookie".to_owned()), ("Content-Length", who.len().to_string())];
        conn.head(404, &fields);
        conn.raw(who.as_bytes());
    });
    let pond = Pond::before(&upstream);
    let cookie = |number: usize| vec![("Cookie", format!("user={number}"))];
    for (number, answer) in together(&pond, 12, cookie).iter().enumerate() {
        assert_eq!(answer.expect(404).text(), format!("user={number}"));
    }
}

#[test]
fn secrets_do_not_follow_a_redirect_to_another_origin() {
    let elsewhere = Upstream::scripted(|_, conn| {
        conn.head(200, &[("Content-Length", "2".to_owned())]);
        conn.raw(b"ok");
    });
    let place = format!("{}film", elsewhere.url());
    let upstream = Upstream::scripted(move |_, conn| {
        conn.head(302, &[("Location", place.clone()), ("Content-Length", "0".to_owned())]);
    });
    let pond = Pond::with(&upstream, &[("allow_private", "true")]);
    let secrets = [
        ("Authorization", "Basic YQ=="),
        ("Cookie", "a=b"),
        ("X-Emby-Token", "t"),
        ("Referer", "http://inside/"),
        ("User-Agent", "player/1"),
    ];
    request(pond.address(), "GET", "/film", &secrets).expect(200);
    let seen = &elsewhere.requests()[0];
    for (name, _) in &secrets[..4] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!((seen.header("forwarded"), seen.header("x-forwarded-for")), (None, None));
    assert_eq!(seen.header("user-agent"), Some("player/1"));
}

#[test]
fn a_browsers_credentials_are_not_shown_to_hosts_that_a_page_names() {
    let upstream = Upstream::scripted(|_, conn| {
        conn.head(
            200,
            &[
                ("Cache-Control", "no-store".to_owned()),
                ("Content-Length", "0".to_owned()),
            ],
        );
    });
    let pond = Pond::start(&[("allow_private", "true")]);
    let target = format!("/http/{}x", upstream.url().trim_start_matches("http://"));
    let credentials = ("Authorization", "Basic YQ==");
    request(
        pond.address(),
        "GET",
        &target,
        &[credentials, ("Sec-Fetch-Mode", "no-cors")],
    );
    request(pond.address(), "GET", &target, &[credentials]);
    let seen = upstream.requests();
    let shown: Vec<_> = seen.iter().map(|seen| seen.header("authorization")).collect();
    assert_eq!(shown, [None, Some("Basic YQ==")]);
}
