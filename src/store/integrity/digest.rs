//! The digest of a complete representation: computed once, when somebody asks for it or the upstream has
//! stated one.
//!
//! A digest belongs to one state of what is present: where the epoch rose while the body was read, the sum is thrown
//! away. A digest that is known is recorded, and outlives a restart; it is never computed twice at once. An object
//! whose digest differs from the one that its upstream has stated (RFC 9530) is removed: no later request finds bytes
//! that were damaged on their way.

use crate::crypto::digest::{Context, SHA256};
use crate::header::{repr_digest, stated_sha256};
use crate::store::error::StoreError;
use crate::store::object::Object;
use crate::store::object::progress::Broken;
use crate::store::read::pool;
use crate::store::store::Store;
use std::sync::Arc;

impl Store {
    /// Compares a complete object with the digest that its upstream has stated (RFC 9530). One that differs
    /// was damaged on its way: it is removed, and its readers are broken. For a blocking thread.
    ///
    /// # Errors
    /// Where the body cannot be read, or the catalog refuses.
    pub fn check_statement(&self, object: &Arc<Object>) -> Result<(), StoreError> {
        let Some(stated) = object
            .head()
            .representation()
            .header("repr-digest")
            .and_then(stated_sha256)
        else {
            return Ok(());
        };
        let Some(computed) = object.compute_digest()?.filter(|computed| *computed != stated) else {
            return Ok(());
        };
        tracing::error!(
            url = object.url(),
            stated = repr_digest(&stated),
            computed = repr_digest(&computed),
            "what the upstream sent is not what its digest says: it is not kept"
        );
        object
            .presence
            .break_for_good(Broken::Upstream("its digest differs from what it sent".into()));
        self.remove(object);
        Ok(())
    }
}

impl Object {
    /// The SHA-256 of the complete representation, read from the disk where it is not known yet; `None`
    /// where bytes are missing. For a blocking thread: a film takes seconds.
    ///
    /// # Errors
    /// Where the body cannot be read.
    pub(in crate::store) fn compute_digest(&self) -> Result<Option<[u8; 32]>, StoreError> {
        // Taken before the look: a thread that has waited finds the digest, or computes it itself.
        let _one = self.integrity.digesting();
        if let Some(known) = self.digest() {
            return Ok(Some(known));
        }
        let epoch = self.presence.epoch();
        let Some(length) = self.length().filter(|_| self.is_whole()) else {
            return Ok(None);
        };
        let mut context = Context::new(&SHA256);
        let mut at = 0;
        while at < length {
            let len = usize::try_from(length - at).map_or(pool::BLOCK_BYTES, |len| len.min(pool::BLOCK_BYTES));
            let block = self.read_blocking(at, len)?;
            context.update(&block);
            at += block.len() as u64;
        }
        // A damaged block was found on the way: what was summed is not the representation.
        if self.presence.epoch() != epoch || !self.is_whole() {
            return Ok(None);
        }
        let Ok(digest) = <[u8; 32]>::try_from(context.finish().as_ref()) else {
            return Ok(None);
        };
        self.integrity.set_digest(digest);
        if let Err(error) = self.record_use() {
            tracing::warn!(url = self.url, %error, "could not record a digest");
        }
        Ok(Some(digest))
    }
}
