//! Relayed requests, which are not answered from the store: sent upstream as they are, once, in both directions at the pace
//! of the slower side.
//!
//! The exchange runs where fills run, in its turn of the upstream's budget. A request whose method is not safe
//! is sent once: where its fate is not known, the client is told so and decides.
//!
//! A client that is slow holds one of the upstream's connections, and nobody else's: what it does wrong with its body is
//! its own fault (`request_body`), and an answer that it does not read gives way to whoever waits for a connection.

pub(super) mod request_body;

use super::context::Context;
use super::fetch::classify_reply::statement;
use super::registry::Registry;
use crate::key::ObjectKey;
use crate::policy::{Fields, RequestDirectives, Terms, age_on_arrival, selecting, storable_for_get};
use crate::store::{Broken, Representation, Store, StoreError};
use crate::upstream::{Exchange, Framing, Permit, Relay, Target, UpstreamError};
use bytes::Bytes;
use request_body::{FaultOfUpload, PIECES, RequestBody, UploadFault};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use url::Url;

/// An upstream's answer to a relayed request.
#[derive(Debug)]
pub struct Relayed {
    /// The status of the answer.
    pub status: u16,
    /// The end-to-end fields of the answer, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The length of its body in bytes, where the framing says it.
    pub length: Option<u64>,
    /// The body.
    pub body: RelayedBody,
}

/// The body of an upstream's answer.
#[derive(Debug)]
pub struct RelayedBody {
    pieces: mpsc::Receiver<Result<Bytes, UpstreamError>>,
    /// Whether its client has not read for long, and somebody else needed the connection. Relaxed: the channel, which is
    /// closed behind it, publishes it.
    is_given_up: Arc<AtomicBool>,
}

impl RelayedBody {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Where the body was cut.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.pieces.recv().await {
            Some(piece) => Some(piece.map_err(io::Error::other)),
            None if self.is_given_up.swap(false, Ordering::Relaxed) => Some(Err(io::ErrorKind::TimedOut.into())),
            None => None,
        }
    }
}

/// Why a request was not relayed.
#[derive(Debug)]
pub enum RelayError {
    /// No answer came, or no turn.
    Upstream(UpstreamError),
    /// The client did not send its body.
    Upload(UploadFault),
}

/// How long an answer may wait for its client before it gives way to whoever waits for a connection. A judgement: a
/// client that reads slowly reads something in that time.
const UNREAD_WAIT: Duration = Duration::from_secs(30);

/// The longest answer to a POST that is kept for later GETs, in bytes: it is held in memory until it is whole. A
/// judgement.
const MOST_KEPT_BYTES: usize = 1 << 20;

/// The part of an answer that is kept while it is relayed.
struct Keeping {
    representation: Representation,
    body: Vec<u8>,
}

impl Keeping {
    /// The start of an answer that later GETs of its URL may be given.
    fn of(context: &Context, exchange: &Exchange) -> Option<Self> {
        let (mut representation, _) = statement(&exchange.reply);
        let target = &exchange.target;
        if target.drop_cookies {
            representation.headers.retain(|(name, _)| name != "set-cookie");
        }
        let now = context.store.now();
        let (reply, fields) = (&exchange.reply, target.fields.as_slice());
        representation.age = age_on_arrival(&*reply.headers, reply.age, reply.delay, now).as_secs();
        representation.selected_by = selecting(&representation, fields);
        let own = |url: Url| ObjectKey::of(&url) == ObjectKey::of(&target.url);
        let location = representation.header("content-location");
        let names_own_url = location.is_some_and(|location| target.url.join(location).is_ok_and(own));
        let terms = Terms::read(reply.status, &representation, now);
        let asked = RequestDirectives::read(fields);
        let authorized = fields.has("authorization");
        let kept = storable_for_get(&asked, authorized, reply.status, &representation, &terms, names_own_url);
        // An answer that varies would have to be found among its variants.
        let kept = kept.is_ok() && representation.selected_by.is_empty();
        kept.then_some(Self {
            representation,
            body: Vec::new(),
        })
    }

    fn take(mut self, piece: &Bytes) -> Option<Self> {
        self.body.extend_from_slice(piece);
        Some(self).filter(|keeping| keeping.body.len() <= MOST_KEPT_BYTES)
    }

    async fn store_apart(self, context: &Context, key: &ObjectKey) {
        let (store, key) = (Arc::clone(&context.store), key.clone());
        let stored = tokio::task::spawn_blocking(move || self.store(&store, &key)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(%error, "could not keep the answer to a POST");
        }
    }

    /// Stores what has come whole: for a blocking thread.
    fn store(self, store: &Store, key: &ObjectKey) -> Result<(), StoreError> {
        let length = self.body.len() as u64;
        let representation = Representation {
            complete_length: Some(length),
            ..self.representation
        };
        let created = store.create(key, representation)?;
        if length > 0 {
            store.write(&created.object, 0, &[&self.body])?;
        }
        created.object.sink().commit()?;
        if let Some(replaced) = created.replaced {
            replaced.presence().break_for_good(Broken::Superseded);
        }
        Ok(())
    }
}

impl Registry {
    /// Relays a request and returns with the head of the answer. `seen` is called with its status and fields
    /// before that, on a blocking thread, also where the client has gone meanwhile. `is_plain` says that the request
    /// is in nobody's own words, so that its answer may be another's too.
    ///
    /// # Errors
    /// Where no answer came, or no turn.
    pub async fn relay(
        &self,
        target: Arc<Target>,
        method: String,
        body: Option<RequestBody>,
        is_plain: bool,
        seen: impl FnOnce(u16, &[(String, String)]) + Send + 'static,
    ) -> Result<Relayed, RelayError> {
        let (mut told, head) = oneshot::channel();
        let context = Arc::clone(self.context());
        let slot = context.threads.slot();
        let lost = silent(&context, &target);
        let thread = slot.thread().clone();
        thread.spawn(async move {
            // Held to the end: the runtime counts this exchange among its fills.
            let _seat = slot;
            let mut body = body;
            let permit = tokio::select! {
                permit = turn(&context, &target, &mut body) => permit,
                // The request was not sent yet.
                () = told.closed() => return,
            };
            let permit = match permit {
                Ok(permit) => permit,
                Err(error) => {
                    let _ = told.send(Err(error));
                    return;
                }
            };
            let (key, keeps) = (target.key.clone(), is_plain && method == "POST");
            let fault = body.as_ref().map(RequestBody::fault).unwrap_or_default();
            let request = Relay {
                target,
                method,
                length: body.as_ref().and_then(|body| body.length),
                body: body.map(|body| Box::pin(body.into_pieces()) as _),
            };
            let replied = tokio::select! {
                replied = context.client.relay(request) => replied,
                // A client that leaves before the header takes its request along: nobody is there for the answer.
                () = told.closed() => {
                    // What it has changed until then is not known, and so may be everything that success would have.
                    let _ = tokio::task::spawn_blocking(move || seen(200, &[])).await;
                    return;
                }
            };
            let exchange = match replied {
                Ok(exchange) => exchange,
                Err(error) => {
                    let _ = told.send(Err(not_replied(error, &fault, &permit)));
                    return;
                }
            };
            permit.answered();
            let keeping = keeps.then(|| Keeping::of(&context, &exchange)).flatten();
            let (relayed, to) = answer_of(&exchange, permit);
            let (status, fields, length) = (relayed.status, relayed.fields.clone(), relayed.length);
            // A panic in there is logged, and costs the answer nothing.
            let _ = tokio::task::spawn_blocking(move || seen(status, &fields)).await;
            if told.send(Ok(relayed)).is_err() {
                return;
            }
            let keeping = keeping.map(|keeping| (keeping, key));
            relay_body(&context, exchange, keeping, length, to).await;
        });
        // A task that was lost has told nothing.
        head.await.unwrap_or_else(|_| Err(RelayError::Upstream(lost)))
    }
}

fn silent(context: &Context, target: &Target) -> UpstreamError {
    UpstreamError::Silent {
        host: target.url.host_str().unwrap_or_default().to_owned(),
        limit: context.client.reply_timeout(),
    }
}

/// The upstream's turn for a request, once enough of its body is here.
async fn turn(context: &Context, target: &Target, body: &mut Option<RequestBody>) -> Result<Permit, RelayError> {
    let budget = context.client.budget_of(&target.url);
    if let Some(body) = body {
        body.gather(budget.is_single()).await.map_err(RelayError::Upload)?;
    }
    let turn = budget.acquire_for_relay(body.is_some());
    let turn = tokio::time::timeout(context.client.reply_timeout(), turn).await;
    turn.map_err(|_| RelayError::Upstream(silent(context, target)))
}

/// Why a request had no reply. What its client did wrong does not count against the upstream.
fn not_replied(error: UpstreamError, fault: &FaultOfUpload, permit: &Permit) -> RelayError {
    match fault.get() {
        Some(fault) => RelayError::Upload(fault),
        None => {
            if !error.is_no_outage() {
                permit.unanswered();
            }
            RelayError::Upstream(error)
        }
    }
}

/// The answer that the reply makes, and the end that its body is put into.
fn answer_of(exchange: &Exchange, permit: Permit) -> (Relayed, Recipient) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let is_given_up = Arc::new(AtomicBool::new(false));
    let relayed = Relayed {
        status: exchange.reply.status,
        fields: exchange.end_to_end(),
        length: match exchange.reply.framing {
            Framing::Length(length) => Some(length),
            Framing::Delimited | Framing::Close => None,
        },
        body: RelayedBody {
            pieces,
            is_given_up: Arc::clone(&is_given_up),
        },
    };
    let recipient = Recipient {
        sender,
        permit,
        is_given_up,
    };
    (relayed, recipient)
}

/// The client that an answer's body is relayed to.
struct Recipient {
    sender: mpsc::Sender<Result<Bytes, UpstreamError>>,
    permit: Permit,
    /// The same as the client's. Relaxed.
    is_given_up: Arc<AtomicBool>,
}

impl Recipient {
    /// Hands a piece on, when the client has read those before it; whether there is somebody for the next.
    async fn take(&self, piece: Result<Bytes, UpstreamError>) -> bool {
        let place = match tokio::time::timeout(UNREAD_WAIT, self.sender.reserve()).await {
            Ok(place) => place,
            Err(_) => {
                self.permit.give_way();
                let place = tokio::select! {
                    place = self.sender.reserve() => place,
                    () = self.permit.preempted() => {
                        self.is_given_up.store(true, Ordering::Relaxed);
                        return false;
                    }
                };
                self.permit.keep();
                place
            }
        };
        let over = piece.is_err();
        match place {
            Ok(place) => {
                place.send(piece);
                !over
            }
            // A client that has gone needs no more of it.
            Err(_) => false,
        }
    }
}

/// Relays the pieces of a body of `length` bytes, and stores it under the key where it is to be kept and comes whole.
async fn relay_body(
    context: &Context,
    mut exchange: Exchange,
    keeping: Option<(Keeping, ObjectKey)>,
    length: Option<u64>,
    to: Recipient,
) {
    let is_told_whole = exchange.reply.framing != Framing::Close;
    let (mut keeping, key) = keeping.unzip();
    loop {
        let piece = match exchange.next_within(context.client.read_idle_timeout()).await {
            Ok(None) => return store_kept(context, key.as_ref(), keeping.filter(|_| is_told_whole)).await,
            Ok(Some(piece)) => {
                keeping = keeping.and_then(|keeping| keeping.take(&piece));
                let is_last = |keeping: &mut Keeping| Some(keeping.body.len() as u64) == length;
                store_kept(context, key.as_ref(), keeping.take_if(is_last)).await;
                Ok(piece)
            }
            Err(error) => Err(error),
        };
        if !to.take(piece).await {
            return;
        }
    }
}

/// Stores what was kept, before the client knows that the answer is over, by its end or by its length: the client's next
/// request is to find it.
async fn store_kept(context: &Context, key: Option<&ObjectKey>, keeping: Option<Keeping>) {
    if let (Some(keeping), Some(key)) = (keeping, key) {
        keeping.store_apart(context, key).await;
    }
}
