//! Streams in the API: the list is for those who may change things, since it names what opens each; one stream is for
//! whoever knows its id.
//!
//! An id is a secret that opens its stream, for reading and for stopping; an unknown one is 404. Stopping answers when
//! the stream is over, or after a bounded wait, so that a request after it finds it so.

use super::parameters::{NoParameters, Query};
use super::problem;
use crate::api::{StreamSummaries, StreamSummary};
use crate::live::{Stream, StreamId};
use crate::proxy::{Problem, Service, stream_summary};
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

/// How long an answer waits for what was stopped to have ended. An upstream's connection is closed in milliseconds; a
/// body that is being written to a slow disk is not worth a longer wait. A judgement.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// The stream that the path names.
pub(super) struct StreamPath(Arc<Stream>);

impl FromRequest for StreamPath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.match_info().get("id").and_then(StreamId::parse);
        let service = request.app_data::<Data<Service>>();
        let stream = service
            .zip(id)
            .and_then(|(service, id)| service.fills.streams().get(id));
        let unknown = || problem(StatusCode::NOT_FOUND, "there is no such stream");
        ready(stream.map(Self).ok_or_else(unknown))
    }
}

/// All streams, the latest first.
pub(super) async fn list(service: Data<Service>, _: Query<NoParameters>) -> Json<StreamSummaries> {
    let streams = service.fills.streams().list();
    let streams = streams.iter().map(|stream| stream_summary(stream)).collect();
    Json(StreamSummaries { streams })
}

/// The log of a stream. Its query is the reader's: `from=tail`.
pub(super) async fn replay(
    service: Data<Service>,
    request: HttpRequest,
    stream: StreamPath,
) -> Result<HttpResponse, Problem> {
    let replayed = service.replay(request.head(), &stream.0, false).await;
    replayed.map(HttpResponse::from).map_err(Problem::without_story)
}

/// The state of a stream.
pub(super) async fn status(stream: StreamPath, _: Query<NoParameters>) -> Json<StreamSummary> {
    Json(stream_summary(&stream.0))
}

/// Stops a stream; 409 where it is over.
pub(super) async fn stop(request: HttpRequest, stream: StreamPath) -> Result<Json<StreamSummary>, Problem> {
    let StreamPath(stream) = stream;
    let peer = request.head().peer_addr;
    let who = peer.map_or_else(|| "somebody".to_owned(), |peer| peer.ip().to_string());
    if !stream.stop(&who) {
        let what = "the stream has ended, or was stopped, already";
        return Err(problem(StatusCode::CONFLICT, what));
    }
    // A request after this answer must see that the stream is over.
    let _ = tokio::time::timeout(STOP_WAIT, stream.over()).await;
    Ok(Json(stream_summary(&stream)))
}
