//! The cache of a server: store, fills and streams, with the threads that they run on.
//!
//! ```text
//! fill threads (tokio)   owners, sessions, timers      one a processor, two at least
//! lookup thread          catalog reads that may wait for the disk
//! ```
//!
//! Started whole or not at all. The order of the end is that of what depends on what: fills end and record their
//! progress, the store is flushed, and its directory is free when the last answer has let go of it.

use super::{AppError, END_WAIT};
use crate::clock::SharedClock;
use crate::config::{Config, QuotaSetting};
use crate::fill::{FillRuntimes, FillSettings, Registry, RunningRuntimes, Served};
use crate::live::{Limits, Rules, Streams};
use crate::mirror::{MirrorOf, Mirrors};
use crate::proxy::{Askers, Routes, Service, ServiceSettings};
use crate::store::{Quota, Store, StoreSettings};
use crate::telemetry::Metrics;
use crate::upstream::{Authorization, BudgetSettings, Circuit, Client, ClientSettings, ConfiguredUpstream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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

/// The most that the store may take: what the operator says, else a share of the file system, which is told.
fn quota(config: &Config) -> Quota {
    match config.quota {
        QuotaSetting::None => Quota::None,
        QuotaSetting::Bytes(bytes) => Quota::Bytes(bytes),
        QuotaSetting::Auto => {
            let quota = Quota::share_of(&config.data);
            if let Some(bytes) = quota.bytes() {
                let gibibytes = bytes >> 30;
                tracing::info!(
                    bytes,
                    gibibytes,
                    "the cache may take most of its file system; --quota says how much"
                );
            }
            quota
        }
    }
}

/// A running cache.
#[derive(Debug)]
pub(super) struct Cache {
    threads: FillRuntimes,
    running: RunningRuntimes,
    /// The thread of [`Service::lookups`].
    lookups: tokio::runtime::Runtime,
    pub(super) service: Arc<Service>,
}

impl Cache {
    /// Opens the store and starts the threads.
    ///
    /// # Errors
    /// Where the data directory is in use or unusable, or TLS to upstreams is not available.
    pub(super) fn start(config: &Config, clock: &SharedClock, metrics: &Arc<Metrics>) -> Result<Self, AppError> {
        let store_settings = StoreSettings {
            dir: config.data.clone(),
            quota: quota(config),
            min_free_bytes: config.min_free,
        };
        let store = Arc::new(Store::open(&store_settings, Arc::clone(clock))?);
        let client = Client::new(client_settings(config)?, Arc::clone(metrics))?;
        let lookups = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .thread_keep_alive(LOOKUP_THREAD_IDLE)
            .thread_name("millpond-lookup")
            .build()
            .map_err(AppError::Threads)?;
        let upstreams = configured_upstreams(config)?;
        let routes = Arc::new(Routes::new(config, &upstreams));
        let streams = Arc::new(Streams::open(
            Arc::clone(&store),
            stream_limits(config),
            Arc::clone(clock),
        ));
        // Last of what can fail: a start that failed behind it would have to end the threads.
        let (threads, running) = start_fill_threads().map_err(AppError::Threads)?;
        let keeping = keep_store(Arc::clone(&store), Arc::clone(&streams));
        let registry = Registry::new(
            Arc::clone(&store),
            streams,
            client.clone(),
            fill_settings(config, &routes),
            threads.clone(),
        );
        let mirrors = mirrors_of(config, &upstreams);
        let mirrors = Arc::new(Mirrors::new(
            mirrors,
            &store,
            &registry,
            &client,
            threads.handle().clone(),
        ));
        let watcher = watch_for_sleep(Arc::clone(clock), registry.clone());
        let service = Arc::new(Service {
            store,
            fills: registry,
            mirrors: Arc::clone(&mirrors),
            routes,
            clock: Arc::clone(clock),
            metrics: Arc::clone(metrics),
            askers: Askers::default(),
            lookups: lookups.handle().clone(),
            settings: ServiceSettings {
                header_wait: config.header_wait,
                fresh_for: config.fresh_for,
                keep_unverified: config.keep_unverified,
                detach: config.detach.clone(),
                credentials: config.credentials.clone(),
                scheme: match config.tls_certificate {
                    Some(_) => "https",
                    None => "http",
                },
            },
        });
        threads.handle().spawn(keeping);
        threads.handle().spawn(watcher);
        mirrors.start();
        start_probes(&upstreams, &client, &threads);
        Ok(Self {
            threads,
            running,
            lookups,
            service,
        })
    }

    /// Ends the fills, records progress, and waits until the data directory is free.
    ///
    /// # Errors
    /// Where progress could not be recorded.
    pub(super) fn stop(self) -> Result<(), AppError> {
        let Self {
            threads,
            running,
            lookups,
            service,
        } = self;
        threads.handle().block_on(async {
            service.mirrors.stop().await;
            service.fills.stop().await;
        });
        service.store.flush()?;
        let ending = service.store.ending();
        running.stop();
        lookups.shutdown_timeout(END_WAIT);
        drop(service);
        // Worker threads let go of their last answers a moment later; until then the directory is in use.
        if let Some(ending) = ending {
            let _ = ending.recv_timeout(END_WAIT);
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

/// Begins to probe the upstreams whose absence is looked after, whenever there is reason to.
fn start_probes(upstreams: &[Arc<ConfiguredUpstream>], client: &Client, threads: &FillRuntimes) {
    for upstream in upstreams.iter().filter(|upstream| upstream.is_served_offline()) {
        let probing = client.clone().keep_probing(Arc::downgrade(upstream));
        threads.handle().spawn(probing);
    }
}

/// The configured upstreams, in the order of the configuration.
fn configured_upstreams(config: &Config) -> Result<Vec<Arc<ConfiguredUpstream>>, AppError> {
    let configured = config.upstreams.iter().map(|upstream| {
        let file = upstream.authorization_file.as_deref();
        let authorization = file.map(Authorization::read).transpose();
        Ok(Arc::new(ConfiguredUpstream {
            name: upstream.name.clone(),
            base: upstream.url.clone(),
            authorization: authorization.map_err(AppError::Authorization)?,
            offline: upstream.offline(config),
            circuit: Circuit::default(),
        }))
    });
    configured.collect()
}

/// The mirrors that the configuration names.
fn mirrors_of(config: &Config, upstreams: &[Arc<ConfiguredUpstream>]) -> Vec<MirrorOf> {
    let all = config.upstreams.iter().zip(upstreams);
    let mirrors = all.flat_map(|(upstream, configured)| {
        upstream.mirror.iter().map(move |path| MirrorOf {
            upstream: Arc::clone(configured),
            path: path.clone(),
            settings: upstream.mirror_settings(config),
            drop_cookies: upstream.drop_cookies.unwrap_or(config.drop_cookies),
        })
    });
    mirrors.collect()
}

fn client_settings(config: &Config) -> Result<ClientSettings, AppError> {
    Ok(ClientSettings {
        connect_timeout: config.connect_timeout,
        reply_timeout: config.reply_timeout,
        read_idle_timeout: config.read_idle_timeout,
        allow_private: config.allow_private,
        private_networks: config.private_networks.clone(),
        join_weak: config.join_weak,
        authorities: config.upstream_ca.as_deref().map(read_authorities).transpose()?,
        budget: BudgetSettings {
            connections: config.connections_per_upstream,
            requests_per_second: config.requests_per_second,
            bytes_per_second: config.bytes_per_second,
        },
    })
}

fn stream_limits(config: &Config) -> Limits {
    Limits {
        idle: config.stream_idle,
        unattended: config.stream_unattended,
        total: config.stream_total,
        window_bytes: config.stream_window,
        window_time: config.stream_window_time,
        burst_bytes: config.stream_burst,
        lifetime: config.stream_lifetime,
        most: config.streams,
        believes_close: config.keep_unverified,
        rules: Rules {
            types: config.stream_types.clone(),
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
