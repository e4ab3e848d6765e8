//! Purge and invalidation, each as one operation: the store first, then the fills.
//!
//! In this order, since a fill that begins in between must not take what is being removed for what is known. A request after a
//! purge finds neither the object nor the fill that still serves its readers; those who read already read on.

use super::registry::Registry;
use crate::api::Purged;
use crate::key::{ObjectId, ObjectKey};
use crate::store::{Expired, PurgeMode, PurgeScope, StoreError};

/// The objects that a purge is for.
#[derive(Debug, Clone)]
pub enum Purge {
    /// One object.
    Object(ObjectId),
    /// The object that a URL stands for, and its variants (RFC 9111 §4.1).
    Url(ObjectId),
    /// All that are meant.
    All(PurgeScope),
}

impl Registry {
    /// Carries out a purge: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn purge(&self, purge: Purge, mode: PurgeMode) -> Result<Purged, StoreError> {
        let store = self.store();
        let scope = match purge {
            Purge::Url(id) if store.has_variants(id)? => {
                let object = store.load_id(id)?;
                PurgeScope::Url(object.map(|object| object.url().to_owned()).unwrap_or_default())
            }
            Purge::Object(id) | Purge::Url(id) => {
                let purged = match mode {
                    PurgeMode::Remove => store.purge(id),
                    PurgeMode::Expire => store.expire(id, Expired::Stale),
                };
                if mode == PurgeMode::Remove {
                    self.detach(id);
                }
                return purged;
            }
            Purge::All(scope) => scope,
        };
        let purged = store.purge_all(&scope, mode);
        if mode == PurgeMode::Remove {
            self.detach_all(&scope);
        }
        purged
    }

    /// Invalidates a stored reply (RFC 9111 §4.4): it must be validated before it is used again. It is not removed where it
    /// is whole, since anybody may send a request that invalidates, and a film that is unchanged need not be fetched twice.
    /// For a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses; the fill is detached all the same.
    pub fn invalidate(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let store = self.store();
        let done = match store.load(key) {
            Ok(Some(object)) if object.is_whole() => store.expire(key.id(), Expired::Invalidated),
            // A fill under way may bring bytes of before and of after: its readers finish, and no other request joins.
            Ok(Some(_)) => store.purge(key.id()),
            Ok(None) => Ok(Purged::default()),
            Err(error) => Err(error),
        };
        self.detach(key.id());
        done.map(drop)
    }
}
