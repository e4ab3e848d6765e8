//! The handler of a connection's requests: the seam between the wire and all that stands above it.
//!
//! The wire asks in the order of what an answer costs: [`Handler::hit`] writes a header into the worker's own buffer and
//! takes no memory from the heap; [`Handler::at_once`] needs the framework's map of fields; [`Handler::answer`] may wait
//! for anything. The first that has an answer gives it. A hit is of one type of source, known when the server is
//! compiled, so that sending it takes no indirect call.

use super::request_head::RequestHead;
use super::response::Response;
use super::send_file::SendFile;
use crate::ranges::ByteRange;
use actix_web::body::MessageBody;
use actix_web::dev;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

/// The handler of the requests that one worker's connections read.
pub trait Handler {
    /// The stored bytes of hits.
    type Source: SendFile + 'static;
    /// Where the bytes of a hit come from, should they be gone before they are sent.
    type Place;

    /// Answers a request without a wait: writes the header, its end included, behind what is in `into`. `None`, with
    /// nothing written, where more has to be looked at than this.
    fn hit(&self, request: &RequestHead<'_, '_>, into: &mut Vec<u8>) -> Option<HitBody<Self::Source, Self::Place>>;

    /// Goes on with the body of a hit by reading, where it cannot be sent from where it lies.
    fn read_on(&self, source: &Arc<Self::Source>, range: ByteRange, place: &Self::Place) -> impl MessageBody;

    /// Answers a request without a wait; `None` where the answer has to be waited for.
    fn at_once(&self, head: &dev::RequestHead) -> Option<Response>;

    /// The answer to a request. It is dropped where the client leaves before it.
    fn answer(&self, head: &dev::RequestHead) -> impl Future<Output = Response>;

    /// Whether a client that has closed its side of the connection still waits for the answer to its request.
    fn may_half_close(&self, head: &dev::RequestHead) -> bool;

    /// Notes that so many bytes of the body of a hit were sent from where they lay.
    fn sent(&self, bytes: u64);

    /// The time, for `Date`.
    fn now(&self) -> SystemTime;
}

/// The body of an answer whose header is written already.
pub enum HitBody<S, P> {
    /// None.
    Empty,
    /// All of it. It counts as sent.
    Memory(Bytes),
    /// A range of stored bytes.
    Stored {
        /// The bytes, which it keeps open.
        source: Arc<S>,
        /// The range of them.
        range: ByteRange,
        /// Where the bytes come from, should they be gone.
        place: P,
    },
}

/// The body of a hit that a handler gives.
pub(super) type BodyOf<H> = HitBody<<H as Handler>::Source, <H as Handler>::Place>;
