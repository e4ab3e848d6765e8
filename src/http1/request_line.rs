//! Connections of the framework, followed: request targets as they came, and clients that take too long.
//!
//! A raw `#` is made visible before the HTTP library cuts it off.
//!
//! RFC 9112 §3.2 gives a request target no fragment, yet clients that forget to escape a `#` exist, and the URI type of the
//! library drops everything from the sign on: `DELETE /films/#1/` would remove `/films/`. The bytes of a connection
//! therefore pass a follower that knows where request lines are, and writes a byte in the place of the sign that the
//! next stage refuses: `\` in a path (400, with words) and `<` in a query (400 from the library itself).
//!
//! ```text
//! Line ──LF──► Head ──blank line──► Length(n) ──n bytes──► Line
//!                        │             Chunks ──last chunk──► Line
//!                        └─ a head that does not parse ──► Lost: nothing is touched any more
//! ```
//!
//! The follower also tells how long a client may take for what it is in (client_patience), and when a connection is between
//! two requests and can make room for another (connection_table). The library itself waits for a second head, and for a body,
//! as long as the client likes.
//!
//! The framing is read exactly as strictly as the library reads it. What either refuses ends the connection there, so a
//! follower that is `Lost` never takes bytes of a body for a request line.

use super::client_patience::{ClientPatience, Stage};
use super::connection_table::SeatHandle;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest head that is followed; the HTTP library refuses one before that with 431. Its own bound,
/// `MAX_BUFFER_SIZE`.
const MAX_HEAD_BYTES: usize = 128 * 1024;

/// The number of fields that the HTTP library takes.
const MAX_FIELDS: usize = 96;

/// A connection whose request lines are watched.
pub(crate) struct Watched<S> {
    stream: S,
    follower: Follower,
    patience: ClientPatience,
    seat: SeatHandle,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, seat: SeatHandle) -> Self {
        Self {
            stream,
            follower: Follower::default(),
            patience: ClientPatience::default(),
            seat,
        }
    }

    /// The seat of the connection.
    pub(crate) fn seat(&self) -> &SeatHandle {
        &self.seat
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, into)? {
            Poll::Ready(()) => {
                let new = into.filled_mut().get_mut(before..).unwrap_or_default();
                this.follower.pass(new);
                this.patience.came(new.len(), this.follower.stage());
                Poll::Ready(Ok(()))
            }
            Poll::Pending if this.patience.poll_over(cx).is_ready() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            // No byte is the end of what comes.
            Poll::Pending if this.follower.stage() == Stage::Between => this.seat.poll_closes(cx).map(Ok),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a request a connection is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In a request line, with the number of spaces and whether a `?` has passed.
    Line {
        spaces: u32,
        query: bool,
    },
    /// In the fields; `blank` while the current line has no byte but CR.
    Head {
        blank: bool,
    },
    /// In a body that has so many bytes to come.
    Length(u64),
    Chunks(Chunk),
    /// In what the HTTP library refuses.
    Lost,
}

/// Where in a chunked body (RFC 9112 §7.1) a connection is.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    /// In the size line: what its digits say so far, and whether they are over.
    Size {
        size: u64,
        over: bool,
    },
    Data(u64),
    /// Before the line end behind a chunk's data.
    End,
    /// Before the line end behind the last chunk.
    Last,
}

#[derive(Debug)]
struct Follower {
    place: Place,
    /// The head so far.
    head: Vec<u8>,
    /// The number of heads that were complete.
    heads: u64,
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            place: Place::START,
            head: Vec::new(),
            heads: 0,
        }
    }
}

impl Place {
    const START: Self = Self::Line {
        spaces: 0,
        query: false,
    };
    const CHUNK: Self = Self::Chunks(Chunk::Size { size: 0, over: false });
}

impl Follower {
    /// The part of a request that the connection is in.
    fn stage(&self) -> Stage {
        match self.place {
            Place::Lost => Stage::Between,
            Place::Line { .. } if self.head.is_empty() => Stage::Between,
            Place::Line { .. } | Place::Head { .. } => Stage::Head(self.heads),
            Place::Length(_) | Place::Chunks(_) => Stage::Body(self.heads),
        }
    }

    /// Follows bytes that have come, and makes the sign visible in them.
    fn pass(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while let Some(byte) = bytes.get_mut(at) {
            let left = match &mut self.place {
                Place::Lost => return,
                Place::Length(left) | Place::Chunks(Chunk::Data(left)) => left,
                _ => {
                    self.step(byte);
                    at += 1;
                    continue;
                }
            };
            let here = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX).min(*left);
            *left -= here;
            at += usize::try_from(here).unwrap_or(usize::MAX);
            if *left == 0 {
                self.place = match self.place {
                    Place::Length(_) => Place::START,
                    _ => Place::Chunks(Chunk::End),
                };
            }
        }
    }

    fn step(&mut self, byte: &mut u8) {
        match &mut self.place {
            Place::Line { spaces, query } => {
                match *byte {
                    // Empty lines before a request line count for nothing (RFC 9112 §2.2).
                    b'\r' | b'\n' if self.head.is_empty() => return,
                    b' ' => *spaces += 1,
                    b'?' if *spaces == 1 => *query = true,
                    b'#' if *spaces == 1 && *query => *byte = b'<',
                    b'#' if *spaces == 1 => *byte = b'\\',
                    _ => {}
                }
                self.head.push(*byte);
                if *byte == b'\n' {
                    self.place = Place::Head { blank: true };
                }
            }
            Place::Head { blank } => {
                self.head.push(*byte);
                match (*byte, *blank) {
                    (b'\n', true) => {
                        self.place = framing(&self.head);
                        self.heads += 1;
                        self.head = Vec::new();
                    }
                    (b'\n', false) => *blank = true,
                    (b'\r', _) => {}
                    _ => *blank = false,
                }
            }
            Place::Chunks(chunk) => self.place = after(chunk, *byte),
            Place::Length(_) | Place::Lost => {}
        }
        if self.head.len() > MAX_HEAD_BYTES {
            self.place = Place::Lost;
            self.head = Vec::new();
        }
    }
}

/// The place in a connection that follows a head.
fn framing(head: &[u8]) -> Place {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return Place::Lost;
    }
    let (mut length, mut chunked) = (None, false);
    for field in request.headers.iter() {
        let value = str::from_utf8(field.value).unwrap_or_default().trim();
        if field.name.eq_ignore_ascii_case("content-length") {
            match value.parse::<u64>() {
                Ok(bytes) if length.is_none() && !value.starts_with('+') => length = Some(bytes),
                _ => return Place::Lost,
            }
        }
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case("chunked") {
                return Place::Lost;
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Place::Lost,
        (_, true) => Place::CHUNK,
        (None | Some(0), false) => Place::START,
        (Some(bytes), false) => Place::Length(bytes),
    }
}

/// Where a chunked body is after that byte.
fn after(chunk: &Chunk, byte: u8) -> Place {
    match (chunk, byte) {
        (Chunk::Size { size, .. }, b'\n') => match size {
            0 => Place::Chunks(Chunk::Last),
            size => Place::Chunks(Chunk::Data(*size)),
        },
        (Chunk::Size { size, over: false }, digit) if digit.is_ascii_hexdigit() => {
            let value = char::from(digit).to_digit(16).map(u64::from);
            let size = value.and_then(|value| size.checked_mul(16)?.checked_add(value));
            size.map_or(Place::Lost, |size| Place::Chunks(Chunk::Size { size, over: false }))
        }
        (Chunk::Size { size, .. }, _) => Place::Chunks(Chunk::Size {
            size: *size,
            over: true,
        }),
        (Chunk::End, b'\r') => Place::Chunks(Chunk::End),
        (Chunk::End, b'\n') => Place::CHUNK,
        (Chunk::Last, b'\r') => Place::Chunks(Chunk::Last),
        (Chunk::Last, b'\n') => Place::START,
        // A trailer, which the HTTP library does not take.
        _ => Place::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{FieldSlots, RequestHead};
    use proptest::prelude::*;

    fn passed(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        Follower::default().pass(&mut bytes);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_raw_hash_is_made_visible_in_targets_alone() {
        let request = "PUT /a#b HTTP/1.1\r\nX: #\r\nContent-Length: 3\r\n\r\n#1#\r\nGET /c?d#e HTTP/1.1\r\n\r\n";
        let seen = "PUT /a\\b HTTP/1.1\r\nX: #\r\nContent-Length: 3\r\n\r\n#1#\r\nGET /c?d<e HTTP/1.1\r\n\r\n";
        assert_eq!(passed(request), seen);
        let chunked =
            "PUT /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=#\r\n#\r\n\r\n0\r\n\r\nGET /# HTTP/1.1\r\n\r\n";
        assert!(passed(chunked).ends_with("3;x=#\r\n#\r\n\r\n0\r\n\r\nGET /\\ HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn bytes_after_a_malformed_head_are_left_unchanged() {
        for head in [
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "rubbish\r\n\r\n",
        ] {
            let text = format!("{head}GET /# HTTP/1.1\r\n\r\n");
            assert_eq!(passed(&text), text);
        }
    }

    proptest! {
        #[test]
        fn the_rewrite_does_not_depend_on_how_bytes_are_split(cuts in proptest::collection::vec(1usize..40, 0..20)) {
            let text = "\r\nPUT /a#b HTTP/1.1\r\nContent-Length: 5\r\n\r\n#1#2#POST /#x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n#########\n\r\n0\r\n\r\nGET /?# HTTP/1.0\n\n";
            let mut bytes = text.as_bytes().to_vec();
            let mut follower = Follower::default();
            let mut rest = &mut bytes[..];
            for cut in cuts {
                let (piece, later) = std::mem::take(&mut rest).split_at_mut(cut.min(rest.len()));
                follower.pass(piece);
                rest = later;
            }
            follower.pass(rest);
            prop_assert_eq!(String::from_utf8(bytes).expect("text"), passed(text));
        }
    }

    #[test]
    fn fuzzed_requests_are_followed_the_same_however_they_are_split() {
        crate::fuzzing::fuzz("request_head", |bytes| {
            let mut whole = bytes.to_vec();
            let mut follower = Follower::default();
            follower.pass(&mut whole);
            let mut split = bytes.to_vec();
            let mut other = Follower::default();
            split.iter_mut().for_each(|byte| other.pass(std::slice::from_mut(byte)));
            assert_eq!((&whole, follower.place), (&split, other.place));
            let mut slots = FieldSlots::default();
            if let Some(request) = RequestHead::read(bytes, &mut slots) {
                assert!(request.length() <= bytes.len() && request.path().starts_with('/'));
                let _ = request.head(None);
            }
        });
    }
}
