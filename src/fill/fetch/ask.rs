//! One request to the upstream with all that surrounds it: its turn in the budget, where redirects led the last time,
//! and what a refusal says.
//!
//! A question is put once, and again only where another form of it may bring bytes, in this order: without the place
//! that a redirect once led to, without other exchanges of ours beside it, of another node behind the same name, by
//! another reader's URL, without `Range` (docs/decisions/0023). Where none of them helps, the refusal is told. One
//! permit of the budget is held over all of them.

use super::classify_reply::{is_media, is_page};
use crate::fill::context::Context;
use crate::fill::phase::Refusal;
use crate::fill::state::FillState;
use crate::gate::Backoff;
use crate::policy::Terms;
use crate::store::Object;
use crate::upstream::{Ask, Class, Exchange, Framing, Permit, Span, Target, UpstreamError};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The most that is kept of the body of a refusal. A judgement: error pages are some kilobytes, and each is held in
/// memory while its trouble lasts.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// The longest that is waited for it: the answer's status is what matters. A judgement.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How long an upstream rests that says 429 without saying how long. A judgement: the shortest time that `Retry-After`
/// can name.
const TOO_MANY_REST: Duration = Duration::from_secs(1);

/// Statuses by which upstreams refuse a second connection of one client; 458 is that of IPTV panels.
const REFUSES_COMPANY: &[u16] = &[403, 458];

/// How long exchanges that serve nobody may take to make way. A refusal that has another reason is told after this
/// time, while a film plays from the same upstream. A judgement.
const COMPANY_LEAVES: Duration = Duration::from_secs(3);

/// Statuses by which upstreams answer a request that has a `Range`, and not the same without.
const REFUSES_RANGES: &[u16] = &[405, 406, 412, 501];

/// The same, of which an upstream that takes ranges is believed that it means the resource.
const MAY_REFUSE_RANGES: &[u16] = &[400, 403, 404, 500];

/// How often nodes behind one name are asked again where one fails: after 50, 100 and 200 ms (docs/decisions/0023).
const MOST_NODES: u32 = 3;

/// The rests before an upstream is asked again while its answer is waited for.
const RESTS: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_millis(800),
};

/// How often an upstream that refuses company is asked again by one that is alone; the [`RESTS`] are one and a half seconds
/// together. A judgement.
const NOTICES_AFTER: u32 = 5;

/// A reply, as far as a fill tells them apart.
#[derive(Debug)]
pub(in crate::fill) enum AskOutcome {
    /// A success, 304 or 416: `classify_reply` says what it is worth.
    Exchange(Box<Exchange>),
    /// Any other status, and whose request it was.
    Refused(Refusal, Arc<Target>),
}

pub(in crate::fill) type Asked = Result<AskOutcome, UpstreamError>;

/// The question to an upstream.
#[derive(Debug, Clone, Default)]
pub(in crate::fill) struct UpstreamQuestion {
    pub(in crate::fill) if_match: Option<String>,
    pub(in crate::fill) if_range: Option<String>,
    pub(in crate::fill) if_none_match: Option<String>,
    pub(in crate::fill) if_modified_since: Option<String>,
}

/// Waits for a turn. Dropping the future gives it up.
pub(in crate::fill) async fn turn(context: &Context, shared: &FillState, class: Class) -> Permit {
    let url = shared
        .targets
        .location()
        .unwrap_or_else(|| shared.targets.current().url.clone());
    let budget = context.client.budget_of(&url);
    budget.rested(shared.key.id()).await;
    let class = match shared.readers.serve_patrons_alone() {
        true => Class::Mirror,
        false => class,
    };
    budget.acquire(class).await
}

/// Asks for `span`. A place that redirects once led to and that has nothing any more is forgotten, and
/// the URL itself asked again: it may lead elsewhere now, or carry a new signature.
pub(in crate::fill) async fn ask(
    context: &Context,
    shared: &FillState,
    permit: &Permit,
    span: Span,
    question: UpstreamQuestion,
) -> Asked {
    let exchange = ask_any(context, shared, permit, span, question).await?;
    if brings_bytes(exchange.reply.status) {
        return Ok(AskOutcome::Exchange(Box::new(exchange)));
    }
    let asked = Arc::clone(&exchange.target);
    Ok(AskOutcome::Refused(refusal(exchange, None).await, asked))
}

/// Whether `classify_reply` says what a reply with that status is worth.
pub(in crate::fill) fn brings_bytes(status: u16) -> bool {
    matches!(status, 200 | 206 | 304 | 416)
}

/// The same; any status is an exchange.
pub(in crate::fill) async fn ask_any(
    context: &Context,
    shared: &FillState,
    permit: &Permit,
    span: Span,
    question: UpstreamQuestion,
) -> Result<Exchange, UpstreamError> {
    let target = shared.targets.current();
    let mut asking = Asking {
        context,
        shared,
        permit,
        ask: Ask {
            at: shared.targets.location(),
            if_match: question.if_match,
            if_range: question.if_range,
            if_none_match: question.if_none_match,
            if_modified_since: question.if_modified_since,
            ..Ask::new(Arc::clone(&target), span)
        },
    };
    let exchange = match asking.insistently().await {
        Ok(exchange) => exchange,
        Err(error) => {
            // An address that we do not connect to says nothing of the upstream.
            if !error.is_no_outage() {
                permit.unanswered();
            }
            return Err(error);
        }
    };
    // Before the status is looked at: an upstream that refuses is up.
    permit.answered();
    let status = exchange.reply.status;
    if brings_bytes(status) {
        if exchange.url != exchange.target.url {
            shared.targets.remember_location(exchange.url.clone());
        }
        return Ok(exchange);
    }
    refusal_rest(context, &exchange, permit);
    Ok(exchange)
}

/// A question on its way to an answer that is worth something: what is put differently, and asked again, where the first
/// reply brings nothing.
struct Asking<'a> {
    context: &'a Context,
    shared: &'a FillState,
    permit: &'a Permit,
    ask: Ask,
}

type Exchanged = Result<Exchange, UpstreamError>;

impl Asking<'_> {
    async fn insistently(&mut self) -> Exchanged {
        let mut result = self.once().await;
        if self.ask.at.is_some() && self.fails(&result, true) {
            tracing::info!(
                url = self.ask.target.key.url(),
                "the place it was redirected to is gone: asking again where it is"
            );
            self.shared.targets.forget_location();
            self.ask.at = None;
            result = self.once().await;
        }
        result = self.without_company(result).await;
        result = self.of_other_nodes(result).await;
        if closed(&result)
            && let Some(another) = self.shared.targets.another_than(&self.ask.target)
        {
            result = self.by_another_url(another, result).await;
        }
        self.without_range(result).await
    }

    async fn once(&self) -> Exchanged {
        self.context.client.ask(&self.ask).await
    }

    /// Whether the place that was asked has let us down: it gave no reply, an error, or a page where a film is known.
    /// A film's end may be asked for in vain (416), but not where a redirect led (`at_a_node`): the node may have
    /// another file.
    fn fails(&self, result: &Exchanged, at_a_node: bool) -> bool {
        let Ok(exchange) = result else { return true };
        match exchange.reply.status {
            416 => at_a_node,
            status if status >= 400 => true,
            200 | 206 => {
                let known = self.shared.object();
                let is_film = known.is_some_and(|known| is_media(known.head().representation().header("content-type")));
                is_film && is_page(exchange.reply.header("content-type"))
            }
            _ => false,
        }
    }

    /// Some upstreams allow one connection, and refuse the second: where another of ours is open, it makes way, and
    /// from then on there is one at a time.
    async fn without_company(&self, mut result: Exchanged) -> Exchanged {
        let refused =
            |result: &Exchanged| matches!(result, Ok(exchange) if REFUSES_COMPANY.contains(&exchange.reply.status));
        if !refused(&result) || !self.permit.has_company() {
            return result;
        }
        self.permit.allow_one();
        if !self.permit.until_alone(COMPANY_LEAVES).await {
            self.permit.allow_all();
            return result;
        }
        for attempt in 1..=NOTICES_AFTER {
            // The upstream notices a moment later that the other connection is gone.
            tokio::time::sleep(RESTS.after(attempt)).await;
            result = self.once().await;
            if !refused(&result) {
                tracing::info!(
                    url = self.ask.target.key.url(),
                    "the upstream allows one connection: it is asked with one from now on"
                );
                return result;
            }
        }
        // The upstream refuses a single connection too: their number was not the reason.
        self.permit.allow_all();
        result
    }

    /// Of a film that was being fetched a moment ago, a failure is one node's of several: the others are asked, that
    /// is, the name behind which they are, a few times.
    async fn of_other_nodes(&mut self, mut result: Exchanged) -> Exchanged {
        let has_bytes =
            |object: &Arc<Object>| !object.head().is_bare_response() && object.presence().present_bytes() > 0;
        if !self.shared.object().is_some_and(|object| has_bytes(&object)) {
            return result;
        }
        for attempt in 1..=MOST_NODES {
            let may_pass = match &result {
                Ok(exchange) => {
                    // A `Retry-After` is obeyed; other credentials, or a condition that failed, are a matter of all
                    // nodes.
                    let status = exchange.reply.status;
                    exchange.reply.rest().is_none() && !matches!(status, 401 | 407 | 412 | 416 | 429)
                }
                // The fill asks again after a rest where no reply came.
                Err(_) => false,
            };
            if !may_pass || !self.fails(&result, false) {
                break;
            }
            tokio::time::sleep(RESTS.after(attempt)).await;
            self.shared.targets.forget_location();
            self.ask.at = None;
            result = self.once().await;
        }
        result
    }

    /// Another reader's URL of the same object, signed anew perhaps, may open what this one does not.
    async fn by_another_url(&mut self, another: Arc<Target>, result: Exchanged) -> Exchanged {
        let first = std::mem::replace(&mut self.ask.target, Arc::clone(&another));
        let other = self.once().await;
        if other.is_ok() && !closed(&other) {
            tracing::info!(url = first.key.url(), "another reader's URL opens it");
            self.shared.targets.promote(&another);
            return other;
        }
        self.shared.targets.forget_spare(&another);
        self.ask.target = first;
        result
    }

    /// Some upstreams refuse a request because it has a `Range`, which the client may not even have sent.
    async fn without_range(&mut self, result: Exchanged) -> Exchanged {
        let status = result.as_ref().map_or(0, |exchange| exchange.reply.status);
        if self.ask.span != Span::Whole && matches!(status, 200 | 206) {
            self.permit.ranges_are_taken();
        }
        let may_be = MAY_REFUSE_RANGES.contains(&status) && !self.permit.takes_ranges();
        let refused = may_be || REFUSES_RANGES.contains(&status);
        let known = self.shared.object();
        // Where parts have come, a refusal has another reason.
        let has_parts = known.is_some_and(|known| known.head().representation().gives_parts);
        if !refused || has_parts || self.ask.span == Span::Whole {
            return result;
        }
        let (span, if_range) = (self.ask.span, self.ask.if_range.take());
        self.ask.span = Span::Whole;
        match self.once().await {
            Ok(exchange) if brings_bytes(exchange.reply.status) => {
                tracing::info!(
                    url = self.ask.target.key.url(),
                    "the upstream refuses ranges: asked without"
                );
                Ok(exchange)
            }
            _ => {
                (self.ask.span, self.ask.if_range) = (span, if_range);
                result
            }
        }
    }
}

fn closed(result: &Exchanged) -> bool {
    matches!(result, Ok(exchange) if is_closed(exchange.reply.status))
}

/// Leaves the upstream alone for as long as it asks for.
pub(in crate::fill) fn refusal_rest(context: &Context, exchange: &Exchange, permit: &Permit) {
    let status = exchange.reply.status;
    let rest = match (status, exchange.reply.rest()) {
        (429 | 503, Some(rest)) => rest,
        (429, None) => TOO_MANY_REST,
        _ => return,
    };
    let url = exchange.target.key.url();
    tracing::warn!(url, status, ?rest, "the upstream asks to be left alone");
    // Both where it was asked and where that led.
    let object = exchange.target.key.id();
    permit.refused(object, status, rest);
    context.client.budget_of(&exchange.url).refused(object, status, rest);
}

/// The door is closed to this URL; another one for the same object may open it.
pub(in crate::fill) fn is_closed(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 410)
}

/// An exchange that brings no byte of the object, as what it says.
pub(in crate::fill) async fn refusal(exchange: Exchange, complete_length: Option<u64>) -> Refusal {
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
