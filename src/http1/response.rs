//! An answer before it is sent: its head, and its body as what it is.
//!
//! A connection of our own sends each kind of body in the way that costs least ([`ResponseBody::Stored`] from the page cache);
//! the framework gets it as a body of its own kind, which reads ([`From`]). Both come from the same value, so that what is
//! promised in the head is the same whoever sends it.

use super::send_file::SendFile;
use crate::clock::{from_unix_seconds, unix_seconds};
use crate::header::print_date;
use crate::ranges::ByteRange;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use bytes::Bytes;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status and the fields, without those of the framing.
    pub head: HttpResponse<()>,
    /// The body.
    pub body: ResponseBody,
}

/// The body of an answer.
pub enum ResponseBody {
    /// That of the answer to HEAD.
    HeadOnly(HeadOnly),
    /// All of it, in memory.
    Memory(Bytes),
    /// Bytes that lie stored, as they are here or come.
    Stored(Box<dyn StoredBody>),
    /// Any other, as it comes.
    Stream(BoxBody),
}

/// A body whose bytes lie stored, as far as they are here. It can be read like any other; what is asked for piece by
/// piece may be sent from where it lies. Both ways may be mixed: each goes on where the other has ended.
pub trait StoredBody: MessageBody<Error = Box<dyn Error>> + Unpin {
    /// The next piece: bytes in memory, or a stretch that may be sent from where it lies. Of that the caller says what
    /// has been sent ([`StoredBody::sent`]). `None` at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Box<dyn Error>>>>;

    /// Notes that bytes of a stretch have been sent from where they lay.
    fn sent(&mut self, bytes: u64);
}

/// The next bytes of a [`StoredBody`], to be sent as they lie.
pub enum BodyPiece {
    /// In memory. They count as sent.
    Memory(Bytes),
    /// In a file, most likely.
    Stored(Arc<dyn SendFile>, ByteRange),
}

/// The body of an answer to HEAD: it has the length that GET's would have, and no byte.
///
/// The framework polls the body of such an answer and drops what it gets: a [`StoredBody`] would read, or fetch, the whole
/// film for nothing.
#[derive(Debug, Clone, Copy)]
pub struct HeadOnly(BodySize);

impl HeadOnly {
    /// That of an answer whose body has this size.
    pub fn new(size: BodySize) -> Self {
        Self(size)
    }
}

impl MessageBody for HeadOnly {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

impl Response {
    /// An answer of these parts.
    pub fn new(head: HttpResponse<()>, body: ResponseBody) -> Self {
        Self { head, body }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status()
    }

    /// The fields, but for those of the framing.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.head.headers_mut()
    }

    /// The length that the head promises.
    pub fn size(&self) -> BodySize {
        match &self.body {
            ResponseBody::HeadOnly(body) => body.size(),
            ResponseBody::Memory(bytes) => BodySize::Sized(bytes.len() as u64),
            ResponseBody::Stored(body) => body.size(),
            ResponseBody::Stream(body) => body.size(),
        }
    }
}

impl From<HttpResponse> for Response {
    fn from(response: HttpResponse) -> Self {
        let (head, body) = response.into_parts();
        Self::new(head, ResponseBody::Stream(body))
    }
}

impl From<Response> for HttpResponse {
    fn from(Response { head, body }: Response) -> Self {
        let body = match body {
            ResponseBody::HeadOnly(body) => BoxBody::new(body),
            ResponseBody::Memory(bytes) => BoxBody::new(bytes),
            ResponseBody::Stored(body) => BoxBody::new(body),
            ResponseBody::Stream(body) => body,
        };
        head.set_body(body)
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HeadOnly(_) => "HeadOnly",
            Self::Memory(_) => "Memory",
            Self::Stored(_) => "Stored",
            Self::Stream(_) => "Stream",
        })
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
