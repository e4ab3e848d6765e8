//! The directories of a server: their mounts, the threads that look after them, and those that wait for their disks.
//!
//! A directory may be away when the server starts, and go while it runs (`webdav::mount`): a start fails only where it
//! does not exist and was never served. Requests are answered in any case, with 503 then.

use super::{AppError, END_WAIT};
use crate::clock::SharedClock;
use crate::config::{Config, DirectoryConfig};
use crate::directory::DirectoryError;
use crate::telemetry::Metrics;
use crate::webdav::{Mount, MountContext, MountWatch};
use std::sync::Arc;
use std::time::Duration;

/// Threads that wait for the disk: listings, tags, and what is put. Each mount beneath a directory may take 16 of
/// them. Both figures: docs/decisions/0029.
const DISK_THREADS: usize = 256;

/// How often it is looked for uploads that nobody resumes. A judgement: uploads live for days.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The directories that are served.
#[derive(Debug)]
pub(super) struct Directories {
    pub(super) mounts: Vec<Arc<Mount>>,
    watches: Vec<MountWatch>,
    disk: tokio::runtime::Runtime,
}

impl Directories {
    /// Opens the directories, or begins to wait for those that are away.
    ///
    /// # Errors
    /// Where one cannot be served.
    pub(super) fn start(config: &Config, clock: &SharedClock, metrics: &Arc<Metrics>) -> Result<Self, AppError> {
        let disk = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(DISK_THREADS)
            .thread_name("millpond-disk")
            .enable_all()
            .build()
            .map_err(AppError::Threads)?;
        let context = MountContext {
            data: config.data.clone(),
            min_free: config.min_free,
            public_url: config.public_url.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            clock: Arc::clone(clock),
            threads: disk.handle().clone(),
            metrics: Arc::clone(metrics),
            listing_budget: Arc::default(),
            taken: taken_names(config),
        };
        let mut directories = Self {
            mounts: Vec::new(),
            watches: Vec::new(),
            disk,
        };
        for config in &config.directories {
            if let Err(error) = directories.add(config, &context) {
                directories.stop();
                return Err(error);
            }
        }
        for mount in &directories.mounts {
            directories.disk.spawn(sweep(Arc::clone(mount)));
        }
        Ok(directories)
    }

    fn add(&mut self, config: &DirectoryConfig, context: &MountContext) -> Result<(), AppError> {
        let mount = Arc::new(Mount::new(config.clone(), context.clone()));
        let watch = MountWatch::start(Arc::clone(&mount)).map_err(|source| {
            let path = config.root.clone();
            match source {
                DirectoryError::Absent => AppError::NoDirectory(path),
                source => AppError::Directory { path, source },
            }
        })?;
        self.mounts.push(mount);
        self.watches.push(watch);
        Ok(())
    }

    /// Ends the threads, and lets other processes write to the directories.
    pub(super) fn stop(self) {
        for watch in self.watches {
            watch.stop();
        }
        for mount in &self.mounts {
            mount.save();
        }
        self.disk.shutdown_timeout(END_WAIT);
        for mount in &self.mounts {
            mount.release();
        }
    }
}

/// The names at the root of the server that lead to a mount, or to any URL.
fn taken_names(config: &Config) -> Vec<String> {
    let upstreams = config.upstreams.iter().filter_map(|upstream| upstream.name.clone());
    let directories = config.directories.iter().filter_map(|directory| directory.name.clone());
    let schemes = ["http", "https"].into_iter().filter(|_| config.allows_any_url());
    upstreams.chain(directories).chain(schemes.map(str::to_owned)).collect()
}

async fn sweep(mount: Arc<Mount>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        mount.sweep().await;
    }
}
