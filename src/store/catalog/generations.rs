//! The generations of the catalog's file: which directory holds the one that counts.
//!
//! The first lies in the catalog's directory itself. Each that is written anew (compaction.rs) has a directory of its own
//! within it, `g2`, `g3` and so on, and a file named `current` tells which counts. That file is replaced in one step, after
//! the new generation has reached the disk and before the old one goes: a crash leaves one that is whole, and what it leaves
//! of another is removed at the next start.

use crate::store::body_file;
use crate::store::error::StoreError;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const CURRENT: &str = "current";

/// The files that sled makes in a directory of its own, but for its snapshots.
const FILES: [&str; 2] = ["db", "conf"];
const BLOBS: &str = "blobs";
const SNAPSHOTS: &str = "snap.";

/// The directory of the generation that counts, in the catalog's directory.
///
/// # Errors
/// Where the file that tells it does not read, or tells none.
pub(super) fn current(catalog: &Path) -> Result<PathBuf, String> {
    let path = catalog.join(CURRENT);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(catalog.to_owned()),
        Err(error) => Err(format!("{} does not read: {error}", path.display())),
        Ok(text) => {
            let name = text.trim_end();
            let dir = catalog.join(name);
            match number(name) {
                Some(_) if dir.is_dir() => Ok(dir),
                _ => Err(format!("{} names no generation of the catalog", path.display())),
            }
        }
    }
}

/// Makes an empty directory for the generation after `before`.
///
/// # Errors
/// Where the disk refuses.
pub(super) fn begin(catalog: &Path, before: &Path) -> Result<PathBuf, StoreError> {
    let last = before.file_name().and_then(|name| number(name.to_str()?)).unwrap_or(1);
    let dir = catalog.join(format!("g{}", last + 1));
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(StoreError::file("remove", &dir)(error)),
        _ => {}
    }
    let made = DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(StoreError::file("create", &dir))?;
    Ok(dir)
}

/// Waits until the disk has all files of a generation, and makes it the one that counts.
///
/// # Errors
/// Where the disk refuses; the one before counts then, or none was needed.
pub(super) fn make_current(catalog: &Path, dir: &Path) -> Result<(), StoreError> {
    sync_all(dir)?;
    let (path, new) = (catalog.join(CURRENT), catalog.join("current.new"));
    let name = dir.file_name().unwrap_or_default().as_encoded_bytes();
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(name)?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.map_err(StoreError::file("write", &new))?;
    fs::rename(&new, &path).map_err(StoreError::file("replace", &path))?;
    sync(catalog)
}

/// Waits until the disk has all files of a generation.
///
/// # Errors
/// Where the disk refuses.
pub(super) fn sync_all(dir: &Path) -> Result<(), StoreError> {
    for file in files(dir) {
        sync(&file)?;
    }
    sync(&dir.join(BLOBS))?;
    sync(dir)
}

/// Removes what is of other generations than the one in `dir`, as far as the disk lets it.
pub(super) fn remove_others(catalog: &Path, dir: &Path) {
    let keep = dir.file_name();
    for entry in fs::read_dir(catalog).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let removed = if number(&text).is_some() && Some(name.as_os_str()) != keep {
            fs::remove_dir_all(entry.path())
        } else if dir == catalog {
            continue;
        } else if text == BLOBS {
            fs::remove_dir_all(entry.path())
        } else if FILES.contains(&&*text) || text.starts_with(SNAPSHOTS) {
            fs::remove_file(entry.path())
        } else {
            continue;
        };
        if let Err(error) = removed {
            tracing::warn!(path = %entry.path().display(), %error, "could not remove what is left of an older catalog");
        }
    }
}

/// Bytes that the catalog's directory takes on the disk, with all generations in it.
pub(super) fn disk_bytes(catalog: &Path) -> u64 {
    let mut sum = 0;
    let mut dirs = vec![catalog.to_owned()];
    while let Some(dir) = dirs.pop() {
        sum += fs::symlink_metadata(&dir).map_or(0, |dir| body_file::disk_bytes(&dir));
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // What has gone since it was listed takes nothing.
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => dirs.push(entry.path()),
                Ok(metadata) => sum += body_file::disk_bytes(&metadata),
                Err(_) => {}
            }
        }
    }
    sum
}

/// The files of a generation.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = [dir.to_owned(), dir.join(BLOBS)];
    let entries = entries.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let files = entries.flatten().map(|entry| entry.path());
    files.filter(|path| path.is_file()).collect()
}

fn sync(path: &Path) -> Result<(), StoreError> {
    match File::open(path).and_then(|file| file.sync_all()) {
        // sled removes blobs and snapshots by itself.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::file("sync", path)(error)),
        _ => Ok(()),
    }
}

/// The number of the generation that a directory is named for.
fn number(name: &str) -> Option<u64> {
    name.strip_prefix('g')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_generation_is_the_one_that_the_file_names() {
        let place = tempfile::tempdir().expect("a directory");
        let catalog = place.path();
        assert_eq!(current(catalog).expect("the first"), catalog);
        let second = begin(catalog, catalog).expect("made");
        assert_eq!(current(catalog).expect("the first still"), catalog);
        for name in ["db", "conf", "snap.01", "other"] {
            fs::write(catalog.join(name), name).expect("written");
        }
        make_current(catalog, &second).expect("current");
        assert_eq!(current(catalog).expect("the second"), second);
        let third = begin(catalog, &second).expect("made");
        assert!(third.ends_with("g3"));
        remove_others(catalog, &second);
        let mut left: Vec<_> = fs::read_dir(catalog)
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["current", "g2", "other"]);
    }

    #[test]
    fn a_file_that_names_no_generation_is_an_error() {
        let place = tempfile::tempdir().expect("a directory");
        for text in ["", "g9", "..", "g../..", "not what sled wrote"] {
            fs::write(place.path().join(CURRENT), text).expect("written");
            let error = current(place.path()).expect_err(text);
            assert!(error.contains("names no generation"), "{error}");
        }
    }
}
