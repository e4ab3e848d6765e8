//! Hits on a connection of our own: from the bytes of a request to those of an answer's header.
//!
//! A player's seek into a stored film, and a page's small object, say nothing that any of the machinery between a
//! socket and [`Service::fetch`] is for. Here such a request is read where it lies, and answered by a header made once
//! a second; whatever says more than a path and one range is not for here, and goes the long way.
//!
//! A header is given again only while the second lasts in which `Age` stays the same, the object has the same head, and
//! it is whole. It is made by the long way itself, from a plain request, so the two cannot say different things
//! (docs/decisions/0014).

use super::request_cache::{
    CachedHead, LEAST_TTL_SECONDS, MAX_HEADER_BYTES, MAX_RECENT_BYTES, Remembered, RequestCache, RequestTarget,
    second_ends,
};
use crate::header::{Selection, select, select_one};
use crate::http1::{HitBody, RequestHead, lines_of};
use crate::proxy::request::Request;
use crate::proxy::request::route::Routed;
use crate::proxy::response::body::SegmentedBody;
use crate::proxy::response::multipart::Segment;
use crate::proxy::response::object_source::{ObjectSource, RefetchSource};
use crate::proxy::service::Service;
use crate::ranges::ByteRange;
use crate::store::{Object, Watch};
use actix_web::body::MessageBody;
use actix_web::http::{StatusCode, Uri};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The body of a hit, and where its bytes are to be fetched should they be gone.
type Hit = HitBody<Object, Rc<RequestTarget>>;

impl Service {
    /// Answers from an open, whole and fresh object: writes the header behind what is in `into`. `None`, with nothing
    /// written, sends the request the long way.
    pub fn plain_hit(&self, cache: &RequestCache, request: &RequestHead<'_, '_>, into: &mut Vec<u8>) -> Option<Hit> {
        if !request.is_plain() {
            return None;
        }
        // Borrowed to the end: nothing in here waits, and a worker has one thread.
        let mut table = cache.table();
        if let Some(known) = table.get_mut(request.path()) {
            return self.quickly(known, request, into);
        }
        let mut known = self.remembered(request.path())?;
        let body = self.quickly(&mut known, request, into);
        RequestCache::remember(&mut table, request.path(), known);
        body
    }

    fn quickly(&self, known: &mut Remembered, request: &RequestHead<'_, '_>, into: &mut Vec<u8>) -> Option<Hit> {
        let now = self.clock.elapsed();
        // A small body is known to be current without a look at its object.
        let small = |template: &&mut CachedHead| {
            now < template.until && template.kept.as_ref().is_some_and(|kept| kept.is_current())
        };
        if let Some(template) = known.template.as_mut().filter(small) {
            let (range, is_part) = selected(request.range(), template.length)?;
            template.write(range, is_part, request.closes(), into);
            template.note();
            self.count(is_part);
            let body = template.kept.as_ref().zip(range).map(|(kept, range)| {
                self.metrics.sent_bytes.inc_by(range.len());
                HitBody::Memory(kept.part(range))
            });
            return Some(body.unwrap_or(HitBody::Empty));
        }
        let object = self.store.resident(&known.place.target.key)?;
        let is_current = |template: &CachedHead| {
            now < template.until && Arc::ptr_eq(&template.head, &object.head()) && object.is_whole()
        };
        let is_new = !known.template.as_ref().is_some_and(is_current);
        if is_new {
            // Dropping the old header reports its hits first.
            known.template = None;
            known.template = Some(self.template(known, &object, now)?);
        }
        let template = known.template.as_mut()?;
        let (range, is_part) = selected(request.range(), template.length)?;
        if !is_new {
            template.note();
        }
        template.write(range, is_part, request.closes(), into);
        self.count(is_part);
        Some(match (range, &template.kept) {
            (None, _) => HitBody::Empty,
            (Some(range), Some(kept)) => {
                self.metrics.sent_bytes.inc_by(range.len());
                HitBody::Memory(kept.part(range))
            }
            (Some(range), None) => HitBody::Stored {
                source: object,
                range,
                place: Rc::clone(&known.place),
            },
        })
    }

    /// The rest of a body by the ordinary way: bytes that are not in memory are read, bytes that are gone are
    /// fetched.
    pub fn read_on(&self, object: &Arc<Object>, range: ByteRange, place: &RequestTarget) -> impl MessageBody + use<> {
        let source = RefetchSource {
            fills: self.fills.clone(),
            target: Arc::clone(&place.target),
        };
        let segments = vec![Segment::Object(range)];
        let watch = Watch::new(Arc::clone(object));
        SegmentedBody::new(
            ObjectSource::new(watch, None, Some(source)),
            segments,
            Arc::clone(&self.metrics),
        )
    }

    fn count(&self, is_part: bool) {
        self.metrics.hits.inc();
        self.metrics.answered(if is_part { 206 } else { 200 });
    }

    /// Where a path leads, to be remembered.
    fn remembered(&self, path: &str) -> Option<Remembered> {
        let uri = Uri::try_from(path).ok()?;
        if path.len() > MAX_RECENT_BYTES || uri.path() != path || uri.query().is_some() {
            return None;
        }
        match self.routes.resolve(path, None) {
            Ok(Routed::Fetch { target, delivery }) => Some(Remembered::new(target, delivery)),
            _ => None,
        }
    }

    /// The header that the ordinary way gives to a request for all of the object. `None` where the answer
    /// depends on more than the object.
    fn template(&self, known: &Remembered, object: &Arc<Object>, now: Duration) -> Option<CachedHead> {
        let head = Arc::clone(&object.head());
        let length = object.length()?;
        let representation = head.representation();
        // Whose a guarded object is, is looked into on the longer way.
        let depends = representation.is_guarded
            || !representation.selected_by.is_empty()
            || representation.header("content-encoding").is_some()
            || representation.header_bytes() > MAX_HEADER_BYTES;
        if depends || representation.status != 200 || self.ttl(object, now) < LEAST_TTL_SECONDS {
            return None;
        }
        let RequestTarget { target, delivery } = &*known.place;
        let no_fields: &[(String, String)] = &[];
        let selected = self.resident(target, no_fields)?;
        let kept = object.source().small_body();
        let is_same = Arc::ptr_eq(&selected, object);
        let response = self.stored_answer(&Request::plain(*delivery), target, selected)?;
        if !is_same || response.status() != StatusCode::OK {
            return None;
        }
        Some(CachedHead {
            length,
            until: second_ends(&head, now),
            fields: lines_of(&response.head, self.clock.now()),
            kept: kept.filter(|kept| kept.bytes().len() as u64 == length),
            head,
            tally: object.hit_counter(),
            given: 0,
            told: 0,
        })
    }
}

/// The range of an object of `length` bytes that is to be sent, and whether it is a part of it; `None` where the
/// answer is of another kind.
fn selected(field: Option<&[u8]>, length: u64) -> Option<(Option<ByteRange>, bool)> {
    let Some(field) = field else {
        return Some((ByteRange::new(0, length), false));
    };
    if let Some(range) = select_one(field, length) {
        return Some((Some(range), true));
    }
    match select(Some(field), length) {
        Selection::Whole => Some((ByteRange::new(0, length), false)),
        Selection::Ranges(ranges) if ranges.len() == 1 => Some((Some(ranges[0]), true)),
        Selection::Ranges(_) | Selection::Unsatisfiable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_or_unsatisfiable_ranges_are_not_selected() {
        let range = |start, end| ByteRange::new(start, end);
        assert_eq!(selected(None, 100), Some((range(0, 100), false)));
        assert_eq!(selected(Some(b"bytes=-5"), 100), Some((range(95, 100), true)));
        assert_eq!(selected(Some(b"bytes=5-"), 100), Some((range(5, 100), true)));
        assert_eq!(selected(Some(b"lines=5-"), 100), Some((range(0, 100), false)));
        assert_eq!(selected(Some(b"bytes=0-0,50-60"), 100), None);
        assert_eq!(selected(Some(b"bytes=100-"), 100), None);
        assert_eq!(selected(None, 0), Some((None, false)));
    }
}
