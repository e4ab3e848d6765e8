//! The cache as the handler of its connections: what the wire asks, and which part of the cache answers it.
//!
//! There is one a worker, with the worker's own memory of its last requests. Hits and what is answered at once are counted by the
//! cache itself; what had to be waited for is counted here, as the application counts what goes through it.

use super::application::answer;
use crate::http1::{Handler, HitBody, RequestHead, Response};
use crate::ranges::ByteRange;
use crate::serve::{RequestCache, RequestTarget, Service};
use crate::store::Object;
use actix_web::body::MessageBody;
use actix_web::dev::{self, Payload};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

/// The handler of the requests of one worker's connections.
#[derive(Debug)]
pub(super) struct CacheHandler {
    pub(super) service: Arc<Service>,
    pub(super) cache: Rc<RequestCache>,
}

impl Handler for CacheHandler {
    type Source = Object;
    type Place = Rc<RequestTarget>;

    fn hit(&self, request: &RequestHead<'_, '_>, into: &mut Vec<u8>) -> Option<HitBody<Object, Self::Place>> {
        self.service.plain_hit(&self.cache, request, into)
    }

    fn read_on(&self, source: &Arc<Object>, range: ByteRange, place: &Self::Place) -> impl MessageBody {
        self.service.read_on(source, range, place)
    }

    fn at_once(&self, head: &dev::RequestHead) -> Option<Response> {
        self.service.at_once(&self.cache, head)
    }

    async fn answer(&self, head: &dev::RequestHead) -> Response {
        let response = answer(&self.service, head, Payload::None).await;
        self.service.metrics.answered(response.status().as_u16());
        response
    }

    fn sent(&self, bytes: u64) {
        self.service.metrics.sent_bytes.inc_by(bytes);
    }

    fn now(&self) -> SystemTime {
        self.service.clock.now()
    }
}
