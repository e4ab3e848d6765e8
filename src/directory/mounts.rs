//! The file systems that are mounted beneath the directory, as the kernel lists them.
//!
//! `/proc/self/mountinfo` is read without a look at any of the file systems, so it answers while one of them hangs.
//! Three things depend on it: requests to one mount never take all threads (`webdav`), each mount has locks of its own
//! (`locks`), and a collection with a mount in it is neither removed nor moved as one.
//!
//! A change of the list is seen by the next look-up, with a poll of the list: a mount that hangs soon after it was made
//! would else be taken for the root's own file system.
//!
//! The permits of a mount outlive a reading of the list: those who wait for a mount that hangs keep theirs until the
//! kernel lets them go, so they stay counted.

use super::path::TreePath;
use crate::clock::Instant;
use crate::sync::lock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The time after which the list is read again although no change of it was told: a judgement, for a kernel or sandbox
/// whose list cannot be polled.
const REREAD_AFTER: Duration = Duration::from_millis(500);

/// The time for which the list is not polled again. A poll takes about 0.5 µs, which each name of a listing would pay; a
/// mount takes longer than this from the system call that makes it to its first answer.
const POLL_AFTER: Duration = Duration::from_millis(1);

/// The requests that may wait for one mount at once, of the 256 threads that all share (decision 29).
const MAX_PERMITS: usize = 16;

/// The requests with a permit of another mount that may wait for one: half of its permits, so that a mount that hangs
/// takes no more of its neighbour's (decision 29).
const MAX_CROSSING_PERMITS: usize = 8;

/// The listings that may look at once at what links lead to on one mount (decision 29).
const MAX_LINK_LOOKUPS: usize = 4;

/// The names that lead from the root to a mount point. None of them means the root's own file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountPoint(Vec<String>);

impl MountPoint {
    /// Whether this is the root's own file system.
    pub fn is_own(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the other is this mount, or one beneath it.
    pub(super) fn is_above(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// The permits of one mount.
#[derive(Debug, Clone)]
struct MountPermits {
    permits: Arc<Semaphore>,
    crossing_permits: Arc<Semaphore>,
    link_lookups: Arc<Semaphore>,
}

/// The mounts beneath one directory.
#[derive(Debug)]
pub struct Mounts {
    root: PathBuf,
    /// Held for a look-up, and while the list is polled or read: /proc asks no file system.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The list, open since before it was first read: the kernel counts its changes for each open file.
    list: Option<File>,
    read: Option<Instant>,
    polled: Option<Instant>,
    beneath: HashMap<Vec<String>, MountPermits>,
}

impl State {
    /// Whether the list has to be read (again) for a look-up at that time.
    fn is_stale(&mut self, now: Instant) -> bool {
        let past = |since: Option<Instant>, limit| since.is_none_or(|since| now.duration_since(since) >= limit);
        if past(self.read, REREAD_AFTER) {
            return true;
        }
        let polls = past(self.polled, POLL_AFTER);
        if polls {
            self.polled = Some(now);
        }
        polls && self.list.as_ref().is_some_and(has_changed)
    }

    /// The text of the list; `None` where it cannot be read now.
    fn read_list(&mut self) -> Option<Vec<u8>> {
        if self.list.is_none() {
            self.list = File::open("/proc/self/mountinfo").ok();
        }
        let list = self.list.as_mut()?;
        let mut text = Vec::new();
        // A change during the reading is told by the next poll.
        let read = list.rewind().and_then(|()| list.read_to_end(&mut text));
        if read.is_err() {
            self.list = None;
        }
        read.ok().map(|_| text)
    }

    /// The names of the mount point that these names lead to; `None` on the root's own file system.
    fn deepest<'a>(&self, names: &'a [String]) -> Option<&'a [String]> {
        if self.beneath.is_empty() {
            return None;
        }
        let above = (1..=names.len()).rev().filter_map(|depth| names.get(..depth));
        above.into_iter().find(|above| self.beneath.contains_key(*above))
    }
}

impl Mounts {
    /// The mounts beneath that directory, whose path has no links.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: Mutex::default(),
        }
    }

    /// The permits of the mount that the path is on; `None` on the root's own file system.
    pub fn permits(&self, path: &TreePath) -> Option<Arc<Semaphore>> {
        let state = self.refreshed();
        let permits_of_mount = state.beneath.get(state.deepest(path.names())?)?;
        Some(Arc::clone(&permits_of_mount.permits))
    }

    /// The permits of that mount; `None` where nothing is mounted there (any more).
    pub fn permits_at(&self, mount: &MountPoint) -> Option<Arc<Semaphore>> {
        let state = self.refreshed();
        state
            .beneath
            .get(&mount.0)
            .map(|permits_of_mount| Arc::clone(&permits_of_mount.permits))
    }

    /// The permits of that mount for requests with a permit of another.
    pub fn crossing_permits_at(&self, mount: &MountPoint) -> Option<Arc<Semaphore>> {
        let state = self.refreshed();
        state
            .beneath
            .get(&mount.0)
            .map(|permits_of_mount| Arc::clone(&permits_of_mount.crossing_permits))
    }

    /// A permit to look at what a link leads to on that mount; `None` while those before it still wait.
    pub(super) fn try_link_lookup(&self, mount: &MountPoint) -> Option<OwnedSemaphorePermit> {
        let link_lookups = self
            .refreshed()
            .beneath
            .get(&mount.0)
            .map(|permits_of_mount| Arc::clone(&permits_of_mount.link_lookups));
        // Where nothing is mounted any more, a look does not wait.
        let link_lookups = link_lookups.unwrap_or_else(|| Arc::new(Semaphore::new(1)));
        link_lookups.try_acquire_owned().ok()
    }

    /// The mount point that these names lead to.
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
        let now = Instant::now();
        if state.is_stale(now) {
            // A list that cannot be read (no descriptor is free) leaves the mounts as they were: they are there still.
            let Some(text) = state.read_list() else { return state };
            state.read = Some(now);
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

/// Whether mounts have come or gone since this was last asked of the open list (proc_pid_mountinfo(5)).
fn has_changed(list: &File) -> bool {
    let mut polled = [PollFd::new(list, PollFlags::PRI)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A poll that fails or is interrupted may have missed a change.
    poll(&mut polled, Some(&at_once)).map_or(true, |count| count > 0)
}

/// The fifth field of each line of the list (proc_pid_mountinfo(5)), unescaped.
fn mount_points(text: &[u8]) -> impl Iterator<Item = PathBuf> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(unescaped(field))
    })
}

/// A field with its escapes resolved: blanks, line ends and backslashes are three octal digits in it.
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
