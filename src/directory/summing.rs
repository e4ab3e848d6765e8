//! Reads large files for their digests, on two threads of their own: one for those up to [`HUGE_BYTES`], one for larger ones, so
//! that a disk image delays no film.
//!
//! A request for a large file whose bytes nobody has read yet is answered at once, with a tag of its stamp; the file is put
//! down here. So is what the watch sees appear. A file that is still being written is looked at again when it has
//! rested. The queue is bounded: what does not fit is asked for again by the next client.

use super::path::TreePath;
use super::tags::{SETTLED_AFTER, Tags};
use super::tree::{Found, Tree, stamp};
use crate::sync::lock;
use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// The largest file that is read on the first thread.
const HUGE_BYTES: u64 = 1 << 30;

/// How many files may wait to be read.
const MAX_WAITING: usize = 10_000;

/// How often a file is looked at again that is still being written; then the next client has to ask.
const MAX_LOOKS: u32 = 60;

/// How often what is known is written down.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// The queue's end that others hold. When the last is dropped the threads end, in the middle of a file if need be.
#[derive(Debug, Clone)]
pub struct Summing {
    ordinary: Sender<TreePath>,
    waiting: Arc<Mutex<HashSet<TreePath>>>,
    /// Held by whoever may still ask.
    _asked: Arc<()>,
}

struct Reader {
    asked: Weak<()>,
    /// Where a file goes that is too large for this thread.
    huge: Option<Sender<TreePath>>,
    tree: Arc<Tree>,
    tags: Arc<Tags>,
    waiting: Arc<Mutex<HashSet<TreePath>>>,
    /// When to look, at what, and how often it has been looked at.
    later: BTreeSet<(Instant, TreePath, u32)>,
}

impl Summing {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where there are none to be had.
    pub fn start(tree: Arc<Tree>, tags: Arc<Tags>) -> std::io::Result<Self> {
        let ((ordinary, first), (huge, second)) = (channel(), channel());
        let waiting = Arc::<Mutex<HashSet<TreePath>>>::default();
        let asked = Arc::new(());
        for (receiver, huge) in [(first, Some(huge)), (second, None)] {
            let mut reader = Reader {
                asked: Arc::downgrade(&asked),
                huge,
                tree: Arc::clone(&tree),
                tags: Arc::clone(&tags),
                waiting: Arc::clone(&waiting),
                later: BTreeSet::new(),
            };
            std::thread::Builder::new()
                .name("millpond-sums".to_owned())
                .spawn(move || reader.run(&receiver))?;
        }
        Ok(Self {
            ordinary,
            waiting,
            _asked: asked,
        })
    }

    /// Has the file read, unless it is to be already.
    pub fn ask(&self, path: &TreePath) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < MAX_WAITING && waiting.insert(path.clone()) {
            // Without a thread there are no digests, and the tags are those of stamps.
            let _ = self.ordinary.send(path.clone());
        }
    }
}

impl Reader {
    fn run(&mut self, receiver: &Receiver<TreePath>) {
        let mut kept = Instant::now();
        loop {
            let due = self.later.first().map_or(KEEP_EVERY, |(when, ..)| {
                when.saturating_duration_since(Instant::now()).min(KEEP_EVERY)
            });
            match receiver.recv_timeout(due) {
                Ok(path) => self.look(path, 0),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while self.later.first().is_some_and(|(when, ..)| *when <= Instant::now()) {
                if let Some((_, path, looks)) = self.later.pop_first() {
                    self.look(path, looks);
                }
            }
            if kept.elapsed() >= KEEP_EVERY {
                self.tags.keep();
                kept = Instant::now();
            }
        }
    }

    fn look(&mut self, path: TreePath, looks: u32) {
        if let Some(huge) = &self.huge
            && self.is_huge(&path)
        {
            let _ = huge.send(path);
            return;
        }
        if self.is_done(&path) || looks >= MAX_LOOKS {
            let mut waiting = lock(&self.waiting);
            waiting.remove(&path);
            return;
        }
        self.later.insert((Instant::now() + SETTLED_AFTER, path, looks + 1));
    }

    fn is_huge(&self, path: &TreePath) -> bool {
        let size = self
            .tree
            .inspect(path)
            .map(|stat| u64::try_from(stat.st_size).unwrap_or(0));
        size.is_ok_and(|size| size > HUGE_BYTES)
    }

    /// Whether nothing is left to do for the file: it has been read, or is gone.
    fn is_done(&self, path: &TreePath) -> bool {
        let Ok(Found::File(file, _)) = self.tree.find(path) else {
            return true;
        };
        let settled = |file| stamp(file).is_ok_and(|stamp| self.tags.is_settled(&stamp));
        match settled(&file) {
            true => match self.tags.digest_while(&file, || self.asked.strong_count() > 0) {
                Ok(_) => true,
                Err(super::OriginError::Changing) => false,
                Err(error) => {
                    tracing::warn!(%path, %error, "could not read a file for its tag");
                    true
                }
            },
            false => false,
        }
    }
}
