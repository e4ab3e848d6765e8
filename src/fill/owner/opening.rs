//! The first request of a fill: from nothing, or from a stale object, to a representation.

use super::super::ask::{Question, ask_any, brings_bytes, refusal, turn};
use super::super::join::{Brings, Known, Verdict, join, statement};
use super::super::plan::worthwhile;
use super::super::registry::{Phase, Refusal, Trouble, Want};
use super::wishes::LEAST_AHEAD;
use super::{Owner, on_disk};
use crate::clock::{from_unix_seconds, unix_seconds};
use crate::key::ObjectKey;
use crate::policy::{Fields, NotStored, RequestDirectives, Terms, age_on_arrival, selecting, storable, updated};
use crate::ranges::ByteRange;
use crate::store::{Object, Representation};
use crate::upstream::{Class, Exchange, Permit, Reply, Span, UpstreamError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// When to come back to an upstream whose connections are all taken.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// What is no longer than this is not worth a second request.
const SMALL_BYTES: u64 = 256 * 1024;

/// How often the first request is put another way before the upstream is called broken.
const MAX_OPENING_ASKS: usize = 4;

impl Owner {
    /// Comes to an object, with its first session under way where that brings bytes.
    pub(super) async fn open(&mut self, want: Want) -> Result<(), Phase> {
        let span = match want {
            Want::Validity { bytes } => return self.revalidate(bytes).await,
            Want::Bytes(_) | Want::Head if self.object.as_ref().is_some_and(|object| is_resumable(object)) => {
                return Ok(());
            }
            Want::Head => first_byte(),
            Want::Bytes(Span::Range(range)) | Want::Anew(Span::Range(range)) => Span::Range(worthwhile(range)),
            // Where readers are not to be run ahead of, not even the first request may.
            Want::Bytes(Span::From(start)) | Want::Anew(Span::From(start))
                if self.context.settings.read_ahead.is_some() =>
            {
                ByteRange::with_len(start, LEAST_AHEAD).map_or(Span::From(start), Span::Range)
            }
            Want::Bytes(span) | Want::Anew(span) => span,
        };
        self.object = None;
        self.first_ask(span).await
    }

    /// Asks as soon as it is our turn; where the upstream rests for longer than a header may wait, says
    /// so instead.
    async fn ask_first(
        &self,
        span: Span,
        question: Question,
    ) -> Result<(Permit, Result<Exchange, UpstreamError>), Phase> {
        let url = &self.shared.target().url;
        let resting = self.context.client.budget_of(url).standing().resting;
        if let Some(rest) = resting.filter(|rest| *rest > self.context.settings.revalidate_wait) {
            return Err(Phase::Resting(rest));
        }
        let turn = turn(&self.context, &self.shared, Class::Waiting);
        let Ok(permit) = tokio::time::timeout(self.context.client.reply_timeout(), turn).await else {
            return Err(Phase::Resting(BUSY));
        };
        let asked = ask_any(&self.context, &self.shared, &permit, span, question).await;
        Ok((permit, asked))
    }

    async fn first_ask(&mut self, mut span: Span) -> Result<(), Phase> {
        for _ in 0..MAX_OPENING_ASKS {
            let (permit, asked) = self.ask_first(span, Question::default()).await?;
            let exchange = match asked {
                Ok(exchange) => exchange,
                Err(error) => return Err(Phase::Failed(Arc::new(error))),
            };
            match exchange.reply.status {
                // Nobody has asked for another protocol.
                100..200 => break,
                status if !brings_bytes(status) => return self.begin_statement(exchange, permit).await,
                _ => {}
            }
            match join(None, span, &exchange.reply) {
                Verdict::Begins(representation, brings)
                    if brings.at > 0 && representation.validators.strong().is_none() =>
                {
                    // Other pieces could never be joined to this one: read the whole instead.
                    span = Span::Whole;
                }
                Verdict::Begins(representation, brings) => {
                    return self.begin(representation, brings, exchange, permit).await;
                }
                Verdict::Unsatisfiable(size) => match span {
                    Span::From(start) | Span::Suffix(start) if size.is_none_or(|size| size > 0) && start > 0 => {
                        return Err(Phase::Refused(Arc::new(refusal(exchange, size).await)));
                    }
                    Span::Range(range) if size.is_none_or(|size| size > 0) && range.start() > 0 => {
                        return Err(Phase::Refused(Arc::new(refusal(exchange, size).await)));
                    }
                    // An empty object has no first byte to ask for.
                    _ => span = Span::Whole,
                },
                Verdict::Contradiction(what) if span != Span::Whole => {
                    tracing::warn!(url = self.shared.key.url(), what, "asking for the whole instead");
                    span = Span::Whole;
                    self.distrusts_ranges = true;
                }
                // Neither the part nor the whole makes sense.
                _ => break,
            }
        }
        Err(Phase::Refused(Arc::new(Refusal {
            status: 502,
            headers: Vec::new(),
            retry_after: None,
            rest: None,
            body: bytes::Bytes::from_static(b"the upstream's replies contradict each other\n"),
            complete_length: None,
        })))
    }

    async fn begin(
        &mut self,
        mut representation: Representation,
        brings: Brings,
        exchange: Exchange,
        permit: Permit,
    ) -> Result<(), Phase> {
        representation.ranges &= !self.distrusts_ranges;
        let described = self.describe(&mut representation, &exchange);
        let live = self.live_kind(&representation, &exchange);
        let described = match live {
            Some(kind) if self.shared.bytes_wanted.load(Ordering::Acquire) => {
                return self.begin_live(representation, brings, exchange, permit, kind).await;
            }
            // Its head alone says nothing against sharing what it is the head of.
            Some(_) => Err(NotStored::NoFreshness),
            None => described,
        };
        let stays = self
            .stored
            .as_ref()
            .is_some_and(|stored| keeps(stored, &representation));
        match described {
            Err(why) => {
                tracing::debug!(url = self.shared.key.url(), %why, "not kept");
                self.context.set_apart(&self.shared, why);
            }
            Ok(()) if stays => self.context.set_apart(&self.shared, NotStored::NoFreshness),
            Ok(()) => self.context.set_shared(&self.shared),
        }
        self.become_generation(representation).await.map_err(|error| {
            tracing::error!(url = self.shared.key.url(), %error, "could not store the object");
            Phase::Disk(error.to_string().into())
        })?;
        let only_head = !self.shared.bytes_wanted.load(Ordering::Acquire);
        let is_statement = self.object.as_ref().is_some_and(|object| object.is_statement());
        if is_statement || !(only_head && brings.end != Some(1)) {
            self.adopt(exchange, brings, permit);
        }
        Ok(())
    }

    /// Says of a new representation what its reply and the request for it tell.
    ///
    /// # Errors
    /// Why it may not be kept, and so not be found by others.
    pub(super) fn describe(&self, representation: &mut Representation, exchange: &Exchange) -> Result<(), NotStored> {
        let target = &exchange.target;
        if target.drop_cookies {
            representation.headers.retain(|(name, _)| name != "set-cookie");
        }
        representation.age = self.age_of(&exchange.reply);
        representation.selected_by = selecting(&*representation, target.fields.as_slice());
        representation.variant = target.variant.clone();
        let asked = RequestDirectives::read(target.fields.as_slice());
        let authorized = target.fields.has("authorization");
        self.storable(representation, &asked, authorized)
    }

    /// Asks whether a complete object is still that of the upstream. One that cannot be reached or
    /// fails is no reason to withhold what is here.
    async fn revalidate(&mut self, wants_bytes: bool) -> Result<(), Phase> {
        let Some(object) = self.object.clone() else {
            return self.first_ask(Span::From(0)).await;
        };
        let validators = object.representation().validators;
        // What is small comes with the same reply, should it have changed.
        let small = object.length().is_some_and(|length| length <= SMALL_BYTES);
        let span = if small && wants_bytes {
            Span::Whole
        } else {
            first_byte()
        };
        let question = Question {
            if_none_match: validators.etag.clone(),
            if_modified_since: validators.last_modified.clone().filter(|_| validators.etag.is_none()),
            ..Question::default()
        };
        let asking = self.ask_first(span, question);
        let asked = tokio::time::timeout(self.context.settings.revalidate_wait, asking).await;
        let (permit, exchange) = match asked {
            Ok(Ok((permit, Ok(exchange)))) if !is_passing(exchange.reply.status) => (permit, exchange),
            _ => return self.keep_unconfirmed(&object, "could not be revalidated"),
        };
        if !brings_bytes(exchange.reply.status) {
            let target = &exchange.target;
            let asked_openly = !target.fields.has("authorization") && !target.fields.has("cookie");
            let own_url = ObjectKey::of(&target.url).url() == target.key.url();
            if matches!(exchange.reply.status, 404 | 410) && asked_openly && own_url {
                // What is gone for everybody is not to be used when the upstream cannot be asked either.
                let (store, gone) = (Arc::clone(&self.context.store), Arc::clone(&object));
                on_disk(move || store.remove(&gone)).await;
            }
            return self.begin_statement(exchange, permit).await;
        }
        let head = Arc::clone(&*object.head());
        let known = Known {
            representation: head.representation(),
            length: object.length(),
        };
        match join(Some(known), span, &exchange.reply) {
            Verdict::NotModified | Verdict::Continues(_) => {
                let confirmed = Arc::clone(&object);
                let headers = updated(&head.representation().headers, &exchange.reply.headers);
                let age = self.age_of(&exchange.reply);
                on_disk(move || confirmed.confirm(headers, age))
                    .await
                    .unwrap_or_else(|error| {
                        tracing::warn!(url = object.url(), %error, "could not record that it is unchanged");
                    });
                Ok(())
            }
            Verdict::Begins(representation, brings) => self.begin(representation, brings, exchange, permit).await,
            Verdict::Imposter(what) => self.keep_unconfirmed(&object, what),
            Verdict::Unsatisfiable(_) | Verdict::Contradiction(_) | Verdict::Status(_) => {
                drop((exchange, permit));
                self.first_ask(Span::Whole).await
            }
        }
    }

    /// Makes an object of a reply that says something of the resource, and brings none of its bytes.
    async fn begin_statement(&mut self, exchange: Exchange, permit: Permit) -> Result<(), Phase> {
        let (representation, brings) = statement(&exchange.reply);
        self.begin(representation, brings, exchange, permit).await
    }

    /// Whether the reply to such a request may be kept.
    pub(super) fn storable(
        &self,
        representation: &Representation,
        asked: &RequestDirectives,
        authorized: bool,
    ) -> Result<(), NotStored> {
        let received = from_unix_seconds(unix_seconds(self.context.store.now()));
        let terms = Terms::read(representation.status, representation, received);
        storable("GET", asked, authorized, representation.status, representation, &terms)
    }

    fn age_of(&self, reply: &Reply) -> u64 {
        age_on_arrival(&*reply.headers, reply.age, reply.delay, self.context.store.now()).as_secs()
    }

    /// Answers with what is stored, which the upstream could not be asked about.
    fn keep_unconfirmed(&self, object: &Object, what: &'static str) -> Result<(), Phase> {
        tracing::warn!(url = object.url(), what, "answering with what is stored");
        self.shared.trouble.send_replace(Some(Trouble {
            what: what.into(),
            refusal: None,
        }));
        Ok(())
    }
}

/// Whether what is stored stays beside a reply that is no success: it may answer in the place of a failure
/// (RFC 5861 §4), and what one client is refused says nothing of the others.
fn keeps(stored: &Object, representation: &Representation) -> bool {
    let is_loss = matches!(representation.status, 404 | 410);
    representation.status >= 400 && !is_loss && stored.head().representation().status < 400
}

/// Whether what is here of an object can be joined to what is missing of it. Of one without a strong validator
/// a reader would get the start, and then a broken connection: it is asked for anew.
fn is_resumable(object: &Object) -> bool {
    let head = object.head();
    let joins = head.representation().validators.strong().is_some() || object.is_whole();
    !object.is_statement() && joins
}

/// The upstream speaks of itself, not of the object.
fn is_passing(status: u16) -> bool {
    status >= 500 || matches!(status, 408 | 425 | 429)
}

/// Enough to learn the head and whether ranges work, on servers that refuse HEAD too.
fn first_byte() -> Span {
    ByteRange::new(0, 1).map_or(Span::Whole, Span::Range)
}
