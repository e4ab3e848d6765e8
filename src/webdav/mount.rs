//! A mount: a directory that is served under a path of the server's, opened, and opened again after it was away.
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

use super::{DirectoryService, DirectorySettings, ListingBudget, ListingCache, PendingMembers};
use crate::access::Caller;
use crate::clock::SharedClock;
use crate::config::{DirectoryConfig, PublicUrl, TrustedProxies};
use crate::directory::{
    DigestCache, DigestQueue, DirectoryError, DirectoryWatcher, RootIdentity, Staging, Tree, TreeWriter, Uploads,
};
use crate::http1::Response;
use crate::sync::{read, write};
use crate::telemetry::Metrics;
use actix_web::HttpResponse;
use actix_web::dev::{Payload, RequestHead};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it is looked whether the directory is there. A judgement: requests compare the directory themselves; this
/// is for its return.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The parts of a server that all of its mounts share.
#[derive(Debug, Clone)]
pub struct MountContext {
    /// The directory of the server's own files: tags and the identity of each root are kept there.
    pub data: PathBuf,
    /// Free space to leave in a file system that is written to, in bytes; `None` depends on its size.
    pub min_free: Option<u64>,
    /// The URL under which clients reach this server.
    pub public_url: PublicUrl,
    /// Proxies, beside those on this machine, whose `Forwarded` fields name this server.
    pub trusted_proxies: TrustedProxies,
    /// The wall clock.
    pub clock: SharedClock,
    /// The threads that may wait for the disk.
    pub threads: tokio::runtime::Handle,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The memory of all answers to PROPFIND.
    pub listing_budget: Arc<ListingBudget<PendingMembers>>,
    /// The names of all mounts, and those by which any URL is named.
    pub taken: Vec<String>,
}

/// A directory under its path, whether it is there or not.
#[derive(Debug)]
pub struct Mount {
    config: DirectoryConfig,
    context: MountContext,
    /// The service of the directory that is open; `None` until the directory that is known is there for the first time.
    /// The lock is held by each request for a copy, and by the thread that opens the directory to put a new one in; the
    /// directory itself is opened before.
    service: RwLock<Option<Arc<DirectoryService>>>,
}

impl Mount {
    /// The mount of a directory, which [`MountWatch::start`] opens.
    pub fn new(config: DirectoryConfig, context: MountContext) -> Self {
        Self {
            config,
            context,
            service: RwLock::default(),
        }
    }

    /// The name that the mount has in paths; `None` at `/`.
    pub fn name(&self) -> Option<&str> {
        self.config.name.as_deref()
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.config.root
    }

    /// The answer to a request for `target`, the path beneath the mount as it came.
    pub async fn answer(&self, caller: &Caller, head: &RequestHead, target: &str, payload: Payload) -> Response {
        match self.current() {
            Some(service) => service.answer(caller, head, target, payload).await,
            None => DirectoryService::away().into(),
        }
    }

    /// The refusal of a request whose client waits with its body (`Expect: 100-continue`); `None` where the body may
    /// come.
    pub async fn before_body(&self, caller: &Caller, head: &RequestHead, target: &str) -> Option<HttpResponse> {
        match self.current() {
            Some(service) => service.before_body(caller, head, target).await,
            None => Some(DirectoryService::away()),
        }
    }

    /// Whether the directory has the upload of that id.
    pub fn has_upload(&self, id: &str) -> bool {
        let service = self.current();
        let uploads = service.as_ref().and_then(|service| service.uploads.as_ref());
        uploads.is_some_and(|uploads| uploads.get(id).is_some())
    }

    /// The answer to a request for the upload of that id.
    pub async fn answer_upload(&self, caller: &Caller, id: &str, head: &RequestHead, payload: Payload) -> HttpResponse {
        match self.current() {
            Some(service) => service.upload_resource(caller, id, head, payload).await,
            None => DirectoryService::away(),
        }
    }

    /// The refusal of a body for the upload of that id, as [`Mount::before_body`].
    pub async fn before_upload(&self, caller: &Caller, id: &str, head: &RequestHead) -> Option<HttpResponse> {
        match self.current() {
            Some(service) => service.before_upload(caller, id, head).await,
            None => Some(DirectoryService::away()),
        }
    }

    /// The answer that says why the directory cannot be served now; `None` where it can.
    pub async fn unready(&self) -> Option<HttpResponse> {
        match self.current() {
            Some(service) => service.unready().await,
            None => Some(DirectoryService::away()),
        }
    }

    /// Removes uploads that were not resumed in time, and readings that nobody pages through any more.
    pub async fn sweep(&self) {
        let Some(service) = self.current() else { return };
        service.listing_cache.sweep();
        if let Some(uploads) = service.uploads.clone() {
            let _ = self.context.threads.spawn_blocking(move || uploads.sweep()).await;
        }
    }

    /// Writes down what is known of the files.
    pub fn save(&self) {
        if let Some(service) = self.current() {
            service.tags.save();
        }
    }

    /// The service of the directory that is open.
    fn current(&self) -> Option<Arc<DirectoryService>> {
        read(&self.service).clone()
    }

    /// Lets another process write to the directory.
    pub fn release(&self) {
        if let Some(writer) = self.current().and_then(|service| service.writer.clone()) {
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
        let service = self.open(Arc::clone(&tree))?;
        let before = write(&self.service).replace(Arc::new(service));
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
        let (config, context) = (&self.config, &self.context);
        let tags = Arc::new(DigestCache::load(self.kept("tags"), Arc::clone(&context.clock)));
        let started = |source| DirectoryError::Disk {
            doing: "start a thread",
            source,
        };
        let digest_queue = DigestQueue::start(Arc::clone(&tree), Arc::clone(&tags)).map_err(started)?;
        let watcher = DirectoryWatcher::start(Arc::clone(&tree), digest_queue.clone()).map_err(started)?;
        let writer = match config.writable {
            true => {
                let staging = Staging::open(Arc::clone(&tree), context.min_free, Arc::clone(&context.clock))?;
                let writer = TreeWriter::new(Arc::clone(&tree), Arc::clone(&tags), staging, config.portable)?;
                Some(Arc::new(writer))
            }
            false => None,
        };
        let uploads = writer.as_ref().map(|writer| {
            let uploads = Uploads::open(Arc::clone(writer), config.upload_lifetime, Arc::clone(&context.clock));
            uploads.map(Arc::new)
        });
        Ok(DirectoryService {
            tree,
            tags,
            uploads: uploads.transpose()?,
            writer,
            listing_budget: Arc::clone(&context.listing_budget),
            listing_cache: Arc::new(ListingCache::default()),
            locks: Arc::default(),
            digest_queue,
            watcher,
            clock: Arc::clone(&context.clock),
            metrics: Arc::clone(&context.metrics),
            threads: context.threads.clone(),
            settings: DirectorySettings {
                name: config.name.clone(),
                writable: config.writable,
                demand_conditions: config.demand_conditions,
                deep_delete: config.deep_delete,
                hidden: config.hidden,
                prefix: format!("{}{}", context.public_url.prefix(), self.prefix()),
                public_url: context.public_url.clone(),
                trusted_proxies: context.trusted_proxies.clone(),
                taken: match config.name {
                    Some(_) => Vec::new(),
                    None => context.taken.clone(),
                },
                largest_upload: config.largest_upload,
            },
        })
    }

    /// The path of the mount, without a slash at its end: empty at `/`.
    fn prefix(&self) -> String {
        self.name().map_or_else(String::new, |name| format!("/{name}"))
    }

    /// Where something is kept of the directory at that path; nowhere if there is no place for it.
    fn kept(&self, what: &str) -> Option<PathBuf> {
        let root = resolved(&self.config.root);
        let id = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
        match std::fs::create_dir_all(&self.context.data) {
            Ok(()) => Some(self.context.data.join(format!("origin-{}.{what}", &id[..16]))),
            Err(error) => {
                let path = self.context.data.display();
                tracing::warn!(%path, %error, "tags and the directory's identity are not kept: after a restart files are read again; name a place with --data");
                None
            }
        }
    }

    /// Looks whether the directory is there, and opens it where it has come back; whether it is there now.
    fn look(&self, was_there: bool) -> bool {
        let root: &Path = &self.config.root;
        // `current` has let go of the lock: requests read the service while this looks.
        if self.current().is_some_and(|service| service.tree.check_root().is_ok()) {
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

/// The thread that looks after a mount.
#[derive(Debug)]
pub struct MountWatch {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl MountWatch {
    /// Opens the directory, or begins to wait for it where another is at its path.
    ///
    /// # Errors
    /// Where it cannot be served: [`DirectoryError::Absent`] for one that does not exist and was never served.
    pub fn start(mount: Arc<Mount>) -> Result<Self, DirectoryError> {
        let opened = mount.open_known()?;
        if !opened {
            let path = mount.config.root.display();
            tracing::error!(%path, "the directory is not there, or not the one that was served from this path before: is its disk mounted? Requests are answered 503 until it is; --new-root serves this one");
        }
        let (stop, stopped) = channel();
        let look = move || {
            let mut there = opened;
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                there = mount.look(there);
            }
        };
        let started = |source| DirectoryError::Disk {
            doing: "start a thread",
            source,
        };
        let thread = std::thread::Builder::new()
            .name("millpond-root".to_owned())
            .spawn(look)
            .map_err(started)?;
        Ok(Self { stop, thread })
    }

    /// Ends the watch.
    pub fn stop(self) {
        drop(self.stop);
        // The thread may hang with the directory's file system; then the process does not wait for it.
        if self.thread.is_finished() {
            let _ = self.thread.join();
        }
    }
}
