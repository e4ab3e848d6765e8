//! Requests to an upstream: the target, the span, and the fields.
//!
//! A [`Target`] keeps the URL that is asked apart from the key that its object is stored under: a signed URL changes
//! with each request while its key stays. Its fields are those of the client's request, names in lower case; which of
//! them go out, and where to, is the client's matter (client.rs). A [`Span`] is half-open here and becomes HTTP's
//! inclusive `Range` only in [`Span::field`]. Conditions are texts as the upstream gave them, so that they are compared
//! as it would compare them.

use super::configured::ConfiguredUpstream;
use crate::config::AfterLastReader;
use crate::key::ObjectKey;
use crate::policy::Credentials;
use crate::ranges::{ByteCount, ByteOffset, ByteRange};
use bytes::Bytes;
use futures::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use url::Url;

/// Whom a URL came from, which decides what addresses it may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The operator configured this upstream: any address. A redirect to another host is `Public`.
    Configured,
    /// A client named the URL: public addresses only, unless the operator allows all.
    Public,
}

/// Something to fetch: the URL to ask, and the key it is stored under.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL to ask, as the client spelled its path.
    pub url: Url,
    /// The key.
    pub key: ObjectKey,
    /// Whom the URL came from.
    pub trust: Trust,
    /// The policy of its fill without readers, where it has one of its own.
    pub after_last_reader: Option<AfterLastReader>,
    /// Whether cookies are taken off its requests and replies.
    pub drop_cookies: bool,
    /// The end-to-end fields of the request that it is fetched for, names in lower case.
    pub fields: Arc<Vec<(String, String)>>,
    /// The credentials that its request shows.
    pub credentials: Option<Credentials>,
    /// Which of several representations under the URL it is; see `ObjectKey::variant`.
    pub variant: Option<String>,
    /// The configured upstream that it is of.
    pub upstream: Option<Arc<ConfiguredUpstream>>,
    /// Whether a mirror keeps it: what is stored of it goes by the mirror's rules alone, and for no refusal.
    pub is_mirrored: bool,
}

impl Target {
    /// The target of `url`, stored under its canonical form.
    pub fn new(url: Url, trust: Trust) -> Self {
        Self {
            key: ObjectKey::of(&url),
            url,
            trust,
            after_last_reader: None,
            drop_cookies: false,
            fields: Arc::default(),
            credentials: None,
            variant: None,
            upstream: None,
            is_mirrored: false,
        }
    }

    /// The same, fetched with these fields of a request.
    #[must_use]
    pub fn with_fields(&self, fields: Vec<(String, String)>) -> Self {
        Self {
            fields: Arc::new(fields),
            ..self.clone()
        }
    }

    /// The variant, of several representations under the same URL.
    #[must_use]
    pub fn variant(&self, name: String) -> Self {
        Self {
            key: self.key.variant(&name),
            variant: Some(name),
            ..self.clone()
        }
    }

    /// Whether two requests show the same credentials.
    pub fn same_credentials(&self, other: &Self) -> bool {
        self.credentials == other.credentials
    }

    /// The same, stored under a key without these parameters of the query: `NAME`, or `PREFIX*`. That
    /// is how one film keeps one key, however often its URL is signed anew.
    #[must_use]
    pub fn ignoring(mut self, parameters: &[String]) -> Self {
        let Some(query) = self.url.query().filter(|_| !parameters.is_empty()) else {
            return self;
        };
        let counts = |part: &&str| {
            let name = part.split('=').next().unwrap_or_default();
            !parameters.iter().any(|parameter| match parameter.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == parameter,
            })
        };
        let kept: Vec<&str> = query.split('&').filter(counts).collect();
        let mut bare = self.url.clone();
        bare.set_query((!kept.is_empty()).then(|| kept.join("&")).as_deref());
        self.key = ObjectKey::of(&bare);
        self
    }
}

/// Which bytes to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// No `Range` field.
    Whole,
    /// From here to the end.
    From(ByteOffset),
    /// Just these.
    Range(ByteRange),
    /// The last so many.
    Suffix(ByteCount),
}

impl Span {
    /// The value of the `Range` field; `None` for the whole.
    pub fn field(self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::From(start) => Some(format!("bytes={start}-")),
            Self::Range(range) => Some(format!("bytes={}-{}", range.start(), range.last())),
            Self::Suffix(count) => Some(format!("bytes=-{count}")),
        }
    }
}

/// The body of a request, in pieces; an error cuts the request.
pub type RelayedPieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>;

/// A request that is passed on as it is.
pub struct Relay {
    /// Where to, with its fields.
    pub target: Arc<Target>,
    /// The request's method.
    pub method: String,
    /// The length of its body in bytes, where it is known.
    pub length: Option<u64>,
    /// The request's body.
    pub body: Option<RelayedPieces>,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The target to fetch.
    pub target: Arc<Target>,
    /// Where redirects led the last time: asked instead of the target's own URL.
    pub at: Option<Url>,
    /// Which bytes of it.
    pub span: Span,
    /// The strong tag that the bytes must belong to, for `If-Match`: where the upstream does not know `If-Range`.
    pub if_match: Option<String>,
    /// The strong validator that the bytes must belong to, for `If-Range`.
    pub if_range: Option<String>,
    /// An entity tag for `If-None-Match`.
    pub if_none_match: Option<String>,
    /// A date for `If-Modified-Since`.
    pub if_modified_since: Option<String>,
}

impl Ask {
    /// Asks for these bytes, without conditions.
    pub fn new(target: Arc<Target>, span: Span) -> Self {
        Self {
            target,
            at: None,
            span,
            if_match: None,
            if_range: None,
            if_none_match: None,
            if_modified_since: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_no_part_of_the_key() {
        let rules = ["Expires".to_owned(), "X-Amz-*".to_owned()];
        let target = |url: &str| {
            let url = Url::parse(url).expect("a URL");
            Target::new(url, Trust::Public).ignoring(&rules)
        };
        let first = target("https://h/f.mkv?id=7&X-Amz-Date=1&X-Amz-Signature=a&Expires=3");
        let second = target("https://h/f.mkv?X-Amz-Signature=b&id=7");
        assert_eq!(first.key, second.key);
        assert_eq!(first.key.url(), "https://h/f.mkv?id=7");
        assert!(first.url.as_str().contains("Signature=a"), "it is asked as it came");
        assert_eq!(target("https://h/f.mkv?Expires=1").key.url(), "https://h/f.mkv");
        assert_ne!(target("https://h/f.mkv?expires=1").key, target("https://h/f.mkv").key);
    }
}
