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
//!   answered.
//!
//! Order: the sync points and then `end` follow the bytes, so a listener is sent to no place that has not come; `first`
//! rises before bytes are dropped, so a listener is sent to none that are about to go.
//!
//! Locks: `all` before a status, a status before `log`; `joins` and `left` are taken with none of them. All are held
//! for moments, and none while the store is asked.

use super::kind::{Rules, StreamFormat};
use super::sync_points::SyncPoints;
use crate::api::StreamState;
use crate::clock::Instant;
use crate::clock::{SharedClock, unix_seconds};
use crate::key::{Hex, ObjectId, from_hex};
use crate::store::{Broken, Object, Store, StoreError, StreamRecord};
use crate::sync::lock;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

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

/// Names a stream, and opens it: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId([u8; 16]);

impl StreamId {
    fn new() -> Option<Self> {
        crate::crypto::random().ok().map(Self)
    }

    /// Reads the 32 hexadecimal digits that [`fmt::Display`] prints.
    pub fn parse(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id is a capability to stop the stream, and logs are read by others.
        write!(f, "{}…", Hex(&self.0[..2]))
    }
}

impl StreamState {
    /// Whether nothing more comes.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Opening | Self::Running)
    }

    fn number(self) -> u8 {
        match self {
            Self::Opening => 0,
            Self::Running => 1,
            Self::Complete => 2,
            Self::Partial => 3,
            Self::Failed => 4,
            Self::Stopped => 5,
        }
    }

    /// A stream that was under way when the server ended is over.
    fn restored(number: u8) -> Self {
        match number {
            2 => Self::Complete,
            4 => Self::Failed,
            5 => Self::Stopped,
            _ => Self::Partial,
        }
    }
}

/// The status of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStatus {
    /// How far it has come.
    pub state: StreamState,
    /// Why it ended, in words; for a stopped one, who stopped it.
    pub why: Option<String>,
    /// The status of the upstream's reply.
    pub code: Option<u16>,
    /// When it ended, in seconds since 1970.
    pub ended: Option<u64>,
    /// The log is gone: the stream's time is over.
    pub gone: bool,
}

/// The request that a stream is the answer to.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// The canonical URL that is asked.
    pub url: String,
    /// The method.
    pub method: String,
    /// Whether the request asked to outlive its client.
    pub detached: bool,
    /// Tells one request from another: the same means the same stream.
    pub request: Option<[u8; 32]>,
}

/// When to come back where as many run as may. A judgement: streams last for minutes to days, and end when nobody
/// listens.
pub const CROWDED: Duration = Duration::from_secs(5);

/// More streams run than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many streams run as may (see the setting `streams`)")]
pub struct TooMany;

/// A stream: its log is an object, which its readers read like any other.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    origin: StreamRequest,
    /// In seconds since 1970.
    started: u64,
    begun: Instant,
    status: watch::Sender<StreamStatus>,
    stop: watch::Sender<Option<String>>,
    /// Where listeners may come in; none before the reply and after the end. Written by the one session, read by each
    /// that comes; held while one piece is scanned.
    joins: Mutex<Option<SyncPoints>>,
    /// The object that holds the bytes. Held for moments: it is cloned out before the store is asked.
    log: Mutex<Log>,
    /// The first byte that is still in the log; only rises while the stream runs. AcqRel before bytes are dropped,
    /// Acquire where a listener looks for its place.
    first: AtomicU64,
    /// The end of what has come; only rises while the stream runs. AcqRel after the sync points were noted: a thread
    /// that loads it (Acquire) finds those before it.
    end: AtomicU64,
    /// How many listen. AcqRel and Acquire: a thread that finds none left finds in `left` since when.
    listeners: AtomicUsize,
    /// When the last listener left, or the stream began. A lock because no atomic holds an `Instant`; held for a copy.
    left: Mutex<Instant>,
    kind: OnceLock<StreamFormat>,
}

#[derive(Debug, Clone)]
enum Log {
    None,
    /// Being written.
    Open(Arc<Object>),
    /// The generation tells it from what has taken its place.
    Stored(ObjectId, u64),
}

impl Stream {
    /// The id, which whoever made the request may know.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// The request.
    pub fn origin(&self) -> &StreamRequest {
        &self.origin
    }

    /// The format, once the upstream has answered.
    pub fn kind(&self) -> Option<&StreamFormat> {
        self.kind.get()
    }

    /// The status now.
    pub fn status(&self) -> StreamStatus {
        self.status.borrow().clone()
    }

    /// When it began, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// For how long it has been under way.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns when the upstream has answered, or will not.
    pub async fn opened(&self) {
        let mut status = self.status.subscribe();
        let _ = status.wait_for(|status| status.state != StreamState::Opening).await;
    }

    /// Returns when nothing more comes.
    pub async fn over(&self) {
        let mut status = self.status.subscribe();
        let _ = status.wait_for(|status| status.state.is_over()).await;
    }

    /// The bytes that are in the log.
    pub fn bounds(&self) -> (u64, u64) {
        (self.first.load(Ordering::Acquire), self.end.load(Ordering::Acquire))
    }

    /// The log's name among the objects of its URL.
    pub fn variant(&self) -> String {
        variant(self.id)
    }

    /// The upstream has answered, and this is where its bytes go.
    pub fn run(&self, object: &Arc<Object>, kind: StreamFormat, code: u16) {
        // The state last: a client that has waited for it finds the format and the log.
        *lock(&self.joins) = Some(SyncPoints::new(kind.clone()));
        let _ = self.kind.set(kind);
        *lock(&self.log) = Log::Open(Arc::clone(object));
        self.status.send_modify(|status| {
            status.state = StreamState::Running;
            status.code = Some(code);
        });
    }

    /// Bytes were logged, the next ones.
    pub fn look(&self, at: u64, bytes: &[u8]) {
        if let Some(joins) = &mut *lock(&self.joins) {
            joins.look(bytes);
        }
        // After the scan: a listener that sees the end finds the points before it.
        self.end.fetch_max(at + bytes.len() as u64, Ordering::AcqRel);
    }

    /// The window has moved on.
    pub fn forget_before(&self, first: u64) {
        self.first.fetch_max(first, Ordering::AcqRel);
    }

    /// Where a reader comes in who would begin at `wanted`; `None` where what is still here does not tell.
    pub fn join_at(&self, wanted: u64) -> Option<u64> {
        let first = self.first.load(Ordering::Acquire);
        lock(&self.joins).as_ref()?.at_or_after(wanted, first)
    }

    /// Asks for its end; `false` where it has ended already, or somebody has asked before.
    pub fn stop(&self, who: &str) -> bool {
        let running = !self.status.borrow().state.is_over();
        running
            && self.stop.send_if_modified(|stop| {
                let first = stop.is_none();
                stop.get_or_insert_with(|| who.to_owned());
                first
            })
    }

    /// The name of the one who stops it, as soon as one does.
    pub async fn stopped(&self) -> String {
        let mut stop = self.stop.subscribe();
        let who = stop
            .wait_for(Option::is_some)
            .await
            .map(|who| who.clone().unwrap_or_default());
        match who {
            Ok(who) => who,
            // Cannot be: the sender is ours.
            Err(_) => std::future::pending().await,
        }
    }

    /// Counts a listener, for as long as the returned value is held.
    pub fn listen(self: &Arc<Self>) -> Listener {
        self.listeners.fetch_add(1, Ordering::AcqRel);
        Listener(Arc::clone(self))
    }

    /// How many read along.
    pub fn listeners(&self) -> usize {
        self.listeners.load(Ordering::Acquire)
    }

    /// For how long nobody has read along.
    pub fn unattended(&self) -> Duration {
        match self.listeners() {
            0 => lock(&self.left).elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// Notes that the log is that object now.
    pub fn move_to(&self, object: &Object) {
        *lock(&self.log) = Log::Stored(object.id(), object.generation());
    }

    fn record(&self) -> StreamRecord {
        let status = self.status.borrow();
        let (first, end) = self.bounds();
        StreamRecord {
            url: self.origin.url.clone(),
            method: self.origin.method.clone(),
            detached: self.origin.detached,
            request: self.origin.request,
            started: self.started,
            state: status.state.number(),
            why: status.why.clone(),
            code: status.code,
            ended: status.ended,
            gone: status.gone,
            log: match &*lock(&self.log) {
                Log::None => None,
                Log::Open(object) => Some((*object.id().as_bytes(), object.generation())),
                Log::Stored(id, generation) => Some((*id.as_bytes(), *generation)),
            },
            first,
            end,
        }
    }
}

/// A listener; dropping it leaves.
#[derive(Debug)]
pub struct Listener(Arc<Stream>);

impl Listener {
    /// Whether the byte at `at` has come: if it is not there, it will not be.
    pub fn has_come(&self, at: u64) -> bool {
        at < self.0.bounds().1
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Before the count: whoever sees that nobody is left must see since when.
        *lock(&self.0.left) = Instant::now();
        self.0.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

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

/// The name of a stream's log among the variants of its URL.
fn variant(id: StreamId) -> String {
    format!("stream {id}")
}

fn new(id: StreamId, origin: StreamRequest, started: u64) -> Stream {
    Stream {
        id,
        origin,
        started,
        begun: Instant::now(),
        status: watch::Sender::new(StreamStatus {
            state: StreamState::Opening,
            why: None,
            code: None,
            ended: None,
            gone: false,
        }),
        stop: watch::Sender::new(None),
        joins: Mutex::default(),
        log: Mutex::new(Log::None),
        first: AtomicU64::new(0),
        end: AtomicU64::new(0),
        listeners: AtomicUsize::new(0),
        left: Mutex::new(Instant::now()),
        kind: OnceLock::new(),
    }
}

fn restored(id: StreamId, record: StreamRecord, now: u64) -> Stream {
    let was_under_way = record.state < StreamState::Complete.number();
    let origin = StreamRequest {
        url: record.url,
        method: record.method,
        detached: record.detached,
        request: record.request,
    };
    let stream = new(id, origin, record.started);
    stream.status.send_replace(StreamStatus {
        state: StreamState::restored(record.state),
        why: match was_under_way {
            true => Some("the server ended while it was under way".to_owned()),
            false => record.why,
        },
        code: record.code,
        ended: record.ended.or(Some(now)),
        gone: record.gone,
    });
    if let Some((id, generation)) = record.log
        && let Some(id) = ObjectId::from_bytes(&id)
    {
        *lock(&stream.log) = Log::Stored(id, generation);
    }
    stream.first.store(record.first, Ordering::Release);
    stream.end.store(record.end, Ordering::Release);
    stream
}
