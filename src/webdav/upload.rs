//! Resumable uploads over HTTP (draft-ietf-httpbis-resumable-upload).
//!
//! ```text
//! PUT /film.mkv          Upload-Complete: ?0      → 201, Location: /-/uploads/ID; what came with it counts
//! HEAD or GET /-/uploads/ID                       → 204, Upload-Offset
//! PATCH /-/uploads/ID    Upload-Offset: N, ?0     → 204; ?1 → what the PUT would have been answered
//! DELETE /-/uploads/ID                            → 204
//! ```
//!
//! Interim responses (104) are not sent: a client that wants to resume begins with `?0`, which tells it the place. A
//! request takes over from one that still appends, whose client must have failed. An offset that is told is on the disk.

use super::put::{Batches, Put, Sums, claims, placed, text};
use super::writer::LockScope;
use super::{Origin, refused};
use crate::directory::{
    DirectoryError, PrereadDigest, Right, Tag, TreePath, TreeWriter, Upload, UploadLease, UploadRecord, Uploads,
};
use crate::header::{Claim, Preconditions, boolean, count};
use crate::serve::Problem;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use std::sync::Arc;

/// Where uploads are, beneath what is ours.
pub(super) const PLACE: &str = "uploads/";

const MEDIA: &str = "application/partial-upload";

const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const LIMIT: HeaderName = HeaderName::from_static("upload-limit");

/// Problem types of the draft.
const MISMATCH: &str = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
const OVER: &str = "https://iana.org/assignments/http-problem-types#completed-upload";
const INCONSISTENT: &str = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";

/// Whether a PUT is the beginning of an upload that comes in several requests.
pub(super) fn begins(headers: &HeaderMap) -> bool {
    text(headers, COMPLETE).and_then(|field| boolean(&field)) == Some(false)
}

/// Whether a PUT is an upload that comes whole, in this one request.
pub(super) fn is_whole(headers: &HeaderMap) -> bool {
    text(headers, COMPLETE).and_then(|field| boolean(&field)) == Some(true)
}

/// The length that a request announces of the whole upload. Lengths that contradict each other are refused.
pub(super) fn announced(headers: &HeaderMap, content: Option<u64>) -> Result<Option<u64>, Problem> {
    let told = text(headers, LENGTH).and_then(|field| count(&field));
    match (told, content) {
        (Some(told), Some(content)) if content > told || (is_whole(headers) && content != told) => {
            let what = format!("the upload is announced as {told} bytes, and {content} come");
            Err(Problem::of_origin(StatusCode::BAD_REQUEST, what).of_type(INCONSISTENT))
        }
        _ => Ok(told),
    }
}

/// More or less has come than was announced.
pub(super) fn contradicted(came: u64) -> Problem {
    let what = format!("{came} bytes came, which is not what Upload-Length has announced");
    Problem::of_origin(StatusCode::BAD_REQUEST, what).of_type(INCONSISTENT)
}

/// The same answer for a client that speaks of uploads: all of it has come.
pub(super) fn wholly(mut response: HttpResponse, length: u64) -> HttpResponse {
    let headers = response.headers_mut();
    headers.insert(COMPLETE, header::HeaderValue::from_static("?1"));
    headers.insert(OFFSET, header::HeaderValue::from(length));
    response
}

/// An upload that nobody has been told the place of: its bytes go, however its request ends.
struct Untold {
    uploads: Arc<Uploads>,
    upload: Arc<Upload>,
    threads: tokio::runtime::Handle,
    told: bool,
}

impl Drop for Untold {
    fn drop(&mut self) {
        if self.told {
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

impl Origin {
    /// What an upload may be, for who asks before it begins one.
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
        put: Put,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let length = announced(&head.headers, put.length)?;
        self.fits(length.unwrap_or_default())?;
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
        let begun = Arc::clone(&uploads);
        let upload = self
            .blocking(move || begun.begin(record))
            .await
            .map_err(|error| refused(&error))?;
        let mut untold = Untold {
            uploads: Arc::clone(&uploads),
            upload: Arc::clone(&upload),
            threads: self.threads.clone(),
            told: false,
        };
        let lease = uploads
            .lease(&upload)
            .await
            .ok_or_else(|| refused(&DirectoryError::Absent))?;
        let content = Content {
            length: put.length,
            claims: put.content_claims,
        };
        let lease = self.append(&uploads, lease, payload, content).await?;
        untold.told = true;
        let mut response = HttpResponse::Created();
        response
            .insert_header((header::LOCATION, format!("/-/{PLACE}{}", upload.id)))
            .insert_header((COMPLETE, "?0"))
            .insert_header((OFFSET, lease.offset().to_string()))
            .insert_header((header::CACHE_CONTROL, "no-store"));
        response.insert_header((LIMIT, self.upload_limits().unwrap_or_default()));
        Ok(response.finish())
    }

    /// The answer to a request to an upload.
    pub(super) async fn at_upload(
        &self,
        id: &str,
        head: &RequestHead,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let upload = self.upload_of(id, head)?;
        match head.method.as_str() {
            "HEAD" | "GET" => {
                let uploads = self.uploads()?;
                let lease = self.recorded(&uploads, self.lease(&upload).await?).await?;
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
            "PATCH" => self.resume(&upload, head, payload).await,
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

    /// Whether a client that waits may send what it wants to append.
    pub(super) async fn may_append(&self, id: &str, head: &RequestHead) -> Result<(), Problem> {
        let upload = self.upload_of(id, head)?;
        match head.method.as_str() {
            "PATCH" => Patch::read(&head.headers)?.begin(&mut self.lease(&upload).await?),
            _ => Ok(()),
        }
    }

    /// The upload of that name, for who may write where it goes.
    fn upload_of(&self, id: &str, head: &RequestHead) -> Result<Arc<Upload>, Problem> {
        let upload = self.uploads.as_ref().and_then(|uploads| uploads.get(id));
        match upload {
            Some(upload) => self.admit_to(Right::Write, &upload.path, head).map(|()| upload),
            None => {
                // Who may do nothing learns nothing.
                self.admit_to(Right::Write, &TreePath::root(), head)
                    .map_err(|_| absent())?;
                Err(absent())
            }
        }
    }

    fn uploads(&self) -> Result<Arc<Uploads>, Problem> {
        self.uploads.clone().ok_or_else(absent)
    }

    async fn lease(&self, upload: &Upload) -> Result<UploadLease, Problem> {
        self.uploads()?.lease(upload).await.ok_or_else(absent)
    }

    async fn cancel(&self, uploads: Arc<Uploads>, upload: &Upload) -> Result<(), Problem> {
        let mut lease = self.lease(upload).await?;
        let cancel = move || {
            uploads.cancel(&mut lease);
            Ok(())
        };
        self.blocking(cancel).await.map_err(|error| refused(&error))
    }

    async fn resume(&self, upload: &Upload, head: &RequestHead, payload: Payload) -> Result<HttpResponse, Problem> {
        let patch = Patch::read(&head.headers)?;
        let (uploads, mut lease) = (self.uploads()?, self.lease(upload).await?);
        patch.begin(&mut lease)?;
        self.fits(lease.record().length.unwrap_or_default())?;
        let content = Content {
            length: patch.content,
            claims: patch.claims,
        };
        let lease = match self.append(&uploads, lease, payload, content).await {
            Ok(lease) => lease,
            // An upload that got more than was announced is invalid.
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
            return Err(inconsistent(&lease));
        }
        let all = lease.offset();
        match self.complete(&uploads, upload, lease).await {
            // Whatever it says, it says of the whole: resuming would not change it.
            Ok(response) => Ok(wholly(response, all)),
            // The bytes are still here: what is wrong can be mended, and the last request be sent again without them.
            Err(problem) => Err(problem.with_field(COMPLETE, "?0".to_owned())),
        }
    }

    /// Takes what comes with the request, as long as nobody takes over; then records it, whatever has come.
    async fn append(
        &self,
        uploads: &Arc<Uploads>,
        mut lease: UploadLease,
        payload: Payload,
        content: Content,
    ) -> Result<UploadLease, Problem> {
        let mut body = Batches::new(payload, content.length);
        let mut sums = Sums::of_content(&content.claims);
        let mut takeover = lease.takeover();
        let (begun, most) = (lease.offset(), lease.record().length);
        let allows = |came: u64| match most {
            Some(most) if begun + came > most => Err(Problem::of_origin(
                StatusCode::BAD_REQUEST,
                format!("more came than the {most} bytes that were announced"),
            )
            .of_type(INCONSISTENT)),
            _ => self.fits(begun + came),
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
            let written = self.blocking(move || {
                for piece in batch {
                    with.append(&mut lease, &piece)?;
                    sums.update(&piece);
                }
                Ok((lease, sums))
            });
            (lease, sums) = written.await.map_err(|error| refused(&error))?;
            if let Some(problem) = outcome {
                break Err(problem);
            }
        };
        // What came whole has to be what it is said to be; what broke off is held to the digest of all.
        if outcome.is_ok()
            && let Err(error) = sums.hold_content()
        {
            let with = Arc::clone(uploads);
            let cut = self.blocking(move || with.truncate_to(&mut lease, begun)).await;
            return Err(match cut {
                Ok(()) => refused(&error).with_field(OFFSET, begun.to_string()),
                Err(error) => refused(&error),
            });
        }
        let lease = self.recorded(uploads, lease).await?;
        outcome.map(|()| lease)
    }

    async fn recorded(&self, uploads: &Arc<Uploads>, mut lease: UploadLease) -> Result<UploadLease, Problem> {
        let uploads = Arc::clone(uploads);
        let record = move || {
            uploads.record(&mut lease)?;
            uploads.close_if_many(&mut lease);
            Ok(lease)
        };
        self.blocking(record).await.map_err(|error| refused(&error))
    }

    /// Puts what has come whole in its place, under the conditions that it began with. An error is one after which the
    /// upload is as it was; what is final is an answer.
    async fn complete(
        &self,
        uploads: &Arc<Uploads>,
        upload: &Upload,
        mut lease: UploadLease,
    ) -> Result<HttpResponse, Problem> {
        let (of, locked) = (upload.path.clone(), LockScope::Paths(vec![upload.path.clone()]));
        let (conditions, timed) = (lease.record().conditions.clone(), lease.record().modified.is_some());
        // Summed, and copied where it has to be, before any lock is taken.
        let (with, writer, named) = (Arc::clone(uploads), self.writer()?, conditions.clone());
        let path = upload.path.clone();
        let finish = move || {
            match writer.may_put(&path, &named) {
                // A condition that is false stays false for this upload: its bytes go with the answer.
                Ok(()) | Err(DirectoryError::PreconditionFailed) => {}
                Err(error) => return Err(error),
            }
            let (arrived, record) = with.finish(&mut lease)?;
            let sums = Sums::of(&record.claims, &arrived).and_then(|sums| sums.hold(&arrived));
            Ok((lease, arrived, sums))
        };
        let (lease, arrived, sums) = self.at_disk(&of, finish).await.map_err(|error| refused(&error))?;
        let tag = Tag::Strong(arrived.digest);
        let (with, path) = (Arc::clone(uploads), of.clone());
        let verdict = Arc::new(sums);
        let work = move |writer: &TreeWriter,
                         preread: &PrereadDigest,
                         conditions: &Preconditions,
                         state: &mut (UploadLease, _)| {
            let (lease, arrived) = state;
            let put = match &*verdict {
                Ok(()) => writer.put(&path, arrived, conditions, preread),
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
        let locked_writer = self.locked_writer().map_err(|error| refused(&error))?;
        let put = locked_writer
            .change(&of, &locked, conditions, (lease, arrived), work)
            .await;
        Ok(match put.map_err(|error| refused(&error))? {
            Ok(done) => placed((done, tag), self.clock.now(), timed),
            Err(error) => refused(&error).response(),
        })
    }
}

/// What a request says of the bytes that come with it.
struct Content {
    length: Option<u64>,
    claims: Vec<Claim>,
}

/// What a PATCH says of what it brings.
struct Patch {
    offset: u64,
    complete: bool,
    length: Option<u64>,
    content: Option<u64>,
    claims: Vec<Claim>,
}

impl Patch {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let media = text(headers, header::CONTENT_TYPE).unwrap_or_default();
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
            offset: text(headers, OFFSET)
                .and_then(|field| count(&field))
                .ok_or_else(|| missing(&OFFSET))?,
            complete: text(headers, COMPLETE)
                .and_then(|field| boolean(&field))
                .ok_or_else(|| missing(&COMPLETE))?,
            length: text(headers, LENGTH).and_then(|field| count(&field)),
            claims: claims(headers, "content-digest")?,
            content: text(headers, header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok()),
        })
    }

    /// Whether it goes on where the upload is; notes the length if it tells one.
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
                return Err(inconsistent(lease));
            }
            lease.set_length(length);
        }
        Ok(())
    }
}

fn inconsistent(lease: &UploadLease) -> Problem {
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

fn absent() -> Problem {
    let what = "there is no such upload; it may have been cancelled, or not been resumed in time";
    Problem::of_origin(StatusCode::NOT_FOUND, what)
}
