//! The API of millpond about itself: the scope `/-/` of the application.
//!
//! `operations` is the table of all that there is. Handlers take what they need by extractors and answer with a type of
//! [`crate::api`] or a [`Problem`]; what an operation means is done by the store and the fills, not here.

mod fills;
mod guard;
mod health;
mod mirrors;
mod objects;
mod openapi;
mod operation;
mod parameters;
mod sessions;
mod streams;
mod verify;

use self::mirrors::WalkParameters;
use self::objects::{ListParameters, PurgeManyParameters, PurgeParameters};
use self::operation::Callers::{Everybody, Lookers, Rulers};
use self::operation::Operation;
use self::verify::VerifyParameters;
use crate::clock::Instant;
use crate::proxy::Problem;
use crate::site::Site;
use crate::store::StoreError;
use actix_web::body::MessageBody;
use actix_web::dev::{HttpServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::guard::{GuardContext, fn_guard};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::{Error, web};
use std::collections::BTreeMap;
use std::time::Duration;

/// Without a catalog: when to ask again. The store tries to open it once a second. Twice that: a judgement.
const CATALOG_TRIED: Duration = Duration::from_secs(2);

/// All operations of a server with or without a cache, in the order in which they are documented.
fn operations(has_cache: bool) -> Vec<Operation> {
    match has_cache {
        true => [
            of_the_server(),
            of_the_cache(),
            of_objects(),
            of_streams(),
            of_mirrors(),
        ]
        .into_iter()
        .flatten()
        .collect(),
        false => of_the_server(),
    }
}

fn of_the_server() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "healthz", Everybody, health::alive)
            .says("Whether the process answers.")
            .sends("text/plain", "It does."),
        Operation::new(Method::GET, "readyz", Everybody, health::ready)
            .says("Whether what is fetched can be stored, and the directories are there.")
            .sends("text/plain", "They are.")
            .fails(503, "The catalog is not open, or a directory is away."),
        Operation::new(Method::GET, "metrics", Lookers, health::metrics)
            .says("The counters.")
            .sends("application/openmetrics-text", "The text format of OpenMetrics."),
        Operation::new(Method::GET, "openapi.json", Lookers, openapi::show)
            .says("This document.")
            .sends("application/json", "OpenAPI 3.1."),
        Operation::new(Method::GET, "api/v1/about", Lookers, health::about)
            .says("The server: its version, and where it is reached.")
            .answers(200, "About", "The server."),
        Operation::new(Method::POST, "api/v1/codes", Rulers, sessions::make_code)
            .says("Makes a code by which one browser is let in.")
            .answers(200, "SessionCode", "The code."),
        Operation::new(Method::POST, "api/v1/session", Everybody, sessions::open)
            .says("Exchanges a code for the cookie of a session, which may look and rule.")
            .sends("*/*", "No body; the cookie.")
            .fails(403, "The code is not good."),
        Operation::new(Method::DELETE, "api/v1/session", Everybody, sessions::close)
            .says("Ends the session of the cookie.")
            .sends("*/*", "No body; the cookie is taken away."),
    ]
}

fn of_the_cache() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "api/v1/stats", Lookers, objects::stats)
            .says("What is stored, in sum, and the counters.")
            .answers(200, "Stats", "The counters."),
        Operation::new(Method::GET, "api/v1/fills", Lookers, fills::list)
            .says("Fills under way, and why readers wait.")
            .answers(200, "FillSummaries", "The fills."),
    ]
}

fn of_objects() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "api/v1/objects", Lookers, objects::list)
            .says("A page of the stored objects.")
            .takes::<ListParameters>()
            .answers(200, "ObjectPage", "The page.")
            .fails(503, "The catalog cannot be read now."),
        Operation::new(Method::DELETE, "api/v1/objects", Rulers, objects::purge_many)
            .says("Purges objects.")
            .takes::<PurgeManyParameters>()
            .answers(200, "Purged", "How much was purged; 0 where nothing was meant."),
        Operation::new(Method::GET, "api/v1/objects/{id}", Lookers, objects::show)
            .says("One object.")
            .answers(200, "ObjectSummary", "The object.")
            .fails(404, "There is no such object."),
        Operation::new(Method::DELETE, "api/v1/objects/{id}", Rulers, objects::purge)
            .says("Purges one object.")
            .takes::<PurgeParameters>()
            .answers(200, "Purged", "How much was purged.")
            .fails(404, "There is no such object."),
        Operation::new(Method::PUT, "api/v1/objects/{id}/pin", Rulers, objects::pin)
            .says("Exempts an object from eviction.")
            .answers(200, "ObjectSummary", "The object.")
            .fails(404, "There is no such object."),
        Operation::new(Method::DELETE, "api/v1/objects/{id}/pin", Rulers, objects::unpin)
            .says("Lets an object be evicted.")
            .answers(200, "ObjectSummary", "The object.")
            .fails(404, "There is no such object."),
        Operation::new(Method::POST, "api/v1/verify", Rulers, verify::run)
            .says("Compares what is stored with its checksums.")
            .takes::<VerifyParameters>()
            .tells(
                "VerifyEvent",
                "A line for each event; one without `verified` at its end was cut.",
            ),
    ]
}

fn of_streams() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "api/v1/streams", Rulers, streams::list)
            .says("All streams; an id opens its stream.")
            .answers(200, "StreamSummaries", "The streams, the latest first."),
        Operation::new(Method::GET, "api/v1/streams/{id}", Everybody, streams::replay)
            .says("The log of a stream.")
            .sends("*/*", "What was logged, and what still comes.")
            .fails(404, "There is no such stream."),
        Operation::new(Method::DELETE, "api/v1/streams/{id}", Everybody, streams::stop)
            .says("Stops a stream.")
            .answers(200, "StreamSummary", "Its state.")
            .fails(404, "There is no such stream.")
            .fails(409, "It is over."),
        Operation::new(Method::GET, "api/v1/streams/{id}/status", Everybody, streams::status)
            .says("The state of a stream.")
            .answers(200, "StreamSummary", "Its state.")
            .fails(404, "There is no such stream."),
    ]
}

fn of_mirrors() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "api/v1/mirrors", Lookers, mirrors::list)
            .says("The mirrors, and how each stands.")
            .answers(200, "MirrorSummaries", "The mirrors.")
            .fails(503, "The catalog cannot be read now."),
        Operation::new(Method::POST, "api/v1/mirrors/walk", Rulers, mirrors::walk)
            .says("Walks a mirror, or tells what a walk would do.")
            .takes::<WalkParameters>()
            .tells(
                "WalkEvent",
                "A line for each event; one without `walked` at its end was cut.",
            )
            .fails(404, "There is no such mirror."),
    ]
}

/// The scope of the application of a server with or without a cache.
pub fn scope(has_cache: bool) -> impl HttpServiceFactory {
    let mut by_path: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for operation in operations(has_cache) {
        by_path.entry(operation.path).or_default().push(operation);
    }
    let paths: Vec<&str> = by_path.keys().copied().collect();
    let there_is = format!("there is {} under /-/", paths.join(", "));
    // The framework matches decoded paths: `/%2D/` is a path of an upstream all the same, as `proxy::request::route` has it.
    let is_ours = |context: &GuardContext<'_>| context.head().uri.path().starts_with("/-/");
    let mut scope = web::scope("/-").guard(fn_guard(is_ours));
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
    scope.default_service(web::to(unknown)).wrap(from_fn(logged))
}

/// Writes each answer of the API to the access log, where there is one.
async fn logged(request: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Result<ServiceResponse, Error> {
    let begun = Instant::now();
    let response = next.call(request).await?.map_into_boxed_body();
    let (request, response) = response.into_parts();
    let response = match request.app_data::<web::Data<Site>>() {
        Some(site) => site.logged(request.head(), begun, response.into()).into(),
        None => response,
    };
    Ok(ServiceResponse::new(request, response))
}

/// A problem in which no cache has a part.
fn problem(status: StatusCode, detail: impl Into<String>) -> Problem {
    Problem::new(status, detail).without_story()
}

/// 503 while the catalog cannot be asked.
fn no_catalog(error: &StoreError) -> Problem {
    Problem::later(CATALOG_TRIED, &error.to_string()).without_story()
}

/// Work for a blocking thread.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ (StoreError::NoCatalog | StoreError::Restoring))) => Err(no_catalog(&error)),
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
            let detail = "the store failed; the log says how";
            Err(problem(StatusCode::INTERNAL_SERVER_ERROR, detail))
        }
        Err(_) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "a reading thread was lost")),
    }
}
