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
const REREAD_AFTER: Duration = Duration::from_millis(500);

/// How many requests may wait for one mount at once.
const MAX_PERMITS: usize = 16;

/// How many of those who hold a turn of another mount may wait for one: what hangs takes so many of its neighbours' turns.
const MAX_CROSSING_PERMITS: usize = 8;

/// How many listings may look at once at what links lead to on one mount.
const MAX_LINK_LOOKUPS: usize = 4;

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
struct MountPermits {
    permits: Arc<Semaphore>,
    crossing_permits: Arc<Semaphore>,
    link_lookups: Arc<Semaphore>,
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
    beneath: HashMap<Vec<String>, MountPermits>,
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
    pub fn permits(&self, path: &TreePath) -> Option<Arc<Semaphore>> {
        let state = self.refreshed();
        let permits_of_mount = state.beneath.get(state.deepest(path.names())?)?;
        Some(Arc::clone(&permits_of_mount.permits))
    }

    /// The turns of those who wait for that mount; `None` where nothing is mounted there (any more).
    pub fn permits_at(&self, mount: &MountPoint) -> Option<Arc<Semaphore>> {
        let state = self.refreshed();
        state
            .beneath
            .get(&mount.0)
            .map(|permits_of_mount| Arc::clone(&permits_of_mount.permits))
    }

    /// The turns of those who wait for that mount with a turn of another.
    pub fn crossing_permits_at(&self, mount: &MountPoint) -> Option<Arc<Semaphore>> {
        let state = self.refreshed();
        state
            .beneath
            .get(&mount.0)
            .map(|permits_of_mount| Arc::clone(&permits_of_mount.crossing_permits))
    }

    /// The turn of a listing that looks at what a link leads to on that mount; `None` where those before it still wait.
    pub(super) fn try_link_lookup(&self, mount: &MountPoint) -> Option<OwnedSemaphorePermit> {
        let link_lookups = self
            .refreshed()
            .beneath
            .get(&mount.0)
            .map(|permits_of_mount| Arc::clone(&permits_of_mount.link_lookups));
        // Where it is mounted no more, the look is as quick as any.
        let link_lookups = link_lookups.unwrap_or_else(|| Arc::new(Semaphore::new(1)));
        link_lookups.try_acquire_owned().ok()
    }

    /// The mount that these names lead to.
    pub fn mount_point_of(&self, names: &[String]) -> MountPoint {
        MountPoint(self.refreshed().deepest(names).unwrap_or_default().to_vec())
    }

    /// Whether a file system is mounted at the path or beneath it.
    pub(super) fn has_mount_within(&self, path: &TreePath) -> bool {
        let state = self.refreshed();
        state.beneath.keys().any(|mount| mount.starts_with(path.names()))
    }

    /// Whether a file system is mounted at that name of the collection.
    pub fn is_mount(&self, collection: &TreePath, name: &str) -> bool {
        let state = self.refreshed();
        let same = |mount: &Vec<String>| {
            mount
                .split_last()
                .is_some_and(|(last, above)| last == name && above == collection.names())
        };
        state.beneath.keys().any(same)
    }

    fn refreshed(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        if state.read.is_none_or(|read| read.elapsed() >= REREAD_AFTER) {
            state.read = Some(Instant::now());
            let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            let found = mount_points(&text).filter_map(|point| names_beneath(&self.root, &point));
            let mut beneath = HashMap::new();
            for names in found {
                let permits_of_mount = state.beneath.remove(&names).unwrap_or_else(|| MountPermits {
                    permits: Arc::new(Semaphore::new(MAX_PERMITS)),
                    crossing_permits: Arc::new(Semaphore::new(MAX_CROSSING_PERMITS)),
                    link_lookups: Arc::new(Semaphore::new(MAX_LINK_LOOKUPS)),
                });
                beneath.insert(names, permits_of_mount);
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
