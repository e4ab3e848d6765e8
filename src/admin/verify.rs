//! A verification: compares what is stored with its checksums, and tells as it goes.
//!
//! It runs on a thread of its own, since it reads all that is stored. Each event is a line of JSON; the last one is the
//! summary, and an answer without it was cut. A client that leaves, or takes nothing, ends or holds the verification:
//! it runs for nobody else.

use super::parameters::{Parameter, Parameters, Query, flag};
use super::problem;
use crate::api::VerifyEvent;
use crate::clock::Instant;
use crate::key::ObjectId;
use crate::proxy::{Problem, Service};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use bytes::Bytes;
use futures::stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Progress is told no more often than this: a bar that moves ten times a second moves smoothly. A judgement.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// Lines that may wait for the client; then the verification waits. A judgement: it bounds what a slow client holds in
/// memory.
const LINES: usize = 64;

/// The objects that are verified, and the treatment of damage.
#[derive(Debug, Default)]
pub(super) struct VerifyParameters {
    repair: bool,
    only: Option<ObjectId>,
}

impl Parameters for VerifyParameters {
    const ALL: &'static [Parameter] = &[
        Parameter {
            name: "repair",
            form: "true|false",
            what: "Makes damaged bytes absent, so that they are fetched again.",
        },
        Parameter {
            name: "id",
            form: "ID",
            what: "Verifies this object alone.",
        },
    ];

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "repair" => self.repair = flag(value)?,
            "id" => self.only = Some(ObjectId::parse(value)?),
            _ => return None,
        }
        Some(())
    }
}

pub(super) async fn run(
    service: Data<Service>,
    Query(parameters): Query<VerifyParameters>,
) -> Result<HttpResponse, Problem> {
    let store = Arc::clone(&service.store);
    let (lines, told) = mpsc::channel::<Bytes>(LINES);
    let thread = std::thread::Builder::new().name("millpond-verify".to_owned());
    let started = thread.spawn(move || {
        let mut last: Option<Instant> = None;
        let mut report = |event: VerifyEvent| {
            if matches!(event, VerifyEvent::Progress(_)) {
                if last.is_some_and(|last| last.elapsed() < TOLD_EVERY) {
                    return true;
                }
                last = Some(Instant::now());
            }
            let Ok(mut line) = serde_json::to_vec(&event) else {
                return true;
            };
            line.push(b'\n');
            // A client that has gone ends it.
            lines.blocking_send(line.into()).is_ok()
        };
        if let Err(error) = store.verify(parameters.repair, parameters.only, &mut report) {
            tracing::error!(error = &error as &dyn std::error::Error, "the verification ended early");
        }
    });
    if started.is_err() {
        let what = "no thread could be started";
        return Err(problem(StatusCode::INTERNAL_SERVER_ERROR, what));
    }
    let body = stream::unfold(told, |mut told| async move {
        let line = told.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), told))
    });
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(body))
}
