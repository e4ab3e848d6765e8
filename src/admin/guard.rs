//! The guard of operations that change something, or show what opens a stream: a middleware in front of each of them.
//!
//! Only programs on the server's own machine pass, and no page of another site that a browser there shows
//! ([`crate::serve::refusal`]).

use super::problem;
use crate::serve::refusal;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::Next;

/// Lets a request of the server's own machine pass, and refuses any other with 403.
pub(super) async fn rule(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, actix_web::Error> {
    let head = request.head();
    match refusal(head.peer_addr, &head.headers) {
        // A response, not an error: what counts the answers around this sees no error.
        Some(why) => Ok(request.into_response(problem(StatusCode::FORBIDDEN, why).response())),
        None => next.call(request).await,
    }
}
