//! An answer before it is sent: its head, and its body as what it is.
//!
//! A connection of our own sends each kind of body in the way that costs least ([`ResponseBody::Object`] from the page cache);
//! the framework gets it as a body of its own kind, which reads ([`From`]). Both come from the same value, so that what is
//! promised in the head is the same whoever sends it.

use super::body::{HeadOnly, ObjectBody};
use crate::ranges::ByteRange;
use crate::store::Object;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use std::sync::Arc;

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
    /// Bytes of an object, as they are here or come.
    Object(Box<ObjectBody>),
    /// Any other, as it comes.
    Stream(BoxBody),
}

/// The next bytes of an [`ObjectBody`], to be sent as they lie.
pub enum BodyPiece {
    /// In memory. They count as sent.
    Memory(Bytes),
    /// In the object's file, most likely.
    Stored(Arc<Object>, ByteRange),
}

impl Response {
    pub(super) fn new(head: HttpResponse<()>, body: ResponseBody) -> Self {
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
            ResponseBody::Object(body) => body.size(),
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
            ResponseBody::Object(body) => BoxBody::new(body),
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
            Self::Object(_) => "Object",
            Self::Stream(_) => "Stream",
        })
    }
}
