//! DELETE, MKCOL, MOVE and COPY (RFC 4918): one change each, under the conditions of its request.

use super::put::{conditions, placed, text};
use super::{Origin, misnamed, refused};
use crate::header::Preconditions;
use crate::origin::{Done, OriginError, Tag, TreePath};
use crate::serve::problem::Problem;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use std::sync::Arc;

impl Origin {
    /// The answer to DELETE.
    pub(super) async fn delete(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let conditions = conditions(&head.headers)?;
        self.demand(&conditions)?;
        // Only who says so in so many words means all that is in it; most clients say nothing.
        let says_so = |depth: &header::HeaderValue| depth.as_bytes().eq_ignore_ascii_case(b"infinity");
        let deep = self.settings.deep_delete || head.headers.get("depth").is_some_and(says_so);
        let changes = self.changes()?;
        let held = match self.is_collection(path).await {
            true => self.locks.tree().await,
            false => self.locks.paths(&[path]).await,
        };
        let (path, with) = (path.clone(), Arc::clone(&changes));
        let work = move || {
            let _held = held;
            with.remove(&path, deep, &conditions)
        };
        let gone = self.blocking(work).await.map_err(|error| refused(&error))?;
        if let Some(gone) = gone {
            // It is gone for everybody; nobody needs to wait until its bytes are.
            self.threads.spawn_blocking(move || changes.staging.discard(&gone));
        }
        Ok(HttpResponse::NoContent().finish())
    }

    /// The answer to MKCOL.
    pub(super) async fn make_collection(
        &self,
        path: &TreePath,
        head: &RequestHead,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let conditions = conditions(&head.headers)?;
        if !super::whole(payload, 0).await.is_ok_and(|body| body.is_empty()) {
            let what = "a collection is made without a body";
            return Err(Problem::of_origin(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let (changes, held) = (self.changes()?, self.locks.paths(&[path]).await);
        let path = path.clone();
        let work = move || {
            let _held = held;
            changes.make_collection(&path, &conditions)
        };
        match self.blocking(work).await {
            Ok(()) => Ok(HttpResponse::Created().finish()),
            // RFC 4918 §9.3.1.
            Err(error @ OriginError::Exists) => {
                let problem = Problem::of_origin(StatusCode::METHOD_NOT_ALLOWED, error.to_string());
                Err(problem.allowing_only(self.methods()))
            }
            Err(error) => Err(refused(&error)),
        }
    }

    /// The answer to MOVE.
    pub(super) async fn relocate(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let (to, overwrite, conditions) = self.transfer(head)?;
        let changes = self.changes()?;
        let held = match self.is_collection(path).await {
            true => self.locks.tree().await,
            false if to.has_slash() => return Err(no_collection()),
            false => self.locks.paths(&[path, &to]).await,
        };
        let path = path.clone();
        let work = move || {
            let _held = held;
            changes.rename(&path, &to, overwrite, &conditions)
        };
        let done = self.blocking(work).await.map_err(|error| refused(&error))?;
        Ok(moved(done))
    }

    /// The answer to COPY.
    pub(super) async fn copy(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let (to, overwrite, conditions) = self.transfer(head)?;
        if path.bare() == to.bare() {
            return Err(refused(&OriginError::Within));
        }
        if self.is_collection(path).await {
            let what = "collections are not copied here; make the collection, and copy what is in it";
            return Err(Problem::of_origin(StatusCode::FORBIDDEN, what));
        }
        if to.has_slash() {
            return Err(no_collection());
        }
        let (changes, from, target) = (self.changes()?, path.clone(), to.clone());
        let copied = self.blocking(move || changes.copy(&from, &target, &conditions)).await;
        let arrived = copied.map_err(|error| refused(&error))?;
        let at_target = match overwrite {
            true => Preconditions::default(),
            false => Preconditions::only_new(),
        };
        let (done, tag): (Done, Tag) = self.place(&to, arrived, at_target).await?;
        Ok(placed((done, tag), false))
    }

    /// Where a MOVE or COPY goes, whether it may replace what is there, and its conditions.
    fn transfer(&self, head: &RequestHead) -> Result<(TreePath, bool, Preconditions), Problem> {
        let conditions = conditions(&head.headers)?;
        let overwrite = match text(&head.headers, HeaderName::from_static("overwrite"))
            .as_deref()
            .map(str::trim)
        {
            None | Some("T" | "t") => true,
            Some("F" | "f") => false,
            Some(_) => return Err(Problem::of_origin(StatusCode::BAD_REQUEST, "Overwrite is T or F")),
        };
        // Overwrite: F is a condition too, of what would be lost at the other end.
        if overwrite {
            self.demand(&conditions)?;
        }
        Ok((destination(head)?, overwrite, conditions))
    }

    async fn is_collection(&self, path: &TreePath) -> bool {
        let (tree, path) = (Arc::clone(&self.tree), path.clone());
        let look = move || tree.find(&path);
        matches!(self.blocking(look).await, Ok(crate::origin::Found::Collection(..)))
    }
}

/// A file was to get the path of a collection.
fn no_collection() -> Problem {
    let what = "a file's path does not end in a slash; name the file itself in the Destination";
    Problem::of_origin(StatusCode::CONFLICT, what)
}

fn moved(done: Done) -> HttpResponse {
    match done {
        Done::Made(_) => HttpResponse::Created().finish(),
        Done::Replaced(_) => HttpResponse::NoContent().finish(),
    }
}

/// The path of a Destination (RFC 4918 §10.3): a URL of ours or an absolute path.
pub(super) fn destination(head: &RequestHead) -> Result<TreePath, Problem> {
    let bad = |what: &str| Problem::of_origin(StatusCode::BAD_REQUEST, what);
    let field = text(&head.headers, HeaderName::from_static("destination"))
        .ok_or_else(|| bad("there is no Destination; it says where to"))?;
    let field = field.trim();
    let raw = match field.split_once("://") {
        // Read as it came: what resolves dots before us would hide them.
        Some((_, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            let host = text(&head.headers, header::HOST).or_else(|| Some(head.uri.authority()?.to_string()));
            if !host.is_some_and(|host| host.trim().eq_ignore_ascii_case(authority)) {
                let what = format!("the Destination is on {authority}, another server than this request's");
                return Err(Problem::of_origin(StatusCode::BAD_GATEWAY, what));
            }
            path
        }
        None if field.starts_with('/') && !field.starts_with("//") => field,
        None => return Err(bad("the Destination is neither a URL nor an absolute path")),
    };
    if raw.contains(['?', '#']) {
        return Err(bad(
            "the Destination has a query or a fragment; write %3F or %23 for the signs themselves",
        ));
    }
    TreePath::parse(raw).map_err(|error| misnamed(error, head))
}
