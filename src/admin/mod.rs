//! The API of millpond about itself: the scope `/-/` of the application.
//!
//! [`operations`] is the table of all that there is. Handlers take what they need by extractors and answer with a type of
//! [`crate::api`] or a [`Problem`]; what an operation means is done by the store and the fills, not here.

mod fills;
mod guard;
mod health;
mod objects;
mod openapi;
mod operation;
mod parameters;
mod streams;
mod verify;

use self::objects::{ListParameters, PurgeManyParameters, PurgeParameters};
use self::operation::{Operation, Right};
use self::verify::VerifyParameters;
use crate::api::{
    FillSummaries, ObjectPage, ObjectSummary, Purged, Stats, StreamSummaries, StreamSummary, VerifyEvent,
};
use crate::serve::Problem;
use crate::store::StoreError;
use actix_web::dev::HttpServiceFactory;
use actix_web::http::{Method, StatusCode};
use actix_web::web;
use std::collections::BTreeMap;
use std::time::Duration;

/// Without a catalog: when to ask again. The store tries to open it once a second.
const CATALOG_TRIED: Duration = Duration::from_secs(2);

/// All operations, in the order in which they are documented.
fn operations() -> Vec<Operation> {
    use Right::{Look, Rule};
    let (get, put, post, delete) = (Method::GET, Method::PUT, Method::POST, Method::DELETE);
    let op = |method: &Method, path, right, summary| (method.clone(), path, right, summary);
    macro_rules! operation {
        ($entry:expr, $handler:path) => {{
            let (method, path, right, summary) = $entry;
            Operation::new(method, path, right, $handler).says(summary)
        }};
    }
    vec![
        operation!(op(&get, "healthz", Look, "Whether the process answers."), health::alive)
            .sends("text/plain", "It does."),
        operation!(
            op(&get, "readyz", Look, "Whether what is fetched can be stored."),
            health::ready
        )
        .sends("text/plain", "It can.")
        .fails(503, "The catalog is not open."),
        operation!(op(&get, "metrics", Look, "The counters."), health::metrics)
            .sends("application/openmetrics-text", "The text format of OpenMetrics."),
        operation!(op(&get, "openapi.json", Look, "This document."), openapi::show)
            .sends("application/json", "OpenAPI 3.1."),
        operation!(
            op(&get, "api/v1/stats", Look, "What is stored, in sum, and the counters."),
            objects::stats
        )
        .answers::<Stats>(200, "The counters."),
        operation!(
            op(&get, "api/v1/fills", Look, "Fills under way, and why readers wait."),
            fills::list
        )
        .answers::<FillSummaries>(200, "The fills."),
        operation!(
            op(&get, "api/v1/objects", Look, "A page of the stored objects."),
            objects::list
        )
        .takes::<ListParameters>()
        .answers::<ObjectPage>(200, "The page.")
        .fails(503, "The catalog cannot be read now."),
        operation!(
            op(&delete, "api/v1/objects", Rule, "Purges objects."),
            objects::purge_many
        )
        .takes::<PurgeManyParameters>()
        .answers::<Purged>(200, "How much was purged; 0 where nothing was meant."),
        operation!(op(&get, "api/v1/objects/{id}", Look, "One object."), objects::show)
            .answers::<ObjectSummary>(200, "The object.")
            .fails(404, "There is no such object."),
        operation!(
            op(&delete, "api/v1/objects/{id}", Rule, "Purges one object."),
            objects::purge
        )
        .takes::<PurgeParameters>()
        .answers::<Purged>(200, "How much was purged.")
        .fails(404, "There is no such object."),
        operation!(
            op(
                &put,
                "api/v1/objects/{id}/pin",
                Rule,
                "Exempts an object from eviction."
            ),
            objects::pin
        )
        .answers::<ObjectSummary>(200, "The object.")
        .fails(404, "There is no such object."),
        operation!(
            op(&delete, "api/v1/objects/{id}/pin", Rule, "Lets an object be evicted."),
            objects::unpin
        )
        .answers::<ObjectSummary>(200, "The object.")
        .fails(404, "There is no such object."),
        operation!(
            op(
                &post,
                "api/v1/verify",
                Rule,
                "Compares what is stored with its checksums."
            ),
            verify::run
        )
        .takes::<VerifyParameters>()
        .tells::<VerifyEvent>("A line for each event; one without `verified` at its end was cut."),
        operation!(
            op(&get, "api/v1/streams", Rule, "All streams; an id opens its stream."),
            streams::list
        )
        .answers::<StreamSummaries>(200, "The streams, the latest first."),
        operation!(
            op(&get, "api/v1/streams/{id}", Look, "The log of a stream."),
            streams::replay
        )
        .sends("*/*", "What was logged, and what still comes.")
        .fails(404, "There is no such stream."),
        operation!(
            op(&delete, "api/v1/streams/{id}", Look, "Stops a stream."),
            streams::stop
        )
        .answers::<StreamSummary>(200, "Its state.")
        .fails(404, "There is no such stream.")
        .fails(409, "It is over."),
        operation!(
            op(&get, "api/v1/streams/{id}/status", Look, "The state of a stream."),
            streams::status
        )
        .answers::<StreamSummary>(200, "Its state.")
        .fails(404, "There is no such stream."),
    ]
}

/// The scope of the application.
pub fn scope() -> impl HttpServiceFactory {
    let mut by_path: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for operation in operations() {
        by_path.entry(operation.path).or_default().push(operation);
    }
    let paths: Vec<&str> = by_path.keys().copied().collect();
    let there_is = format!("there is {} under /-/", paths.join(", "));
    let mut scope = web::scope("/-");
    for (path, operations) in by_path {
        let methods: Vec<Method> = operations.iter().flat_map(Operation::methods).collect();
        let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
        let allowed = methods.join(", ");
        let mut resource = web::resource(format!("/{path}"));
        for route in operations.iter().flat_map(Operation::routes) {
            resource = resource.route(route);
        }
        let refused = move || {
            let problem = problem(StatusCode::METHOD_NOT_ALLOWED, format!("{allowed} are served here"));
            std::future::ready(problem.allowing_only(allowed.clone()).response())
        };
        scope = scope.service(resource.default_service(web::to(refused)));
    }
    let unknown = move || std::future::ready(problem(StatusCode::NOT_FOUND, there_is.clone()).response());
    scope.default_service(web::to(unknown))
}

/// A problem in which no cache has a part.
fn problem(status: StatusCode, detail: impl Into<String>) -> Problem {
    Problem::new(status, detail).without_story()
}

/// Work for a blocking thread.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ (StoreError::NoCatalog | StoreError::Restoring))) => {
            Err(Problem::later(CATALOG_TRIED, &error.to_string()).without_story())
        }
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
            let detail = "the store failed; the log says how";
            Err(problem(StatusCode::INTERNAL_SERVER_ERROR, detail))
        }
        Err(_) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "a reading thread was lost")),
    }
}
