//! Requests that are sent once: their bodies on the way to the upstream, and those that must not die with their client.
//!
//! ```text
//! client ──pieces──► gather: what comes without a pause, up to HELD_BYTES ──► the upstream's turn ──► ahead, then pieces
//!            └── silent for UPLOAD_SILENCE, or broken: the client's fault, never the upstream's
//! ```
//!
//! A body comes in pieces, at the pace of the slower side, and cannot be sent again. None of the upstream's connections
//! is taken before its beginning is here, so that a client which says that it has a body and sends none holds none; where
//! there is one connection alone, a pause is waited for too. A body that is made as it is sent goes on at its first pause. An
//! error among the pieces cuts the upstream's request too, so that no half of a body is taken for the whole.

use bytes::{Bytes, BytesMut};
use futures::Stream;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};

/// Pieces of a body that wait between the two sides, each way. A judgement: it bounds what a relayed body holds in
/// memory.
pub(in crate::fill) const PIECES: usize = 4;

/// Bytes of a body that are here before the upstream is asked. A judgement: forms and API calls are whole by then.
const HELD_BYTES: usize = 64 * 1024;

/// The longest silence of a client within the body that it sends. A judgement: a phone that changes its network takes
/// some seconds.
const UPLOAD_SILENCE: Duration = Duration::from_secs(30);

/// A pause within a body: what came before it goes on. A judgement: packets of one message come closer together.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the body of a request did not come: the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadFault {
    /// The client has sent nothing for 30 seconds.
    Silent,
    /// The client has gone, or its framing is no framing.
    Broken,
}

impl UploadFault {
    /// The status that the client is told.
    pub fn status(self) -> u16 {
        match self {
            Self::Silent => 408,
            Self::Broken => 400,
        }
    }
}

/// The body of a request on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    /// The body's length in bytes, where the client says it.
    pub length: Option<u64>,
    /// The beginning, which has come before the upstream was asked.
    ahead: BytesMut,
    /// The body's pieces; an error where the client's end was cut, which cuts the upstream's too.
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    fault: FaultOfUpload,
}

/// The client's fault, where the body did not come, for who asks when the upstream's request has failed.
#[derive(Debug, Clone, Default)]
pub(in crate::fill) struct FaultOfUpload(Arc<OnceLock<UploadFault>>);

impl FaultOfUpload {
    pub(in crate::fill) fn get(&self) -> Option<UploadFault> {
        self.0.get().copied()
    }
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
        let body = Self {
            length,
            ahead: BytesMut::new(),
            pieces,
            fault: FaultOfUpload::default(),
        };
        (sender, body)
    }

    /// Waits until the body is whole, or [`HELD_BYTES`] of it are here, or, unless pauses are waited for too, something has
    /// come and then nothing for a moment.
    ///
    /// # Errors
    /// Where the client does not send it.
    pub(in crate::fill) async fn gather(&mut self, over_pauses: bool) -> Result<(), UploadFault> {
        while self.ahead.len() < HELD_BYTES {
            let may_go_on = !self.ahead.is_empty() && !over_pauses;
            let patience = if may_go_on { PAUSE } else { UPLOAD_SILENCE };
            match timeout(patience, self.pieces.recv()).await {
                Err(_) if may_go_on => return Ok(()),
                Ok(Some(Ok(piece))) => self.ahead.extend_from_slice(&piece),
                Ok(None) => return Ok(()),
                Ok(Some(Err(_))) => return Err(UploadFault::Broken),
                Err(_) => return Err(UploadFault::Silent),
            }
        }
        Ok(())
    }

    /// Takes all of the body, for a request that is not sent.
    ///
    /// # Errors
    /// Where the client does not send it.
    pub async fn discard(mut self) -> Result<(), UploadFault> {
        loop {
            match timeout(UPLOAD_SILENCE, self.pieces.recv()).await {
                Ok(Some(Ok(_))) => {}
                Ok(None) => return Ok(()),
                Ok(Some(Err(_))) => return Err(UploadFault::Broken),
                Err(_) => return Err(UploadFault::Silent),
            }
        }
    }

    /// Where the fault will be found that the client has made meanwhile.
    pub(in crate::fill) fn fault(&self) -> FaultOfUpload {
        self.fault.clone()
    }

    /// All of the body, in pieces.
    pub(in crate::fill) fn into_pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
        Uploading {
            ahead: Some(self.ahead.freeze()).filter(|ahead| !ahead.is_empty()),
            pieces: self.pieces,
            silence: None,
            fault: self.fault,
        }
    }
}

/// A body that is being sent to the upstream.
struct Uploading {
    ahead: Option<Bytes>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Runs while the upstream would take more than the client has sent.
    silence: Option<Pin<Box<Sleep>>>,
    fault: FaultOfUpload,
}

impl Stream for Uploading {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(Ok(ahead)));
        }
        if let Poll::Ready(piece) = self.pieces.poll_recv(cx) {
            self.silence = None;
            if matches!(piece, Some(Err(_))) {
                let _ = self.fault.0.set(UploadFault::Broken);
            }
            return Poll::Ready(piece);
        }
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(UPLOAD_SILENCE)));
        ready!(silence.as_mut().poll(cx));
        let _ = self.fault.0.set(UploadFault::Silent);
        Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;
    use futures::StreamExt;

    #[tokio::test(start_paused = true)]
    async fn a_small_body_is_whole_before_the_upstream_is_asked() {
        let (sender, mut body) = RequestBody::new(Some(6));
        for piece in ["one", "two"] {
            sender.send(Ok(Bytes::from(piece))).await.expect("taken");
        }
        drop(sender);
        assert_eq!(body.gather(false).await, Ok(()));
        let pieces: Vec<_> = body.into_pieces().collect().await;
        let bytes: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.expect("whole")).collect();
        assert_eq!(bytes, b"onetwo");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_begins_is_the_clients_fault_after_its_silence() {
        let (sender, mut body) = RequestBody::new(Some(1_000_000));
        sender.send(Ok(Bytes::from_static(b"x"))).await.expect("taken");
        let begun = Instant::now();
        assert_eq!(body.gather(true).await, Err(UploadFault::Silent));
        assert_eq!(begun.elapsed(), UPLOAD_SILENCE);
        let (_sender, mut nothing) = RequestBody::new(Some(1_000_000));
        assert_eq!(nothing.gather(false).await, Err(UploadFault::Silent));
        let (sender, mut body) = RequestBody::new(None);
        sender
            .send(Err(io::ErrorKind::InvalidData.into()))
            .await
            .expect("taken");
        assert_eq!(body.gather(false).await, Err(UploadFault::Broken));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_made_as_it_is_sent_goes_on_at_its_first_pause() {
        let (sender, mut body) = RequestBody::new(None);
        sender.send(Ok(Bytes::from_static(b"first"))).await.expect("taken");
        let begun = Instant::now();
        assert_eq!(body.gather(false).await, Ok(()));
        assert_eq!(begun.elapsed(), PAUSE);
        let mut pieces = Box::pin(body.into_pieces());
        assert_eq!(pieces.next().await.expect("a piece").expect("bytes"), "first");
        sender.send(Ok(Bytes::from_static(b"second"))).await.expect("taken");
        assert_eq!(pieces.next().await.expect("a piece").expect("bytes"), "second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_cut_and_the_fault_told() {
        let (sender, mut body) = RequestBody::new(None);
        sender.send(Ok(Bytes::from(vec![0; HELD_BYTES]))).await.expect("taken");
        assert_eq!(body.gather(false).await, Ok(()));
        let fault = body.fault();
        let mut pieces = Box::pin(body.into_pieces());
        assert_eq!(pieces.next().await.expect("a piece").expect("bytes").len(), HELD_BYTES);
        assert_eq!(fault.get(), None);
        let begun = Instant::now();
        assert!(pieces.next().await.expect("an end").is_err());
        assert_eq!(
            (fault.get(), begun.elapsed()),
            (Some(UploadFault::Silent), UPLOAD_SILENCE)
        );
        drop(sender);
    }
}
