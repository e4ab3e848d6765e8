//! The URL under which clients reach the directory, where that is another than the server can know: behind a reverse proxy.
//!
//! ```text
//! https://dav.example.org/         its name stands for this server in a Destination
//! https://example.org/films/       so does its path, which also stands before each path that is printed
//! any                              the host of a Destination is not looked at, for proxies that say nothing
//! ```

use url::Url;

/// The URL that clients use, as the operator says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PublicUrl {
    /// The operator says nothing: the request's own fields tell.
    #[default]
    Unknown,
    /// Every host is this one.
    Any,
    /// This URL: its authority, and its path without the last slash.
    Known {
        /// The host, with a port that is not the scheme's own.
        authority: String,
        /// Empty for the top of a host.
        prefix: String,
        /// Whether its scheme is `https`.
        is_https: bool,
    },
}

impl PublicUrl {
    /// Reads the setting.
    ///
    /// # Errors
    /// The mistake in the setting, in words.
    pub fn read(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::Unknown),
            "any" => return Ok(Self::Any),
            _ => {}
        }
        let url = Url::parse(text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.query().is_none());
        let url = url.ok_or("is no URL that begins with http:// or https://; write that, any or none")?;
        let host = url.host_str().ok_or("has no host")?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self::Known {
            authority: format!("{host}{port}"),
            prefix: url.path().trim_end_matches('/').to_owned(),
            is_https: url.scheme() == "https",
        })
    }

    /// Whether the authority of a Destination is this server's.
    pub fn allows(&self, authority: &str, same: impl Fn(&str, &str) -> bool) -> bool {
        match self {
            Self::Unknown => false,
            Self::Any => true,
            Self::Known { authority: own, .. } => same(own, authority),
        }
    }

    /// The URL of the server's root, where the operator says it.
    pub fn url(&self) -> Option<String> {
        match self {
            Self::Known {
                authority,
                prefix,
                is_https,
            } => {
                let scheme = if *is_https { "https" } else { "http" };
                Some(format!("{scheme}://{authority}{prefix}/"))
            }
            Self::Unknown | Self::Any => None,
        }
    }

    /// Whether clients use HTTPS; `None` where the operator says nothing of it.
    pub fn is_https(&self) -> Option<bool> {
        match self {
            Self::Known { is_https, .. } => Some(*is_https),
            Self::Unknown | Self::Any => None,
        }
    }

    /// The path that stands before each path of the tree.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Known { prefix, .. } => prefix,
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_has_a_host_and_perhaps_a_path() {
        let known = PublicUrl::read("https://Dav.example.org:443/films/").expect("valid");
        assert_eq!(known.prefix(), "/films");
        assert!(known.allows("dav.example.org", |a, b| a == b));
        assert_eq!(PublicUrl::read("any"), Ok(PublicUrl::Any));
        assert_eq!(PublicUrl::read("none"), Ok(PublicUrl::Unknown));
        for text in ["dav.example.org", "ftp://a/", "https://a/?b"] {
            assert!(PublicUrl::read(text).is_err(), "{text}");
        }
    }
}
