//! The application: the API under `/-/`, and for all other paths the handler that serves ranges.
//!
//! Most requests do not come here: `http1` answers what has no body by the same [`Site::answer`], without the framework's
//! work for a request. What comes is the API, requests with bodies, what only the framework reads (HTTP/1.0, odd
//! framing), and whatever comes by TLS or a socket in the file system.

use crate::access::Door;
use crate::admin;
use crate::http1::{AnswerInProgress, SeatHandle};
use crate::site::Site;
use actix_http::{ConnectionType, Request};
use actix_service::{Service, ServiceFactory, map_config};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::guard::{GuardContext, fn_guard};
use actix_web::http::Version;
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpRequest, HttpResponse, dev, web};
use bytes::Bytes;
use futures::future::{LocalBoxFuture, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The application behind one kind of listener, for one worker.
pub(super) fn application(
    site: &Arc<Site>,
    door: Door,
) -> impl ServiceFactory<Request, Config = (), Response = ServiceResponse, Error = Error, InitError = ()> + use<> {
    let mut app = App::new().app_data(web::Data::from(Arc::clone(site))).app_data(door);
    if let Some(cache) = &site.cache {
        app = app.app_data(web::Data::from(Arc::clone(cache)));
    }
    let has_mounts = !site.mounts.is_empty();
    // The framework matches decoded paths: an escaped spelling is a path of a mount.
    let is_upload =
        move |context: &GuardContext<'_>| has_mounts && context.head().uri.path().starts_with(crate::site::UPLOADS);
    let uploads = web::resource("/-/uploads/{id:.*}")
        .guard(fn_guard(is_upload))
        .to(handle);
    let app = app
        .wrap(from_fn(around))
        .service(uploads)
        .service(admin::scope(site.cache.is_some()))
        .default_service(web::to(handle));
    map_config(app, |()| AppConfig::default())
}

/// Counts each answer, and tells the end of those without a length to clients that know no chunks.
async fn around(request: dev::ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, Error> {
    let is_old = matches!(request.version(), Version::HTTP_10 | Version::HTTP_09);
    let site = request.app_data::<web::Data<Site>>().cloned();
    let busy = request.request().conn_data::<SeatHandle>().map(SeatHandle::begin);
    let refusal = site
        .as_ref()
        .and_then(|site| site.refused_host(door_of(request.request()), request.head()));
    let mut response = match refusal {
        Some(refusal) => request.into_response(HttpResponse::from(refusal)),
        None => next.call(request).await?,
    };
    if let Some(site) = site {
        site.metrics.answered(response.status().as_u16());
    }
    if is_old && response.response().body().size() == BodySize::Stream {
        // Chunks are of HTTP/1.1: to an older client the connection's close tells the end (RFC 9112 §6.1).
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
    // The connection is idle again when the answer has been sent.
    Ok(match busy {
        Some(busy) => response.map_body(|_, body| BoxBody::new(AnsweringBody { body, _busy: busy })),
        None => response,
    })
}

/// A body whose connection is not idle before its end.
struct AnsweringBody {
    body: BoxBody,
    _busy: AnswerInProgress,
}

impl MessageBody for AnsweringBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        let Self { body, _busy } = self;
        body.try_into_bytes().map_err(|body| Self { body, _busy })
    }
}

/// The default service.
async fn handle(request: HttpRequest, payload: web::Payload, site: web::Data<Site>) -> HttpResponse {
    let door = door_of(&request);
    site.answer(door, request.head(), payload.into_inner()).await.into()
}

/// The kind of listener that a request has come by.
fn door_of(request: &HttpRequest) -> Door {
    request.app_data::<Door>().copied().unwrap_or(Door::Public)
}

/// The service that a client which waits with its body (`Expect: 100-continue`) is let through by, or refused.
#[derive(Clone)]
pub(super) struct BeforeBody(pub(super) Arc<Site>, pub(super) Door);

impl ServiceFactory<Request> for BeforeBody {
    type Response = Request;
    type Error = actix_http::Response<BoxBody>;
    type Config = ();
    type Service = Self;
    type InitError = ();
    type Future = Ready<Result<Self, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        ready(Ok(self.clone()))
    }
}

impl Service<Request> for BeforeBody {
    type Response = Request;
    type Error = actix_http::Response<BoxBody>;
    type Future = LocalBoxFuture<'static, Result<Request, Self::Error>>;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, request: Request) -> Self::Future {
        let (site, door) = (Arc::clone(&self.0), self.1);
        Box::pin(async move {
            let Some(refusal) = site.before_body(door, request.head()).await else {
                return Ok(request);
            };
            let mut refusal = actix_http::Response::from(refusal);
            // The body may come all the same, and would be taken for the next request.
            refusal.head_mut().set_connection_type(ConnectionType::Close);
            Err(refusal)
        })
    }
}
