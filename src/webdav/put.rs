//! PUT: a body is received, checked against its claims, and placed under the preconditions of the request.
//!
//! Order: headers are read and everything that can be refused without the body is refused, so a client that waits
//! (`Expect: 100-continue`) sends none; the body is written to staging in batches, and hashed on the way; its length
//! and digests are compared; then it takes its place under the path's lock. No lock is held while a client sends.

use super::body_batches::{BodyBatches, DigestCheck};
use super::locked_writer::LockScope;
use super::put_request::{PutRequest, placed_response};
use super::{DirectoryService, problem_of};
use crate::directory::{IncomingBody, PrereadDigest, ReceivedBody, Tag, TreePath, TreeWriter, WriteOutcome};
use crate::header::Preconditions;
use crate::proxy::Problem;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use std::sync::Arc;

impl DirectoryService {
    /// Reads a PUT, and refuses it where its body would be refused too.
    pub(super) async fn may_put(&self, path: &TreePath, head: &RequestHead) -> Result<PutRequest, Problem> {
        let put = PutRequest::read(&head.headers)?;
        if path.has_slash() {
            let what = "a file's path does not end in a slash; MKCOL makes a collection";
            return Err(Problem::of_origin(StatusCode::CONFLICT, what));
        }
        self.require_precondition(&put.conditions)?;
        self.check_size(put.length.unwrap_or_default())?;
        let (writer, of, conditions) = (self.writer()?, path.clone(), put.conditions.clone());
        self.run_at(path, move || writer.may_put(&of, &conditions))
            .await
            .map_err(|error| problem_of(&error))?;
        Ok(put)
    }

    /// The answer to PUT.
    pub(super) async fn put(
        &self,
        path: &TreePath,
        head: &RequestHead,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let put = self.may_put(path, head).await?;
        if super::resumable_upload::begins_upload(&head.headers) {
            return self.begin_upload(path, head, put, payload).await;
        }
        let announced = super::resumable_upload::announced_length(&head.headers, put.length)?;
        let writer = self.writer()?;
        let (collection, length) = (path.parent(), put.length);
        let begun = Arc::clone(&writer);
        let incoming = self
            .run_at(path, move || begun.staging.begin(&collection, length))
            .await;
        let incoming = incoming.map_err(|error| problem_of(&error))?;
        let (received, came) = self.receive(path, &writer, incoming, &put, payload).await?;
        if announced.is_some_and(|announced| announced != came) {
            return Err(super::resumable_upload::length_contradicted(came));
        }
        let done = self.place_body(path, received, put.conditions).await?;
        let response = placed_response(done, self.clock.now(), put.modified.is_some());
        Ok(match super::resumable_upload::is_complete_upload(&head.headers) {
            true => super::resumable_upload::with_upload_fields(response, came),
            false => response,
        })
    }

    /// Places a received body under the lock of its path.
    pub(super) async fn place_body(
        &self,
        path: &TreePath,
        received: ReceivedBody,
        conditions: Preconditions,
    ) -> Result<(WriteOutcome, Tag), Problem> {
        let (of, locked) = (path.clone(), LockScope::Paths(vec![path.clone()]));
        let tag = Tag::Strong(received.digest);
        let work =
            move |writer: &TreeWriter,
                  preread: &PrereadDigest,
                  conditions: &Preconditions,
                  received: &mut ReceivedBody| { writer.put(&of, received, conditions, preread) };
        let locked_writer = self.locked_writer().map_err(|error| problem_of(&error))?;
        let done = locked_writer.write(path, &locked, conditions, received, work).await;
        done.map(|done| (done, tag)).map_err(|error| problem_of(&error))
    }

    /// Receives the body, and tells its length.
    async fn receive(
        &self,
        path: &TreePath,
        writer: &Arc<TreeWriter>,
        incoming: IncomingBody,
        put: &PutRequest,
        payload: Payload,
    ) -> Result<(ReceivedBody, u64), Problem> {
        // The body of a plain PUT is the whole file, so both fields are claims about the same bytes.
        let claims = [&put.claims[..], &put.content_claims].concat();
        let mut state = (incoming, DigestCheck::new(&claims));
        let mut body = BodyBatches::new(payload, put.length);
        loop {
            let batch = match body.next(|total| self.check_size(total)).await {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(problem) => {
                    // A refusal is answered when nothing is left of the body.
                    let release = move || {
                        state.0.release();
                        Ok(())
                    };
                    let _ = self.run_at(path, release).await;
                    return Err(problem);
                }
            };
            // Both go to the thread and come back: nothing is shared while the client sends.
            let (mut incoming, mut check) = state;
            let writer = Arc::clone(writer);
            let written = self.run_at(path, move || {
                for piece in batch {
                    if let Err(error) = incoming.write(&writer.staging, &piece) {
                        incoming.release();
                        return Err(error);
                    }
                    check.update(&piece);
                }
                Ok((incoming, check))
            });
            state = written.await.map_err(|error| problem_of(&error))?;
        }
        let (incoming, check) = state;
        let (writer, modified) = (Arc::clone(writer), put.modified);
        let received = self
            .run_at(path, move || {
                let received = incoming.finish(&writer.staging, modified)?;
                if let Err(error) = check.verify(&received) {
                    received.release();
                    return Err(error);
                }
                // Asked here: the file may lie on a mount that hangs.
                let length = received.len();
                Ok((received, length))
            })
            .await;
        received.map_err(|error| problem_of(&error))
    }

    /// Refuses a change without a precondition, where the settings demand one (RFC 6585 §3).
    pub(super) fn require_precondition(&self, conditions: &Preconditions) -> Result<(), Problem> {
        match self.settings.demand_conditions && conditions.is_empty() {
            true => {
                let what = "this server demands a condition: If-Match with the tag of what is replaced, or If-None-Match: * for what is new";
                Err(Problem::of_origin(StatusCode::PRECONDITION_REQUIRED, what))
            }
            false => Ok(()),
        }
    }

    /// Refuses a file that is larger than the settings allow.
    pub(super) fn check_size(&self, bytes: u64) -> Result<(), Problem> {
        match self.settings.largest_upload {
            Some(most) if bytes > most => {
                let what = format!("the file is larger than the {most} bytes that may be put here (largest_upload)");
                Err(Problem::of_origin(StatusCode::PAYLOAD_TOO_LARGE, what))
            }
            _ => Ok(()),
        }
    }
}
