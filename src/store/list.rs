//! What the store holds, told to people and programs; and what they have removed by URL.

use super::error::StoreError;
use super::index::Store;
use super::object::{Object, ObjectState};
use super::record::Record;
use super::representation::{Expired, Joined, Representation};
use crate::key::ObjectId;
use crate::ranges::RangeSet;
use std::collections::HashSet;
use std::sync::Arc;

/// A line of the list of objects, read from the catalog or from the open object.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Opened {
    /// The digest of the URL, as 32 hexadecimal digits.
    pub id: String,
    /// The canonical URL.
    pub url: String,
    /// How much is here.
    pub state: ObjectState,
    /// The complete length in bytes, where known.
    pub complete_length: Option<u64>,
    /// The bytes that are here, as half-open pairs `[start, end)`.
    pub present: Vec<[u64; 2]>,
    /// How many bytes are here.
    pub present_bytes: u64,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
    /// The tag that clients are given.
    pub etag: String,
    /// How its bytes came together.
    pub joined: Joined,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it last answered a request, in seconds since 1970.
    pub last_used: u64,
    /// How many requests it has answered.
    pub hits: u64,
    /// It is never evicted.
    pub pinned: bool,
}

/// What the store holds, in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sums {
    /// Objects.
    pub objects: u64,
    /// Those of which every byte is here.
    pub complete: u64,
    /// Those of which bytes are missing.
    pub incomplete: u64,
    /// Those that are never evicted.
    pub pinned: u64,
    /// Bytes of all of them that are here.
    pub present_bytes: u64,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Objects.
    pub removed: u64,
    /// What they took on the disk, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Up to `limit` objects in the order of their ids, after `after`, whose URLs begin with `prefix`: for a
    /// blocking thread.
    ///
    /// # Errors
    /// Where the catalog cannot be read: a list that ends there would say that there is no more.
    pub fn list(&self, after: Option<ObjectId>, limit: usize, prefix: &str) -> Result<Vec<Opened>, StoreError> {
        self.knows_all()?;
        let records = self.shared.catalog.scan(after);
        records
            .filter(|record| {
                record
                    .as_ref()
                    .map_or(true, |(_, record)| record.url.starts_with(prefix))
            })
            .take(limit)
            .map(|record| record.map(|(id, record)| self.line(id, record)))
            .collect()
    }

    /// One object of the list.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub fn show(&self, id: ObjectId) -> Result<Option<Opened>, StoreError> {
        if self.is_restoring() {
            // It may be known by its manifest alone.
            self.load_id(id)?;
        }
        Ok(self.shared.catalog.get(id)?.map(|record| self.line(id, record)))
    }

    /// Fails while the catalog does not name all that is stored.
    fn knows_all(&self) -> Result<(), StoreError> {
        match (self.has_catalog(), self.is_restoring()) {
            (false, _) => Err(StoreError::NoCatalog),
            (true, true) => Err(StoreError::Restoring),
            (true, false) => Ok(()),
        }
    }

    /// All objects in sum: for a blocking thread, since each is looked at.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub fn sums(&self) -> Result<Sums, StoreError> {
        self.knows_all()?;
        let mut sums = Sums::default();
        for record in self.shared.catalog.scan(None) {
            let (id, record) = record?;
            let line = self.line(id, record);
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

    /// Removes one object, pinned or not, in use or not: later requests do not find it, attached readers
    /// finish. For a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn purge(&self, id: ObjectId) -> Result<Removed, StoreError> {
        // A body that does not open any more goes as well: it is then forgotten in the opening.
        let Some(object) = self.load_id(id)? else {
            return Ok(Removed::default());
        };
        let bytes = object.disk_bytes();
        self.remove(&object);
        if let Err(error) = self.shared.catalog.flush() {
            // Should the machine fail now, the object would be back.
            tracing::warn!(url = object.url(), %error, "could not write out that an object is gone");
        }
        tracing::info!(url = object.url(), bytes, "purged");
        Ok(Removed { removed: 1, bytes })
    }

    /// Removes all objects that are meant, as [`Store::purge`] does, or expires them. It looks at every record.
    ///
    /// # Errors
    /// Where the catalog refuses; those before it are done then.
    pub fn purge_all(&self, which: &Which, how: How) -> Result<Removed, StoreError> {
        self.knows_all()?;
        let mut all = Removed::default();
        // Those of which nothing is written yet, before those that have a record: none is between the two.
        let meant =
            |object: &&Arc<Object>| !object.is_settled() && which.means(object.url(), object.head().representation());
        let open = self.open.all();
        let unsettled: HashSet<ObjectId> = open.iter().filter(meant).map(|object| object.id()).collect();
        drop(open);
        let recorded = self.shared.catalog.scan(None).filter_map(|record| match record {
            Ok((id, record)) => {
                let is_meant = !unsettled.contains(&id) && which.means(&record.url, &record.representation);
                is_meant.then_some(Ok(id))
            }
            Err(error) => Some(Err(error)),
        });
        for id in unsettled.iter().copied().map(Ok).chain(recorded) {
            let id = id?;
            let one = match how {
                How::Remove => self.purge(id)?,
                How::Expire => self.expire(id, Expired::Stale)?,
            };
            all.removed += one.removed;
            all.bytes += one.bytes;
        }
        Ok(all)
    }

    /// The time of the object is over: it is not used any more without the upstream's word.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn expire(&self, id: ObjectId, why: Expired) -> Result<Removed, StoreError> {
        let Some(object) = self.load_id(id)? else {
            return Ok(Removed::default());
        };
        object.expire(why)?;
        tracing::info!(url = object.url(), "expired");
        Ok(Removed { removed: 1, bytes: 0 })
    }

    /// The open object knows more than its record: bytes that are present but not yet durable.
    fn line(&self, id: ObjectId, record: Record) -> Opened {
        if let Some(object) = self.open.get(id) {
            return line_of(&object);
        }
        let present = record.durable().unwrap_or_default();
        let whole = record.complete_length == Some(present.total());
        Opened {
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
            joined: record.representation.joined,
            created: record.created,
            last_used: record.last_used,
            hits: record.hits,
            pinned: record.pinned,
            url: record.url,
        }
    }
}

/// Which objects are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All under this URL, whatever selects them.
    Url(String),
    /// Those whose URLs begin so.
    Prefix(String),
    /// Those whose upstream has given them this tag, in `Surrogate-Key` or `Cache-Tag`.
    Tag(String),
}

impl Which {
    /// Whether an object is among them.
    pub fn means(&self, url: &str, representation: &Representation) -> bool {
        match self {
            Self::Url(wanted) => url == wanted,
            Self::Prefix(prefix) => url.starts_with(prefix.as_str()),
            Self::Tag(tag) => {
                let tags = |name: &'static str, between: fn(char) -> bool| {
                    let lines = representation.headers.iter().filter(move |(key, _)| key == name);
                    lines.flat_map(move |(_, line)| line.split(between))
                };
                let spaced = tags("surrogate-key", char::is_whitespace);
                let listed = tags("cache-tag", |char| char == ',').map(str::trim);
                spaced.chain(listed).any(|known| known == tag)
            }
        }
    }
}

/// What is done to those who are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// They are removed.
    Remove,
    /// They are stale from now on.
    Expire,
}

/// The line of an open object.
pub fn line_of(object: &Arc<Object>) -> Opened {
    let present = object.present();
    Opened {
        id: object.id().to_string(),
        url: object.url().to_owned(),
        state: object.state(),
        complete_length: object.length(),
        present: pairs(&present),
        present_bytes: present.total(),
        disk_bytes: object.disk_bytes(),
        etag: object.etag().to_string(),
        joined: object.head().representation().joined,
        created: object.created,
        last_used: object.last_used(),
        hits: object.uses.hits(),
        pinned: object.is_pinned(),
    }
}

fn pairs(set: &RangeSet) -> Vec<[u64; 2]> {
    set.iter().map(|run| [run.start(), run.end()]).collect()
}
