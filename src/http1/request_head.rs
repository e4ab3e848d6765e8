//! The head of a request, read where it lies.
//!
//! A player's request needs no map of fields and no memory from the heap: `httparse` says where each field lies in the
//! bytes of the connection, and one pass over the fields tells what the connection has to know: whether it ends with
//! the answer, whether the request is one for a path and perhaps one range of it ([`RequestHead::is_plain`]), and
//! whether it is read here at all.
//!
//! A doubtful request is not read: half a head, a body, a field about the framing, two hosts, HTTP/1.0. The framework
//! reads these, with all bytes before it, so nothing is decided here that it would decide otherwise.

use crate::header::is_forwarding;
use actix_web::dev;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, Uri, Version};
use std::net::SocketAddr;

/// More fields than a player sends. A judgement: half of what the framework takes; a request with more goes to it.
const MAX_FIELDS: usize = 48;

/// A request that has no body, read where it lies.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a, 'f> {
    method: &'a str,
    /// The path, and behind it the query.
    target: &'a str,
    path: &'a str,
    fields: &'f [httparse::Header<'a>],
    host: &'a [u8],
    range: Option<&'a [u8]>,
    /// Whether it says that somebody has forwarded it.
    is_forwarded: bool,
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

impl<'a, 'f> RequestHead<'a, 'f> {
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
        let (mut host, mut range) = (None, None);
        let (mut is_forwarded, mut closes) = (false, false);
        for field in request.headers.iter() {
            match FieldRole::of(field.name)? {
                FieldRole::Nothing => {}
                FieldRole::Condition => is_plain = false,
                // Two hosts are for the framework's way, which refuses them.
                FieldRole::Host if host.is_some() => return None,
                FieldRole::Host => host = Some(field.value),
                FieldRole::Forwarding => is_forwarded = true,
                FieldRole::Range if range.is_some() => is_plain = false,
                FieldRole::Range => range = Some(field.value),
                FieldRole::Connection if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
                FieldRole::Connection if field.value.eq_ignore_ascii_case(b"close") => closes = true,
                FieldRole::Connection => return None,
            }
        }
        Some(Self {
            method,
            fields: request.headers,
            target,
            path,
            host: host?,
            range,
            is_forwarded,
            is_plain,
            closes,
            length,
        })
    }

    /// The request in the framework's words. `None` where it has none for it.
    pub fn head(&self, peer: Option<SocketAddr>) -> Option<dev::RequestHead> {
        let mut head = dev::RequestHead::default();
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

    /// The path, without the query.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The value of `Host`.
    pub fn host(&self) -> &'a [u8] {
        self.host
    }

    /// Whether it says that somebody has forwarded it.
    pub fn is_forwarded(&self) -> bool {
        self.is_forwarded
    }

    /// The value of `Range`. Where the request [is plain](RequestHead::is_plain) there is one such field at most.
    pub fn range(&self) -> Option<&'a [u8]> {
        self.range
    }

    /// Whether it is a GET for a path and perhaps one range of it, without a query, conditions or preferences.
    pub fn is_plain(&self) -> bool {
        self.is_plain
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
    Forwarding,
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
            _ if is_forwarding(name) => Some(Self::Forwarding),
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

/// Whether a field of that name says what of a stored answer its client would take.
fn is_condition(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "range",
        "cache-control",
        "pragma",
        "prefer",
        "service-worker",
        "want-repr-digest",
    ];
    let is_if = name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("if-"));
    is_if || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<RequestHead<'_, '_>> {
        RequestHead::read(text.as_bytes(), Box::leak(Box::default()))
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
}
