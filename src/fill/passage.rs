//! Requests that are not answered from the store: passed on as they are, once, in both directions at the pace
//! of the slower side.
//!
//! The exchange runs where fills run, in its turn of the upstream's budget. A request whose method is not safe
//! is sent once: where its fate is not known, the client is told so and decides.

use super::registry::Registry;
use crate::upstream::{Class, Framing, Relay, Target, UpstreamError};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// So many pieces of a body wait between the two sides, each way.
const PIECES: usize = 4;

/// The body of a request on its way to the upstream.
#[derive(Debug)]
pub struct Outgoing {
    /// Its length in bytes, where the client says it.
    pub length: Option<u64>,
    /// Its pieces; an error where the client's end was cut, which cuts the upstream's too.
    pub pieces: mpsc::Receiver<io::Result<Bytes>>,
}

/// A request that is sent once, and whose reply is logged.
pub struct Sending {
    /// Its method.
    pub method: String,
    /// Its body, where it has one.
    pub body: Option<Outgoing>,
    /// Is called with the reply's status and fields, on a blocking thread, before anybody else sees them.
    pub seen: Box<Seen>,
}

/// What is done with the status and fields of a reply.
pub type Seen = dyn FnOnce(u16, &[(String, String)]) + Send;

impl Outgoing {
    /// A body of that length, and the end that it is put into.
    pub fn new(length: Option<u64>) -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Self { length, pieces })
    }
}

/// An upstream's answer to a request that was passed on.
#[derive(Debug)]
pub struct Passed {
    /// Its status.
    pub status: u16,
    /// Its end-to-end fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The length of its body in bytes, where the framing says it.
    pub length: Option<u64>,
    /// The body; an error where it was cut.
    pub pieces: mpsc::Receiver<Result<Bytes, UpstreamError>>,
}

impl Registry {
    /// Passes a request on and returns with the head of the answer. `seen` is called with its status and fields
    /// before that, on a blocking thread, also where the client has gone meanwhile.
    ///
    /// # Errors
    /// Where no answer came, or no turn.
    pub async fn pass_on(
        &self,
        target: Arc<Target>,
        method: String,
        body: Option<Outgoing>,
        seen: impl FnOnce(u16, &[(String, String)]) + Send + 'static,
    ) -> Result<Passed, UpstreamError> {
        let (told, head) = oneshot::channel();
        let context = Arc::clone(self.context());
        let (runtime, limit) = (context.runtime.clone(), context.client.reply_timeout());
        let host = target.url.host_str().unwrap_or_default().to_owned();
        let silent = move || UpstreamError::Silent {
            host: host.clone(),
            limit,
        };
        let silent_too = silent.clone();
        runtime.spawn(async move {
            let turn = context.client.budget_of(&target.url);
            let Ok(permit) = tokio::time::timeout(limit, turn.acquire(Class::Waiting)).await else {
                let _ = told.send(Err(silent()));
                return;
            };
            let request = Relay {
                target,
                method,
                length: body.as_ref().and_then(|body| body.length),
                body: body.map(|body| body.pieces),
            };
            let mut exchange = match context.client.pass(request).await {
                Ok(exchange) => exchange,
                Err(error) => {
                    if !error.is_refused() {
                        permit.unanswered();
                    }
                    let _ = told.send(Err(error));
                    return;
                }
            };
            permit.answered();
            let (sender, pieces) = mpsc::channel(PIECES);
            let passed = Passed {
                status: exchange.reply.status,
                fields: exchange.end_to_end(),
                length: match exchange.reply.framing {
                    Framing::Length(length) => Some(length),
                    Framing::Delimited | Framing::Close => None,
                },
                pieces,
            };
            let (status, fields) = (passed.status, passed.fields.clone());
            // A panic in there is logged, and costs the answer nothing.
            let _ = tokio::task::spawn_blocking(move || seen(status, &fields)).await;
            if told.send(Ok(passed)).is_err() {
                return;
            }
            loop {
                let piece = match exchange.next_within(context.client.read_idle_timeout()).await {
                    Ok(None) => return,
                    Ok(Some(piece)) => Ok(piece),
                    Err(error) => Err(error),
                };
                let over = piece.is_err();
                // A client that has gone needs no more of it.
                if sender.send(piece).await.is_err() || over {
                    return;
                }
            }
        });
        // A task that was lost has told nothing.
        head.await.unwrap_or_else(|_| Err(silent_too()))
    }
}
