//! Why an upstream gave no reply, or not the whole of it.

use std::time::Duration;

/// A failure of one exchange with an upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The address is not one that this URL may lead to.
    #[error("{host} is not a public address; name it with --upstream, or start with --allow-private")]
    Refused {
        /// The host as the URL names it.
        host: String,
    },
    /// No connection, or it was lost before the reply's header.
    #[error("could not reach {host}: {source}")]
    Unreachable {
        /// The host as the URL names it.
        host: String,
        /// The client's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No header of a reply came in time.
    #[error("{host} sent no reply within {limit:?}")]
    Silent {
        /// The host as the URL names it.
        host: String,
        /// How long we waited.
        limit: Duration,
    },
    /// The body ended before its framing said so, or stalled.
    #[error("the body was cut: {source}")]
    Cut {
        /// The client's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More redirects than are followed, or one that leads nowhere.
    #[error("{host} redirects {what}")]
    Redirect {
        /// The host as the URL names it.
        host: String,
        /// What is wrong with the redirect.
        what: &'static str,
    },
    /// The HTTP client could not be made.
    #[error("could not set up the HTTP client")]
    Setup(#[source] reqwest::Error),
}

impl UpstreamError {
    /// Whether it was time that ran out: 504 rather than 502.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }

    /// Whether the URL itself is at fault, so that the client must change it.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}
