//! The look-up of a variant: the stored reply under one URL whose selecting fields agree with a request's.
//!
//! The first reply that is stored under a URL leads: it says what the others vary by. A request that it does
//! not match is answered from the variant whose key is made of the leader's generation and of what selects
//! it. So a lookup costs two steps at most, and when the leader goes, its variants are found no more.

use crate::policy::{Fields, selects, variant_name};
use crate::proxy::request::forward::WRITTEN;
use crate::proxy::response::problem::Problem;
use crate::proxy::service::Service;
use crate::store::Object;
use crate::upstream::Target;
use actix_web::http::StatusCode;
use std::sync::Arc;

impl Service {
    /// The open object that a request with these fields selects.
    pub(in crate::proxy) fn resident(&self, target: &Target, fields: &(impl Fields + ?Sized)) -> Option<Arc<Object>> {
        let leader = self.store.resident(&target.key)?;
        let head = leader.head();
        let is_ours = |name: &str| WRITTEN.contains(&name) || (name == "cookie" && target.drop_cookies);
        let tells = |(name, _): &(String, String)| !is_ours(name) && fields.is_text(name);
        if !head.representation().selected_by.iter().all(tells) {
            // Only what goes to the upstream tells, and that has a text for bytes that are none.
            return None;
        }
        if is_selected(&leader, fields) {
            return Some(leader);
        }
        let variant = self.store.resident(&target.key.variant(&name_of(&leader, fields)))?;
        is_selected(&variant, fields).then_some(variant)
    }

    /// The target that a request with the target's fields selects, with what is stored of it.
    pub(in crate::proxy) async fn selected(
        &self,
        target: &Arc<Target>,
    ) -> Result<(Arc<Target>, Option<Arc<Object>>), Problem> {
        let fields = Arc::clone(&target.fields);
        let Some(leader) = self.stored(target).await? else {
            return Ok((Arc::clone(target), None));
        };
        if is_selected(&leader, fields.as_slice()) {
            return Ok((Arc::clone(target), Some(leader)));
        }
        let variant = Arc::new(target.variant(name_of(&leader, fields.as_slice())));
        let stored = self.stored(&variant).await?;
        // Its own reply may vary by more than the leader's.
        let stored = stored.filter(|object| is_selected(object, fields.as_slice()));
        Ok((variant, stored))
    }

    async fn stored(&self, target: &Target) -> Result<Option<Arc<Object>>, Problem> {
        if let Some(object) = self.store.resident(&target.key) {
            return Ok(Some(object));
        }
        if self.store.known_absent(&target.key) {
            return Ok(None);
        }
        let (store, key) = (Arc::clone(&self.store), target.key.clone());
        let loaded = self.lookups.spawn_blocking(move || store.load(&key)).await;
        match loaded {
            Ok(Ok(object)) => Ok(object),
            Ok(Err(error)) => Err(Problem::store(&error)),
            Err(_) => Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a reading thread was lost",
            )),
        }
    }
}

/// Whether the object may answer a request with these fields.
pub(in crate::proxy) fn is_selected(object: &Object, fields: &(impl Fields + ?Sized)) -> bool {
    let head = object.head();
    let representation = head.representation();
    selects(&representation.selected_by, representation, fields)
}

pub(in crate::proxy) fn name_of(leader: &Object, fields: &(impl Fields + ?Sized)) -> String {
    let head = leader.head();
    let representation = head.representation();
    let family = (leader.generation(), representation.invalidated);
    variant_name(family, &representation.selected_by, fields)
}

/// The variant of a live stream's URL that a target selects, which the running one does not suit.
pub(in crate::proxy) fn variant_of(object: &Object, target: &Target) -> Arc<Target> {
    Arc::new(target.variant(name_of(object, target.fields.as_slice())))
}
