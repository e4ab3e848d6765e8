//! An upstream that the operator has configured: what requests to it have in common.
//!
//! There is one for each upstream of the configuration, and it lives as long as the server. A target that was made of a path
//! beneath it carries it along, so that what is sent and what comes back is judged by the same rules whoever asks. A URL that
//! a client named has none.

use super::authorization::Authorization;
use super::circuit::Circuit;
use crate::config::Offline;
use url::Url;

/// A configured upstream.
#[derive(Debug)]
pub struct ConfiguredUpstream {
    /// The name under which it is served; `None` means at `/`.
    pub name: Option<String>,
    /// The URL of its tree; the path ends in a slash.
    pub base: Url,
    /// The operator's credential, for requests that have none of their own.
    pub authorization: Option<Authorization>,
    /// The rule for what is served of it while it is away.
    pub offline: Offline,
    /// Whether it is away. Looked at only where the rule says that something is served then.
    pub circuit: Circuit,
}

impl ConfiguredUpstream {
    /// Whether what is stored of it is served while it is away, beyond what replies allow.
    pub fn is_served_offline(&self) -> bool {
        self.offline != Offline::Refuse
    }
}
