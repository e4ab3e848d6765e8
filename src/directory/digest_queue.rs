//! Hashes large files on two threads of their own: one for those up to [`HUGE_BYTES`], one for larger ones, so that a
//! disk image delays no film.
//!
//! A request for a large file that nobody has hashed yet is answered at once, with a tag of its stamp, and the file is
//! queued here; so is each large file that the watch sees appear. A file that is still being written is tried again
//! when it has rested. The queue is bounded: a file that finds no room is queued by the next request for it. The lock
//! on the set of queued paths is held for an insertion or a removal only.

use super::digest_cache::{DigestCache, SETTLED_AFTER};
use super::path::TreePath;
use super::tree::{Found, Tree, stamp};
use crate::clock::Instant;
use crate::sync::lock;
use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// The largest file that is hashed on the first thread: a judgement.
const HUGE_BYTES: u64 = 1 << 30;

/// The most files that may wait to be hashed: a judgement.
const MAX_QUEUED: usize = 10_000;

/// The attempts at a file that is still being written, two seconds apart; then it waits for the next request. A
/// judgement.
const MAX_ATTEMPTS: u32 = 60;

/// The interval at which the digests are stored: a judgement. What was hashed since is hashed again after a crash.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The sending end of the queue. When the last one is dropped the threads end, in the middle of a file if need be.
#[derive(Debug, Clone)]
pub struct DigestQueue {
    ordinary: Sender<TreePath>,
    /// The files that wait or are tried again. Held for an insertion, with the message that goes with it.
    queued: Arc<Mutex<HashSet<TreePath>>>,
    /// Held by each sending end, so that a thread in the middle of a file sees when the last has gone.
    _asked: Arc<()>,
}

struct DigestThread {
    asked: Weak<()>,
    /// The second thread, for files that are too large for the first one; `None` on the second.
    huge: Option<Sender<TreePath>>,
    tree: Arc<Tree>,
    tags: Arc<DigestCache>,
    /// The set of the sending ends. Held for a removal, never while a file is hashed.
    queued: Arc<Mutex<HashSet<TreePath>>>,
    /// The next attempts: when, which file, and how many there were.
    retries: BTreeSet<(Instant, TreePath, u32)>,
}

impl DigestQueue {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where there are none to be had.
    pub fn start(tree: Arc<Tree>, tags: Arc<DigestCache>) -> std::io::Result<Self> {
        let ((ordinary, first), (huge, second)) = (channel(), channel());
        let queued = Arc::<Mutex<HashSet<TreePath>>>::default();
        let asked = Arc::new(());
        for (receiver, huge) in [(first, Some(huge)), (second, None)] {
            let mut reader = DigestThread {
                asked: Arc::downgrade(&asked),
                huge,
                tree: Arc::clone(&tree),
                tags: Arc::clone(&tags),
                queued: Arc::clone(&queued),
                retries: BTreeSet::new(),
            };
            std::thread::Builder::new()
                .name("millpond-sums".to_owned())
                .spawn(move || reader.run(&receiver))?;
        }
        Ok(Self {
            ordinary,
            queued,
            _asked: asked,
        })
    }

    /// Has the file hashed, unless it is queued already.
    pub fn enqueue(&self, path: &TreePath) {
        let mut queued = lock(&self.queued);
        if queued.len() < MAX_QUEUED && queued.insert(path.clone()) {
            // Without a thread there are no digests, and tags are of stamps.
            let _ = self.ordinary.send(path.clone());
        }
    }
}

impl DigestThread {
    fn run(&mut self, receiver: &Receiver<TreePath>) {
        let mut last_saved = Instant::now();
        loop {
            let due = self.retries.first().map_or(SAVE_EVERY, |(when, ..)| {
                when.saturating_duration_since(Instant::now()).min(SAVE_EVERY)
            });
            match receiver.recv_timeout(due) {
                Ok(path) => self.process(path, 0),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while self.retries.first().is_some_and(|(when, ..)| *when <= Instant::now()) {
                if let Some((_, path, attempts)) = self.retries.pop_first() {
                    self.process(path, attempts);
                }
            }
            if last_saved.elapsed() >= SAVE_EVERY {
                self.tags.save();
                last_saved = Instant::now();
            }
        }
    }

    fn process(&mut self, path: TreePath, attempts: u32) {
        if let Some(huge) = &self.huge
            && self.is_huge(&path)
        {
            let _ = huge.send(path);
            return;
        }
        if self.is_done(&path) || attempts >= MAX_ATTEMPTS {
            let mut queued = lock(&self.queued);
            queued.remove(&path);
            return;
        }
        self.retries
            .insert((Instant::now() + SETTLED_AFTER, path, attempts + 1));
    }

    fn is_huge(&self, path: &TreePath) -> bool {
        let size = self
            .tree
            .inspect(path)
            .map(|stat| u64::try_from(stat.st_size).unwrap_or(0));
        size.is_ok_and(|size| size > HUGE_BYTES)
    }

    /// Whether nothing is left to do for the file: it has been hashed, or is gone.
    fn is_done(&self, path: &TreePath) -> bool {
        let Ok(Found::File(file, _)) = self.tree.find(path) else {
            return true;
        };
        let settled = |file| stamp(file).is_ok_and(|stamp| self.tags.has_settled(&stamp));
        match settled(&file) {
            true => match self.tags.read_digest_while(&file, || self.asked.strong_count() > 0) {
                Ok(_) => true,
                Err(super::DirectoryError::ChangedMeanwhile) => false,
                Err(error) => {
                    tracing::warn!(%path, %error, "could not read a file for its tag");
                    true
                }
            },
            false => false,
        }
    }
}
