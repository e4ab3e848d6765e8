//! The `Cache-Status` field (RFC 9211): the true story of one answer.
//!
//! A hit says `hit`, everything else `fwd` with its reason; the two exclude each other (§2), which `forwarded` being
//! one value makes sure of. What follows says what became of the request: the upstream's status, whether the reply is
//! stored, whether the request shared a fill, for how long the reply is fresh. All words are tokens, so nothing has to
//! be quoted.

use std::fmt;

/// Why a request went, or would go, to the upstream (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing is stored under the URL.
    UriMiss,
    /// The stored reply under the URL is not the one that the request selects.
    VaryMiss,
    /// Some of the wanted bytes are stored.
    Partial,
    /// The stored reply must be revalidated.
    Stale,
    /// The request asks for what the upstream says now.
    Request,
    /// The method is one that is not answered from the store.
    Method,
}

impl Forwarded {
    fn token(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Partial => "partial",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Method => "method",
        }
    }
}

/// Our member of the field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// Why upstream was asked; `None` is a hit.
    pub forwarded: Option<Forwarded>,
    /// The status of the upstream's reply, where there was one.
    pub upstream_status: Option<u16>,
    /// The reply goes into the store.
    pub stored: bool,
    /// The request shares a fill that another one began.
    pub collapsed: bool,
    /// For how many seconds a stored reply is fresh still; less than nothing where it is stale.
    pub ttl: Option<i64>,
    /// The `detail` parameter, one word.
    pub detail: Option<&'static str>,
}

impl CacheStatus {
    /// Everything wanted is in the store and may be reused.
    pub const HIT: Self = Self {
        forwarded: None,
        upstream_status: None,
        stored: false,
        collapsed: false,
        ttl: None,
        detail: None,
    };

    /// The request went to the upstream, for this reason.
    pub fn forwarded(why: Forwarded) -> Self {
        Self {
            forwarded: Some(why),
            ..Self::HIT
        }
    }

    /// The same story with the detail of another one.
    pub fn with_detail_of(self, other: Self) -> Self {
        Self {
            detail: other.detail,
            ..self
        }
    }

    /// The same story with one word more.
    pub fn detail(self, detail: &'static str) -> Self {
        Self {
            detail: Some(detail),
            ..self
        }
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("millpond")?;
        match self.forwarded {
            None => f.write_str("; hit")?,
            Some(why) => write!(f, "; fwd={}", why.token())?,
        }
        if let Some(status) = self.upstream_status {
            write!(f, "; fwd-status={status}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={ttl}")?;
        }
        match self.detail {
            Some(detail) => write!(f, "; detail={detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_status_parameters_come_in_the_order_of_the_rfc() {
        assert_eq!(CacheStatus::HIT.to_string(), "millpond; hit");
        let hit = CacheStatus {
            ttl: Some(-5),
            ..CacheStatus::HIT.detail("max-stale")
        };
        assert_eq!(hit.to_string(), "millpond; hit; ttl=-5; detail=max-stale");
        let story = CacheStatus {
            upstream_status: Some(206),
            stored: true,
            collapsed: true,
            ..CacheStatus::forwarded(Forwarded::Partial)
        };
        assert_eq!(
            story.detail("waiting").to_string(),
            "millpond; fwd=partial; fwd-status=206; stored; collapsed; detail=waiting"
        );
    }
}
