//! Events of sessions: replies, first bytes, ends.
//!
//! A session reports, and the owner alone changes the fill. An event of a session that was ended meanwhile finds no
//! such session, and is dropped. What a failure means for the next try is in retry.rs.

use super::super::disk::on_disk;
use super::super::fetch::ask::{AskOutcome, is_closed};
use super::super::fetch::classify_reply::{BodySpan, KnownObject, ReplyClass, classify_reply};
use super::super::phase::Refusal;
use super::disk_pressure::DiskPressure;
use super::retry::RetryState;
use super::sessions::Session;
use super::{Event, Owner};
use crate::clock::Instant;
use crate::ranges::ByteOffset;
use crate::store::{Broken, Object, Representation, StoreError};
use crate::upstream::{Exchange, Permit, Span, Target};
use std::sync::Arc;
use std::time::Duration;

/// How often in a row another node's tag is passed over before it is taken for that of another representation. Eight:
/// docs/decisions/0023.
const MOST_OTHER_NODES: u32 = 8;

/// A longer `Retry-After` is not believed. A judgement.
const LONGEST_REST: Duration = Duration::from_secs(3600);

impl Owner {
    pub(super) async fn on_event(&mut self, event: Event) {
        match event {
            Event::Moving => self.recovered(),
            Event::Recorded(recorded) => {
                if let Err(error) = recorded {
                    // Bytes that were not synced are absent again: they must not be fetched for nobody, over and over.
                    let by_limit = matches!(error, StoreError::NoRoom { .. });
                    self.disk_pressure = Some(DiskPressure::after(self.disk_pressure.take(), by_limit, Instant::now()));
                }
                self.recording = false;
                self.recorded = Instant::now();
            }
            Event::Begun { session, permit_handle } => {
                if let Some(held) = self.sessions.iter_mut().find(|held| held.id == session) {
                    held.permit_handle = Some(permit_handle);
                }
            }
            Event::Answered {
                session,
                span,
                permit,
                result,
            } => {
                let Some(index) = self.sessions.iter().position(|held| held.id == session) else {
                    return;
                };
                match *result {
                    Ok(AskOutcome::Exchange(exchange)) => self.on_reply(index, span, *exchange, permit).await,
                    Ok(AskOutcome::Refused(refusal, asked)) => self.on_refusal(index, refusal, &asked),
                    Err(error) => {
                        self.sessions.swap_remove(index);
                        self.failed(error.to_string(), None, None);
                    }
                }
            }
            Event::Ended { session, outcome } => {
                let Some(index) = self.sessions.iter().position(|held| held.id == session) else {
                    return;
                };
                let ended = self.sessions.swap_remove(index);
                // Later than what a reader may have said before.
                self.shared.readers.forget_hint();
                self.hint = ended.position.at();
                self.on_outcome(outcome, ended.position.has_progressed()).await;
            }
        }
    }

    async fn on_reply(&mut self, index: usize, span: Span, exchange: Exchange, permit: Permit) {
        let Some(object) = self.object.clone() else { return };
        let head = Arc::clone(&*object.head());
        let known = KnownObject {
            representation: head.representation(),
            length: object.length(),
        };
        let verdict = match classify_reply(Some(known), span, &exchange.reply) {
            ReplyClass::OtherNode(..) if self.other_nodes < MOST_OTHER_NODES => {
                // Two nodes behind one name have a tag each for the same bytes. What is being filled goes on: the node
                // that has its tag is as likely to answer the next time.
                self.other_nodes += 1;
                tracing::info!(url = object.url(), "another node's tag came: asking again");
                self.sessions.swap_remove(index);
                return;
            }
            ReplyClass::OtherNode(representation, brings) => ReplyClass::Begins(representation, brings),
            verdict => verdict,
        };
        self.other_nodes = 0;
        if matches!(verdict, ReplyClass::Continues(_) | ReplyClass::Agrees(_)) {
            self.guard_by(&object, &exchange);
        }
        match verdict {
            ReplyClass::Continues(_) if self.may_ignore_if_range(span, &exchange) => {
                tracing::info!(url = object.url(), "the upstream ignores If-Range: asking by If-Match");
                self.ignores_if_range = true;
                self.sessions.swap_remove(index);
            }
            ReplyClass::Agrees(brings) => self.on_agreement(index, span, exchange, brings, permit),
            ReplyClass::Continues(brings) => self.on_continuation(index, span, exchange, brings, permit),
            ReplyClass::Begins(..) if self.is_detached() => {
                // The object was purged: there is nothing to begin for its readers, and no other request finds it.
                self.stop_sessions();
                self.failures.gave_up = true;
                object.presence().break_for_good(Broken::Superseded);
            }
            ReplyClass::Begins(representation, brings) => {
                self.on_new_representation(representation, exchange, brings, permit)
                    .await;
            }
            ReplyClass::Unsatisfiable(_) | ReplyClass::NotModified => {
                // The object is shorter now, or the upstream is confused: only the whole will tell.
                self.sessions.swap_remove(index);
                self.distrusts_ranges = true;
                self.failed("the upstream does not have the bytes any more".to_owned(), None, None);
            }
            ReplyClass::Contradiction(what) => {
                self.sessions.swap_remove(index);
                self.distrusts_ranges = true;
                self.failed(what.to_owned(), None, None);
            }
            ReplyClass::Imposter(what) => {
                self.sessions.swap_remove(index);
                self.failed(what.to_owned(), None, None);
            }
            // Such statuses do not come as exchanges, and another node's was dealt with above.
            ReplyClass::OtherNode(..) => {}
            ReplyClass::Status(status) => {
                self.sessions.swap_remove(index);
                self.failed(format!("the upstream answered {status}"), None, None);
            }
        }
    }

    /// A part under a weak tag or a date begins within what is here: bytes are compared before it brings more.
    fn on_agreement(&mut self, index: usize, span: Span, exchange: Exchange, brings: BodySpan, permit: Permit) {
        let Some(object) = self.object.clone() else { return };
        let new_from = object.presence().available().run_at(self.base).unwrap_or(self.base);
        if brings.at > new_from {
            // The part touches no byte that it could be compared with.
            self.sessions.swap_remove(index);
            return self.failed(
                "the upstream's part begins after those that are here".to_owned(),
                None,
                None,
            );
        }
        let position = &self.sessions[index].position;
        position.move_to(new_from);
        if exchange.reply.status == 200 {
            position.set_stop(u64::MAX);
            if span != Span::Whole {
                object.note_without_parts();
            }
        }
        if new_from > self.base {
            object.sink().note_compared();
        }
        self.receive_at(index, exchange, brings, Some(new_from), permit);
    }

    /// A reply of the representation that is being filled.
    fn on_continuation(&mut self, index: usize, span: Span, exchange: Exchange, mut brings: BodySpan, permit: Permit) {
        let Some(object) = self.object.clone() else { return };
        // A known length is final, whatever this reply's framing says of its end.
        brings.end = brings.end.or(object.length());
        if let (None, Some(total)) = (object.length(), brings.total) {
            object.presence().end_at(total, false);
        }
        if exchange.reply.status == 200 && span != Span::Whole {
            // The upstream ignores ranges: what is here already passes by once more.
            self.distrusts_ranges = true;
            self.keep_only(index);
            let position = &self.sessions[0].position;
            position.move_to(0);
            position.set_stop(u64::MAX);
            return self.receive_at(0, exchange, brings, None, permit);
        }
        // A whole body passes over what is here; only a piece can be one too many.
        if exchange.reply.status == 200 || self.make_way(index, brings.at) {
            self.receive_at(index, exchange, brings, None, permit);
        } else {
            self.end_session(self.sessions[index].id);
        }
    }

    /// A reply of another representation than the one that was being filled: a new generation takes its place.
    async fn on_new_representation(
        &mut self,
        mut representation: Representation,
        exchange: Exchange,
        brings: BodySpan,
        permit: Permit,
    ) {
        let Some(object) = self.object.clone() else { return };
        self.stop_sessions();
        if let Some(kind) = self.live_kind(&representation, &exchange) {
            // One request asked for the head, and another now asks for the stream.
            let _ = self.describe(&mut representation, &exchange);
            if let Err(phase) = self.begin_live(representation, brings, exchange, permit, kind).await {
                self.failures.gave_up = true;
                self.end_unopened(&phase).await;
                self.shared.news.set_phase(phase);
            }
            object.presence().break_for_good(Broken::Superseded);
            return;
        }
        if brings.at > 0 && representation.validators.strong().is_none() {
            self.distrusts_ranges = true;
            return self.failed("the upstream's representation changed".to_owned(), None, None);
        }
        tracing::info!(
            url = object.url(),
            "the upstream's representation changed: a new generation"
        );
        if let Err(why) = self.describe(&mut representation, &exchange) {
            // The new reply is not for all readers of the object: they begin again, each with a fetch of its own.
            self.context.set_apart(&self.shared, why);
            self.failures.gave_up = true;
            let (store, old) = (Arc::clone(&self.context.store), Arc::clone(&object));
            on_disk(move || store.remove(&old)).await;
            object.presence().break_for_good(Broken::Superseded);
            return;
        }
        match self.become_generation(representation).await {
            Ok(()) => {
                self.distrusts_ranges = false;
                self.adopt(exchange, brings, permit);
            }
            Err(error) => self.failed(error.to_string(), None, None),
        }
    }

    fn on_refusal(&mut self, index: usize, refusal: Refusal, asked: &Arc<Target>) {
        let position = self.sessions.swap_remove(index).position;
        let (from, to) = (position.at(), position.stop());
        let rest = refusal.rest.map(|rest| rest.min(LONGEST_REST));
        let what = format!("the upstream answered {}", refusal.status);
        if refusal.status == 412 {
            // The upstream takes our If-Range for a condition that failed: only the whole will tell what is new.
            self.distrusts_ranges = true;
            return self.failed(what, None, None);
        }
        let closed = is_closed(refusal.status);
        let renewals = match closed {
            true => self.shared.targets.only(asked),
            false => Some(self.shared.targets.renewals()),
        };
        let Some(renewals) = renewals else {
            self.failures = RetryState::default();
            return;
        };
        // A reader that brings another URL from here on finds that the trouble is older than that.
        self.failed_before(renewals, what, Some((Arc::new(refusal), from, to)), rest);
        self.failures.closed = closed;
    }

    /// The sessions that would come to `at` end there; `false` where one has been there already.
    fn make_way(&self, index: usize, at: u64) -> bool {
        // Stored, that is: what is only passing by is here for a moment.
        let is_stored = |object: &Arc<Object>| object.presence().available().run_at(at).is_some();
        if self.object.as_ref().is_some_and(is_stored) {
            return false;
        }
        let others = self.sessions.iter().enumerate().filter(|(other, _)| *other != index);
        for (_, session) in others.filter(|(_, session)| session.position.at() < at) {
            session.position.lower_stop(at);
        }
        true
    }

    fn receive_at(
        &mut self,
        index: usize,
        exchange: Exchange,
        brings: BodySpan,
        compared_to: Option<ByteOffset>,
        permit: Permit,
    ) {
        let id = self.sessions[index].id;
        let position = Arc::clone(&self.sessions[index].position);
        self.sessions[index].task = self.spawn_receive(id, exchange, brings, compared_to, permit, &position);
    }

    /// Whether a whole body that came for a range may have come because of our `If-Range`: the upstream gives parts
    /// otherwise, and the tag is the one that was asked for.
    fn may_ignore_if_range(&self, span: Span, exchange: &Exchange) -> bool {
        let gives_parts = |object: &Arc<Object>| object.head().representation().gives_parts;
        let by_tag = exchange.reply.validators.entity_tag().is_some_and(|tag| !tag.is_weak());
        let came_whole = exchange.reply.status == 200 && span != Span::Whole;
        came_whole && by_tag && !self.ignores_if_range && self.object.as_ref().is_some_and(gives_parts)
    }

    fn keep_only(&mut self, index: usize) {
        self.sessions.swap(0, index);
        self.sessions.drain(1..).for_each(Session::end);
    }

    /// Bytes that a weak tag and a date called the same are others: what is here of the object is of another
    /// representation than what the upstream has now.
    pub(super) async fn disagreed(&mut self) {
        let Some(object) = self.object.clone() else { return };
        tracing::warn!(
            url = object.url(),
            "the upstream's bytes have changed under the same tag, date and length: the object is given up"
        );
        self.context.distrust(object.id());
        self.stop_sessions();
        self.failures.gave_up = true;
        if !self.is_detached() {
            let (store, old) = (Arc::clone(&self.context.store), Arc::clone(&object));
            on_disk(move || store.remove(&old)).await;
        }
        // The fill ends: a request that arrives after this begins another.
        self.context.retire(&self.shared, true);
        object.presence().break_for_good(Broken::Superseded);
    }
}
