//! PUT: a body is received, checked against its claims, and placed under the preconditions of the request.
//!
//! Order: headers are read and everything that can be refused without the body is refused, so a client that waits
//! (`Expect: 100-continue`) sends none; the body is written to staging in batches, and hashed on the way; its length
//! and digests are compared; then it takes its place under the path's lock. No lock is held while a client sends.

use super::get_file::tell_date;
use super::locked_writer::LockScope;
use super::{DirectoryService, problem_of};
use crate::directory::{
    DirectoryError, IncomingBody, LAST_SECOND, PrereadDigest, ReceivedBody, Tag, TreePath, TreeWriter, WriteOutcome,
};
use crate::header::{Claim, Preconditions, claim};
use crate::serve::Problem;
use actix_http::Payload;
use actix_http::error::PayloadError;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use aws_lc_rs::digest::{Context, SHA256, SHA512};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The bytes of a body that are gathered for one write: a judgement. More would hold more memory for each connection,
/// fewer would hop to a thread more often.
const BATCH_BYTES: usize = 1 << 20;

/// The longest silence of a client that sends: a judgement.
const IDLE: Duration = Duration::from_secs(300);

/// A PUT's header, read.
#[derive(Debug)]
pub(super) struct PutRequest {
    pub(super) conditions: Preconditions,
    pub(super) length: Option<u64>,
    /// The claims of `Repr-Digest`: digests of the whole file.
    pub(super) claims: Vec<Claim>,
    /// The claims of `Content-Digest`: digests of the bytes that come with this request.
    pub(super) content_claims: Vec<Claim>,
    /// `X-OC-Mtime`: the time that the client gives the file, in seconds since 1970.
    pub(super) modified: Option<i64>,
}

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
        let received = self.receive(path, &writer, incoming, &put, payload).await?;
        let came = received.len();
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

    async fn receive(
        &self,
        path: &TreePath,
        writer: &Arc<TreeWriter>,
        incoming: IncomingBody,
        put: &PutRequest,
        payload: Payload,
    ) -> Result<ReceivedBody, Problem> {
        // The body of a plain PUT is the whole file, so both fields are claims about the same bytes.
        let claims = [&put.claims[..], &put.content_claims].concat();
        let mut state = (incoming, DigestCheck::new(&claims));
        let mut body = BodyBatches::new(payload, put.length);
        while let Some(batch) = body.next(|total| self.check_size(total)).await? {
            // Both go to the thread and come back: nothing is shared while the client sends.
            let (mut incoming, mut check) = state;
            let writer = Arc::clone(writer);
            let written = self.run_at(path, move || {
                for piece in batch {
                    incoming.write(&writer.staging, &piece)?;
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
                check.verify(&received)?;
                Ok(received)
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

impl PutRequest {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let bad = |what: String| Problem::of_origin(StatusCode::BAD_REQUEST, what);
        if headers.contains_key(header::CONTENT_RANGE) {
            return Err(bad("Content-Range on PUT would replace the whole file by a part of it; send all of it, or resume an upload".to_owned()));
        }
        let mut codings = headers.get_all(header::CONTENT_ENCODING);
        if let Some(coding) = codings.find(|coding| *coding != "identity") {
            let what = format!(
                "a file is kept as it comes, and {coding:?} could not be told to its readers; send it without a coding"
            );
            return Err(Problem::of_origin(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let length = field_text(headers, header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
        let modified = field_text(headers, HeaderName::from_static("x-oc-mtime"));
        let modified = modified.map(|seconds| {
            let seconds: Option<i64> = seconds.trim().split('.').next().and_then(|whole| whole.parse().ok());
            seconds.filter(|seconds| seconds.unsigned_abs() <= LAST_SECOND)
        });
        Ok(Self {
            conditions: read_preconditions(headers)?,
            length,
            claims: read_claims(headers, "repr-digest")?,
            content_claims: read_claims(headers, "content-digest")?,
            modified: match modified {
                Some(None) => return Err(bad("x-oc-mtime is not a number of seconds since 1970".to_owned())),
                modified => modified.flatten(),
            },
        })
    }
}

/// The digests that a field claims.
pub(super) fn read_claims(headers: &HeaderMap, name: &'static str) -> Result<Vec<Claim>, Problem> {
    let field = field_text(headers, HeaderName::from_static(name));
    let found = field.map(|field| claim(&field)).transpose();
    found
        .map(|found| found.flatten().into_iter().collect())
        .map_err(|why| Problem::of_origin(StatusCode::BAD_REQUEST, format!("{name} {why}")))
}

/// The preconditions of a change. A field that does not read is refused: ignoring it could overwrite somebody's
/// change.
pub(super) fn read_preconditions(headers: &HeaderMap) -> Result<Preconditions, Problem> {
    if headers.contains_key("if") {
        let what = "the If field of WebDAV is not evaluated here, since there are no locks; use If-Match";
        return Err(Problem::of_origin(StatusCode::PRECONDITION_FAILED, what));
    }
    Preconditions::read(
        field_text(headers, header::IF_MATCH),
        field_text(headers, header::IF_NONE_MATCH),
        field_text(headers, header::IF_UNMODIFIED_SINCE),
    )
    .map_err(|error| Problem::of_origin(StatusCode::BAD_REQUEST, error.to_string()))
}

/// A field's lines, joined by commas. Bytes that are no UTF-8 stay as replacement characters, so that a field which
/// holds some is refused rather than taken for absent.
pub(super) fn field_text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines = headers
        .get_all(name)
        .map(|line| String::from_utf8_lossy(line.as_bytes()));
    let lines: Vec<_> = lines.collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// The answer to a PUT that was done. The `ETag` may be told, for the bytes are stored as they came (RFC 9110
/// §9.3.4).
pub(super) fn placed_response((done, tag): (WriteOutcome, Tag), now: SystemTime, timed: bool) -> HttpResponse {
    let mut response = match done {
        WriteOutcome::Created(_) => HttpResponse::Created(),
        WriteOutcome::Replaced(_) => HttpResponse::NoContent(),
    };
    response.insert_header((header::ETAG, tag.entity_tag().to_string()));
    tell_date(&mut response, done.stamp().modified_at(), now);
    if timed {
        response.insert_header((HeaderName::from_static("x-oc-mtime"), "accepted"));
    }
    response.finish()
}

/// A request body in batches that are each worth a hop to a thread. `next` can be cancelled without loss: what has
/// come stays in the batch.
pub(super) struct BodyBatches {
    payload: Payload,
    total: u64,
    length: Option<u64>,
    /// Pieces that have come and were not taken yet.
    batch: Vec<Bytes>,
    bytes: usize,
    /// The end of the body, told only after the pieces before it.
    ended: Option<Result<(), Problem>>,
}

impl BodyBatches {
    pub(super) fn new(payload: Payload, length: Option<u64>) -> Self {
        Self {
            payload,
            total: 0,
            length,
            batch: Vec::new(),
            bytes: 0,
            ended: None,
        }
    }

    /// The next batch; `None` at the end. `allows` is asked with the number of bytes so far.
    pub(super) async fn next(
        &mut self,
        allows: impl Fn(u64) -> Result<(), Problem>,
    ) -> Result<Option<Vec<Bytes>>, Problem> {
        while self.ended.is_none() && self.bytes < BATCH_BYTES {
            match actix_web::rt::time::timeout(IDLE, self.payload.next()).await {
                Ok(Some(Ok(piece))) => {
                    let total = self.total + piece.len() as u64;
                    if let Err(problem) = allows(total) {
                        self.ended = Some(Err(problem));
                        break;
                    }
                    self.total = total;
                    self.bytes += piece.len();
                    self.batch.push(piece);
                }
                Ok(Some(Err(error))) => self.ended = Some(Err(self.cut(&error))),
                Ok(None) if self.length.is_some_and(|length| length != self.total) => {
                    self.ended = Some(Err(self.cut(&PayloadError::Incomplete(None))));
                }
                Ok(None) => self.ended = Some(Ok(())),
                Err(_) => {
                    let what = "nothing more of the body came for five minutes";
                    self.ended = Some(Err(Problem::of_origin(StatusCode::REQUEST_TIMEOUT, what)));
                }
            }
        }
        match self.rest() {
            batch if !batch.is_empty() => Ok(Some(batch)),
            _ => self.ended.take().unwrap_or(Ok(())).map(|()| None),
        }
    }

    /// Takes the pieces that have come.
    pub(super) fn rest(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        std::mem::take(&mut self.batch)
    }

    fn cut(&self, error: &PayloadError) -> Problem {
        let what = format!("the body did not come whole ({error}): {} bytes came", self.total);
        Problem::of_origin(StatusCode::BAD_REQUEST, what)
    }
}

/// The running digests that a client's claims are checked against. A whole file's SHA-256 is taken by `IncomingBody`
/// in any case.
pub(super) struct DigestCheck {
    claims: Vec<Claim>,
    sha256: Option<Context>,
    sha512: Option<Context>,
}

impl DigestCheck {
    pub(super) fn new(claims: &[Claim]) -> Self {
        let wanted = claims.iter().any(|claim| matches!(claim, Claim::Sha512(_)));
        Self {
            claims: claims.to_vec(),
            sha256: None,
            sha512: wanted.then(|| Context::new(&SHA512)),
        }
    }

    /// Digests of bytes that are not a whole file, so their SHA-256 is taken here as well.
    pub(super) fn of_content(claims: &[Claim]) -> Self {
        let wanted = claims.iter().any(|claim| matches!(claim, Claim::Sha256(_)));
        Self {
            sha256: wanted.then(|| Context::new(&SHA256)),
            ..Self::new(claims)
        }
    }

    /// Digests of a body that is already received: it is read again, if a claim needs more than its SHA-256.
    pub(super) fn of(claims: &[Claim], received: &ReceivedBody) -> Result<Self, DirectoryError> {
        let mut check = Self::new(claims);
        if check.sha512.is_some() {
            received.each_block(|block| check.update(block))?;
        }
        Ok(check)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for sum in [&mut self.sha256, &mut self.sha512].into_iter().flatten() {
            sum.update(bytes);
        }
    }

    /// Fails unless every claim about the body holds.
    pub(super) fn verify(self, received: &ReceivedBody) -> Result<(), DirectoryError> {
        self.compare(&received.digest)
    }

    /// The same for the bytes that came with one request.
    pub(super) fn verify_content(mut self) -> Result<(), DirectoryError> {
        let sha256 = self.sha256.take().map(Context::finish);
        self.compare(sha256.as_ref().map_or(&[], |sum| sum.as_ref()))
    }

    fn compare(self, sha256: &[u8]) -> Result<(), DirectoryError> {
        let sha512 = self.sha512.map(Context::finish);
        for claim in &self.claims {
            let (holds, name) = match claim {
                Claim::Sha256(claimed) => (claimed == sha256, "sha-256"),
                Claim::Sha512(claimed) => {
                    let sum = sha512.as_ref().map(aws_lc_rs::digest::Digest::as_ref);
                    (Some(claimed.as_slice()) == sum, "sha-512")
                }
            };
            if !holds {
                return Err(DirectoryError::WrongDigest(name));
            }
        }
        Ok(())
    }
}
