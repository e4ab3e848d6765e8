//! The server itself: what it is, and where it is reached.
//!
//! A command that asks by the control socket learns from it which URLs are this server's.

use serde::{Deserialize, Serialize};

/// A server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct About {
    /// The version of the program.
    pub version: String,
    /// The URLs of its root, at each address with a port that it listens at, and the one that clients use behind a proxy.
    pub urls: Vec<String>,
}
