//! Composition: a running server, made of all the parts.
//!
//! ```text
//! actix workers (one a core)   connections, bodies            own threads
//! fill threads (tokio)         owners, sessions, timers       one a processor, two at least
//! ```
//!
//! The two meet in the store only: a fill hands on, writes and wakes, a worker sends. [`Server`] is also the
//! way to embed millpond: start one on port 0 and ask it for the URL of any upstream.

mod application;
mod cache_handler;
mod listen;
mod origin;
mod root;
mod tls;

pub use origin::OriginServer;

use self::application::application;
use self::cache_handler::CacheHandler;
use self::listen::listen_at;
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::fill::{FillRuntimes, FillSettings, Registry, RunningRuntimes, Served};
use crate::http1::{Connections, Http1Connections};
use crate::live::{Limits, Rules, Streams};
use crate::serve::{RequestCache, Routes, Service, ServiceSettings};
use crate::store::{Store, StoreError, StoreSettings};
use crate::telemetry::Metrics;
use crate::upstream::{BudgetSettings, Client, ClientSettings, UpstreamError};
use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_server::GracefulShutdownSignal;
use actix_service::ServiceFactory;
use actix_web::dev::{self, ServerHandle};
use actix_web::rt::net::TcpStream;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The write buffer of one connection is written out when it holds this much. A block may pass it. A judgement: the
/// framework's buffer is for the API and for what it alone reads.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// How long an idle connection is kept. As long as nginx keeps it: a judgement.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long a client that has had an error instead of reading on may take to go. A judgement.
const LINGER: Duration = Duration::from_secs(1);

/// A peer that has acknowledged nothing for this long is gone. A paused player acknowledges the kernel's probes, so a
/// pause of any length is no such silence. A judgement, about as long as the kernel repeats by itself (`tcp_retries2`).
const DEAD_PEER: Duration = Duration::from_secs(15 * 60);

/// Unsent bytes that the kernel holds of a connection: enough for a fast reader until the worker comes round again.
/// Without a bound each slow reader has megabytes of it. Measured: docs/decisions/0014; 2 MiB are 1.02 times as fast
/// (docs/performance.md).
const UNSENT_BYTES: u32 = 256 * 1024;

/// How often it is looked whether the machine has slept. A judgement; also the least that counts as sleep.
const SLEEP_CHECK: Duration = Duration::from_secs(1);

/// How long the thread that looks objects up waits for the next one: a new thread would have a new heap. A day:
/// a judgement, in effect for ever.
const LOOKUP_THREAD_IDLE: Duration = Duration::from_secs(24 * 3600);

/// How often the store is looked after. A judgement.
const STORE_CHECK: Duration = Duration::from_secs(1);

/// The least number of threads for fills, of which there is one a processor: they move bytes between sockets and the
/// page cache, and wait for the most part (docs/decisions/0020).
const LEAST_FILL_THREADS: usize = 2;

/// The greatest number of them (docs/decisions/0020).
const MOST_FILL_THREADS: usize = 8;

/// Threads that wait for the disk for the fills, shared out among the threads above. More writes at once than this make
/// no disk faster, and each thread keeps a heap of its own, about half a megabyte, for as long as it lives. A
/// judgement.
const WRITE_THREADS: usize = 16;

/// The least of them that a thread of fills has: a judgement, since one slow write must not hold up the others of that
/// thread.
const LEAST_WRITE_THREADS: usize = 8;

/// Threads of one worker that read what the page cache does not hold: so many reads at once keep a disk busy. As with
/// [`WRITE_THREADS`], each has its heap. A judgement.
const READ_THREADS: usize = 8;

/// Why a server did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address cannot be listened at.
    #[error("could not listen at {address}: {reason}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason. It stands before the mend in the message, and so is not its source as well.
        reason: std::io::Error,
    },
    /// The certificate authorities cannot be read.
    #[error("could not read {}; name a PEM file with --upstream-ca", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The directory does not exist, and was never served.
    #[error("{} does not exist; make the directory, or mount its disk first", .0.display())]
    NoDirectory(PathBuf),
    /// The directory cannot be served.
    #[error("could not serve {}", path.display())]
    Origin {
        /// The directory.
        path: PathBuf,
        /// The mistake.
        source: crate::directory::DirectoryError,
    },
    /// The certificate cannot be shown.
    #[error("could not use {} with {}: {mistake}", certificate.display(), key.display())]
    Certificate {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of its key.
        key: PathBuf,
        /// The mistake.
        mistake: String,
    },
    /// The access log cannot be written.
    #[error("access_log: could not write {}", path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The tokens do not read.
    #[error(transparent)]
    Tokens(#[from] crate::webdav::TokenFileError),
    /// The store did not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client could not be made.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Threads could not be started.
    #[error("could not start threads")]
    Threads(#[source] std::io::Error),
    /// The thread of the server ended with a panic.
    #[error("the server's thread panicked; its log says where")]
    Panicked,
}

/// A running server. Dropping it leaves it running until the process ends; [`Server::stop`] ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    handle: ServerHandle,
    thread: JoinHandle<std::io::Result<()>>,
    threads: FillRuntimes,
    running: RunningRuntimes,
    /// The thread of [`Service::lookups`].
    lookups: tokio::runtime::Runtime,
    service: Arc<Service>,
}

impl Server {
    /// Starts a server; when this returns it accepts connections.
    ///
    /// # Errors
    /// Where the address is taken, the data directory is in use or unusable, or TLS is not available.
    pub fn start(config: &Config) -> Result<Self, AppError> {
        Self::start_with_clock(config, Arc::new(SystemClock))
    }

    /// [`Server::start`] with a wall clock of the caller's.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with_clock(config: &Config, clock: SharedClock) -> Result<Self, AppError> {
        let store_settings = StoreSettings {
            dir: config.data.clone(),
            quota_bytes: config.quota_bytes,
            min_free_bytes: config.min_free_bytes,
        };
        let store = Arc::new(Store::open(&store_settings, Arc::clone(&clock))?);
        let metrics = Arc::new(Metrics::new());
        let client = Client::new(client_settings(config)?, Arc::clone(&metrics))?;
        let listen_error = |reason| AppError::Listen {
            address: config.listen,
            reason,
        };
        let listener = listen_at(config.listen).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let lookups = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .thread_keep_alive(LOOKUP_THREAD_IDLE)
            .thread_name("millpond-lookup")
            .build()
            .map_err(AppError::Threads)?;
        let routes = Arc::new(Routes::new(config));
        let (threads, running) = start_fill_threads().map_err(AppError::Threads)?;
        let streams = Arc::new(Streams::open(
            Arc::clone(&store),
            stream_limits(config),
            Arc::clone(&clock),
        ));
        let keeping = keep_store(Arc::clone(&store), Arc::clone(&streams));
        let registry = Registry::new(
            Arc::clone(&store),
            streams,
            client,
            fill_settings(config, &routes),
            threads.clone(),
        );
        let watcher = watch_for_sleep(Arc::clone(&clock), registry.clone());
        let service = Arc::new(Service {
            store,
            fills: registry,
            routes,
            clock,
            metrics,
            lookups: lookups.handle().clone(),
            settings: ServiceSettings {
                header_wait: config.header_wait,
                fresh_for: config.fresh_for,
                keep_unverified: config.keep_unverified,
                detach: config.detach.clone(),
            },
        });
        let (handle, thread) = match serve(listener, Arc::clone(&service), config) {
            Ok(serving) => serving,
            Err(error) => {
                running.stop();
                return Err(listen_error(error));
            }
        };
        // Only now: a start that failed before would have to end them.
        threads.handle().spawn(keeping);
        threads.handle().spawn(watcher);
        Ok(Self {
            address,
            handle,
            thread,
            threads,
            running,
            lookups,
            service,
        })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL under which a player finds `upstream`, an `http` or `https` URL.
    pub fn url_for(&self, upstream: &url::Url) -> String {
        let rest = upstream.as_str().replacen("://", "/", 1);
        format!("http://{}/{rest}", self.address)
    }

    /// Stops accepting, lets running answers finish within the grace time, records progress.
    ///
    /// # Errors
    /// Where progress could not be recorded.
    pub fn stop(self) -> Result<(), AppError> {
        let Self {
            handle,
            thread,
            threads,
            running,
            lookups,
            service,
            ..
        } = self;
        threads.handle().block_on(handle.stop(true));
        let served = thread.join().map_err(|_| AppError::Panicked)?;
        served.map_err(AppError::Threads)?;
        threads.handle().block_on(service.fills.stop());
        service.store.flush()?;
        let ending = service.store.ending();
        running.stop();
        lookups.shutdown_timeout(Duration::from_secs(5));
        drop(service);
        // Worker threads let go of their last answers a moment later; until then the directory is in use.
        if let Some(ending) = ending {
            let _ = ending.recv_timeout(Duration::from_secs(5));
        }
        Ok(())
    }
}

/// Connections that were open when the machine fell asleep are dead when it wakes, but look alive until
/// their silence has lasted too long. They are given up at once instead.
async fn watch_for_sleep(clock: SharedClock, fills: Registry) {
    let mut known = clock.suspended();
    let mut tick = tokio::time::interval(SLEEP_CHECK);
    loop {
        tick.tick().await;
        let suspended = clock.suspended();
        if suspended > known + SLEEP_CHECK {
            tracing::info!(slept = ?(suspended - known), "the machine has slept: fills ask anew");
            fills.woke();
        }
        known = suspended;
    }
}

fn start_fill_threads() -> std::io::Result<(FillRuntimes, RunningRuntimes)> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let count = processors.clamp(LEAST_FILL_THREADS, MOST_FILL_THREADS);
    FillRuntimes::start(count, LEAST_WRITE_THREADS.max(WRITE_THREADS / count))
}

fn fill_settings(config: &Config, routes: &Arc<Routes>) -> FillSettings {
    let routes = Arc::clone(routes);
    FillSettings {
        sessions_per_object: config.sessions_per_object,
        hold_limit: config.hold_limit,
        revalidate_wait: config.header_wait,
        after_last_reader: config.after_last_reader,
        read_ahead: config.read_ahead,
        served: Served::new(move |url| routes.path_of(url).is_some()),
    }
}

fn client_settings(config: &Config) -> Result<ClientSettings, AppError> {
    Ok(ClientSettings {
        connect_timeout: config.connect_timeout,
        reply_timeout: config.reply_timeout,
        read_idle_timeout: config.read_idle_timeout,
        allow_private: config.allow_private,
        join_weak: config.join_weak,
        authorities: config
            .upstream_ca
            .as_deref()
            .map(read_authorities)
            .transpose()?
            .unwrap_or_default(),
        budget: BudgetSettings {
            connections: config.connections_per_upstream,
            requests_per_second: config.requests_per_second,
            bytes_per_second: config.bytes_per_second,
        },
    })
}

fn stream_limits(config: &Config) -> Limits {
    let streams = &config.streams;
    Limits {
        idle: streams.idle,
        unattended: streams.unattended,
        total: streams.total,
        window_bytes: streams.window_bytes,
        window_time: streams.window_time,
        burst_bytes: streams.burst_bytes,
        lifetime: streams.lifetime,
        most: streams.most,
        believes_close: config.keep_unverified,
        rules: Rules {
            types: streams.types.clone(),
        },
    }
}

fn read_authorities(path: &Path) -> Result<Vec<u8>, AppError> {
    std::fs::read(path).map_err(|source| AppError::Authorities {
        path: path.to_owned(),
        source,
    })
}

/// Brings the store in order after a start, while requests are served, and looks after it from then on.
async fn keep_store(store: Arc<Store>, streams: Arc<Streams>) {
    let mut tick = tokio::time::interval(STORE_CHECK);
    loop {
        tick.tick().await;
        let (store, streams) = (Arc::clone(&store), Arc::clone(&streams));
        let look = move || {
            store.look_after();
            streams.sweep();
        };
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

/// Runs an HTTP server on a thread of its own, since actix brings its own runtime.
fn on_own_thread(
    run: impl FnOnce() -> std::io::Result<dev::Server> + Send + 'static,
) -> std::io::Result<(ServerHandle, JoinHandle<std::io::Result<()>>)> {
    let (report, started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("millpond-http".to_owned())
        .spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = run()?;
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

/// Runs the HTTP side.
fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    config: &Config,
) -> std::io::Result<(ServerHandle, JoinHandle<std::io::Result<()>>)> {
    let (workers, grace) = (config.workers, config.grace);
    on_own_thread(move || {
        let builder = actix_server::Server::build()
            .workers(workers)
            .worker_max_blocking_threads(READ_THREADS)
            .shutdown_timeout(grace.as_secs())
            .disable_signals();
        let signal = builder.graceful_shutdown_signal();
        let builder = builder.listen("millpond", listener, move || connections(&service, &signal))?;
        Ok(builder.run())
    })
}

/// The service of one worker's connections.
fn connections(
    service: &Arc<Service>,
    signal: &GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<> {
    let signal = signal.clone();
    let stopping = move || {
        let signal = signal.clone();
        async move { signal.notified().await }
    };
    let cache = Rc::new(RequestCache::default());
    let http = HttpService::build()
        .graceful_shutdown_signal(stopping.clone())
        .keep_alive(KEEP_ALIVE)
        .client_disconnect_timeout(LINGER)
        .h1_write_buffer_size(WRITE_BUFFER_BYTES)
        // A player that has gone must be noticed while there is nothing to write to it.
        .h1_allow_half_closed(false)
        .finish(application(service));
    let service = Arc::clone(service);
    Connections {
        http,
        http1: move || {
            let (service, cache) = (Arc::clone(&service), Rc::clone(&cache));
            Rc::new(Http1Connections::new(CacheHandler { service, cache }, KEEP_ALIVE))
        },
        tune,
        stopping,
    }
}

/// How each connection is set up.
fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    // Where the kernel refuses, the connection is merely slower to be given up, or holds more memory.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(DEAD_PEER));
    let _ = socket.set_keepalive(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use tempfile::TempDir;

    fn config(dir: &TempDir, listen: SocketAddr) -> Config {
        let mut layers = Layers::new();
        let flag = |name: &str, value: String| (name.to_owned(), vec![value]);
        layers.add_flags(vec![
            flag("listen", listen.to_string()),
            flag("data", dir.path().display().to_string()),
        ]);
        Config::read(&layers).expect("valid")
    }

    #[test]
    fn a_start_that_fails_leaves_the_data_directory_to_the_next() {
        let dir = TempDir::new().expect("a directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let refused = Server::start(&config(&dir, taken.local_addr().expect("bound")));
        assert!(matches!(refused, Err(AppError::Listen { .. })));
        let any = "127.0.0.1:0".parse().expect("an address");
        let server = Server::start(&config(&dir, any)).expect("nobody has the directory");
        server.stop().expect("in order");
    }

    #[test]
    fn an_error_at_the_start_tells_its_reason_once() {
        let dir = TempDir::new().expect("a directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = Server::start(&config(&dir, taken.local_addr().expect("bound"))).expect_err("in use");
        let missing = || std::io::Error::from_raw_os_error(2);
        let log = AppError::AccessLog {
            path: "/log".into(),
            source: missing(),
        };
        let root = AppError::Origin {
            path: "/films".into(),
            source: crate::directory::DirectoryError::Disk {
                doing: "open the directory",
                source: missing(),
            },
        };
        for (error, reason) in [(listen, "os error 98"), (log, "os error 2"), (root, "os error 2")] {
            let told = format!("{:#}", anyhow::Error::from(error));
            assert_eq!(told.matches(reason).count(), 1, "{told}");
        }
    }

    #[test]
    fn the_url_that_a_server_gives_for_an_upstream_leads_there() {
        let dir = TempDir::new().expect("a directory");
        let any = "127.0.0.1:0".parse().expect("an address");
        let server = Server::start(&config(&dir, any)).expect("started");
        for upstream in [
            "https://films.example/a%20b/c.mkv?token=a%2Fb://c",
            "http://films.example:8081/",
            "https://[2001:db8::1]:8443/a",
        ] {
            let upstream = url::Url::parse(upstream).expect("a URL");
            let url = url::Url::parse(&server.url_for(&upstream)).expect("a URL");
            assert_eq!(url.socket_addrs(|| None).expect("an address"), [server.address()]);
            let routed = server.service.routes.resolve(url.path(), url.query()).expect("served");
            let crate::serve::Routed::Fetch { target, .. } = routed else {
                panic!("{url} leads to the API");
            };
            assert_eq!(target.url, upstream);
        }
        server.stop().expect("in order");
    }
}
