//! Watches the directory: a large file that appears or changes is hashed for its digest before a client asks for it.
//!
//! No answer depends on the watch. Every answer looks at the directory itself, so the next request sees a change from
//! outside whether the watch has told of it or not. Where there is no watch (too many directories for the kernel's
//! limit, a network file system) the digests of large files come later, and nothing else is different.

use super::digest_cache::INLINE_BYTES;
use super::digest_queue::DigestQueue;
use super::path::TreePath;
use super::tree::Tree;
use crate::sync::lock;
use notify::event::{EventKind, ModifyKind};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A watch on the directory. Dropping it ends it.
#[derive(Debug)]
pub struct DirectoryWatcher {
    /// `None` until all directories are watched, or where they cannot be. Locked once, to put the watcher in.
    watcher: Arc<Mutex<Option<RecommendedWatcher>>>,
}

impl DirectoryWatcher {
    /// Begins to watch, on a thread of its own: a large tree takes a while.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(tree: Arc<Tree>, digest_queue: DigestQueue) -> std::io::Result<Self> {
        let directory_watcher = Self {
            watcher: Arc::default(),
        };
        let slot = Arc::clone(&directory_watcher.watcher);
        std::thread::Builder::new()
            .name("millpond-watch".to_owned())
            .spawn(move || {
                let root = tree.path().to_owned();
                match begin(tree, digest_queue) {
                    Ok(watcher) => *lock(&slot) = Some(watcher),
                    Err(error) => {
                        tracing::warn!(path = %root.display(), %error, "the directory is not watched: strong tags of large files come when they are asked for; raise fs.inotify.max_user_watches");
                    }
                }
            })?;
        Ok(directory_watcher)
    }
}

fn begin(tree: Arc<Tree>, digest_queue: DigestQueue) -> notify::Result<RecommendedWatcher> {
    let root = tree.path().to_owned();
    // A link may lead out of the directory, or in circles.
    let config = Config::default().with_follow_symlinks(false);
    let told = move |event: notify::Result<Event>| {
        let Ok(event) = event else { return };
        if !changes_bytes(&event.kind) {
            return;
        }
        for path in event.paths.iter().filter_map(|path| path_of(&tree, path)) {
            let large = tree
                .inspect(&path)
                .is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|size| size > INLINE_BYTES));
            if large {
                digest_queue.enqueue(&path);
            }
        }
    };
    let mut watcher = RecommendedWatcher::new(told, config)?;
    watcher.watch(&root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn changes_bytes(kind: &EventKind) -> bool {
    match kind {
        EventKind::Create(_) => true,
        EventKind::Modify(kind) => !matches!(kind, ModifyKind::Metadata(_)),
        _ => false,
    }
}

/// The path in the tree; `None` for one that is not served.
fn path_of(tree: &Tree, path: &Path) -> Option<TreePath> {
    let names = path.strip_prefix(tree.path()).ok()?;
    let path = names
        .iter()
        .try_fold(TreePath::root(), |path, name| Some(path.child(name.to_str()?)))?;
    (!path.is_root() && tree.serves(&path)).then_some(path)
}
