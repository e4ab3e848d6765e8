//! The list of objects: `GET /-/api/v1/objects?limit=N&after=ID` and `GET /-/api/v1/objects/{id}`.

use crate::key::ObjectId;
use crate::serve::{Problem, Service};
use crate::store::StoreError;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use std::sync::Arc;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub(super) async fn list(service: &Service, query: &str) -> HttpResponse {
    let (mut limit, mut after) = (DEFAULT_LIMIT, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let understood = match name.as_ref() {
            "limit" => value
                .parse()
                .ok()
                .filter(|n| (1..=MAX_LIMIT).contains(n))
                .map(|n| limit = n),
            "after" => ObjectId::parse(&value).map(|id| after = Some(id)),
            _ => None,
        };
        if understood.is_none() {
            let detail = format!("{name}={value} is not understood; there is limit=1..{MAX_LIMIT} and after=ID");
            return Problem::new(StatusCode::BAD_REQUEST, detail).response();
        }
    }
    let store = Arc::clone(&service.store);
    let Ok(objects) = tokio::task::spawn_blocking(move || store.list(after, limit)).await else {
        return lost();
    };
    let next = (objects.len() == limit)
        .then(|| objects.last().map(|object| object.id.clone()))
        .flatten();
    HttpResponse::Ok().json(serde_json::json!({ "objects": objects, "next": next }))
}

pub(super) async fn show(service: &Service, id: &str) -> HttpResponse {
    let Some(id) = ObjectId::parse(id) else {
        return Problem::new(StatusCode::BAD_REQUEST, "an id has 32 hexadecimal digits").response();
    };
    let store = Arc::clone(&service.store);
    match tokio::task::spawn_blocking(move || store.show(id)).await {
        Ok(Ok(Some(object))) => HttpResponse::Ok().json(object),
        Ok(Ok(None)) => Problem::new(StatusCode::NOT_FOUND, "there is no such object").response(),
        Ok(Err(error)) => failed(&error),
        Err(_) => lost(),
    }
}

fn failed(error: &StoreError) -> HttpResponse {
    tracing::error!(%error, "could not read the catalog");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the catalog could not be read; the log says how",
    )
    .response()
}

fn lost() -> HttpResponse {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a reading thread was lost").response()
}
