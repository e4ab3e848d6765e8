//! What policy says of a stored object, with the settings and the clock of this server.

use super::lookup::Service;
use super::prepared::Prepared;
use super::request::Request;
use crate::clock::from_unix_seconds;
use crate::fill::Want;
use crate::policy::{Leeway, Reason, RequestDirectives, Reuse};
use crate::store::{Object, ObjectState};
use crate::upstream::Target;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The least time after which a reply without a validator is fetched anew, where its length was known
/// from the start: a player's next seek shall not cost the whole film again.
const UNVALIDATED_LIFETIME: Duration = Duration::from_secs(300);

/// By how much a stale object is used while the upstream fails, where neither it nor the request says.
const STALE_IF_ERROR: Duration = Duration::from_secs(7 * 24 * 3600);

impl Service {
    /// What may be done with a whole object.
    pub(super) fn reuse(&self, object: &Object, asked: &RequestDirectives, now: SystemTime) -> Reuse {
        if object.state() == ObjectState::Unverified && !self.settings.keep_unverified {
            return Reuse::Refetch(Reason::Unknown);
        }
        let age = age_of(object, now);
        let leeway = self.leeway(object);
        match Prepared::of(object).terms.reuse(asked, age, leeway) {
            Reuse::Refetch(Reason::Unknown)
                if object.representation().complete_length.is_some()
                    && age < UNVALIDATED_LIFETIME.min(self.settings.fresh_for) =>
            {
                Reuse::Fresh
            }
            decided => decided,
        }
    }

    /// Whether a stale object may answer where the upstream could not be asked.
    pub(super) fn may_outlive_errors(&self, request: &Request<'_>, object: &Object) -> bool {
        let age = age_of(object, self.clock.now());
        let terms = &Prepared::of(object).terms;
        terms.may_outlive_errors(&request.asked, age, self.leeway(object))
    }

    fn leeway(&self, object: &Object) -> Leeway {
        Leeway {
            fresh_for: self.settings.fresh_for,
            lasting: Prepared::of(object).lasts,
            stale_if_error: STALE_IF_ERROR,
        }
    }

    /// Asks the upstream about a stale object that has just answered (RFC 5861 §3).
    pub(super) fn revalidate_meanwhile(&self, target: &Arc<Target>, object: &Arc<Object>) {
        let cursor = self.fills.join(target, Want::Validity, Some(Arc::clone(object)));
        actix_web::rt::spawn(async move {
            let _ = cursor.opened().await;
        });
    }
}

/// How old an object is. A clock that went back makes nothing older: its age is then 0.
fn age_of(object: &Object, now: SystemTime) -> Duration {
    now.duration_since(from_unix_seconds(object.validated()))
        .unwrap_or_default()
}
