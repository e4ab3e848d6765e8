//! Relayed requests, which are not answered from the store: sent upstream as they are, once, in both directions at the pace
//! of the slower side.
//!
//! The exchange runs where fills run, in its turn of the upstream's budget. A request whose method is not safe
//! is sent once: where its fate is not known, the client is told so and decides.

pub(super) mod request_body;

use super::context::Context;
use super::fetch::classify_reply::statement;
use super::registry::Registry;
use crate::key::ObjectKey;
use crate::policy::{Fields, RequestDirectives, Terms, age_on_arrival, selecting, storable_for_get};
use crate::store::{Broken, Representation, Store, StoreError};
use crate::upstream::{Class, Exchange, Framing, Relay, Target, UpstreamError};
use bytes::Bytes;
use request_body::{PIECES, RequestBody};
use std::sync::Arc;
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
    /// The body; an error where it was cut.
    pub pieces: mpsc::Receiver<Result<Bytes, UpstreamError>>,
}

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
    ) -> Result<Relayed, UpstreamError> {
        let (mut told, head) = oneshot::channel();
        let context = Arc::clone(self.context());
        let (slot, limit) = (context.threads.slot(), context.client.reply_timeout());
        let host = target.url.host_str().unwrap_or_default().to_owned();
        let silent = move || UpstreamError::Silent {
            host: host.clone(),
            limit,
        };
        let silent_too = silent.clone();
        let thread = slot.thread().clone();
        thread.spawn(async move {
            // Held to the end: the runtime counts this exchange among its fills.
            let _seat = slot;
            let turn = context.client.budget_of(&target.url);
            let turn = tokio::select! {
                turn = tokio::time::timeout(limit, turn.acquire(Class::Waiting)) => turn,
                // The request was not sent yet.
                () = told.closed() => return,
            };
            let Ok(permit) = turn else {
                let _ = told.send(Err(silent()));
                return;
            };
            let (key, keeps) = (target.key.clone(), is_plain && method == "POST");
            let request = Relay {
                target,
                method,
                length: body.as_ref().and_then(|body| body.length),
                body: body.map(|body| body.pieces),
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
                    if !error.is_no_outage() {
                        permit.unanswered();
                    }
                    let _ = told.send(Err(error));
                    return;
                }
            };
            permit.answered();
            let keeping = keeps.then(|| Keeping::of(&context, &exchange)).flatten();
            let (sender, pieces) = mpsc::channel(PIECES);
            let passed = Relayed {
                status: exchange.reply.status,
                fields: exchange.end_to_end(),
                length: match exchange.reply.framing {
                    Framing::Length(length) => Some(length),
                    Framing::Delimited | Framing::Close => None,
                },
                pieces,
            };
            let (status, fields, length) = (passed.status, passed.fields.clone(), passed.length);
            // A panic in there is logged, and costs the answer nothing.
            let _ = tokio::task::spawn_blocking(move || seen(status, &fields)).await;
            if told.send(Ok(passed)).is_err() {
                return;
            }
            let keeping = keeping.map(|keeping| (keeping, key));
            relay_body(&context, exchange, keeping, length, sender).await;
        });
        // A task that was lost has told nothing.
        head.await.unwrap_or_else(|_| Err(silent_too()))
    }
}

/// Relays the pieces of a body of `length` bytes, and stores it under the key where it is to be kept and comes whole.
async fn relay_body(
    context: &Context,
    mut exchange: Exchange,
    keeping: Option<(Keeping, ObjectKey)>,
    length: Option<u64>,
    sender: mpsc::Sender<Result<Bytes, UpstreamError>>,
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
        let over = piece.is_err();
        // A client that has gone needs no more of it.
        if sender.send(piece).await.is_err() || over {
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
