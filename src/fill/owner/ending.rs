//! The end of a fill: when it is done, what is kept of it, and a stop by order.
//!
//! A fill leaves the map of fills with everything recorded, and only where no reader has come meanwhile: a reader that joins
//! keeps it. What must not be found by later requests is removed after that, since requests that share the reply read it to
//! its end. A stop by order records what is here, so that the next start goes on with it.

use super::super::disk::{give_back, on_disk, record};
use super::super::phase::Phase;
use super::Owner;
use crate::policy::{NotStored, RequestDirectives};
use crate::store::{Broken, Object};
use std::sync::Arc;

impl Owner {
    pub(super) fn is_done(&self) -> bool {
        let Some(object) = &self.object else { return true };
        if self.shared.stream().is_some() {
            return self.stream_is_over();
        }
        // A fill that rests is not done: it will ask again, unless it has given up.
        let resting = self.failures.retry_at.is_some() && !self.failures.gave_up;
        let idle = self.sessions.is_empty() && !resting && self.background_at.is_none();
        // A plan made for a reader that left a moment ago says nothing of what to fetch for nobody.
        let nobody = self.planned_readers == 0 && !self.shared.readers.are_here();
        object.is_whole() || (idle && nobody)
    }

    /// Leaves the map with everything recorded; `false` where a reader has come meanwhile.
    pub(super) async fn retire(&mut self) -> bool {
        let Some(object) = self.object.clone() else { return true };
        if !self.is_detached() && !object.sink().is_materialized() && self.unstorable(&object).is_none() {
            // An object of which nothing was written is found all the same, by its head.
            let (store, unmaterialized) = (Arc::clone(&self.context.store), Arc::clone(&object));
            on_disk(move || store.materialize(&unmaterialized)).await;
        }
        let _ = record(Arc::clone(&object)).await;
        if self.stages && object.is_whole() {
            self.publish_staged(&object).await;
        }
        let stream = self.shared.stream().cloned();
        if !self.context.retire(&self.shared, object.is_whole() || stream.is_some()) {
            return false;
        }
        self.stop_sessions();
        give_back(&object).await;
        if let Some(stream) = stream {
            self.keep_stream(&stream, &object).await;
            return true;
        }
        self.abandon_staged().await;
        object.presence().stop_pass_through();
        object.presence().release_before(u64::MAX);
        tracing::debug!(url = object.url(), whole = object.is_whole(), "the fill is over");
        self.check_digest(&object).await;
        let unstorable = self.unstorable(&object);
        if self.is_detached() {
            // No other request was ever to find it.
        } else if unstorable.is_some() || !object.sink().is_materialized() {
            tracing::debug!(url = object.url(), why = ?unstorable, "not kept");
            // The reply was shared with the requests that waited for it; later requests must not find it, or could not.
            let store = Arc::clone(&self.context.store);
            on_disk(move || store.remove(&object)).await;
        }
        true
    }

    /// Has a staged object that is whole take the place of the one that is stored.
    async fn publish_staged(&mut self, object: &Arc<Object>) {
        let (store, whole) = (Arc::clone(&self.context.store), Arc::clone(object));
        match on_disk(move || store.publish(&whole)).await {
            Ok(()) => self.stages = false,
            Err(error) => {
                tracing::error!(url = object.url(), %error, "could not store what has changed: the old one stays")
            }
        }
    }

    /// Why the object is not to be kept, as its head stands now: a 304 may have said so. The request was judged when the
    /// reply came: one that validates with credentials takes nothing from the others.
    pub(super) fn unstorable(&self, object: &Object) -> Option<NotStored> {
        let judged = self.storable(&object.representation(), &RequestDirectives::default(), false);
        judged.err()
    }

    /// Compares a complete object with the digest that its upstream has stated.
    pub(super) async fn check_digest(&self, object: &Arc<Object>) {
        if object.representation().header("repr-digest").is_none() || !object.is_whole() {
            return;
        }
        let (store, complete) = (Arc::clone(&self.context.store), Arc::clone(object));
        if let Err(error) = on_disk(move || store.check_statement(&complete)).await {
            tracing::error!(url = object.url(), %error, "could not compare an object with its digest");
        }
    }

    pub(super) async fn stop(&mut self, object: &Object) {
        self.stop_sessions();
        if let Some(object) = self.object.clone() {
            let _ = record(Arc::clone(&object)).await;
            give_back(&object).await;
        }
        self.abandon_staged().await;
        self.interrupt_stream().await;
        object.presence().break_for_good(Broken::Stopping);
        self.context.retire(&self.shared, true);
        self.shared.news.set_phase(Phase::Stopping);
    }
}
