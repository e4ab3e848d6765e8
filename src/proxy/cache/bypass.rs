//! Methods that are not answered from the store: passed on, and what they change is forgotten (RFC 9111 §4.4).
//!
//! A request is sent upstream once, in both directions at the pace of the slower side. Where its method is not safe and
//! it succeeds, the stored replies of its URL, and of the URLs that the answer names within the same origin, are
//! invalidated before the client gets the status: its next request finds the new state. CONNECT and TRACE end here.

use crate::crypto::digest::{Context, SHA256};
use crate::fill::{RelayError, Relayed, RequestBody, Seen, UploadFault};
use crate::header::{CacheStatus, Forwarded, value_of};
use crate::http1::Response;
use crate::key::ObjectKey;
use crate::proxy::request::forward::{forwarded_fields, goes_in_circles, makes_claims};
use crate::proxy::request::route::Routes;
use crate::proxy::response::problem::{CACHE_STATUS, Problem};
use crate::proxy::service::Service;
use crate::upstream::Target;
use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use actix_web::dev::{Payload, RequestHead};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use futures::StreamExt;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Fields of the request that this hop has dealt with.
const DEALT_WITH: &[&str] = &["content-length", "expect", "host"];

impl Service {
    /// Passes a request with another method than GET and HEAD on.
    pub(in crate::proxy) async fn pass(&self, http: &RequestHead, payload: Payload, target: &Arc<Target>) -> Response {
        let cache_status = CacheStatus::forwarded(Forwarded::Method);
        match self.passed(http, payload, target).await {
            Ok(passed) => answer(passed, cache_status).into(),
            Err(problem) => problem.with(cache_status).response().into(),
        }
    }

    async fn passed(&self, http: &RequestHead, payload: Payload, target: &Arc<Target>) -> Result<Relayed, Problem> {
        let Sent { target, body, seen, .. } = sent(self, http, payload, target, Digested::No)?;
        let is_plain = !makes_claims(http);
        let method = http.method.to_string();
        let passing = self.fills.relay(target, method, body, is_plain, seen);
        passing.await.map_err(|error| match error {
            RelayError::Upstream(error) => Problem::upstream(&error),
            RelayError::Upload(fault) => upload_failed(fault),
        })
    }
}

/// A request on its way to the upstream.
pub(in crate::proxy) struct Sent {
    pub(in crate::proxy) target: Arc<Target>,
    pub(in crate::proxy) body: Option<RequestBody>,
    /// Resolves to the body's SHA-256 when the client has sent all of it; fails where it has not, or no digest is made.
    pub(in crate::proxy) uploaded: oneshot::Receiver<[u8; 32]>,
    /// The effects on the store when the upstream has answered.
    pub(in crate::proxy) seen: Box<Seen>,
}

/// Whether the digest of a body is made while it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Digested {
    Yes,
    No,
}

/// The relayed form of a request.
pub(in crate::proxy) fn sent(
    service: &Service,
    http: &RequestHead,
    payload: Payload,
    target: &Arc<Target>,
    digested: Digested,
) -> Result<Sent, Problem> {
    if goes_in_circles(http) {
        return Err(Problem::circles());
    }
    let method = &http.method;
    if *method == Method::CONNECT || *method == Method::TRACE {
        let what = format!("{method} is not passed on: it would show what is between a client and its upstream");
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, what).allowing());
    }
    let mut fields = forwarded_fields(http, target, service.settings.scheme);
    fields.retain(|(name, _)| !DEALT_WITH.contains(&name.as_str()));
    if *method == Method::OPTIONS
        && let Some(index) = fields.iter().position(|(name, _)| name == "max-forwards")
    {
        match fields[index].1.trim().parse::<u64>() {
            // We are whom the client wants to know of (RFC 9110 §7.6.2).
            Ok(0) => {
                return Err(Problem::new(StatusCode::OK, "this is as far as Max-Forwards lets it go").allowing());
            }
            Ok(hops) => fields[index].1 = (hops - 1).to_string(),
            Err(_) => return Err(Problem::new(StatusCode::BAD_REQUEST, "Max-Forwards is not a number")),
        }
    }
    let target = Arc::new(target.with_fields(fields));
    let (body, uploaded) = outgoing(http, payload, digested);
    let (safe, changing) = (is_safe(method), Arc::clone(&target));
    let (fills, routes) = (service.fills.clone(), Arc::clone(&service.routes));
    let seen = move |status: u16, fields: &[(String, String)]| {
        if !safe && (200..400).contains(&status) {
            for key in changed(&changing, fields, &routes) {
                if let Err(error) = fills.invalidate(&key) {
                    tracing::error!(url = key.url(), %error, "could not invalidate what may have changed");
                }
            }
        }
    };
    Ok(Sent {
        target,
        body,
        uploaded,
        seen: Box::new(seen),
    })
}

/// The URLs that a successful request may have changed (RFC 9111 §4.4): its own URL, and those of the same origin that the
/// answer names.
fn changed(target: &Target, fields: &[(String, String)], routes: &Routes) -> Vec<ObjectKey> {
    let named = fields
        .iter()
        .filter(|(name, _)| name == "location" || name == "content-location")
        .filter_map(|(_, value)| target.url.join(value).ok())
        .filter(|url| url.origin() == target.url.origin())
        .map(|url| routes.key_of(url));
    std::iter::once(target.key.clone()).chain(named).collect()
}

/// RFC 9110 §9.2.1.
fn is_safe(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PROPFIND" | "REPORT" | "SEARCH" | "QUERY"
    )
}

/// The body of a request, where it has one, and its digest when all of it has gone on.
fn outgoing(
    http: &RequestHead,
    mut payload: Payload,
    digested: Digested,
) -> (Option<RequestBody>, oneshot::Receiver<[u8; 32]>) {
    let (over, uploaded) = oneshot::channel();
    let mut digest = (digested == Digested::Yes).then(|| Context::new(&SHA256));
    let headers = &http.headers;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.trim().parse().ok());
    // RFC 9112 §6: without either of the two a request has no body.
    if length.is_none() && !headers.contains_key(header::TRANSFER_ENCODING) {
        tell(over, digest);
        return (None, uploaded);
    }
    let (sender, outgoing) = RequestBody::new(length);
    actix_web::rt::spawn(async move {
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(io::Error::other);
            if let (Some(digest), Ok(piece)) = (&mut digest, &piece) {
                digest.update(piece);
            }
            let cut = piece.is_err();
            if sender.send(piece).await.is_err() || cut {
                return;
            }
        }
        tell(over, digest);
    });
    (Some(outgoing), uploaded)
}

/// Tells the digest of a body that is whole, where one was made; there may be nobody to be told.
fn tell(over: oneshot::Sender<[u8; 32]>, digest: Option<Context>) {
    let made = digest.map(Context::finish);
    if let Some(digest) = made.and_then(|digest| digest.as_ref().try_into().ok()) {
        let _ = over.send(digest);
    }
}

/// The answer to a client that did not send its body. What still comes of it is no request.
pub(in crate::proxy) fn upload_failed(fault: UploadFault) -> Problem {
    let what = match fault {
        UploadFault::Silent => "the request's body stopped for 30 seconds; send it again",
        UploadFault::Broken => "the request's body broke off, or has no framing that HTTP knows",
    };
    let status = StatusCode::from_u16(fault.status()).unwrap_or(StatusCode::BAD_REQUEST);
    Problem::new(status, what).with_field(header::CONNECTION, "close".to_owned())
}

fn answer(passed: Relayed, mut cache_status: CacheStatus) -> HttpResponse {
    cache_status.upstream_status = Some(passed.status);
    let status = StatusCode::from_u16(passed.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    for (name, value) in &passed.fields {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::from_bytes(&value_of(value)),
        ) {
            response.append_header((name, value));
        }
    }
    response.insert_header((CACHE_STATUS, cache_status.to_string()));
    let pieces = futures::stream::unfold(passed.body, |mut body| async move {
        let piece = body.next().await?;
        if piece.is_err() {
            // Pieces before the error go out first: the error ends the connection at once.
            tokio::task::yield_now().await;
        }
        Some((piece, body))
    });
    match passed.length {
        Some(0) => response.finish(),
        Some(length) => response.body(SizedStream::new(length, pieces)),
        None => response.streaming(pieces),
    }
}
