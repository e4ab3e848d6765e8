//! Settings of fills, as the composition hands them over.
//!
//! They are the same for all fills of a registry, and do not change while it lives. What a request may say otherwise
//! is in its target (`Target::after_last_reader`).

use crate::config::AfterLastReader;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How fills behave.
#[derive(Debug, Clone)]
pub struct FillSettings {
    /// The most upstream connections one object may have at once.
    pub sessions_per_object: usize,
    /// How long readers are held while the upstream fails, before their connections are broken.
    pub hold_limit: Duration,
    /// The longest that a reader waits for the upstream to confirm a stale object.
    pub revalidate_wait: Duration,
    /// The policy for a fill whose last reader has left.
    pub after_last_reader: AfterLastReader,
    /// How far ahead of a reader is fetched, in time at its own rate; `None` is all.
    pub read_ahead: Option<Duration>,
    /// Where redirects of what has relative names in it are told to the client.
    pub served: Served,
}

/// Which URLs a client can be sent to: those that are served here.
#[derive(Clone)]
pub struct Served(Arc<dyn Fn(&Url) -> bool + Send + Sync>);

impl Served {
    /// The URLs of which `is_served` is true.
    pub fn new(is_served: impl Fn(&Url) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_served))
    }

    pub(super) fn has(&self, url: &Url) -> bool {
        (self.0)(url)
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Served")
    }
}
