//! The way in: a hit is answered on the spot, everything else by the application in a future of its own.
//!
//! A hit needs nothing of what actix-web makes of a request: no router, no pool of requests, no extensions.
//! They cost as much as finding the object and writing its header.

use crate::serve::{Recent, Service};
use actix_http::{Request, Response};
use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev;
use actix_web::dev::{AppConfig, ServiceFactory, ServiceResponse};
use futures::future::{Either, FutureExt, LocalBoxFuture, Ready, ready};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Makes the door of each worker, in front of the application that `inner` makes.
pub(super) struct Doors<F> {
    pub(super) service: Arc<Service>,
    pub(super) recent: Rc<Recent>,
    pub(super) inner: F,
}

impl<F> ServiceFactory<Request> for Doors<F>
where
    F: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse, Error = Error, InitError = ()>,
    F::Service: 'static,
    F::Future: 'static,
{
    type Response = Response<BoxBody>;
    type Error = Error;
    type Config = AppConfig;
    type Service = Door<F::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, config: AppConfig) -> Self::Future {
        let service = Arc::clone(&self.service);
        let recent = Rc::clone(&self.recent);
        let inner = self.inner.new_service(config);
        async move {
            Ok(Door {
                service,
                recent,
                inner: inner.await?,
            })
        }
        .boxed_local()
    }
}

/// The door of one worker.
pub(super) struct Door<S> {
    service: Arc<Service>,
    recent: Rc<Recent>,
    inner: S,
}

impl<S> dev::Service<Request> for Door<S>
where
    S: dev::Service<Request, Response = ServiceResponse, Error = Error>,
    S::Future: 'static,
{
    type Response = Response<BoxBody>;
    type Error = Error;
    type Future = Either<Ready<Result<Self::Response, Error>>, LocalBoxFuture<'static, Result<Self::Response, Error>>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, request: Request) -> Self::Future {
        match self.service.at_once(&self.recent, request.head()) {
            Some(response) => Either::Left(ready(Ok(response))),
            None => {
                let answered = self.inner.call(request);
                Either::Right(async move { Ok(answered.await?.into()) }.boxed_local())
            }
        }
    }
}
