//! Reuse of a stored object: the policy, with the settings and the clock of this server.
//!
//! Whether an object may answer without a question is `policy`'s to say; here it is given the age, the terms and the
//! settings. What policy cannot know is decided before or after it: a body whose end was only a closed connection, an
//! object that was purged softly or invalidated, a film without a validator. Ages are counted by the monotone clock;
//! the wall clock counts for what was stored before the start.

use crate::api::ObjectState;
use crate::fill::JoinRequest;
use crate::policy::{FreshnessDefaults, Lifetime, Reason, RequestDirectives, Reuse};
use crate::proxy::hit::hot_headers::HotHeaders;
use crate::proxy::request::Request;
use crate::proxy::service::Service;
use crate::store::{Expired, Head, Object};
use crate::upstream::Target;
use std::sync::Arc;
use std::time::Duration;

/// The least time after which a reply without a validator is fetched anew, where its length was known from the start: a
/// player's next seek shall not cost the whole film again. A judgement.
const UNVALIDATED_LIFETIME: Duration = Duration::from_secs(300);

/// A shorter body is as cheap to fetch as to validate. A judgement.
const FILM_BYTES: u64 = 1 << 20;

/// By how much a stale object is used while the upstream fails, where neither it nor the request says. A week: a
/// judgement (RFC 5861 §4 leaves it open).
const STALE_IF_ERROR: Duration = Duration::from_secs(7 * 24 * 3600);

impl Service {
    /// The permitted reuse of a whole object.
    pub(in crate::proxy) fn reuse(&self, object: &Object, asked: &RequestDirectives, elapsed: Duration) -> Reuse {
        if object.presence().state() == ObjectState::Unverified && !self.settings.keep_unverified {
            return Reuse::Refetch(Reason::Unknown);
        }
        let head = object.head();
        let leeway = self.leeway(&head, object);
        let terms = &HotHeaders::of(&head, object).terms;
        let expired = head.representation().expired;
        let age = match expired {
            // Its time is over now, however long it was to be.
            Expired::Stale => age_for_reuse(object, &head, elapsed).max(terms.lifetime(leeway).unwrap_or_default()),
            Expired::Invalidated if terms.has_validator => return Reuse::Revalidate(Reason::Stale),
            Expired::Invalidated => return Reuse::Refetch(Reason::Stale),
            Expired::No => age_for_reuse(object, &head, elapsed),
        };
        match terms.reuse(asked, age, leeway) {
            Reuse::Refetch(Reason::Unknown)
                if expired == Expired::No
                    && HotHeaders::of(&head, object).is_media
                    && head.representation().status == 200
                    && head
                        .representation()
                        .complete_length
                        .is_some_and(|length| length >= FILM_BYTES)
                    && age < UNVALIDATED_LIFETIME.min(self.settings.fresh_for) =>
            {
                Reuse::Fresh
            }
            decided => decided,
        }
    }

    /// Whether an object may be reused as it is.
    pub(in crate::proxy) fn is_fresh(&self, object: &Object, request: &Request<'_>) -> bool {
        object.is_whole()
            && matches!(
                self.reuse(object, &request.asked, self.clock.elapsed()),
                Reuse::Fresh | Reuse::Stale
            )
    }

    /// Whether a stale object may answer where the upstream could not be asked.
    pub(in crate::proxy) fn may_outlive_errors(&self, request: &Request<'_>, object: &Object) -> bool {
        let head = object.head();
        let age = age_for_reuse(object, &head, self.clock.elapsed());
        let terms = &HotHeaders::of(&head, object).terms;
        head.representation().expired != Expired::Invalidated
            && terms.may_outlive_errors(&request.asked, age, self.leeway(&head, object))
    }

    /// For how many seconds the object is fresh still, or has been stale (RFC 9211 §2.4).
    pub(in crate::proxy) fn ttl(&self, object: &Object, elapsed: Duration) -> i64 {
        let head = object.head();
        let prepared = HotHeaders::of(&head, object);
        let lifetime = prepared.terms.lifetime(self.leeway(&head, object));
        let lifetime = lifetime.unwrap_or_else(|| UNVALIDATED_LIFETIME.min(self.settings.fresh_for));
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(lifetime).saturating_sub(seconds(age_for_reuse(object, &head, elapsed)))
    }

    fn leeway(&self, head: &Head, object: &Object) -> FreshnessDefaults {
        FreshnessDefaults {
            fresh_for: self.settings.fresh_for,
            lasting: HotHeaders::of(head, object).is_media,
            stale_if_error: STALE_IF_ERROR,
        }
    }

    /// Asks the upstream about a stale object that has just answered (RFC 5861 §3).
    pub(in crate::proxy) fn revalidate_meanwhile(&self, target: &Arc<Target>, object: &Arc<Object>) {
        let cursor = self
            .fills
            .join(target, JoinRequest::Validity { bytes: true }, Some(Arc::clone(object)));
        actix_web::rt::spawn(async move {
            let _ = cursor.opened().await;
        });
    }
}

/// How old an object is when `elapsed` is what the clock says: as it came, and since.
pub(in crate::proxy) fn age_of(object: &Object, elapsed: Duration) -> Duration {
    let head = object.head();
    Duration::from_secs(head.representation().age).saturating_add(head.since_validated(elapsed))
}

/// The age that its freshness is measured by. Where that is a setting of ours, a time since the upstream's last
/// word, the upstream's clock does not count.
fn age_for_reuse(object: &Object, head: &Head, elapsed: Duration) -> Duration {
    let prepared = HotHeaders::of(head, object);
    match prepared.terms.lifetime {
        Lifetime::Heuristic(_) | Lifetime::Unknown if prepared.is_media => head.since_validated(elapsed),
        _ => age_of(object, elapsed),
    }
}
