//! Objects and totals as people and programs are told of them: a page of the list, one object, the store in sum.
//!
//! An object that is open knows more than its record, so it is asked first. A list fails while the catalog does not name
//! all that is stored: one that ends early would say that there is no more.

use super::catalog::record::Record;
use super::error::StoreError;
use super::object::Object;
use super::object::representation::Joined;
use super::store::Store;
use crate::api::{JoinState, ObjectState, ObjectSummary, Stats};
use crate::key::ObjectId;
use crate::ranges::RangeSet;
use std::sync::Arc;

/// How an object is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// All of its bytes are here.
    pub is_whole: bool,
    /// Evictions pass it over.
    pub is_pinned: bool,
}

impl Store {
    /// Up to `limit` objects in the order of their ids, after `after`, whose URLs begin with `prefix`: for a
    /// blocking thread.
    ///
    /// # Errors
    /// Where the catalog cannot be read: a list that ends there would say that there is no more.
    pub fn list(&self, after: Option<ObjectId>, limit: usize, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError> {
        self.knows_all()?;
        let records = self.shared.catalog.scan(after);
        records
            .filter(|record| {
                record
                    .as_ref()
                    .map_or(true, |(_, record)| record.url.starts_with(prefix))
            })
            .take(limit)
            .map(|record| record.map(|(id, record)| self.summary(id, record)))
            .collect()
    }

    /// The summary of one object.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub fn show(&self, id: ObjectId) -> Result<Option<ObjectSummary>, StoreError> {
        if self.is_restoring() {
            // While the catalog is being rebuilt an object may be known by its manifest alone.
            self.load_id(id)?;
        }
        Ok(self.shared.catalog.get(id)?.map(|record| self.summary(id, record)))
    }

    /// How the object of that id is stored, without opening it: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub fn peek(&self, id: ObjectId) -> Result<Option<Stored>, StoreError> {
        if let Some(object) = self.open.get(id) {
            return Ok(Some(Stored {
                is_whole: object.is_whole() && !object.head().is_bare_response(),
                is_pinned: object.is_pinned(),
            }));
        }
        let record = self.shared.catalog.get(id)?;
        Ok(record.map(|record| Stored {
            is_whole: record.is_whole() && record.representation.status == 200,
            is_pinned: record.pinned,
        }))
    }

    /// Fails while the catalog does not name all that is stored.
    pub(super) fn knows_all(&self) -> Result<(), StoreError> {
        match (self.has_catalog(), self.is_restoring()) {
            (false, _) => Err(StoreError::NoCatalog),
            (true, true) => Err(StoreError::Restoring),
            (true, false) => Ok(()),
        }
    }

    /// All objects in sum, and the store's own counters: for a blocking thread, since each object is looked at. What
    /// others count is left at 0.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub fn totals(&self) -> Result<Stats, StoreError> {
        self.knows_all()?;
        let mut sums = Stats {
            disk_bytes: self.used_bytes(),
            quota_bytes: self.shared.space.quota(),
            reserved_bytes: self.shared.space.reserve(),
            free_bytes: self.room(),
            evicted: self.evicted(),
            punched_bytes: self.punched_bytes(),
            bad_blocks: self.bad_blocks(),
            ..Stats::default()
        };
        for record in self.shared.catalog.scan(None) {
            let (id, record) = record?;
            let line = self.summary(id, record);
            let whole = line.state != ObjectState::Incomplete;
            sums.objects += 1;
            sums.complete += u64::from(whole);
            sums.incomplete += u64::from(!whole);
            sums.pinned += u64::from(line.pinned);
            sums.present_bytes += line.present_bytes;
        }
        Ok(sums)
    }

    /// Whether other objects are stored under the same URL.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn has_variants(&self, id: ObjectId) -> Result<bool, StoreError> {
        let object = self.load_id(id)?;
        Ok(object.is_some_and(|object| !object.head().representation().selected_by.is_empty()))
    }

    /// The open object knows more than its record: bytes that are present but not yet durable.
    fn summary(&self, id: ObjectId, record: Record) -> ObjectSummary {
        if let Some(object) = self.open.get(id) {
            return summary_of(&object);
        }
        let present = record.durable().unwrap_or_default();
        let whole = record.complete_length == Some(present.total());
        ObjectSummary {
            id: id.to_string(),
            state: match (whole, record.unverified) {
                (false, _) => ObjectState::Incomplete,
                (true, false) => ObjectState::Complete,
                (true, true) => ObjectState::Unverified,
            },
            complete_length: record.complete_length,
            present: pairs(&present),
            present_bytes: present.total(),
            disk_bytes: record.disk_bytes(),
            etag: record.representation.validators.etag.clone().unwrap_or_default(),
            joined: record.representation.joined.into(),
            created: record.created,
            last_used: record.last_used,
            hits: record.hits,
            pinned: record.pinned,
            url: record.url,
            more: serde_json::Map::new(),
        }
    }
}

/// The line of an open object.
pub fn summary_of(object: &Arc<Object>) -> ObjectSummary {
    let present = object.presence.present();
    ObjectSummary {
        id: object.id().to_string(),
        url: object.url().to_owned(),
        state: object.presence.state(),
        complete_length: object.length(),
        present: pairs(&present),
        present_bytes: present.total(),
        disk_bytes: object.disk_bytes(),
        etag: object.etag().to_string(),
        joined: object.head().representation().joined.into(),
        created: object.created,
        last_used: object.last_used(),
        hits: object.access.hits(),
        pinned: object.is_pinned(),
        more: serde_json::Map::new(),
    }
}

impl From<Joined> for JoinState {
    fn from(joined: Joined) -> Self {
        match joined {
            Joined::Proven => Self::Proven,
            Joined::Compared => Self::Compared,
            Joined::Distrusted => Self::Distrusted,
        }
    }
}

fn pairs(set: &RangeSet) -> Vec<[u64; 2]> {
    set.iter().map(|run| [run.start(), run.end()]).collect()
}
