//! The directory that is served, opened, and opened again after it was away.
//!
//! ```text
//!           the directory known from before, or none known
//! start ──────────────────────────────────────────────────► open ◄──────────┐
//!    │ another                                                │ not there    │ the same again, opened anew
//!    └────────► away: 503, not ready ─── the known one ───────┼──────────────┤
//!                                                             └──► gone: 503, not ready
//! ```
//!
//! Each request compares what is open with what the path leads to (`Tree::check_root`), so no listing is of a directory that is
//! not there. A thread looks once a second whether it has come back. Its identity is kept under `data` (`directory::RootIdentity`).

use super::AppError;
use crate::clock::SharedClock;
use crate::config::OriginConfig;
use crate::directory::{
    DigestCache, DigestQueue, DirectoryError, DirectoryWatcher, RootIdentity, Staging, Tree, TreeWriter, Uploads,
};
use crate::sync::{read, write};
use crate::telemetry::Metrics;
use crate::webdav::{AccessLog, Authorizer, DirectoryService, DirectorySettings, ListingCache};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it is looked whether the directory is there. A judgement: requests compare the directory themselves; this
/// is for its return.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The directory, whether it is there or not.
#[derive(Debug)]
pub(super) struct Directory {
    config: OriginConfig,
    clock: SharedClock,
    authorizer: Arc<Authorizer>,
    log: Option<Arc<AccessLog>>,
    threads: tokio::runtime::Handle,
    metrics: Arc<Metrics>,
    /// The origin that is open; `None` until the directory that is known is there for the first time. The lock is held
    /// by each request for a copy, and by the thread that opens the directory to put a new one in; the directory itself
    /// is opened before.
    origin: RwLock<Option<Arc<DirectoryService>>>,
}

impl Directory {
    pub(super) fn new(
        config: OriginConfig,
        clock: SharedClock,
        authorizer: Arc<Authorizer>,
        log: Option<Arc<AccessLog>>,
        threads: tokio::runtime::Handle,
    ) -> Self {
        Self {
            config,
            clock,
            authorizer,
            log,
            threads,
            metrics: Arc::new(Metrics::new()),
            origin: RwLock::default(),
        }
    }

    /// The origin that is open.
    pub(super) fn current(&self) -> Option<Arc<DirectoryService>> {
        read(&self.origin).clone()
    }

    /// Lets another process write to the directory.
    pub(super) fn release(&self) {
        if let Some(writer) = self.current().and_then(|origin| origin.writer.clone()) {
            writer.staging.release();
        }
    }

    /// Opens the directory if it is the one that is known, or none is; whether it was.
    fn open_known(&self) -> Result<bool, DirectoryError> {
        let kept = self.kept("root");
        let known = kept.as_deref().and_then(RootIdentity::read);
        let first = self.current().is_none();
        let any = first && self.config.new_root;
        let tree = match Tree::open(&self.config.root) {
            // The way to a mount point may not be there before its file system is.
            Err(DirectoryError::Absent) if known.is_some() && !any => return Ok(false),
            tree => Arc::new(tree?),
        };
        let now = tree.identity()?;
        if known.is_some_and(|known| !known.is_same_as(&now)) && !any {
            return Ok(false);
        }
        // The place for unfinished files is locked by the one who writes there.
        self.release();
        let origin = self.open(Arc::clone(&tree))?;
        let before = write(&self.origin).replace(Arc::new(origin));
        // Not under the lock: closing what is on a file system that hangs may wait, and requests take the lock.
        drop(before);
        // Only now the mark is there.
        let now = tree.identity()?;
        if let Some(kept) = &kept
            && let Err(error) = now.save(kept)
        {
            tracing::warn!(path = %kept.display(), %error, "the directory's identity is not kept: a start would not know it from another");
        }
        Ok(true)
    }

    fn open(&self, tree: Arc<Tree>) -> Result<DirectoryService, DirectoryError> {
        let config = &self.config;
        let tags = Arc::new(DigestCache::load(self.kept("tags"), Arc::clone(&self.clock)));
        let started = |source| DirectoryError::Disk {
            doing: "start a thread",
            source,
        };
        let digest_queue = DigestQueue::start(Arc::clone(&tree), Arc::clone(&tags)).map_err(started)?;
        let watcher = DirectoryWatcher::start(Arc::clone(&tree), digest_queue.clone()).map_err(started)?;
        let writer = match config.writable {
            true => {
                let staging = Staging::open(Arc::clone(&tree), config.min_free_bytes, Arc::clone(&self.clock))?;
                let writer = TreeWriter::new(Arc::clone(&tree), Arc::clone(&tags), staging, config.portable)?;
                Some(Arc::new(writer))
            }
            false => None,
        };
        let uploads = writer.as_ref().map(|writer| {
            let uploads = Uploads::open(Arc::clone(writer), config.upload_lifetime, Arc::clone(&self.clock));
            uploads.map(Arc::new)
        });
        Ok(DirectoryService {
            tree,
            tags,
            uploads: uploads.transpose()?,
            writer,
            authorizer: Arc::clone(&self.authorizer),
            log: self.log.clone(),
            listing_cache: Arc::new(ListingCache::default()),
            locks: Arc::default(),
            digest_queue,
            watcher,
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
            threads: self.threads.clone(),
            settings: DirectorySettings {
                writable: config.writable,
                demand_conditions: config.demand_conditions,
                deep_delete: config.deep_delete,
                hidden: config.hidden,
                public_url: config.public_url.clone(),
                trusted_proxies: config.trusted_proxies.clone(),
                largest_upload: config.largest_upload,
            },
        })
    }

    /// Where something is kept of the directory at that path; nowhere if there is no place for it.
    fn kept(&self, what: &str) -> Option<PathBuf> {
        let root = resolved(&self.config.root);
        let id = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
        match std::fs::create_dir_all(&self.config.data) {
            Ok(()) => Some(self.config.data.join(format!("origin-{}.{what}", &id[..16]))),
            Err(error) => {
                let path = self.config.data.display();
                tracing::warn!(%path, %error, "tags and the directory's identity are not kept: after a restart files are read again; name a place with --data");
                None
            }
        }
    }

    /// Looks whether the directory is there, and opens it where it has come back; whether it is there now.
    fn look(&self, was_there: bool) -> bool {
        let root: &Path = &self.config.root;
        // `current` has let go of the lock: requests read the origin while this looks.
        if self.current().is_some_and(|origin| origin.tree.check_root().is_ok()) {
            return true;
        }
        if was_there {
            tracing::error!(path = %root.display(), "the directory is gone: it was unmounted, removed or replaced; requests are answered 503 until it is back, and --new-root serves another");
        }
        match self.open_known() {
            Ok(true) => {
                tracing::warn!(path = %root.display(), "the directory is there, and is served");
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::debug!(%error, "the directory is not there yet");
                false
            }
        }
    }
}

/// The path without links, also where its last part does not exist (yet).
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|above| {
        let resolved = std::fs::canonicalize(above).ok()?;
        let rest = path.strip_prefix(above).ok()?;
        // Joining nothing would add a slash, and make another name for the same.
        Some(if rest.as_os_str().is_empty() {
            resolved
        } else {
            resolved.join(rest)
        })
    });
    there.unwrap_or(path)
}

/// The thread that looks after the directory.
#[derive(Debug)]
pub(super) struct Roots {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Roots {
    /// Opens the directory, or begins to wait for it where another is at its path.
    ///
    /// # Errors
    /// Where it cannot be served.
    pub(super) fn start(directory: Arc<Directory>) -> Result<Self, AppError> {
        let opened = directory.open_known().map_err(|source| {
            let path = directory.config.root.clone();
            match source {
                DirectoryError::Absent => AppError::NoDirectory(path),
                source => AppError::Origin { path, source },
            }
        })?;
        if !opened {
            let path = directory.config.root.display();
            tracing::error!(%path, "the directory is not there, or not the one that was served from this path before: is its disk mounted? Requests are answered 503 until it is; --new-root serves this one");
        }
        let (stop, stopped) = channel();
        let look = move || {
            let mut there = opened;
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                there = directory.look(there);
            }
        };
        let thread = std::thread::Builder::new()
            .name("millpond-root".to_owned())
            .spawn(look)
            .map_err(AppError::Threads)?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        // The thread may hang with the directory's file system; then the process does not wait for it.
        if self.thread.is_finished() {
            let _ = self.thread.join();
        }
    }
}
