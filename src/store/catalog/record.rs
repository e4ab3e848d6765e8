//! The record of an object in the catalog: `[version byte] + postcard`.
//!
//! A released version is frozen: a change of shape is a new struct, a new version byte and a new
//! numbered step in `migrations/`.

use crate::header::{Validators, text_of};
use crate::ranges::{self, RangeSet};
use crate::store::StoreError;
use crate::store::object::representation::{Expired, Joined, Representation};
use crate::store::space::quota::{PAGE_BYTES, pages_of};
use serde::{Deserialize, Serialize};

/// The version that is written, the first byte of a record. Versions 1 to 4 are read still, and frozen below.
const VERSION: u8 = 5;

/// The catalog's knowledge of one object; times are whole seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Record {
    pub(in crate::store) url: String,
    pub(in crate::store) generation: u64,
    pub(in crate::store) complete_length: Option<u64>,
    pub(in crate::store) unverified: bool,
    pub(in crate::store) representation: Representation,
    /// Durable bytes, as `ranges::encode` writes them.
    pub(in crate::store) present: Vec<u64>,
    pub(in crate::store) created: u64,
    pub(in crate::store) validated: u64,
    pub(in crate::store) last_used: u64,
    pub(in crate::store) hits: u64,
    pub(in crate::store) pinned: bool,
    /// The SHA-256 of the complete representation, where it has been computed.
    pub(in crate::store) digest: Option<[u8; 32]>,
    /// Disk space of the manifest, in bytes.
    pub(in crate::store) manifest_bytes: u64,
}

/// The representation in records of version 3. Its texts of field values were UTF-8, where other bytes had been left out.
#[derive(Debug, Deserialize)]
struct Representation3 {
    status: u16,
    complete_length: Option<u64>,
    validators: Validators,
    headers: Vec<(String, String)>,
    ranges: bool,
    age: u64,
    selected_by: Vec<(String, String)>,
    expired: Expired,
    invalidated: u32,
    variant: Option<String>,
}

impl From<Representation3> for Representation {
    fn from(old: Representation3) -> Self {
        Self {
            status: old.status,
            complete_length: old.complete_length,
            validators: old.validators,
            headers: from_utf_8(old.headers),
            ranges: old.ranges,
            age: old.age,
            selected_by: from_utf_8(old.selected_by),
            expired: old.expired,
            invalidated: old.invalidated,
            variant: old.variant,
            gives_parts: old.ranges,
            joined: Joined::Proven,
            is_guarded: false,
        }
    }
}

/// The representation in records of version 4.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct Representation4 {
    status: u16,
    complete_length: Option<u64>,
    validators: Validators,
    headers: Vec<(String, String)>,
    ranges: bool,
    age: u64,
    selected_by: Vec<(String, String)>,
    expired: Expired,
    invalidated: u32,
    variant: Option<String>,
    gives_parts: bool,
    joined: Joined,
}

impl From<Representation4> for Representation {
    fn from(old: Representation4) -> Self {
        Self {
            status: old.status,
            complete_length: old.complete_length,
            validators: old.validators,
            headers: old.headers,
            ranges: old.ranges,
            age: old.age,
            selected_by: old.selected_by,
            expired: old.expired,
            invalidated: old.invalidated,
            variant: old.variant,
            gives_parts: old.gives_parts,
            joined: old.joined,
            is_guarded: false,
        }
    }
}

/// Fields whose values were texts in UTF-8, as `header::text_of` has them.
pub(in crate::store) fn from_utf_8(fields: Vec<(String, String)>) -> Vec<(String, String)> {
    let value = |value: String| match value.is_ascii() {
        true => value,
        false => text_of(value.as_bytes()),
    };
    fields.into_iter().map(|(name, text)| (name, value(text))).collect()
}

/// Version 4: without a word on whom it was fetched for.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct Record4 {
    url: String,
    generation: u64,
    complete_length: Option<u64>,
    unverified: bool,
    representation: Representation4,
    present: Vec<u64>,
    created: u64,
    validated: u64,
    last_used: u64,
    hits: u64,
    pinned: bool,
    digest: Option<[u8; 32]>,
    manifest_bytes: u64,
}

impl From<Record4> for Record {
    fn from(old: Record4) -> Self {
        Self {
            url: old.url,
            generation: old.generation,
            complete_length: old.complete_length,
            unverified: old.unverified,
            representation: old.representation.into(),
            present: old.present,
            created: old.created,
            validated: old.validated,
            last_used: old.last_used,
            hits: old.hits,
            pinned: old.pinned,
            digest: old.digest,
            manifest_bytes: old.manifest_bytes,
        }
    }
}

/// Version 3: without what is known of the upstream's parts, and of how the bytes were joined.
#[derive(Debug, Deserialize)]
struct Record3 {
    url: String,
    generation: u64,
    complete_length: Option<u64>,
    unverified: bool,
    representation: Representation3,
    present: Vec<u64>,
    created: u64,
    validated: u64,
    last_used: u64,
    hits: u64,
    pinned: bool,
    digest: Option<[u8; 32]>,
    manifest_bytes: u64,
}

impl From<Record3> for Record {
    fn from(old: Record3) -> Self {
        Self {
            url: old.url,
            generation: old.generation,
            complete_length: old.complete_length,
            unverified: old.unverified,
            representation: old.representation.into(),
            present: old.present,
            created: old.created,
            validated: old.validated,
            last_used: old.last_used,
            hits: old.hits,
            pinned: old.pinned,
            digest: old.digest,
            manifest_bytes: old.manifest_bytes,
        }
    }
}

/// The representation in records of versions 1 and 2: only replies with status 200 or 206 were kept.
#[derive(Debug, Deserialize)]
struct Representation2 {
    complete_length: Option<u64>,
    validators: Validators,
    headers: Vec<(String, String)>,
    ranges: bool,
}

impl From<Representation2> for Representation {
    fn from(old: Representation2) -> Self {
        Self {
            complete_length: old.complete_length,
            validators: old.validators,
            headers: from_utf_8(old.headers),
            ranges: old.ranges,
            gives_parts: old.ranges,
            ..Self::default()
        }
    }
}

/// Version 2: without a status, an age and variants.
#[derive(Debug, Deserialize)]
struct Record2 {
    url: String,
    generation: u64,
    complete_length: Option<u64>,
    unverified: bool,
    representation: Representation2,
    present: Vec<u64>,
    created: u64,
    validated: u64,
    last_used: u64,
    hits: u64,
    pinned: bool,
    digest: Option<[u8; 32]>,
    manifest_bytes: u64,
}

/// Version 1: without a digest too, and with manifests of a page at most.
#[derive(Debug, Deserialize)]
struct Record1 {
    url: String,
    generation: u64,
    complete_length: Option<u64>,
    unverified: bool,
    representation: Representation2,
    present: Vec<u64>,
    created: u64,
    validated: u64,
    last_used: u64,
    hits: u64,
    pinned: bool,
}

impl From<Record2> for Record {
    fn from(old: Record2) -> Self {
        Self {
            url: old.url,
            generation: old.generation,
            complete_length: old.complete_length,
            unverified: old.unverified,
            representation: old.representation.into(),
            present: old.present,
            created: old.created,
            validated: old.validated,
            last_used: old.last_used,
            hits: old.hits,
            pinned: old.pinned,
            digest: old.digest,
            manifest_bytes: old.manifest_bytes,
        }
    }
}

impl From<Record1> for Record {
    fn from(old: Record1) -> Self {
        Self {
            url: old.url,
            generation: old.generation,
            complete_length: old.complete_length,
            unverified: old.unverified,
            representation: old.representation.into(),
            present: old.present,
            created: old.created,
            validated: old.validated,
            last_used: old.last_used,
            hits: old.hits,
            pinned: old.pinned,
            digest: None,
            manifest_bytes: PAGE_BYTES,
        }
    }
}

impl Record {
    /// The bytes that it says are on the disk.
    pub(in crate::store) fn durable(&self) -> Result<RangeSet, StoreError> {
        ranges::decode(&self.present).map_err(|error| StoreError::Damaged {
            what: error.to_string(),
        })
    }

    /// Whether it says that all of the object is stored.
    pub(in crate::store) fn is_whole(&self) -> bool {
        self.durable()
            .is_ok_and(|durable| self.complete_length == Some(durable.total()))
    }

    /// Disk space of the object, in bytes.
    pub(in crate::store) fn disk_bytes(&self) -> u64 {
        self.durable().map_or(0, |durable| pages_of(&durable).total()) + self.manifest_bytes
    }

    pub(in crate::store) fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        postcard::to_extend(self, vec![VERSION]).map_err(|error| StoreError::Damaged {
            what: format!("the record of {} does not encode: {error}", self.url),
        })
    }

    pub(in crate::store) fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = |what: String| StoreError::Damaged { what };
        let undecodable = |error: postcard::Error| damaged(format!("it does not decode: {error}"));
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(undecodable),
            Some((4, rest)) => postcard::from_bytes::<Record4>(rest)
                .map(Self::from)
                .map_err(undecodable),
            Some((3, rest)) => postcard::from_bytes::<Record3>(rest)
                .map(Self::from)
                .map_err(undecodable),
            Some((2, rest)) => postcard::from_bytes::<Record2>(rest)
                .map(Self::from)
                .map_err(undecodable),
            Some((1, rest)) => postcard::from_bytes::<Record1>(rest)
                .map(Self::from)
                .map_err(undecodable),
            Some((version, _)) => Err(damaged(format!("unknown version {version}"))),
            None => Err(damaged("it is empty".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as version 4 had it.
    fn record_of_version_4() -> Record4 {
        Record4 {
            url: "http://h/film".to_owned(),
            generation: 7,
            complete_length: Some(10),
            unverified: false,
            representation: Representation4 {
                status: 200,
                complete_length: Some(10),
                validators: Validators::default(),
                headers: vec![("content-type".to_owned(), "video/mp4".to_owned())],
                ranges: true,
                age: 1,
                selected_by: Vec::new(),
                expired: Expired::No,
                invalidated: 2,
                variant: Some("v".to_owned()),
                gives_parts: true,
                joined: Joined::Proven,
            },
            present: vec![0, 10],
            created: 1,
            validated: 2,
            last_used: 3,
            hits: 4,
            pinned: true,
            digest: Some([9; 32]),
            manifest_bytes: 5,
        }
    }

    #[test]
    fn a_record_of_version_4_is_read_and_guards_nothing() {
        let old = record_of_version_4();
        let bytes = postcard::to_extend(&old, vec![4]).expect("encoded");
        let read = Record::from_bytes(&bytes).expect("read");
        assert_eq!(read, Record::from(old));
        assert!(!read.representation.is_guarded && read.pinned && read.hits == 4);
        let guarded = Record {
            representation: Representation {
                is_guarded: true,
                ..read.representation.clone()
            },
            ..read
        };
        let again = Record::from_bytes(&guarded.to_bytes().expect("encoded")).expect("read");
        assert_eq!(again, guarded);
    }

    #[test]
    fn fuzzed_records_are_refused_or_read_and_written_the_same() {
        let old = record_of_version_4();
        let bytes = postcard::to_extend(&old, vec![4]).expect("encoded");
        let seeds = [Record::from(old).to_bytes().expect("encoded"), bytes];
        crate::fuzzing::fuzz_from("record", &seeds, |bytes| {
            if let Ok(record) = Record::from_bytes(bytes) {
                let _ = (record.disk_bytes(), record.is_whole());
                let again = Record::from_bytes(&record.to_bytes().expect("encoded"));
                assert_eq!(again.expect("read"), record);
            }
        });
    }
}
