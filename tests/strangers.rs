//! Strangers that mean harm, and get nothing: clients, pages and upstreams, each by what it would gain.

use crate::cli::Program;
use crate::support::{Client, Film, Pond, Upstream, Valve, eventually, get, request, rule};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// An upstream whose page has the link that a CGI program, a WSGI or a Rack application would make of the request:
/// signs of a field's name that are no letters are one to it.
fn upstream_that_believes_claims() -> Upstream {
    Upstream::scripted(|seen, conn| {
        let believed = seen.headers.iter().find(|(name, _)| {
            let name = name.to_ascii_lowercase().replace(['_', '.'], "-");
            name == "x-forwarded-host"
        });
        let host = believed.map_or("own", |(_, value)| value.as_str());
        let body = format!("<script src=//{host}/a.js>");
        let fields = [
            ("Cache-Control", "max-age=100".to_owned()),
            ("Content-Length", body.len().to_string()),
        ];
        conn.head(200, &fields);
        conn.raw(body.as_bytes());
    })
}

#[test]
fn a_claim_in_any_spelling_poisons_no_stored_page() {
    let upstream = upstream_that_believes_claims();
    let pond = Pond::before(&upstream);
    for (number, name) in [
        "X-Forwarded-Host",
        "X_Forwarded_Host",
        "X_FORWARDED-HOST",
        "X.Forwarded.Host",
    ]
    .iter()
    .enumerate()
    {
        let target = format!("/{number}");
        let first = request(pond.address(), "GET", &target, &[(name, "evil.example")]);
        assert_eq!(first.text(), "<script src=//own/a.js>", "{name}");
        eventually("it is stored", || get(pond.address(), &target).is_hit());
        assert_eq!(get(pond.address(), &target).text(), "<script src=//own/a.js>", "{name}");
    }
}

#[test]
fn claims_of_an_address_a_path_or_a_method_reach_no_upstream_with_a_get() {
    let upstream = upstream_that_believes_claims();
    let pond = Pond::before(&upstream);
    let claims = [
        ("X-Real-IP", "10.0.0.1"),
        ("Client_IP", "10.0.0.1"),
        ("True-Client-IP", "10.0.0.1"),
        ("X-Forwarded", "for=10.0.0.1"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Original-URI", "/evil"),
        ("X_Rewrite_Url", "/evil"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Method", "DELETE"),
        ("X-Proxy-Url", "http://evil.example/"),
        ("Http_Host", "evil.example"),
    ];
    request(pond.address(), "GET", "/page", &claims).expect(200);
    let seen = upstream.requests();
    for (name, _) in claims {
        assert_eq!(seen[0].header(name), None, "{name}");
    }
}

#[test]
fn a_field_that_is_no_text_selects_the_reply_that_was_made_for_it() {
    let upstream = Upstream::scripted(|seen, conn| {
        let body = format!("for {}", seen.header("x-user").unwrap_or("nobody"));
        let fields = [
            ("Cache-Control", "max-age=100".to_owned()),
            ("Vary", "X-User".to_owned()),
            ("Content-Length", body.len().to_string()),
        ];
        conn.head(200, &fields);
        conn.raw(body.as_bytes());
    });
    let pond = Pond::before(&upstream);
    let asked = |user: &str| {
        let mut client = Client::connect(pond.address());
        let request = format!("GET /a HTTP/1.1\r\nHost: localhost\r\nX-User: {user}\r\nConnection: close\r\n\r\n");
        client.send(request.as_bytes());
        client.read_head();
        client.finish()
    };
    assert_eq!(get(pond.address(), "/a").text(), "for nobody");
    eventually("it is stored", || get(pond.address(), "/a").is_hit());
    // The second time the reply for each is stored beside that for nobody.
    for round in 0..2 {
        assert_ne!(asked("Jörg").text(), "for nobody", "{round}");
    }
    assert_eq!(get(pond.address(), "/a").text(), "for nobody");
}

#[test]
fn a_path_that_only_a_decoding_upstream_resolves_does_not_leave_the_tree() {
    let upstream = Upstream::scripted(|_, conn| conn.head(200, &[("Content-Length", "0".to_owned())]));
    let tree = format!("films={}public/", upstream.url());
    let pond = Pond::start(&[("upstream", &tree)]);
    for path in [
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "a%2f..%2f..%2fsecret",
        "..%5csecret",
        "..;/secret",
    ] {
        let refused = get(pond.address(), &format!("/films/{path}"));
        refused.expect(400);
        assert!(refused.text().contains("dot segments"), "{path}: {}", refused.text());
    }
    assert!(upstream.requests().is_empty());
    get(pond.address(), "/films/a%2fb").expect(200);
}

#[test]
fn a_reply_with_an_enormous_head_is_refused_and_one_with_many_fields_is_not() {
    let upstream = Upstream::scripted(|seen, conn| {
        let (count, bytes) = match seen.target.as_str() {
            "/many" => (300, 10),
            // 31 KiB in 99 fields.
            "/large" => (97, 320),
            "/too-large" => (40, 1000),
            "/too-many" => (990, 1),
            // Refused by the HTTP library.
            _ => (1100, 1),
        };
        let mut head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nContent-Length: 2\r\n".to_owned();
        for number in 0..count {
            head.push_str(&format!("X-{number}: {}\r\n", "v".repeat(bytes)));
        }
        conn.raw(format!("{head}\r\nok").as_bytes());
    });
    let pond = Pond::before(&upstream);
    for path in ["/many", "/large"] {
        assert_eq!(get(pond.address(), path).expect(200).text(), "ok", "{path}");
    }
    for (path, why) in [
        ("/too-large", "42 fields of 41"),
        ("/too-many", "992 fields of"),
        ("/far-too-many", "head is too large"),
    ] {
        let refused = get(pond.address(), path);
        refused.expect(502);
        assert!(refused.text().contains(why), "{path}: {}", refused.text());
    }
}

#[test]
fn any_url_speaks_to_no_port_of_another_protocol() {
    let pond = Pond::start(&[]);
    for port in [25, 6379] {
        let refused = request(pond.address(), "POST", &format!("/http/203.0.114.1:{port}/x"), &[]);
        refused.expect(403);
        let why = format!("port {port} of 203.0.114.1");
        assert!(refused.text().contains(&why), "{}", refused.text());
    }
}

#[test]
fn the_data_directory_is_for_its_owner_alone_to_read() {
    fn closed(dir: &Path) {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            let mode = entry.metadata().expect("metadata").permissions().mode();
            if path.is_dir() {
                assert_eq!(mode & 0o077, 0, "{} has {mode:o}", path.display());
                // The catalog's own files are behind its directory.
                if !path.ends_with("catalog") {
                    closed(&path);
                }
            } else {
                assert_eq!(mode & 0o077, 0, "{} has {mode:o}", path.display());
            }
        }
    }
    let upstream = upstream_that_believes_claims();
    let mut pond = Pond::before(&upstream);
    get(pond.address(), "/page").expect(200);
    eventually("it is stored", || get(pond.address(), "/page").is_hit());
    closed(pond.dir());
    // As an older version left them.
    for name in ["objects", "catalog"] {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(pond.dir().join(name), open).expect("changed");
    }
    pond.restart();
    closed(pond.dir());
}

#[test]
fn no_credential_and_no_control_character_reaches_the_log() {
    let upstream = Upstream::scripted(|seen, conn| match seen.target.starts_with("/cut") {
        // A reply that ends early is told in the log, with its URL.
        true => {
            conn.head(
                200,
                &[
                    ("Content-Length", "1000".to_owned()),
                    ("ETag", "\"a\u{9b}2J\"".to_owned()),
                ],
            );
            conn.raw(b"abc");
            conn.close();
        }
        false => conn.head(502, &[("Content-Length", "0".to_owned())]),
    });
    for level in ["info", "debug"] {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let mut program = Program::serve_with_log(level, &log, &dir.path().join("data"), &upstream);
        for target in [
            "/cut?X-Amz-Signature=S3CRET",
            "/refused?password=S3CRET",
            "/cut-%1b%0aINJECTED?token=S3CRET",
            "/http/127.0.0.1:9/?sig=S3CRET",
        ] {
            let fields = [("Authorization", "Bearer S3CRET"), ("Cookie", "session=S3CRET")];
            request(program.address, "GET", target, &fields);
        }
        program.terminate();
        program.child.wait().expect("ended");
        let text = std::fs::read_to_string(&log).expect("a log");
        assert!(
            text.contains("url="),
            "nothing was logged of what is looked for:\n{text}"
        );
        assert!(!text.contains("S3CRET"), "{level}:\n{text}");
        let controls = text.chars().filter(|sign| sign.is_control() && *sign != '\n');
        assert_eq!(controls.count(), 0, "{level}:\n{text}");
        assert!(!text.lines().any(|line| line.starts_with("INJECTED")), "{text}");
    }
}

/// Fields by which a host speaks for a whole origin, to a proxy, or for a network.
const FOR_AN_ORIGIN: &[&str] = &[
    "Clear-Site-Data",
    "Service-Worker-Allowed",
    "Access-Control-Allow-Private-Network",
    "Access-Control-Allow-Credentials",
    "X-Accel-Redirect",
    "X-Accel-Buffering",
    "X-Sendfile",
    "Refresh",
    "Set-Cookie",
    "Strict-Transport-Security",
    "NEL",
    "Report-To",
];

/// An upstream whose page has all of them, and says `Cache-Control`.
fn upstream_that_speaks_for_its_origin(cache_control: &'static str) -> Upstream {
    Upstream::scripted(move |_, conn| {
        let mut fields: Vec<(&str, String)> = FOR_AN_ORIGIN.iter().map(|name| (*name, "*".to_owned())).collect();
        fields.extend([
            ("Content-Type", "text/html".to_owned()),
            ("Cache-Control", cache_control.to_owned()),
            ("Access-Control-Allow-Origin", "*".to_owned()),
            ("Icy-Name", "radio".to_owned()),
            ("Content-Length", "8".to_owned()),
        ]);
        conn.head(200, &fields);
        conn.raw(b"<script>");
    })
}

#[test]
fn a_host_that_a_client_names_speaks_for_itself_alone() {
    for cache_control in ["max-age=100", "no-store"] {
        let upstream = upstream_that_speaks_for_its_origin(cache_control);
        let pond = Pond::start(&[("allow_private", "true")]);
        let target = format!("/{}page", upstream.url().replacen("://", "/", 1));
        for method in ["GET", "GET", "HEAD", "POST"] {
            let answer = request(pond.address(), method, &target, &[]);
            answer.expect(200);
            for name in FOR_AN_ORIGIN {
                assert_eq!(answer.header(&name.to_ascii_lowercase()), None, "{method} {name}");
            }
            for name in ["access-control-allow-origin", "icy-name", "content-type"] {
                assert!(answer.header(name).is_some(), "{method} {name}");
            }
        }
    }
}

#[test]
fn the_log_of_a_detached_request_is_no_page_of_the_api() {
    let upstream = upstream_that_speaks_for_its_origin("no-store");
    let pond = Pond::start(&[("allow_private", "true")]);
    let target = format!("/{}page", upstream.url().replacen("://", "/", 1));
    let detached = request(pond.address(), "GET", &target, &[("Prefer", "respond-async, wait=5")]);
    let log = detached.header("content-location").or(detached.header("location"));
    let log = log.expect("a stream").to_owned();
    let page = get(pond.address(), &log);
    assert_eq!(page.expect(200).text(), "<script>");
    assert_eq!(page.header("content-security-policy"), Some("sandbox"));
    assert_eq!(page.header("content-disposition"), Some("attachment"));
    for name in FOR_AN_ORIGIN {
        assert_eq!(page.header(&name.to_ascii_lowercase()), None, "{name}");
    }
}

#[test]
fn a_reply_that_loses_the_framing_is_mended_or_refused() {
    let upstream = Upstream::scripted(|seen, conn| {
        let status = if seen.target.starts_with("/reset") {
            "205 Reset Content"
        } else {
            "101 Switching Protocols"
        };
        let head = format!("HTTP/1.1 {status}\r\nConnection: Upgrade\r\nUpgrade: other\r\nContent-Length: 5\r\n\r\n");
        conn.raw(head.as_bytes());
        conn.raw(b"SMUGG");
        conn.close();
    });
    let pond = Pond::before(&upstream);
    for method in ["GET", "HEAD", "POST"] {
        let reset = request(pond.address(), method, "/reset", &[]);
        reset.expect(205);
        assert_eq!(reset.header("content-length"), Some("0"), "{method}");
        assert!(reset.body.is_empty(), "{method}");
        let switched = request(pond.address(), method, "/switch", &[]);
        switched.expect(502);
        assert!(
            method == "HEAD" || switched.text().contains("101"),
            "{}",
            switched.text()
        );
    }
}

#[test]
fn a_picture_in_a_page_of_another_site_fills_no_disk_when_its_browser_has_left() {
    let film = Film::new(1 << 30);
    let upstream = Upstream::limited(&film, Valve::open(), 64 << 20);
    let any = format!(
        "/http/{}/huge",
        upstream.url().trim_start_matches("http://").trim_end_matches('/')
    );
    let pond = Pond::start(&[("allow_private", "true")]);
    for (headers, goes_on) in [(&[("Sec-Fetch-Site", "cross-site")][..], false), (&[], true)] {
        let mut client = Client::open(pond.address(), "GET", &any, headers);
        film.check(0, &client.read(1 << 20));
        drop(client);
        if goes_on {
            // Another client's fill of the same film goes on when it has left: that is what this server is for.
            let before = pond.object()["present_bytes"].as_u64().unwrap_or_default();
            pond.until_present(before + (32 << 20));
        } else {
            eventually("the fill has ended", || {
                let fills = rule(pond.address(), "GET", "/-/api/v1/fills", &[]).json();
                fills["fills"].as_array().is_some_and(Vec::is_empty)
            });
            assert!(upstream.sent() < 512 << 20, "{}", upstream.sent());
        }
    }
}
