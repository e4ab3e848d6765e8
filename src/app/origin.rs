//! A running origin: a directory behind a port.
//!
//! actix-http without actix-web's application: there is one handler, and it needs to be asked before a client that
//! waits (`Expect: 100-continue`) is told to send its body.

use super::{AppError, DEAD_PEER, KEEP_ALIVE, READ_THREADS, WRITE_BUFFER_BYTES};
use crate::clock::{SharedClock, SystemClock};
use crate::config::OriginConfig;
use crate::origin::{Changes, Locks, OriginError, Staging, Summing, Tags, Tree};
use crate::serve::{Origin, OriginSettings};
use crate::telemetry::Metrics;
use actix_http::{ConnectionType, HttpService, Request, Response};
use actix_service::fn_service;
use actix_web::body::BoxBody;
use actix_web::dev::{Server, ServerHandle};
use actix_web::rt::net::TcpStream;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that wait for the disk: listings, tags, and what is put.
const DISK_THREADS: usize = 64;

/// How long is read on, and thrown away, what a client sends that has been refused already: closed at once, it would
/// find its connection broken and never see why.
const LINGER: Duration = Duration::from_secs(30);

/// A running origin. Dropping it leaves it running until the process ends; [`OriginServer::stop`] ends it.
#[derive(Debug)]
pub struct OriginServer {
    address: SocketAddr,
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
        let tags = Arc::new(Tags::load(kept_tags(config, tree.path()), Arc::clone(&clock)));
        let summing = Summing::start(Arc::clone(&tree), Arc::clone(&tags)).map_err(AppError::Threads)?;
        let changes = match config.writable {
            true => Some(Arc::new(changes(config, &tree, &tags, &clock).map_err(unusable)?)),
            false => None,
        };
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
            locks: Locks::default(),
            summing,
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
        let listen_error = |source| AppError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let (handle, thread) = serve(listener, Arc::clone(&origin), config).map_err(listen_error)?;
        Ok(Self {
            address,
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
        format!("http://{}/", self.address)
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
        self.disk.shutdown_timeout(Duration::from_secs(5));
        Ok(())
    }
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

/// Runs the HTTP side on a thread of its own, since actix brings its own runtime.
fn serve(
    listener: TcpListener,
    origin: Arc<Origin>,
    config: &OriginConfig,
) -> std::io::Result<(ServerHandle, JoinHandle<std::io::Result<()>>)> {
    let (workers, grace) = (config.workers, config.grace);
    let (report, started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("millpond-http".to_owned())
        .spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let builder = Server::build()
                    .workers(workers)
                    .worker_max_blocking_threads(READ_THREADS)
                    .shutdown_timeout(grace.as_secs())
                    .disable_signals();
                let stopping = builder.graceful_shutdown_signal();
                let server = builder
                    .listen("millpond-origin", listener, move || {
                        let stopping = stopping.clone();
                        let (asked, answering) = (Arc::clone(&origin), Arc::clone(&origin));
                        HttpService::build()
                            .graceful_shutdown_signal(move || {
                                let stopping = stopping.clone();
                                async move { stopping.notified().await }
                            })
                            .keep_alive(KEEP_ALIVE)
                            .client_disconnect_timeout(LINGER)
                            .h1_write_buffer_size(WRITE_BUFFER_BYTES)
                            .h1_allow_half_closed(false)
                            .on_connect_ext(|stream: &TcpStream, _| tune(stream))
                            .expect(fn_service(move |request| before_body(Arc::clone(&asked), request)))
                            .finish(fn_service(move |request| answer(Arc::clone(&answering), request)))
                            .tcp()
                    })?
                    .run();
                // The starter waits for this; when it is gone nobody needs the server.
                let _ = report.send(server.handle());
                server.await
            })
        })?;
    match started.recv() {
        Ok(handle) => Ok((handle, thread)),
        Err(_) => match thread.join() {
            Ok(Err(error)) => Err(error),
            _ => Err(std::io::Error::other("the server's thread ended before it served")),
        },
    }
}

type Answered = Response<BoxBody>;

/// Whether a client that waits may send its body: what is refused now costs none.
async fn before_body(origin: Arc<Origin>, request: Request) -> Result<Request, Answered> {
    match origin.before_body(request.head()).await {
        Ok(()) => Ok(request),
        Err(refusal) => {
            let mut refusal = Answered::from(refusal);
            // The body may come all the same, and would be taken for the next request.
            refusal.head_mut().set_connection_type(ConnectionType::Close);
            Err(refusal)
        }
    }
}

async fn answer(origin: Arc<Origin>, request: Request) -> Result<Answered, Answered> {
    Ok(origin.answer(request).await.into())
}

pub(super) fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    // Where the kernel refuses, the connection is merely slower to be given up.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(DEAD_PEER));
    let _ = socket.set_keepalive(true);
}
