//! Whether the server lives, whether it can do its work, and what it has counted.
//!
//! `healthz` asks nothing: it answers where the process does. `readyz` asks whether the catalog is open, without which
//! nothing that is fetched is found again. Gauges are set when the counters are read, so they are as old as the answer.

use super::no_catalog;
use crate::serve::{Problem, Service};
use crate::store::StoreError;
use actix_web::{HttpResponse, web};

/// The process answers.
pub(super) async fn alive() -> HttpResponse {
    well()
}

/// The server can store what it fetches. Without a catalog it still plays, but nothing is found again after a restart.
pub(super) async fn ready(service: web::Data<Service>) -> Result<HttpResponse, Problem> {
    match service.store.has_catalog() {
        true => Ok(well()),
        false => Err(no_catalog(&StoreError::NoCatalog)),
    }
}

fn well() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("ok\n")
}

/// The counters, in the text format of OpenMetrics.
pub(super) async fn metrics(service: web::Data<Service>) -> HttpResponse {
    let metrics = &service.metrics;
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    metrics.fills.set(gauge(service.fills.len() as u64));
    metrics.stored_bytes.set(gauge(service.store.used_bytes()));
    metrics.set_counted(
        service.store.evicted(),
        service.store.punched_bytes(),
        service.store.bad_blocks(),
    );
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
