//! PUT: a body comes, is held to what was said of it, and takes its place under the conditions of the request.
//!
//! What can be refused without the body is refused before it comes; a client that waits (`Expect: 100-continue`)
//! then sends none. No lock is held while it does.

use super::file::tell_date;
use super::writer::LockScope;
use super::{Origin, refused};
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

/// How much of a body is gathered before it is written, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// The longest silence of a client that sends.
const IDLE: Duration = Duration::from_secs(300);

/// What a request says of the file that it puts.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) conditions: Preconditions,
    pub(super) length: Option<u64>,
    /// What the file's bytes are said to add up to.
    pub(super) claims: Vec<Claim>,
    /// The same of the bytes that come with the request.
    pub(super) content_claims: Vec<Claim>,
    /// The time that the client gives the file, in seconds since 1970.
    pub(super) modified: Option<i64>,
}

impl Origin {
    /// Reads a PUT, and refuses it where that takes no body.
    pub(super) async fn may_put(&self, path: &TreePath, head: &RequestHead) -> Result<Put, Problem> {
        let put = Put::read(&head.headers)?;
        if path.has_slash() {
            let what = "a file's path does not end in a slash; MKCOL makes a collection";
            return Err(Problem::of_origin(StatusCode::CONFLICT, what));
        }
        self.demand(&put.conditions)?;
        self.fits(put.length.unwrap_or_default())?;
        let (writer, of, conditions) = (self.writer()?, path.clone(), put.conditions.clone());
        self.at_disk(path, move || writer.may_put(&of, &conditions))
            .await
            .map_err(|error| refused(&error))?;
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
        if super::upload::begins(&head.headers) {
            return self.begin_upload(path, head, put, payload).await;
        }
        let announced = super::upload::announced(&head.headers, put.length)?;
        let writer = self.writer()?;
        let (collection, length) = (path.parent(), put.length);
        let begun = Arc::clone(&writer);
        let incoming = self
            .at_disk(path, move || begun.staging.begin(&collection, length))
            .await;
        let incoming = incoming.map_err(|error| refused(&error))?;
        let arrived = self.receive(path, &writer, incoming, &put, payload).await?;
        let came = arrived.len();
        if announced.is_some_and(|announced| announced != came) {
            return Err(super::upload::contradicted(came));
        }
        let done = self.place(path, arrived, put.conditions).await?;
        let response = placed(done, self.clock.now(), put.modified.is_some());
        Ok(match super::upload::is_whole(&head.headers) {
            true => super::upload::wholly(response, came),
            false => response,
        })
    }

    /// Puts a body that has come in its place, alone among those who change that path.
    pub(super) async fn place(
        &self,
        path: &TreePath,
        arrived: ReceivedBody,
        conditions: Preconditions,
    ) -> Result<(WriteOutcome, Tag), Problem> {
        let (of, locked) = (path.clone(), LockScope::Paths(vec![path.clone()]));
        let tag = Tag::Strong(arrived.digest);
        let work =
            move |writer: &TreeWriter,
                  preread: &PrereadDigest,
                  conditions: &Preconditions,
                  arrived: &mut ReceivedBody| { writer.put(&of, arrived, conditions, preread) };
        let locked_writer = self.locked_writer().map_err(|error| refused(&error))?;
        let done = locked_writer.change(path, &locked, conditions, arrived, work).await;
        done.map(|done| (done, tag)).map_err(|error| refused(&error))
    }

    async fn receive(
        &self,
        path: &TreePath,
        writer: &Arc<TreeWriter>,
        incoming: IncomingBody,
        put: &Put,
        payload: Payload,
    ) -> Result<ReceivedBody, Problem> {
        // What comes is the whole file: both fields speak of the same bytes.
        let claims = [&put.claims[..], &put.content_claims].concat();
        let mut state = (incoming, Sums::new(&claims));
        let mut body = Batches::new(payload, put.length);
        while let Some(batch) = body.next(|total| self.fits(total)).await? {
            let (mut incoming, mut sums) = state;
            let writer = Arc::clone(writer);
            let written = self.at_disk(path, move || {
                for piece in batch {
                    incoming.write(&writer.staging, &piece)?;
                    sums.update(&piece);
                }
                Ok((incoming, sums))
            });
            state = written.await.map_err(|error| refused(&error))?;
        }
        let (incoming, sums) = state;
        let (writer, modified) = (Arc::clone(writer), put.modified);
        let arrived = self
            .at_disk(path, move || {
                let arrived = incoming.finish(&writer.staging, modified)?;
                sums.hold(&arrived)?;
                Ok(arrived)
            })
            .await;
        arrived.map_err(|error| refused(&error))
    }

    /// Refuses a change without a condition, where one is demanded (RFC 6585 §3).
    pub(super) fn demand(&self, conditions: &Preconditions) -> Result<(), Problem> {
        match self.settings.demand_conditions && conditions.is_empty() {
            true => {
                let what = "this server demands a condition: If-Match with the tag of what is replaced, or If-None-Match: * for what is new";
                Err(Problem::of_origin(StatusCode::PRECONDITION_REQUIRED, what))
            }
            false => Ok(()),
        }
    }

    /// Refuses what is larger than may be put.
    pub(super) fn fits(&self, bytes: u64) -> Result<(), Problem> {
        match self.settings.largest_upload {
            Some(most) if bytes > most => {
                let what = format!("the file is larger than the {most} bytes that may be put here (largest_upload)");
                Err(Problem::of_origin(StatusCode::PAYLOAD_TOO_LARGE, what))
            }
            _ => Ok(()),
        }
    }
}

impl Put {
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
        let length = text(headers, header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
        let modified = text(headers, HeaderName::from_static("x-oc-mtime"));
        let modified = modified.map(|seconds| {
            let seconds: Option<i64> = seconds.trim().split('.').next().and_then(|whole| whole.parse().ok());
            seconds.filter(|seconds| seconds.unsigned_abs() <= LAST_SECOND)
        });
        Ok(Self {
            conditions: conditions(headers)?,
            length,
            claims: claims(headers, "repr-digest")?,
            content_claims: claims(headers, "content-digest")?,
            modified: match modified {
                Some(None) => return Err(bad("x-oc-mtime is not a number of seconds since 1970".to_owned())),
                modified => modified.flatten(),
            },
        })
    }
}

/// What a field says that bytes add up to.
pub(super) fn claims(headers: &HeaderMap, name: &'static str) -> Result<Vec<Claim>, Problem> {
    let field = text(headers, HeaderName::from_static(name));
    let found = field.map(|field| claim(&field)).transpose();
    found
        .map(|found| found.flatten().into_iter().collect())
        .map_err(|why| Problem::of_origin(StatusCode::BAD_REQUEST, format!("{name} {why}")))
}

/// The preconditions of a change. What does not read is refused, for dropping it could cost somebody's change.
pub(super) fn conditions(headers: &HeaderMap) -> Result<Preconditions, Problem> {
    if headers.contains_key("if") {
        let what = "the If field of WebDAV is not evaluated here, since there are no locks; use If-Match";
        return Err(Problem::of_origin(StatusCode::PRECONDITION_FAILED, what));
    }
    Preconditions::read(
        text(headers, header::IF_MATCH),
        text(headers, header::IF_NONE_MATCH),
        text(headers, header::IF_UNMODIFIED_SINCE),
    )
    .map_err(|error| Problem::of_origin(StatusCode::BAD_REQUEST, error.to_string()))
}

/// A field's lines as one; what is no text shows, rather than being left out.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines = headers
        .get_all(name)
        .map(|line| String::from_utf8_lossy(line.as_bytes()));
    let lines: Vec<_> = lines.collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// The answer to a PUT that was done (RFC 9110 §9.3.4): the bytes are as they came, so their tag is told.
pub(super) fn placed((done, tag): (WriteOutcome, Tag), now: SystemTime, timed: bool) -> HttpResponse {
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

/// A body in pieces that are worth a thread's hop. Whoever stops waiting for the next loses nothing of it.
pub(super) struct Batches {
    payload: Payload,
    total: u64,
    length: Option<u64>,
    /// What has come and was not taken yet.
    batch: Vec<Bytes>,
    bytes: usize,
    /// How it ended, told after all that came before.
    ended: Option<Result<(), Problem>>,
}

impl Batches {
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

    /// What comes next; `None` at the end. `allows` is asked with the number of bytes so far.
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

    /// What has come and was not taken.
    pub(super) fn rest(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        std::mem::take(&mut self.batch)
    }

    fn cut(&self, error: &PayloadError) -> Problem {
        let what = format!("the body did not come whole ({error}): {} bytes came", self.total);
        Problem::of_origin(StatusCode::BAD_REQUEST, what)
    }
}

/// The sums that a client's claims are held to.
pub(super) struct Sums {
    claims: Vec<Claim>,
    sha256: Option<Context>,
    sha512: Option<Context>,
}

impl Sums {
    pub(super) fn new(claims: &[Claim]) -> Self {
        let wanted = claims.iter().any(|claim| matches!(claim, Claim::Sha512(_)));
        Self {
            claims: claims.to_vec(),
            sha256: None,
            sha512: wanted.then(|| Context::new(&SHA512)),
        }
    }

    /// Those of bytes that are not a whole file: whose SHA-256 nobody else takes.
    pub(super) fn of_content(claims: &[Claim]) -> Self {
        let wanted = claims.iter().any(|claim| matches!(claim, Claim::Sha256(_)));
        Self {
            sha256: wanted.then(|| Context::new(&SHA256)),
            ..Self::new(claims)
        }
    }

    /// Those of a body that has come already.
    pub(super) fn of(claims: &[Claim], arrived: &ReceivedBody) -> Result<Self, DirectoryError> {
        let mut sums = Self::new(claims);
        if sums.sha512.is_some() {
            arrived.each_block(|block| sums.update(block))?;
        }
        Ok(sums)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for sum in [&mut self.sha256, &mut self.sha512].into_iter().flatten() {
            sum.update(bytes);
        }
    }

    /// Whether all that was claimed of the body is so.
    pub(super) fn hold(self, arrived: &ReceivedBody) -> Result<(), DirectoryError> {
        self.compare(&arrived.digest)
    }

    /// The same of what came with one request.
    pub(super) fn hold_content(mut self) -> Result<(), DirectoryError> {
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
