//! `POST /-/api/v1/verify?repair=true&id=ID`: compares what is stored with its checksums, and tells as it
//! goes, a line of JSON at a time. A stream without the line `verified` was cut.

use super::not_understood;
use crate::key::ObjectId;
use crate::serve::{Problem, Service};
use crate::store::Check;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use bytes::Bytes;
use futures::stream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Progress is told no more often than this.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// Lines that may wait for the client.
const LINES: usize = 64;

pub(super) fn run(service: &Service, query: &str) -> HttpResponse {
    let (mut repair, mut only) = (false, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let understood = match (name.as_ref(), value.as_ref()) {
            ("repair", "true" | "false") => {
                repair = value == "true";
                Some(())
            }
            ("id", id) => ObjectId::parse(id).map(|id| only = Some(id)),
            _ => None,
        };
        if understood.is_none() {
            return not_understood(&name, &value, "repair=true, repair=false and id=ID");
        }
    }
    let store = Arc::clone(&service.store);
    let (lines, told) = mpsc::channel::<Bytes>(LINES);
    let thread = std::thread::Builder::new().name("millpond-verify".to_owned());
    let started = thread.spawn(move || {
        let mut last: Option<Instant> = None;
        let mut report = |check: Check| {
            if matches!(check, Check::Progress { .. }) {
                if last.is_some_and(|last| last.elapsed() < TOLD_EVERY) {
                    return true;
                }
                last = Some(Instant::now());
            }
            let Ok(mut line) = serde_json::to_vec(&check) else {
                return true;
            };
            line.push(b'\n');
            // A client that has gone ends it.
            lines.blocking_send(line.into()).is_ok()
        };
        if let Err(error) = store.verify(repair, only, &mut report) {
            tracing::error!(error = &error as &dyn std::error::Error, "the verification ended early");
        }
    });
    if started.is_err() {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no thread could be started").response();
    }
    let body = stream::unfold(told, |mut told| async move {
        let line = told.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), told))
    });
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(body)
}
