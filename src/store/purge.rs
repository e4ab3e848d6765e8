//! Purges: objects removed or expired by order, one by one, by URL, by prefix or by tag.
//!
//! A purged object is out of the map and the catalog when the order returns: later requests do not find it. Readers that
//! are attached keep its open body until they leave. A soft purge expires instead: the bytes stay, and are revalidated.

use super::error::StoreError;
use super::object::Object;
use super::object::representation::{Expired, Representation};
use super::store::Store;
use crate::api::Purged;
use crate::key::ObjectId;
use std::collections::HashSet;
use std::sync::Arc;

/// The objects that a purge is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeScope {
    /// All objects under this URL, whatever fields select them.
    Url(String),
    /// Objects whose URLs begin so.
    Prefix(String),
    /// Objects to which their upstream has given this tag, in `Surrogate-Key` or `Cache-Tag`.
    Tag(String),
}

impl PurgeScope {
    /// Whether an object is among them.
    pub fn means(&self, url: &str, representation: &Representation) -> bool {
        match self {
            Self::Url(wanted) => url == wanted,
            Self::Prefix(prefix) => url.starts_with(prefix.as_str()),
            Self::Tag(tag) => {
                let tags = |name: &'static str, between: fn(char) -> bool| {
                    let lines = representation.headers.iter().filter(move |(key, _)| key == name);
                    lines.flat_map(move |(_, line)| line.split(between))
                };
                let spaced = tags("surrogate-key", char::is_whitespace);
                let listed = tags("cache-tag", |char| char == ',').map(str::trim);
                spaced.chain(listed).any(|known| known == tag)
            }
        }
    }
}

/// Whether a purge removes or expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeMode {
    /// The objects are removed.
    Remove,
    /// The objects are stale from now on.
    Expire,
}

impl Store {
    /// Removes one object, pinned or not, in use or not: later requests do not find it, attached readers
    /// finish. For a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn purge(&self, id: ObjectId) -> Result<Purged, StoreError> {
        // A body that does not open any more goes as well: it is then forgotten in the opening.
        let Some(object) = self.load_id(id)? else {
            return Ok(Purged::default());
        };
        let bytes = object.disk_bytes();
        self.remove(&object);
        if let Err(error) = self.shared.catalog.flush() {
            // Should the machine fail now, the object would be back.
            tracing::warn!(url = object.url(), %error, "could not write out that an object is gone");
        }
        tracing::info!(url = object.url(), bytes, "purged");
        Ok(Purged { removed: 1, bytes })
    }

    /// Removes all objects that are meant, as [`Store::purge`] does, or expires them. It looks at every record.
    ///
    /// # Errors
    /// Where the catalog refuses; those before it are done then.
    pub fn purge_all(&self, which: &PurgeScope, how: PurgeMode) -> Result<Purged, StoreError> {
        // A purge that passes over what no record names yet would be no purge.
        self.knows_all()?;
        let mut all = Purged::default();
        // Objects without a record first, then those with one: an object that gets its record meanwhile is met by the scan.
        let meant = |object: &&Arc<Object>| {
            !object.is_materialized() && which.means(object.url(), object.head().representation())
        };
        let open = self.open.all();
        let unmaterialized: HashSet<ObjectId> = open.iter().filter(meant).map(|object| object.id()).collect();
        drop(open);
        let recorded = self.shared.catalog.scan(None).filter_map(|record| match record {
            Ok((id, record)) => {
                let is_meant = !unmaterialized.contains(&id) && which.means(&record.url, &record.representation);
                is_meant.then_some(Ok(id))
            }
            Err(error) => Some(Err(error)),
        });
        for id in unmaterialized.iter().copied().map(Ok).chain(recorded) {
            let id = id?;
            let one = match how {
                PurgeMode::Remove => self.purge(id)?,
                PurgeMode::Expire => self.expire(id, Expired::Stale)?,
            };
            all.removed += one.removed;
            all.bytes += one.bytes;
        }
        Ok(all)
    }

    /// The time of the object is over: it is not used any more without the upstream's word.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn expire(&self, id: ObjectId, why: Expired) -> Result<Purged, StoreError> {
        let Some(object) = self.load_id(id)? else {
            return Ok(Purged::default());
        };
        object.expire(why)?;
        tracing::info!(url = object.url(), "expired");
        Ok(Purged { removed: 1, bytes: 0 })
    }
}
