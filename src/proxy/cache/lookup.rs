//! From a request to its answer: what is stored, who fills it, and how long to wait.
//!
//! ```text
//! fetch ─ detached, or another method than GET and HEAD ─────────────────► detach, pass: no look-up
//!   │
//!   │ at most MAX_GENERATIONS times
//!   ▼
//! attempt ─ selected: the object under the URL, or its variant
//!   ├─ whole, and reuse allows it ──────────────────────────────────────► hit: answer, no fill
//!   │      (stale-while-revalidate: answer, and a fill asks beside it)
//!   ├─ only-if-cached ──────────────────────────────────────────────────► 504
//!   └─ find: join a fill, wait for its head ─ refused, failed, resting ─► problem, or what is stored though stale
//!         ├─ not selected by the reply ─────────────────────────────────► again
//!         ├─ a stream ──────────────────────────────────────────────────► send_live
//!         └─ decide: answer_of (pure)
//!               ├─ follow: first byte, header_wait at most ─ superseded ► again
//!               │      ├─ here, or none in that time ───────────────────► header now, body as it comes
//!               │      └─ refused for good ─────────────────────────────► the refusal
//!               └─ capped: all bytes, the client's wait ── superseded ──► again
//!                      └─ else ───────────────────────────────────────► what is here, or 503 with Retry-After
//! ```
//!
//! The following is always true:
//!
//! - Nothing has been sent while a request can still begin again. A generation that is superseded after the header
//!   breaks the body instead (body.rs): two representations never meet in one response.
//! - The answer is decided once, by `answer_of`, from the object as if every byte of it were here. What is missing
//!   changes how long the header waits and how the body goes out, not what is said; `capped` alone cuts it to what is
//!   here.
//! - A fill is held (`Cursor`) while its request may need bytes of it: a hit joins none, and a whole object lets go of
//!   it.
//! - The header waits for the first byte, since a status can be told before it only: a refusal of what is asked for is
//!   then an answer, not a cut body. Where the time is over the header goes out, and `Cache-Status` says what the body
//!   waits for.
//!
//! The order of the steps is that of their price. What is stored is looked at before an upstream is; whether it was
//! here is noted before the join: a fill that begins may bring it in the next moment, and that is no hit.
//! `only-if-cached` is refused after the hit and before the fill (RFC 9111 §5.2.1.7).

use super::admission::WayToFind;
use super::decided::{answer_of, first_range};
use super::freshness::age_of;
use super::not_here_yet::{draw_to, retry_after};
use super::offline::went_away;
use super::variant::is_selected;
use crate::clock::unix_seconds;
use crate::config::Delivery;
use crate::fill::Cursor;
use crate::header::{CacheStatus, Forwarded};
use crate::http1::Response;
use crate::policy::Reuse;
use crate::proxy::request::Request;
use crate::proxy::request::forward::{fetched_for, goes_in_circles, wants_websocket};
use crate::proxy::response::confine::{keep_harmless, sandbox};
use crate::proxy::response::decide::{Answer, capped};
use crate::proxy::response::problem::{Problem, refused};
use crate::proxy::response::write::ResponseBuilder;
use crate::proxy::service::Service;
use crate::ranges::ByteRange;
use crate::store::{Availability, Broken, Object, Watch};
use crate::upstream::{Target, Trust};
use actix_web::dev::{Payload, RequestHead};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use std::sync::Arc;

/// How often a request begins again because the upstream changed under it. A judgement: a file that is replaced once is
/// common, one that changes between each two requests is not to be served.
pub(in crate::proxy) const MAX_GENERATIONS: usize = 3;

/// An object to answer from, the fill that brings the rest of it, and how it came to be one.
pub(in crate::proxy) struct FoundObject {
    pub(in crate::proxy) target: Arc<Target>,
    pub(in crate::proxy) object: Arc<Object>,
    pub(in crate::proxy) cursor: Cursor,
    pub(in crate::proxy) cache_status: CacheStatus,
}

enum Attempt {
    Answered(Response),
    /// Another generation has come: begin again.
    Again,
}

impl Service {
    /// The answer of an open object that may be used as it is. Who gives it counts it.
    pub(in crate::proxy) fn stored_answer(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        object: Arc<Object>,
    ) -> Option<Response> {
        if request.wants_digest && object.digest().is_none() {
            return None;
        }
        self.hit(request, target, object, false)
            .map(|response| self.sandboxed(response, target))
    }

    /// Answers from what is stored, where it may be used: also while the upstream is asked anew, if `meanwhile`.
    fn hit(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        object: Arc<Object>,
        meanwhile: bool,
    ) -> Option<Response> {
        if !object.is_whole() || !self.is_allowed(&object, target) {
            return None;
        }
        // One look at the clock: `Age`, `ttl` and the decision are of the same moment.
        let elapsed = self.clock.elapsed();
        let detail = match self.reuse(&object, &request.asked, elapsed) {
            Reuse::Fresh => None,
            Reuse::Stale => Some("max-stale"),
            Reuse::StaleMeanwhile if meanwhile => {
                self.revalidate_meanwhile(target, &object);
                Some("stale-while-revalidate")
            }
            Reuse::StaleMeanwhile | Reuse::Revalidate(_) | Reuse::Refetch(_) => return None,
        };
        let cache_status = CacheStatus {
            ttl: Some(self.ttl(&object, elapsed)),
            detail,
            ..CacheStatus::HIT
        };
        object.touch(unix_seconds(self.clock.now()));
        let answer = answer_of(request.question, &object);
        let watch = Watch::new(object);
        Some(self.respond(request, target, answer, watch, None, cache_status))
    }

    /// Answers a request for an object. `caller` is the name of its token, which the request itself shows no more.
    pub async fn fetch(
        &self,
        http: &RequestHead,
        payload: Payload,
        (target, delivery): (&Arc<Target>, Delivery),
        caller: Option<&str>,
    ) -> Response {
        if self.is_detached(http) && !wants_websocket(http) {
            return self.sandboxed(self.detach(http, payload, target, caller).await, target);
        }
        let Some(request) = Request::read(http, delivery) else {
            return self.sandboxed(self.pass(http, payload, target).await, target);
        };
        if goes_in_circles(http) {
            return Problem::circles().response().into();
        }
        if wants_websocket(http) {
            let what = "WebSockets are not passed on; connect to the upstream itself";
            return Problem::new(StatusCode::NOT_IMPLEMENTED, what).response().into();
        }
        let way = (self.settings.scheme, self.settings.credentials.as_slice());
        let target = &fetched_for(http, target, way);
        // Each turn looks everything up anew: the generation of the one before is gone.
        for _ in 0..MAX_GENERATIONS {
            match self.attempt(&request, target).await {
                Ok(Attempt::Answered(response)) => return self.sandboxed(response, target),
                Ok(Attempt::Again) => {}
                Err(problem) => return problem.response().into(),
            }
        }
        Problem::new(
            StatusCode::BAD_GATEWAY,
            "the upstream changes faster than it can be read",
        )
        .response()
        .into()
    }

    async fn attempt(&self, request: &Request<'_>, target: &Arc<Target>) -> Result<Attempt, Problem> {
        let (target, known) = self.selected(target).await?;
        let target = &target;
        if let Some(upstream) = Self::served_offline(target).filter(|upstream| upstream.circuit.is_away()) {
            let answered = self.answer_offline(request, target, known.as_ref(), upstream);
            return answered.map(Attempt::Answered);
        }
        if let Some(object) = known
            .as_ref()
            .filter(|object| request.wants_digest && object.is_whole())
        {
            self.compute_digest(object).await;
        }
        let way = match self.way_to(request, target, known.as_ref()).await? {
            Ok(way) => way,
            Err(refusal) => return Ok(Attempt::Answered(refusal)),
        };
        let hit = known
            .as_ref()
            .filter(|_| way != WayToFind::Anew)
            .and_then(|object| self.hit(request, target, Arc::clone(object), true));
        if let Some(response) = hit {
            self.metrics.hits.inc();
            return Ok(Attempt::Answered(response));
        }
        if request.asked.only_if_cached {
            let problem = Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "nothing that is stored answers this, and the request forbids to ask the upstream (only-if-cached)",
            );
            let why = known.map_or(Forwarded::UriMiss, |_| Forwarded::Request);
            return Err(problem.with(CacheStatus::forwarded(why).detail("only-if-cached")));
        }
        // Before the join: what a fill brings at once was not here.
        let was_here = known.clone().filter(|object| {
            let first = first_range(&answer_of(request.question, object));
            !object.is_whole() && first.is_some_and(|first| object.presence().covers(first))
        });
        let mut found = match self.find_or_do_without(request, target, known, way).await? {
            Ok(found) => found,
            Err(refusal) => return Ok(Attempt::Answered(refusal)),
        };
        if !is_selected(&found.object, target.fields.as_slice()) {
            // Another's request has brought a reply that this one does not select.
            return Ok(Attempt::Again);
        }
        if !found.cursor.collapsed() {
            // Its own exchange has brought or validated it.
            self.note_allowed(&found.object, target);
        }
        if let Some(stream) = found.cursor.stream().cloned() {
            return Ok(Attempt::Answered(self.send_live(request, found, &stream).await?));
        }
        let object = &found.object;
        object.touch(unix_seconds(self.clock.now()));
        let decided = answer_of(request.question, object);
        let was_here = was_here.is_some_and(|was| Arc::ptr_eq(&was, object));
        let may_be_hit = !request.head_only && (was_here || found.cursor.collapsed());
        let is_here = || first_range(&decided).is_some_and(|first| object.presence().covers(first));
        if may_be_hit && found.cache_status.upstream_status.is_none() && is_here() {
            // Joined for the rest of the object; what this request wants is here.
            found.cache_status = CacheStatus::HIT.with_detail_of(found.cache_status);
        }
        let watch = Watch::new(Arc::clone(object));
        match request.delivery {
            Delivery::Capped => self.send_capped(request, found, decided, watch).await,
            Delivery::Follow => self.send_following(request, found, decided, watch).await,
        }
    }

    /// [`Service::find`], until the upstream is found to be away: then the answer is what is stored.
    async fn find_or_do_without(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        known: Option<Arc<Object>>,
        way: WayToFind,
    ) -> Result<Result<FoundObject, Response>, Problem> {
        let Some(upstream) = Self::served_offline(target) else {
            return self.find(request, target, known, way).await;
        };
        tokio::select! {
            found = self.find(request, target, known.clone(), way) => found,
            () = went_away(upstream) => self.answer_offline(request, target, known.as_ref(), upstream).map(Err),
        }
    }

    /// Reads the object for its digest, where that takes no longer than a header may wait. It goes on for
    /// the next who asks.
    async fn compute_digest(&self, object: &Arc<Object>) {
        let reading = Arc::clone(object);
        let computing = tokio::task::spawn_blocking(move || reading.source().compute_digest());
        if let Ok(Ok(Err(error))) = tokio::time::timeout(self.settings.header_wait, computing).await {
            tracing::warn!(url = object.url(), %error, "could not compute a digest");
        }
    }

    // --- follow ----------------------------------------------------------------------------

    /// Answers what was asked; waits a little for the first byte, so that a refusal can be a status.
    async fn send_following(
        &self,
        request: &Request<'_>,
        mut found: FoundObject,
        decided: Answer,
        mut watch: Watch,
    ) -> Result<Attempt, Problem> {
        if let (Some(first), false) = (first_range(&decided), request.head_only) {
            match self.first_byte(&found, first, &mut watch).await {
                Some(Availability::Broken(Broken::Superseded)) => return Ok(Attempt::Again),
                Some(Availability::Broken(why)) => {
                    return Err(Problem::new(StatusCode::BAD_GATEWAY, why.to_string()).with(found.cache_status));
                }
                Some(Availability::Here(_) | Availability::End) => {}
                None => match found
                    .cursor
                    .trouble()
                    .and_then(|trouble| trouble.refusal_of(first.start()))
                {
                    Some(refusal) if is_definite(refusal.status) => {
                        return Ok(Attempt::Answered(refused(&refusal, found.cache_status).into()));
                    }
                    _ => found.cache_status = found.cache_status.detail(found.cursor.why(first.start()).token()),
                },
            }
        }
        Ok(Attempt::Answered(self.send(request, found, decided, watch)))
    }

    /// The outcome of the first wanted byte within the time that a header may wait; `None` where that
    /// is over, or where the upstream refused it for good.
    async fn first_byte(&self, found: &FoundObject, first: ByteRange, watch: &mut Watch) -> Option<Availability> {
        if let Some(here) = found.object.presence().look(first.start()) {
            return Some(here);
        }
        let refused = found
            .cursor
            .refused(first.start(), |refusal| is_definite(refusal.status));
        tokio::select! {
            presence = watch.wait(first.start(), first.end()) => Some(presence),
            _ = refused => None,
            () = tokio::time::sleep(self.settings.header_wait) => None,
        }
    }

    // --- capped ----------------------------------------------------------------------------

    /// Answers what is here, after the wait that the client prefers.
    async fn send_capped(
        &self,
        request: &Request<'_>,
        found: FoundObject,
        decided: Answer,
        mut watch: Watch,
    ) -> Result<Attempt, Problem> {
        if request.head_only {
            return Ok(Attempt::Answered(self.send(request, found, decided, watch)));
        }
        let object = Arc::clone(&found.object);
        // Without `Prefer: wait` the time is none: what is here now is the answer.
        let deadline = tokio::time::sleep(request.wait.unwrap_or_default());
        tokio::select! {
            superseded = all_here(&object, &decided, &mut watch) => {
                if superseded {
                    return Ok(Attempt::Again);
                }
            }
            () = deadline => {}
        }
        // An object whose length became known meanwhile can say more now.
        let decided = match decided {
            Answer::Whole(None) => Answer::Whole(object.length()),
            decided => decided,
        };
        let needs_bytes = matches!(decided, Answer::Whole(_) | Answer::Parts(..));
        if !needs_bytes || object.is_whole() {
            return Ok(Attempt::Answered(self.send(request, found, decided, watch)));
        }
        let no_range = matches!(decided, Answer::Whole(_));
        match capped(decided, &object.presence().available()) {
            Ok(now) => Ok(Attempt::Answered(self.send(request, found, now, watch))),
            Err(missing) => {
                let after = retry_after(&found.cursor, &found.object, no_range, missing);
                let cache_status = found.cache_status.detail("not-here-yet");
                draw_to(found.cursor, found.object, watch, missing);
                let mut response = Problem::later(after, "the wanted bytes are not here yet")
                    .with(cache_status)
                    .response();
                if let Some(wait) = request.wait {
                    let echo = format!("wait={}", wait.as_secs());
                    if let Ok(echo) = header::HeaderValue::try_from(echo) {
                        response
                            .headers_mut()
                            .insert(HeaderName::from_static("preference-applied"), echo);
                    }
                }
                Ok(Attempt::Answered(response.into()))
            }
        }
    }

    /// Answers with a whole that is not known to be a stream.
    pub(in crate::proxy) fn send_whole(&self, request: &Request<'_>, found: FoundObject) -> Response {
        let decided = answer_of(request.question, &found.object);
        let watch = Watch::new(Arc::clone(&found.object));
        self.send(request, found, decided, watch)
    }

    fn send(&self, request: &Request<'_>, found: FoundObject, answer: Answer, watch: Watch) -> Response {
        // A whole object needs no fill; holding the cursor would only count as a reader.
        let cursor = Some(found.cursor).filter(|_| !found.object.is_whole());
        let mut cache_status = found.cache_status;
        if let Some(passing) = found.object.presence().pass_through_reason() {
            cache_status.stored = false;
            cache_status = cache_status.detail(passing.detail());
        }
        self.respond(request, &found.target, answer, watch, cursor, cache_status)
    }

    pub(in crate::proxy) fn respond(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        answer: Answer,
        watch: Watch,
        cursor: Option<Cursor>,
        cache_status: CacheStatus,
    ) -> Response {
        ResponseBuilder {
            answer,
            age: age_of(watch.object(), self.clock.elapsed()).as_secs(),
            watch,
            cursor,
            source: Some((&self.fills, target)),
            cache_status,
            waited: request.wait.map(|wait| wait.as_secs()),
            wants_digest: request.wants_digest,
            head_only: request.head_only,
        }
        .build(&self.metrics)
    }
}

impl Service {
    /// The answer, without a right to scripts: all mounts share one origin with the API and its page, and scripts must not speak
    /// in our name (docs/decisions/0038).
    fn sandboxed(&self, mut response: Response, target: &Target) -> Response {
        let is_strangers = target.trust == Trust::Public;
        if is_strangers {
            keep_harmless(response.headers_mut());
        }
        sandbox(response.headers_mut());
        response
    }
}

/// Waits until every wanted byte is here; `true` where another generation came instead.
async fn all_here(object: &Object, decided: &Answer, watch: &mut Watch) -> bool {
    let ranges: Vec<ByteRange> = match decided {
        Answer::Whole(Some(size)) => ByteRange::new(0, *size).into_iter().collect(),
        Answer::Whole(None) => ByteRange::new(0, u64::MAX).into_iter().collect(),
        Answer::Parts(ranges, _) => ranges.clone(),
        _ => Vec::new(),
    };
    for range in ranges {
        let mut at = range.start();
        while at < range.end() {
            match watch.wait(at, range.end()).await {
                Availability::Here(end) => at = end,
                Availability::End => break,
                Availability::Broken(why) => return why == Broken::Superseded,
            }
        }
    }
    debug_assert!(
        !object.presence().available().is_empty()
            || object.length() == Some(0)
            || !matches!(decided, Answer::Parts(..))
    );
    false
}

/// The upstream has spoken of the object itself; trying again would not change it soon.
fn is_definite(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 425 | 429)
}
