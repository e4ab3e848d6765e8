//! DELETE (RFC 4918 §9.6): a file, a link or a collection is taken out of the tree in one step.
//!
//! A collection goes with all that is in it. `Millpond-Only-Empty: ?1`, or `Depth: 0`, demands that nothing but an empty
//! collection is lost: a queue of writes that was recorded elsewhere knows what it has seen, and cannot know what else was
//! put there since. The setting `deep_delete = false` demands the same of all requests, of MOVE and COPY too.

use super::locked_writer::LockScope;
use super::put_request::{field_text, read_preconditions};
use super::{DirectoryService, problem_of};
use crate::directory::{DirectoryError, Loss, PrereadDigest, TreePath, TreeWriter};
use crate::header::{Preconditions, boolean};
use crate::proxy::Problem;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;

/// `Millpond-Only-Empty: ?1` demands that no collection with members is lost.
const ONLY_EMPTY: HeaderName = HeaderName::from_static("millpond-only-empty");

impl DirectoryService {
    /// The answer to DELETE.
    pub(super) async fn delete(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let conditions = read_preconditions(&head.headers)?;
        self.require_precondition(&conditions)?;
        let shallow = head.headers.get("depth").is_some_and(|depth| depth.as_bytes() == b"0");
        let loss = match shallow {
            true => Loss::Single,
            false => self.allowed_loss(head)?,
        };
        let removed = self.remove(path, loss, conditions).await;
        removed.map_err(|error| problem_of(&error))?;
        Ok(HttpResponse::NoContent().finish())
    }

    async fn remove(&self, path: &TreePath, loss: Loss, conditions: Preconditions) -> Result<(), DirectoryError> {
        let locked = match self.is_collection(path).await? {
            true => LockScope::Mounts(vec![path.clone()]),
            false => LockScope::Paths(vec![path.clone()]),
        };
        let of = path.clone();
        let work = move |writer: &TreeWriter, preread: &PrereadDigest, conditions: &Preconditions, (): &mut ()| {
            writer.remove(&of, loss, conditions, preread)
        };
        let locked_writer = self.locked_writer()?;
        let trash = locked_writer.write(path, &locked, conditions, (), work).await?;
        locked_writer.discard(trash);
        Ok(())
    }

    /// The loss of a collection that the request and the settings allow.
    pub(super) fn allowed_loss(&self, head: &RequestHead) -> Result<Loss, Problem> {
        let demanded = match field_text(&head.headers, ONLY_EMPTY) {
            None => false,
            Some(field) => boolean(&field).ok_or_else(|| {
                let what = format!("{ONLY_EMPTY} is ?1 or ?0");
                Problem::of_origin(StatusCode::BAD_REQUEST, what)
            })?,
        };
        Ok(match demanded || !self.settings.deep_delete {
            true => Loss::Single,
            false => Loss::Everything,
        })
    }
}
