//! The doors of a server: what speaks with the connections of each kind of listener.
//!
//! ```text
//! TCP          http1, and behind it the framework, for requests that need it
//! TLS          h2 ──► http2        http/1.1 ──► the framework
//! unix:/PATH   the framework; control.sock the same, by its own door (crate::access)
//!                     all ask the same Site (crate::site)
//! ```
//!
//! Request lines of the framework's connections are watched (`request_line`): its URI type would drop what follows a
//! raw `#`.

use super::application::{BeforeBody, application};
use super::listen::{ListeningSocket, SocketFile};
use super::site_handler::SiteHandler;
use super::{KEEP_ALIVE, http2};
use crate::access::Door;
use crate::clock::SharedClock;
use crate::http1::{ConnectionTable, Connections, Http1Connections, SeatHandle, Watched};
use crate::proxy::RequestCache;
use crate::site::Site;
use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request};
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory, ServiceFactoryExt};
use actix_tls::accept::TlsError;
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::Error;
use actix_web::dev::{self, ServiceResponse};
use actix_web::rt::net::{TcpStream, UnixStream};
use futures::future::{FutureExt, LocalBoxFuture};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The write buffer of one connection is written out when it holds this much. A block may pass it. A judgement: the
/// framework's buffer is for the API and for what it alone reads.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// The longest that a client which has had an error instead of reading on may take to go. A judgement.
const LINGER: Duration = Duration::from_secs(1);

/// The same where files can be put: what a client sends that has been refused already is read on for so long, and
/// thrown away. Closed at once, it would find its connection broken and never see why. A judgement.
const UPLOAD_LINGER: Duration = Duration::from_secs(30);

/// The longest that a TLS handshake may take. A judgement: some round trips of a bad mobile network.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// A peer that has acknowledged nothing for this long is gone. A paused player acknowledges the kernel's probes, so a
/// pause of any length is no such silence. A judgement, about as long as the kernel repeats by itself (`tcp_retries2`).
const DEAD_PEER: Duration = Duration::from_secs(15 * 60);

/// Unsent bytes that the kernel holds of a connection: enough for a fast reader until the worker comes round again.
/// Without a bound each slow reader has megabytes of it. Measured: docs/decisions/0014; 2 MiB are 1.02 times as fast
/// (docs/performance.md).
const UNSENT_BYTES: u32 = 256 * 1024;

/// Threads of one worker that read what the page cache does not hold: so many reads at once keep a disk busy. Each has
/// its heap. A judgement.
const READ_THREADS: usize = 8;

/// A connection as the framework takes it.
type Spoken<T> = (T, Protocol, Option<SocketAddr>);

/// The doors of a server before they are opened.
pub(super) struct Doors {
    pub(super) site: Arc<Site>,
    /// The configuration of TLS, where the server speaks HTTPS.
    pub(super) tls: Option<ServerConfig>,
    pub(super) workers: usize,
    pub(super) grace: Duration,
    pub(super) table: Arc<ConnectionTable>,
}

impl Doors {
    /// Accepts connections at the listeners. The runtime of the caller is the server's.
    ///
    /// # Errors
    /// Where the operating system refuses to.
    pub(super) fn open(self, listeners: Vec<ListeningSocket>) -> std::io::Result<dev::Server> {
        let mut builder = actix_server::Server::build()
            .workers(self.workers)
            .worker_max_blocking_threads(READ_THREADS)
            .shutdown_timeout(self.grace.as_secs())
            .disable_signals();
        let signal = builder.graceful_shutdown_signal();
        let mut files: Vec<SocketFile> = Vec::new();
        for listener in listeners {
            let (site, signal, table) = (Arc::clone(&self.site), signal.clone(), Arc::clone(&self.table));
            builder = match (listener, &self.tls) {
                (ListeningSocket::Tcp(listener, _), None) => {
                    builder.listen("millpond", listener, move || plain_connections(&site, &signal, &table))?
                }
                (ListeningSocket::Tcp(listener, _), Some(tls)) => {
                    let tls = tls.clone();
                    builder.listen("millpond-tls", listener, move || {
                        tls_connections(&site, tls.clone(), &signal, &table)
                    })?
                }
                (ListeningSocket::Unix(listener, file, door), _) => {
                    files.push(file);
                    builder.listen_uds("millpond-unix", listener, move || UnixConnections {
                        http: framework(&site, &signal, door),
                        table: Arc::clone(&table),
                    })?
                }
            };
        }
        let server = builder.run();
        // The names of the sockets last as long as the server.
        actix_web::rt::spawn(async move {
            signal.notified().await;
            drop(files);
        });
        Ok(server)
    }
}

async fn stopping(signal: GracefulShutdownSignal) {
    signal.notified().await;
}

/// The framework's connections of one worker.
fn framework<T>(
    site: &Arc<Site>,
    signal: &GracefulShutdownSignal,
    door: Door,
) -> impl ServiceFactory<Spoken<Watched<T>>, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<T>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let signal = signal.clone();
    let has_mounts = !site.mounts.is_empty();
    HttpService::build()
        .graceful_shutdown_signal(move || stopping(signal.clone()))
        .keep_alive(KEEP_ALIVE)
        .client_disconnect_timeout(if has_mounts { UPLOAD_LINGER } else { LINGER })
        .h1_write_buffer_size(WRITE_BUFFER_BYTES)
        // A player that has gone must be noticed while there is nothing to write to it. Where there is no cache, a client
        // that has closed its side, and bytes behind a request that are none, cost no upload its answer.
        .h1_allow_half_closed(has_mounts && site.cache.is_none())
        // The application notes there what it answers.
        .on_connect_ext(|connection: &Watched<T>, extensions| {
            extensions.insert::<SeatHandle>(connection.seat().clone());
        })
        .expect(BeforeBody(Arc::clone(site), door))
        .finish(application(site, door))
}

/// Connections without TLS, of one worker.
fn plain_connections(
    site: &Arc<Site>,
    signal: &GracefulShutdownSignal,
    table: &Arc<ConnectionTable>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<> {
    let http = framework(site, signal, Door::Public);
    let (site, signal) = (Arc::clone(site), signal.clone());
    let recent = Rc::new(RequestCache::default());
    Connections {
        http,
        http1: move || {
            let (site, recent) = (Arc::clone(&site), Rc::clone(&recent));
            Rc::new(Http1Connections::new(SiteHandler { site, recent }, KEEP_ALIVE))
        },
        tune,
        stopping: move || stopping(signal.clone()),
        table: Arc::clone(table),
    }
}

/// Connections with TLS, of one worker.
fn tls_connections(
    site: &Arc<Site>,
    tls: ServerConfig,
    signal: &GracefulShutdownSignal,
    table: &Arc<ConnectionTable>,
) -> impl ServiceFactory<
    TcpStream,
    Config = (),
    Response = (),
    Error = TlsError<std::io::Error, DispatchError>,
    InitError = (),
> + use<> {
    let mut acceptor = Acceptor::new(tls);
    acceptor.set_handshake_timeout(HANDSHAKE_WAIT);
    let spoken = TlsConnections {
        http: framework(site, signal, Door::Public),
        application: application(site, Door::Public),
        clock: Arc::clone(&site.clock),
        signal: signal.clone(),
        table: Arc::clone(table),
    };
    acceptor
        .map_init_err(|_| ())
        .map_err(TlsError::into_service_error)
        .and_then(spoken.map_err(TlsError::Service))
}

/// The factory of the speakers of connections whose handshake is over.
struct TlsConnections<H, A> {
    http: H,
    application: A,
    clock: SharedClock,
    signal: GracefulShutdownSignal,
    table: Arc<ConnectionTable>,
}

impl<H, A> ServiceFactory<TlsStream<TcpStream>> for TlsConnections<H, A>
where
    H: ServiceFactory<
            Spoken<Watched<TlsStream<TcpStream>>>,
            Config = (),
            Response = (),
            Error = DispatchError,
            InitError = (),
        >,
    H::Service: 'static,
    H::Future: 'static,
    A: ServiceFactory<Request, Config = (), Response = ServiceResponse, Error = Error, InitError = ()>,
    A::Service: 'static,
    A::Future: 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = TlsWorker<H::Service, A::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (http, application) = (self.http.new_service(()), self.application.new_service(()));
        let (clock, signal, table) = (Arc::clone(&self.clock), self.signal.clone(), Arc::clone(&self.table));
        async move {
            Ok(TlsWorker {
                table,
                http: Rc::new(http.await?),
                application: Rc::new(application.await?),
                clock,
                signal,
            })
        }
        .boxed_local()
    }
}

/// The speaker of the TLS connections of one worker.
struct TlsWorker<H, A> {
    http: Rc<H>,
    application: Rc<A>,
    clock: SharedClock,
    signal: GracefulShutdownSignal,
    table: Arc<ConnectionTable>,
}

impl<H, A> Service<TlsStream<TcpStream>> for TlsWorker<H, A>
where
    H: Service<Spoken<Watched<TlsStream<TcpStream>>>, Response = (), Error = DispatchError> + 'static,
    A: Service<Request, Response = ServiceResponse, Error = Error> + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Future = LocalBoxFuture<'static, Result<(), DispatchError>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        self.http.poll_ready(cx)
    }

    fn call(&self, stream: TlsStream<TcpStream>) -> Self::Future {
        let (http, application) = (Rc::clone(&self.http), Rc::clone(&self.application));
        let (clock, signal, table) = (Arc::clone(&self.clock), self.signal.clone(), Arc::clone(&self.table));
        async move {
            let (tcp, session) = stream.get_ref();
            tune(tcp);
            let peer = tcp.peer_addr().ok();
            let Some(seat) = table.admit(peer.map(|peer| peer.ip())) else {
                return Ok(());
            };
            if session.alpn_protocol() == Some(b"h2") {
                http2::serve(stream, peer, (application, clock, seat.handle()), stopping(signal)).await;
                return Ok(());
            }
            http.call((Watched::new(stream, seat.handle()), Protocol::Http1, peer))
                .await
        }
        .boxed_local()
    }
}

/// The factory of the speakers of connections by a socket in the file system.
struct UnixConnections<H> {
    http: H,
    table: Arc<ConnectionTable>,
}

impl<H> ServiceFactory<UnixStream> for UnixConnections<H>
where
    H: ServiceFactory<Spoken<Watched<UnixStream>>, Config = (), Response = (), Error = DispatchError, InitError = ()>,
    H::Service: 'static,
    H::Future: 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = UnixWorker<H::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (http, table) = (self.http.new_service(()), Arc::clone(&self.table));
        async move {
            Ok(UnixWorker {
                http: Rc::new(http.await?),
                table,
            })
        }
        .boxed_local()
    }
}

/// The speaker of the connections of one worker by a socket in the file system.
struct UnixWorker<H> {
    http: Rc<H>,
    table: Arc<ConnectionTable>,
}

impl<H> Service<UnixStream> for UnixWorker<H>
where
    H: Service<Spoken<Watched<UnixStream>>, Response = (), Error = DispatchError> + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Future = LocalBoxFuture<'static, Result<(), DispatchError>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        self.http.poll_ready(cx)
    }

    fn call(&self, stream: UnixStream) -> Self::Future {
        let (http, table) = (Rc::clone(&self.http), Arc::clone(&self.table));
        async move {
            let Some(seat) = table.admit(None) else {
                return Ok(());
            };
            http.call((Watched::new(stream, seat.handle()), Protocol::Http1, None))
                .await
        }
        .boxed_local()
    }
}

/// Sets a connection up.
fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    // Where the kernel refuses, the connection is merely slower to be given up, or holds more memory.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(DEAD_PEER));
    let _ = socket.set_keepalive(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
}
