//! Rights: by which socket, token, cookie or address a request may do what, and under which name it finds the server.

use crate::support::origin::send;
use crate::support::{Answer, Client, Film, Pond, Upstream, eventually, get, is_missing, request, rule, token};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// Fields by which a proxy says that it has forwarded a request.
const FORWARDED: [(&str, &str); 6] = [
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("Forwarded", "for=127.0.0.1"),
    ("Via", "1.1 proxy"),
    ("X-Real-IP", "203.0.113.9"),
    ("X-Forwarded-Proto", "https"),
];

fn stored_film(upstream: &Upstream, settings: &[(&str, &str)]) -> Pond {
    let pond = Pond::with(upstream, settings);
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    pond
}

/// Sends the lines as they are, and reads until the server closes.
fn raw(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("set");
    stream.write_all(text.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_change_of_the_cache_needs_more_than_a_loopback_address() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = stored_film(&upstream, &[]);
    let ask = |method: &str, target: &str| request(pond.address(), method, target, &[("Content-Length", "0")]);
    for (method, target) in [
        ("DELETE", "/-/api/v1/objects?prefix=http"),
        ("POST", "/-/api/v1/verify"),
        ("POST", "/-/api/v1/codes"),
        ("GET", "/-/api/v1/streams"),
    ] {
        let refused = ask(method, target);
        let detail = refused.expect(403).json()["detail"]
            .as_str()
            .expect("a detail")
            .to_owned();
        assert!(
            detail.contains("control socket") && detail.contains("--tokens"),
            "{detail}"
        );
    }
    for target in ["/-/api/v1/objects", "/-/api/v1/stats", "/-/metrics", "/-/api/v1/about"] {
        ask("GET", target).expect(200);
    }
    let purged = rule(pond.address(), "DELETE", "/-/api/v1/objects?prefix=http", &[]);
    assert_eq!(purged.expect(200).json()["removed"], 1);
}

#[test]
fn the_control_socket_is_for_the_owner_of_the_data_and_goes_with_the_server() {
    let mut pond = Pond::start(&[]);
    let socket = pond.dir().join("control.sock");
    let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    pond.stop();
    assert!(!socket.exists());
    // A name that a server left behind when it was killed is taken over.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    pond.restart();
    rule(pond.address(), "GET", "/-/api/v1/streams", &[]).expect(200);
}

#[test]
fn a_forwarded_request_has_no_right_from_its_address() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let any = format!(
        "/http/{}/film",
        upstream.url().trim_start_matches("http://").trim_end_matches('/')
    );
    let pond = Pond::start(&[
        ("upstream", &format!("films={}", upstream.url())),
        ("allow_private", "true"),
    ]);
    get(pond.address(), &any).expect(200);
    eventually("it is stored", || get(pond.address(), &any).is_hit());
    for field in FORWARDED {
        for target in ["/-/api/v1/objects", "/-/metrics", "/-/api/v1/fills", &any] {
            let refused = request(pond.address(), "GET", target, &[field]);
            assert_eq!(refused.status, 403, "{field:?} {target}: {}", refused.text());
        }
        let film = request(pond.address(), "GET", "/films/film", &[field]);
        assert_eq!(film.status, 200, "media is for everybody: {field:?}");
    }
    // A proxy that says nothing of itself speaks HTTP/1.0, as nginx does by itself.
    for target in ["/-/api/v1/objects", &any] {
        let answer = raw(
            pond.address(),
            &format!(
                "GET {target} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n",
                pond.address()
            ),
        );
        assert!(answer.starts_with("HTTP/1.0 403"), "{target}: {answer}");
    }
}

#[test]
fn a_token_keeps_what_it_grants_behind_a_proxy() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let tokens = dir.path().join("tokens.toml");
    let operator = format!("Bearer {}", token(&tokens, "operator", &["--rule"]));
    let pond = Pond::with(&upstream, &[("tokens", &tokens.display().to_string())]);
    for field in FORWARDED {
        let who = ("Authorization", operator.as_str());
        request(pond.address(), "GET", "/-/api/v1/objects", &[who, field]).expect(200);
        request(pond.address(), "DELETE", "/-/api/v1/objects?prefix=http", &[who, field]).expect(200);
        request(pond.address(), "GET", "/-/api/v1/objects", &[field]).expect(401);
    }
}

#[test]
fn a_millpond_with_a_token_writes_to_a_directory_through_another() {
    let (dir, data) = (
        TempDir::new().expect("a directory"),
        TempDir::new().expect("a directory"),
    );
    let tokens = data.path().join("tokens.toml");
    let bearer = format!(
        "Bearer {}",
        token(&tokens, "laptop", &["--write", "--prefix", "/mine/"])
    );
    let origin = Pond::start(&[
        ("directory", &format!("mine={},writable", dir.path().display())),
        ("tokens", &tokens.display().to_string()),
    ]);
    let proxy = Pond::start(&[("upstream", &format!("http://{}/", origin.address()))]);
    let put = |target: &str, headers: &[(&str, &str)]| send(proxy.address(), "PUT", target, headers, b"film");
    put("/mine/a", &[("Authorization", &bearer)]).expect(201);
    assert_eq!(std::fs::read(dir.path().join("a")).expect("written"), b"film");
    put("/mine/b", &[]).expect(401);
    put("/mine/b", &[("Authorization", "Bearer millpond_none")]).expect(401);
}

#[test]
fn a_writable_directory_needs_a_token_the_socket_or_the_operators_word() {
    let dir = TempDir::new().expect("a directory");
    let directory = format!("mine={},writable", dir.path().display());
    let closed = Pond::start(&[("directory", &directory), ("open", "false")]);
    let refused = send(closed.address(), "PUT", "/mine/a", &[], b"x");
    let detail = refused.expect(403).json()["detail"]
        .as_str()
        .expect("a detail")
        .to_owned();
    assert!(detail.contains("--open") && detail.contains("--tokens"), "{detail}");
    for method in ["DELETE", "MKCOL", "PROPPATCH"] {
        request(closed.address(), method, "/mine/a", &[]).expect(403);
    }
    get(closed.address(), "/mine/?as=json").expect(200);
    let mut client = Client::connect_unix(&closed.dir().join("control.sock"));
    client.ask("PUT", "/mine/a", &[("Content-Length", "1")]);
    client.send(b"y");
    client.read_head();
    assert_eq!(client.status, 201);
    drop(closed);
    let open = Pond::start(&[("directory", &directory), ("open", "true")]);
    send(open.address(), "PUT", "/mine/a", &[], b"x").expect(204);
    // Everybody is not whoever reaches a proxy of which the operator has not said a word.
    for field in [FORWARDED[0], ("X-Real-IP", "203.0.113.9"), ("Forwarded", "for=unknown")] {
        send(open.address(), "PUT", "/mine/a", &[field], b"z").expect(403);
    }
    // Nor the page of another site that somebody's browser has open.
    for page in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        send(open.address(), "PUT", "/mine/a", &[page], b"x").expect(403);
    }
    drop(open);
    let named = Pond::start(&[
        ("directory", &directory),
        ("open", "true"),
        ("trusted_proxies", "127.0.0.1"),
    ]);
    send(named.address(), "PUT", "/mine/a", &[FORWARDED[0]], b"z").expect(204);
}

/// A session of the server, as the value of `Cookie`.
fn session(pond: &Pond) -> String {
    let code = rule(pond.address(), "POST", "/-/api/v1/codes", &[("Content-Length", "0")]);
    let body = json!({ "code": code.expect(200).json()["code"] }).to_string();
    let json_type = [("Content-Type", "application/json")];
    let opened = send(pond.address(), "POST", "/-/api/v1/session", &json_type, body.as_bytes());
    let cookie = opened.expect(204).header("set-cookie").expect("a cookie").to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    // A code is good once.
    send(pond.address(), "POST", "/-/api/v1/session", &json_type, body.as_bytes()).expect(403);
    cookie.split(';').next().expect("a pair").to_owned()
}

#[test]
fn a_code_from_the_socket_becomes_a_cookie_that_may_rule() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = stored_film(&upstream, &[]);
    let cookie = session(&pond);
    let own = format!("http://{}", pond.address());
    let purge = |more: &[(&str, &str)]| {
        let headers = [&[("Cookie", cookie.as_str())], more].concat();
        request(pond.address(), "DELETE", "/-/api/v1/objects?prefix=http", &headers)
    };
    for page in [
        &[][..],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "http://127.0.0.1:1")],
        &[("Origin", own.as_str()), ("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "cross-site")],
    ] {
        assert_eq!(purge(page).status, 403, "{page:?}");
    }
    let list = |more: &[(&str, &str)]| {
        let headers = [&[("Cookie", cookie.as_str())], more].concat();
        request(pond.address(), "GET", "/-/api/v1/streams", &headers).status
    };
    assert_eq!((list(&[]), list(&[("Sec-Fetch-Site", "same-site")])), (200, 403));
    assert_eq!(list(&[FORWARDED[0]]), 200, "a cookie keeps what it grants");
    assert_eq!(purge(&[("Origin", &own)]).expect(200).json()["removed"], 1);
    // No form of another site can send what opens a session.
    let form = [("Content-Type", "text/plain")];
    send(pond.address(), "POST", "/-/api/v1/session", &form, b"{\"code\":\"a\"}").expect(400);
    request(pond.address(), "DELETE", "/-/api/v1/session", &[("Cookie", &cookie)]).expect(204);
    assert_eq!(list(&[]), 403, "the session is over");
}

#[test]
fn a_page_of_an_upstream_has_no_scripts_and_a_session_never_reaches_its_upstream() {
    let upstream = Upstream::scripted(|_, conn| {
        let fields = [
            ("Content-Type", "text/html".to_owned()),
            ("Cache-Control", "max-age=100".to_owned()),
            ("Content-Length", "8".to_owned()),
        ];
        conn.head(200, &fields);
        conn.raw(b"<script>");
    });
    let pond = Pond::before(&upstream);
    let cookie = session(&pond);
    let both = format!("a=1; {cookie}");
    // A browser leaves the cookie out where a link of another site leads here, and lets the page use it all the same.
    for headers in [&[][..], &[("Cookie", both.as_str())], &[("If-None-Match", "\"x\"")]] {
        for path in ["/page", "/page", "/other"] {
            let page = request(pond.address(), "GET", path, headers);
            assert_eq!(
                page.expect(200).header("content-security-policy"),
                Some("sandbox"),
                "{headers:?}"
            );
        }
    }
    request(pond.address(), "GET", "/third", &[("Cookie", &both)]).expect(200);
    let asked = upstream.requests().pop().expect("asked");
    assert_eq!(asked.header("cookie"), Some("a=1"));
    // A script that would answer for the whole origin is not given at all, stored or not.
    for path in ["/page", "/worker.js"] {
        request(pond.address(), "GET", path, &[("Service-Worker", "script")]).expect(403);
    }
}

#[test]
fn secrets_in_urls_are_shown_to_who_may_rule_only() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = Pond::before(&upstream);
    get(pond.address(), "/film?Expires=1&Signature=HUSH").expect(200);
    pond.until_state("complete");
    let url = |answer: Answer| {
        answer.expect(200).json()["objects"][0]["url"]
            .as_str()
            .expect("a URL")
            .to_owned()
    };
    let seen = url(get(pond.address(), "/-/api/v1/objects"));
    assert!(seen.ends_with("/film?Expires=1&Signature=…"), "{seen}");
    let whole = url(rule(pond.address(), "GET", "/-/api/v1/objects", &[]));
    assert!(whole.ends_with("/film?Expires=1&Signature=HUSH"), "{whole}");
    let id = pond.object()["id"].as_str().expect("an id").to_owned();
    let shown = get(pond.address(), &format!("/-/api/v1/objects/{id}")).text();
    assert!(!shown.contains("HUSH"), "{shown}");
    assert!(!get(pond.address(), "/-/metrics").text().contains("HUSH"));
}

#[test]
fn a_request_that_names_another_server_is_misdirected() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("diary.txt"), "dear diary").expect("written");
    let data = TempDir::new().expect("a directory");
    let pond = Pond::with(
        &upstream,
        &[
            ("directory", &format!("mine={}", dir.path().display())),
            ("data", &data.path().display().to_string()),
            ("names", "films.example *.lan.example"),
            ("public_url", "https://pond.example/"),
        ],
    );
    get(pond.address(), "/film").expect(200);
    pond.until_state("complete");
    let targets = [
        "/film",
        "/film?other",
        "/mine/diary.txt",
        "/mine/",
        "/-/healthz",
        "/-/uploads/x",
    ];
    for target in targets {
        for host in ["evil.example", "films.example.evil.example", "nas", "nas.local"] {
            let refused = request(pond.address(), "GET", target, &[("Host", host)]);
            assert_eq!(refused.status, 421, "{target} {host}: {}", refused.text());
            assert!(refused.text().contains("--names"), "{}", refused.text());
        }
    }
    for host in [
        "films.example",
        "a.lan.example:99",
        "pond.example",
        "localhost",
        "[::1]:8080",
        "10.0.0.1",
    ] {
        for target in ["/film", "/mine/diary.txt", "/-/healthz"] {
            request(pond.address(), "GET", target, &[("Host", host)]).expect(200);
        }
    }
    // A client that waits with its body, a form of a target that names a host itself, and HTTP/1.0 without one.
    let expecting = [("Host", "evil.example"), ("Expect", "100-continue")];
    send(pond.address(), "PUT", "/mine/a", &expecting, b"x").expect(421);
    let closing = "Connection: close\r\n\r\n";
    let absolute = |host: &str| {
        raw(
            pond.address(),
            &format!("GET http://{host}/film HTTP/1.1\r\nHost: {host}\r\n{closing}"),
        )
    };
    assert!(absolute("evil.example").starts_with("HTTP/1.1 421"));
    assert!(absolute("films.example").starts_with("HTTP/1.1 200"));
    assert!(raw(pond.address(), "GET /film HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"));
}

#[test]
fn a_malformed_host_is_refused() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let pond = stored_film(&upstream, &[]);
    for lines in [
        "Host: a b\r\n",
        "Host: user@localhost\r\n",
        "Host: localhost/x\r\n",
        "Host: localhost:port\r\n",
        "Host: localhost:99999\r\n",
        "Host: \r\n",
        "Host: [::1\r\n",
        "Host: localhost\r\nHost: localhost\r\n",
        "",
    ] {
        for target in ["/film", "/-/healthz"] {
            let answer = raw(
                pond.address(),
                &format!("GET {target} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n"),
            );
            assert!(answer.starts_with("HTTP/1.1 400"), "{lines:?}: {answer}");
        }
    }
}

#[test]
fn a_trusted_proxy_tells_the_address_of_its_client() {
    let logs = TempDir::new().expect("a directory");
    let log = logs.path().join("access.log");
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let mut pond = Pond::with(
        &upstream,
        &[
            ("access_log", &log.display().to_string()),
            ("trusted_proxies", "127.0.0.0/8"),
        ],
    );
    let by_proxy = [("X-Forwarded-For", "203.0.113.9, 198.51.100.7, 127.0.0.5")];
    request(pond.address(), "GET", "/film", &by_proxy).expect(200);
    // Behind a proxy loopback is everybody's address.
    for headers in [&by_proxy[..], &[]] {
        request(pond.address(), "GET", "/-/api/v1/objects", headers).expect(403);
    }
    pond.stop();
    let text = std::fs::read_to_string(&log).expect("read");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["client"], "198.51.100.7");
}

/// A running reverse proxy.
struct ReverseProxy {
    child: std::process::Child,
    _dir: TempDir,
}

impl ReverseProxy {
    /// The program with a configuration, in a directory of its own.
    fn start(
        program: &str,
        configuration: impl FnOnce(&Path) -> String,
        arguments: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let dir = TempDir::new().expect("a directory");
        let file = dir.path().join("configuration");
        std::fs::write(&file, configuration(dir.path())).expect("written");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let child = std::process::Command::new(program)
            .args(arguments(&file))
            .env("HOME", dir.path())
            .stdout(log.try_clone().expect("cloned"))
            .stderr(log)
            .spawn()
            .expect("it is installed");
        Self { child, _dir: dir }
    }

    /// An nginx that passes requests at the port on, with these lines beside `proxy_pass`.
    fn nginx(port: u16, to: SocketAddr, lines: &str) -> Self {
        let configuration = |dir: &Path| {
            let own = dir.display();
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|kind| format!("{kind}_temp_path {own}/{kind};\n"))
                .collect();
            format!(
                "daemon off; master_process off; pid {own}/pid; error_log {own}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{to}; {lines} }} }}\n}}\n"
            )
        };
        let arguments = |file: &Path| {
            let log = file.with_file_name("error.log").display().to_string();
            vec!["-e".to_owned(), log, "-c".to_owned(), file.display().to_string()]
        };
        Self::start("/usr/sbin/nginx", configuration, arguments)
    }

    fn caddy(port: u16, to: SocketAddr) -> Self {
        let configuration = |_: &Path| {
            format!("{{\nadmin off\nauto_https off\n}}\nhttp://127.0.0.1:{port} {{\nreverse_proxy {to}\n}}\n")
        };
        let arguments = |file: &Path| {
            let file = file.display().to_string();
            ["run", "--adapter", "caddyfile", "--config", &file]
                .map(str::to_owned)
                .to_vec()
        };
        Self::start("/usr/bin/caddy", configuration, arguments)
    }

    fn apache(port: u16, to: SocketAddr) -> Self {
        let configuration = |dir: &Path| {
            let modules = "/usr/lib/apache2/modules";
            let own = dir.display();
            format!(
                "ServerName localhost\nServerRoot {own}\nPidFile {own}/pid\nErrorLog {own}/error.log\nDefaultRuntimeDir {own}\nUser www-data\nGroup www-data\nListen 127.0.0.1:{port}\nLoadModule mpm_event_module {modules}/mod_mpm_event.so\nLoadModule authz_core_module {modules}/mod_authz_core.so\nLoadModule proxy_module {modules}/mod_proxy.so\nLoadModule proxy_http_module {modules}/mod_proxy_http.so\nProxyPass / http://{to}/\n"
            )
        };
        let arguments = |file: &Path| vec!["-X".to_owned(), "-f".to_owned(), file.display().to_string()];
        Self::start("/usr/sbin/apache2", configuration, arguments)
    }
}

impl Drop for ReverseProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// The attempts of somebody behind a proxy on the server's own machine.
fn attempts(any: &str) -> [(&'static str, String); 6] {
    [
        ("GET", "/-/api/v1/objects".to_owned()),
        ("GET", "/-/metrics".to_owned()),
        ("DELETE", "/-/api/v1/objects?prefix=http".to_owned()),
        ("POST", "/-/api/v1/verify".to_owned()),
        ("PUT", "/mine/a".to_owned()),
        ("GET", any.to_owned()),
    ]
}

#[test]
fn clients_behind_a_proxy_with_its_default_lines_get_media_and_no_more() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let any = format!(
        "/http/{}/film",
        upstream.url().trim_start_matches("http://").trim_end_matches('/')
    );
    let pond = Pond::start(&[
        ("upstream", &format!("films={}", upstream.url())),
        ("directory", &format!("mine={},writable", dir.path().display())),
        ("open", "false"),
        ("allow_private", "true"),
    ]);
    let to = pond.address();
    // As Debian's proxy_params has it.
    let params = "proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;";
    if ["/usr/sbin/nginx", "/usr/bin/caddy", "/usr/sbin/apache2"]
        .into_iter()
        .any(is_missing)
    {
        return;
    }
    let ports: [u16; 4] = std::array::from_fn(|_| free_port());
    let _proxies = [
        ReverseProxy::nginx(ports[0], to, ""),
        ReverseProxy::nginx(ports[1], to, params),
        ReverseProxy::caddy(ports[2], to),
        ReverseProxy::apache(ports[3], to),
    ];
    let servers = ports
        .into_iter()
        .zip(["nginx", "nginx with proxy_params", "Caddy", "Apache"]);
    get(pond.address(), &any).expect(200);
    eventually("it is stored", || get(pond.address(), &any).is_hit());
    for (port, name) in servers {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually(name, || TcpStream::connect(address).is_ok());
        film.check(0, &get(address, "/films/film").expect(200).body);
        get(address, "/mine/?as=json").expect(200);
        for (method, target) in attempts(&any) {
            let refused = send(address, method, &target, &[], b"");
            assert_eq!(refused.status, 403, "{name}: {method} {target}: {}", refused.text());
        }
    }
    assert_eq!(
        std::fs::read_dir(dir.path())
            .expect("listed")
            .filter(is_visible)
            .count(),
        0
    );
}

fn is_visible(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    let name = entry.as_ref().expect("an entry").file_name();
    !Path::new(&name).to_string_lossy().starts_with('.')
}
