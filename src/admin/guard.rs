//! The guards of operations: a middleware in front of each of them.
//!
//! ```text
//! what changes, and what opens what is somebody's     rule, at every path
//! what only tells                                     look, at every path
//! probes, a stream by its id, a code for a session    everybody
//! ```
//!
//! The caller goes along with the request: what is told without *rule* has its secrets masked ([`UrlVisibility`]).

use crate::access::{Caller, Door, Right};
use crate::masking::without_secrets;
use crate::proxy::Problem;
use crate::site::Site;
use actix_web::body::BoxBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use std::future::{Ready, ready};

/// Lets a caller that may change everything pass.
pub(super) async fn rule(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, actix_web::Error> {
    guarded(Right::Rule, request, next).await
}

/// Lets a caller that may read everything pass.
pub(super) async fn look(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, actix_web::Error> {
    guarded(Right::Look, request, next).await
}

async fn guarded(
    right: Right,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, actix_web::Error> {
    match allowed(right, &request) {
        // A response, not an error: what counts the answers around this sees no error.
        Err(problem) => Ok(request.into_response(problem.response())),
        Ok(caller) => {
            if right == Right::Rule {
                tracing::info!(
                    method = %request.method(), path = request.path(), token = caller.name,
                    control_socket = caller.is_control, session = caller.has_session, "a change is asked for"
                );
            }
            request.extensions_mut().insert(UrlVisibility {
                sees_secrets: caller.may_everywhere(Right::Rule),
            });
            next.call(request).await
        }
    }
}

fn allowed(right: Right, request: &ServiceRequest) -> Result<Caller, Problem> {
    let door = request.app_data::<Door>().copied().unwrap_or(Door::Public);
    let Some(site) = request.app_data::<Data<Site>>() else {
        return Err(Problem::new(
            actix_web::http::StatusCode::INTERNAL_SERVER_ERROR,
            "there is no site",
        ));
    };
    let caller = site.access.caller(door, request.head())?;
    match caller.may_everywhere(right) {
        true => Ok(caller),
        false => Err(caller.refusal(right)),
    }
}

/// How much of the URLs that an answer names its reader may see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UrlVisibility {
    sees_secrets: bool,
}

impl UrlVisibility {
    /// The URL as the reader may see it: without *rule*, signatures and passwords in it are masked.
    pub(super) fn shown(self, url: &mut String) {
        if !self.sees_secrets {
            *url = without_secrets(url).into_owned();
        }
    }
}

impl FromRequest for UrlVisibility {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(request.extensions().get::<Self>().copied().unwrap_or_default()))
    }
}
