//! The store while its catalog cannot be used, and when it is open again.
//!
//! A catalog that has failed has forgotten what it had not written out (catalog/mod.rs). Open objects know themselves,
//! complete ones are told by their manifests, and what no record names then could neither be found nor evicted: it goes.

use super::manifest::Manifest;
use super::rebuild;
use crate::clock::Instant;
use crate::store::body_file;
use crate::store::catalog::Healed;
use crate::store::error::StoreError;
use crate::store::layout::parse_name;
use crate::store::object::Object;
use crate::store::open_objects::Taken;
use crate::store::store::Store;
use crate::sync::lock;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Work of a start that failed is tried again this often. A judgement: it reads every directory of bodies, and what
/// made it fail is a disk that seldom mends within seconds.
const TIDY_EVERY: Duration = Duration::from_secs(30);

impl Store {
    /// Brings the store in order after a start, while requests are served, and looks after the catalog: one
    /// that failed is opened again, and told what was learnt meanwhile. For a blocking thread, to be called
    /// at the start and then every second or so.
    pub fn look_after(&self) {
        self.open.look_for_idle();
        if !self.has_catalog() {
            // Until it has been told, what it does not name may be stored all the same.
            self.restoring.store(true, Ordering::Release);
            self.make_catalog_room();
        }
        let mut tidy_at = lock(&self.tidy_at);
        match self.shared.catalog.heal(self.shared.space.free()) {
            Healed::No => {}
            healed => match self.tell_catalog(healed) {
                Ok(()) => {}
                Err(error) if error.is_of_catalog() => {
                    tracing::warn!(%error, "could not tell the catalog everything: it is opened once more");
                    self.shared.catalog.close();
                }
                Err(error) => {
                    tracing::warn!(%error, "could not bring the store in order: it is tried again");
                    *tidy_at = Some(Instant::now() + TIDY_EVERY);
                }
            },
        }
        if self.has_catalog() && tidy_at.is_some_and(|at| at <= Instant::now()) {
            *tidy_at = self.tidy_up().err().map(|error| {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "could not bring the store in order: it is tried again");
                Instant::now() + TIDY_EVERY
            });
        } else if self.has_catalog()
            && let Err(error) = self.keep_within_bounds()
        {
            tracing::warn!(%error, "could not keep the store within its bounds");
        }
    }

    fn make_catalog_room(&self) {
        let wanted = self.shared.catalog.healing_room();
        if let Some(missing) = self.shared.space.free().and_then(|free| wanted.checked_sub(free))
            && let Err(error) = self.evict_files(missing)
        {
            tracing::warn!(%error, "could not make room for the catalog");
        }
    }

    /// Tells a catalog that is open again what it has not written out, and what came meanwhile.
    fn tell_catalog(&self, healed: Healed) -> Result<(), StoreError> {
        self.restoring.store(true, Ordering::Release);
        // Records that were lost with the failure may have stated other sizes.
        self.recount().is_exact = false;
        // A copy: what is removed while the catalog is told is added behind, and told the next time.
        let untold = self.untold().clone();
        for (id, generation) in &untold {
            self.shared.catalog.remove(*id, *generation)?;
            self.shared.catalog.remove_sums(*id, *generation)?;
        }
        for object in &self.open.all() {
            match object.record_use().and_then(|()| object.commit()) {
                Err(error) if error.is_of_catalog() => return Err(error),
                Err(error) => tracing::warn!(url = object.url(), %error, "could not record an object"),
                Ok(()) => {}
            }
        }
        // Open objects first, then manifests: an open one knows more than its manifest does.
        self.restore_lost()?;
        for object in &self.open.all() {
            self.supersede(object)?;
        }
        let freed = self.remove_strays()?;
        match healed {
            Healed::BegunAnew => self.begin_recount()?,
            // The count that is to come says what there is without it.
            _ if self.recount().due => {}
            _ => self.shared.space.release(freed),
        }
        self.shared.catalog.flush()?;
        self.untold().drain(..untold.len());
        Ok(())
    }

    /// An object that was made while the catalog could not tell of the one before it takes its place now.
    fn supersede(&self, object: &Object) -> Result<(), StoreError> {
        let _changing = self.open.changing();
        if let Some(before) = self.shared.catalog.get(object.id())?
            && before.generation < object.generation
            && !object.is_discarded()
        {
            object.set_pinned(object.is_pinned() || before.pinned);
            self.shared.catalog.remove(object.id(), before.generation)?;
        }
        Ok(())
    }

    /// Counts what is stored where others have removed files.
    fn begin_recount(&self) -> Result<(), StoreError> {
        // No object comes, goes or is opened between the two sums.
        let _changing = self.open.changing();
        let believed = self.used_bytes();
        let mut closed = 0;
        for record in self.shared.catalog.scan(None) {
            let (id, record) = record?;
            closed += self
                .open
                .look(id, |open| open.map_or_else(|| record.disk_bytes(), |_| 0));
        }
        let held: u64 = self.open.all().iter().map(|object| object.disk_bytes()).sum();
        self.shared.space.correct(believed, closed + held);
        self.recount().counted_nearly();
        Ok(())
    }

    /// Evicts without a catalog, which needs room to be opened again: whatever lies there and is neither in
    /// use nor pinned, until `wanted` bytes are free. What went is told to the catalog when it is back.
    pub(in crate::store) fn evict_files(&self, wanted: u64) -> Result<(), StoreError> {
        let mut freed = 0;
        'room: for shard in rebuild::shards(&self.layout)? {
            for path in rebuild::files(&shard, "body")? {
                if freed >= wanted {
                    break 'room;
                }
                freed += self.evict_file(&path);
            }
        }
        tracing::info!(freed, wanted, "evicted for the catalog's room");
        Ok(())
    }

    /// Evicts the object of a body, where it may go; returns the bytes that it took.
    fn evict_file(&self, path: &Path) -> u64 {
        let Some((id, generation)) = parse_name(path) else {
            return 0;
        };
        let changing = self.open.changing();
        if self
            .open
            .look(id, |open| open.is_some_and(|object| object.generation == generation))
        {
            let Taken::Idle(object) = changing.take_idle(id) else {
                return 0;
            };
            drop(changing);
            let bytes = object.disk_bytes();
            self.discard(&object);
            self.remove_files(id, generation);
            self.untold().push((id, generation));
            return bytes;
        }
        let manifest = path.with_extension("json");
        let pinned = Manifest::read(&manifest).is_ok_and(|manifest| manifest.pinned);
        let Some(taken) = fs::metadata(path).ok().filter(|_| !pinned) else {
            return 0;
        };
        let bytes = body_file::disk_bytes(&taken)
            + fs::metadata(manifest).map_or(0, |manifest| body_file::disk_bytes(&manifest));
        self.recount().touch(id, bytes);
        self.remove_files(id, generation);
        self.shared.space.release(bytes);
        self.untold().push((id, generation));
        bytes
    }
}
