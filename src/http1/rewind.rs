//! The connections of one worker: each begins as ours, and is handed to actix-http, with the bytes that were read,
//! where a request needs the framework.
//!
//! actix-http reads those bytes first, as if the socket gave them, and then the socket itself. They are dropped once
//! they are read. What it writes goes to the socket as it is. A worker is ready where actix-http is.

use super::connection::{Ended, Http1Connections};
use super::connection_table::ConnectionTable;
use super::handler::Handler;
use super::request_line::Watched;
use actix_http::Protocol;
use actix_http::error::DispatchError;
use actix_service::{Service, ServiceFactory};
use actix_web::rt::net::TcpStream;
use futures::future::{FutureExt, LocalBoxFuture};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection of which some bytes have been read already.
pub(crate) struct Rewind {
    ahead: Vec<u8>,
    stream: TcpStream,
}

impl AsyncRead for Rewind {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let count = self.ahead.len().min(into.remaining());
        into.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        if self.ahead.is_empty() {
            // The memory is given back: the connection may last for hours.
            self.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewind {
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

/// The connection type that actix-http serves.
type Spoken = (Watched<Rewind>, Protocol, Option<SocketAddr>);

/// The factory of a worker's connections: ours, and `http` behind them.
pub(crate) struct Connections<S, L, W> {
    pub(crate) http: S,
    pub(crate) http1: L,
    /// Sets up a connection before anything is read from it.
    pub(crate) tune: fn(&TcpStream),
    /// Ready when no more requests are to be answered.
    pub(crate) stopping: W,
    /// The places of all connections.
    pub(crate) table: Arc<ConnectionTable>,
}

impl<S, H, L, W, F> ServiceFactory<TcpStream> for Connections<S, L, W>
where
    S: ServiceFactory<Spoken, Response = (), Error = DispatchError, Config = (), InitError = ()>,
    S::Service: 'static,
    S::Future: 'static,
    H: Handler + 'static,
    L: Fn() -> Rc<Http1Connections<H>>,
    W: Fn() -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = Worker<S::Service, H, W>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (http, http1, stopping) = (self.http.new_service(()), (self.http1)(), self.stopping.clone());
        let (tune, table) = (self.tune, Arc::clone(&self.table));
        async move {
            Ok(Worker {
                table,
                http: Rc::new(http.await?),
                http1,
                tune,
                stopping,
            })
        }
        .boxed_local()
    }
}

/// The connections of one worker.
pub(crate) struct Worker<S, H, W> {
    http: Rc<S>,
    http1: Rc<Http1Connections<H>>,
    tune: fn(&TcpStream),
    stopping: W,
    table: Arc<ConnectionTable>,
}

impl<S, H, W, F> Service<TcpStream> for Worker<S, H, W>
where
    S: Service<Spoken, Response = (), Error = DispatchError> + 'static,
    H: Handler + 'static,
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
        let (http, http1, stopping) = (Rc::clone(&self.http), Rc::clone(&self.http1), (self.stopping)());
        let (tune, table) = (self.tune, Arc::clone(&self.table));
        async move {
            let client = stream.peer_addr().ok().map(|peer| peer.ip());
            // Without a place the connection is closed at once.
            let Some(seat) = table.admit(client) else {
                return Ok(());
            };
            tune(&stream);
            match http1.serve(stream, &seat.handle(), stopping).await {
                Ended::Over => Ok(()),
                Ended::Hand(stream, ahead) => {
                    let peer = stream.peer_addr().ok();
                    let stream = Watched::new(Rewind { ahead, stream }, seat.handle());
                    http.call((stream, Protocol::Http1, peer)).await
                }
            }
        }
        .boxed_local()
    }
}
