//! Resumable uploads over HTTP (draft-ietf-httpbis-resumable-upload): PUT in several requests.
//!
//! ```text
//! PUT /film.mkv          Upload-Complete: ?0      → 201, Location: /-/uploads/ID; what came with it counts
//! HEAD or GET /-/uploads/ID                       → 204, Upload-Offset
//! PATCH /-/uploads/ID    Upload-Offset: N, ?0     → 204; ?1 → what the PUT would have been answered
//! DELETE /-/uploads/ID                            → 204
//! ```
//!
//! Every request that touches an upload holds its lease, and takes it over from one that still appends, whose client
//! must have failed. An offset that is told has been synced before. The last request hashes and, where needed, copies
//! the body without a lock, then places it under the path's lock.
//!
//! Interim responses (104) are not sent, since the HTTP library cannot: a client that wants to resume begins with
//! `?0`, and is told the URL by the 201.

use super::body_batches::{BodyBatches, DigestCheck};
use super::locked_writer::LockScope;
use super::put_request::{PutRequest, field_text, placed_response, read_claims};
use super::{DirectoryService, problem_of};
use crate::access::{Caller, Right};
use crate::directory::{
    DirectoryError, PrereadDigest, Tag, TreePath, TreeWriter, Upload, UploadLease, UploadRecord, Uploads,
};
use crate::header::{Claim, Preconditions, boolean, count};
use crate::proxy::Problem;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use std::sync::Arc;

/// The part of an upload's URL that stands after `/-/`.
pub(super) const UPLOADS_PREFIX: &str = "uploads/";

const MEDIA: &str = "application/partial-upload";

const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const LIMIT: HeaderName = HeaderName::from_static("upload-limit");

/// Problem types of the draft.
const MISMATCH: &str = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
const OVER: &str = "https://iana.org/assignments/http-problem-types#completed-upload";
const INCONSISTENT: &str = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";

/// Whether a PUT begins an upload that comes in several requests.
pub(super) fn begins_upload(headers: &HeaderMap) -> bool {
    field_text(headers, COMPLETE).and_then(|field| boolean(&field)) == Some(false)
}

/// Whether a PUT is an upload that comes complete in this one request.
pub(super) fn is_complete_upload(headers: &HeaderMap) -> bool {
    field_text(headers, COMPLETE).and_then(|field| boolean(&field)) == Some(true)
}

/// The length that a request announces for the whole upload. Lengths that contradict each other are refused.
pub(super) fn announced_length(headers: &HeaderMap, content: Option<u64>) -> Result<Option<u64>, Problem> {
    let told = field_text(headers, LENGTH).and_then(|field| count(&field));
    match (told, content) {
        (Some(told), Some(content)) if content > told || (is_complete_upload(headers) && content != told) => {
            let what = format!("the upload is announced as {told} bytes, and {content} come");
            Err(Problem::of_origin(StatusCode::BAD_REQUEST, what).of_type(INCONSISTENT))
        }
        _ => Ok(told),
    }
}

/// The refusal of a body that is longer or shorter than was announced.
pub(super) fn length_contradicted(came: u64) -> Problem {
    let what = format!("{came} bytes came, which is not what Upload-Length has announced");
    Problem::of_origin(StatusCode::BAD_REQUEST, what).of_type(INCONSISTENT)
}

/// The same response with the fields of the draft: the upload is complete.
pub(super) fn with_upload_fields(mut response: HttpResponse, length: u64) -> HttpResponse {
    let headers = response.headers_mut();
    headers.insert(COMPLETE, header::HeaderValue::from_static("?1"));
    headers.insert(OFFSET, header::HeaderValue::from(length));
    response
}

/// An upload whose URL its client has not been told yet. Dropped before that, it is cancelled: nobody could resume
/// it.
struct UnannouncedUpload {
    uploads: Arc<Uploads>,
    upload: Arc<Upload>,
    threads: tokio::runtime::Handle,
    announced: bool,
}

impl Drop for UnannouncedUpload {
    fn drop(&mut self) {
        if self.announced {
            return;
        }
        let (uploads, upload, threads) = (
            Arc::clone(&self.uploads),
            Arc::clone(&self.upload),
            self.threads.clone(),
        );
        self.threads.spawn(async move {
            if let Some(mut lease) = uploads.lease(&upload).await {
                let _ = threads.spawn_blocking(move || uploads.cancel(&mut lease)).await;
            }
        });
    }
}

impl DirectoryService {
    /// The value of `Upload-Limit`, which a client may ask for (OPTIONS) before it begins.
    pub(super) fn upload_limits(&self) -> Option<String> {
        let uploads = self.uploads.as_ref()?;
        let size = self.settings.largest_upload.map(|most| format!("max-size={most}, "));
        Some(format!(
            "{}max-age={}",
            size.unwrap_or_default(),
            uploads.lifetime().as_secs()
        ))
    }

    /// The answer to a PUT with `Upload-Complete: ?0`.
    pub(super) async fn begin_upload(
        &self,
        path: &TreePath,
        head: &RequestHead,
        put: PutRequest,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let length = announced_length(&head.headers, put.length)?;
        self.check_size(length.unwrap_or_default())?;
        let record = UploadRecord {
            path: path.to_string(),
            conditions: put.conditions,
            claims: put.claims,
            modified: put.modified,
            length,
            offset: 0,
            complete: false,
            placing: None,
            touched: 0,
        };
        let uploads = self.uploads()?;
        let (begun, threads) = (Arc::clone(&uploads), self.threads.clone());
        // The client may go away while the disk still writes the record: what the thread returns is dropped then.
        let mut unannounced = self
            .run(move || {
                Ok(UnannouncedUpload {
                    upload: begun.begin(record)?,
                    uploads: begun,
                    threads,
                    announced: false,
                })
            })
            .await
            .map_err(|error| problem_of(&error))?;
        let upload = Arc::clone(&unannounced.upload);
        let lease = uploads
            .lease(&upload)
            .await
            .ok_or_else(|| problem_of(&DirectoryError::Absent))?;
        let content = AppendedContent {
            length: put.length,
            claims: put.content_claims,
        };
        let lease = self.receive_append(&uploads, lease, payload, content).await?;
        unannounced.announced = true;
        let mut response = HttpResponse::Created();
        response
            .insert_header((header::LOCATION, format!("/-/{UPLOADS_PREFIX}{}", upload.id)))
            .insert_header((COMPLETE, "?0"))
            .insert_header((OFFSET, lease.offset().to_string()))
            .insert_header((header::CACHE_CONTROL, "no-store"));
        response.insert_header((LIMIT, self.upload_limits().unwrap_or_default()));
        Ok(response.finish())
    }

    /// The answer to a request for an upload's URL.
    pub(super) async fn answer_upload(
        &self,
        caller: &Caller,
        id: &str,
        head: &RequestHead,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let upload = self.upload_of(id, caller)?;
        match head.method.as_str() {
            "HEAD" | "GET" => {
                let uploads = self.uploads()?;
                let lease = self.record_progress(&uploads, self.lease(&upload).await?).await?;
                let mut response = HttpResponse::NoContent();
                response
                    .insert_header((OFFSET, lease.offset().to_string()))
                    .insert_header((COMPLETE, if lease.record().complete { "?1" } else { "?0" }))
                    .insert_header((LIMIT, self.upload_limits().unwrap_or_default()))
                    .insert_header((header::CACHE_CONTROL, "no-store"));
                if let Some(length) = lease.record().length {
                    response.insert_header((LENGTH, length.to_string()));
                }
                Ok(response.finish())
            }
            "PATCH" => self.append_to_upload(&upload, head, payload).await,
            "DELETE" => {
                self.cancel(self.uploads()?, &upload).await?;
                Ok(HttpResponse::NoContent().finish())
            }
            method => {
                let what = format!(
                    "{method} is not for uploads; HEAD and GET tell how much has come, PATCH appends, DELETE cancels"
                );
                let problem = Problem::of_origin(StatusCode::METHOD_NOT_ALLOWED, what);
                Err(problem.allowing_only("GET, HEAD, PATCH, DELETE"))
            }
        }
    }

    /// Whether a client that waits may send the bytes that it wants to append.
    pub(super) async fn may_append(&self, caller: &Caller, id: &str, head: &RequestHead) -> Result<(), Problem> {
        let upload = self.upload_of(id, caller)?;
        match head.method.as_str() {
            "PATCH" => AppendRequest::read(&head.headers)?.begin(&mut self.lease(&upload).await?),
            _ => Ok(()),
        }
    }

    /// The upload of that id, for a caller who may write to its file's path.
    fn upload_of(&self, id: &str, caller: &Caller) -> Result<Arc<Upload>, Problem> {
        let upload = self.uploads.as_ref().and_then(|uploads| uploads.get(id));
        match upload {
            Some(upload) => caller
                .allow(Right::Write, &self.server_path(&upload.path))
                .map(|()| upload),
            None => {
                // 404 rather than 403, so that callers without the right cannot probe ids.
                Err(no_such_upload())
            }
        }
    }

    fn uploads(&self) -> Result<Arc<Uploads>, Problem> {
        self.uploads.clone().ok_or_else(no_such_upload)
    }

    async fn lease(&self, upload: &Upload) -> Result<UploadLease, Problem> {
        self.uploads()?.lease(upload).await.ok_or_else(no_such_upload)
    }

    async fn cancel(&self, uploads: Arc<Uploads>, upload: &Upload) -> Result<(), Problem> {
        let mut lease = self.lease(upload).await?;
        let cancel = move || {
            uploads.cancel(&mut lease);
            Ok(())
        };
        self.run(cancel).await.map_err(|error| problem_of(&error))
    }

    async fn append_to_upload(
        &self,
        upload: &Upload,
        head: &RequestHead,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let patch = AppendRequest::read(&head.headers)?;
        let (uploads, mut lease) = (self.uploads()?, self.lease(upload).await?);
        patch.begin(&mut lease)?;
        self.check_size(lease.record().length.unwrap_or_default())?;
        let content = AppendedContent {
            length: patch.content,
            claims: patch.claims,
        };
        let lease = match self.receive_append(&uploads, lease, payload, content).await {
            Ok(lease) => lease,
            // The draft has an upload invalid that gets more bytes than were announced.
            Err(problem) if problem.is_of_type(INCONSISTENT) => {
                self.cancel(uploads, upload).await?;
                return Err(problem);
            }
            Err(problem) => return Err(problem),
        };
        if !patch.complete {
            let mut response = HttpResponse::NoContent();
            return Ok(response
                .insert_header((COMPLETE, "?0"))
                .insert_header((OFFSET, lease.offset().to_string()))
                .finish());
        }
        if lease.record().length.is_some_and(|length| length != lease.offset()) {
            return Err(inconsistent_length(&lease));
        }
        let all = lease.offset();
        match self.complete_upload(&uploads, upload, lease).await {
            // The answer, whatever its status, is about the whole file: resuming would not change it.
            Ok(response) => Ok(with_upload_fields(response, all)),
            // The bytes are kept: the client can mend the cause, and send the last request again without a body.
            Err(problem) => Err(problem.with_field(COMPLETE, "?0".to_owned())),
        }
    }

    /// Appends the body of a request until another request takes over the lease; then records the offset, whatever
    /// has come.
    async fn receive_append(
        &self,
        uploads: &Arc<Uploads>,
        mut lease: UploadLease,
        payload: Payload,
        content: AppendedContent,
    ) -> Result<UploadLease, Problem> {
        let mut body = BodyBatches::new(payload, content.length);
        let mut check = DigestCheck::of_content(&content.claims);
        let mut takeover = lease.takeover();
        let (begun, most) = (lease.offset(), lease.record().length);
        let allows = |came: u64| match most {
            Some(most) if begun + came > most => Err(Problem::of_origin(
                StatusCode::BAD_REQUEST,
                format!("more came than the {most} bytes that were announced"),
            )
            .of_type(INCONSISTENT)),
            _ => self.check_size(begun + came),
        };
        let outcome = loop {
            let (batch, outcome) = tokio::select! {
                next = body.next(allows) => match next {
                    Ok(Some(batch)) => (batch, None),
                    Ok(None) => break Ok(()),
                    Err(problem) => break Err(problem),
                },
                _ = takeover.changed() => (body.rest(), Some(taken_over())),
            };
            let with = Arc::clone(uploads);
            let written = self.run(move || {
                for piece in batch {
                    with.append(&mut lease, &piece)?;
                    check.update(&piece);
                }
                Ok((lease, check))
            });
            (lease, check) = written.await.map_err(|error| problem_of(&error))?;
            if let Some(problem) = outcome {
                break Err(problem);
            }
        };
        // A body that came whole must match its `Content-Digest`. One that broke off counts as far as it came, and is
        // held to the `Repr-Digest` of the whole in the end.
        if outcome.is_ok()
            && let Err(error) = check.verify_content()
        {
            let with = Arc::clone(uploads);
            let cut = self.run(move || with.truncate_to(&mut lease, begun)).await;
            return Err(match cut {
                Ok(()) => problem_of(&error).with_field(OFFSET, begun.to_string()),
                Err(error) => problem_of(&error),
            });
        }
        let lease = self.record_progress(uploads, lease).await?;
        outcome.map(|()| lease)
    }

    async fn record_progress(&self, uploads: &Arc<Uploads>, mut lease: UploadLease) -> Result<UploadLease, Problem> {
        let uploads = Arc::clone(uploads);
        let record = move || {
            uploads.record(&mut lease)?;
            uploads.close_if_many(&mut lease);
            Ok(lease)
        };
        self.run(record).await.map_err(|error| problem_of(&error))
    }

    /// Places a complete upload, under the preconditions of its first request. `Err` means that the upload is as it
    /// was and the request can be sent again; a final refusal is `Ok` with its response.
    async fn complete_upload(
        &self,
        uploads: &Arc<Uploads>,
        upload: &Upload,
        mut lease: UploadLease,
    ) -> Result<HttpResponse, Problem> {
        let (of, locked) = (upload.path.clone(), LockScope::Paths(vec![upload.path.clone()]));
        let (conditions, timed) = (lease.record().conditions.clone(), lease.record().modified.is_some());
        // The body is hashed, and copied to its file system where it has to be, before any lock is taken.
        let (with, writer, named) = (Arc::clone(uploads), self.writer()?, conditions.clone());
        let path = upload.path.clone();
        let finish = move || {
            match writer.may_put(&path, &named) {
                // A precondition that is false now is final for this upload, so the body is finished all the same and
                // discarded with the answer.
                Ok(()) | Err(DirectoryError::PreconditionFailed) => {}
                Err(error) => return Err(error),
            }
            let (received, record) = with.finish(&mut lease)?;
            let check = DigestCheck::of(&record.claims, &received).and_then(|check| check.verify(&received));
            Ok((lease, received, check))
        };
        let (lease, received, check) = self.run_at(&of, finish).await.map_err(|error| problem_of(&error))?;
        let tag = Tag::Strong(received.digest);
        let (with, path) = (Arc::clone(uploads), of.clone());
        let verdict = Arc::new(check);
        let work = move |writer: &TreeWriter,
                         preread: &PrereadDigest,
                         conditions: &Preconditions,
                         state: &mut (UploadLease, _)| {
            let (lease, received) = state;
            let put = match &*verdict {
                Ok(()) => writer.put(&path, received, conditions, preread),
                Err(DirectoryError::WrongDigest(which)) => Err(DirectoryError::WrongDigest(which)),
                Err(_) => Err(DirectoryError::ChangedMeanwhile),
            };
            let recorded = match &put {
                Err(DirectoryError::TagUnknown | DirectoryError::NeedsRestaging) => return put.map(Ok),
                Ok(_) | Err(DirectoryError::PreconditionFailed | DirectoryError::WrongDigest(_)) => {
                    with.mark_placed(lease)
                }
                Err(_) => with.mark_not_placed(lease),
            };
            if let Err(error) = recorded {
                tracing::warn!(%path, %error, "could not record what became of an upload");
            }
            match put {
                Ok(done) => Ok(Ok(done)),
                Err(error @ (DirectoryError::PreconditionFailed | DirectoryError::WrongDigest(_))) => Ok(Err(error)),
                Err(error) => Err(error),
            }
        };
        let locked_writer = self.locked_writer().map_err(|error| problem_of(&error))?;
        let put = locked_writer
            .write(&of, &locked, conditions, (lease, received), work)
            .await;
        Ok(match put.map_err(|error| problem_of(&error))? {
            Ok(done) => placed_response((done, tag), self.clock.now(), timed),
            Err(error) => problem_of(&error).response(),
        })
    }
}

/// The header fields that describe the bytes of one request.
struct AppendedContent {
    length: Option<u64>,
    claims: Vec<Claim>,
}

/// The header of a PATCH, read.
struct AppendRequest {
    offset: u64,
    complete: bool,
    length: Option<u64>,
    content: Option<u64>,
    claims: Vec<Claim>,
}

impl AppendRequest {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let media = field_text(headers, header::CONTENT_TYPE).unwrap_or_default();
        if !media
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .eq_ignore_ascii_case(MEDIA)
        {
            let what = format!("what is appended to an upload is {MEDIA}");
            return Err(Problem::of_origin(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let missing = |name: &HeaderName| {
            let what = format!("{name} is missing, or is not what the draft says it is");
            Problem::of_origin(StatusCode::BAD_REQUEST, what)
        };
        Ok(Self {
            offset: field_text(headers, OFFSET)
                .and_then(|field| count(&field))
                .ok_or_else(|| missing(&OFFSET))?,
            complete: field_text(headers, COMPLETE)
                .and_then(|field| boolean(&field))
                .ok_or_else(|| missing(&COMPLETE))?,
            length: field_text(headers, LENGTH).and_then(|field| count(&field)),
            claims: read_claims(headers, "content-digest")?,
            content: field_text(headers, header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok()),
        })
    }

    /// Whether the request continues at the upload's offset. Notes the length, if the request tells one.
    fn begin(&self, lease: &mut UploadLease) -> Result<(), Problem> {
        if lease.record().complete {
            let what = "the upload is complete already";
            return Err(Problem::of_origin(StatusCode::BAD_REQUEST, what).of_type(OVER));
        }
        if lease.offset() != self.offset {
            let what = format!("the upload goes on at {}, not at {}", lease.offset(), self.offset);
            return Err(Problem::of_origin(StatusCode::CONFLICT, what)
                .of_type(MISMATCH)
                .with_field(COMPLETE, "?0".to_owned())
                .with_member("expected-offset", lease.offset().into())
                .with_member("provided-offset", self.offset.into())
                .with_field(OFFSET, lease.offset().to_string()));
        }
        let end = self
            .content
            .filter(|_| self.complete)
            .map(|content| self.offset.saturating_add(content));
        let told = [lease.record().length, self.length, end];
        let mut told = told.into_iter().flatten();
        if let Some(length) = told.next() {
            if told.any(|other| other != length) || length < self.offset {
                return Err(inconsistent_length(lease));
            }
            lease.set_length(length);
        }
        Ok(())
    }
}

fn inconsistent_length(lease: &UploadLease) -> Problem {
    let what = match lease.record().length {
        Some(length) => format!("the upload was announced as {length} bytes, and this says otherwise"),
        None => "the request tells two lengths".to_owned(),
    };
    Problem::of_origin(StatusCode::BAD_REQUEST, what).of_type(INCONSISTENT)
}

fn taken_over() -> Problem {
    let what = "another request has taken over this upload";
    Problem::of_origin(StatusCode::CONFLICT, what)
}

fn no_such_upload() -> Problem {
    let what = "there is no such upload; it may have been cancelled, or not been resumed in time";
    Problem::of_origin(StatusCode::NOT_FOUND, what)
}
