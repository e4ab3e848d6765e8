//! MKCOL (RFC 4918 §9.3): makes one empty collection.
//!
//! The collection above must exist, and nothing may have the name. A body is refused with 415, as the RFC has it for
//! kinds of body that a server does not understand: none is understood here.

use super::locked_writer::LockScope;
use super::put_request::read_preconditions;
use super::{DirectoryService, problem_of};
use crate::directory::{DirectoryError, PrereadDigest, TreePath, TreeWriter};
use crate::header::Preconditions;
use crate::proxy::Problem;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;

impl DirectoryService {
    /// The answer to MKCOL.
    pub(super) async fn make_collection(
        &self,
        path: &TreePath,
        head: &RequestHead,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let conditions = read_preconditions(&head.headers)?;
        if !super::read_body(payload, 0).await.is_ok_and(|body| body.is_empty()) {
            let what = "a collection is made without a body";
            return Err(Problem::of_origin(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let (of, locked) = (path.clone(), LockScope::Paths(vec![path.clone()]));
        let work = move |writer: &TreeWriter, _: &PrereadDigest, conditions: &Preconditions, _: &mut ()| {
            writer.make_collection(&of, conditions)
        };
        let locked_writer = self.locked_writer().map_err(|error| problem_of(&error))?;
        match locked_writer.write(path, &locked, conditions, (), work).await {
            Ok(()) => Ok(HttpResponse::Created().finish()),
            // RFC 4918 §9.3.1 has 405 where something is there already.
            Err(error @ DirectoryError::Exists) => {
                let problem = Problem::of_origin(StatusCode::METHOD_NOT_ALLOWED, error.to_string());
                Err(problem.allowing_only(self.methods()))
            }
            Err(error) => Err(problem_of(&error)),
        }
    }
}
