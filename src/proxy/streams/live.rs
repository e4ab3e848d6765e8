//! Streams, as their readers get them: live ones under their URL, and all of them under the id that opens each.
//!
//! Under its URL a live stream is what it is upstream: who asks comes in where the stream is now, at the next place
//! where a client can begin. Who was cut says where (`Range`), or which event it has seen last (`Last-Event-ID`),
//! and goes on there without a gap. Under its id the log is read from its beginning or from any offset.

use crate::config::Delivery;
use crate::fill::Cursor;
use crate::header::{CacheStatus, FirstWanted, first_wanted};
use crate::http1::{HeadOnly, Response, ResponseBody};
use crate::live::{Stream, StreamFormat, after_event};
use crate::proxy::cache::decided::answer_of;
use crate::proxy::cache::fetch::anew;
use crate::proxy::cache::freshness::age_of;
use crate::proxy::cache::lookup::FoundObject;
use crate::proxy::hit::hot_headers::HotHeaders;
use crate::proxy::request::Request;
use crate::proxy::response::body::SegmentedBody;
use crate::proxy::response::confine::{attach, keep_harmless, sandbox};
use crate::proxy::response::multipart::{Segment, size_of};
use crate::proxy::response::object_source::ObjectSource;
use crate::proxy::response::problem::{CACHE_STATUS, Problem};
use crate::proxy::response::write::ResponseBuilder;
use crate::proxy::service::Service;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::{Object, StoreError, Watch};
use crate::upstream::Span;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use std::sync::Arc;

/// The last byte of a range that has no end yet (RFC 8673 §2.2): the greatest number that all clients understand.
const VERY_LARGE: u64 = (1 << 53) - 1;

/// Where in the stream a body begins.
const STREAM_OFFSET: HeaderName = HeaderName::from_static("stream-offset");

/// A log is searched in pieces of this many bytes: a judgement, on a blocking thread.
const PIECE_BYTES: usize = 128 * 1024;

/// The part of a stream that is sent.
struct Part {
    from: ByteOffset,
    /// `None` follows it to its end, wherever that will be.
    end: Option<ByteOffset>,
    /// Whether the request has a `Range`.
    by_range: bool,
}

impl Service {
    /// Answers from a stream that the fill logs, under the stream's URL.
    pub(in crate::proxy) async fn send_live(
        &self,
        request: &Request<'_>,
        mut found: FoundObject,
        stream: &Arc<Stream>,
    ) -> Result<Response, Problem> {
        let (first, end) = come(stream, &found.object);
        let wanted = match first_wanted(request.question.range) {
            // A player that begins says `bytes=0-` too.
            Some(FirstWanted::From { start, last: None }) if start > first && start <= end => Some(start),
            _ => None,
        };
        let resumed = match (wanted, request.last_event, stream.kind()) {
            (Some(at), ..) => Some(at),
            (None, Some(id), Some(StreamFormat::Events)) => Some(self.after_event(stream, &found.object, id).await?),
            _ => None,
        };
        let part = |from| Part {
            from,
            end: None,
            by_range: wanted.is_some(),
        };
        let at = match resumed {
            Some(at) => Some(at),
            None if !found.cursor.collapsed() => Some(0),
            // Events are what one client was told: a second tab, which has seen none, is told its own.
            None if stream.kind() == Some(&StreamFormat::Events) => None,
            None => {
                let burst = match stream.kind() {
                    Some(StreamFormat::Frames | StreamFormat::Packets | StreamFormat::Icy { .. }) => {
                        self.fills.streams().limits().burst_bytes
                    }
                    _ => 0,
                };
                stream.join_at(end.saturating_sub(burst))
            }
        };
        let Some(at) = at else {
            // The sync point has left the window: this listener needs another.
            let cursor = self.fills.join_alone(&found.target, anew_from_start());
            found = match self
                .opened(request, &found.target, cursor, found.cache_status, None)
                .await?
            {
                Ok(found) => found,
                Err(refusal) => return Ok(refusal),
            };
            let own = found.cursor.stream().cloned();
            return Ok(match own {
                Some(own) => self.part_of(
                    request.head_only,
                    &own,
                    found.object,
                    Some(found.cursor),
                    part(0),
                    found.cache_status,
                ),
                None => self.send_whole(request, found),
            });
        };
        Ok(self.part_of(
            request.head_only,
            stream,
            found.object,
            Some(found.cursor),
            part(at),
            found.cache_status,
        ))
    }

    /// Where the events after the one with that id begin. Where it is not in the log any more, or never was, all
    /// that is there is given: a client knows what it has seen.
    async fn after_event(&self, stream: &Arc<Stream>, object: &Arc<Object>, id: &str) -> Result<ByteOffset, Problem> {
        let (first, end) = come(stream, object);
        let (object, id) = (Arc::clone(object), id.to_owned());
        let search = move || -> Result<ByteOffset, StoreError> {
            let (mut scan, mut at) = (after_event(&id, first), first);
            while at < end {
                let len = usize::try_from(end - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
                let piece = object.source().read_blocking(at, len)?;
                scan.look(&piece);
                at += piece.len() as u64;
            }
            Ok(scan.found().or(scan.first()).unwrap_or(end))
        };
        match tokio::task::spawn_blocking(search).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(Problem::store(&error)),
            Err(_) => Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a reading thread was lost",
            )),
        }
    }

    /// The log of a stream, for whoever knows its id: what the request asks of it, or all.
    ///
    /// # Errors
    /// Where nothing was logged, what was has gone, or the range that is asked for cannot be given.
    pub async fn replay(&self, http: &RequestHead, stream: &Arc<Stream>, all: bool) -> Result<Response, Problem> {
        let mut response = self.replayed(http, stream, all).await?;
        if !all {
            // Under the API's own path: no page of anybody's shall speak from there.
            keep_harmless(response.headers_mut());
            sandbox(response.headers_mut());
            attach(response.headers_mut());
        }
        Ok(response)
    }

    async fn replayed(&self, http: &RequestHead, stream: &Arc<Stream>, all: bool) -> Result<Response, Problem> {
        stream.opened().await;
        let status = stream.status();
        let (streams, opening) = (Arc::clone(self.fills.streams()), Arc::clone(stream));
        let log = tokio::task::spawn_blocking(move || streams.log(&opening)).await;
        let object = match log {
            Ok(Ok(Some(object))) if !status.gone => object,
            Ok(Err(error)) => return Err(Problem::store(&error)),
            Err(_) => {
                let what = "a reading thread was lost";
                return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what));
            }
            Ok(Ok(_)) if status.code.is_none() => {
                let why = status.why.unwrap_or_default();
                return Err(Problem::new(
                    StatusCode::BAD_GATEWAY,
                    format!("nothing was logged: {why}"),
                ));
            }
            Ok(Ok(_)) => return Err(Problem::new(StatusCode::GONE, "what was logged of the stream has gone")),
        };
        // A log that is whole is an object like any other; one that grows has an end that moves.
        let head_only = http.method == Method::HEAD;
        if object.is_whole() {
            return Ok(self.replay_whole(http, object, all));
        }
        let text = |name: &str| {
            let value = http.headers.get(name).filter(|_| !all);
            value.and_then(|value| value.to_str().ok())
        };
        let part = match (text("range"), text("last-event-id"), stream.kind()) {
            (Some(range), ..) => wanted_part(range, come(stream, &object))?,
            (None, Some(id), Some(StreamFormat::Events)) => Part {
                from: self.after_event(stream, &object, id).await?,
                end: None,
                by_range: false,
            },
            _ => {
                let (first, end) = come(stream, &object);
                let at_tail = http
                    .uri
                    .query()
                    .unwrap_or_default()
                    .split('&')
                    .any(|word| word == "from=tail");
                let wanted = if at_tail { end } else { first };
                Part {
                    from: stream.join_at(wanted).unwrap_or(wanted),
                    end: None,
                    by_range: false,
                }
            }
        };
        Ok(self.part_of(head_only, stream, object, None, part, CacheStatus::HIT))
    }

    fn replay_whole(&self, http: &RequestHead, object: Arc<Object>, all: bool) -> Response {
        let request = Request::read(http, Delivery::Follow).filter(|_| !all);
        let question = request.as_ref().map(|request| request.question).unwrap_or_default();
        ResponseBuilder {
            answer: answer_of(question, &object),
            age: age_of(&object, self.clock.elapsed()).as_secs(),
            watch: Watch::new(object),
            cursor: None,
            source: None,
            cache_status: CacheStatus::HIT,
            waited: None,
            wants_digest: false,
            head_only: http.method == Method::HEAD,
        }
        .build(&self.metrics)
    }

    /// The answer that is a part of a stream.
    fn part_of(
        &self,
        head_only: bool,
        stream: &Arc<Stream>,
        object: Arc<Object>,
        cursor: Option<Cursor>,
        part: Part,
        cache_status: CacheStatus,
    ) -> Response {
        let head = Arc::clone(&*object.head());
        let prepared = HotHeaders::of(&head, &object);
        let code = StatusCode::from_u16(head.representation().status).unwrap_or(StatusCode::OK);
        let mut response = HttpResponse::build(if part.by_range {
            StatusCode::PARTIAL_CONTENT
        } else {
            code
        });
        let of_the_whole = [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES];
        let fields = prepared.fields.iter().filter(|(name, _)| !of_the_whole.contains(name));
        for (name, value) in fields {
            response.append_header((name.clone(), value.clone()));
        }
        response.insert_header((CACHE_STATUS, cache_status.to_string()));
        response.insert_header((STREAM_OFFSET, HeaderValue::from(part.from)));
        if part.by_range {
            let last = part.end.map_or(VERY_LARGE, |end| end - 1);
            response.insert_header((header::CONTENT_RANGE, format!("bytes {}-{last}/*", part.from)));
        }
        let segment = match part.end.and_then(|end| ByteRange::new(part.from, end)) {
            Some(range) => Segment::Object(range),
            None => Segment::ToEnd(part.from),
        };
        let head = response.finish().drop_body();
        if head_only {
            return Response::new(head, ResponseBody::HeadOnly(HeadOnly::new(size_of(&[segment]))));
        }
        let watch = Watch::new(object);
        let source = ObjectSource::new(watch, cursor, None).listening(stream.listen());
        let body = SegmentedBody::new(source, vec![segment], Arc::clone(&self.metrics));
        Response::new(head, ResponseBody::Stored(Box::new(body)))
    }
}

fn anew_from_start() -> crate::fill::JoinRequest {
    anew(crate::fill::JoinRequest::Bytes(Span::From(0)), (Span::From(0), false))
}

/// Where the log of a stream begins, and how far it has come. The stream itself is told a moment after its readers are:
/// one that has had bytes, and asks for what follows them, may be quicker.
fn come(stream: &Stream, object: &Object) -> (ByteOffset, ByteOffset) {
    let (first, end) = stream.bounds();
    let stored = object.presence().present().run_at(first).unwrap_or(end);
    (first, end.max(stored))
}

/// The `Range` of a request for a stream that has no length; one range alone.
fn wanted_part(field: &str, (first, end): (ByteOffset, ByteOffset)) -> Result<Part, Problem> {
    let problem = |what: String| Err(Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, what));
    let (from, last) = match first_wanted(Some(field.as_bytes())) {
        Some(FirstWanted::From { start, last }) => (start, last),
        Some(FirstWanted::Suffix(count)) => (end.saturating_sub(count).max(first), None),
        None => (first, None),
    };
    if from < first {
        return problem(format!("the log begins at {first} now; ask for bytes={first}-"));
    }
    if from > end {
        return problem(format!(
            "only {end} bytes have come yet; ask for bytes={end}- to follow"
        ));
    }
    // A range whose end has not come yet is followed as well.
    let until = last
        .map(|last| last.saturating_add(1))
        .filter(|until| *until <= end && *until > from);
    Ok(Part {
        from,
        end: until,
        by_range: true,
    })
}

/// The path of what opens a stream.
pub(in crate::proxy) fn path_of(stream: &Stream) -> String {
    format!("/-/api/v1/streams/{}", stream.id())
}
