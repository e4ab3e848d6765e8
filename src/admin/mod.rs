//! The API of millpond about itself, under `/-/`.

mod fills;
mod objects;
mod streams;
mod verify;

use crate::serve::{Problem, Service, refusal};
use crate::store::StoreError;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::{Method, StatusCode, header};
use std::sync::Arc;
use std::time::Duration;

const RESOURCES: &str = "there is healthz, readyz, metrics, api/v1/fills, api/v1/stats, api/v1/verify, api/v1/objects, \
    api/v1/objects/{id}, api/v1/objects/{id}/pin, api/v1/streams, api/v1/streams/{id} and api/v1/streams/{id}/status under /-/";

/// Without a catalog: when to ask again.
const CATALOG_TRIED: Duration = Duration::from_secs(2);

/// The resource of a request.
enum Resource<'a> {
    Alive,
    Metrics,
    Fills,
    Stats,
    Verify,
    Objects,
    Object(&'a str),
    Pin(&'a str),
    Streams,
    Stream { id: &'a str, status: bool },
}

impl<'a> Resource<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "healthz" | "readyz" => Self::Alive,
            "metrics" => Self::Metrics,
            "api/v1/fills" => Self::Fills,
            "api/v1/stats" => Self::Stats,
            "api/v1/verify" => Self::Verify,
            "api/v1/objects" => Self::Objects,
            "api/v1/streams" => Self::Streams,
            _ if path.starts_with("api/v1/streams/") => {
                let id = path.strip_prefix("api/v1/streams/")?;
                match id.split_once('/') {
                    None => Self::Stream { id, status: false },
                    Some((id, "status")) => Self::Stream { id, status: true },
                    Some(_) => return None,
                }
            }
            _ => {
                let id = path.strip_prefix("api/v1/objects/")?;
                match id.split_once('/') {
                    None => Self::Object(id),
                    Some((id, "pin")) => Self::Pin(id),
                    Some(_) => return None,
                }
            }
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Self::Objects | Self::Object(_) => "GET, HEAD, DELETE",
            Self::Pin(_) => "PUT, DELETE",
            Self::Verify => "POST",
            Self::Stream { status: false, .. } => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    }
}

/// Answers a request for `path`, the part after `/-/`.
pub async fn handle(service: &Arc<Service>, request: &RequestHead, path: &str) -> HttpResponse {
    let Some(resource) = Resource::of(path) else {
        return Problem::new(StatusCode::NOT_FOUND, RESOURCES).response();
    };
    let (method, query) = (&request.method, request.uri.query().unwrap_or_default());
    if !resource.methods().split(", ").any(|known| known == method.as_str()) {
        let detail = format!("{} are served here", resource.methods());
        let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).response();
        let allow = header::HeaderValue::from_static(resource.methods());
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let reads = method == Method::GET || method == Method::HEAD;
    // The id of a stream is a capability to stop it, and the list has all ids.
    let is_open = match resource {
        Resource::Stream { .. } => true,
        Resource::Streams => false,
        _ => reads,
    };
    if let Some(why) = refusal(request.peer_addr, &request.headers).filter(|_| !is_open) {
        return Problem::new(StatusCode::FORBIDDEN, why).response();
    }
    match resource {
        Resource::Alive => HttpResponse::Ok()
            .content_type("text/plain; charset=utf-8")
            .body("ok\n"),
        Resource::Metrics => metrics(service),
        Resource::Fills => fills::list(service),
        Resource::Stats => objects::stats(service).await,
        Resource::Streams => streams::list(service),
        Resource::Stream { id, status } => streams::one(service, request, id, status).await,
        Resource::Verify => verify::run(service, query),
        Resource::Objects if reads => objects::list(service, query).await,
        Resource::Objects => objects::purge_many(service, query).await,
        Resource::Object(id) if reads => objects::show(service, id).await,
        Resource::Object(id) => objects::purge(service, id, query).await,
        Resource::Pin(id) => objects::pin(service, id, *method == Method::PUT).await,
    }
}

fn metrics(service: &Service) -> HttpResponse {
    let metrics = &service.metrics;
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.fills.set(gauge(service.fills.len() as u64));
    metrics.stored_bytes.set(gauge(service.store.used_bytes()));
    metrics.evicted.set(gauge(service.store.evicted()));
    metrics.punched_bytes.set(gauge(service.store.punched_bytes()));
    metrics.bad_blocks.set(gauge(service.store.bad_blocks()));
    metrics.catalog_open.set(service.store.has_catalog().into());
    let fills = service.fills.list();
    let reasons = fills
        .iter()
        .flat_map(|fill| &fill.waiting)
        .map(|waiting| waiting.why.token());
    metrics.set_waiting(reasons);
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(metrics.text())
}

/// The value of a query's parameter, or the problem with it.
fn not_understood(name: &str, value: &str, known: &str) -> HttpResponse {
    let detail = format!("{name}={value} is not understood; there is {known}");
    Problem::new(StatusCode::BAD_REQUEST, detail).response()
}

/// Work for a blocking thread, and its answer.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    answer: impl FnOnce(T) -> HttpResponse,
) -> HttpResponse {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => answer(done),
        Ok(Err(error @ (StoreError::NoCatalog | StoreError::Restoring))) => {
            Problem::later(CATALOG_TRIED, &error.to_string()).response()
        }
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
            let detail = "the store failed; the log says how";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).response()
        }
        Err(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a reading thread was lost").response(),
    }
}
