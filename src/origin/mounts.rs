//! The file systems that are mounted beneath the directory, as the kernel lists them.
//!
//! `/proc/self/mountinfo` is read without a look at any of the file systems, so it answers while one of them hangs. Two things
//! go by it: requests to one mount never take the threads of all (`serve::origin`), and a collection with a mount in it
//! is neither removed nor moved as one.

use super::path::TreePath;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a reading of the list is believed.
const BELIEVED_FOR: Duration = Duration::from_millis(500);

/// How many requests may wait for one mount at once.
const MAX_WAITING: usize = 16;

/// What is mounted beneath one directory.
#[derive(Debug)]
pub struct Mounts {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read: Option<Instant>,
    /// Each with the turns of those who wait for it.
    beneath: HashMap<Vec<String>, Arc<Semaphore>>,
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
        if state.beneath.is_empty() {
            return None;
        }
        let names = path.names();
        (1..=names.len())
            .rev()
            .find_map(|depth| state.beneath.get(names.get(..depth)?).cloned())
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read.is_none_or(|read| read.elapsed() >= BELIEVED_FOR) {
            state.read = Some(Instant::now());
            let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            let found = mount_points(&text).filter_map(|point| names_beneath(&self.root, &point));
            let mut beneath = HashMap::new();
            for names in found {
                let turns = state.beneath.remove(&names);
                beneath.insert(names, turns.unwrap_or_else(|| Arc::new(Semaphore::new(MAX_WAITING))));
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
