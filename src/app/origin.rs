//! A running origin: a directory behind a port.
//!
//! actix-http without actix-web's application: there is one handler, and it needs to be asked before a client that
//! waits (`Expect: 100-continue`) is told to send its body.

use super::listen::listen_at;
use super::tls;
use super::{AppError, KEEP_ALIVE, READ_THREADS, WRITE_BUFFER_BYTES, on_own_thread, tune};
use crate::clock::{SharedClock, SystemClock};
use crate::config::OriginConfig;
use crate::origin::{Changes, Locks, OriginError, Staging, Summing, Tags, Tree, Uploads, Watching};
use crate::serve::{Access, AccessLog, Origin, OriginSettings};
use crate::telemetry::Metrics;
use actix_http::{ConnectionType, HttpService, HttpServiceBuilder, Request, Response};
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory};
use actix_tls::accept::rustls_0_23::TlsStream;
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

/// Threads that wait for the disk: listings, tags, and what is put.
const DISK_THREADS: usize = 64;

/// How often it is looked for uploads that nobody resumes.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long is read on, and thrown away, what a client sends that has been refused already: closed at once, it would
/// find its connection broken and never see why.
const LINGER: Duration = Duration::from_secs(30);

/// A running origin. Dropping it leaves it running until the process ends; [`OriginServer::stop`] ends it.
#[derive(Debug)]
pub struct OriginServer {
    address: SocketAddr,
    secure: bool,
    handle: ServerHandle,
    thread: JoinHandle<std::io::Result<()>>,
    disk: tokio::runtime::Runtime,
    origin: Arc<Origin>,
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
        let unusable = |source| AppError::Origin {
            path: config.root.clone(),
            source,
        };
        let tree = Tree::open(&config.root, config.hidden).map_err(unusable)?;
        let tree = Arc::new(tree);
        let tls = config.tls.as_ref();
        let tls = tls
            .map(|(certificate, key)| tls::server_config(certificate, key))
            .transpose()?;
        let log = config.access_log.as_deref().map(open_log).transpose()?;
        let access = Access::open(config.tokens.as_deref())?;
        let tags = Arc::new(Tags::load(kept_tags(config, tree.path()), Arc::clone(&clock)));
        let summing = Summing::start(Arc::clone(&tree), Arc::clone(&tags)).map_err(AppError::Threads)?;
        let watching = Watching::start(Arc::clone(&tree), summing.clone()).map_err(AppError::Threads)?;
        let changes = match config.writable {
            true => Some(Arc::new(changes(config, &tree, &tags, &clock).map_err(unusable)?)),
            false => None,
        };
        let uploads = changes.as_ref().map(|changes| {
            let uploads = Uploads::open(Arc::clone(changes), config.upload_lifetime, Arc::clone(&clock));
            uploads.map(Arc::new).map_err(unusable)
        });
        let uploads = uploads.transpose()?;
        let disk = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(DISK_THREADS)
            .thread_name("millpond-disk")
            .enable_all()
            .build()
            .map_err(AppError::Threads)?;
        let origin = Arc::new(Origin {
            tree,
            tags,
            changes,
            uploads: uploads.clone(),
            access,
            log,
            locks: Locks::default(),
            summing,
            watching,
            clock,
            metrics: Arc::new(Metrics::new()),
            threads: disk.handle().clone(),
            settings: OriginSettings {
                writable: config.writable,
                demand_conditions: config.demand_conditions,
                deep_delete: config.deep_delete,
                largest_upload: config.largest_upload,
            },
        });
        if let Some(uploads) = uploads {
            disk.spawn(sweep(uploads));
        }
        let listen_error = |source| AppError::Listen {
            address: config.listen,
            source,
        };
        let listener = listen_at(config.listen).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let secure = tls.is_some();
        let (handle, thread) = serve(listener, Arc::clone(&origin), config, tls).map_err(listen_error)?;
        Ok(Self {
            address,
            secure,
            handle,
            thread,
            disk,
            origin,
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
        self.origin.tags.keep();
        if let Some(log) = &self.origin.log {
            log.flush();
        }
        self.disk.shutdown_timeout(Duration::from_secs(5));
        if let Some(changes) = &self.origin.changes {
            changes.staging.release();
        }
        Ok(())
    }
}

/// Removes uploads that were not resumed in time.
async fn sweep(uploads: Arc<Uploads>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        let uploads = Arc::clone(&uploads);
        let _ = tokio::task::spawn_blocking(move || uploads.sweep()).await;
    }
}

fn open_log(path: &Path) -> Result<AccessLog, AppError> {
    AccessLog::open(path).map_err(|source| AppError::AccessLog {
        path: path.to_owned(),
        source,
    })
}

fn changes(
    config: &OriginConfig,
    tree: &Arc<Tree>,
    tags: &Arc<Tags>,
    clock: &SharedClock,
) -> Result<Changes, OriginError> {
    let staging = Staging::open(Arc::clone(tree), config.min_free_bytes, Arc::clone(clock))?;
    Changes::new(Arc::clone(tree), Arc::clone(tags), staging, config.portable)
}

/// Where the tags of that directory's files are kept; nowhere if there is no place for them.
fn kept_tags(config: &OriginConfig, root: &Path) -> Option<std::path::PathBuf> {
    let id = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
    match std::fs::create_dir_all(&config.data) {
        Ok(()) => Some(config.data.join(format!("origin-{}.tags", &id[..16]))),
        Err(error) => {
            let path = config.data.display();
            tracing::warn!(%path, %error, "tags are not kept: after a restart files are read again; name a place with --data");
            None
        }
    }
}

/// Runs the HTTP side.
fn serve(
    listener: TcpListener,
    origin: Arc<Origin>,
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
        let builder = match tls {
            None => builder.listen(name, listener, move || {
                let stopping = stopping.clone();
                http(&origin, move || wait_for(stopping.clone()))
                    .on_connect_ext(|stream: &TcpStream, _| tune(stream))
                    .finish(answering(&origin))
                    .tcp()
            }),
            Some(tls) => builder.listen(name, listener, move || {
                let stopping = stopping.clone();
                http(&origin, move || wait_for(stopping.clone()))
                    .on_connect_ext(|stream: &TlsStream<TcpStream>, _| tune(stream.get_ref().0))
                    .finish(answering(&origin))
                    .rustls_0_23(tls.clone())
            }),
        };
        Ok(builder?.run())
    })
}

type Answered = Response<BoxBody>;

/// Something that is made of a request by the origin.
struct Handler<R> {
    origin: Arc<Origin>,
    handle: fn(Arc<Origin>, Request) -> LocalBoxFuture<'static, Result<R, Answered>>,
}

impl<R> Clone for Handler<R> {
    fn clone(&self) -> Self {
        Self {
            origin: Arc::clone(&self.origin),
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
        (self.handle)(Arc::clone(&self.origin), request)
    }
}

/// How connections are spoken with, of whatever kind they are. A client that waits is let through here.
fn http<T, F>(
    origin: &Arc<Origin>,
    stopping: impl Fn() -> F + 'static,
) -> HttpServiceBuilder<T, Handler<Answered>, Handler<Request>>
where
    F: Future<Output = ()> + 'static,
{
    let asking = Handler {
        origin: Arc::clone(origin),
        handle: |origin, request| {
            Box::pin(async move {
                let Some(refusal) = origin.before_body(&request).await else {
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
        .h1_allow_half_closed(false)
        .expect(asking)
}

async fn wait_for(stopping: GracefulShutdownSignal) {
    stopping.notified().await;
}

fn answering(origin: &Arc<Origin>) -> Handler<Answered> {
    Handler {
        origin: Arc::clone(origin),
        handle: |origin, request| Box::pin(async move { Ok(origin.answer(request).await.into()) }),
    }
}
