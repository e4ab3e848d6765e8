//! Compares everything that is stored with its checksums, at the operator's word.
//!
//! Objects are compared while they are read and filled, block by block, by the records of the catalog. A block that
//! seems bad is compared again with the object's `recorded` held: what was written or retracted meanwhile is no damage.
//! Without `repair` nothing is changed. With it damaged runs become absent, as at a first read, and blocks that an
//! earlier millpond stored without checksums get them. Bytes without a checksum are told as unchecked, never as good.

use super::run_checksums;
use crate::api::{BadBlock, VerifyEvent, VerifyProgress, VerifySummary};
use crate::clock::SystemClock;
use crate::key::ObjectId;
use crate::ranges::{ByteRange, RangeSet};
use crate::store::error::StoreError;
use crate::store::object::Object;
use crate::store::space::quota::Quota;
use crate::store::store::{Store, StoreSettings};
use std::path::Path;
use std::sync::Arc;

/// Takes what a verification tells; `false` ends it.
pub type Report<'a> = &'a mut dyn FnMut(VerifyEvent) -> bool;

impl Store {
    /// Reads everything that is recorded, or `only` one object, and compares; with `repair` damaged runs
    /// become absent. For a blocking thread.
    ///
    /// # Errors
    /// Where the catalog cannot be read or a repair cannot be recorded.
    pub fn verify(&self, repair: bool, only: Option<ObjectId>, report: Report<'_>) -> Result<(), StoreError> {
        let chosen = |id: ObjectId| only.is_none_or(|only| only == id);
        let mut all = (0, 0);
        for record in self.shared.catalog.scan(None) {
            let (id, record) = record?;
            if chosen(id) {
                all.0 += 1;
                all.1 += record.durable().map_or(0, |durable| durable.total());
            }
        }
        let mut totals = VerifySummary::default();
        for record in self.shared.catalog.scan(None) {
            let id = record?.0;
            if !chosen(id) {
                continue;
            }
            let object = match self.load_id(id) {
                Ok(Some(object)) => object,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%id, %error, "an object does not open");
                    continue;
                }
            };
            if !self.verify_one(&object, repair, all, &mut totals, report)? {
                return Ok(());
            }
            totals.objects += 1;
        }
        self.shared.catalog.flush()?;
        report(VerifyEvent::Verified(totals));
        Ok(())
    }

    fn verify_one(
        &self,
        object: &Arc<Object>,
        repair: bool,
        all: (u64, u64),
        totals: &mut VerifySummary,
        report: Report<'_>,
    ) -> Result<bool, StoreError> {
        let durable = object.durability.recorded().clone();
        for block in run_checksums::blocks_of(&durable) {
            let runs = run_checksums::runs_within(&durable, block);
            let bytes: u64 = runs.iter().map(|run| ByteRange::len(*run)).sum();
            let known = object.known_bytes(block, &runs)?;
            totals.unchecked_bytes += bytes.saturating_sub(known);
            for (bad, what) in object.compare_again(block)? {
                totals.bad_blocks += 1;
                let told = report(VerifyEvent::Bad(BadBlock {
                    id: object.id().to_string(),
                    url: object.url().to_owned(),
                    block,
                    start: bad.start(),
                    end: bad.end(),
                    what: what.clone(),
                }));
                if repair {
                    object.drop_damaged(block, bad, &what);
                    totals.repaired += 1;
                }
                if !told {
                    return Ok(false);
                }
            }
            if repair && known < bytes {
                object.sum_anew(block)?;
            }
            totals.bytes += bytes;
            let going_on = report(VerifyEvent::Progress(VerifyProgress {
                objects_done: totals.objects,
                objects: all.0,
                bytes_done: totals.bytes,
                bytes: all.1,
            }));
            if !going_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Object {
    /// How many bytes of these runs of a block have checksums.
    fn known_bytes(&self, block: u64, runs: &[ByteRange]) -> Result<u64, StoreError> {
        let number = run_checksums::Group::number_of(block);
        let group = self.shared.catalog.sums(self.id, self.generation, number)?;
        // A checksum of a run that reaches beyond what is recorded is skipped.
        let recorded: RangeSet = runs.iter().copied().collect();
        let sums = group.get(block).iter().filter_map(|sum| sum.range(block));
        let known: RangeSet = sums.filter(|run| recorded.covers(*run)).collect();
        Ok(known.total())
    }

    /// Compares a block that is perhaps being filled: a run that changed meanwhile is no damage.
    fn compare_again(&self, block: u64) -> Result<Vec<(ByteRange, String)>, StoreError> {
        let bad = self.compare(block)?;
        if bad.is_empty() {
            return Ok(bad);
        }
        // Nothing is recorded or retracted while this is held.
        let durable = self.durability.recorded();
        let bad = self.compare(block)?;
        Ok(bad.into_iter().filter(|(run, _)| durable.covered(*run) > 0).collect())
    }

    /// Takes checksums of a block that has none, as it is.
    fn sum_anew(&self, block: u64) -> Result<(), StoreError> {
        let durable = self.durability.recorded();
        self.put_sums(&durable, &durable, &[block].into())
    }
}

/// [`Store::verify`] of a data directory that no server uses.
///
/// # Errors
/// As there, and where the directory is in use or does not open.
pub fn verify_offline(dir: &Path, repair: bool, report: &mut dyn FnMut(VerifyEvent)) -> Result<(), StoreError> {
    let settings = StoreSettings {
        dir: dir.to_owned(),
        quota: Quota::None,
        min_free_bytes: Some(0),
    };
    if !dir.is_dir() {
        return Err(StoreError::File {
            action: "find the data directory",
            path: dir.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        });
    }
    let store = Store::open(&settings, Arc::new(SystemClock))?;
    store.restore_lost()?;
    store.verify(repair, None, &mut |check| {
        report(check);
        true
    })?;
    store.flush()
}
