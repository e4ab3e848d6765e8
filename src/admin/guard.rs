//! The guards of operations: a middleware in front of each of them.
//!
//! ```text
//!                           without a file of tokens                       with one
//! what changes, or lists    programs on this machine; no page of another   callers that may write every path
//! what opens a stream       site, nothing that a proxy has forwarded
//! what only tells           everybody                                      callers that may read every path
//! probes, and a stream      everybody                                      everybody
//! by its id
//! ```

use super::problem;
use crate::directory::Right;
use crate::proxy::{Problem, refusal};
use crate::site::Site;
use crate::webdav::refusal_if_forwarded;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::Next;
use actix_web::web::Data;

/// Lets a caller that may change everything pass.
pub(super) async fn rule(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, actix_web::Error> {
    let head = request.head();
    let site = request.app_data::<Data<Site>>();
    let refused = match site.filter(|site| !site.authorizer.is_open()) {
        Some(site) => site.authorizer.allow_everywhere(Right::Write, head).err(),
        None => refusal(head.peer_addr, &head.headers)
            .or_else(|| refusal_if_forwarded(&head.headers))
            .map(|why| problem(StatusCode::FORBIDDEN, why)),
    };
    passed(refused, request, next).await
}

/// Lets a caller that may read everything pass.
pub(super) async fn look(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, actix_web::Error> {
    let site = request.app_data::<Data<Site>>();
    let refused = site.and_then(|site| site.authorizer.allow_everywhere(Right::Read, request.head()).err());
    passed(refused, request, next).await
}

async fn passed(
    refused: Option<Problem>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, actix_web::Error> {
    match refused {
        // A response, not an error: what counts the answers around this sees no error.
        Some(problem) => Ok(request.into_response(problem.response())),
        None => next.call(request).await,
    }
}
