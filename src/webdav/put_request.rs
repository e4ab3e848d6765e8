//! The head of a PUT, read: preconditions, claims of digests, the length and the time; and the head of its answer.
//!
//! Whatever is said and cannot be kept is refused before the body comes: a part for the whole (`Content-Range`), a coding
//! that could not be told to readers, a precondition that does not read. Ignoring one could overwrite somebody's change.

use super::get_file::tell_date;
use crate::directory::{LAST_SECOND, Tag, WriteOutcome};
use crate::header::{Claim, Preconditions, claim};
use crate::proxy::Problem;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use std::time::SystemTime;

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
