//! The news of a fill: how far it has come, and why it makes no progress.
//!
//! The owner writes both, and readers turn them into answers: a phase that brings no bytes ends the wait for the head,
//! a trouble ends that of the readers whose bytes the upstream has refused. Phases are final but for two: `Opening` comes
//! to another, and `Ready` may become `Ready` with another object, or the phase that ends the fill.

use crate::ranges::ByteOffset;
use crate::store::Object;
use crate::upstream::UpstreamError;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How far a fill has come.
#[derive(Debug, Clone)]
pub enum Phase {
    /// The upstream has not answered yet.
    Opening,
    /// The representation is known; its bytes are here or on their way.
    Ready(Arc<Object>),
    /// The upstream answered with a status that brings no bytes.
    Refused(Arc<Refusal>),
    /// The upstream gave no answer.
    Failed(Arc<UpstreamError>),
    /// The upstream is left alone for so long: it asked for that, or is known to be down.
    Resting(Duration),
    /// The URL redirects to a document with relative names in it, so the client must know where that is.
    Redirected(Arc<Moved>),
    /// The upstream gives no parts: what is wanted comes with the whole.
    WithoutParts,
    /// The store could not take the object.
    Disk(Arc<str>),
    /// The server is stopping.
    Stopping,
}

/// Where an upstream's redirects lead.
#[derive(Debug, PartialEq, Eq)]
pub struct Moved {
    /// The status of the first.
    pub status: u16,
    /// The end of the way.
    pub url: Url,
}

/// An upstream's answer that is not the object.
#[derive(Debug)]
pub struct Refusal {
    /// The status: 4xx, 5xx, or another that is neither a success nor a redirect.
    pub status: u16,
    /// The end-to-end fields of the answer.
    pub headers: Vec<(String, String)>,
    /// `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// The same as a length of time.
    pub rest: Option<Duration>,
    /// The start of its body.
    pub body: bytes::Bytes,
    /// The complete length, in a 416.
    pub complete_length: Option<u64>,
}

/// Why a fill makes no progress at the moment.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// The failure, in words.
    pub what: Arc<str>,
    /// The upstream's answer, where there was one, with the bytes it was an answer for: from the first
    /// up to, not including, the second.
    pub refusal: Option<(Arc<Refusal>, ByteOffset, ByteOffset)>,
}

impl Trouble {
    /// The upstream's answer to a request for the byte at `at`.
    pub fn refusal_of(&self, at: ByteOffset) -> Option<Arc<Refusal>> {
        let (refusal, from, to) = self.refusal.as_ref()?;
        (*from <= at && at < *to).then(|| Arc::clone(refusal))
    }
}
