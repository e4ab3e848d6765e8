//! What is shared between clients and what is not: variants, private answers, cookies, statuses (TRAPS 34–36).

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
            let story = answer.header("cache-status").expect("told");
            assert!(story.contains("detail=private") && !story.contains("stored"), "{story}");
        }
        assert_eq!(upstream.requests().len(), round * CLIENTS);
    }
    assert!(pond.object().is_null(), "{}", pond.object());
}

#[test]
fn a_cookie_is_set_for_the_one_who_asked_and_shared_only_where_it_is_public() {
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
fn an_answer_to_credentials_is_one_persons() {
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
fn a_304_updates_what_it_may_and_never_empties_the_object() {
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
fn what_belongs_to_a_connection_goes_no_further_and_the_way_is_told() {
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
        ("x-forwarded-host", Some("pond")),
        ("forwarded", Some("for=127.0.0.1;host=\"pond\";proto=http")),
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
