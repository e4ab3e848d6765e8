//! Writing the catalog anew: what is live goes into a new file, and the old one goes with all that sled has not freed.
//!
//! It is read and changed meanwhile. What was changed is noted by its key and copied again, in rounds, since each round has
//! less to do; the last one, of a few keys, alone holds changes up. Then the new generation counts (generations.rs). Where
//! the disk refuses before that, or the machine fails, the old one counts as if nothing had begun; where it refuses
//! afterwards, the old one stays beside the new until the disk knows which counts.

use super::changes::ChangedKeys;
use super::trees::{ALL, Trees};
use super::{Catalog, generations};
use crate::store::error::StoreError;
use crate::store::fault;
use crate::sync::{lock, write};
use std::path::Path;

/// Keys that are copied while changes wait. A judgement: some milliseconds; a busy catalog may not come below it, so the
/// rounds have an end too.
const KEYS_IN_LAST_ROUND: usize = 64;
const MOST_ROUNDS: u32 = 4;

/// The outcome of writing the catalog anew.
#[derive(Debug)]
enum Outcome {
    /// Another generation counts now.
    Done,
    /// The live records are too much for another file beside the old one.
    TooLarge(u64),
    /// The catalog failed or was closed meanwhile.
    Closed,
}

impl Catalog {
    /// Writes the catalog anew and says so to its size: for the thread that was told to.
    pub(in crate::store) fn compact(&self) {
        let mut attempt = Attempt {
            catalog: self,
            is_done: false,
        };
        let outcome = self.write_anew();
        match &outcome {
            Ok(Outcome::Done) => tracing::info!("wrote the catalog anew, since its log had grown"),
            Ok(Outcome::TooLarge(live)) => {
                tracing::info!(
                    live,
                    "the catalog has no room to be written anew until objects have gone"
                );
            }
            Ok(Outcome::Closed) => {}
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "could not write the catalog anew: it goes on as it is");
            }
        }
        attempt.is_done = matches!(outcome, Ok(Outcome::Done));
    }

    /// Removes what the generation that counts has replaced, when the disk knows that it counts.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let mut unsettled = lock(&self.unsettled);
        let Some(switched) = &*unsettled else { return Ok(()) };
        switched.settle(&self.path)?;
        *unsettled = None;
        if let Some(trees) = self.trees() {
            generations::remove_others(&self.path, &trees.dir);
        }
        Ok(())
    }

    fn write_anew(&self) -> Result<Outcome, StoreError> {
        // No other thread opens or closes it for good meanwhile.
        let _health = lock(&self.health);
        self.settle()?;
        let Some(old) = self.trees() else {
            return Ok(Outcome::Closed);
        };
        let before = ALL
            .iter()
            .map(|tree| live_bytes(old.tree(*tree)))
            .sum::<sled::Result<u64>>();
        let before = before.map_err(StoreError::catalog("read"))?;
        if !self.size.counted(before) {
            return Ok(Outcome::TooLarge(before));
        }
        let dir = generations::begin(&self.path)?;
        fault::point("compaction-begun");
        let done = self.copy_and_switch(&old, &dir);
        let old_dir = old.dir.clone();
        drop(old);
        match &done {
            Ok(Outcome::Done) => {
                if let Err(error) = self.settle() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "the catalog that was replaced stays until the disk knows of the new one"
                    );
                }
            }
            // An unfinished one goes.
            _ => generations::remove_others(&self.path, &old_dir),
        }
        done
    }

    fn copy_and_switch(&self, old: &Trees, dir: &Path) -> Result<Outcome, StoreError> {
        let new = Trees::open_at(dir).map_err(|failure| StoreError::Damaged {
            what: format!("a new catalog does not open: {failure:?}"),
        })?;
        *lock(&self.changed) = Some(ChangedKeys::new());
        let failed = StoreError::catalog;
        for tree in ALL {
            for entry in old.tree(tree).iter() {
                let (key, value) = entry.map_err(failed("read"))?;
                new.tree(tree).insert(key, value).map_err(failed("write"))?;
            }
        }
        for _ in 0..MOST_ROUNDS {
            let keys = lock(&self.changed).replace(ChangedKeys::new()).unwrap_or_default();
            let is_last = keys.len() <= KEYS_IN_LAST_ROUND;
            copy_again(old, &new, &keys).map_err(failed("write"))?;
            if is_last {
                break;
            }
        }
        new.db.flush().map_err(failed("flush"))?;
        // The bulk of it is on the disk before changes are held up.
        generations::sync_all(dir)?;
        fault::point("compaction-copied");
        let changes = write(&self.changes);
        let keys = lock(&self.changed).take().unwrap_or_default();
        copy_again(old, &new, &keys).map_err(failed("write"))?;
        new.db.flush().map_err(failed("flush"))?;
        if !self.is_open() {
            return Ok(Outcome::Closed);
        }
        *lock(&self.unsettled) = Some(generations::make_current(&self.path, dir)?);
        fault::point("compaction-current");
        // One that has failed meanwhile, and was closed, is opened anew by who looks after it: it is the new one then.
        let replaced = match &mut *write(&self.trees) {
            Some(trees) => std::mem::replace(trees, new),
            None => new,
        };
        drop(changes);
        drop(replaced);
        Ok(Outcome::Done)
    }
}

/// An attempt to write the catalog anew: its end is told, also where sled panics.
struct Attempt<'a> {
    catalog: &'a Catalog,
    is_done: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // Nothing is noted any more.
        *lock(&self.catalog.changed) = None;
        self.catalog.size.ended(self.is_done);
    }
}

/// Copies what stands under these keys now.
fn copy_again(old: &Trees, new: &Trees, keys: &ChangedKeys) -> sled::Result<()> {
    for (tree, key) in keys {
        match old.tree(*tree).get(key)? {
            Some(value) => new.tree(*tree).insert(key, value)?,
            None => new.tree(*tree).remove(key)?,
        };
    }
    Ok(())
}

/// Bytes of all keys and values.
fn live_bytes(tree: &sled::Tree) -> sled::Result<u64> {
    tree.iter()
        .map(|entry| entry.map(|(key, value)| (key.len() + value.len()) as u64))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;
    use crate::key::ObjectId;
    use crate::store::tests::{close, film, key, open};
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use tempfile::TempDir;

    /// All that is in a catalog.
    fn content(catalog: &Catalog) -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
        let trees = catalog.trees().expect("open");
        let entries = ALL.iter().zip(0..).flat_map(|(tree, number)| {
            let entries = trees.tree(*tree).iter().map(Result::unwrap);
            entries.map(move |(key, value)| ((number, key.to_vec()), value.to_vec()))
        });
        entries.collect()
    }

    fn record_of(catalog: &Catalog) -> (ObjectId, Record) {
        catalog.scan(None).next().expect("one").expect("readable")
    }

    #[test]
    fn changes_made_while_the_catalog_is_written_anew_are_in_the_new_one() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        drop(film(&store, 1, 1000, 1000));
        let catalog = &store.shared.catalog;
        let (_, record) = record_of(catalog);
        let over = AtomicBool::new(false);
        let models: Vec<BTreeMap<ObjectId, u64>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..4u64)
                .map(|writer| {
                    let (record, over) = (record.clone(), &over);
                    scope.spawn(move || {
                        let mut model = BTreeMap::new();
                        let mut round = 0;
                        while !over.load(Ordering::Acquire) {
                            round += 1;
                            let id = key(100 + writer * 1000 + round % 400).id();
                            if round % 3 == 0 {
                                if let Some(generation) = model.remove(&id) {
                                    catalog.remove(id, generation).expect("removed");
                                }
                            } else {
                                let record = Record {
                                    generation: round,
                                    ..record.clone()
                                };
                                catalog.put(id, &record).expect("written");
                                model.insert(id, round);
                            }
                        }
                        model
                    })
                })
                .collect();
            for _ in 0..8 {
                assert!(matches!(catalog.write_anew(), Ok(Outcome::Done)));
            }
            over.store(true, Ordering::Release);
            writers
                .into_iter()
                .map(|writer| writer.join().expect("ended"))
                .collect()
        });
        let expected: BTreeMap<ObjectId, u64> = models.into_iter().flatten().collect();
        let mut found: BTreeMap<ObjectId, u64> = catalog
            .scan(None)
            .map(|entry| entry.expect("readable"))
            .map(|(id, record)| (id, record.generation))
            .collect();
        found.remove(&key(1).id()).expect("the film");
        assert_eq!(found, expected);
        let trees = catalog.trees().expect("open");
        assert!(trees.dir.ends_with("g9"), "{:?}", trees.dir);
        let left = std::fs::read_dir(dir.path().join("catalog")).expect("listed");
        assert_eq!(left.count(), 2, "the file that names it, and the last one");
    }

    #[test]
    fn a_catalog_written_anew_is_found_by_the_next_start_and_the_old_one_without_it() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        drop(film(&store, 1, 1000, 1000));
        let catalog = &store.shared.catalog;
        assert!(matches!(catalog.write_anew(), Ok(Outcome::Done)));
        let before = content(catalog);
        // As a death before the new one counts leaves it.
        let old = catalog.trees().expect("open");
        let unfinished = generations::begin(&catalog.path).expect("made");
        drop(Trees::open_at(&unfinished).expect("opened"));
        drop(old);
        close(store, true);
        let store = open(dir.path());
        let catalog = &store.shared.catalog;
        assert_eq!(content(catalog), before);
        assert!(!unfinished.exists());
        assert!(store.load(&key(1)).expect("readable").is_some());
    }
}
