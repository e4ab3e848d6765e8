//! The tree index: mirrored collections, each as its last complete listing had it.
//!
//! ```text
//! [1] upstream path            header of a collection: when it was listed, from whom, by which walk
//! [2] digest number            its members, a thousand to a value, in the order of their names
//! [3] upstream path            how the mirror of that path stands, and the report of its last walk
//! ```
//!
//! `upstream` is the digest of its URL, 16 bytes; `path` the path beneath it, in the one spelling that we print; `digest` that of
//! both. A collection is written whole in one step of sled's, so no crash leaves half of a listing: by its silence that
//! would say that names are gone. An unchanged collection costs its header.
//!
//! Values are `[version byte] + postcard`; a version is frozen once it was released.

use super::Catalog;
use super::changes::entry_bytes;
use super::trees::CatalogTree;
use crate::store::error::StoreError;
use crate::store::store::Store;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of all values.
const VERSION: u8 = 1;

/// The first byte of a key says of what kind its value is: numbers that are written on disks, and stay.
const HEADER: u8 = 1;
/// As [`HEADER`].
const MEMBERS: u8 = 2;
/// As [`HEADER`].
const MIRROR: u8 = 3;

/// The members in one value: a judgement. Some 80 bytes each, so a value is written and read in one piece of the log.
const MEMBERS_TOGETHER: usize = 1000;

/// The digest of the URL of an upstream that is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MirrorSource(pub [u8; 16]);

/// A mirrored collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedCollection {
    /// When it was listed, and by whom.
    pub listed: ListingOrigin,
    /// The members, in the order of their names' bytes.
    pub members: Vec<IndexedMember>,
}

/// The origin of a collection's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingOrigin {
    /// Under which conditions it was listed: absence is compared only between listings of one fingerprint.
    pub fingerprint: [u8; 16],
    /// The time of the last complete listing, in seconds since 1970.
    pub as_of: u64,
    /// The number of the walk that has been through all of its members.
    pub walk: u64,
    /// The entity tag of the listing.
    pub tag: Option<String>,
    /// The upstream has refused to list it since then (401, 403).
    pub is_refused: bool,
}

/// A member of a mirrored collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedMember {
    /// The name, decoded.
    pub name: String,
    /// Whether the member is a collection, not a file.
    pub is_collection: bool,
    /// The length in bytes that the listing told.
    pub size: Option<u64>,
    /// The time of change that the listing told, in nanoseconds since 1970.
    pub modified: Option<i64>,
    /// The entity tag that the listing told.
    pub tag: Option<String>,
    /// How it stands.
    pub state: MemberState,
}

/// How a member of a mirrored collection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Listed; whether what is stored is it the upstream is still to be asked.
    Listed,
    /// Fetched or validated when it was listed as it is.
    Current,
    /// Listed, and not kept here: by a filter, its size, or its depth.
    LeftOut,
    /// Listed under other conditions, and is not under these: served, and not removed for that.
    Unlisted,
    /// Missing in complete listings, and served all the same.
    Suspect {
        /// In how many, as far as they count.
        absences: u32,
        /// Since when, in seconds since 1970.
        since: u64,
        /// The time of the last that counted.
        counted: u64,
    },
    /// Gone: not served, and its bytes are removed some time after.
    Removed {
        /// Since when, in seconds since 1970.
        at: u64,
    },
}

impl IndexedMember {
    /// Whether it is still served: listed, or not believed to be gone.
    pub fn is_served(&self) -> bool {
        !matches!(self.state, MemberState::Removed { .. })
    }
}

/// The header of a collection, as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    listed: ListingOrigin,
    /// How many values its members are in.
    values: u32,
}

impl Store {
    /// The collection at the path beneath the upstream: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses, or what it has does not decode.
    pub fn collection(&self, source: MirrorSource, path: &str) -> Result<Option<IndexedCollection>, StoreError> {
        let catalog = &self.shared.catalog;
        let Some(header) = catalog.value::<Header>(&key(HEADER, source, path))? else {
            return Ok(None);
        };
        let mut members = Vec::new();
        for number in 0..header.values {
            let chunk: Option<Vec<IndexedMember>> = catalog.value(&members_key(source, path, number))?;
            members.extend(chunk.ok_or_else(|| damaged("members of a mirrored collection are missing"))?);
        }
        Ok(Some(IndexedCollection {
            listed: header.listed,
            members,
        }))
    }

    /// When and by whom the collection was listed, without its members: for a blocking thread.
    ///
    /// # Errors
    /// As [`Store::collection`].
    pub fn listing_origin(&self, source: MirrorSource, path: &str) -> Result<Option<ListingOrigin>, StoreError> {
        let header = self.shared.catalog.value::<Header>(&key(HEADER, source, path))?;
        Ok(header.map(|header| header.listed))
    }

    /// Writes the collection in the place of what was there: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses; what was there is there then.
    pub fn put_collection(
        &self,
        source: MirrorSource,
        path: &str,
        collection: &IndexedCollection,
    ) -> Result<(), StoreError> {
        let catalog = &self.shared.catalog;
        let before = catalog.value::<Header>(&key(HEADER, source, path))?;
        let mut changes = Vec::new();
        let mut values = 0;
        for chunk in collection.members.chunks(MEMBERS_TOGETHER) {
            changes.push((members_key(source, path, values), Some(encoded(&chunk)?)));
            values += 1;
        }
        for number in values..before.map_or(0, |before| before.values) {
            changes.push((members_key(source, path, number), None));
        }
        let header = Header {
            listed: collection.listed.clone(),
            values,
        };
        changes.push((key(HEADER, source, path), Some(encoded(&header)?)));
        catalog.change_index(changes)
    }

    /// Writes anew when and by whom the collection was listed, whose members stay: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses, or the collection is not there.
    pub fn put_listing_origin(
        &self,
        source: MirrorSource,
        path: &str,
        listed: &ListingOrigin,
    ) -> Result<(), StoreError> {
        let (catalog, key) = (&self.shared.catalog, key(HEADER, source, path));
        let header = catalog.value::<Header>(&key)?;
        let header = header.ok_or_else(|| damaged("the mirrored collection is not there"))?;
        let header = Header {
            listed: listed.clone(),
            ..header
        };
        catalog.change_index(vec![(key, Some(encoded(&header)?))])
    }

    /// Forgets a collection: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn forget_collection(&self, source: MirrorSource, path: &str) -> Result<(), StoreError> {
        let (catalog, header_key) = (&self.shared.catalog, key(HEADER, source, path));
        let Some(header) = catalog.value::<Header>(&header_key)? else {
            return Ok(());
        };
        let mut changes: Vec<_> = (0..header.values)
            .map(|number| (members_key(source, path, number), None))
            .collect();
        changes.push((header_key, None));
        catalog.change_index(changes)
    }

    /// The paths of up to `count` collections at the path and beneath it, from the first after `after`, in the order of
    /// their bytes: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn collections(
        &self,
        source: MirrorSource,
        path: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<String>, StoreError> {
        let prefix = key(HEADER, source, path);
        let from = after.map_or_else(
            || prefix.clone(),
            |after| [&key(HEADER, source, after)[..], &[0]].concat(),
        );
        self.shared.catalog.with("read", |trees| {
            let found = trees.index.range(from..).keys();
            let mut paths = Vec::new();
            for found in found.take(count) {
                let found = found?;
                if !found.starts_with(&prefix) {
                    break;
                }
                paths.push(String::from_utf8_lossy(&found[17..]).into_owned());
            }
            Ok(paths)
        })
    }

    /// The state that was written down of the mirror of that path: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses, or what it has does not decode.
    pub fn mirror_state<T: DeserializeOwned>(&self, source: MirrorSource, path: &str) -> Result<Option<T>, StoreError> {
        self.shared.catalog.value(&key(MIRROR, source, path))
    }

    /// Writes down how the mirror of that path stands: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn put_mirror_state<T: Serialize>(
        &self,
        source: MirrorSource,
        path: &str,
        state: &T,
    ) -> Result<(), StoreError> {
        let change = (key(MIRROR, source, path), Some(encoded(state)?));
        self.shared.catalog.change_index(vec![change])
    }
}

impl Catalog {
    fn value<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let found = self.with("read", |trees| trees.index.get(key))?;
        let Some(bytes) = found else { return Ok(None) };
        let decoded = match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).ok(),
            _ => None,
        };
        decoded
            .map(Some)
            .ok_or_else(|| damaged("a value of the tree index does not decode"))
    }

    /// Makes these changes in one step.
    fn change_index(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let bytes = changes
            .iter()
            .map(|(key, value)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64)
            .sum();
        self.keep("write", bytes, CatalogTree::Index, |index, keys| {
            let (mut batch, mut more) = (sled::Batch::default(), 0);
            for (key, value) in changes {
                more -= index.get(&key)?.map_or(0, |before| entry_bytes(&key, &before));
                keys.push(key.as_slice().into());
                match value {
                    Some(value) => {
                        more += entry_bytes(&key, &value);
                        batch.insert(key, value);
                    }
                    None => batch.remove(key),
                }
            }
            index.apply_batch(batch)?;
            Ok(((), more))
        })
    }
}

fn encoded<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(value, vec![VERSION]).map_err(|error| StoreError::Damaged {
        what: format!("a value of the tree index does not encode: {error}"),
    })
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged { what: what.to_owned() }
}

fn key(kind: u8, source: MirrorSource, path: &str) -> Vec<u8> {
    [&[kind], &source.0[..], path.as_bytes()].concat()
}

fn members_key(source: MirrorSource, path: &str, number: u32) -> Vec<u8> {
    let digest = blake3::hash(&key(MEMBERS, source, path));
    [&[MEMBERS], &digest.as_bytes()[..16], &number.to_be_bytes()].concat()
}
