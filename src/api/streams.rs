//! Streams: replies without an end, and requests that outlive their clients.
//!
//! The id of a stream is a capability: whoever knows it may read the stream and stop it. So the list is for those who may
//! change things.

use serde::{Deserialize, Serialize};

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// The upstream has not answered yet.
    Opening,
    /// Bytes come.
    Running,
    /// The reply came to its end, and the framing says so.
    Complete,
    /// The stream ended before that: cut, silent, too long, or the server was stopped.
    Partial,
    /// The upstream refused, or did not answer.
    Failed,
    /// The stream was stopped by order.
    Stopped,
}

/// All streams that are known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct StreamSummaries {
    /// The streams, the latest first.
    pub streams: Vec<StreamSummary>,
}

/// A stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct StreamSummary {
    /// The id.
    pub id: String,
    /// The URL that was asked for.
    pub url: String,
    /// The method of the request.
    pub method: String,
    /// Whether it was asked to outlive its client.
    pub detached: bool,
    /// How far it has come.
    pub state: StreamState,
    /// Why it ended, in words.
    pub why: Option<String>,
    /// The client that stopped it.
    pub stopped_by: Option<String>,
    /// The status of the upstream's reply.
    pub upstream_status: Option<u16>,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When it ended, in seconds since 1970.
    pub ended: Option<u64>,
    /// The first byte that is still logged.
    pub first: u64,
    /// The end of what has come, in bytes from the stream's first.
    pub bytes: u64,
    /// Clients that read it now.
    pub listeners: usize,
    /// Whether its log has gone.
    pub gone: bool,
    /// The path under which it is read.
    pub stream: String,
}

/// Where a request that outlives its client is found: the body of 202.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct StreamLinks {
    /// The id.
    pub id: String,
    /// The path under which the stream is read.
    pub stream: String,
    /// The path of its state.
    pub status: String,
}
