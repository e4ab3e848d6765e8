//! Streams in the API: the list is for whoever may change things, since it names what opens each; one stream is for
//! whoever knows its id.

use crate::live::{Stream, StreamId};
use crate::serve::{Problem, Service, no_such_stream, status_line};
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// How long an answer waits for what was stopped to have ended.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// All streams, the latest first.
pub(super) fn list(service: &Service) -> HttpResponse {
    let streams = service.fills.streams().list();
    let lines: Vec<_> = streams.iter().map(|stream| status_line(stream)).collect();
    HttpResponse::Ok().json(serde_json::json!({ "streams": lines }))
}

/// The log of a stream, its state, or its end.
pub(super) async fn one(service: &Service, request: &RequestHead, id: &str, wants_status: bool) -> HttpResponse {
    let Some(stream) = StreamId::parse(id).and_then(|id| service.fills.streams().get(id)) else {
        return no_such_stream();
    };
    match request.method {
        Method::DELETE => stop(request, &stream).await,
        _ if wants_status => HttpResponse::Ok().json(status_line(&stream)),
        _ => service.replay(request, &stream, false).await,
    }
}

async fn stop(request: &RequestHead, stream: &Arc<Stream>) -> HttpResponse {
    let who = request
        .peer_addr
        .map_or_else(|| "somebody".to_owned(), |peer| peer.ip().to_string());
    if !stream.stop(&who) {
        let what = "the stream has ended, or was stopped, already";
        return Problem::new(StatusCode::CONFLICT, what).response();
    }
    // A request after this answer must see that the stream is over.
    let _ = tokio::time::timeout(STOP_WAIT, stream.over()).await;
    HttpResponse::Ok().json(status_line(stream))
}
