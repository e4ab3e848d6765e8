//! The header and body of an answer that was decided.
//!
//! Every answer from an object is made here, be it a hit or one that still waits for its bytes, so that both say the
//! same. The length in the header is the sum of the body's segments; where the object's length is not known there is
//! none. An answer to HEAD has the header that GET's would have, and a body that is never read.

use super::body::SegmentedBody;
use super::decide::Answer;
use super::multipart::{self, Segment};
use super::object_source::{ObjectSource, RefetchSource};
use super::problem::{CACHE_STATUS, unsatisfiable};
use crate::fill::{Cursor, Registry};
use crate::header::{CacheStatus, ContentRange, repr_digest};
use crate::http1::{HeadOnly, Response, ResponseBody};
use crate::proxy::hit::hot_headers::{HotHeaders, content_type};
use crate::ranges::ByteRange;
use crate::store::{Object, Watch};
use crate::telemetry::Metrics;
use crate::upstream::Target;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use std::sync::Arc;

/// An answer with all that it needs to be sent.
pub(in crate::proxy) struct ResponseBuilder<'a> {
    pub(in crate::proxy) answer: Answer,
    pub(in crate::proxy) head_only: bool,
    pub(in crate::proxy) watch: Watch,
    pub(in crate::proxy) cursor: Option<Cursor>,
    /// Where bytes come from, should one turn out to be gone: the fills, and what to ask for.
    pub(in crate::proxy) source: Option<(&'a Registry, &'a Arc<Target>)>,
    pub(in crate::proxy) cache_status: CacheStatus,
    /// Seconds since the upstream last vouched for the object.
    pub(in crate::proxy) age: u64,
    /// The wait that was honoured, to be echoed (RFC 7240 §3).
    pub(in crate::proxy) waited: Option<u64>,
    /// A digest of the representation is asked for (RFC 9530 §4).
    pub(in crate::proxy) wants_digest: bool,
}

impl ResponseBuilder<'_> {
    pub(in crate::proxy) fn build(self, metrics: &Arc<Metrics>) -> Response {
        let object = Arc::clone(self.watch.object());
        let known = Arc::clone(&*object.head());
        let prepared = HotHeaders::of(&known, &object);
        let whole = StatusCode::from_u16(known.representation().status).unwrap_or(StatusCode::BAD_GATEWAY);
        let (status, segments, multipart_type) = match &self.answer {
            Answer::NotModified => {
                let mut head = self.head(StatusCode::NOT_MODIFIED, prepared, &object, None);
                return head.finish().into();
            }
            Answer::PreconditionFailed => {
                let mut head = self.head(StatusCode::PRECONDITION_FAILED, prepared, &object, None);
                return head.finish().into();
            }
            Answer::Unsatisfiable(size) => return unsatisfiable(Some(*size), self.cache_status).into(),
            Answer::Whole(None) => (whole, vec![Segment::ToEnd(0)], None),
            Answer::Whole(Some(size)) => {
                let all = ByteRange::new(0, *size).map(Segment::Object);
                (whole, all.into_iter().collect(), None)
            }
            Answer::Parts(ranges, size) => {
                let media = content_type(&known, &object);
                let (segments, multipart) =
                    multipart::parts(ranges, *size, &object.etag().to_string(), media.as_deref());
                (StatusCode::PARTIAL_CONTENT, segments, multipart)
            }
        };
        let mut head = self.head(status, prepared, &object, multipart_type);
        if status == StatusCode::NO_CONTENT {
            return head.finish().into();
        }
        match &self.answer {
            Answer::Whole(None) => {}
            Answer::Whole(_) if prepared.content_encoded || status != StatusCode::OK => {}
            Answer::Parts(ranges, size) if ranges.len() == 1 => {
                let part = ContentRange::Part {
                    range: ranges[0],
                    size: Some(*size),
                };
                head.insert_header((header::CONTENT_RANGE, part.field()));
                head.insert_header((header::ACCEPT_RANGES, HeaderValue::from_static("bytes")));
            }
            _ => {
                head.insert_header((header::ACCEPT_RANGES, HeaderValue::from_static("bytes")));
            }
        }
        let head = head.finish().drop_body();
        if self.head_only {
            return Response::new(
                head,
                ResponseBody::HeadOnly(HeadOnly::new(multipart::size_of(&segments))),
            );
        }
        if self.cursor.is_none()
            && let [Segment::Object(range)] = segments[..]
            && let Some(bytes) = object.source().small_body_part(range)
        {
            metrics.sent_bytes.inc_by(range.len());
            return Response::new(head, ResponseBody::Memory(bytes));
        }
        let source = self.source.map(|(fills, target)| RefetchSource {
            fills: fills.clone(),
            target: Arc::clone(target),
        });
        let source = ObjectSource::new(self.watch, self.cursor, source);
        let body = SegmentedBody::new(source, segments, Arc::clone(metrics));
        Response::new(head, ResponseBody::Stored(Box::new(body)))
    }

    fn head(
        &self,
        status: StatusCode,
        prepared: &HotHeaders,
        object: &Object,
        multipart_type: Option<String>,
    ) -> HttpResponseBuilder {
        let mut head = HttpResponse::build(status);
        let bodiless = matches!(status, StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED);
        for (name, value) in &prepared.fields {
            let of_content = name.as_str().starts_with("content-") && name != header::CONTENT_LOCATION;
            let replaced = name == header::CONTENT_TYPE && multipart_type.is_some();
            if !(replaced || (of_content && bodiless)) {
                head.append_header((name.clone(), value.clone()));
            }
        }
        if let Some(multipart) = multipart_type {
            head.insert_header((header::CONTENT_TYPE, multipart));
        }
        // The object's id, as the API names it.
        let cache_status = format!("{}; key=\"{}\"", self.cache_status, object.id());
        head.insert_header((CACHE_STATUS, cache_status));
        head.insert_header((header::AGE, HeaderValue::from(self.age)));
        if self.wants_digest
            && status.is_success()
            && object.is_whole()
            && !prepared.has_digest
            && let Some(digest) = object.digest()
        {
            head.insert_header((HeaderName::from_static("repr-digest"), repr_digest(&digest)));
        }
        if let Some(seconds) = self.waited {
            head.insert_header((HeaderName::from_static("preference-applied"), format!("wait={seconds}")));
        }
        head
    }
}
