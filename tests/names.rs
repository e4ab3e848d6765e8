//! Names travel unharmed, and only where they may.

use crate::support::{Film, Pond, Upstream, get};

#[test]
fn percent_encoded_names_reach_the_upstream_unchanged() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    let names = [
        "/a%20b%20(2024).mp4",
        "/1+1=2.mkv",
        "/100%25.mkv",
        "/%23hash.webm",
        "/caf%C3%A9.mp4",
        "/cafe%CC%81.mp4",
        "/a%2Bb.mp4",
        "/semi;colon,comma.mp4",
        "/q%3Fmark.mp4",
        "/film.mp4?token=a%2Fb&x=1+2",
    ];
    for name in names {
        let answer = get(pond.address(), name);
        answer.expect(200);
        film.check(0, &answer.body);
    }
    let asked: Vec<String> = upstream.requests().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(asked, names);
    let list = get(pond.address(), "/-/api/v1/objects").json();
    assert_eq!(
        list["objects"].as_array().map(Vec::len),
        Some(names.len()),
        "each is an object of its own"
    );
}

#[test]
fn any_url_is_played_on_loopback_and_private_addresses_only_when_allowed() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let target = format!("/{}film.mp4", upstream.url().replacen("://", "/", 1));
    let closed = Pond::start(&[]);
    let refused = get(closed.address(), &target);
    refused.expect(403);
    assert!(refused.text().contains("--allow-private"));
    assert_eq!(upstream.requests().len(), 0);
    let open = Pond::start(&[("allow_private", "true")]);
    let answer = get(open.address(), &target);
    answer.expect(200);
    film.check(0, &answer.body);
    get(open.address(), "/film.mp4").expect(404);
    // Addresses of the public Internet are private where the operator says so.
    let at_home = Pond::start(&[("private_networks", "192.0.9.0/24, 2a00:7::/32")]);
    for host in ["[2a00:7::5]", "192.0.9.1"] {
        get(at_home.address(), &format!("/http/{host}/film.mp4")).expect(403);
    }
}

#[test]
fn a_redirect_is_followed_but_not_to_a_private_address_of_another_host() {
    let film = Film::new(1000);
    let inner = Upstream::of(&film);
    let port = inner
        .url()
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .expect("a port")
        .to_owned();
    let upstream = Upstream::scripted(move |seen, conn| {
        let to = match seen.target.as_str() {
            "/same" => format!("http://127.0.0.1:{port}/film"),
            "/relative" => "/same".to_owned(),
            "/other" => format!("http://localhost:{port}/film"),
            _ => "/loop".to_owned(),
        };
        conn.head(302, &[("Location", to), ("Content-Length", "0".to_owned())]);
    });
    let pond = Pond::before(&upstream);
    for path in ["/same", "/relative"] {
        let answer = get(pond.address(), path);
        answer.expect(200);
        film.check(0, &answer.body);
    }
    get(pond.address(), "/other").expect(403);
    get(pond.address(), "/loop").expect(502);
}

#[test]
fn named_upstreams_are_served_under_their_names() {
    let (one, two) = (Film::edition(1000, 1), Film::edition(1000, 2));
    let (first, second) = (Upstream::of(&one), Upstream::of(&two));
    let toml = format!("{} shows={}", first.url(), second.url());
    let pond = Pond::start(&[("upstream", &toml)]);
    one.check(0, &get(pond.address(), "/film").expect(200).body);
    two.check(0, &get(pond.address(), "/shows/film").expect(200).body);
    assert_eq!(second.requests()[0].target, "/film");
}
