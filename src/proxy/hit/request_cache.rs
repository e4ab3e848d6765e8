//! Hits, answered on the spot: what one worker remembers of the requests that it has just answered.
//!
//! Parsing and hashing a URL costs more than serving 16 KiB of it, and a table shared by all workers would cost a lock:
//! each remembers where its last requests went, and the header of the answer for the second in which that stays the
//! same (fast_path.rs). What is remembered of a path is where it leads, which the configuration alone decides; whether it
//! may answer is looked at each time.

use crate::config::Delivery;
use crate::http1::Response;
use crate::proxy::request::route::Routed;
use crate::proxy::request::{Request, RequestFields};
use crate::proxy::service::Service;
use crate::ranges::ByteRange;
use crate::store::{Head, HitCounter, SmallBody};
use crate::upstream::Target;
use actix_web::dev::RequestHead;
use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Longer paths are rare enough to be parsed each time: a judgement.
pub(in crate::proxy) const MAX_RECENT_BYTES: usize = 512;

/// The most paths that a worker remembers: a judgement, half a megabyte of paths at most.
const MAX_RECENT: usize = 1024;

/// A count that two cores write to costs each as much as a header: an object is told of what was given in its second
/// when it is so many answers. Measured: docs/decisions/0019.
const TOLD_AFTER: u32 = 64;

/// An object is also told when the answers are more than this share of those that it knows of: one by one at first, for
/// eight in a second (docs/decisions/0019).
const TOLD_SHARE: u32 = 8;

/// The longest header that is remembered, in bytes: 1,024 of them are what a worker holds at most. A longer one is made for
/// each answer. A judgement: four times a usual one.
pub(in crate::proxy) const MAX_HEADER_BYTES: usize = 4 << 10;

/// An answer that is fresh for less than this may not be so at the end of its second. Two: `ttl` is in whole seconds,
/// so one may be over at once.
pub(in crate::proxy) const LEAST_TTL_SECONDS: i64 = 2;

pub(in crate::proxy) type Table = HashMap<String, Remembered>;

/// The recent requests of one worker.
///
/// A full table is emptied, not aged: what is still in use is back within one request each.
#[derive(Debug, Default)]
pub struct RequestCache {
    /// By the path alone: a request with a query takes the long way.
    table: RefCell<Table>,
    /// The last `Host` that was found to be this server's: clients say the same again.
    host: RefCell<Vec<u8>>,
}

impl RequestCache {
    /// Whether a `Host` is this server's: as `check` says, which is asked about another one than the last.
    pub(crate) fn is_own_host(&self, host: &[u8], check: impl FnOnce(&[u8]) -> bool) -> bool {
        let mut last = self.host.borrow_mut();
        if !host.is_empty() && *last == host {
            return true;
        }
        let is_own = check(host);
        if is_own {
            last.clear();
            last.extend_from_slice(host);
        }
        is_own
    }

    pub(in crate::proxy) fn table(&self) -> RefMut<'_, Table> {
        self.table.borrow_mut()
    }

    pub(in crate::proxy) fn remember(table: &mut Table, path: &str, known: Remembered) {
        if table.len() >= MAX_RECENT {
            table.clear();
        }
        table.insert(path.to_owned(), known);
    }
}

/// A header to be given again while its second lasts.
#[derive(Debug)]
pub(in crate::proxy) struct CachedHead {
    /// The object's head that the header was made of.
    pub(in crate::proxy) head: Arc<Head>,
    pub(in crate::proxy) length: u64,
    /// By [`crate::clock::Clock::elapsed`].
    pub(in crate::proxy) until: Duration,
    /// All fields but those of the framing, each with its end of line.
    pub(in crate::proxy) fields: Vec<u8>,
    pub(in crate::proxy) kept: Option<Arc<SmallBody>>,
    pub(in crate::proxy) tally: HitCounter,
    /// How often it was given, and how often of those its object was told of.
    pub(in crate::proxy) given: u32,
    pub(in crate::proxy) told: u32,
}

impl CachedHead {
    /// Writes the header for a range, or for the whole object.
    pub(in crate::proxy) fn write(&self, range: Option<ByteRange>, is_part: bool, closes: bool, into: &mut Vec<u8>) {
        let length = range.map_or(0, |range| range.len());
        let status: &[u8] = match is_part {
            true => b"HTTP/1.1 206 Partial Content\r\n",
            false => b"HTTP/1.1 200 OK\r\n",
        };
        into.extend_from_slice(status);
        into.extend_from_slice(&self.fields);
        let mut number = itoa::Buffer::new();
        let mut put = |before: &str, value: u64| {
            into.extend_from_slice(before.as_bytes());
            into.extend_from_slice(number.format(value).as_bytes());
        };
        if let (true, Some(range)) = (is_part, range) {
            put("content-range: bytes ", range.start());
            put("-", range.end() - 1);
            put("/", self.length);
            put("\r\ncontent-length: ", length);
        } else {
            put("content-length: ", length);
        }
        let end = if closes {
            "\r\nconnection: close\r\n\r\n"
        } else {
            "\r\n\r\n"
        };
        into.extend_from_slice(end.as_bytes());
    }

    /// Notes that it was given once more.
    pub(in crate::proxy) fn note(&mut self) {
        self.given = self.given.saturating_add(1);
        let untold = self.given - self.told;
        if untold > self.told / TOLD_SHARE || untold >= TOLD_AFTER {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.tally.answered(self.given - self.told);
        self.told = self.given;
    }
}

impl Drop for CachedHead {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Where a path leads.
#[derive(Debug)]
pub struct RequestTarget {
    pub(in crate::proxy) target: Arc<Target>,
    pub(in crate::proxy) delivery: Delivery,
}

/// Where a path leads, and what was last answered there.
#[derive(Debug)]
pub(in crate::proxy) struct Remembered {
    /// Shared by the answers of this worker: its count is in no other core's caches.
    pub(in crate::proxy) place: Rc<RequestTarget>,
    /// The header that was given there.
    pub(in crate::proxy) template: Option<CachedHead>,
}

impl Remembered {
    pub(in crate::proxy) fn new(target: Arc<Target>, delivery: Delivery) -> Self {
        Self {
            place: Rc::new(RequestTarget { target, delivery }),
            template: None,
        }
    }
}

impl Service {
    /// Answers from an open, whole and fresh object: without a wait, and without a look at the disk
    /// but for the bytes themselves. `None` sends the request the long way, to [`Service::fetch`].
    pub fn at_once(&self, cache: &RequestCache, head: &RequestHead) -> Option<Response> {
        let (path, query) = (head.uri.path(), head.uri.query());
        let (target, delivery) = self.leads_to(cache, path, query)?;
        let object = self.resident(&target, &RequestFields(&head.headers))?;
        // The target that a path leads to knows no client: whose a guarded object is, is looked into on the longer way.
        if object.head().representation().is_guarded {
            return None;
        }
        let request = Request::read(head, delivery)?;
        let response = self.stored_answer(&request, &target, object)?;
        self.metrics.hits.inc();
        self.metrics.answered(response.status().as_u16());
        Some(response)
    }

    /// Where a request leads, where it is to be fetched.
    fn leads_to(&self, cache: &RequestCache, path: &str, query: Option<&str>) -> Option<(Arc<Target>, Delivery)> {
        let mut table = cache.table();
        if let Some(known) = table.get(path).filter(|_| query.is_none()) {
            return Some((Arc::clone(&known.place.target), known.place.delivery));
        }
        let Ok(Routed::Fetch { target, delivery }) = self.routes.resolve(path, query) else {
            return None;
        };
        if query.is_none() && path.len() <= MAX_RECENT_BYTES {
            RequestCache::remember(&mut table, path, Remembered::new(Arc::clone(&target), delivery));
        }
        Some((target, delivery))
    }
}

/// When `Age` and `ttl` move on: when the next whole second since the validation is over.
pub(in crate::proxy) fn second_ends(head: &Head, now: Duration) -> Duration {
    let over = head.since_validated(now).subsec_nanos();
    now.saturating_add(Duration::from_secs(1).saturating_sub(Duration::from_nanos(over.into())))
}
