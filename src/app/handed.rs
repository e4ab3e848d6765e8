//! The connections of one worker: each begins in the lane, and is handed to actix-http where it leaves it.

use super::lane::{Ended, Lane};
use super::tune;
use actix_http::Protocol;
use actix_http::error::DispatchError;
use actix_service::{Service, ServiceFactory};
use actix_web::rt::net::TcpStream;
use futures::future::{FutureExt, LocalBoxFuture};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection of which some bytes have been read already.
pub(super) struct Handed {
    ahead: Vec<u8>,
    stream: TcpStream,
}

impl AsyncRead for Handed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let count = self.ahead.len().min(into.remaining());
        into.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Handed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What actix-http serves.
type Spoken = (Handed, Protocol, Option<SocketAddr>);

/// Makes what serves the connections of a worker: its lane, and `http` behind it.
pub(super) struct Connections<H, L, W> {
    pub(super) http: H,
    pub(super) lane: L,
    /// Ready when no more requests are to be answered.
    pub(super) stopping: W,
}

impl<H, L, W, F> ServiceFactory<TcpStream> for Connections<H, L, W>
where
    H: ServiceFactory<Spoken, Response = (), Error = DispatchError, Config = (), InitError = ()>,
    H::Service: 'static,
    H::Future: 'static,
    L: Fn() -> Rc<Lane>,
    W: Fn() -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = Worker<H::Service, W>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (http, lane, stopping) = (self.http.new_service(()), (self.lane)(), self.stopping.clone());
        async move {
            Ok(Worker {
                http: Rc::new(http.await?),
                lane,
                stopping,
            })
        }
        .boxed_local()
    }
}

/// The connections of one worker.
pub(super) struct Worker<H, W> {
    http: Rc<H>,
    lane: Rc<Lane>,
    stopping: W,
}

impl<H, W, F> Service<TcpStream> for Worker<H, W>
where
    H: Service<Spoken, Response = (), Error = DispatchError> + 'static,
    W: Fn() -> F,
    F: Future<Output = ()> + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Future = LocalBoxFuture<'static, Result<(), DispatchError>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        self.http.poll_ready(cx)
    }

    fn call(&self, stream: TcpStream) -> Self::Future {
        let (http, lane, stopping) = (Rc::clone(&self.http), Rc::clone(&self.lane), (self.stopping)());
        async move {
            tune(&stream);
            match lane.converse(stream, stopping).await {
                Ended::Over => Ok(()),
                Ended::Hand(stream, ahead) => {
                    let peer = stream.peer_addr().ok();
                    http.call((Handed { ahead, stream }, Protocol::Http1, peer)).await
                }
            }
        }
        .boxed_local()
    }
}
