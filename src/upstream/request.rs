//! What we ask of an upstream.

use crate::key::ObjectKey;
use crate::ranges::{ByteCount, ByteOffset, ByteRange};
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
}

impl Target {
    /// The target of `url`, stored under its canonical form.
    pub fn new(url: Url, trust: Trust) -> Self {
        Self {
            key: ObjectKey::of(&url),
            url,
            trust,
        }
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

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What to fetch.
    pub target: Target,
    /// Which bytes of it.
    pub span: Span,
    /// The strong validator that the bytes must belong to, for `If-Range`.
    pub if_range: Option<String>,
    /// An entity tag for `If-None-Match`.
    pub if_none_match: Option<String>,
    /// A date for `If-Modified-Since`.
    pub if_modified_since: Option<String>,
}

impl Ask {
    /// Asks for these bytes, without conditions.
    pub fn new(target: Target, span: Span) -> Self {
        Self {
            target,
            span,
            if_range: None,
            if_none_match: None,
            if_modified_since: None,
        }
    }
}
