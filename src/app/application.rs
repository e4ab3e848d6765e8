//! The application of a cache: the API under `/-/`, and for all other paths the handler that serves ranges.
//!
//! Most requests do not come here: `connection` answers what has no body by the same [`answer`], without the framework's work
//! for a request. What comes is the API, requests with bodies, and what only the framework reads (HTTP/1.0, odd framing).

use crate::admin;
use crate::http1::Response;
use crate::serve::{Problem, Routed, Service};
use actix_http::{ConnectionType, Request};
use actix_service::{ServiceFactory, map_config};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Payload, RequestHead, ServiceResponse};
use actix_web::http::{StatusCode, Version};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpRequest, HttpResponse, dev, web};
use std::sync::Arc;

/// The application, for one worker.
pub(super) fn application(
    service: &Arc<Service>,
) -> impl ServiceFactory<Request, Config = (), Response = ServiceResponse, Error = Error, InitError = ()> + use<> {
    let app = App::new()
        .app_data(web::Data::from(Arc::clone(service)))
        .wrap(from_fn(around))
        .service(admin::scope())
        .default_service(web::to(handle));
    map_config(app, |()| AppConfig::default())
}

/// Counts each answer, and tells the end of those without a length to clients that know no chunks.
async fn around(request: dev::ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, Error> {
    let is_old = matches!(request.version(), Version::HTTP_10 | Version::HTTP_09);
    let service = request.app_data::<web::Data<Service>>().cloned();
    let mut response = next.call(request).await?;
    if let Some(service) = service {
        service.metrics.answered(response.status().as_u16());
    }
    if is_old && response.response().body().size() == BodySize::Stream {
        // Chunks are of HTTP/1.1: to an older client the connection's close tells the end (RFC 9112 §6.1).
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// The default service.
async fn handle(request: HttpRequest, payload: web::Payload, service: web::Data<Service>) -> HttpResponse {
    answer(&service, request.head(), payload.into_inner()).await.into()
}

/// The answer to a request for what an upstream has.
pub(super) async fn answer(service: &Service, head: &RequestHead, payload: Payload) -> Response {
    match service.routes.resolve(head.uri.path(), head.uri.query()) {
        Ok(Routed::Fetch { target, delivery }) => service.fetch(head, payload, &target, delivery).await,
        // The scope of the API has all that it is.
        Ok(Routed::Own(_)) => Problem::new(StatusCode::NOT_FOUND, "there is no such resource")
            .without_story()
            .response()
            .into(),
        Err(error) => Problem::route(error).response().into(),
    }
}
