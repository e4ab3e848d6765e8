//! The generations of the catalog's file: which directory holds the one that counts.
//!
//! The first lies in the catalog's directory itself. Each that is written anew (compaction.rs) has a directory of its own
//! within it, `g2`, `g3` and so on, and a file named `current` tells which counts. That file is replaced in one step, after
//! the new generation has reached the disk; the old one goes when that step has too. A crash leaves one that is whole, and
//! what it leaves of another is removed at the next start. Nothing is removed that `current` names.

use crate::store::body_file;
use crate::store::error::StoreError;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CURRENT: &str = "current";

/// The files that sled makes in a directory of its own, but for its snapshots.
const DB: &str = "db";
const FILES: [&str; 2] = [DB, "conf"];
const BLOBS: &str = "blobs";
const SNAPSHOTS: &str = "snap.";

/// A file of the first generation that was written so long after another one came to count is of an older millpond, which
/// knows of no generations: what it has done meanwhile the other does not tell. A judgement: the first is closed within
/// moments, and older versions are started by people.
const WRITTEN_BY_ANOTHER_AFTER: Duration = Duration::from_secs(60);

/// Why it cannot be told which generation counts.
#[derive(Debug)]
pub(super) enum Untold {
    /// The file that tells it is damaged, or tells what is not there.
    Damaged(String),
    /// The disk does not let it be read, which says nothing of the catalog.
    Refused(StoreError),
}

/// The directory of the generation that counts, in the catalog's directory.
///
/// # Errors
/// Where the file that tells it does not read, or tells none.
pub(super) fn current(catalog: &Path) -> Result<PathBuf, Untold> {
    let path = catalog.join(CURRENT);
    let refused = |path: &Path, error| Untold::Refused(StoreError::file("read", path)(error));
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return first(catalog),
        Err(error) => return Err(refused(&path, error)),
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
    };
    let names_none = || Untold::Damaged(format!("{} names no generation of the catalog", path.display()));
    let name = text.trim_end();
    number(name).ok_or_else(names_none)?;
    let dir = catalog.join(name);
    match fs::metadata(&dir) {
        Ok(there) if there.is_dir() => {}
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(refused(&dir, error)),
        _ => return Err(names_none()),
    }
    let written = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    if let (Some(counts), Some(first)) = (written(&path), written(&catalog.join(DB)))
        && first > counts + WRITTEN_BY_ANOTHER_AFTER
    {
        let what = "an older millpond has written a catalog beside the one that counts";
        return Err(Untold::Damaged(what.to_owned()));
    }
    Ok(dir)
}

/// The first generation, where no file tells of others.
fn first(catalog: &Path) -> Result<PathBuf, Untold> {
    match !catalog.join(DB).exists() && !numbers(catalog).is_empty() {
        true => Err(Untold::Damaged(
            "no file tells which generation of the catalog counts".to_owned(),
        )),
        false => Ok(catalog.to_owned()),
    }
}

/// Makes an empty directory for another generation, after all that are there.
///
/// # Errors
/// Where the disk refuses.
pub(super) fn begin(catalog: &Path) -> Result<PathBuf, StoreError> {
    let last = numbers(catalog).into_iter().max().unwrap_or(1);
    let dir = catalog.join(format!("g{}", last + 1));
    let made = DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(StoreError::file("create", &dir))?;
    Ok(dir)
}

/// The catalog's directory, which the disk is still to be told of: opened before another generation came to count, so that
/// it needs no descriptor afterwards.
#[derive(Debug)]
pub(super) struct Unsettled(File);

impl Unsettled {
    /// Waits until the disk knows which generation counts.
    ///
    /// # Errors
    /// Where the disk refuses. The one before must stay then: after a failure of the machine it may count again.
    pub(super) fn settle(&self, catalog: &Path) -> Result<(), StoreError> {
        self.0.sync_all().map_err(StoreError::file("sync", catalog))
    }
}

/// Waits until the disk has all files of a generation, and makes it the one that counts.
///
/// # Errors
/// Where the disk refuses; the one before counts then.
pub(super) fn make_current(catalog: &Path, dir: &Path) -> Result<Unsettled, StoreError> {
    sync_all(dir)?;
    let unsettled = Unsettled(File::open(catalog).map_err(StoreError::file("open", catalog))?);
    let (path, new) = (catalog.join(CURRENT), catalog.join("current.new"));
    let name = dir.file_name().unwrap_or_default().as_encoded_bytes();
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(name)?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.map_err(StoreError::file("write", &new))?;
    // From here on it counts: nothing behind this may say that it does not.
    fs::rename(&new, &path).map_err(StoreError::file("replace", &path))?;
    Ok(unsettled)
}

/// Waits until the disk has all files of a generation.
///
/// # Errors
/// Where the disk refuses.
pub(super) fn sync_all(dir: &Path) -> Result<(), StoreError> {
    for file in files(dir)? {
        sync(&file)?;
    }
    sync(&dir.join(BLOBS))?;
    sync(dir)
}

/// Removes what is of other generations than the one in `dir`, as far as the disk lets it; nothing where that is not the one
/// that counts.
pub(super) fn remove_others(catalog: &Path, dir: &Path) {
    if !current(catalog).is_ok_and(|current| current == dir) {
        return;
    }
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
            // A file that has gone since it was listed takes nothing.
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
fn files(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for dir in [dir.to_owned(), dir.join(BLOBS)] {
        for entry in fs::read_dir(&dir).map_err(StoreError::file("list", &dir))? {
            files.push(entry.map_err(StoreError::file("list", &dir))?.path());
        }
    }
    files.retain(|path| path.is_file());
    Ok(files)
}

/// The numbers of the generations that have a directory of their own.
fn numbers(catalog: &Path) -> Vec<u64> {
    let entries = fs::read_dir(catalog).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| number(entry.file_name().to_str()?))
        .collect()
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

    /// Another generation, with the directory that sled makes in it.
    fn begun(catalog: &Path) -> PathBuf {
        let dir = begin(catalog).expect("made");
        fs::create_dir(dir.join(BLOBS)).expect("made");
        dir
    }

    #[test]
    fn the_current_generation_is_the_one_that_the_file_names() {
        let place = tempfile::tempdir().expect("a directory");
        let catalog = place.path();
        assert_eq!(current(catalog).expect("the first"), catalog);
        for name in ["db", "conf", "snap.01", "other"] {
            fs::write(catalog.join(name), name).expect("written");
        }
        let second = begun(catalog);
        assert_eq!(current(catalog).expect("the first still"), catalog);
        make_current(catalog, &second).expect("current");
        assert_eq!(current(catalog).expect("the second"), second);
        let third = begun(catalog);
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
    fn a_generation_that_counts_is_neither_removed_nor_begun_again() {
        let place = tempfile::tempdir().expect("a directory");
        let catalog = place.path();
        fs::write(catalog.join("db"), "the first").expect("written");
        let second = begun(catalog);
        fs::write(second.join("db"), "all").expect("written");
        make_current(catalog, &second).expect("current");
        // As where the disk failed behind the rename: the one before goes on in memory.
        remove_others(catalog, catalog);
        assert_eq!(current(catalog).expect("the second"), second);
        assert!(begun(catalog).ends_with("g3"));
        assert_eq!(fs::read(second.join("db")).expect("there"), b"all");
    }

    #[test]
    fn a_file_that_names_no_generation_is_an_error() {
        let place = tempfile::tempdir().expect("a directory");
        for text in ["", "g9", "..", "g../..", "not what sled wrote"] {
            fs::write(place.path().join(CURRENT), text).expect("written");
            let error = current(place.path()).expect_err(text);
            assert!(
                matches!(&error, Untold::Damaged(what) if what.contains("names no generation")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_disk_that_does_not_let_the_file_be_read_is_no_damage() {
        let place = tempfile::tempdir().expect("a directory");
        fs::create_dir(place.path().join(CURRENT)).expect("made");
        assert!(matches!(current(place.path()), Err(Untold::Refused(_))));
    }

    #[test]
    fn a_catalog_that_an_older_millpond_has_written_meanwhile_is_seen() {
        let place = tempfile::tempdir().expect("a directory");
        let catalog = place.path();
        let second = begun(catalog);
        make_current(catalog, &second).expect("current");
        let db = File::create(catalog.join("db")).expect("made");
        assert_eq!(current(catalog).expect("what a crash left"), second);
        let counts = catalog.join(CURRENT).metadata().and_then(|file| file.modified());
        let later = counts.expect("told") + 2 * WRITTEN_BY_ANOTHER_AFTER;
        db.set_modified(later).expect("set");
        assert!(matches!(current(catalog), Err(Untold::Damaged(_))));
        // Without the file that tells, none of several can be told to count.
        fs::remove_file(catalog.join("db")).expect("removed");
        fs::remove_file(catalog.join(CURRENT)).expect("removed");
        assert!(matches!(current(catalog), Err(Untold::Damaged(_))));
    }
}
