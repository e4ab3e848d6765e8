//! A running origin: a directory behind a port.
//!
//! actix-http without actix-web's application: there is one handler, and it needs to be asked before a client that
//! waits (`Expect: 100-continue`) is told to send its body.
//!
//! The directory may be away when the server starts, and go while it runs (`root.rs`). Requests are answered in any case, with 503
//! then.

use super::listen::listen_at;
use super::root::{Directory, Roots};
use super::tls;
use super::{AppError, KEEP_ALIVE, READ_THREADS, WRITE_BUFFER_BYTES, on_own_thread, tune};
use crate::clock::{SharedClock, SystemClock};
use crate::config::OriginConfig;
use crate::http1::Watched;
use crate::webdav::{AccessLog, Authorizer, DirectoryService};
use actix_http::{ConnectionType, HttpService, HttpServiceBuilder, Protocol, Request, Response};
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory, ServiceFactoryExt, fn_service};
use actix_tls::accept::TlsError;
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::body::BoxBody;
use actix_web::dev::{Server, ServerHandle};
use actix_web::rt::net::TcpStream;
use futures::future::{LocalBoxFuture, Ready, ready};
use rustls::ServerConfig;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that wait for the disk: listings, tags, and what is put. Each mount beneath the directory may take 16 of
/// them. Both figures: docs/decisions/0029.
const DISK_THREADS: usize = 256;

/// How often it is looked for uploads that nobody resumes. A judgement: uploads live for days.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long is read on, and thrown away, what a client sends that has been refused already: closed at once, it would
/// find its connection broken and never see why. A judgement.
const LINGER: Duration = Duration::from_secs(30);

/// A running origin. Dropping it leaves it running until the process ends; [`OriginServer::stop`] ends it.
#[derive(Debug)]
pub struct OriginServer {
    address: SocketAddr,
    secure: bool,
    handle: ServerHandle,
    thread: JoinHandle<std::io::Result<()>>,
    disk: tokio::runtime::Runtime,
    log: Option<Arc<AccessLog>>,
    directory: Arc<Directory>,
    roots: Roots,
}

impl OriginServer {
    /// Starts an origin; when this returns it accepts connections.
    ///
    /// # Errors
    /// Where the address is taken, or the directory cannot be served.
    pub fn start(config: &OriginConfig) -> Result<Self, AppError> {
        Self::start_with_clock(config, Arc::new(SystemClock))
    }

    /// [`OriginServer::start`] with a wall clock of the caller's.
    ///
    /// # Errors
    /// As [`OriginServer::start`].
    pub fn start_with_clock(config: &OriginConfig, clock: SharedClock) -> Result<Self, AppError> {
        let tls = config.tls.as_ref();
        let tls = tls
            .map(|(certificate, key)| tls::server_config(certificate, key))
            .transpose()?;
        let log = config.access_log.as_deref().map(open_log).transpose()?.map(Arc::new);
        let authorizer = Arc::new(Authorizer::open(config.tokens.as_deref())?);
        let disk = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(DISK_THREADS)
            .thread_name("millpond-disk")
            .enable_all()
            .build()
            .map_err(AppError::Threads)?;
        let directory = Directory::new(config.clone(), clock, authorizer, log.clone(), disk.handle().clone());
        let directory = Arc::new(directory);
        let roots = Roots::start(Arc::clone(&directory))?;
        disk.spawn(sweep(Arc::clone(&directory)));
        let listen_error = |reason| AppError::Listen {
            address: config.listen,
            reason,
        };
        let listener = listen_at(config.listen).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let secure = tls.is_some();
        let (handle, thread) = serve(listener, Arc::clone(&directory), config, tls).map_err(listen_error)?;
        Ok(Self {
            address,
            secure,
            handle,
            thread,
            disk,
            log,
            directory,
            roots,
        })
    }

    /// Where the origin listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the tree's top.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}/", self.address)
    }

    /// Stops accepting, lets running answers finish within the grace time.
    ///
    /// # Errors
    /// Where the server's thread has panicked or failed.
    pub fn stop(self) -> Result<(), AppError> {
        self.disk.block_on(self.handle.stop(true));
        let served = self.thread.join().map_err(|_| AppError::Panicked)?;
        served.map_err(AppError::Threads)?;
        self.roots.stop();
        if let Some(origin) = self.directory.current() {
            origin.tags.save();
        }
        if let Some(log) = &self.log {
            log.flush();
        }
        self.disk.shutdown_timeout(Duration::from_secs(5));
        self.directory.release();
        Ok(())
    }
}

/// Removes uploads that were not resumed in time, and readings that nobody pages through any more.
async fn sweep(directory: Arc<Directory>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        let Some(origin) = directory.current() else { continue };
        origin.listing_cache.sweep();
        if let Some(uploads) = origin.uploads.clone() {
            let _ = tokio::task::spawn_blocking(move || uploads.sweep()).await;
        }
    }
}

fn open_log(path: &Path) -> Result<AccessLog, AppError> {
    AccessLog::open(path).map_err(|source| AppError::AccessLog {
        path: path.to_owned(),
        source,
    })
}

/// Runs the HTTP side.
fn serve(
    listener: TcpListener,
    directory: Arc<Directory>,
    config: &OriginConfig,
    tls: Option<ServerConfig>,
) -> std::io::Result<(ServerHandle, JoinHandle<std::io::Result<()>>)> {
    let (workers, grace) = (config.workers, config.grace);
    on_own_thread(move || {
        let builder = Server::build()
            .workers(workers)
            .worker_max_blocking_threads(READ_THREADS)
            .shutdown_timeout(grace.as_secs())
            .disable_signals();
        let stopping = builder.graceful_shutdown_signal();
        let name = "millpond-origin";
        let tls = tls.map(|mut tls| {
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            tls
        });
        let builder = match tls {
            None => builder.listen(name, listener, move || {
                let stopping = stopping.clone();
                let http = http(&directory, move || wait_for(stopping.clone()));
                fn_service(|stream: TcpStream| ready(Ok(spoken(stream, |stream| stream))))
                    .and_then(http.finish(answering(&directory)))
            }),
            Some(tls) => builder.listen(name, listener, move || {
                let stopping = stopping.clone();
                let http = http(&directory, move || wait_for(stopping.clone()));
                Acceptor::new(tls.clone())
                    .map_init_err(|_| ())
                    .map_err(TlsError::into_service_error)
                    .and_then(fn_service(|stream: TlsStream<TcpStream>| {
                        ready(Ok(spoken(stream, |stream| stream.get_ref().0)))
                    }))
                    .and_then(http.finish(answering(&directory)).map_err(TlsError::Service))
            }),
        };
        Ok(builder?.run())
    })
}

/// A connection as the HTTP library takes it: HTTP/1.1, whose request lines are watched.
fn spoken<S>(stream: S, tcp: impl Fn(&S) -> &TcpStream) -> (Watched<S>, Protocol, Option<SocketAddr>) {
    tune(tcp(&stream));
    let peer = tcp(&stream).peer_addr().ok();
    (Watched::new(stream), Protocol::Http1, peer)
}

type Answered = Response<BoxBody>;

/// Something that is made of a request by the origin.
struct Handler<R> {
    directory: Arc<Directory>,
    handle: fn(Arc<Directory>, Request) -> LocalBoxFuture<'static, Result<R, Answered>>,
}

impl<R> Clone for Handler<R> {
    fn clone(&self) -> Self {
        Self {
            directory: Arc::clone(&self.directory),
            handle: self.handle,
        }
    }
}

impl<R: 'static> ServiceFactory<Request> for Handler<R> {
    type Response = R;
    type Error = Answered;
    type Config = ();
    type Service = Self;
    type InitError = ();
    type Future = Ready<Result<Self, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        ready(Ok(self.clone()))
    }
}

impl<R: 'static> Service<Request> for Handler<R> {
    type Response = R;
    type Error = Answered;
    type Future = LocalBoxFuture<'static, Result<R, Answered>>;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Answered>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, request: Request) -> Self::Future {
        (self.handle)(Arc::clone(&self.directory), request)
    }
}

/// How connections are spoken with, of whatever kind they are. A client that waits is let through here.
fn http<T, F>(
    directory: &Arc<Directory>,
    stopping: impl Fn() -> F + 'static,
) -> HttpServiceBuilder<T, Handler<Answered>, Handler<Request>>
where
    F: Future<Output = ()> + 'static,
{
    let asking = Handler {
        directory: Arc::clone(directory),
        handle: |directory, request| {
            Box::pin(async move {
                let refusal = match directory.current() {
                    Some(origin) => origin.before_body(&request).await,
                    None => Some(DirectoryService::away(request.path())),
                };
                let Some(refusal) = refusal else {
                    return Ok(request);
                };
                let mut refusal = Answered::from(refusal);
                // The body may come all the same, and would be taken for the next request.
                refusal.head_mut().set_connection_type(ConnectionType::Close);
                Err(refusal)
            })
        },
    };
    HttpService::build()
        .graceful_shutdown_signal(stopping)
        .keep_alive(KEEP_ALIVE)
        .client_disconnect_timeout(LINGER)
        .h1_write_buffer_size(WRITE_BUFFER_BYTES)
        // Bytes behind a request that are none, and a client that has closed its side, cost no request its answer.
        .h1_allow_half_closed(true)
        .expect(asking)
}

async fn wait_for(stopping: GracefulShutdownSignal) {
    stopping.notified().await;
}

fn answering(directory: &Arc<Directory>) -> Handler<Answered> {
    Handler {
        directory: Arc::clone(directory),
        handle: |directory, request| {
            Box::pin(async move {
                Ok(match directory.current() {
                    Some(origin) => origin.answer(request).await.into(),
                    None => DirectoryService::away(request.path()).into(),
                })
            })
        },
    }
}
