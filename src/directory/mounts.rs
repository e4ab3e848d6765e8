//! The file systems that are mounted beneath the directory, as the kernel lists them.
//!
//! `/proc/self/mountinfo` is read without a look at any of the file systems, so it answers while one of them hangs. Three
//! things go by it: requests to one mount never take the threads of all (`webdav`), each mount has its own locks
//! (`locks`), and a collection with a mount in it is neither removed nor moved as one.

use super::path::TreePath;
use crate::sync::lock;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a reading of the list is believed.
const BELIEVED_FOR: Duration = Duration::from_millis(500);

/// How many requests may wait for one mount at once.
const MAX_WAITING: usize = 16;

/// How many of those who hold a turn of another mount may wait for one: what hangs takes so many of its neighbours' turns.
const MAX_CROSSINGS: usize = 8;

/// How many listings may look at once at what links lead to on one mount.
const MAX_GLANCES: usize = 4;

/// Where a file system is mounted: the names that lead there from the directory. None of them is the directory's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountPoint(Vec<String>);

impl MountPoint {
    /// Whether this is the directory's own file system.
    pub fn is_own(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the other is this, or mounted beneath it.
    pub(super) fn is_above(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// Those who wait for one mount.
#[derive(Debug, Clone)]
struct Waiting {
    turns: Arc<Semaphore>,
    crossings: Arc<Semaphore>,
    glances: Arc<Semaphore>,
}

/// What is mounted beneath one directory.
#[derive(Debug)]
pub struct Mounts {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read: Option<Instant>,
    beneath: HashMap<Vec<String>, Waiting>,
}

impl State {
    /// The names of the mount that these lead to; `None` on the directory's own file system.
    fn deepest<'a>(&self, names: &'a [String]) -> Option<&'a [String]> {
        if self.beneath.is_empty() {
            return None;
        }
        let above = (1..=names.len()).rev().filter_map(|depth| names.get(..depth));
        above.into_iter().find(|above| self.beneath.contains_key(*above))
    }
}

impl Mounts {
    /// The mounts beneath that directory, whose links are resolved.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: Mutex::default(),
        }
    }

    /// The turns of those who wait for the mount that the path is on; `None` on the directory's own file system.
    pub fn turns(&self, path: &TreePath) -> Option<Arc<Semaphore>> {
        let state = self.current();
        let waiting = state.beneath.get(state.deepest(path.names())?)?;
        Some(Arc::clone(&waiting.turns))
    }

    /// The turns of those who wait for that mount; `None` where nothing is mounted there (any more).
    pub fn turns_at(&self, mount: &MountPoint) -> Option<Arc<Semaphore>> {
        let state = self.current();
        state.beneath.get(&mount.0).map(|waiting| Arc::clone(&waiting.turns))
    }

    /// The turns of those who wait for that mount with a turn of another.
    pub fn crossings_at(&self, mount: &MountPoint) -> Option<Arc<Semaphore>> {
        let state = self.current();
        state
            .beneath
            .get(&mount.0)
            .map(|waiting| Arc::clone(&waiting.crossings))
    }

    /// The turn of a listing that looks at what a link leads to on that mount; `None` where those before it still wait.
    pub(super) fn glance(&self, mount: &MountPoint) -> Option<OwnedSemaphorePermit> {
        let glances = self
            .current()
            .beneath
            .get(&mount.0)
            .map(|waiting| Arc::clone(&waiting.glances));
        // Where it is mounted no more, the look is as quick as any.
        let glances = glances.unwrap_or_else(|| Arc::new(Semaphore::new(1)));
        glances.try_acquire_owned().ok()
    }

    /// The mount that these names lead to.
    pub fn point(&self, names: &[String]) -> MountPoint {
        MountPoint(self.current().deepest(names).unwrap_or_default().to_vec())
    }

    /// Whether a file system is mounted at the path or beneath it.
    pub(super) fn is_crossed_by(&self, path: &TreePath) -> bool {
        let state = self.current();
        state.beneath.keys().any(|mount| mount.starts_with(path.names()))
    }

    /// Whether a file system is mounted at that name of the collection.
    pub fn is_mount(&self, collection: &TreePath, name: &str) -> bool {
        let state = self.current();
        let same = |mount: &Vec<String>| {
            mount
                .split_last()
                .is_some_and(|(last, above)| last == name && above == collection.names())
        };
        state.beneath.keys().any(same)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        if state.read.is_none_or(|read| read.elapsed() >= BELIEVED_FOR) {
            state.read = Some(Instant::now());
            let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            let found = mount_points(&text).filter_map(|point| names_beneath(&self.root, &point));
            let mut beneath = HashMap::new();
            for names in found {
                let waiting = state.beneath.remove(&names).unwrap_or_else(|| Waiting {
                    turns: Arc::new(Semaphore::new(MAX_WAITING)),
                    crossings: Arc::new(Semaphore::new(MAX_CROSSINGS)),
                    glances: Arc::new(Semaphore::new(MAX_GLANCES)),
                });
                beneath.insert(names, waiting);
            }
            state.beneath = beneath;
        }
        state
    }
}

/// The fifth field of each line of the list (proc_pid_mountinfo(5)), unescaped.
fn mount_points(text: &[u8]) -> impl Iterator<Item = PathBuf> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(unescaped(field))
    })
}

/// Blanks, line ends and backslashes stand there as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..3).filter(|_| *first == b'\\');
        let octal = escape.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn names_beneath(root: &Path, point: &Path) -> Option<Vec<String>> {
    let beneath = point.strip_prefix(root).ok()?;
    let names = beneath.iter().map(|name| name.to_str().map(str::to_owned));
    names.collect::<Option<Vec<_>>>().filter(|names| !names.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let text = b"24 1 0:22 / /srv rw - ext4 /dev/a rw\n25 24 0:23 / /srv/a\\040b\\134c rw - tmpfs none rw\n";
        let points: Vec<_> = mount_points(text).collect();
        assert_eq!(points, [PathBuf::from("/srv"), PathBuf::from("/srv/a b\\c")]);
        let names: Vec<_> = points
            .iter()
            .filter_map(|point| names_beneath(Path::new("/srv"), point))
            .collect();
        assert_eq!(names, [vec!["a b\\c".to_owned()]]);
    }
}
