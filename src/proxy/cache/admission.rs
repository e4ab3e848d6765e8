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

impl Service {
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
            Err(error) => Err(Problem::upstream(&error).with(cache_status)),
        }
    }

    /// The same for the object of a fill that this request has joined.
    pub(in crate::proxy) async fn admit_to_fill(
        &self,
        cursor: &Cursor,
        target: &Arc<Target>,
    ) -> Result<Admission, Problem> {
        match cursor.opened().await {
            Phase::Ready(object) if cursor.not_stored().is_none() => {
                if cursor.target().same_credentials(target) {
                    self.note_allowed(&object, target);
                }
                self.admit(&object, target).await
            }
            _ => Ok(Admission::Allowed),
        }
    }
}
