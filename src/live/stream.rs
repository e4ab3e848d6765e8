//! One stream: what has become of its request, and where its log is.
//!
//! The bytes are an object's, and readers read that object. A stream adds where the log begins and ends, where one may come
//! in, who listens and how it ended. What the states mean, and the order of what is written, is told in streams.rs.

use super::kind::StreamFormat;
use super::sync_points::SyncPoints;
use crate::api::StreamState;
use crate::clock::Instant;
use crate::key::{Hex, ObjectId, from_hex};
use crate::store::{Object, StreamRecord};
use crate::sync::lock;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// Names a stream, and opens it: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(super) [u8; 16]);

impl StreamId {
    pub(super) fn new() -> Option<Self> {
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

/// The body of the request that a stream is the answer to, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentBody {
    /// The client is still sending it.
    Coming,
    /// All of it was sent; this is its SHA-256.
    Whole([u8; 32]),
    /// The body did not come whole, or nobody has noted what it was.
    Unknown,
}

/// A stream: its log is an object, which its readers read like any other.
#[derive(Debug)]
pub struct Stream {
    pub(super) id: StreamId,
    pub(super) origin: StreamRequest,
    /// In seconds since 1970.
    pub(super) started: u64,
    begun: Instant,
    pub(super) status: watch::Sender<StreamStatus>,
    stop: watch::Sender<Option<String>>,
    body: watch::Sender<SentBody>,
    /// Where listeners may come in; none before the reply and after the end. Written by the one session, read by each
    /// that comes; held while one piece is scanned.
    pub(super) joins: Mutex<Option<SyncPoints>>,
    /// The object that holds the bytes. Held for moments: it is cloned out before the store is asked.
    pub(super) log: Mutex<Log>,
    /// The first byte that is still in the log; only rises while the stream runs. AcqRel before bytes are dropped,
    /// Acquire where a listener looks for its place.
    pub(super) first: AtomicU64,
    /// The end of what has come; only rises while the stream runs. AcqRel after the sync points were noted: a thread
    /// that loads it (Acquire) finds those before it.
    pub(super) end: AtomicU64,
    /// How many listen. AcqRel and Acquire: a thread that finds none left finds in `left` since when.
    listeners: AtomicUsize,
    /// When the last listener left, or the stream began. A lock because no atomic holds an `Instant`; held for a copy.
    left: Mutex<Instant>,
    pub(super) kind: OnceLock<StreamFormat>,
}

/// Where the bytes of a stream are.
#[derive(Debug, Clone)]
pub(super) enum Log {
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

    /// Notes what the body of the request was, by its SHA-256; `None` where it did not come whole.
    pub fn set_body(&self, digest: Option<[u8; 32]>) {
        self.body
            .send_replace(digest.map_or(SentBody::Unknown, SentBody::Whole));
    }

    /// The body of the request, when it is known, or will not be.
    pub async fn body(&self) -> SentBody {
        let mut body = self.body.subscribe();
        let known = body.wait_for(|body| *body != SentBody::Coming).await;
        known.map_or(SentBody::Unknown, |body| *body)
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

    /// The stream as it is to be written down.
    pub(super) fn record(&self) -> StreamRecord {
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
            body: match *self.body.borrow() {
                SentBody::Whole(digest) => Some(digest),
                SentBody::Coming | SentBody::Unknown => None,
            },
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

/// The name of a stream's log among the variants of its URL.
pub(super) fn variant(id: StreamId) -> String {
    format!("stream {id}")
}

/// A stream that has just been asked for.
pub(super) fn new(id: StreamId, origin: StreamRequest, started: u64) -> Stream {
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
        body: watch::Sender::new(SentBody::Coming),
        joins: Mutex::default(),
        log: Mutex::new(Log::None),
        first: AtomicU64::new(0),
        end: AtomicU64::new(0),
        listeners: AtomicUsize::new(0),
        left: Mutex::new(Instant::now()),
        kind: OnceLock::new(),
    }
}

/// A stream as it was written down, by a server that has ended.
pub(super) fn restored(id: StreamId, record: StreamRecord, now: u64) -> Stream {
    let was_under_way = record.state < StreamState::Complete.number();
    let origin = StreamRequest {
        url: record.url,
        method: record.method,
        detached: record.detached,
        request: record.request,
    };
    let stream = new(id, origin, record.started);
    stream.set_body(record.body);
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
