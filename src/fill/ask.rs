//! One request to the upstream with all that surrounds it: its turn in the budget, where redirects
//! led the last time, and what a refusal says.

use super::context::Context;
use super::registry::{Refusal, Shared};
use crate::policy::Terms;
use crate::upstream::{Ask, Class, Exchange, Framing, Permit, Span, Target, UpstreamError};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The most that is kept of the body of a refusal.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// The longest that is waited for it: the answer's status is what matters.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How long an upstream rests that says 429 without saying how long.
const TOO_MANY_REST: Duration = Duration::from_secs(1);

/// A reply, as far as a fill tells them apart.
#[derive(Debug)]
pub(super) enum Reply {
    /// A success, 304 or 416: [`super::join`] says what it is worth.
    Exchange(Box<Exchange>),
    /// Any other status, and whose request it was.
    Refused(Refusal, Arc<Target>),
}

pub(super) type Asked = Result<Reply, UpstreamError>;

/// What to ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct Question {
    pub(super) if_range: Option<String>,
    pub(super) if_none_match: Option<String>,
    pub(super) if_modified_since: Option<String>,
}

/// Waits for a turn. Dropping the future gives it up.
pub(super) async fn turn(context: &Context, shared: &Shared, class: Class) -> Permit {
    let url = shared.location().unwrap_or_else(|| shared.target().url.clone());
    context.client.budget_of(&url).acquire(class).await
}

/// Asks for `span`. A place that redirects once led to and that has nothing any more is forgotten, and
/// the URL itself asked again: it may lead elsewhere now, or carry a new signature.
pub(super) async fn ask(context: &Context, shared: &Shared, permit: &Permit, span: Span, question: Question) -> Asked {
    let exchange = ask_any(context, shared, permit, span, question).await?;
    if brings_bytes(exchange.reply.status) {
        return Ok(Reply::Exchange(Box::new(exchange)));
    }
    let asked = Arc::clone(&exchange.target);
    Ok(Reply::Refused(refusal(exchange, None).await, asked))
}

/// Whether [`super::join`] says what a reply with that status is worth.
pub(super) fn brings_bytes(status: u16) -> bool {
    matches!(status, 200 | 206 | 304 | 416)
}

/// The same; any status is an exchange.
pub(super) async fn ask_any(
    context: &Context,
    shared: &Shared,
    permit: &Permit,
    span: Span,
    question: Question,
) -> Result<Exchange, UpstreamError> {
    let closed =
        |result: &Result<Exchange, UpstreamError>| matches!(result, Ok(exchange) if is_closed(exchange.reply.status));
    let mut target = shared.target();
    let mut ask = Ask {
        at: shared.location(),
        if_range: question.if_range,
        if_none_match: question.if_none_match,
        if_modified_since: question.if_modified_since,
        ..Ask::new(Arc::clone(&target), span)
    };
    let mut result = context.client.ask(&ask).await;
    if ask.at.is_some() && (result.is_err() || closed(&result)) {
        tracing::info!(
            url = target.key.url(),
            "the place it was redirected to is gone: asking again where it is"
        );
        shared.forget_location();
        ask.at = None;
        result = context.client.ask(&ask).await;
    }
    if closed(&result)
        && let Some(another) = shared.another_than(&target)
    {
        ask.target = Arc::clone(&another);
        let other = context.client.ask(&ask).await;
        if other.is_ok() && !closed(&other) {
            tracing::info!(url = target.key.url(), "another reader's URL opens it");
            shared.promote(&another);
            (target, result) = (another, other);
        } else {
            shared.forget_spare(&another);
        }
    }
    let exchange = match result {
        Ok(exchange) => exchange,
        Err(error) => {
            // An address that we do not connect to says nothing of the upstream.
            if !error.is_refused() {
                permit.unanswered();
            }
            return Err(error);
        }
    };
    permit.answered();
    let status = exchange.reply.status;
    if brings_bytes(status) {
        if exchange.url != target.url {
            shared.remember_location(exchange.url.clone());
        }
        return Ok(exchange);
    }
    refusal_rest(context, &exchange, permit);
    Ok(exchange)
}

/// Leaves the upstream alone for as long as it asks for.
pub(super) fn refusal_rest(context: &Context, exchange: &Exchange, permit: &Permit) {
    let status = exchange.reply.status;
    let rest = match (status, exchange.reply.rest()) {
        (429 | 503, Some(rest)) => rest,
        (429, None) => TOO_MANY_REST,
        _ => return,
    };
    let url = exchange.target.key.url();
    tracing::warn!(url, status, ?rest, "the upstream asks to be left alone");
    // Both where it was asked and where that led.
    permit.rest(rest);
    context.client.budget_of(&exchange.url).rest(rest);
}

/// The door is closed to this URL; another one for the same object may open it.
pub(super) fn is_closed(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 410)
}

/// An exchange that brings no byte of the object, as what it says.
pub(super) async fn refusal(exchange: Exchange, complete_length: Option<u64>) -> Refusal {
    let mut reply = exchange.reply.clone();
    // All who wait are told: what is meant for the one whose request it was stays out.
    let terms = Terms::read(reply.status, reply.headers.as_slice(), SystemTime::UNIX_EPOCH);
    let personal = terms.control.no_store || terms.control.private.is_all();
    reply.headers.retain(|(name, _)| !personal && name != "set-cookie");
    let body = match reply.framing {
        Framing::Length(0) => Vec::new(),
        _ if personal => Vec::new(),
        _ => exchange.small_body(MAX_REFUSAL_BYTES, REFUSAL_TIME).await,
    };
    Refusal {
        status: reply.status,
        rest: reply.rest(),
        headers: reply.headers,
        retry_after: reply.retry_after,
        body: body.into(),
        complete_length,
    }
}
