//! The admission of clients to what another's credentials have brought (docs/decisions/0039).
//!
//! ```text
//! a guarded object ──► these credentials are known for this generation ──► as any other object
//!        └──► not known: the upstream is asked, with this client's own fields (fill::asker)
//!                allowed: remembered for `fresh_for`      another: this client's alone      refused: its answer
//! ```
//!
//! An object is guarded that was fetched with credentials, and does not say that others may have it. The client whose own
//! exchange has brought or validated it needs no question. What is remembered is bounded in number and lost with the
//! process: a question more is all that it costs.

use crate::fill::{AskerVerdict, Cursor, Phase};
use crate::header::{CacheStatus, Forwarded};
use crate::http1::Response;
use crate::proxy::request::Request;
use crate::proxy::response::problem::{Problem, refused};
use crate::proxy::service::Service;
use crate::store::Object;
use crate::upstream::Target;
use std::sync::Arc;

/// The verdict on a request for a guarded object.
pub(in crate::proxy) enum Admission {
    /// The request is answered as one for any other object.
    Allowed,
    /// The request's answer is its own.
    Alone,
    /// The upstream has refused it.
    Refused(Response),
}

/// The way to what answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum WayToFind {
    /// By a fill that others may share.
    Shared,
    /// By a fill of its own, which is not kept: what is stored is another client's.
    Alone,
    /// By a new generation, which takes the place of what is stored.
    Anew,
}

impl Service {
    /// The way to what answers the request, or the upstream's refusal of its client.
    ///
    /// # Errors
    /// Where the upstream does not answer.
    pub(in crate::proxy) async fn way_to(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        known: Option<&Arc<Object>>,
    ) -> Result<Result<WayToFind, Response>, Problem> {
        let Some(object) = known.filter(|_| !request.asked.only_if_cached) else {
            return Ok(Ok(WayToFind::Shared));
        };
        Ok(match self.admit(object, target).await? {
            Admission::Allowed => Ok(WayToFind::Shared),
            Admission::Alone if self.is_fresh(object, request) => Ok(WayToFind::Alone),
            Admission::Alone => Ok(WayToFind::Anew),
            Admission::Refused(refusal) => Err(refusal),
        })
    }

    /// Whether the object may be given to the client of this request without asking the upstream whether it may have it.
    pub(in crate::proxy) fn is_allowed(&self, object: &Object, target: &Target) -> bool {
        if !object.head().representation().is_guarded {
            return true;
        }
        let until = self.askers.allowed_until(object, target);
        until.is_some_and(|until| self.clock.elapsed() < until)
    }

    /// Notes that the upstream has given or allowed the object to the client of this request.
    pub(in crate::proxy) fn note_allowed(&self, object: &Object, target: &Target) {
        if object.head().representation().is_guarded {
            let until = self.clock.elapsed() + self.settings.fresh_for;
            self.askers.allow(object, target, until);
        }
    }

    /// Asks the upstream, where the client of this request is not known yet.
    ///
    /// # Errors
    /// Where the upstream does not answer.
    pub(in crate::proxy) async fn admit(&self, object: &Object, target: &Arc<Target>) -> Result<Admission, Problem> {
        if self.is_allowed(object, target) {
            return Ok(Admission::Allowed);
        }
        let cache_status = CacheStatus::forwarded(Forwarded::Request).detail("credentials");
        match self.fills.ask_for(target, object).await {
            Ok(AskerVerdict::Allowed) => {
                self.note_allowed(object, target);
                Ok(Admission::Allowed)
            }
            Ok(AskerVerdict::Another) => Ok(Admission::Alone),
            Ok(AskerVerdict::Refused(refusal)) => Ok(Admission::Refused(refused(&refusal, cache_status).into())),
            // A client that was allowed it before has what is stale, as any other whose upstream does not answer.
            Err(_) if self.askers.allowed_until(object, target).is_some() => Ok(Admission::Allowed),
            Err(error) => Err(Problem::upstream(&error).with(cache_status)),
        }
    }

    /// The same for the object of a fill that this request has joined.
    pub(in crate::proxy) async fn admit_to_fill(
        &self,
        cursor: &Cursor,
        target: &Arc<Target>,
    ) -> Result<Admission, Problem> {
        let is_same = cursor.target().same_credentials(target);
        match cursor.opened().await {
            Phase::Ready(object) if cursor.not_stored().is_none() => {
                if is_same {
                    self.note_allowed(&object, target);
                }
                self.admit(&object, target).await
            }
            // The upstream's word to one client may name what is that client's: where it leads, and why it is refused.
            Phase::Refused(_) | Phase::Redirected(_) if !is_same => Ok(Admission::Alone),
            Phase::Failed(error) if !is_same && error.is_no_outage() => Ok(Admission::Alone),
            _ => Ok(Admission::Allowed),
        }
    }
}
