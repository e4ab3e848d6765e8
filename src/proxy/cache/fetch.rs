//! Which object answers a request that is no hit, and whose fill brings it.
//!
//! A request joins the fill of its URL wherever the reply may be its own too, and has a fill of its own where it may
//! not: a reply for one client, a URL that is known for such replies, `no-store`, a form of a stream that this client
//! does not want. Whether a reply may be shared is known when its head is here, so all wait for that, and then each
//! decides for itself (docs/decisions/0011).
//!
//! ```text
//! join ─ came to nothing by another reader's request ──► join again
//!   ├─ may not share ──────────────────────────────► join_alone
//!   ├─ a stream in another form ───────────────────► join the variant
//!   └─ far from the fill, and nothing joins ───────► join_apart ─ no parts ─► join
//! ```
//!
//! A stale object that may outlive errors answers where all of that failed.

use super::admission::{Admission, WayToFind};
use super::decided::answer_of;
use super::lookup::{FoundObject, MAX_GENERATIONS};
use super::variant::{is_selected, variant_of};
use crate::fill::{Cursor, JoinRequest, Phase};
use crate::header::{CacheStatus, FirstWanted, Forwarded, first_wanted};
use crate::http1::Response;
use crate::policy::{Fields, Lifetime, NotStored, Reason, Reuse};
use crate::proxy::hit::hot_headers::HotHeaders;
use crate::proxy::request::Request;
use crate::proxy::response::problem::{Problem, redirected, refused};
use crate::proxy::service::Service;
use crate::ranges::ByteRange;
use crate::store::{Object, Watch};
use crate::upstream::{Span, Target, Trust};
use actix_web::http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

impl Service {
    /// The object of a request that is not a hit, with the fill that it joins.
    pub(in crate::proxy) async fn find(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        known: Option<Arc<Object>>,
        way: WayToFind,
    ) -> Result<Result<FoundObject, Response>, Problem> {
        let (span, only) = wanted(request);
        if way == WayToFind::Alone {
            return self.find_alone(request, target).await;
        }
        let (mut join, mut cache_status) = self.join_request(request, target, known.as_ref(), (span, only));
        if way == WayToFind::Anew {
            join = refetch(request, (span, only));
        }
        self.metrics.misses.inc();
        if (request.asked.no_store || self.fills.is_hit_for_miss(target.key.id())) && known.is_none() {
            let cursor = self.fills.join_alone(target, anew(join, (span, only)));
            return self.opened(request, target, cursor, cache_status, None).await;
        }
        let mut cursor = self.fills.join(target, join, known.clone());
        for _ in 0..MAX_GENERATIONS {
            if !(cursor.collapsed() && was_asked_for_another(&cursor, target, span).await) {
                break;
            }
            cursor = self.fills.join(target, join, known.clone());
        }
        let mut shares = true;
        if cursor.collapsed() {
            match self.admit_to_fill(&cursor, target).await? {
                Admission::Allowed => shares = may_share(&cursor, target).await,
                Admission::Alone => shares = false,
                Admission::Refused(refusal) => return Ok(Err(refusal)),
            }
        }
        if !shares {
            cursor = self.fills.join_alone(target, anew(join, (span, only)));
            cache_status.detail = Some("not-shared");
        }
        if cursor.collapsed()
            && let Phase::Ready(object) = cursor.opened().await
            && cursor.stream().is_some()
            && !is_selected(&object, target.fields.as_slice())
        {
            // A stream runs, and this client wants it in another form (with metadata, in another language).
            let variant = variant_of(&object, target);
            cursor = self.fills.join(&variant, anew(join, (span, only)), None);
            if cursor.collapsed() && !matches!(self.admit_to_fill(&cursor, target).await?, Admission::Allowed) {
                cursor = self.fills.join_alone(target, anew(join, (span, only)));
            }
        }
        if only && let Some(object) = far_from(&cursor, span).await {
            // The fill is not to take this reader for one of its own while the budget looks for which exchange to preempt.
            drop(cursor);
            let apart = self.fills.join_apart(target, span);
            match apart.opened().await {
                Phase::Ready(_) => return self.opened(request, target, apart, cache_status, None).await,
                Phase::WithoutParts => object.note_without_parts(),
                // An upstream that refuses the part may still give the whole.
                _ => {}
            }
            cursor = self.fills.join(target, join, Some(object));
        }
        // A fill that was under way for want of bytes has not asked about those that are here.
        let asked_about = known
            .as_ref()
            .filter(|known| matches!(join, JoinRequest::Validity { .. }) && (known.is_whole() || !cursor.collapsed()));
        let found = self.opened(request, target, cursor, cache_status, asked_about).await;
        // A problem is a failure of ours or of the upstream; a refusal below 500 is its word.
        let failed = match &found {
            Ok(Ok(found)) => found.object.head().representation().status >= 500,
            Ok(Err(_)) => false,
            Err(_) => true,
        };
        let outlives = |known: &Object| self.may_outlive_errors(request, known) || self.outlives_outages(target, known);
        let stale = known.filter(|known| known.is_whole() && failed && outlives(known));
        match stale {
            Some(stale) => Ok(Err(self.stale(request, target, stale, cache_status))),
            None => found,
        }
    }

    /// The answer to a request whose reply is its own.
    async fn find_alone(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
    ) -> Result<Result<FoundObject, Response>, Problem> {
        let wanted = wanted(request);
        let (join, mut cache_status) = self.join_request(request, target, None, wanted);
        cache_status.detail = Some("not-shared");
        self.metrics.misses.inc();
        let cursor = self.fills.join_alone(target, anew(join, wanted));
        self.opened(request, target, cursor, cache_status, None).await
    }

    /// The question to the upstream, and the reason.
    fn join_request(
        &self,
        request: &Request<'_>,
        target: &Target,
        known: Option<&Arc<Object>>,
        (span, only): (Span, bool),
    ) -> (JoinRequest, CacheStatus) {
        let bytes = match (request.head_only, only) {
            (true, _) => JoinRequest::Head,
            (false, true) => JoinRequest::Only(span),
            (false, false) => JoinRequest::Bytes(span),
        };
        let Some(object) = known else {
            let why = match target.variant {
                Some(_) => Forwarded::VaryMiss,
                None => Forwarded::UriMiss,
            };
            return (bytes, CacheStatus::forwarded(why));
        };
        let validity = JoinRequest::Validity {
            bytes: !request.head_only,
        };
        let refetch = refetch(request, (span, only));
        let (join, reason) = match (
            self.reuse(object, &request.asked, self.clock.elapsed()),
            object.is_whole(),
        ) {
            (Reuse::Refetch(reason), _) => (refetch, reason),
            // Non-media responses may be personalised: refetch when credentials differ.
            (_, false) if object.head().is_bare_response() || !is_for_all(object) => (refetch, Reason::Unknown),
            (Reuse::Revalidate(reason), _) => (validity, reason),
            (_, false) => return (bytes, CacheStatus::forwarded(Forwarded::Partial)),
            // Another request has just validated or fetched it.
            (Reuse::Fresh | Reuse::Stale | Reuse::StaleMeanwhile, true) => (validity, Reason::Stale),
        };
        let why = match reason {
            Reason::Request => Forwarded::Request,
            _ => Forwarded::Stale,
        };
        (join, CacheStatus::forwarded(why))
    }

    /// The answer of what is stored, although the upstream has failed.
    fn stale(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        stale: Arc<Object>,
        cache_status: CacheStatus,
    ) -> Response {
        let answer = answer_of(request.question, &stale);
        let cache_status = cache_status.detail("not-revalidated");
        self.respond(request, target, answer, Watch::new(stale), None, cache_status)
    }

    pub(in crate::proxy) async fn opened(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        cursor: Cursor,
        mut cache_status: CacheStatus,
        asked_about: Option<&Arc<Object>>,
    ) -> Result<Result<FoundObject, Response>, Problem> {
        cache_status.collapsed = cursor.collapsed();
        if cache_status.collapsed {
            self.metrics.collapsed.inc();
        }
        match cursor.opened().await {
            Phase::Ready(object) => {
                let unchanged = asked_about.is_some_and(|known| Arc::ptr_eq(known, &object));
                cache_status.stored = !(object.is_discarded() || (unchanged && object.is_whole()));
                if let Some(why) = cursor.not_stored() {
                    cache_status.detail = Some(why.token());
                }
                let status = object.head().representation().status;
                if status != 200 {
                    cache_status.upstream_status = Some(status);
                }
                if unchanged
                    && let Some(trouble) = cursor.trouble()
                    && !self.may_outlive_errors(request, &object)
                    && !self.outlives_outages(target, &object)
                {
                    let problem = Problem::new(
                        StatusCode::GATEWAY_TIMEOUT,
                        format!(
                            "what is stored must not be used unasked, and the upstream failed: {}",
                            trouble.what
                        ),
                    );
                    return Err(problem.with(cache_status.detail("must-revalidate")));
                }
                if unchanged {
                    cache_status.upstream_status = cursor.trouble().is_none().then_some(304);
                    cache_status.detail = cursor.trouble().map(|_| "not-revalidated");
                }
                Ok(Ok(FoundObject {
                    target: Arc::clone(target),
                    object,
                    cursor,
                    cache_status,
                }))
            }
            Phase::Refused(refusal) => Ok(Err(refused(&refusal, cache_status).into())),
            Phase::Resting(rest) => {
                let rest = rest.max(Duration::from_secs(1));
                Err(Problem::later(rest, "the upstream is down or asked to be left alone").with(cache_status))
            }
            Phase::Failed(error) => Err(Problem::upstream(&error).with(cache_status)),
            Phase::Redirected(moved) => Ok(Err(redirected(&self.routes, &moved, cache_status).into())),
            Phase::WithoutParts => Err(Problem::new(
                StatusCode::BAD_GATEWAY,
                "the upstream gives no parts of what is asked for",
            )
            .with(cache_status)),
            Phase::Disk(_) => Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the cache's disk failed; its log says how",
            )
            .with(cache_status)),
            Phase::Opening | Phase::Stopping => {
                Err(Problem::later(Duration::from_secs(5), "the server is stopping").with(cache_status))
            }
        }
    }
}

/// The object of a fill that is far from what its reader wants, where nothing could join what another exchange brings: the
/// reader is then better served by an exchange of its own, at once.
async fn far_from(cursor: &Cursor, span: Span) -> Option<Arc<Object>> {
    let Phase::Ready(object) = cursor.opened().await else {
        return None;
    };
    let length = object.length()?;
    let (start, end) = match span {
        Span::From(start) => (start, length),
        Span::Range(range) => (range.start(), range.end().min(length)),
        Span::Suffix(count) => (length.saturating_sub(count), length),
        Span::Whole => (0, length),
    };
    let wanted = ByteRange::new(start, end)?;
    let waits = object.gives_parts_apart() && !object.is_whole();
    (waits && !cursor.comes_soon(&object, wanted)).then_some(object)
}

/// Whether what another reader's fill brings may answer this one too.
async fn may_share(cursor: &Cursor, target: &Target) -> bool {
    let opened = cursor.opened().await;
    let same_person = cursor.target().same_credentials(target);
    if let Some(why) = cursor.not_stored() {
        // A reply that is not stored leads no variants: a request that it does not suit would wait for one like it, over and over.
        let suits = |object: &Object| is_selected(object, target.fields.as_slice());
        let suited = !matches!(&opened, Phase::Ready(object) if !suits(object));
        return why.may_be_shared() && same_person && suited;
    }
    match opened {
        Phase::Ready(object) => {
            let sets_cookie = object.head().representation().has("set-cookie");
            !sets_cookie && (same_person || is_for_all(&object))
        }
        _ => true,
    }
}

/// Whether nothing suggests that the reply was made for the one who asked: it says how long others may be given
/// it, or is of a kind that is the same for everybody.
fn is_for_all(object: &Object) -> bool {
    let head = object.head();
    let prepared = HotHeaders::of(&head, object);
    let stated = matches!(prepared.terms.lifetime, Lifetime::Explicit(lifetime) if lifetime > Duration::ZERO);
    prepared.is_for_all || stated || prepared.terms.control.public
}

/// Whether a fill that this reader joined came to something by what another reader brought to it: a URL that may
/// not lead where this one may, a range that lies past the end, a part that is all that the other wanted.
async fn was_asked_for_another(cursor: &Cursor, target: &Target, span: Span) -> bool {
    let opened = cursor.opened().await;
    if cursor.not_stored() == Some(NotStored::Part) {
        return true;
    }
    match opened {
        Phase::Failed(error) => target.trust == Trust::Configured && error.is_refused(),
        Phase::Refused(refusal) if refusal.status == 416 => match (span, refusal.complete_length) {
            (Span::From(start), Some(size)) => start < size,
            (Span::Range(range), Some(size)) => range.start() < size,
            _ => true,
        },
        _ => false,
    }
}

/// The question for a new generation, whatever is stored.
fn refetch(request: &Request<'_>, (span, only): (Span, bool)) -> JoinRequest {
    match (request.head_only, only) {
        (true, _) => JoinRequest::Anew(Span::From(0)),
        (false, true) => JoinRequest::OnlyAnew(span),
        (false, false) => JoinRequest::Anew(span),
    }
}

/// The same request of somebody who shares nothing.
pub(in crate::proxy) fn anew(join: JoinRequest, (span, only): (Span, bool)) -> JoinRequest {
    match (join, only) {
        (JoinRequest::Head, _) => JoinRequest::Head,
        (_, true) => JoinRequest::Only(span),
        (_, false) => JoinRequest::Bytes(span),
    }
}

/// The bytes that a request asks for first, and whether they are all that its answer can need: one range, whatever the
/// representation turns out to be.
fn wanted(request: &Request<'_>) -> (Span, bool) {
    let question = &request.question;
    let several = question.range.is_some_and(|range| range.contains(&b','));
    (
        wanted_span(question.range),
        !several && question.conditions.if_range.is_none(),
    )
}

fn wanted_span(range: Option<&[u8]>) -> Span {
    match first_wanted(range) {
        // The request is bounded where the request's range is: the rest may never be wanted.
        Some(FirstWanted::From {
            start,
            last: Some(last),
        }) => ByteRange::new(start, last.saturating_add(1)).map_or(Span::From(start), Span::Range),
        Some(FirstWanted::From { start, last: None }) => Span::From(start),
        Some(FirstWanted::Suffix(count)) if count > 0 => Span::Suffix(count),
        // A range from 0 also tells whether the upstream has ranges at all.
        _ => Span::From(0),
    }
}
