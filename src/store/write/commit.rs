//! The one order in which bytes become present: take room, write, wake; later sync, record.
//!
//! ```text
//! room ──► write ──► present (memory) ──► wake readers                 every piece, as it arrives
//!                       └── unsynced ──► fdatasync ──► sums ──► record  every few MiB or quarter second
//!                                                               └──► manifest, where the object is complete then
//! ```
//!
//! Readers need not wait for the disk, the record must: recorded before the sync, a power cut would turn zeros into
//! film. A crash in between loses work, never truth. The considerations behind each step:
//!
//! - *Room before the write*: the quota holds at every moment, and a write that finds no room has changed nothing.
//! - *Written before present, present before wakers*: a reader that is woken finds the bytes in the file.
//! - *A copy of the unsynced set before the sync begins*: bytes that land during the sync may be in it or not, so they
//!   wait for the next.
//! - *A failed sync is not tried again*: the kernel may have dropped the pages and call the next sync a success. The
//!   batch is taken away and fetched again.
//! - *Sums before the record*: no record names bytes that nothing can check. Until the record is written the sums of
//!   what was recorded before stay beside the new ones, since a crash may leave either record.
//! - *A record that fails after the sync* loses nothing: the batch is unsynced again, without what was retracted
//!   meanwhile, and the next commit records it.
//! - *The manifest last, once*: it says that all bytes are here, and from it a lost record is written anew. It is taken
//!   back before any of them goes (retract.rs).
//!
//! Sync, sums, record and manifest are made with the object's `recorded` held, so each record follows the one before
//! whole; a piece is written while the object's `io` is shared (body_writes.rs), so no hole is punched beneath it.

use crate::clock::unix_seconds;
use crate::ranges::RangeSet;
use crate::store::catalog::manifest::Manifest;
use crate::store::error::StoreError;
use crate::store::fault;
use crate::store::integrity::run_checksums::{self, Group, Sum};
use crate::store::object::Object;
use crate::store::object::durability::Files;
use crate::store::object::representation::{Expired, Representation};
use std::collections::BTreeSet;
use std::fs;
use std::io;

impl Object {
    /// Makes the files and the record of a new generation, where that is still to be done: a disk that
    /// refused may have come to its senses.
    pub(in crate::store) fn materialize(&self) -> Result<(), StoreError> {
        if self.durability.is_materialized() {
            return Ok(());
        }
        let durable = self.durability.recorded();
        // Another thread may have made them while this one waited for the lock.
        if self.durability.is_materialized() {
            return Ok(());
        }
        let made = self.make_files(&durable);
        match &made {
            Ok(()) => self.durability.set_materialized(true),
            Err(_) => self.durability.release_manifest(&self.shared.space),
        }
        made
    }

    fn make_files(&self, durable: &RangeSet) -> Result<(), StoreError> {
        self.durability.body().ensure()?;
        fault::point("body-created");
        if self.durability.is_discarded() {
            // A discarded object has no name in the directory; its file lasts as long as it is open.
            let path = self.durability.body().path();
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::file("remove", path)(error)),
                _ => Ok(()),
            };
        }
        if self.durability.is_staged() {
            // A record would take the place of the generation that is found until this one is whole.
            return Ok(());
        }
        // The manifest before the record: a record whose manifest is missing could not be written anew if it were lost.
        self.write_manifest(durable)?;
        fault::point("manifest-made");
        self.shared.catalog.admit(self.id, &self.record(durable))?;
        fault::point("record-made");
        Ok(())
    }

    /// Makes what is present durable and records it: for a blocking thread.
    ///
    /// # Errors
    /// Where the disk or the catalog refuses; nothing is then recorded that is not durable.
    pub(in crate::store) fn commit(&self) -> Result<(), StoreError> {
        if !self.durability.is_materialized() {
            return Ok(());
        }
        let mut durable = self.durability.recorded();
        // Taken before the sync: what is written during it may not be part of it.
        let batch = self.presence.take_unsynced();
        if let Err(source) = self.durability.body().sync() {
            // Not tried again: after a failed sync the kernel may have dropped the bytes, and the next
            // sync would say that all is well. They are absent, and fetched again.
            for run in batch.iter() {
                if let Err(error) = self.take_away(&mut durable, run) {
                    tracing::debug!(url = self.url, %error, "could not give back what was not synced");
                }
            }
            return Err(StoreError::File {
                action: "sync",
                path: self.durability.body().path().to_owned(),
                source,
            });
        }
        fault::point("synced");
        if self.durability.is_discarded() || self.durability.is_staged() {
            // No record may follow the one that was removed; the set goes on for the room that is given back at the
            // end.
            durable.union(&batch);
            return Ok(());
        }
        match self.record_batch(&mut durable, &batch) {
            Ok(more) => *durable = more,
            Err(error) => {
                // The batch is durable, but no record says so yet: the next commit records it.
                self.presence.put_back_unsynced(&batch);
                return Err(error);
            }
        }
        if self.is_whole() && self.length() == Some(durable.total()) && !self.durability.has_complete_manifest() {
            match self.write_manifest(&durable) {
                // The manifest is written with the next change; until then the catalog alone knows that the object is whole.
                Err(error) if error.missing_bytes().is_some() => {
                    tracing::warn!(url = self.url, %error, "no room for the manifest of a complete object");
                }
                written => written?,
            }
            fault::point("complete-manifest");
        }
        Ok(())
    }

    /// Publishes a staged generation that is whole: all of it is synced, then recorded in one step, in the place of the
    /// generation that was found until now.
    ///
    /// # Errors
    /// Where the disk or the catalog refuses; the generation before it is found then, as it was.
    pub(in crate::store) fn publish(&self) -> Result<(), StoreError> {
        let mut durable = self.durability.recorded();
        let batch = self.presence.take_unsynced();
        let path = self.durability.body().path();
        self.durability.body().sync().map_err(StoreError::file("sync", path))?;
        durable.union(&batch);
        let all = durable.clone();
        // Sums first, then the record: as for any batch. The manifest comes last, since one of a generation that no record
        // names would have it restored.
        let recorded = self.record_batch(&mut RangeSet::new(), &all)?;
        self.durability.set_staged(false);
        *durable = recorded;
        self.write_manifest(&durable)
    }

    /// Records a batch beside what is recorded, sums first; returns what is recorded then.
    fn record_batch(&self, durable: &mut RangeSet, batch: &RangeSet) -> Result<RangeSet, StoreError> {
        let blocks = run_checksums::blocks_of(batch);
        for block in &blocks {
            // Neighbours of what is new must not be summed anew with a damage in them.
            for (bad, _) in self.bad_runs(*block) {
                self.take_away(durable, bad)?;
            }
        }
        let mut more = durable.clone();
        more.union(batch);
        self.put_sums(durable, &more, &blocks)?;
        fault::point("sums-recorded");
        self.shared.catalog.put(self.id, &self.record(&more))?;
        fault::point("recorded");
        Ok(more)
    }

    /// Stores the sums of all runs of `durable` in these blocks. Those of `recorded` stay beside them: a crash
    /// may come before the record does.
    pub(in crate::store) fn put_sums(
        &self,
        recorded: &RangeSet,
        durable: &RangeSet,
        blocks: &BTreeSet<u64>,
    ) -> Result<(), StoreError> {
        let mut blocks = blocks.iter().copied().peekable();
        while let Some(first) = blocks.peek().copied() {
            let number = Group::number_of(first);
            // Before they change: a comparison would else go by the sums of the opening.
            self.integrity.forget_first_sums();
            let mut group = self.shared.catalog.sums(self.id, self.generation, number)?;
            while let Some(block) = blocks.next_if(|block| Group::number_of(*block) == number) {
                let runs = run_checksums::runs_within(durable, block);
                let mut sums: Vec<Sum> = runs
                    .iter()
                    .filter_map(|run| self.integrity.sum_for(*run, group.get(block), self.durability.body()))
                    .collect();
                let before = run_checksums::runs_within(recorded, block)
                    .into_iter()
                    .filter(|run| !runs.contains(run));
                let before: Vec<Sum> = before
                    .filter_map(|run| run_checksums::known_sum(run, group.get(block)))
                    .collect();
                sums.extend(before);
                group.set(block, sums);
                // A block that is whole and recorded arrives no more; others go on being hashed.
                let all = run_checksums::block_range(block).is_some_and(|all| durable.covers(all));
                if all {
                    self.integrity.forget([block]);
                }
            }
            self.shared.catalog.put_sums(self.id, self.generation, number, &group)?;
        }
        Ok(())
    }

    /// Records that the upstream says this is still its representation, with the fields that stand now and the
    /// age of that word in seconds.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub(in crate::store) fn confirm(&self, headers: Vec<(String, String)>, age: u64) -> Result<(), StoreError> {
        let representation = Representation {
            headers,
            age,
            expired: Expired::No,
            ..self.representation()
        };
        self.set_head(representation, unix_seconds(self.shared.clock.now()));
        self.record_use()
    }

    /// Records that its time is over.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub(in crate::store) fn expire(&self, why: Expired) -> Result<(), StoreError> {
        let now = self.representation();
        let representation = Representation {
            // An invalidated reply stays invalidated until the upstream has validated it.
            expired: if now.expired == Expired::Invalidated {
                now.expired
            } else {
                why
            },
            invalidated: now.invalidated.wrapping_add(u32::from(why == Expired::Invalidated)),
            ..now
        };
        self.set_head(representation, self.validated());
        self.record_use()
    }

    /// Records times, hits and whether the object is pinned.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub(in crate::store) fn record_use(&self) -> Result<(), StoreError> {
        let durable = self.durability.recorded();
        if self.durability.files() != Files::Made {
            return Ok(());
        }
        self.shared.catalog.put(self.id, &self.record(&durable))
    }

    /// Records whether the object is pinned, where a lost catalog would not lose it too.
    pub(in crate::store) fn record_pin(&self) -> Result<(), StoreError> {
        let durable = self.durability.recorded();
        if self.durability.files() != Files::Made {
            return Ok(());
        }
        self.write_manifest(&durable)?;
        self.shared.catalog.put(self.id, &self.record(&durable))
    }

    /// Writes the manifest anew, as things stand.
    pub(in crate::store) fn write_manifest(&self, durable: &RangeSet) -> Result<(), StoreError> {
        let mut manifest = Manifest::new(&self.url, self.generation, &self.representation(), self.created);
        (manifest.complete_length, manifest.unverified) = self.presence.length_and_doubt();
        manifest.validated = self.validated();
        manifest.pinned = self.is_pinned();
        manifest.complete = manifest.complete_length == Some(durable.total());
        if manifest.complete {
            manifest.digest = self.digest();
            manifest.sums = self.all_sums(durable)?;
        }
        let text = manifest.to_text()?;
        self.durability
            .hold_manifest(&self.shared.space, text.len() as u64)
            .map_err(|(missing, shortage)| self.no_room(missing, shortage))?;
        Manifest::write(&self.durability.body().path().with_extension("json"), &text)?;
        self.durability.set_complete_manifest(manifest.complete);
        Ok(())
    }

    fn all_sums(&self, durable: &RangeSet) -> Result<Vec<(u64, Vec<Sum>)>, StoreError> {
        let mut all = Vec::new();
        // One look-up of the catalog for the blocks of a group.
        let mut held = (None, Group::default());
        for block in run_checksums::blocks_of(durable) {
            let number = Group::number_of(block);
            if held.0 != Some(number) {
                held = (
                    Some(number),
                    self.shared.catalog.sums(self.id, self.generation, number)?,
                );
            }
            all.push((block, held.1.get(block).to_vec()));
        }
        Ok(all)
    }
}
