//! Whether the upstream allows one client what another's credentials have brought.
//!
//! The question is a conditional request with the client's own fields, apart from the fill: 304 is a yes, whatever is stored
//! and however much of it. Where there is no validator to send, one byte is asked for. A reply that is no 304 must be of the
//! same status, length and validator. A refusal is the client's own, and takes nothing from the others.

use super::fetch::ask::refusal;
use super::phase::Refusal;
use super::registry::Registry;
use crate::header::ContentRange;
use crate::ranges::ByteRange;
use crate::store::Object;
use crate::upstream::{Ask, Class, Exchange, Framing, Span, Target, UpstreamError};
use std::sync::Arc;

/// The upstream's word on a client and an object.
#[derive(Debug)]
pub enum AskerVerdict {
    /// The client may have what is stored.
    Allowed,
    /// The client gets another representation than is stored.
    Another,
    /// The upstream refuses the client.
    Refused(Refusal),
}

impl Registry {
    /// Asks the upstream whether a client with the credentials of the target may have the object.
    ///
    /// # Errors
    /// Where the upstream does not answer.
    pub async fn ask_for(&self, target: &Arc<Target>, object: &Object) -> Result<AskerVerdict, UpstreamError> {
        let context = self.context();
        let head = object.head();
        let representation = head.representation();
        let validators = &representation.validators;
        let one_byte = ByteRange::new(0, 1).map_or(Span::Whole, Span::Range);
        let has_validator = validators.etag.is_some() || validators.last_modified.is_some();
        let ask = Ask {
            if_none_match: validators.etag.clone(),
            if_modified_since: validators.last_modified.clone().filter(|_| validators.etag.is_none()),
            ..Ask::new(Arc::clone(target), if has_validator { Span::Whole } else { one_byte })
        };
        let budget = context.client.budget_of(&target.url);
        let limit = context.client.reply_timeout();
        let Ok(permit) = tokio::time::timeout(limit, budget.acquire(Class::Waiting)).await else {
            let host = target.url.host_str().unwrap_or_default().to_owned();
            return Err(UpstreamError::Silent { host, limit });
        };
        let exchange = context.client.ask(&ask).await.inspect_err(|error| {
            if !error.is_no_outage() {
                permit.unanswered();
            }
        })?;
        permit.answered();
        let reply = &exchange.reply;
        Ok(match reply.status {
            304 if has_validator => AskerVerdict::Allowed,
            200 | 206 if is_same(&exchange, object) => AskerVerdict::Allowed,
            200..300 => AskerVerdict::Another,
            _ => AskerVerdict::Refused(refusal(exchange, None).await),
        })
    }
}

/// Whether the reply, which is a success, is of the representation that is stored, as far as it tells.
fn is_same(exchange: &Exchange, object: &Object) -> bool {
    let (reply, head) = (&exchange.reply, object.head());
    let stored = head.representation();
    let (new, old) = (&reply.validators, &stored.validators);
    let length = match (reply.status, reply.content_range, reply.framing) {
        (206, Some(Some(ContentRange::Part { size, .. })), _) => size,
        (200, _, Framing::Length(length)) => Some(length),
        _ => None,
    };
    // An upstream that has no 304 may give each client a page of its own under one tag.
    let is_as_long = stored.status == 200 && length.is_some() && length == object.length();
    let is_tagged_so = match (&old.etag, &old.last_modified) {
        (Some(_), _) => new.etag == old.etag,
        (None, Some(_)) => new.last_modified == old.last_modified,
        (None, None) => true,
    };
    is_as_long && is_tagged_so
}
