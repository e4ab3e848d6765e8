//! Fills of streams: a reply without an end, or one that outlives its client, is read once from its start to wherever
//! it ends, and logged.
//!
//! The session, the object and its readers are those of any fill. What is different: nothing is planned, since what
//! was missed cannot be asked for again; an end that is none breaks the readers and is told apart from one that is;
//! and what lies further back than the window goes.

use super::super::disk::{on_disk, record};
use super::super::fetch::ask::refusal_rest;
use super::super::fetch::classify_reply::{BodySpan, statement};
use super::super::fetch::session::Outcome;
use super::super::phase::{Phase, Refusal};
use super::super::relay::request_body::{DetachedRequest, FaultOfUpload, UploadFault};
use super::opening::BUSY;
use super::{Owner, Start};
use crate::api::StreamState;
use crate::clock::Instant;
use crate::live::{CROWDED, Stream, StreamFormat, StreamRequest};
use crate::policy::{Fields, NotStored, RequestDirectives, Terms, selecting, storable};
use crate::ranges::ByteRange;
use crate::store::{Broken, Object, Representation, StoreError};
use crate::upstream::{Exchange, Permit, Relay, UpstreamError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The window moves on in steps of this many bytes at least: each writes the catalog out. A judgement.
const LEAST_DROPPED: u64 = 1 << 20;

/// A log is dropped up to a multiple of this. A judgement: whole pages on any machine.
const GRAIN: u64 = 64 * 1024;

/// How far the stream had come when, for a window in time.
pub(super) type Marks = VecDeque<(Instant, u64)>;

/// A mark is set this often. A judgement: the window is as exact as that.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// The end of a request whose client did not send its body.
fn upload_failed(fault: UploadFault) -> Phase {
    Phase::Refused(Arc::new(Refusal {
        status: fault.status(),
        headers: Vec::new(),
        retry_after: None,
        rest: None,
        body: bytes::Bytes::new(),
        complete_length: None,
    }))
}

impl Owner {
    pub(super) async fn begin_with(&mut self, start: Start) -> Result<(), Phase> {
        match start {
            Start::Join(join) => self.open(join).await,
            Start::Send(sending) => self.send(*sending).await,
        }
    }

    /// Sends a request that is not to be sent twice, and logs its reply, whatever it is.
    async fn send(&mut self, mut sending: DetachedRequest) -> Result<(), Phase> {
        let target = self.shared.targets.current();
        let budget = self.context.client.budget_of(&target.url);
        let limit = self.context.client.reply_timeout();
        let mut fault = FaultOfUpload::default();
        if let Some(body) = &mut sending.body {
            fault = body.fault();
            body.gather(budget.is_single()).await.map_err(upload_failed)?;
        }
        let turn = budget.acquire_for_relay(sending.body.is_some());
        let Ok(permit) = tokio::time::timeout(limit, turn).await else {
            return Err(Phase::Resting(BUSY));
        };
        let relay = Relay {
            target,
            method: sending.method,
            length: sending.body.as_ref().and_then(|body| body.length),
            body: sending.body.map(|body| Box::pin(body.into_pieces()) as _),
        };
        let exchange = match self.context.client.relay(relay).await {
            Ok(exchange) => exchange,
            Err(error) => {
                if !error.is_no_outage() && fault.get().is_none() {
                    permit.unanswered();
                }
                return Err(Phase::Failed(Arc::new(error)));
            }
        };
        permit.answered();
        refusal_rest(&self.context, &exchange, &permit);
        let (status, fields) = (exchange.reply.status, exchange.end_to_end());
        let seen = sending.seen;
        let told = fields.clone();
        // A panic in there is logged, and costs the answer nothing.
        let _ = tokio::task::spawn_blocking(move || seen(status, &told)).await;
        let (mut representation, brings) = statement(&exchange.reply);
        representation.headers = fields;
        representation.headers.retain(|(name, _)| name != "content-range");
        let kind = StreamFormat::by_type(&representation);
        self.log_from(representation, brings, exchange, permit, kind).await
    }

    /// The kind of stream that a reply is, where it is one that all who ask for its URL may read.
    pub(super) fn live_kind(&self, representation: &Representation, exchange: &Exchange) -> Option<StreamFormat> {
        let reply = &exchange.reply;
        let rules = &self.context.streams.limits().rules;
        let kind = StreamFormat::of(reply.status, reply.framing, representation, rules)?;
        let fields = exchange.target.fields.as_slice();
        let asked = RequestDirectives::read(fields);
        let mut terms = Terms::read(reply.status, representation, SystemTime::UNIX_EPOCH);
        // A radio says that of every stream: it means that nobody is to give its past for its present. Whatever else
        // it says counts.
        terms.control.no_store &= kind == StreamFormat::Events;
        let authorized = fields.has("authorization");
        let shared = storable("GET", &asked, authorized, reply.status, representation, &terms);
        shared.err().is_none_or(NotStored::may_be_shared).then_some(kind)
    }

    /// Begins the stream that a reply is.
    pub(super) async fn begin_live(
        &mut self,
        representation: Representation,
        brings: BodySpan,
        exchange: Exchange,
        permit: Permit,
        kind: StreamFormat,
    ) -> Result<(), Phase> {
        let origin = StreamRequest {
            url: self.shared.key.url().to_owned(),
            method: "GET".to_owned(),
            detached: false,
            request: None,
        };
        let (stream, _) = self.context.streams.begin(origin).map_err(|error| {
            tracing::warn!(url = self.shared.key.url(), %error, "a live stream is refused");
            Phase::Refused(Arc::new(Refusal {
                status: 503,
                headers: Vec::new(),
                retry_after: Some(CROWDED.as_secs().to_string()),
                rest: None,
                body: format!("{error}\n").into(),
                complete_length: None,
            }))
        })?;
        self.shared.set_stream(&stream);
        self.context.set_shared(&self.shared);
        self.log_from(representation, brings, exchange, permit, kind).await
    }

    /// Begins the log of the reply.
    pub(super) async fn log_from(
        &mut self,
        mut representation: Representation,
        brings: BodySpan,
        exchange: Exchange,
        permit: Permit,
        kind: StreamFormat,
    ) -> Result<(), Phase> {
        let Some(stream) = self.shared.stream().cloned() else {
            return Err(Phase::Disk("a stream was lost".into()));
        };
        let target = &exchange.target;
        if representation.has("icy-metaint") || matches!(kind, StreamFormat::Frames) {
            // Radio servers do not say that they vary by it.
            let by = selecting(&[("vary", "icy-metadata")][..], target.fields.as_slice());
            representation.selected_by.extend(by);
            representation.selected_by.sort_unstable();
            representation.selected_by.dedup();
        }
        representation.ranges = false;
        let code = representation.status;
        let object = self.make_log(&stream, representation).await.map_err(|error| {
            tracing::error!(url = self.shared.key.url(), %error, "could not log a stream");
            Phase::Disk(error.to_string().into())
        })?;
        // Before anybody sees the object: who has waited for it asks the stream where to come in.
        stream.run(&object, kind, code);
        self.object = Some(object);
        self.publish();
        let (streams, recorded) = (Arc::clone(&self.context.streams), Arc::clone(&stream));
        on_disk(move || streams.record(&recorded)).await;
        tracing::info!(url = self.shared.key.url(), id = ?stream.id(), "a stream begins");
        // A stream may last for days: eight of them must not keep all other requests from the upstream.
        permit.leave();
        self.adopt(exchange, brings, permit);
        Ok(())
    }

    /// Makes the object that is the log.
    async fn make_log(&self, stream: &Stream, mut representation: Representation) -> Result<Arc<Object>, StoreError> {
        representation.variant = Some(stream.variant());
        let (store, key) = (
            Arc::clone(&self.context.store),
            self.shared.key.variant(&stream.variant()),
        );
        let created = on_disk(move || store.create(&key, representation)).await?;
        Ok(created.object)
    }

    pub(super) fn stream_is_over(&self) -> bool {
        let over = |stream: &Arc<Stream>| stream.status().state.is_over();
        self.shared.stream().is_none_or(over)
    }

    /// Moves the window on, and ends what has lasted, or been alone, for too long.
    pub(super) async fn look_after_stream(&mut self) {
        let Some(stream) = self.shared.stream().cloned().filter(|_| !self.stream_is_over()) else {
            return;
        };
        let limits = self.context.streams.limits().clone();
        if limits.total.is_some_and(|total| stream.age() >= total) {
            return self
                .end_stream(StreamState::Partial, "it lasted longer than streams may (stream_total)")
                .await;
        }
        if stream.unattended() >= limits.unattended {
            let what = "nobody has read it for as long as streams go on alone (stream_unattended)";
            return self.end_stream(StreamState::Partial, what).await;
        }
        let (first, end) = stream.bounds();
        let now = Instant::now();
        if self
            .marks
            .back()
            .is_none_or(|(at, _)| now.duration_since(*at) >= MARK_EVERY)
        {
            self.marks.push_back((now, end));
        }
        let mut keep_from = end.saturating_sub(limits.window_bytes);
        if let Some(time) = limits.window_time {
            while self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= time) {
                self.marks.pop_front();
            }
            let oldest = self.marks.front().filter(|(at, _)| now.duration_since(*at) >= time);
            keep_from = keep_from.max(oldest.map_or(0, |(_, at)| *at));
        } else {
            self.marks.clear();
        }
        let keep_from = keep_from / GRAIN * GRAIN;
        // Where all of it is older than the window, nothing more comes that would make the step longer.
        let is_all = keep_from > first && keep_from == end / GRAIN * GRAIN;
        if !is_all && keep_from < first + LEAST_DROPPED.min((limits.window_bytes / 4).max(GRAIN)) {
            return;
        }
        let Some(object) = self.object.clone() else { return };
        stream.forget_before(keep_from);
        let dropped = on_disk(move || object.sink().drop_before(keep_from)).await;
        if let Err(error) = dropped {
            tracing::warn!(url = self.shared.key.url(), %error, "could not drop what is behind the window of a stream");
        }
    }

    /// Ends the stream as the end of its one session tells.
    pub(super) async fn on_stream_outcome(&mut self, outcome: Outcome) {
        let Some(object) = self.object.clone() else { return };
        let believes_close = self.context.streams.limits().believes_close;
        match outcome {
            Outcome::Ended { length, unverified } if !unverified || believes_close => {
                object.presence().end_at(length, unverified);
                self.end_stream(StreamState::Complete, "").await;
            }
            Outcome::Reached if object.is_whole() => self.end_stream(StreamState::Complete, "").await,
            Outcome::Ended { .. } => {
                let what =
                    "the upstream closed the connection, which does not tell an end from a cut (keep_unverified)";
                self.end_stream(StreamState::Partial, what).await;
            }
            Outcome::Cut(error) => self.end_stream(StreamState::Partial, &said(&error)).await,
            Outcome::Short | Outcome::Curtailed | Outcome::Reached => {
                let what = "the upstream's body ended before the length it had promised";
                self.end_stream(StreamState::Partial, what).await;
            }
            Outcome::Disk(error) => {
                self.end_stream(StreamState::Partial, &format!("the disk takes no more: {error}"))
                    .await
            }
            Outcome::Preempted => {
                self.end_stream(StreamState::Partial, "its connection was needed for others")
                    .await
            }
            Outcome::Slept => self.end_stream(StreamState::Partial, "the machine has slept").await,
            // A stream's session is on no leash.
            Outcome::Lost | Outcome::Disagrees | Outcome::Unattended => {
                self.end_stream(StreamState::Partial, "its session was lost").await
            }
        }
    }

    /// Stops the stream by order.
    pub(super) async fn stop_stream(&mut self, who: &str) {
        self.stop_sessions();
        self.end_stream(StreamState::Stopped, who).await;
    }

    /// Stops the stream by order before the upstream has answered.
    pub(super) async fn stop_opening(&mut self, who: &str) -> Phase {
        self.end_stream(StreamState::Stopped, who).await;
        Phase::Stopping
    }

    /// The upstream did not answer, or not with a reply.
    pub(super) async fn end_unopened(&mut self, phase: &Phase) {
        let what = match phase {
            Phase::Failed(error) => said(error),
            Phase::Resting(_) => "the upstream is down, busy, or asked to be left alone".to_owned(),
            Phase::Disk(what) => format!("the disk failed: {what}"),
            Phase::Stopping => "the server was stopped".to_owned(),
            Phase::Refused(_) | Phase::Opening | Phase::Ready(_) | Phase::WithoutParts | Phase::Redirected(_) => {
                "the upstream's replies contradict each other".to_owned()
            }
        };
        self.end_stream(StreamState::Failed, &what).await;
    }

    /// The server is stopping.
    pub(super) async fn interrupt_stream(&mut self) {
        self.end_stream(StreamState::Partial, "the server was stopped").await;
    }

    async fn end_stream(&mut self, state: StreamState, why: &str) {
        let Some(stream) = self.shared.stream().cloned().filter(|_| !self.stream_is_over()) else {
            return;
        };
        self.stop_sessions();
        // A client that comes back because the stream is over begins the next one.
        self.context.retire(&self.shared, true);
        let (mut state, mut why) = (state, why);
        if let Some(object) = self.object.clone() {
            // First what has come, then that no more does: a replay ends where the log does.
            let _ = record(Arc::clone(&object)).await;
            let kept = ByteRange::new(stream.bounds().0, object.length().unwrap_or_default());
            if state == StreamState::Complete && kept.is_some_and(|kept| !object.presence().covers(kept)) {
                (state, why) = (StreamState::Partial, "bytes of its log were lost");
            }
            if !object.is_whole() {
                let why = if why.is_empty() {
                    "what was before has been dropped"
                } else {
                    why
                };
                object.presence().break_for_good(Broken::Upstream(why.into()));
            }
        }
        tracing::info!(url = self.shared.key.url(), id = ?stream.id(), ?state, why, "a stream is over");
        let streams = Arc::clone(&self.context.streams);
        let why = Some(why.to_owned()).filter(|why| !why.is_empty());
        on_disk(move || streams.end(&stream, state, why)).await;
    }

    /// Keeps a finished log that is whole and shareable as the ordinary object of its URL.
    pub(super) async fn keep_stream(&mut self, stream: &Arc<Stream>, log: &Arc<Object>) {
        let representation = log.representation();
        // A reply to a request with fields of its own, or one that was purged, is not shared.
        let is_ordinary = stream.status().state == StreamState::Complete
            && !(stream.origin().detached || self.is_detached())
            && stream.bounds().0 == 0
            && log.is_whole()
            && representation.status == 200
            && self.is_kept(&representation);
        if !is_ordinary {
            return;
        }
        let (store, key, log) = (
            Arc::clone(&self.context.store),
            self.shared.key.clone(),
            Arc::clone(log),
        );
        let (streams, stream) = (Arc::clone(&self.context.streams), Arc::clone(stream));
        on_disk(move || match store.copy(&log, &key) {
            Ok(object) => {
                stream.move_to(&object);
                streams.record(&stream);
                store.remove(&log);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(url = log.url(), error, "a complete stream stays in its log");
            }
        })
        .await;
    }

    fn is_kept(&self, representation: &Representation) -> bool {
        let target = self.shared.targets.current();
        let asked = RequestDirectives::read(target.fields.as_slice());
        let authorized = target.fields.has("authorization");
        self.storable(representation, &asked, authorized).is_ok()
    }
}

/// The name of the one who stops the stream, as soon as one does.
pub(super) async fn stop_of(stream: Option<&Arc<Stream>>) -> String {
    match stream {
        Some(stream) => stream.stopped().await,
        None => std::future::pending().await,
    }
}

fn said(error: &UpstreamError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
