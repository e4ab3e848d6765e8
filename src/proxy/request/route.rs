//! Whose a request is: millpond's own, a configured upstream's, or any URL's. Pure.
//!
//! Paths travel as the client spelled them: nothing is decoded here, so `%2B` stays `%2B`. Dot
//! segments are resolved as everywhere on the Web, and may not lead out of an upstream's tree.

use crate::config::{AfterLastReader, Config, Delivery};
use crate::directory::TreePath;
use crate::key::ObjectKey;
use crate::mirror;
use crate::upstream::{ConfiguredUpstream, Target, Trust};
use percent_encoding::percent_decode;
use std::borrow::Cow;
use std::sync::Arc;
use url::Url;

/// The longest request target served, in bytes. RFC 9110 §4.1 recommends 8000 at least.
const MAX_TARGET_BYTES: usize = 8 * 1024;

/// Where a request goes.
#[derive(Debug)]
pub enum Routed<'a> {
    /// To millpond itself: the path after `/-/`.
    Own(&'a str),
    /// To an upstream.
    Fetch {
        /// The target to fetch.
        target: Arc<Target>,
        /// How to answer while it is incomplete.
        delivery: Delivery,
    },
}

/// Why a request goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No upstream has the path.
    #[error("nothing is served here; ask for /https/HOST/PATH, or configure an upstream with --upstream")]
    Nowhere,
    /// Any-URL requests are switched off.
    #[error(
        "any-URL requests are off, since this server does not listen on loopback only, or stands behind a proxy; start with --ad-hoc true to allow them"
    )]
    AdHocOff,
    /// The target does not make a URL.
    #[error("the path does not make a URL; write /https/HOST[:PORT]/PATH")]
    NotAUrl,
    /// A sign stands in the path that no URL has there: which resource is meant cannot be known.
    #[error("the path has a raw # or \\; write %23 or %5C for the sign itself")]
    RawSign,
    /// Dot segments lead out of the upstream's tree.
    #[error("the path leads out of the upstream's tree")]
    Outside,
    /// Dot segments that only a decoding upstream sees.
    #[error("the path hides dot segments behind %2F, %5C or a semicolon; write the path that is meant")]
    HiddenDots,
    /// The target is too long.
    #[error("the request target is longer than 8192 bytes")]
    TooLong,
}

#[derive(Debug)]
struct Tree {
    /// `/` or `/NAME/`.
    mount: String,
    base: Url,
    delivery: Delivery,
    after_last_reader: Option<AfterLastReader>,
    ignore_query: Vec<String>,
    drop_cookies: bool,
    upstream: Arc<ConfiguredUpstream>,
    /// The collections that are mirrored.
    mirrors: Vec<TreePath>,
}

impl Tree {
    /// The path beneath the tree's URL, as it is spelled there, where it is within a mirror: decoded.
    fn mirrored(&self, rest: &str) -> Option<TreePath> {
        if self.mirrors.is_empty() {
            return None;
        }
        let path = TreePath::parse_upstream(rest).ok()?;
        self.mirrors.iter().any(|mirror| path.is_within(mirror)).then_some(path)
    }
}

/// The table of what is served where.
#[derive(Debug)]
pub struct Routes {
    named: Vec<Tree>,
    unnamed: Option<Tree>,
    ad_hoc: bool,
    delivery: Delivery,
    ignore_query: Vec<String>,
}

impl Routes {
    /// The table that a configuration says; `upstreams` are those of the configuration, in its order.
    pub fn new(config: &Config, upstreams: &[Arc<ConfiguredUpstream>]) -> Self {
        let decoded = |path: &String| {
            let names = path.split('/').filter(|name| !name.is_empty());
            names.fold(TreePath::root(), |path, name| path.child(name))
        };
        let tree = |(upstream, configured): (&crate::config::UpstreamConfig, &Arc<ConfiguredUpstream>)| Tree {
            upstream: Arc::clone(configured),
            mirrors: upstream.mirror.iter().map(decoded).collect(),
            mount: upstream
                .name
                .as_ref()
                .map_or_else(|| "/".to_owned(), |name| format!("/{name}/")),
            base: upstream.url.clone(),
            delivery: upstream.delivery.unwrap_or(config.delivery),
            after_last_reader: upstream.after_last_reader,
            ignore_query: upstream.ignore_query.as_ref().unwrap_or(&config.ignore_query).clone(),
            drop_cookies: upstream.drop_cookies.unwrap_or(config.drop_cookies),
        };
        let all = config.upstreams.iter().zip(upstreams);
        let (named, unnamed): (Vec<_>, Vec<_>) = all.partition(|(upstream, _)| upstream.name.is_some());
        Self {
            named: named.into_iter().map(tree).collect(),
            unnamed: unnamed.into_iter().map(tree).next(),
            ad_hoc: config.allows_any_url(),
            delivery: config.delivery,
            ignore_query: config.ignore_query.clone(),
        }
    }

    /// Where the request for `path` and `query`, both as they came, goes.
    ///
    /// # Errors
    /// Where it goes nowhere.
    pub fn resolve<'a>(&self, path: &'a str, query: Option<&str>) -> Result<Routed<'a>, RouteError> {
        if path.len() + query.map_or(0, str::len) > MAX_TARGET_BYTES {
            return Err(RouteError::TooLong);
        }
        if let Some(own) = path.strip_prefix("/-/") {
            return Ok(Routed::Own(own));
        }
        // A raw `#` comes as `\`, too (`http1::request_line`): the URI type would drop what follows it.
        if path.contains('\\') {
            return Err(RouteError::RawSign);
        }
        if let Some((tree, rest)) = self
            .named
            .iter()
            .find_map(|tree| Some((tree, path.strip_prefix(tree.mount.as_str())?)))
        {
            return beneath(tree, rest, query);
        }
        for scheme in ["http", "https"] {
            let rest = path
                .strip_prefix('/')
                .and_then(|path| path.strip_prefix(scheme)?.strip_prefix('/'));
            match rest {
                Some(rest) if self.ad_hoc => return self.any_url(scheme, rest, query),
                Some(_) if self.unnamed.is_none() => return Err(RouteError::AdHocOff),
                _ => {}
            }
        }
        match &self.unnamed {
            Some(tree) => beneath(tree, path.strip_prefix('/').unwrap_or(path), query),
            None => Err(RouteError::Nowhere),
        }
    }

    /// Whether a path is that of a named upstream or of any URL, so that it is for no mount at `/`.
    pub fn has_name_for(&self, path: &str) -> bool {
        let named = self.named.iter().any(|tree| path.starts_with(tree.mount.as_str()));
        named || self.is_any_url(path)
    }

    /// Whether a path names any URL.
    pub fn is_any_url(&self, path: &str) -> bool {
        let named = self.named.iter().any(|tree| path.starts_with(tree.mount.as_str()));
        !named && self.ad_hoc && ["/http/", "/https/"].iter().any(|scheme| path.starts_with(scheme))
    }

    /// The key under which an upstream's URL is stored.
    pub fn key_of(&self, url: Url) -> ObjectKey {
        let trees = self.named.iter().chain(&self.unnamed);
        let tree = trees
            .filter(|tree| url.as_str().starts_with(tree.base.as_str()))
            .max_by_key(|tree| tree.base.as_str().len());
        if let Some(tree) = tree
            && url.query().is_none()
            && let Some(path) = url
                .as_str()
                .strip_prefix(tree.base.as_str())
                .and_then(|rest| tree.mirrored(rest))
        {
            return mirror::key_of(&tree.base, &path);
        }
        let ignored = tree.map_or(&self.ignore_query, |tree| &tree.ignore_query);
        Target::new(url, Trust::Public).ignoring(ignored).key
    }

    /// The path under which an upstream's URL is served here; `None` where it is not.
    pub fn path_of(&self, url: &Url) -> Option<String> {
        let url = &without_fragment(url);
        let trees = self.named.iter().chain(&self.unnamed);
        let beneath = trees.filter_map(|tree| {
            let rest = url.as_str().strip_prefix(tree.base.as_str())?;
            Some((tree, rest))
        });
        let path = match beneath.max_by_key(|(tree, _)| tree.base.as_str().len()) {
            Some((tree, rest)) => format!("{}{rest}", tree.mount),
            None if self.ad_hoc => {
                let host = url.host_str()?;
                let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
                let rest = &url[url::Position::BeforePath..url::Position::AfterQuery];
                format!("/{}/{host}{port}{rest}", url.scheme())
            }
            None => return None,
        };
        // A name that begins with two slashes would be that of a host.
        (!path.starts_with("//") && path.len() <= MAX_TARGET_BYTES).then_some(path)
    }

    fn any_url<'a>(&self, scheme: &str, rest: &str, query: Option<&str>) -> Result<Routed<'a>, RouteError> {
        let authority = rest.split('/').next().unwrap_or_default();
        // Credentials in a path would be logged, keyed and shown.
        if authority.is_empty() || authority.contains('@') {
            return Err(RouteError::NotAUrl);
        }
        let url = Url::parse(&with_query(format!("{scheme}://{rest}"), query)).map_err(|_| RouteError::NotAUrl)?;
        if !url.has_host() || !url.username().is_empty() {
            return Err(RouteError::NotAUrl);
        }
        Ok(Routed::Fetch {
            target: Arc::new(Target {
                // All hosts that clients name share our origin: a cookie of one would be shown to the others.
                drop_cookies: true,
                ..Target::new(url, Trust::Public).ignoring(&self.ignore_query)
            }),
            delivery: self.delivery,
        })
    }
}

fn beneath<'a>(tree: &Tree, rest: &str, query: Option<&str>) -> Result<Routed<'a>, RouteError> {
    let url = with_query(format!("{}{rest}", tree.base), query);
    let url = Url::parse(&url).map_err(|_| RouteError::NotAUrl)?;
    if !url.path().starts_with(tree.base.path()) {
        return Err(RouteError::Outside);
    }
    if hides_dots(url.path()) {
        return Err(RouteError::HiddenDots);
    }
    let mut target = Target {
        after_last_reader: tree.after_last_reader,
        drop_cookies: tree.drop_cookies,
        upstream: Some(Arc::clone(&tree.upstream)),
        ..Target::new(url, Trust::Configured).ignoring(&tree.ignore_query)
    };
    let rest = target.url.path().strip_prefix(tree.base.path());
    if target.url.query().is_none()
        && let Some(path) = rest.and_then(|rest| tree.mirrored(rest))
    {
        target.key = mirror::key_of(&tree.base, &path);
        target.is_mirrored = true;
    }
    Ok(Routed::Fetch {
        target: Arc::new(target),
        delivery: tree.delivery,
    })
}

/// Whether an upstream that decodes a path before it resolves dot segments, as most do, would find some in this one, which
/// has none as it is written. Slashes are also those of Windows, and a segment ends at its parameters (`..;a`).
fn hides_dots(path: &str) -> bool {
    let is_dots = |segment: &[u8]| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    };
    // Decoded once: a file may be called `%2e%2e`, whose name comes as `%252e%252e`.
    let decoded: Cow<'_, [u8]> = percent_decode(path.as_bytes()).into();
    decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dots)
}

fn without_fragment(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_fragment(None);
    url
}

fn with_query(mut url: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        url.push('?');
        url.push_str(query);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    fn routes(toml: &str) -> Routes {
        let mut layers = Layers::new();
        layers.add_toml(&format!("data = \"/d\"\n{toml}"), "pond.toml");
        let config = Config::read(&layers).expect("valid");
        let upstreams = config.upstreams.iter().map(|upstream| {
            Arc::new(ConfiguredUpstream {
                name: upstream.name.clone(),
                base: upstream.url.clone(),
                authorization: None,
                offline: upstream.offline(&config),
                circuit: crate::upstream::Circuit::default(),
            })
        });
        Routes::new(&config, &upstreams.collect::<Vec<_>>())
    }

    fn url(routes: &Routes, path: &str) -> Result<String, RouteError> {
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(path, query)| (path, Some(query)));
        match routes.resolve(path, query)? {
            Routed::Fetch { target, .. } => Ok(target.url.to_string()),
            Routed::Own(own) => Ok(format!("own {own}")),
        }
    }

    #[test]
    fn each_tree_is_served_under_its_name() {
        let routes = routes("upstream = [\"http://h/base\", \"films=http://f:81/\"]");
        assert_eq!(url(&routes, "/a/b?c=d").as_deref(), Ok("http://h/base/a/b?c=d"));
        assert_eq!(url(&routes, "/films/a").as_deref(), Ok("http://f:81/a"));
        assert_eq!(url(&routes, "/https/e.org:444/x").as_deref(), Ok("https://e.org:444/x"));
        assert_eq!(url(&routes, "/-/healthz").as_deref(), Ok("own healthz"));
    }

    #[test]
    fn percent_encoding_is_preserved_in_upstream_urls() {
        let routes = routes("upstream = [\"http://h/\"]");
        for name in [
            "a%20b", "(a)", "a+b", "a%2Bb", "100%25", "a%23b", "%C3%A9", "e%CC%81", "a%2Fb", "a;b=c,d", "a%3Fb", "~a'!",
        ] {
            assert_eq!(
                url(&routes, &format!("/{name}")),
                Ok(format!("http://h/{name}")),
                "{name}"
            );
        }
        assert_eq!(url(&routes, "/é").as_deref(), Ok("http://h/%C3%A9"));
    }

    #[test]
    fn a_url_is_found_under_the_key_that_it_is_stored_under() {
        let routes = routes("ignore_query = [\"sig\"]\nupstream = [\"http://h/base/\"]");
        for (path, url) in [
            ("/a?sig=1&x=2", "http://h/base/a?x=2&sig=7"),
            ("/http/other/b?sig=1", "http://other/b"),
        ] {
            let (path, query) = path.split_once('?').expect("a query");
            let Ok(Routed::Fetch { target, .. }) = routes.resolve(path, Some(query)) else {
                panic!("{path} goes somewhere");
            };
            let url = Url::parse(url).expect("a URL");
            assert_eq!(routes.key_of(url).id(), target.key.id(), "{path}");
        }
    }

    #[test]
    fn within_a_mirror_a_name_has_one_key_however_it_is_spelled() {
        let routes = routes("upstream = [\"m=http://h/base/\"]\nmirror = [\"m/my films\"]");
        let key = |path: &str| match routes.resolve(path, None) {
            Ok(Routed::Fetch { target, .. }) => (target.key.clone(), target.is_mirrored),
            other => panic!("{other:?}"),
        };
        let (within, is_mirrored) = key("/m/my%20films/a(b)+c.mkv");
        assert!(is_mirrored);
        assert_eq!(key("/m/my%20films/a%28b%29%2Bc.mkv").0, within);
        assert_eq!(within.url(), "http://h/base/my%20films/a(b)+c.mkv");
        let url = Url::parse("http://h/base/my%20films/a%28b)+c.mkv").expect("a URL");
        assert_eq!(routes.key_of(url), within);
        let (outside, is_mirrored) = key("/m/a%28b%29");
        assert!(!is_mirrored);
        assert_ne!(outside, key("/m/a(b)").0, "elsewhere nothing is known of the upstream");
    }

    #[test]
    fn a_url_leads_back_to_the_path_that_it_is_served_under() {
        let routes = routes("upstream = [\"http://h/base/\", \"films=http://f:81/\"]");
        for (url, path) in [
            ("http://h/base/a/b?c=d", "/a/b?c=d"),
            ("http://f:81/x/y.m3u8", "/films/x/y.m3u8"),
            ("http://h/basement", "/http/h/basement"),
            ("https://e.org:444/x?y#z", "/https/e.org:444/x?y"),
        ] {
            assert_eq!(
                routes.path_of(&Url::parse(url).expect("a URL")).as_deref(),
                Some(path),
                "{url}"
            );
        }
        let slashes = Url::parse("http://h/base//evil.example/").expect("a URL");
        assert_eq!(routes.path_of(&slashes), None);
    }

    #[test]
    fn no_path_leads_out_of_a_tree() {
        let routes = routes("ad_hoc = false\nupstream = [\"http://h/base/\"]");
        for path in ["/../secret", "/%2e%2e/secret", "/a/../../secret", "/a/%2E./../secret"] {
            assert_eq!(url(&routes, path), Err(RouteError::Outside), "{path}");
        }
        for path in [
            "/..%2fsecret",
            "/%2e%2e%2Fsecret",
            "/a%2f..%2f..%2fsecret",
            "/..%5csecret",
            "/%2e%2e%5Csecret",
            "/..;/secret",
            "/..;a=b/secret",
            "/a/%2e%2e;/secret",
            "/a%2f.%2fb",
        ] {
            assert_eq!(url(&routes, path), Err(RouteError::HiddenDots), "{path}");
        }
        for path in [
            "/a%2Fb",
            "/%252e%252e",
            "/...",
            "/a..%2f..b",
            "/a;..",
            "/%25",
            "/..a%2f",
        ] {
            assert_eq!(url(&routes, path), Ok(format!("http://h/base{path}")), "{path}");
        }
        assert_eq!(url(&routes, "/a/../b").as_deref(), Ok("http://h/base/b"));
        // A URL parser takes it for a slash.
        assert_eq!(url(&routes, "/..\\secret"), Err(RouteError::RawSign));
    }

    #[test]
    fn any_url_takes_no_credentials_and_needs_a_host() {
        let here = routes("");
        for path in ["/http/", "/http//a", "/http/user:pw@h/a", "/http/h:99999/a"] {
            assert_eq!(url(&here, path), Err(RouteError::NotAUrl), "{path}");
        }
        assert_eq!(url(&here, "/film.mkv"), Err(RouteError::Nowhere));
        let off = routes("ad_hoc = false\nupstream = [\"films=http://h/\"]");
        assert_eq!(url(&off, "/http/h/a"), Err(RouteError::AdHocOff));
        assert_eq!(url(&off, &format!("/{}", "a".repeat(9000))), Err(RouteError::TooLong));
    }
}
