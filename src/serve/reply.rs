//! An answer before it is sent: its head, and its body as what it is.
//!
//! A connection of our own sends each kind of body in the way that costs least ([`ReplyBody::Object`] from the page cache);
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
pub struct Reply {
    /// The status and the fields, without those of the framing.
    pub head: HttpResponse<()>,
    /// The body.
    pub body: ReplyBody,
}

/// The body of an answer.
pub enum ReplyBody {
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

impl Reply {
    pub(super) fn new(head: HttpResponse<()>, body: ReplyBody) -> Self {
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
            ReplyBody::HeadOnly(body) => body.size(),
            ReplyBody::Memory(bytes) => BodySize::Sized(bytes.len() as u64),
            ReplyBody::Object(body) => body.size(),
            ReplyBody::Stream(body) => body.size(),
        }
    }
}

impl From<HttpResponse> for Reply {
    fn from(response: HttpResponse) -> Self {
        let (head, body) = response.into_parts();
        Self::new(head, ReplyBody::Stream(body))
    }
}

impl From<Reply> for HttpResponse {
    fn from(Reply { head, body }: Reply) -> Self {
        let body = match body {
            ReplyBody::HeadOnly(body) => BoxBody::new(body),
            ReplyBody::Memory(bytes) => BoxBody::new(bytes),
            ReplyBody::Object(body) => BoxBody::new(body),
            ReplyBody::Stream(body) => body,
        };
        head.set_body(body)
    }
}

impl std::fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HeadOnly(_) => "HeadOnly",
            Self::Memory(_) => "Memory",
            Self::Object(_) => "Object",
            Self::Stream(_) => "Stream",
        })
    }
}
