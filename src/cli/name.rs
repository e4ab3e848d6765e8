//! The user's name for an object: its id, its upstream URL, or the URL at which millpond serves it.
//!
//! Of the URLs that millpond serves only the ad hoc form (`/https/HOST/PATH`) tells the upstream URL; what
//! lies behind the others the server's configuration knows, and a guess could remove the wrong object.

use super::server::RemoteServer;
use millpond::key::{ObjectId, ObjectKey};
use std::fmt;
use url::Url;

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// The digest of its URL.
    Id(ObjectId),
    /// The canonical URL.
    Url(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl Name {
    /// Reads a name as the user wrote it.
    ///
    /// # Errors
    /// The mistake, and what to write instead.
    pub(super) fn read(text: &str, server: &RemoteServer) -> Result<Self, String> {
        if let Some(id) = ObjectId::parse(text) {
            return Ok(Self::Id(id));
        }
        upstream_url(text, server).map(|url| Self::Url(ObjectKey::of(&url).url().to_owned()))
    }
}

/// Reads what URLs begin with.
///
/// A prefix that ends within a host's name is taken as that host, whole: `https://e.org` means
/// `https://e.org/` and not also `https://e.org.example/`.
///
/// # Errors
/// The mistake in a prefix. An empty prefix is refused: in a script it is an unset variable.
pub(super) fn prefix(text: &str, server: &RemoteServer) -> Result<String, String> {
    if text.is_empty() {
        return Err("--prefix: an empty prefix would mean every object; write --prefix http for that".to_owned());
    }
    if ["http://", "https://"].iter().any(|scheme| scheme.starts_with(text)) {
        return Ok(text.to_owned());
    }
    upstream_url(text, server)
        .map(|url| ObjectKey::of(&url).url().to_owned())
        .map_err(|mistake| format!("--prefix: {mistake}"))
}

fn upstream_url(text: &str, server: &RemoteServer) -> Result<Url, String> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            format!("{text:?} is neither an id (32 hexadecimal digits) nor a URL that begins with http:// or https://")
        })?;
    let Some(path) = server.path_of(&url) else {
        return Ok(url);
    };
    ad_hoc(path, url.query()).ok_or_else(|| {
        format!(
            "{text:?} is where millpond serves something; an upstream URL is needed, as `millpond ls` prints it, or an id"
        )
    })
}

/// `https/HOST/PATH` back to the URL that it stands for.
fn ad_hoc(path: &str, query: Option<&str>) -> Option<Url> {
    let (scheme, rest) = path.split_once('/')?;
    let authority = rest.split('/').next().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || authority.is_empty() || authority.contains('@') {
        return None;
    }
    let mut url = Url::parse(&format!("{scheme}://{rest}")).ok()?;
    url.set_query(query);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> RemoteServer {
        RemoteServer::choose(Some("http://127.0.0.1:8080"), |_| None).expect("an address")
    }

    fn read(text: &str) -> Result<String, String> {
        Name::read(text, &server()).map(|name| name.to_string())
    }

    #[test]
    fn ids_and_upstream_urls_in_any_spelling_name_an_object() {
        let id = "00112233445566778899aabbccddeeff";
        assert_eq!(read(&id.to_uppercase()).as_deref(), Ok(id));
        let url = read("HTTPS://user:pw@E.org:443/%7efilm?a=b#part");
        assert_eq!(url.as_deref(), Ok("https://e.org/~film?a=b"));
        // The same host at another port is an upstream like any other.
        assert_eq!(read("http://127.0.0.1:9/a").as_deref(), Ok("http://127.0.0.1:9/a"));
    }

    #[test]
    fn the_ad_hoc_form_is_turned_back_into_the_upstream_url() {
        for text in [
            "http://127.0.0.1:8080/https/e.org:444/a%2Fb?c=d",
            "http://localhost:8080/https/e.org:444/a%2Fb?c=d",
        ] {
            assert_eq!(read(text).as_deref(), Ok("https://e.org:444/a%2Fb?c=d"));
        }
        let proxied = RemoteServer::choose(Some("https://p.org/pond/"), |_| None).expect("an address");
        let name = Name::read("https://p.org/pond/http/h/a", &proxied).map(|name| name.to_string());
        assert_eq!(name.as_deref(), Ok("http://h/a"));
    }

    #[test]
    fn other_urls_of_the_server_are_refused_with_the_mend() {
        for path in [
            "",
            "film",
            "films/a",
            "https",
            "https/",
            "http/u:p@h/a",
            "-/api/v1/objects",
        ] {
            let mistake = read(&format!("http://127.0.0.1:8080/{path}")).expect_err("no upstream URL");
            assert!(mistake.contains("upstream URL is needed"), "{mistake}");
        }
    }

    #[test]
    fn text_that_names_no_object_is_refused() {
        for text in ["", "film", "e.org/film", "ftp://h/a", "0011", "file:///a"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_does_not_reach_into_another_host() {
        let prefix = |text| prefix(text, &server());
        assert_eq!(prefix("https://E.org").as_deref(), Ok("https://e.org/"));
        assert_eq!(prefix("https://e.org/fil").as_deref(), Ok("https://e.org/fil"));
        let served = prefix("http://127.0.0.1:8080/https/e.org/");
        assert_eq!(served.as_deref(), Ok("https://e.org/"));
        for all in ["http", "http://", "https://"] {
            assert_eq!(prefix(all).as_deref(), Ok(all));
        }
        for none in ["", "e.org", "ftp://h/", "http://127.0.0.1:8080/films/"] {
            assert!(prefix(none).is_err(), "{none}");
        }
    }
}
