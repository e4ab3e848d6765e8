//! Requests that are sent once: their bodies on the way to the upstream, and those that must not die with their client.
//!
//! A body comes in pieces, at the pace of the slower side, and cannot be sent again. An error among its pieces cuts the
//! upstream's request too, so that no half of a body is taken for the whole.

use bytes::Bytes;
use std::io;
use tokio::sync::mpsc;

/// Pieces of a body that wait between the two sides, each way. A judgement: it bounds what a relayed body holds in
/// memory.
pub(in crate::fill) const PIECES: usize = 4;

/// The body of a request on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    /// The body's length in bytes, where the client says it.
    pub length: Option<u64>,
    /// The body's pieces; an error where the client's end was cut, which cuts the upstream's too.
    pub pieces: mpsc::Receiver<io::Result<Bytes>>,
}

/// A request that is sent once, and whose reply is logged.
pub struct DetachedRequest {
    /// The request's method.
    pub method: String,
    /// The request's body, where it has one.
    pub body: Option<RequestBody>,
    /// Is called with the reply's status and fields, on a blocking thread, before anybody else sees them.
    pub seen: Box<Seen>,
}

/// A callback for the status and fields of a reply.
pub type Seen = dyn FnOnce(u16, &[(String, String)]) + Send;

impl RequestBody {
    /// A body of that length, and the end that it is put into.
    pub fn new(length: Option<u64>) -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Self { length, pieces })
    }
}
