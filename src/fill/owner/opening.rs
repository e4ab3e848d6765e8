//! The first request of a fill: from nothing, or from a stale object, to a representation.
//!
//! ```text
//!  JoinRequest ──┬─ the head, or bytes that can be joined to those that are here ──► nothing is asked
//!         ├─ validity ──► revalidate ── unchanged ──► the object stays
//!         │                   └─ changed, or not resumable ─┐
//!         └─ bytes, anew ──► first_ask ◄────────────────────┘
//!                               ├─ whole, or can grow ─────► begin
//!                               ├─ a part for one reader ──► begin_part, detached
//!                               ├─ the head alone ─────────► begin_head
//!                               └─ another status ─────────► begin_statement
//! ```
//!
//! When it returns the object is there, with its first session where bytes are to come, or the phase that readers are
//! told instead. What is stored is not removed for a reply that says nothing of it: a failure, an imposter, one
//! client's refusal. Whether a reply is shared is decided here, before the object is published: `set_apart` comes
//! before `become_generation`, so no other reader joins what is one client's.

use super::super::disk::on_disk;
use super::super::fetch::ask::{UpstreamQuestion, ask_any, brings_bytes, refusal, turn};
use super::super::fetch::classify_reply::{BodySpan, KnownObject, ReplyClass, classify_reply, is_page, statement};
use super::super::join_request::JoinRequest;
use super::super::phase::{Moved, Phase, Refusal, Trouble};
use super::super::plan::worthwhile;
use super::Owner;
use super::demand::LEAST_AHEAD;
use crate::clock::{from_unix_seconds, unix_seconds};
use crate::key::ObjectKey;
use crate::policy::{
    Fields, Lifetime, NotStored, RequestDirectives, Terms, age_on_arrival, is_playlist, may_be_anyones, selecting,
    storable, updated,
};
use crate::ranges::ByteRange;
use crate::store::{Joined, Object, Representation, StoreError};
use crate::upstream::{Class, Exchange, Permit, Reply, Span, Target, UpstreamError};
use std::sync::Arc;
use std::time::Duration;

/// When to come back to an upstream whose connections are all taken. A judgement: the shortest `Retry-After`.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// An object up to this length is not worth a second request. A judgement, as in `plan`: the least that is worth a
/// request.
const SMALL_BYTES: u64 = 256 * 1024;

/// How often a revalidation is repeated where another node of the upstream answers. Three: docs/decisions/0023.
const MORE_NODES: usize = 3;

/// How often the first request is put another way before the upstream is called broken. A judgement: the range rounded
/// up, the range, the whole, and one more.
const MAX_OPENING_ASKS: usize = 4;

impl Owner {
    /// Comes to an object, with its first session under way where that brings bytes.
    pub(super) async fn open(&mut self, join: JoinRequest) -> Result<(), Phase> {
        let known = self.object.clone();
        let known = known.as_ref().filter(|object| !object.head().is_bare_response());
        let Some(wanted) = join.span() else {
            return match (join, known) {
                (JoinRequest::Validity { bytes }, _) => self.revalidate(bytes).await,
                // The head is known, whatever bytes are here.
                (_, Some(_)) => Ok(()),
                (_, None) => {
                    self.object = None;
                    self.first_ask(first_byte(), None).await
                }
            };
        };
        let is_anew = matches!(
            join,
            JoinRequest::Anew(_) | JoinRequest::OnlyAnew(_) | JoinRequest::Apart(_)
        );
        if !is_anew && known.is_some_and(|object| is_resumable(object)) {
            return Ok(());
        }
        let span = match wanted {
            Span::Range(range) => Span::Range(worthwhile(range)),
            // Where readers are not to be run ahead of, not even the first request may.
            Span::From(start) if self.context.settings.read_ahead.is_some() => {
                ByteRange::with_len(start, LEAST_AHEAD).map_or(Span::From(start), Span::Range)
            }
            span => span,
        };
        self.object = None;
        let is_apart = matches!(join, JoinRequest::Apart(_));
        let only = is_apart || matches!(join, JoinRequest::Only(_) | JoinRequest::OnlyAnew(_));
        self.wants_part = is_apart;
        self.first_ask(span, Some(wanted).filter(|_| only)).await
    }

    /// Asks as soon as it is our turn; where the upstream rests for longer than a header may wait, says
    /// so instead.
    async fn ask_first(
        &self,
        span: Span,
        question: UpstreamQuestion,
    ) -> Result<(Permit, Result<Exchange, UpstreamError>), Phase> {
        let url = &self.shared.targets.current().url;
        let resting = self.context.client.budget_of(url).resting(self.shared.key.id());
        if let Some(rest) = resting.filter(|rest| *rest > self.context.settings.revalidate_wait) {
            return Err(Phase::Resting(rest));
        }
        let turn = turn(&self.context, &self.shared, Class::Waiting);
        let Ok(permit) = tokio::time::timeout(self.context.client.reply_timeout(), turn).await else {
            return Err(Phase::Resting(BUSY));
        };
        let asked = ask_any(&self.context, &self.shared, &permit, span, question).await;
        if let Ok(exchange) = &asked
            && self.is_answered_by_a_stranger(exchange).await
        {
            return Err(Phase::Resting(BUSY));
        }
        Ok((permit, asked))
    }

    /// Whether the reply came from another host than was asked, since that one is away: a network that wants a login redirects
    /// every request to its own page. Asked only where the upstream's absence is looked after.
    async fn is_answered_by_a_stranger(&self, exchange: &Exchange) -> bool {
        let target = &exchange.target;
        let Some(upstream) = target.upstream.as_ref().filter(|upstream| upstream.is_served_offline()) else {
            return false;
        };
        if exchange.url.host() == target.url.host() {
            return false;
        }
        self.context.client.probe(upstream).await;
        upstream.circuit.is_away()
    }

    /// Asks for an object of which nothing is known. `only` is all that the reader wants, where it is content with a part
    /// that nothing is joined to.
    async fn first_ask(&mut self, mut span: Span, only: Option<Span>) -> Result<(), Phase> {
        for _ in 0..MAX_OPENING_ASKS {
            let (permit, asked) = self.ask_first(span, UpstreamQuestion::default()).await?;
            let exchange = match asked {
                Ok(exchange) => exchange,
                Err(error) => return Err(Phase::Failed(Arc::new(error))),
            };
            match exchange.reply.status {
                status if !brings_bytes(status) && self.wants_part => {
                    // The upstream refused a part; it may give the whole.
                    return Err(Phase::Refused(Arc::new(refusal(exchange, None).await)));
                }
                status if !brings_bytes(status) => return self.begin_statement(exchange, permit).await,
                _ => {}
            }
            match classify_reply(None, span, &exchange.reply) {
                // A 206 of all bytes is the part that was asked for, from the first byte on.
                ReplyClass::Begins(_, brings) if brings.is_all() && self.wants_part && exchange.reply.status == 200 => {
                    return Err(Phase::WithoutParts);
                }
                ReplyClass::Begins(representation, brings) if !(brings.is_all() || grows(&representation, brings)) => {
                    if !self.shared.readers.want_bytes() {
                        return self.begin_head(representation, exchange, permit).await;
                    }
                    match only {
                        Some(wanted) if reaches(brings, wanted) => {
                            return self.begin_part(representation, brings, exchange, permit).await;
                        }
                        Some(wanted) if span != wanted => span = wanted,
                        // Other pieces could never be joined to this one: read the whole instead.
                        _ => span = Span::Whole,
                    }
                }
                ReplyClass::Begins(representation, brings) => {
                    return self.begin(representation, brings, exchange, permit).await;
                }
                ReplyClass::Unsatisfiable(size) => match span {
                    Span::From(start) | Span::Suffix(start) if size.is_none_or(|size| size > 0) && start > 0 => {
                        return Err(Phase::Refused(Arc::new(refusal(exchange, size).await)));
                    }
                    Span::Range(range) if size.is_none_or(|size| size > 0) && range.start() > 0 => {
                        return Err(Phase::Refused(Arc::new(refusal(exchange, size).await)));
                    }
                    // An empty object has no first byte to ask for.
                    _ => span = Span::Whole,
                },
                ReplyClass::Contradiction(what) if span != Span::Whole => {
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

    /// Begins an object with the head of a reply, and none of its bytes: nothing could be joined to them.
    async fn begin_head(
        &mut self,
        representation: Representation,
        exchange: Exchange,
        permit: Permit,
    ) -> Result<(), Phase> {
        let nothing = BodySpan {
            at: 0,
            end: Some(0),
            total: representation.complete_length,
        };
        self.begin(representation, nothing, exchange, permit).await
    }

    /// Begins an object of one exchange's part, for those who have asked for it.
    async fn begin_part(
        &mut self,
        mut representation: Representation,
        brings: BodySpan,
        exchange: Exchange,
        permit: Permit,
    ) -> Result<(), Phase> {
        let _ = self.describe(&mut representation, &exchange);
        self.context.set_apart(&self.shared, NotStored::Part);
        self.base = brings.at;
        let disk = |error: StoreError| Phase::Disk(error.to_string().into());
        self.become_generation(representation).await.map_err(disk)?;
        self.adopt(exchange, brings, permit);
        Ok(())
    }

    async fn begin(
        &mut self,
        mut representation: Representation,
        brings: BodySpan,
        exchange: Exchange,
        permit: Permit,
    ) -> Result<(), Phase> {
        if let Some(moved) = self.moved(&representation, &exchange) {
            return Err(Phase::Redirected(Arc::new(moved)));
        }
        representation.ranges &= !self.distrusts_ranges;
        let described = self.describe(&mut representation, &exchange);
        let live = self.live_kind(&representation, &exchange);
        let described = match live {
            Some(kind) if self.shared.readers.want_bytes() => {
                return self.begin_live(representation, brings, exchange, permit, kind).await;
            }
            // A head alone is no reason against sharing the object.
            Some(_) => Err(NotStored::NoFreshness),
            None => described,
        };
        let stays = self
            .stored
            .as_ref()
            .is_some_and(|stored| keeps(stored, &representation, exchange.target.is_mirrored));
        let is_shared = described.is_ok() && !stays;
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
        let only_head = !self.shared.readers.want_bytes();
        let is_bare_response = self
            .object
            .as_ref()
            .is_some_and(|object| object.head().is_bare_response());
        let brings_bytes = brings.end != Some(brings.at) || brings.total == Some(0);
        // Of an upstream without ranges the whole has begun to come: who asks for its bytes next goes on with it.
        let begins_the_whole = !self.has_ranges() && is_shared;
        let is_wanted = !only_head || brings.end == Some(1) || begins_the_whole;
        if is_bare_response || (brings_bytes && is_wanted) {
            self.adopt(exchange, brings, permit);
        }
        Ok(())
    }

    /// Where the client is to go, where what a redirect led to names other resources by their place beside it: a page or a
    /// playlist. A film is fetched from there, and keeps the name that the client knows.
    fn moved(&self, representation: &Representation, exchange: &Exchange) -> Option<Moved> {
        let asked = &exchange.target.url;
        let media = representation.header("content-type");
        let is_list = || is_playlist(media.unwrap_or_default(), exchange.url.as_str());
        let has_names = representation.status == 200 && (is_page(media) || is_list());
        let is_elsewhere = exchange.url != *asked;
        (is_elsewhere && has_names && self.context.settings.served.has(&exchange.url)).then(|| Moved {
            status: exchange.redirected.unwrap_or(302),
            url: exchange.url.clone(),
        })
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
        if self.context.distrusts(target.key.id()) {
            representation.joined = Joined::Distrusted;
        }
        let asked = RequestDirectives::read(target.fields.as_slice());
        let authorized = target.fields.has("authorization");
        representation.is_guarded = self.is_for_its_client(representation, target);
        self.storable(representation, &asked, authorized)
    }

    /// Whether what the target's request brings of a representation is its client's, and others' when the upstream allows it.
    fn is_for_its_client(&self, representation: &Representation, target: &Target) -> bool {
        let received = from_unix_seconds(unix_seconds(self.context.store.now()));
        let terms = Terms::read(representation.status, representation, received);
        target.credentials.is_some() && !may_be_anyones(&terms, representation)
    }

    /// Guards an object that a request without credentials has begun, where one with them goes on with it or confirms it.
    pub(super) fn guard_by(&self, object: &Arc<Object>, exchange: &Exchange) {
        if self.is_for_its_client(object.head().representation(), &exchange.target) {
            object.sink().guard();
        }
    }

    /// Asks whether a complete object is still that of the upstream. One that cannot be reached or
    /// fails is no reason to withhold what is here.
    async fn revalidate(&mut self, wants_bytes: bool) -> Result<(), Phase> {
        let Some(object) = self.object.clone() else {
            return self.first_ask(Span::From(0), None).await;
        };
        if !object.is_whole() && !is_resumable(&object) {
            // To learn that it is unchanged would be of no use.
            self.object = None;
            return self.first_ask(Span::From(0), None).await;
        }
        let validators = object.representation().validators;
        // A small body comes with the same reply, should it have changed; so does one of an upstream without parts.
        let small = object.length().is_some_and(|length| length <= SMALL_BYTES);
        let whole = object.is_whole() && !object.head().representation().gives_parts;
        let span = if wants_bytes && (small || whole) {
            Span::Whole
        } else {
            first_byte()
        };
        let question = UpstreamQuestion {
            if_none_match: validators.etag.clone(),
            if_modified_since: validators.last_modified.clone().filter(|_| validators.etag.is_none()),
            ..UpstreamQuestion::default()
        };
        let asking = self.ask_of_all_nodes(&object, span, question);
        let asked = tokio::time::timeout(self.context.settings.revalidate_wait, asking).await;
        let (permit, exchange) = match asked {
            Ok(Ok((permit, Ok(exchange)))) if !is_passing(exchange.reply.status) => (permit, exchange),
            _ => return self.keep_unconfirmed(&object, "could not be revalidated"),
        };
        if !brings_bytes(exchange.reply.status) {
            let target = &exchange.target;
            let asked_openly = !target.fields.has("authorization") && !target.fields.has("cookie");
            let own_url = ObjectKey::of(&target.url).url() == target.key.url();
            if matches!(exchange.reply.status, 404 | 410) && asked_openly && own_url && !target.is_mirrored {
                // An object that is gone upstream must not be used either when the upstream cannot be asked.
                let (store, gone) = (Arc::clone(&self.context.store), Arc::clone(&object));
                on_disk(move || store.remove(&gone)).await;
            }
            return self.begin_statement(exchange, permit).await;
        }
        self.on_revalidation(object, span, exchange, permit, wants_bytes).await
    }

    /// Carries out the answer to a revalidation: the object is unchanged, or another takes its place.
    async fn on_revalidation(
        &mut self,
        object: Arc<Object>,
        span: Span,
        exchange: Exchange,
        permit: Permit,
        wants_bytes: bool,
    ) -> Result<(), Phase> {
        let validators = object.representation().validators;
        let head = Arc::clone(&*object.head());
        let known = KnownObject {
            representation: head.representation(),
            length: object.length(),
        };
        let verdict = classify_reply(Some(known), span, &exchange.reply);
        let is_same = match &verdict {
            ReplyClass::NotModified | ReplyClass::Continues(_) | ReplyClass::Agrees(_) => true,
            // An upstream that has no 304 says by the same tag, date and length that nothing has changed: a weak
            // comparison is all that a 304 would have told (RFC 9110 §13.1.2).
            ReplyClass::Begins(_, brings) => {
                let agrees = validators.weakly_agrees(&exchange.reply.validators) == Some(true);
                agrees && brings.total.is_some() && brings.total == object.length()
            }
            _ => false,
        };
        match verdict {
            _ if is_same => {
                self.guard_by(&object, &exchange);
                let confirmed = Arc::clone(&object);
                let headers = updated(&head.representation().headers, &exchange.reply.headers);
                let age = self.age_of(&exchange.reply);
                let store = Arc::clone(&self.context.store);
                on_disk(move || store.confirm(&confirmed, &headers, age))
                    .await
                    .unwrap_or_else(|error| {
                        tracing::warn!(url = object.url(), %error, "could not record that it is unchanged");
                    });
                Ok(())
            }
            ReplyClass::Begins(representation, brings) | ReplyClass::OtherNode(representation, brings)
                if representation.ranges || brings.is_all() || grows(&representation, brings) =>
            {
                self.begin(representation, brings, exchange, permit).await
            }
            ReplyClass::Begins(representation, _) if !wants_bytes => {
                self.begin_head(representation, exchange, permit).await
            }
            ReplyClass::Begins(..) | ReplyClass::OtherNode(..) => {
                // The byte that has come could be joined to none of those to come.
                drop((exchange, permit));
                self.object = None;
                self.first_ask(Span::From(0), None).await
            }
            ReplyClass::Imposter(what) => self.keep_unconfirmed(&object, what),
            _ => {
                drop((exchange, permit));
                self.first_ask(Span::Whole, None).await
            }
        }
    }

    /// Asks whether an object is unchanged; where another node of the same name answers for it, a few times more: one
    /// that knows the tag says whether it is.
    async fn ask_of_all_nodes(
        &self,
        object: &Object,
        span: Span,
        question: UpstreamQuestion,
    ) -> Result<(Permit, Result<Exchange, UpstreamError>), Phase> {
        let head = Arc::clone(&*object.head());
        let known = KnownObject {
            representation: head.representation(),
            length: object.length(),
        };
        let mut asked = self.ask_first(span, question.clone()).await?;
        // Without a date there is only the length to say that they have the same file, and a new one may have it too.
        let more = known
            .representation
            .validators
            .last_modified
            .as_ref()
            .map_or(0, |_| MORE_NODES);
        for _ in 0..more {
            match &asked.1 {
                Ok(exchange)
                    if matches!(
                        classify_reply(Some(known), span, &exchange.reply),
                        ReplyClass::OtherNode(..)
                    ) => {}
                _ => break,
            }
            drop(asked);
            asked = self.ask_first(span, question.clone()).await?;
        }
        Ok(asked)
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
        let is_stated = matches!(terms.lifetime, Lifetime::Explicit(lifetime) if lifetime > Duration::ZERO);
        // Of a mirror's file the listing has said that it is there, and an empty one is as good as any.
        let is_listed = self.shared.targets.current().is_mirrored;
        if representation.status == 200 && representation.complete_length == Some(0) && !is_stated && !is_listed {
            return Err(NotStored::Empty);
        }
        storable("GET", asked, authorized, representation.status, representation, &terms)
    }

    fn age_of(&self, reply: &Reply) -> u64 {
        age_on_arrival(&*reply.headers, reply.age, reply.delay, self.context.store.now()).as_secs()
    }

    /// Answers with what is stored, which the upstream could not be asked about.
    fn keep_unconfirmed(&self, object: &Object, what: &'static str) -> Result<(), Phase> {
        tracing::warn!(url = object.url(), what, "answering with what is stored");
        let trouble = Trouble {
            what: what.into(),
            refusal: None,
        };
        self.shared.news.set_trouble(trouble, self.shared.targets.renewals());
        Ok(())
    }
}

/// Whether what is stored stays beside a reply that is no success: it may answer in the place of a failure
/// (RFC 5861 §4), and what one client is refused says nothing of the others. What a mirror holds goes by the mirror's rules:
/// no status removes it.
fn keeps(stored: &Object, representation: &Representation, is_mirrored: bool) -> bool {
    let is_loss = matches!(representation.status, 404 | 410) && !is_mirrored;
    representation.status >= 400 && !is_loss && stored.head().representation().status < 400
}

/// Whether what is here of an object can be joined to what is missing of it. Of another a reader would get the start, and
/// then a broken connection: it is asked for anew.
fn is_resumable(object: &Object) -> bool {
    let head = object.head();
    let representation = head.representation();
    let grows = || representation.gives_parts && representation.overlap_validator().is_some();
    let joins = representation.validators.strong().is_some() || object.is_whole() || grows();
    !object.head().is_bare_response() && joins
}

/// Whether a reply that is not all of its representation can be the first of an object to which others are joined.
fn grows(representation: &Representation, brings: BodySpan) -> bool {
    let overlap = representation.overlap_validator().is_some() && representation.gives_parts;
    representation.validators.strong().is_some() || (overlap && brings.at == 0)
}

/// Whether a part goes as far as the reader wants.
fn reaches(brings: BodySpan, wanted: Span) -> bool {
    let end = match (wanted, brings.total) {
        (Span::Range(range), Some(total)) => range.end().min(total),
        (Span::Range(range), None) => range.end(),
        (_, Some(total)) => total,
        (_, None) => return brings.end.is_none(),
    };
    brings.end.is_none_or(|reached| reached >= end)
}

/// The upstream speaks of itself, not of the object.
fn is_passing(status: u16) -> bool {
    status >= 500 || matches!(status, 408 | 425 | 429)
}

/// Enough to learn the head and whether ranges work, on servers that refuse HEAD too.
fn first_byte() -> Span {
    ByteRange::new(0, 1).map_or(Span::Whole, Span::Range)
}
