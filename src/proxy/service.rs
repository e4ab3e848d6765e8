//! The service of the cache: all that is needed to answer a request.
//!
//! There is one for a server, and all of its workers share it. The ways of a request through it are in the files that
//! add methods: lookup.rs (the whole way), fast_path.rs and request_cache.rs (hits), fetch.rs (fills), bypass.rs and async_requests.rs
//! (what is passed on), live.rs.

use super::cache::askers::Askers;
use super::request::route::Routes;
use crate::clock::SharedClock;
use crate::fill::Registry;
use crate::mirror::Mirrors;
use crate::store::Store;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How answers are made.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// The longest that a header waits for the first wanted byte.
    pub header_wait: Duration,
    /// How long an object that says nothing of its freshness is reused without asking.
    pub fresh_for: Duration,
    /// Whether bodies whose end was only a closed connection are reused.
    pub keep_unverified: bool,
    /// Paths whose requests outlive their clients; one that ends in `*` stands for all that begin so.
    pub detach: Vec<String>,
    /// Fields that are credentials beside those known, in lower case.
    pub credentials: Vec<String>,
    /// The scheme by which clients reach this server, `http` or `https`, as upstreams are told it.
    pub scheme: &'static str,
}

/// All that is needed to answer requests.
#[derive(Debug)]
pub struct Service {
    /// The disk.
    pub store: Arc<Store>,
    /// The fills.
    pub fills: Registry,
    /// The mirrors.
    pub mirrors: Arc<Mirrors>,
    /// The routes: which upstream is served under which path.
    pub routes: Arc<Routes>,
    /// The wall clock.
    pub clock: SharedClock,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// How answers are made.
    pub settings: ServiceSettings,
    /// The clients that may have what another's credentials have brought.
    pub askers: Askers,
    /// Where objects are looked up on the disk: one thread, since it is one at a time anyway, and the heap of
    /// each further one would hold its share of what the catalog has in memory.
    pub lookups: Handle,
}
