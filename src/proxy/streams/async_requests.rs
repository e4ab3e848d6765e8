//! Requests that outlive their clients: sent once, logged, and read by whoever knows where.
//!
//! The request is recorded before it is sent, and sent only by the first who asks: another with the same identity gets
//! the stream of the first, and 422 where its body is another. The answer is either the log as it comes, or 202 with its place. The client may go once its
//! body has gone on; the reply is logged to its end.

use super::live::path_of;
use crate::api::{StreamLinks, StreamState, StreamSummary};
use crate::fill::DetachedRequest;
use crate::header::{CacheStatus, Forwarded, preferred_wait, prefers_async};
use crate::http1::Response;
use crate::live::{CROWDED, SentBody, Stream, StreamRequest};
use crate::policy::is_credential;
use crate::proxy::cache::bypass::{Digested, Sent, sent, upload_failed};
use crate::proxy::request::forward::OF_A_PART;
use crate::proxy::response::problem::{CACHE_STATUS, Problem};
use crate::proxy::service::Service;
use crate::upstream::Target;
use actix_web::HttpResponse;
use actix_web::dev::{Payload, RequestHead};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use std::sync::Arc;
use tokio::sync::oneshot;

const OTHER_BODY: &str =
    "this Idempotency-Key is that of a request with another body; use a new key for another request";

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

impl Service {
    /// Whether the request asks to outlive its client, or a rule says so.
    pub(in crate::proxy) fn is_detached(&self, http: &RequestHead) -> bool {
        let path = http.uri.path();
        let matches = |rule: &String| match rule.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == rule,
        };
        wants_async(http) || self.settings.detach.iter().any(matches)
    }

    /// Sends the request on, unless it has been sent, and answers with its stream or with where that is.
    pub(in crate::proxy) async fn detach(
        &self,
        http: &RequestHead,
        payload: Payload,
        target: &Arc<Target>,
        caller: Option<&str>,
    ) -> Response {
        let cache_status = CacheStatus::forwarded(Forwarded::Method);
        match self.detached(http, payload, target, caller).await {
            Ok(response) => response,
            Err(problem) => problem.with(cache_status).response().into(),
        }
    }

    async fn detached(
        &self,
        http: &RequestHead,
        payload: Payload,
        target: &Arc<Target>,
        caller: Option<&str>,
    ) -> Result<Response, Problem> {
        let Sent {
            target,
            body,
            uploaded,
            seen,
        } = sent(self, http, payload, target, Digested::Yes)?;
        // The log is the whole answer; ranges and conditions are of what is read of it.
        let mut fields = target.fields.to_vec();
        fields.retain(|(name, _)| !OF_A_PART.contains(&name.as_str()));
        let target = Arc::new(target.with_fields(fields));
        let origin = StreamRequest {
            url: target.key.url().to_owned(),
            method: http.method.to_string(),
            detached: true,
            request: identity(http, &target, caller, &self.settings.credentials),
        };
        let begun = self.fills.streams().begin(origin);
        let (stream, is_new) = begun.map_err(|error| Problem::later(CROWDED, &error.to_string()))?;
        if is_new {
            // Before it is sent: who asks again after a crash is to find it.
            let (streams, begun) = (Arc::clone(self.fills.streams()), Arc::clone(&stream));
            let _ = tokio::task::spawn_blocking(move || streams.record(&begun)).await;
            let sending = DetachedRequest {
                method: http.method.to_string(),
                body,
                seen,
            };
            self.fills.detach_request(&target, sending, &stream);
            self.note_body(uploaded, &stream);
            // A body that is still with the client is lost when the client goes.
            tokio::select! {
                _ = stream.body() => {}
                () = stream.opened() => {}
            }
        } else {
            if let Some(body) = body {
                body.discard().await.map_err(upload_failed)?;
            }
            let own = uploaded.await.map_or(SentBody::Unknown, SentBody::Whole);
            let first = stream.body().await;
            if own != first && first != SentBody::Unknown {
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, OTHER_BODY));
            }
        }
        if !wants_async(http) {
            return Ok(self.streamed(http, &stream).await);
        }
        let prefer = http.headers.get_all("prefer").filter_map(|field| field.to_str().ok());
        if let Some(wait) = preferred_wait(prefer)
            && tokio::time::timeout(wait, stream.opened()).await.is_ok()
        {
            return Ok(self.streamed(http, &stream).await);
        }
        let mut response = HttpResponse::Accepted();
        response
            .insert_header((header::LOCATION, path_of(&stream)))
            .insert_header((PREFERENCE_APPLIED, "respond-async"))
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((CACHE_STATUS, CacheStatus::forwarded(Forwarded::Method).to_string()));
        Ok(response
            .json(StreamLinks {
                id: stream.id().to_string(),
                stream: path_of(&stream),
                status: format!("{}/status", path_of(&stream)),
            })
            .into())
    }

    /// Notes what the body of a request was when all of it has come, whatever becomes of its client.
    fn note_body(&self, uploaded: oneshot::Receiver<[u8; 32]>, stream: &Arc<Stream>) {
        let (streams, stream) = (Arc::clone(self.fills.streams()), Arc::clone(stream));
        actix_web::rt::spawn(async move {
            stream.set_body(uploaded.await.ok());
            let _ = tokio::task::spawn_blocking(move || streams.record(&stream)).await;
        });
    }

    async fn streamed(&self, http: &RequestHead, stream: &Arc<Stream>) -> Response {
        let mut response = match self.replay(http, stream, true).await {
            Ok(response) => response,
            Err(problem) => problem.response().into(),
        };
        if let Ok(path) = header::HeaderValue::try_from(path_of(stream)) {
            response.headers_mut().insert(header::CONTENT_LOCATION, path);
        }
        response
    }
}

fn wants_async(http: &RequestHead) -> bool {
    let fields = http.headers.get_all("prefer");
    prefers_async(fields.filter_map(|field| field.to_str().ok()))
}

/// The identity of a request: its `Idempotency-Key`, with whose it is and what it is about. `None` without
/// one: then each is another. Whose it is, all of its credentials tell: `more` are the operator's own.
fn identity(http: &RequestHead, target: &Target, caller: Option<&str>, more: &[String]) -> Option<[u8; 32]> {
    let key = http.headers.get("idempotency-key").filter(|key| !key.is_empty())?;
    let mut parts: Vec<&[u8]> = vec![
        http.method.as_str().as_bytes(),
        target.key.url().as_bytes(),
        key.as_bytes(),
    ];
    if let Some(caller) = caller {
        parts.push(caller.as_bytes());
    }
    let mut shown: Vec<(&str, &[u8])> = http
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| is_credential(name, more))
        .collect();
    // Stable: lines of one field stay in their order.
    shown.sort_by_key(|(name, _)| *name);
    parts.extend(shown.iter().flat_map(|(name, value)| [name.as_bytes(), *value]));
    Some(crate::key::digest_of(&parts))
}

/// A stream's state for people and programs.
pub fn stream_summary(stream: &Stream) -> StreamSummary {
    let status = stream.status();
    let (first, bytes) = stream.bounds();
    let is_stopped = status.state == StreamState::Stopped;
    let (stopped_by, why) = match is_stopped {
        true => (status.why, None),
        false => (None, status.why),
    };
    StreamSummary {
        id: stream.id().to_string(),
        url: stream.origin().url.clone(),
        method: stream.origin().method.clone(),
        detached: stream.origin().detached,
        state: status.state,
        why,
        stopped_by,
        upstream_status: status.code,
        started: stream.started(),
        ended: status.ended,
        first,
        bytes,
        listeners: stream.listeners(),
        gone: status.gone,
        stream: path_of(stream),
    }
}
