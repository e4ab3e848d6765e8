//! After a crash: what is on the disk is counted, and what no record speaks of is removed.
//!
//! Until that is done the ledger's bound stands for the truth (quota.rs). Objects are counted in the
//! order of their ids, from their records, as they were when this process began: one that changes, comes or
//! goes before it was counted is remembered with what it took then.

use super::quota::Stated;
use super::usage_recount::UsageRecount;
use crate::key::ObjectId;
use crate::store::body_file;
use crate::store::catalog::rebuild;
use crate::store::catalog::record::Record;
use crate::store::error::StoreError;
use crate::store::layout::parse_name;
use crate::store::object::Object;
use crate::store::store::Store;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;

/// Records that are counted before other threads get the lock. A judgement: a thread that opens an object
/// waits for one batch at most.
const BATCH: usize = 256;

/// Whether an object is complete, and its upstream's statement was never compared with it.
fn is_unproven(record: &Record) -> bool {
    let stated = record.representation.header("repr-digest").is_some();
    stated && record.digest.is_none() && record.is_whole()
}

impl Store {
    /// Brings the store in order after a start: writes a lost catalog anew, counts, removes what no record
    /// speaks of, and evicts down to the quota. For a blocking thread; requests are served meanwhile.
    ///
    /// # Errors
    /// Where the catalog or the directory cannot be read.
    pub(in crate::store) fn tidy_up(&self) -> Result<(), StoreError> {
        self.restore_lost()?;
        if self.recount().due {
            // Files without a record are removed before the count states the usage.
            self.remove_strays()?;
            self.count(self.believed)?;
        }
        self.keep_within_bounds()
    }

    /// Counts what is stored. Objects that a crash kept from being compared with the digest that their
    /// upstream has stated are compared now.
    pub(in crate::store) fn count(&self, believed: u64) -> Result<(), StoreError> {
        let mut unproven = Vec::new();
        loop {
            let mut recount = self.recount();
            let records = self.shared.catalog.scan(recount.up_to).take(BATCH);
            let batch: Vec<_> = records.collect::<Result<_, _>>()?;
            // The last batch is empty: all is counted, with what changed meanwhile as it was at the start.
            let Some((last, _)) = batch.last() else {
                let counted = recount.counted + recount.touched.values().sum::<u64>();
                self.shared.space.correct(believed, counted);
                *recount = UsageRecount::new(Stated::Exactly(self.used_bytes()));
                // Comparing reads whole bodies, and opens objects, which touch the count.
                drop(recount);
                tracing::info!(bytes = self.used_bytes(), "counted what is stored");
                return self.prove(&unproven);
            };
            unproven.extend(
                batch
                    .iter()
                    .filter(|(_, record)| is_unproven(record))
                    .map(|(id, _)| *id),
            );
            recount.up_to = Some(*last);
            let untouched = batch.iter().filter(|(id, _)| !recount.touched.contains_key(id));
            let counted: u64 = untouched.map(|(_, record)| record.disk_bytes()).sum();
            recount.counted += counted;
        }
    }

    fn prove(&self, unproven: &[ObjectId]) -> Result<(), StoreError> {
        for id in unproven {
            if let Some(object) = self.load_id(*id)?.filter(|object| object.is_whole()) {
                self.check_statement(&object)?;
            }
        }
        Ok(())
    }

    /// Removes files that a crash left between two steps, and what bodies have beyond their records; returns how many
    /// bytes that has freed. What does not let itself be removed stays until the next start.
    pub(in crate::store) fn remove_strays(&self) -> Result<u64, StoreError> {
        let mut freed = 0;
        for shard in rebuild::shards(&self.layout)? {
            for extension in ["body", "json", "new"] {
                for path in rebuild::files(&shard, extension)? {
                    let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    let bare = path.with_file_name(named.trim_end_matches(".new"));
                    let Some((id, generation)) = parse_name(&bare) else {
                        continue;
                    };
                    // In this turn no file or record is being made for what is not open.
                    let changing = self.open.changing();
                    let is_open =
                        |open: Option<&Arc<Object>>| open.is_some_and(|object| object.generation <= generation);
                    if self.open.look(id, is_open) {
                        continue;
                    }
                    let known = match self.shared.catalog.get(id) {
                        Ok(known) => known.filter(|record| record.generation == generation),
                        Err(StoreError::Damaged { what }) => {
                            tracing::warn!(path = %path.display(), what, "left a file whose record does not read");
                            continue;
                        }
                        // Not being able to look is no reason to remove anything.
                        Err(error) => return Err(error),
                    };
                    let taken = || fs::symlink_metadata(&path).map_or(0, |file| body_file::disk_bytes(&file));
                    let before = taken();
                    if let Some(record) = known.filter(|_| extension != "new") {
                        // No write to it can begin now: the object would have to be opened first.
                        let trimmed = if extension == "body" {
                            self.trim(id, &record)
                        } else {
                            Ok(())
                        };
                        if let Err(error) = trimmed {
                            tracing::warn!(path = %path.display(), %error, "could not look into a body");
                        }
                        freed += before.saturating_sub(taken());
                        continue;
                    }
                    tracing::info!(path = %path.display(), "removing a file that no record speaks of");
                    match fs::remove_file(&path) {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            self.recount().is_exact = false;
                            tracing::warn!(path = %path.display(), %error, "could not remove a file");
                        }
                        _ => freed += before,
                    }
                    drop(changing);
                }
            }
        }
        Ok(freed)
    }
}
