//! What millpond says of itself, under `/-/`.

mod fills;
mod objects;

use crate::serve::{Problem, Service};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};

/// Answers a request for `path`, the part after `/-/`.
pub async fn handle(service: &Service, request: &HttpRequest, path: &str) -> HttpResponse {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here").response();
        response
            .headers_mut()
            .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "healthz" | "readyz" => HttpResponse::Ok()
            .content_type("text/plain; charset=utf-8")
            .body("ok\n"),
        "metrics" => metrics(service),
        "api/v1/fills" => fills::list(service),
        "api/v1/objects" => objects::list(service, request.query_string()).await,
        _ => match path.strip_prefix("api/v1/objects/") {
            Some(id) => objects::show(service, id).await,
            None => Problem::new(
                StatusCode::NOT_FOUND,
                "there is healthz, readyz, metrics, api/v1/fills, api/v1/objects and api/v1/objects/{id} under /-/",
            )
            .response(),
        },
    }
}

fn metrics(service: &Service) -> HttpResponse {
    let metrics = &service.metrics;
    metrics
        .fills
        .set(i64::try_from(service.fills.len()).unwrap_or(i64::MAX));
    metrics
        .stored_bytes
        .set(i64::try_from(service.store.used_bytes()).unwrap_or(i64::MAX));
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
