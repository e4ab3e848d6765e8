//! The site as the handler of a worker's connections: what the wire asks, and which part of the server answers it.
//!
//! There is one a worker, with the worker's own memory of its last requests. Hits, and what is answered at once, are for
//! paths of the cache that anybody may read and nobody logs ([`Site::is_freely_cached`]); the cache counts them by
//! itself. All else goes the way that requests of the framework go, and is counted here as the application counts it.

use crate::access::{Access, Door};
use crate::http1::{Handler, HitBody, RequestHead, Response};
use crate::proxy::{RequestCache, RequestTarget};
use crate::ranges::ByteRange;
use crate::site::{Site, is_service_worker};
use crate::store::Object;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{self, Payload};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

/// The handler of the requests of one worker's connections.
#[derive(Debug)]
pub(super) struct SiteHandler {
    pub(super) site: Arc<Site>,
    pub(super) recent: Rc<RequestCache>,
}

impl Handler for SiteHandler {
    type Source = Object;
    type Place = Rc<RequestTarget>;

    fn hit(&self, request: &RequestHead<'_, '_>, into: &mut Vec<u8>) -> Option<HitBody<Object, Self::Place>> {
        let site = &self.site;
        let cache = site.cache.as_ref().filter(|_| request.is_plain())?;
        let is_free = site.is_freely_cached(request.path())
            && self.recent.is_own_host(request.host(), |host| site.access.is_own_host(host))
            // Whether a proxy's request may name any URL is looked into on the longer way.
            && !(request.is_forwarded() && cache.routes.is_any_url(request.path()));
        is_free.then(|| cache.plain_hit(&self.recent, request, into))?
    }

    fn read_on(&self, source: &Arc<Object>, range: ByteRange, place: &Self::Place) -> impl MessageBody {
        match &self.site.cache {
            Some(cache) => BoxBody::new(cache.read_on(source, range, place)),
            // Without a cache there is no hit.
            None => BoxBody::new(()),
        }
    }

    fn at_once(&self, head: &dev::RequestHead) -> Option<Response> {
        let site = &self.site;
        let cache = site.cache.as_ref()?;
        let is_free = site.is_freely_cached(head.uri.path())
            && !Access::has_own_fields(&head.headers)
            && !is_service_worker(head)
            && site.access.check_host(Door::Public, head).is_ok()
            && !(Access::is_forwarded(head) && cache.routes.is_any_url(head.uri.path()));
        is_free.then(|| cache.at_once(&self.recent, head))?
    }

    async fn answer(&self, head: &dev::RequestHead) -> Response {
        let response = match self.site.refused_host(Door::Public, head) {
            Some(refusal) => refusal,
            None => self.site.answer(Door::Public, head, Payload::None).await,
        };
        self.site.metrics.answered(response.status().as_u16());
        response
    }

    fn may_half_close(&self, head: &dev::RequestHead) -> bool {
        self.site.may_half_close(head.uri.path())
    }

    fn sent(&self, bytes: u64) {
        self.site.metrics.sent_bytes.inc_by(bytes);
    }

    fn now(&self) -> SystemTime {
        self.site.clock.now()
    }
}
