//! Why an upstream gave no reply, or not the whole of it.
//!
//! Each names the host as the URL does, and what was wanted of it. Callers ask four things: whether time ran out (504
//! rather than 502), whether the URL itself is at fault, whether it says anything of the upstream's health (only then
//! is it counted against the upstream), and the cause in one word, which is the label of a metric. The text is for
//! operators and clients: the innermost cause that says something, without the words that the client's layers put
//! around every failure.

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
    /// The port belongs to another protocol than HTTP.
    #[error(
        "port {port} of {host} is none of a web server; name the upstream with --upstream, or start with --allow-private"
    )]
    RefusedPort {
        /// The host as the URL names it.
        host: String,
        /// The port.
        port: u16,
    },
    /// No connection, or it was lost before the reply's header.
    #[error("could not reach {host}: {}", root(source.as_ref()))]
    Unreachable {
        /// The host as the URL names it.
        host: String,
        /// In a word; see [`UpstreamError::cause`].
        cause: &'static str,
        /// The client's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This machine has no descriptor, port or memory left for a connection.
    #[error(
        "no connection to {host} could be made, since this machine has no {} left",
        exhausted(source)
    )]
    Exhausted {
        /// The host as the URL names it.
        host: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The head of the reply is none that can be read without guessing.
    #[error("{host} sent a reply whose head does not read: {}", root(source.as_ref()))]
    Malformed {
        /// The host as the URL names it.
        host: String,
        /// The client's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The head of the reply is larger than what is stored of any.
    #[error("{host} sent a reply whose head is too large: {fields} fields of {bytes} bytes; at most 36 KiB are read")]
    HeadTooLarge {
        /// The host as the URL names it.
        host: String,
        /// The bytes of all names and values, with 32 for each field.
        bytes: usize,
        /// The number of fields.
        fields: usize,
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
        /// The mistake in the redirect.
        what: &'static str,
    },
    /// The reply's body is in a transfer coding that is not known.
    #[error("{host} sent its body in a transfer coding that is not known ({coding}); RFC 9112 has chunked")]
    TransferCoding {
        /// The host as the URL names it.
        host: String,
        /// The codings as the reply names them.
        coding: String,
    },
    /// The HTTP client could not be made.
    #[error("could not set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// The certificates to trust cannot be used.
    #[error("{0}")]
    Certificates(String),
}

/// The thing that this machine has none left of.
fn exhausted(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => "port",
        std::io::ErrorKind::OutOfMemory => "memory",
        _ => "descriptor",
    }
}

/// The innermost cause that says something: what the layers of the client put around it is the same for all failures.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    let told = causes.iter().skip_while(|cause| GENERIC.contains(&cause.as_str()));
    let mut told: Vec<&str> = told.map(String::as_str).collect();
    told.dedup_by(|next, before| before.ends_with(*next));
    match told.is_empty() {
        true => causes.pop().unwrap_or_default(),
        false => told.join(": "),
    }
}

/// The HTTP client's generic words around every failure.
const GENERIC: [&str; 6] = [
    "error sending request",
    "client error (Connect)",
    "client error (SendRequest)",
    "tcp connect error",
    "connection error",
    "invalid HTTP header parsed",
];

impl UpstreamError {
    /// Whether it was time that ran out: 504 rather than 502.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }

    /// The cause in one word, as in the metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Refused { .. } | Self::RefusedPort { .. } => "forbidden-address",
            Self::Unreachable { cause, .. } => cause,
            Self::Exhausted { .. } => "exhausted",
            Self::Silent { .. } => "timeout",
            Self::Malformed { .. } | Self::HeadTooLarge { .. } | Self::TransferCoding { .. } => "malformed-reply",
            Self::Cut { .. } => "cut",
            Self::Redirect { .. } => "redirect",
            Self::Setup(_) | Self::Certificates(_) => "setup",
        }
    }

    /// Whether it says nothing of the upstream's health: it has answered, or was not asked at all.
    pub fn is_no_outage(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::RefusedPort { .. }
                | Self::Exhausted { .. }
                | Self::HeadTooLarge { .. }
                | Self::TransferCoding { .. }
                | Self::Malformed { .. }
                | Self::Redirect { .. }
        )
    }

    /// Whether it is this machine that could not ask: 503 rather than 502.
    pub fn is_exhaustion(&self) -> bool {
        matches!(self, Self::Exhausted { .. })
    }

    /// Whether the URL itself is at fault, so that the client must change it.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::RefusedPort { .. })
    }
}
