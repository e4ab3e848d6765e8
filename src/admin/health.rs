//! Whether the server lives, whether it can do its work, and what it has counted.
//!
//! `healthz` asks nothing: it answers where the process does. `readyz` asks whether the catalog is open, without which
//! nothing that is fetched is found again, and whether the directories are there. Gauges are set when the counters are read, so they are as old as the answer.

use super::no_catalog;
use super::parameters::{NoParameters, Query};
use crate::api::About;
use crate::proxy::{Problem, Service};
use crate::site::Site;
use crate::store::StoreError;
use actix_web::http::header;
use actix_web::web::Json;
use actix_web::{HttpResponse, web};

/// The process answers.
pub(super) async fn alive() -> HttpResponse {
    well()
}

/// The server can store what it fetches, and its directories are there. Without a catalog it still plays, but nothing is
/// found again after a restart.
pub(super) async fn ready(site: web::Data<Site>) -> Result<HttpResponse, Problem> {
    if site.cache.as_ref().is_some_and(|cache| !cache.store.has_catalog()) {
        return Err(no_catalog(&StoreError::NoCatalog));
    }
    Ok(site.unready().await.unwrap_or_else(well))
}

fn well() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body("ok\n")
}

/// The server itself.
pub(super) async fn about(site: web::Data<Site>, _: Query<NoParameters>) -> Json<About> {
    Json(About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        urls: site.urls.clone(),
    })
}

/// The counters, in the text format of OpenMetrics.
pub(super) async fn metrics(site: web::Data<Site>) -> HttpResponse {
    if let Some(cache) = &site.cache {
        set_gauges(cache);
    }
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(site.metrics.text())
}

/// Sets what is counted by looking: it is as old as the answer.
fn set_gauges(service: &Service) {
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
}
