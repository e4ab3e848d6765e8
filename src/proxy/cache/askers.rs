//! The clients that the upstream has allowed what another's credentials have brought.
//!
//! Each is known by a digest of its credentials, for one generation of one object, until a time. The table is bounded, and
//! lost with the process: a question more to the upstream is all that it costs.

use crate::key::ObjectId;
use crate::policy::Credentials;
use crate::store::Object;
use crate::upstream::Target;
use quick_cache::sync::Cache;
use std::time::Duration;

/// The clients that are remembered, each for one object. A judgement: of some fifty bytes each.
const MOST_KNOWN: usize = 16 * 1024;

type AskerKey = (ObjectId, u64, Option<Credentials>);

/// The table of allowed clients; times are of the server's clock, from its start.
#[derive(Debug)]
pub struct Askers(Cache<AskerKey, Duration>);

impl Default for Askers {
    fn default() -> Self {
        Self(Cache::new(MOST_KNOWN))
    }
}

impl Askers {
    /// The time until which the client of the request may have the object.
    pub(in crate::proxy) fn allowed_until(&self, object: &Object, target: &Target) -> Option<Duration> {
        self.0.get(&key_of(object, target))
    }

    /// Allows it until then.
    pub(in crate::proxy) fn allow(&self, object: &Object, target: &Target, until: Duration) {
        self.0.insert(key_of(object, target), until);
    }
}

fn key_of(object: &Object, target: &Target) -> AskerKey {
    (object.id(), object.generation(), target.credentials)
}
