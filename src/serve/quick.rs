//! Hits on a connection of our own: from the bytes of a request to those of an answer's header.
//!
//! A player's seek into a stored film, and a page's small object, say nothing that any of the machinery between a
//! socket and [`Service::fetch`] is for. Here such a request is read where it lies, and answered by a header made once
//! a second; whatever says more than a path and one range is not for here, and goes the long way.
//!
//! A header is given again only while the second lasts in which `Age` stays the same, the object has the same head, and
//! it is whole. It is made by the long way itself, from a plain request, so the two cannot say different things
//! (docs/decisions/0014).

use super::body::{ObjectBody, RefetchSource};
use super::lookup::Service;
use super::multipart::Segment;
use super::request::{Request, is_condition};
use super::request_cache::{
    LEAST_TTL_SECONDS, MAX_RECENT_BYTES, Remembered, RequestCache, RequestTarget, TOLD_AFTER, TOLD_SHARE, second_ends,
};
use super::route::Routed;
use crate::clock::{from_unix_seconds, unix_seconds};
use crate::header::{Selection, print_date, select, select_one};
use crate::ranges::ByteRange;
use crate::store::{Head, HitCounter, Object, SmallBody, Watch};
use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, Uri, Version};
use bytes::Bytes;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// More fields than a player sends. A judgement: half of what the framework takes; a request with more goes to it.
const MAX_FIELDS: usize = 48;

/// A request that has no body, read where it lies.
#[derive(Debug, Clone, Copy)]
pub struct QuickRequest<'a, 'f> {
    method: &'a str,
    /// The path, and behind it the query.
    target: &'a str,
    path: &'a str,
    fields: &'f [httparse::Header<'a>],
    range: Option<&'a [u8]>,
    /// Whether it asks for a path and perhaps one range of it, without conditions or preferences.
    is_plain: bool,
    closes: bool,
    length: usize,
}

/// The place for a request's fields, so that reading them takes no memory from the heap.
pub struct FieldSlots<'a>([httparse::Header<'a>; MAX_FIELDS]);

impl Default for FieldSlots<'_> {
    fn default() -> Self {
        Self([httparse::EMPTY_HEADER; MAX_FIELDS])
    }
}

impl<'a, 'f> QuickRequest<'a, 'f> {
    /// Reads the request at the beginning of `bytes`: a GET or HEAD for a path of an upstream. `None` for one that has not
    /// come whole, and for all others, also those of the API: the framework has a look at them.
    pub fn read(bytes: &'a [u8], slots: &'f mut FieldSlots<'a>) -> Option<Self> {
        let mut request = httparse::Request::new(&mut slots.0);
        let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else {
            return None;
        };
        let method = request.method.filter(|method| matches!(*method, "GET" | "HEAD"))?;
        let is_get = method == "GET";
        // The framework answers HTTP/1.0, whose connections close and whose bodies have no chunks.
        if request.version != Some(1) {
            return None;
        }
        let is_ours = |target: &&str| target.starts_with('/') && !target.contains('#');
        let target = request.path.filter(is_ours)?;
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        // The API is the application's.
        if path.starts_with("/-/") {
            return None;
        }
        let mut is_plain = is_get && path.len() == target.len();
        let (mut range, mut hosts, mut closes) = (None, 0, false);
        for field in request.headers.iter() {
            match FieldRole::of(field.name)? {
                FieldRole::Nothing => {}
                FieldRole::Condition => is_plain = false,
                FieldRole::Host => hosts += 1,
                FieldRole::Range if range.is_some() => is_plain = false,
                FieldRole::Range => range = Some(field.value),
                FieldRole::Connection if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
                FieldRole::Connection if field.value.eq_ignore_ascii_case(b"close") => closes = true,
                FieldRole::Connection => return None,
            }
        }
        (hosts == 1).then_some(Self {
            method,
            fields: request.headers,
            target,
            path,
            range,
            is_plain,
            closes,
            length,
        })
    }

    /// The request in the framework's words. `None` where it has none for it.
    pub fn head(&self, peer: Option<SocketAddr>) -> Option<RequestHead> {
        let mut head = RequestHead::default();
        head.method = Method::from_bytes(self.method.as_bytes()).ok()?;
        head.uri = Uri::try_from(self.target).ok()?;
        head.version = Version::HTTP_11;
        head.peer_addr = peer;
        for field in self.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            head.headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
        Some(head)
    }

    /// How many bytes the request took.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether the connection ends with the answer.
    pub fn closes(&self) -> bool {
        self.closes
    }
}

/// The role of a request's field here.
enum FieldRole {
    Nothing,
    Condition,
    Host,
    Range,
    Connection,
}

impl FieldRole {
    /// `None` for a field that changes how messages are told apart.
    fn of(name: &str) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") => Some(Self::Host),
            5 if is("range") => Some(Self::Range),
            10 if is("connection") => Some(Self::Connection),
            _ if is_condition(name) => Some(Self::Condition),
            _ => {
                let framing = [
                    "content-length",
                    "transfer-encoding",
                    "expect",
                    "upgrade",
                    "te",
                    "trailer",
                ];
                let known = framing.iter().any(|framing| is(framing));
                (!known).then_some(Self::Nothing)
            }
        }
    }
}

/// The body of an answer whose header is written already.
pub enum QuickBody {
    /// None.
    Empty,
    /// All of it.
    SmallBody(Bytes),
    /// A range of an object, to be sent by [`send_now`](crate::store::Source::send_now), or read on by
    /// [`Service::read_on`].
    Object {
        /// The object. Who holds it keeps it open.
        object: Arc<Object>,
        /// Which of its bytes.
        range: ByteRange,
        /// The target to ask for should bytes be gone.
        place: Rc<RequestTarget>,
    },
}

/// A header to be given again while its second lasts.
#[derive(Debug)]
pub(super) struct CachedHead {
    /// The object's head that the header was made of.
    head: Arc<Head>,
    length: u64,
    /// By [`crate::clock::Clock::elapsed`].
    until: Duration,
    /// All fields but those of the framing, each with its end of line.
    fields: Vec<u8>,
    kept: Option<Arc<SmallBody>>,
    tally: HitCounter,
    /// How often it was given, and how often of those its object was told of.
    given: u32,
    told: u32,
}

impl Service {
    /// Answers from an open, whole and fresh object: writes the header behind what is in `into`. `None`, with nothing
    /// written, sends the request the long way.
    pub fn quick(&self, cache: &RequestCache, request: &QuickRequest<'_, '_>, into: &mut Vec<u8>) -> Option<QuickBody> {
        if !request.is_plain {
            return None;
        }
        // Borrowed to the end: nothing in here waits, and a worker has one thread.
        let mut table = cache.table();
        if let Some(known) = table.get_mut(request.path) {
            return self.quickly(known, request, into);
        }
        let mut known = self.remembered(request.path)?;
        let body = self.quickly(&mut known, request, into);
        RequestCache::remember(&mut table, request.path, known);
        body
    }

    fn quickly(&self, known: &mut Remembered, request: &QuickRequest<'_, '_>, into: &mut Vec<u8>) -> Option<QuickBody> {
        let now = self.clock.elapsed();
        // A small body is known to be current without a look at its object.
        let small = |template: &&mut CachedHead| {
            now < template.until && template.kept.as_ref().is_some_and(|kept| kept.is_current())
        };
        if let Some(template) = known.template.as_mut().filter(small) {
            let (range, is_part) = selected(request.range, template.length)?;
            template.write(range, is_part, request.closes, into);
            template.note();
            self.count(is_part);
            let body = template.kept.as_ref().zip(range).map(|(kept, range)| {
                self.metrics.sent_bytes.inc_by(range.len());
                QuickBody::SmallBody(kept.part(range))
            });
            return Some(body.unwrap_or(QuickBody::Empty));
        }
        let object = self.store.resident(&known.place.target.key)?;
        let is_current = |template: &CachedHead| {
            now < template.until && Arc::ptr_eq(&template.head, &object.head()) && object.is_whole()
        };
        let is_new = !known.template.as_ref().is_some_and(is_current);
        if is_new {
            // Dropping the old header reports its hits first.
            known.template = None;
            known.template = Some(self.template(known, &object, now)?);
        }
        let template = known.template.as_mut()?;
        let (range, is_part) = selected(request.range, template.length)?;
        if !is_new {
            template.note();
        }
        template.write(range, is_part, request.closes, into);
        self.count(is_part);
        Some(match (range, &template.kept) {
            (None, _) => QuickBody::Empty,
            (Some(range), Some(kept)) => {
                self.metrics.sent_bytes.inc_by(range.len());
                QuickBody::SmallBody(kept.part(range))
            }
            (Some(range), None) => QuickBody::Object {
                object,
                range,
                place: Rc::clone(&known.place),
            },
        })
    }

    /// The rest of a body by the ordinary way: bytes that are not in memory are read, bytes that are gone are
    /// fetched.
    pub fn read_on(&self, object: &Arc<Object>, range: ByteRange, place: &RequestTarget) -> impl MessageBody + use<> {
        let source = RefetchSource {
            fills: self.fills.clone(),
            target: Arc::clone(&place.target),
        };
        let segments = vec![Segment::Object(range)];
        let watch = Watch::new(Arc::clone(object));
        ObjectBody::new(watch, None, Some(source), segments, Arc::clone(&self.metrics))
    }

    fn count(&self, is_part: bool) {
        self.metrics.hits.inc();
        self.metrics.answered(if is_part { 206 } else { 200 });
    }

    /// Where a path leads, to be remembered.
    fn remembered(&self, path: &str) -> Option<Remembered> {
        let uri = Uri::try_from(path).ok()?;
        if path.len() > MAX_RECENT_BYTES || uri.path() != path || uri.query().is_some() {
            return None;
        }
        match self.routes.resolve(path, None) {
            Ok(Routed::Fetch { target, delivery }) => Some(Remembered::new(target, delivery)),
            _ => None,
        }
    }

    /// The header that the ordinary way gives to a request for all of the object. `None` where the answer
    /// depends on more than the object.
    fn template(&self, known: &Remembered, object: &Arc<Object>, now: Duration) -> Option<CachedHead> {
        let head = Arc::clone(&object.head());
        let length = object.length()?;
        let representation = head.representation();
        let depends = !representation.selected_by.is_empty() || representation.header("content-encoding").is_some();
        if depends || representation.status != 200 || self.ttl(object, now) < LEAST_TTL_SECONDS {
            return None;
        }
        let RequestTarget { target, delivery } = &*known.place;
        let no_fields: &[(String, String)] = &[];
        let selected = self.resident(target, no_fields)?;
        let kept = object.source().small_body();
        let is_same = Arc::ptr_eq(&selected, object);
        let response = self.stored_answer(&Request::plain(*delivery), target, selected)?;
        if !is_same || response.status() != StatusCode::OK {
            return None;
        }
        Some(CachedHead {
            length,
            until: second_ends(&head, now),
            fields: lines_of(&response.head, self.clock.now()),
            kept: kept.filter(|kept| kept.bytes().len() as u64 == length),
            head,
            tally: object.hit_counter(),
            given: 0,
            told: 0,
        })
    }
}

/// The range of an object of `length` bytes that is to be sent, and whether it is a part of it; `None` where the
/// answer is of another kind.
fn selected(field: Option<&[u8]>, length: u64) -> Option<(Option<ByteRange>, bool)> {
    let Some(field) = field else {
        return Some((ByteRange::new(0, length), false));
    };
    if let Some(range) = select_one(field, length) {
        return Some((Some(range), true));
    }
    match select(Some(field), length) {
        Selection::Whole => Some((ByteRange::new(0, length), false)),
        Selection::Ranges(ranges) if ranges.len() == 1 => Some((Some(ranges[0]), true)),
        Selection::Ranges(_) | Selection::Unsatisfiable => None,
    }
}

/// The lines of a header, without those of the framing.
pub fn lines_of(response: &HttpResponse<()>, now: SystemTime) -> Vec<u8> {
    let of_framing = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let mut lines = Vec::with_capacity(512);
    for (name, value) in response.headers().iter().filter(|(name, _)| !of_framing.contains(name)) {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    if !response.headers().contains_key(header::DATE) {
        let date = print_date(from_unix_seconds(unix_seconds(now)));
        lines.extend_from_slice(format!("date: {date}\r\n").as_bytes());
    }
    lines
}

impl CachedHead {
    /// Writes the header for a range, or for the whole object.
    fn write(&self, range: Option<ByteRange>, is_part: bool, closes: bool, into: &mut Vec<u8>) {
        let length = range.map_or(0, |range| range.len());
        let status: &[u8] = match is_part {
            true => b"HTTP/1.1 206 Partial Content\r\n",
            false => b"HTTP/1.1 200 OK\r\n",
        };
        into.extend_from_slice(status);
        into.extend_from_slice(&self.fields);
        let mut number = itoa::Buffer::new();
        let mut put = |before: &str, value: u64| {
            into.extend_from_slice(before.as_bytes());
            into.extend_from_slice(number.format(value).as_bytes());
        };
        if let (true, Some(range)) = (is_part, range) {
            put("content-range: bytes ", range.start());
            put("-", range.end() - 1);
            put("/", self.length);
            put("\r\ncontent-length: ", length);
        } else {
            put("content-length: ", length);
        }
        let end = if closes {
            "\r\nconnection: close\r\n\r\n"
        } else {
            "\r\n\r\n"
        };
        into.extend_from_slice(end.as_bytes());
    }

    /// Notes that it was given once more.
    fn note(&mut self) {
        self.given = self.given.saturating_add(1);
        let untold = self.given - self.told;
        if untold > self.told / TOLD_SHARE || untold >= TOLD_AFTER {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.tally.answered(self.given - self.told);
        self.told = self.given;
    }
}

impl Drop for CachedHead {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<QuickRequest<'_, '_>> {
        QuickRequest::read(text.as_bytes(), Box::leak(Box::default()))
    }

    #[test]
    fn a_seek_of_a_player_is_read() {
        let text =
            "GET /film.mkv HTTP/1.1\r\nUser-Agent: VLC\r\nHost: a:1\r\nRange: bytes=5-\r\nIcy-MetaData: 1\r\n\r\nGET";
        let request = read(text).expect("whole");
        assert_eq!((request.path, request.range), ("/film.mkv", Some(&b"bytes=5-"[..])));
        assert_eq!(&text[request.length()..], "GET");
        assert!(!request.closes());
        let closes = read("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n").expect("whole");
        assert!(closes.closes());
    }

    #[test]
    fn only_an_unconditional_get_of_a_path_is_plain() {
        for (line, is_plain) in [
            ("GET /a HTTP/1.1", true),
            ("GET /a HTTP/1.1\r\nRange: bytes=0-", true),
            ("GET /a HTTP/1.1\r\nCookie: b", true),
            ("HEAD /a HTTP/1.1", false),
            ("GET /a?b HTTP/1.1", false),
            ("GET /a HTTP/1.1\r\nIf-None-Match: \"a\"", false),
            ("GET /a HTTP/1.1\r\nIf-Range: \"a\"\r\nRange: bytes=0-", false),
            ("GET /a HTTP/1.1\r\nCache-Control: no-cache", false),
            ("GET /a HTTP/1.1\r\nPragma: no-cache", false),
            ("GET /a HTTP/1.1\r\nPrefer: wait=5", false),
            ("GET /a HTTP/1.1\r\nWant-Repr-Digest: sha-256=5", false),
            ("GET /a HTTP/1.1\r\nRange: bytes=0-1\r\nRange: bytes=5-6", false),
        ] {
            let text = format!("{line}\r\nHost: a\r\n\r\n");
            let request = read(&text).expect("whole");
            assert_eq!((request.path, request.is_plain), ("/a", is_plain), "{line}");
            let head = request.head(None).expect("in the framework's words");
            let uri = head.uri.path_and_query().expect("a path").as_str();
            let told = format!("{} {uri} HTTP/1.1", head.method);
            assert_eq!(Some(told.as_str()), line.lines().next());
            assert_eq!(head.headers.len(), text.lines().count() - 2, "{line}");
        }
    }

    #[test]
    fn requests_with_a_body_or_unusual_framing_are_not_taken() {
        for line in [
            "POST / HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.0\r\nHost: a",
            "GET http://a/ HTTP/1.1\r\nHost: a",
            "GET * HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1\r\nUser-Agent: b",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket",
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue",
            "GET / HTTP/1.1\r\nHost : a",
            "GET / HTTP/1.1\r\n Host: a",
        ] {
            assert!(read(&format!("{line}\r\n\r\n")).is_none(), "{line}");
        }
        assert!(read("GET / HTTP/1.1\r\nHost: a\r\n").is_none());
        assert!(
            read("GET /-/metrics HTTP/1.1\r\nHost: a\r\n\r\n").is_none(),
            "the API is the framework's"
        );
    }

    #[test]
    fn several_or_unsatisfiable_ranges_are_not_selected() {
        let range = |start, end| ByteRange::new(start, end);
        assert_eq!(selected(None, 100), Some((range(0, 100), false)));
        assert_eq!(selected(Some(b"bytes=-5"), 100), Some((range(95, 100), true)));
        assert_eq!(selected(Some(b"bytes=5-"), 100), Some((range(5, 100), true)));
        assert_eq!(selected(Some(b"lines=5-"), 100), Some((range(0, 100), false)));
        assert_eq!(selected(Some(b"bytes=0-0,50-60"), 100), None);
        assert_eq!(selected(Some(b"bytes=100-"), 100), None);
        assert_eq!(selected(None, 0), Some((None, false)));
    }
}
