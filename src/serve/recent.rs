//! Hits, answered on the spot: what one worker remembers of the requests that it has just answered.
//!
//! Parsing and hashing a URL costs more than serving 16 KiB of it, and a table shared by all workers would cost a
//! lock: each remembers where its last requests went. Of an object that is small it remembers the answer as well,
//! for the second in which its header stays the same; a request that says nothing but which object it wants is
//! given that.

use super::lookup::Service;
use super::quick::Template;
use super::request::{RequestFields, is_plain};
use super::route::Routed;
use crate::config::Delivery;
use crate::store::{Head, Kept, Object};
use crate::upstream::Target;
use actix_http::Response;
use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Longer paths are rare enough to be parsed each time.
pub(super) const MAX_RECENT_BYTES: usize = 512;
const MAX_RECENT: usize = 1024;

/// Of no longer body does each worker have a copy of its own.
const MAX_COPIED_BYTES: usize = 2048;

/// The bytes of an offset in a block.
const END_BYTES: usize = 2;

/// So often is an answer given before its object is told of it: a count that two cores write to costs each as much
/// as a header.
pub(super) const TOLD_AFTER: u32 = 64;

/// An answer that is fresh for less than this may not be so at the end of its second.
pub(super) const LEAST_TTL_SECONDS: i64 = 2;

pub(super) type Table = HashMap<String, Remembered>;

/// The recent requests of one worker.
///
/// A full table is emptied, not aged: what is still in use is back within one request each.
#[derive(Debug, Default)]
pub struct Recent {
    /// By the path alone: a request with a query takes the long way.
    table: RefCell<Table>,
    /// The names of the fields of the latest answer: most have the same.
    names: RefCell<Rc<[HeaderName]>>,
}

impl Recent {
    pub(super) fn table(&self) -> RefMut<'_, Table> {
        self.table.borrow_mut()
    }

    pub(super) fn remember(table: &mut Table, path: &str, known: Remembered) {
        if table.len() >= MAX_RECENT {
            table.clear();
        }
        table.insert(path.to_owned(), known);
    }

    fn names<'a>(&self, names: impl Iterator<Item = &'a HeaderName> + Clone) -> Rc<[HeaderName]> {
        let mut latest = self.names.borrow_mut();
        if !latest.iter().eq(names.clone()) {
            *latest = names.cloned().collect();
        }
        Rc::clone(&latest)
    }
}

/// Where a path leads, and what was last answered there.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) target: Arc<Target>,
    pub(super) delivery: Delivery,
    ready: Option<Ready>,
    /// The same for connections of our own.
    pub(super) template: Option<Template>,
}

impl Remembered {
    pub(super) fn new(target: Arc<Target>, delivery: Delivery) -> Self {
        Self {
            target,
            delivery,
            ready: None,
            template: None,
        }
    }
}

/// An answer to be given again. It holds no object: whether one may be closed or evicted shows in who holds it.
///
/// It is small, since what a worker gives again and again is more than its core's caches hold: the values of all
/// fields lie in one piece of memory, behind their ends there and before the body.
#[derive(Debug)]
struct Ready {
    kept: Arc<Kept>,
    /// By [`crate::clock::Clock::elapsed`].
    until: Duration,
    names: Rc<[HeaderName]>,
    block: Bytes,
    /// The body, where it is not in the block.
    apart: Option<Arc<Kept>>,
    /// How often it was given since that was last told.
    given: u32,
}

impl Service {
    /// Answers from an open, whole and fresh object: without a wait, and without a look at the disk
    /// but for the bytes themselves. `None` sends the request the long way, to [`Service::fetch`].
    pub fn at_once(&self, recent: &Recent, head: &RequestHead) -> Option<Response<BoxBody>> {
        let (path, query) = (head.uri.path(), head.uri.query());
        let mut table = recent.table();
        let known = match query {
            None => table.get_mut(path),
            Some(_) => None,
        };
        let response = match known {
            Some(known) => {
                if let Some(response) = known.ready.as_mut().and_then(|ready| self.again(head, ready)) {
                    return Some(response);
                }
                let object = self.resident(&known.target, &RequestFields(&head.headers))?;
                let kept = object.kept_body();
                let response = self.stored_answer(head, &known.target, known.delivery, Arc::clone(&object))?;
                known.ready = kept.and_then(|kept| self.ready(recent, head, &object, kept, &response));
                response
            }
            None => {
                let Ok(Routed::Fetch { target, delivery }) = self.routes.resolve(path, query) else {
                    return None;
                };
                if query.is_none() && path.len() <= MAX_RECENT_BYTES {
                    let known = Remembered::new(Arc::clone(&target), delivery);
                    Recent::remember(&mut table, path, known);
                }
                let object = self.resident(&target, &RequestFields(&head.headers))?;
                self.stored_answer(head, &target, delivery, object)?
            }
        };
        self.metrics.hits.inc();
        self.metrics.answered(response.status().as_u16());
        Some(response.into())
    }

    /// The same answer as a moment ago, where it still holds.
    fn again(&self, head: &RequestHead, ready: &mut Ready) -> Option<Response<BoxBody>> {
        if !ready.kept.is_current() || self.clock.elapsed() >= ready.until || !is_plain(head) {
            return None;
        }
        let body = ready.body();
        self.metrics.hits.inc();
        self.metrics.answered(200);
        self.metrics.sent_bytes.inc_by(body.len() as u64);
        ready.given += 1;
        if ready.given >= TOLD_AFTER {
            ready.tell();
        }
        let mut response = Response::with_body(StatusCode::OK, body.boxed());
        let fields = response.headers_mut();
        for (name, value) in ready.fields() {
            fields.append(name, value);
        }
        Some(response)
    }

    /// What of an answer can be given again; `kept` was the object's body before it was made.
    fn ready(
        &self,
        recent: &Recent,
        head: &RequestHead,
        object: &Object,
        kept: Arc<Kept>,
        response: &HttpResponse,
    ) -> Option<Ready> {
        let now = self.clock.elapsed();
        let known = object.head();
        let repeats = response.status() == StatusCode::OK
            && object.length() == Some(kept.bytes().len() as u64)
            && known.representation().selected_by.is_empty()
            && self.ttl(object, now) >= LEAST_TTL_SECONDS
            && is_plain(head);
        if !repeats {
            return None;
        }
        let fields: Vec<_> = response.headers().iter().collect();
        Ready::new(kept, second_ends(&known, now), &fields, recent)
    }
}

/// When `Age` and `ttl` move on: when the next whole second since the validation is over.
pub(super) fn second_ends(head: &Head, now: Duration) -> Duration {
    let over = head.since_validated(now).subsec_nanos();
    now.saturating_add(Duration::from_secs(1).saturating_sub(Duration::from_nanos(over.into())))
}

impl Ready {
    /// `None` where the fields are longer than anybody's.
    fn new(kept: Arc<Kept>, until: Duration, fields: &[(&HeaderName, &HeaderValue)], recent: &Recent) -> Option<Self> {
        let is_copied = kept.bytes().len() <= MAX_COPIED_BYTES;
        let mut block = Vec::with_capacity(2048);
        let mut end = fields.len() * END_BYTES;
        for (_, value) in fields {
            end += value.len();
            block.extend_from_slice(&u16::try_from(end).ok()?.to_le_bytes());
        }
        fields
            .iter()
            .for_each(|(_, value)| block.extend_from_slice(value.as_bytes()));
        if is_copied {
            block.extend_from_slice(kept.bytes());
        }
        Some(Self {
            names: recent.names(fields.iter().map(|(name, _)| *name)),
            block: Bytes::copy_from_slice(&block),
            apart: (!is_copied).then(|| Arc::clone(&kept)),
            kept,
            until,
            given: 0,
        })
    }

    /// Where the values begin and each of them ends.
    fn bounds(&self) -> impl Iterator<Item = (usize, usize)> {
        let ends = self.block[..self.names.len() * END_BYTES].chunks_exact(END_BYTES);
        let mut start = self.names.len() * END_BYTES;
        ends.map(move |end| {
            let end = usize::from(u16::from_le_bytes([end[0], end[1]]));
            (std::mem::replace(&mut start, end), end)
        })
    }

    fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.names.iter().zip(self.bounds()).filter_map(|(name, (start, end))| {
            let value = HeaderValue::from_maybe_shared(self.block.slice(start..end)).ok()?;
            Some((name.clone(), value))
        })
    }

    fn body(&self) -> Bytes {
        match &self.apart {
            Some(kept) => kept.bytes().clone(),
            None => {
                let values_end = self.bounds().last().map_or(0, |(_, end)| end);
                self.block.slice(values_end..)
            }
        }
    }

    fn tell(&mut self) {
        self.kept.answered(std::mem::take(&mut self.given));
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.tell();
    }
}
