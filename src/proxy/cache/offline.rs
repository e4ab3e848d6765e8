//! Answers for an upstream that is away: what is stored, at once, and honestly marked.
//!
//! Where the operator says `offline = serve`, what is stored answers while the upstream's circuit is open, however stale it is,
//! with ranges, HEAD and conditions as ever, its true `Age`, and `Cache-Status: hit; detail=offline`. A reply that says
//! `must-revalidate` or `no-cache` is not used then, unless the operator says `always`. What was fetched with a client's
//! credentials is given to clients that the upstream has allowed it. A range that is here is answered though the object is
//! not whole; anything else is 504, at once: nobody waits for a connection that cannot be made.
//!
//! A request that is on its way when the line goes is not left there: when nothing has come within a second the upstream is
//! suspected, and when a probe has found that it is away the request is answered like those after it.

use super::decided::{answer_of, first_range};
use crate::clock::unix_seconds;
use crate::config::Offline;
use crate::header::{CacheStatus, Forwarded};
use crate::http1::Response;
use crate::policy::{RequestDirectives, Reuse};
use crate::proxy::hit::hot_headers::HotHeaders;
use crate::proxy::request::Request;
use crate::proxy::response::decide::Answer;
use crate::proxy::response::problem::Problem;
use crate::proxy::service::Service;
use crate::store::{Expired, Object, Watch};
use crate::upstream::{ConfiguredUpstream, Target};
use actix_web::http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may be waited for before the upstream is suspected to be away. A judgement: a page that is made in
/// that time is common, and a suspicion costs a probe.
const SUSPICIOUS: Duration = Duration::from_secs(1);

impl Service {
    /// The upstream of the target, where something is served while it is away.
    pub(in crate::proxy) fn served_offline(target: &Target) -> Option<&Arc<ConfiguredUpstream>> {
        target.upstream.as_ref().filter(|upstream| upstream.is_served_offline())
    }

    /// The answer for an upstream that is away.
    pub(in crate::proxy) fn answer_offline(
        &self,
        request: &Request<'_>,
        target: &Arc<Target>,
        known: Option<&Arc<Object>>,
        upstream: &ConfiguredUpstream,
    ) -> Result<Response, Problem> {
        upstream.circuit.used();
        let Some(object) = known else {
            return Err(away(upstream, "nothing is stored of this"));
        };
        if !self.is_allowed(object, target) {
            return Err(away(
                upstream,
                "what is stored is another client's, and nobody can be asked whether you may have it",
            ));
        }
        if !self.may_be_served(object, upstream.offline) {
            return Err(away(
                upstream,
                "its reply says that it must not be used unasked (offline = always would)",
            ));
        }
        let answer = answer_of(request.question, object);
        let is_here = match (&answer, first_range(&answer)) {
            _ if object.is_whole() || request.head_only => true,
            (Answer::Whole(_) | Answer::Parts(..), Some(_)) => all_is_here(object, &answer),
            // A condition that failed, or a range that lies past the end: no byte is wanted.
            _ => true,
        };
        if !is_here {
            return Err(away(
                upstream,
                "only a part of this is stored, and not the part that is asked for",
            ));
        }
        object.touch(unix_seconds(self.clock.now()));
        self.metrics.hits.inc();
        let cache_status = CacheStatus {
            ttl: Some(self.ttl(object, self.clock.elapsed())),
            detail: Some("offline"),
            ..CacheStatus::HIT
        };
        let watch = Watch::new(Arc::clone(object));
        Ok(self.respond(request, target, answer, watch, None, cache_status))
    }

    /// Whether a stored object answers where its upstream fails, by the operator's word, however old it is.
    pub(in crate::proxy) fn outlives_outages(&self, target: &Target, object: &Object) -> bool {
        let upstream = Self::served_offline(target);
        upstream.is_some_and(|upstream| self.may_be_served(object, upstream.offline))
    }

    /// Whether the reply lets what is stored be used unasked.
    fn may_be_served(&self, object: &Object, rule: Offline) -> bool {
        let head = object.head();
        if head.is_bare_response() || head.representation().expired == Expired::Invalidated {
            return false;
        }
        let terms = &HotHeaders::of(&head, object).terms;
        let is_forbidden = terms.must_revalidate() || terms.control.forbids_storing();
        let is_fresh = || {
            let plain = RequestDirectives::default();
            matches!(self.reuse(object, &plain, self.clock.elapsed()), Reuse::Fresh)
        };
        rule == Offline::Always || !is_forbidden || is_fresh()
    }
}

/// Returns when the upstream is found to be away while its answer is waited for.
pub(in crate::proxy) async fn went_away(upstream: &ConfiguredUpstream) {
    tokio::select! {
        () = upstream.circuit.went_away() => return,
        () = tokio::time::sleep(SUSPICIOUS) => {}
    }
    upstream.circuit.suspect();
    upstream.circuit.went_away().await;
}

/// Whether all bytes of the answer are here.
fn all_is_here(object: &Object, answer: &Answer) -> bool {
    let here = object.presence().available();
    match answer {
        Answer::Parts(parts, _) => parts.iter().all(|part| here.covers(*part)),
        _ => false,
    }
}

fn away(upstream: &ConfiguredUpstream, what: &str) -> Problem {
    let why = upstream
        .circuit
        .why()
        .unwrap_or_else(|| "it does not answer".to_owned());
    let detail = format!("the upstream is away: {why}; {what}");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).with(CacheStatus::forwarded(Forwarded::UriMiss).detail("offline"))
}
