//! Which streams there are, what has become of each, and who may know.
//!
//! ```text
//!    state    Opening ──run──▶ Running ──end──▶ Complete   whole, by its own word
//!                │                              Partial    cut, silent, too long, or the server ended
//!                └───────────end──────────────▶ Failed     refused, or not answered
//!                                               Stopped    somebody asked for it
//!    log      None             Open(object)     Stored(id, generation)
//!                                                  │    move_to: a copy of it became the object of its URL
//!                                                  ▼ its lifetime is over
//!    gone                                       None: 410 for a week, then forgotten: 404
//! ```
//!
//! - A state that is over is final: the first end counts. A stream of which no end was recorded before a start is
//!   partial.
//! - The bytes are an object's, and readers read that object. A stream adds where the log begins and ends, where one
//!   may come in, who listens and how it ended. When a log is opened it tells its bounds itself: the record may be of
//!   before a crash.
//! - The generation tells a log from another object in its place. A log whose time is over is removed, unless it has
//!   become an ordinary object.
//! - An id is 128 random bits, and whoever knows it may read the log and stop the stream: a debug line shows two bytes
//!   of it.
//! - A request that names itself (`Idempotency-Key`) is one stream, however often it comes, unless it was never
//!   answered. The digest of its body is kept, since a name with another body is a mistake.
//!
//! Order: the sync points and then `end` follow the bytes, so a listener is sent to no place that has not come; `first`
//! rises before bytes are dropped, so a listener is sent to none that are about to go.
//!
//! Locks: `all` before a status, a status before `log`; `joins` and `left` are taken with none of them. All are held
//! for moments, and none while the store is asked.

use super::kind::{Rules, StreamFormat};
use super::stream::{Log, Stream, StreamId, StreamRequest, StreamStatus, new, restored, variant};
use crate::api::StreamState;
use crate::clock::{SharedClock, unix_seconds};
use crate::store::{Broken, Object, Store, StoreError};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For so long it is known of a stream whose log has gone that there was one, in seconds: 410, not 404. A judgement: a
/// client that was away for days learns that its stream is over.
const REMEMBERED_SECONDS: u64 = 7 * 24 * 3600;

/// Ended streams that are remembered for each that may run. A judgement, which bounds what one client can have
/// remembered.
const REMEMBERED_EACH: usize = 16;

/// The limits of streams.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest silence of the upstream.
    pub idle: Duration,
    /// How long one goes on that nobody reads.
    pub unattended: Duration,
    /// How long one may last at most; `None` is no limit.
    pub total: Option<Duration>,
    /// The most of each that is kept, in bytes.
    pub window_bytes: u64,
    /// The most that is kept, in time; `None` is no limit.
    pub window_time: Option<Duration>,
    /// How much of what was before a listener of media is given first, in bytes: players begin at once with it.
    pub burst_bytes: u64,
    /// How long a log is kept after its stream has ended.
    pub lifetime: Duration,
    /// How many run at once.
    pub most: usize,
    /// Whether an end that only a closed connection tells is one.
    pub believes_close: bool,
    /// The rules that make a stream of other replies.
    pub rules: Rules,
}

/// When to come back where as many run as may. A judgement: streams last for minutes to days, and end when nobody
/// listens.
pub const CROWDED: Duration = Duration::from_secs(5);

/// More streams run than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many streams run as may (see the setting `streams`)")]
pub struct TooMany;

/// All streams of one server.
#[derive(Debug)]
pub struct Streams {
    limits: Limits,
    store: Arc<Store>,
    clock: SharedClock,
    /// The streams that are known. Held while one is begun, so that the same request begins one stream and no more run
    /// than may; else for the time of a look.
    all: Mutex<HashMap<StreamId, Arc<Stream>>>,
}

impl Streams {
    /// The streams that the store knows: what was under way when the server ended is partial.
    pub fn open(store: Arc<Store>, limits: Limits, clock: SharedClock) -> Self {
        let now = unix_seconds(clock.now());
        let mut all = HashMap::new();
        for (id, record) in store.streams().unwrap_or_else(|error| {
            tracing::error!(%error, "could not read which streams there were");
            Vec::new()
        }) {
            let id = StreamId(id);
            all.insert(id, Arc::new(restored(id, record, now)));
        }
        let streams = Self {
            limits,
            store,
            clock,
            all: Mutex::new(all),
        };
        for stream in streams.list().into_iter().filter(|stream| !stream.status().gone) {
            // How much of each log is there the log tells.
            if let Err(error) = streams.log(&stream) {
                tracing::warn!(url = stream.origin.url, %error, "could not open the log of a stream");
            }
            streams.record(&stream);
        }
        streams
    }

    /// The limits of streams.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Begins a stream, or finds the one that the same request began.
    ///
    /// # Errors
    /// Where too many run.
    pub fn begin(&self, origin: StreamRequest) -> Result<(Arc<Stream>, bool), TooMany> {
        let mut all = lock(&self.all);
        // A request that was never answered may be tried again.
        let unanswered = |status: &StreamStatus| status.state == StreamState::Failed && status.code.is_none();
        let same = |stream: &&Arc<Stream>| {
            origin.request.is_some() && stream.origin.request == origin.request && !unanswered(&stream.status())
        };
        if let Some(known) = all.values().find(same) {
            return Ok((Arc::clone(known), false));
        }
        // Requests that outlive their clients are any client's to send: they take no place of a radio.
        let same_kind = |stream: &&Arc<Stream>| stream.origin.detached == origin.detached;
        let running = all
            .values()
            .filter(|stream| same_kind(stream) && !stream.status.borrow().state.is_over());
        if running.count() >= self.limits.most {
            return Err(TooMany);
        }
        // Without random bits an id would be no secret.
        let id = StreamId::new().ok_or(TooMany)?;
        let started = unix_seconds(self.clock.now());
        let stream = Arc::new(new(id, origin, started));
        all.insert(id, Arc::clone(&stream));
        Ok((stream, true))
    }

    /// The stream of that id.
    pub fn get(&self, id: StreamId) -> Option<Arc<Stream>> {
        lock(&self.all).get(&id).cloned()
    }

    /// All streams, the latest first.
    pub fn list(&self) -> Vec<Arc<Stream>> {
        let mut list: Vec<_> = lock(&self.all).values().cloned().collect();
        list.sort_by_key(|stream| (std::cmp::Reverse(stream.started), stream.id));
        list
    }

    /// The log of a stream, opened if need be: for a blocking thread. What ended before its time ends there with
    /// an error.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn log(&self, stream: &Stream) -> Result<Option<Arc<Object>>, StoreError> {
        let log = lock(&stream.log).clone();
        let object = match log {
            Log::None => None,
            Log::Open(object) => return Ok(Some(object)),
            Log::Stored(id, generation) => {
                let stored = self.store.load_id(id)?;
                stored.filter(|object| object.generation() == generation)
            }
        };
        let Some(object) = object else { return Ok(None) };
        // The record may be of before a crash: the log itself tells.
        if let Some(run) = object.presence().present().iter().last() {
            stream.first.store(run.start(), Ordering::Release);
            stream.end.store(run.end(), Ordering::Release);
        }
        let _ = stream.kind.set(StreamFormat::by_type(&object.representation()));
        let status = stream.status();
        if status.state.is_over() && !object.is_whole() {
            let why = status
                .why
                .unwrap_or_else(|| "what was before has been dropped".to_owned());
            object.presence().break_for_good(Broken::Upstream(why.into()));
        }
        Ok(Some(object))
    }

    /// Writes down how a stream stands: for a blocking thread.
    pub fn record(&self, stream: &Stream) {
        if let Err(error) = self.store.put_stream(stream.id.0, &stream.record()) {
            tracing::warn!(url = stream.origin.url, %error, "could not record a stream");
        }
    }

    /// The stream is over: for a blocking thread.
    pub fn end(&self, stream: &Stream, state: StreamState, why: Option<String>) {
        let now = unix_seconds(self.clock.now());
        stream.status.send_if_modified(|status| {
            if status.state.is_over() {
                return false;
            }
            // A refusal that came whole is a refusal all the same.
            let refused = state == StreamState::Complete && status.code.is_some_and(|code| code >= 400);
            status.state = if refused { StreamState::Failed } else { state };
            status.why = why;
            status.ended = Some(now);
            true
        });
        // A replay begins where it is asked to: sync points are for what is under way.
        *lock(&stream.joins) = None;
        // The object is let go of: the store may close it, and opens it again for a replay.
        let mut log = lock(&stream.log);
        if let Log::Open(object) = &*log {
            *log = Log::Stored(object.id(), object.generation());
        }
        drop(log);
        self.record(stream);
    }

    /// Removes the logs whose time is over, and forgets what nobody asks about any more: for a blocking thread, to
    /// be called every second or so.
    pub fn sweep(&self) {
        let now = unix_seconds(self.clock.now());
        let lifetime = self.limits.lifetime.as_secs();
        for stream in self.list() {
            let status = stream.status();
            let Some(ended) = status.ended else { continue };
            if !status.gone && now >= ended.saturating_add(lifetime) {
                self.let_go(&stream);
            }
            if now >= ended.saturating_add(lifetime).saturating_add(REMEMBERED_SECONDS) {
                self.forget(&stream);
            }
        }
        // The latest come first: the oldest are forgotten.
        let over: Vec<_> = self.list().into_iter().filter(|stream| stream.status().gone).collect();
        let most = self.limits.most.saturating_mul(REMEMBERED_EACH);
        over.iter().skip(most).for_each(|stream| self.forget(stream));
    }

    fn let_go(&self, stream: &Arc<Stream>) {
        let log = std::mem::replace(&mut *lock(&stream.log), Log::None);
        // A log that has become an ordinary object stays one.
        let is_own = |object: &Object| object.representation().variant.as_deref() == Some(&*variant(stream.id));
        if let Log::Stored(id, _) = log
            && let Ok(Some(object)) = self.store.load_id(id)
            && is_own(&object)
        {
            self.store.remove(&object);
        }
        stream.status.send_modify(|status| status.gone = true);
        self.record(stream);
    }

    fn forget(&self, stream: &Stream) {
        lock(&self.all).remove(&stream.id);
        if let Err(error) = self.store.remove_stream(stream.id.0) {
            tracing::warn!(%error, "could not forget a stream");
        }
    }
}
