//! Composition: a running server, made of all the parts.
//!
//! ```text
//! actix workers (one a core)   connections, bodies            own threads
//! cache                        store, fills, streams          fill threads (tokio)
//! directories                  mounts                         disk threads (tokio)
//! ```
//!
//! A worker and a fill meet in the store only: a fill publishes, writes and wakes, a worker sends. What a server has
//! depends on its configuration: without an upstream and any-URL requests there is no cache, and no store is opened.
//! [`Server`] is also the way to embed millpond: start one on port 0 and ask it for the URL of any upstream.

mod application;
mod cache;
mod connections;
mod directories;
mod http2;
mod listen;
mod site_handler;
mod tls;

use self::cache::Cache;
use self::connections::Doors;
use self::directories::Directories;
pub use self::listen::CONTROL_SOCKET;
use self::listen::{ListeningSocket, listen_at_all, listen_for_control};
use crate::access::{Access, AccessError};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, ListenAddress};
use crate::http1::ConnectionTable;
use crate::site::{AccessLog, Site};
use crate::store::StoreError;
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError;
use actix_web::dev::{self, ServerHandle};
use rustix::process::{Resource, getrlimit};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The longest wait for threads that end, of a cache or of directories. A judgement: what they do is on the disk already.
const END_WAIT: Duration = Duration::from_secs(5);

/// The least share of connections that a client has, whatever the limit of descriptors: what a browser and some players at
/// one address open. A judgement.
const LEAST_CONNECTIONS: usize = 64;

/// The most connections where nothing is said. A judgement: each idle one costs some kilobytes.
const MOST_CONNECTIONS: usize = 100_000;

/// How long an idle connection is kept. As long as nginx keeps it: a judgement.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Why a server did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address cannot be listened at.
    #[error("could not listen at {address}: {reason}; choose another with --listen")]
    Listen {
        /// The address.
        address: ListenAddress,
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
    Directory {
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
    /// The tokens do not read, or there are no random bits for sessions.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An upstream's credential does not read.
    #[error("authorization_file: {0}")]
    Authorization(String),
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
    /// Where it listens; a port that was 0 is the one that it has got.
    addresses: Vec<ListenAddress>,
    secure: bool,
    handle: ServerHandle,
    thread: JoinHandle<std::io::Result<()>>,
    cache: Option<Cache>,
    directories: Option<Directories>,
    site: Arc<Site>,
}

impl Server {
    /// Starts a server; when this returns it accepts connections.
    ///
    /// # Errors
    /// Where an address is taken, the data directory is in use or unusable, a directory cannot be served, or a file that
    /// is named does not read.
    pub fn start(config: &Config) -> Result<Self, AppError> {
        Self::start_with_clock(config, Arc::new(SystemClock))
    }

    /// [`Server::start`] with a wall clock of the caller's.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with_clock(config: &Config, clock: SharedClock) -> Result<Self, AppError> {
        let tls = config.tls_certificate.as_deref().zip(config.tls_key.as_deref());
        let tls = tls.map(|(certificate, key)| tls::server_config(certificate, key));
        let tls = tls.transpose()?;
        let log = config.access_log.as_deref().map(open_log).transpose()?.map(Arc::new);
        let access = Arc::new(Access::open(config)?);
        let metrics = Arc::new(Metrics::new());
        // Connections wait in the queues of the sockets until all is there.
        let mut listeners = listen_at_all(&config.listen)?;
        let addresses: Vec<ListenAddress> = listeners.iter().map(ListeningSocket::address).collect();
        let cache = config
            .has_cache()
            .then(|| Cache::start(config, &clock, &metrics))
            .transpose()?;
        let directories = match config.directories.is_empty() {
            true => None,
            false => match Directories::start(config, &clock, &metrics) {
                Ok(directories) => Some(directories),
                Err(error) => return Err(given_up(cache, None, error)),
            },
        };
        // Behind the lock of the data directory: another server's socket is not taken over.
        listeners.extend(listen_for_control(&config.data));
        let mounts = directories.as_ref().map(|directories| directories.mounts.clone());
        let site = Arc::new(Site {
            cache: cache.as_ref().map(|cache| Arc::clone(&cache.service)),
            mounts: mounts.unwrap_or_default(),
            access,
            urls: urls(config, &addresses),
            log,
            clock,
            metrics,
        });
        let secure = tls.is_some();
        let doors = Doors {
            site: Arc::clone(&site),
            tls,
            workers: config.workers,
            grace: config.grace,
            table: Arc::new(connection_table(config)),
        };
        let (handle, thread) = match on_own_thread(move || doors.open(listeners)) {
            Ok(serving) => serving,
            Err(error) => {
                drop(site);
                return Err(given_up(cache, directories, AppError::Threads(error)));
            }
        };
        Ok(Self {
            addresses,
            secure,
            handle,
            thread,
            cache,
            directories,
            site,
        })
    }

    /// The addresses that the server listens at, in the order in which they were named.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// The first address that has a port; that of nowhere (`0.0.0.0:0`) where the server listens at none.
    pub fn address(&self) -> SocketAddr {
        let with_port = self.addresses.iter().find_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
        with_port.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// The URL of the server's root, at its first address that has a port.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}/", self.address())
    }

    /// The URL under which a player finds `upstream`, an `http` or `https` URL.
    pub fn url_for(&self, upstream: &url::Url) -> String {
        let rest = upstream.as_str().replacen("://", "/", 1);
        format!("{}{rest}", self.url())
    }

    /// Stops accepting, lets running answers finish within the grace time, records progress.
    ///
    /// # Errors
    /// Where the server's thread has panicked or failed, or progress could not be recorded.
    pub fn stop(self) -> Result<(), AppError> {
        let Self {
            handle,
            thread,
            cache,
            directories,
            site,
            ..
        } = self;
        let stopping = tokio::runtime::Builder::new_current_thread().build();
        stopping.map_err(AppError::Threads)?.block_on(handle.stop(true));
        let served = thread.join().map_err(|_| AppError::Panicked)?;
        served.map_err(AppError::Threads)?;
        if let Some(log) = &site.log {
            log.flush();
        }
        drop(site);
        if let Some(directories) = directories {
            directories.stop();
        }
        cache.map_or(Ok(()), Cache::stop)
    }
}

/// The places of clients' connections: a third of the descriptors, where nothing is said, since each connection may
/// read a file, and upstreams and idle files need some. A client's share is a quarter of them, and 64 at least.
fn connection_table(config: &Config) -> ConnectionTable {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let third = usize::try_from(descriptors / 3).unwrap_or(usize::MAX);
    let most = config
        .connections
        .unwrap_or(third.clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS));
    let share = config.connections_per_client.unwrap_or(most / 4);
    let share = share.max(LEAST_CONNECTIONS).min(most);
    ConnectionTable::new(most, share, config.trusted_proxies.clone())
}

/// The URLs of the server's root, at its addresses with a port and behind a proxy.
fn urls(config: &Config, addresses: &[ListenAddress]) -> Vec<String> {
    let scheme = if config.tls_certificate.is_some() {
        "https"
    } else {
        "http"
    };
    let at = |address: &ListenAddress| match address {
        ListenAddress::Tcp(address) => Some(format!("{scheme}://{address}/")),
        ListenAddress::Unix(_) => None,
    };
    addresses.iter().filter_map(at).chain(config.public_url.url()).collect()
}

/// Ends what a start has begun that failed with `error`, so that the data directory is free for the next.
fn given_up(cache: Option<Cache>, directories: Option<Directories>, error: AppError) -> AppError {
    if let Some(directories) = directories {
        directories.stop();
    }
    if let Some(Err(failed)) = cache.map(Cache::stop) {
        tracing::error!(error = &failed as &dyn std::error::Error, "the store did not end well");
    }
    error
}

fn open_log(path: &Path) -> Result<AccessLog, AppError> {
    AccessLog::open(path).map_err(|source| AppError::AccessLog {
        path: path.to_owned(),
        source,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use std::net::TcpListener;
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
        let root = AppError::Directory {
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
            let routed = server
                .site
                .cache
                .as_ref()
                .expect("a cache")
                .routes
                .resolve(url.path(), url.query())
                .expect("served");
            let crate::proxy::Routed::Fetch { target, .. } = routed else {
                panic!("{url} leads to the API");
            };
            assert_eq!(target.url, upstream);
        }
        server.stop().expect("in order");
    }
}
