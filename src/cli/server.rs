//! Where the server is: from `--server`, the environment, its control socket, or the default that `serve` has too.
//!
//! The first of these that is set or there counts: `--server`, `MILLPOND_SERVER`, the control socket in the data
//! directory (`MILLPOND_DATA`, or the default one), `MILLPOND_LISTEN` (where the server is told by that variable where to
//! listen, its commands find it by the same), the default. A server is named by its address, its URL, its socket, or its
//! data directory.

use millpond::server::CONTROL_SOCKET;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use url::{Host, Url};

/// The variable that names a server. It is no setting of the server itself.
pub(crate) const SERVER_VARIABLE: &str = "MILLPOND_SERVER";

/// The variable with the token for a server that has tokens. It is no setting of the server itself.
pub(crate) const TOKEN_VARIABLE: &str = "MILLPOND_TOKEN";

const LISTEN_VARIABLE: &str = "MILLPOND_LISTEN";
const DATA_VARIABLE: &str = "MILLPOND_DATA";
const DEFAULT: &str = "127.0.0.1:8080";

/// The port of an address without one. A URL without one has its scheme's, as everywhere. That of the default of
/// `listen`.
const DEFAULT_PORT: u16 = 8080;

/// A server, by the URL of its root.
#[derive(Debug, Clone)]
pub(super) struct RemoteServer {
    /// The path ends in a slash: more than that is a proxy's, before the server's own.
    root: Url,
    /// The socket by which it is reached, where that is not the root's address.
    socket: Option<PathBuf>,
    /// The roots by which others reach it, as far as it has told.
    other_roots: Vec<Url>,
}

impl RemoteServer {
    /// The server that the flag names, or else the environment.
    ///
    /// # Errors
    /// Where what names it is no address, with the name of the source.
    pub(super) fn choose(
        flag: Option<&str>,
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, String> {
        let set = |name| Some((name, variable(name).filter(|text| !text.is_empty())?));
        let named = flag.map(|text| ("--server", text.to_owned()));
        let named = named.or_else(|| set(SERVER_VARIABLE));
        let is_named = named.is_some();
        let (source, text) = named
            .or_else(|| set(LISTEN_VARIABLE).map(|(name, text)| (name, first_with_port(&text))))
            .unwrap_or_else(|| ("the default", DEFAULT.to_owned()));
        let parsed = Self::parse(text.trim()).map_err(|mistake| format!("{source}: {text:?} {mistake}"));
        let data = || match set(DATA_VARIABLE) {
            Some((_, data)) => Some(PathBuf::from(data)),
            None => default_data(&variable),
        };
        match data().filter(|_| !is_named).map(|data| data.join(CONTROL_SOCKET)) {
            // The address still tells which URLs are this server's.
            Some(socket) if UnixStream::connect(&socket).is_ok() => Ok(Self {
                socket: Some(socket),
                ..parsed.or_else(|_| Self::parse(DEFAULT).map_err(str::to_owned))?
            }),
            _ => parsed,
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mistake =
            "is not an address, URL or socket of a server, like 127.0.0.1:8080, http://nas.local:8080 or unix:/PATH";
        if let Some(path) = text
            .strip_prefix("unix:")
            .or_else(|| text.starts_with('/').then_some(text))
        {
            let path = Path::new(path);
            if !path.is_absolute() {
                return Err("has a path that is not absolute; write unix:/PATH");
            }
            // A data directory stands for the socket in it.
            let socket = if path.is_dir() {
                path.join(CONTROL_SOCKET)
            } else {
                path.to_owned()
            };
            let root = Url::parse("http://localhost/").map_err(|_| mistake)?;
            return Ok(Self {
                root,
                socket: Some(socket),
                other_roots: Vec::new(),
            });
        }
        let root = if text.contains("://") {
            Url::parse(text).ok()
        } else if text.contains(['/', '?', '#', '@']) || text.ends_with(':') {
            None
        } else if let Ok(address) = text.parse::<SocketAddr>() {
            Url::parse(&format!("http://{}/", reachable(address))).ok()
        } else if let Ok(ip) = text.parse::<IpAddr>() {
            let address = SocketAddr::new(ip, DEFAULT_PORT);
            Url::parse(&format!("http://{}/", reachable(address))).ok()
        } else if text.contains(':') {
            Url::parse(&format!("http://{text}/")).ok()
        } else {
            Url::parse(&format!("http://{text}:{DEFAULT_PORT}/")).ok()
        };
        let mut root = root
            .filter(|root| matches!(root.scheme(), "http" | "https") && root.has_host())
            .ok_or(mistake)?;
        if root.port() == Some(0) {
            return Err("has port 0, which stands for any free one; name the one that the server printed at its start");
        }
        root.set_query(None);
        root.set_fragment(None);
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        Ok(Self {
            root,
            socket: None,
            other_roots: Vec::new(),
        })
    }

    /// The socket by which the server is reached, where it is not by its address.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The server as messages name it: without credentials.
    pub(super) fn address(&self) -> String {
        if let Some(socket) = &self.socket {
            return format!("unix:{}", socket.display());
        }
        let mut shown = self.root.clone();
        // Fails only for URLs that cannot have credentials.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.as_str().trim_end_matches('/').to_owned()
    }

    /// The URL of a resource of the API. `path` has no characters that a URL could not.
    pub(super) fn api(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.root.clone();
        url.set_path(&format!("{}-/api/v1/{path}", self.root.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// The path below the root, where `url` is one of this server. All loopback names are one host.
    pub(super) fn path_of<'a>(&self, url: &'a Url) -> Option<&'a str> {
        let roots = std::iter::once(&self.root).chain(&self.other_roots);
        let beneath = |root: &Url| {
            let same_host =
                url.host() == root.host() || (is_loopback(url) && (is_loopback(root) || is_everywhere(root)));
            let same_port = url.port_or_known_default() == root.port_or_known_default();
            let is_same = url.scheme() == root.scheme() && same_port && same_host;
            url.path().strip_prefix(root.path()).filter(|_| is_same)
        };
        roots.into_iter().find_map(beneath)
    }

    /// Notes the URLs of its root, as the server has told them.
    pub(super) fn is_also_at(&mut self, urls: &[String]) {
        self.other_roots = urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    }
}

/// The data directory of a server that is told none.
fn default_data(variable: impl Fn(&'static str) -> Option<String>) -> Option<PathBuf> {
    let set = |name| Some(PathBuf::from(variable(name).filter(|text| !text.is_empty())?));
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("millpond"))
}

/// The first of the addresses that a server is told to listen at which has a port.
fn first_with_port(listen: &str) -> String {
    let mut addresses = listen.split([',', ' ', '\t']).filter(|address| !address.is_empty());
    let first = addresses.find(|address| !address.starts_with("unix:"));
    first.unwrap_or(listen).to_owned()
}

/// A server that listens at all addresses is reached at loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn is_everywhere(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_unspecified(),
        Some(Host::Ipv6(address)) => address.is_unspecified(),
        _ => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> String {
        RemoteServer::parse(text).map_or_else(str::to_owned, |server| server.address())
    }

    #[test]
    fn a_server_is_named_by_address_or_url() {
        for (text, wanted) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("nas.local:8081", "http://nas.local:8081"),
            ("nas.local", "http://nas.local:8080"),
            ("nas.local:80", "http://nas.local"),
            ("::1", "http://[::1]:8080"),
            ("[::1]:8081", "http://[::1]:8081"),
            ("0.0.0.0:8081", "http://127.0.0.1:8081"),
            ("[::]:8081", "http://[::1]:8081"),
            ("http://nas.local", "http://nas.local"),
            ("https://e.org/pond?x#y", "https://e.org/pond"),
            ("http://user:secret@nas.local:8080/", "http://nas.local:8080"),
            ("unix:/run/pond.sock", "unix:/run/pond.sock"),
            ("/run/pond.sock", "unix:/run/pond.sock"),
            ("/", "unix:/control.sock"),
        ] {
            assert_eq!(address(text), wanted, "{text}");
        }
        for text in [
            "",
            "ftp://h/",
            "h:99999",
            "a b",
            "127.0.0.1:0",
            "unix:run/pond",
            "h/pond",
            "h:",
        ] {
            assert!(RemoteServer::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_flag_wins_over_the_environment() {
        let choose = |flag, set: &[(&str, &str)]| {
            let variable = |name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            RemoteServer::choose(flag, variable).map(|server| server.address())
        };
        let both = [("MILLPOND_SERVER", "s:1"), ("MILLPOND_LISTEN", "0.0.0.0:2")];
        assert_eq!(choose(Some("f:3"), &both).as_deref(), Ok("http://f:3"));
        assert_eq!(choose(None, &both).as_deref(), Ok("http://s:1"));
        assert_eq!(choose(None, &both[1..]).as_deref(), Ok("http://127.0.0.1:2"));
        let several = [("MILLPOND_LISTEN", "unix:/run/pond.sock, 0.0.0.0:2 [::1]:3")];
        assert_eq!(choose(None, &several).as_deref(), Ok("http://127.0.0.1:2"));
        let empty = [("MILLPOND_SERVER", "")];
        assert_eq!(choose(None, &empty).as_deref(), Ok("http://127.0.0.1:8080"));
        let mistake = choose(None, &[("MILLPOND_SERVER", "ftp://h/")]).expect_err("no address");
        assert!(mistake.starts_with("MILLPOND_SERVER"), "{mistake}");
    }

    #[test]
    fn a_control_socket_that_is_listened_at_is_taken_where_no_server_is_named() {
        let data = tempfile::tempdir().expect("a directory");
        let path = data.path().display().to_string();
        let choose = |flag: Option<&str>| {
            let variable = |name: &str| match name {
                "MILLPOND_DATA" => Some(path.clone()),
                "MILLPOND_LISTEN" => Some("127.0.0.1:2".to_owned()),
                _ => None,
            };
            RemoteServer::choose(flag, variable).map(|server| server.address())
        };
        assert_eq!(choose(None).as_deref(), Ok("http://127.0.0.1:2"));
        let socket = data.path().join(CONTROL_SOCKET);
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        assert_eq!(choose(None), Ok(format!("unix:{}", socket.display())));
        assert_eq!(choose(Some("f:3")).as_deref(), Ok("http://f:3"));
        assert_eq!(choose(Some(&path)), Ok(format!("unix:{}", socket.display())));
        drop(listener);
        assert_eq!(choose(None).as_deref(), Ok("http://127.0.0.1:2"));
    }

    #[test]
    fn the_api_lies_below_the_root_also_behind_a_proxy() {
        let server = RemoteServer::parse("https://e.org/pond").expect("a server");
        let url = server.api("objects", &[("url", "http://h/a?b&c")]);
        assert_eq!(
            url.as_str(),
            "https://e.org/pond/-/api/v1/objects?url=http%3A%2F%2Fh%2Fa%3Fb%26c"
        );
        assert_eq!(server.api("stats", &[]).as_str(), "https://e.org/pond/-/api/v1/stats");
    }
}
