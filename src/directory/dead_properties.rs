//! Dead properties (RFC 4918 §4.2): those that clients set on files and collections; and the times that they set.
//!
//! They lie in one extended attribute of the file, as JSON, so they move and vanish with it, whoever moves it, and a
//! copy gets them too (decision 30). How much fits is up to the file system (ext4: about 4 KiB); one that keeps no
//! such attributes takes no properties.
//!
//! A change of properties changes the file's time of change and none of its bytes, so its digest and tag are carried
//! over to the new stamp.

use super::attributes;
use super::digest_cache::PrereadDigest;
use super::error::DirectoryError;
use super::path::TreePath;
use super::tree::{Found, Stamp, stamp};
use super::tree_writer::{Occupant, TreeWriter};
use crate::header::Preconditions;
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, futimens, getxattr};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The extended attribute that holds them.
const ATTRIBUTE: &str = "user.millpond.properties";

/// The most that is read of it, in bytes: Linux' `XATTR_SIZE_MAX`.
const MAX_BYTES: usize = 64 * 1024;

/// The namespace and the local name of a property.
pub type PropertyName = (String, String);

/// Dead properties, with their values as XML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadProperties(BTreeMap<PropertyName, String>);

/// One change by an instruction of a PROPPATCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyPatch {
    /// Sets a property to that value.
    Set(PropertyName, String),
    /// Removes a property.
    Remove(PropertyName),
    /// Sets the file's time of modification, in seconds since 1970.
    Modified(i64),
}

impl DeadProperties {
    fn read(value: Option<Vec<u8>>) -> Self {
        let listed: Option<Vec<(String, String, String)>> = value.and_then(|value| serde_json::from_slice(&value).ok());
        let listed = listed.unwrap_or_default().into_iter();
        Self(listed.map(|(space, name, value)| ((space, name), value)).collect())
    }

    fn text(&self) -> Vec<u8> {
        let listed: Vec<_> = self
            .0
            .iter()
            .map(|((space, name), value)| (space, name, value))
            .collect();
        serde_json::to_vec(&listed).unwrap_or_default()
    }

    /// The properties of an open file or collection.
    pub fn of(file: impl AsFd) -> Self {
        Self::read(attributes::get_xattr(file, ATTRIBUTE))
    }

    /// The properties of a member of a collection, which is not opened for them.
    pub fn of_member(collection: &OwnedFd, name: &str) -> Self {
        let path = format!("/proc/self/fd/{}/{name}", collection.as_raw_fd());
        let mut space = vec![0; 4096];
        let mut read = getxattr(&path, ATTRIBUTE, &mut space[..]);
        if read == Err(Errno::RANGE) {
            space.resize(MAX_BYTES, 0);
            read = getxattr(&path, ATTRIBUTE, &mut space[..]);
        }
        Self::read(read.ok().map(|length| {
            space.truncate(length);
            space
        }))
    }

    /// The value of a property.
    pub fn get(&self, name: &PropertyName) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names of all properties.
    pub fn names(&self) -> impl Iterator<Item = &PropertyName> {
        self.0.keys()
    }
}

impl TreeWriter {
    /// Carries out the patches in their order, all or none; the caller holds the path's lock.
    ///
    /// # Errors
    /// [`DirectoryError::NoRoom`] where the file system keeps no such attributes, or not as much.
    pub fn patch_properties(
        &self,
        path: &TreePath,
        patches: &[PropertyPatch],
        conditions: &Preconditions,
        preread: &PrereadDigest,
    ) -> Result<(), DirectoryError> {
        if !path.is_root() {
            self.check_writable(path)?;
            let (parent, name) = self.existing_parent_and_name(path)?;
            match self.occupant(&parent, name)? {
                Occupant::Nothing => return Err(DirectoryError::Absent),
                // The link's target has another path, whose lock is not held.
                Occupant::Link(_) => return Err(DirectoryError::Link),
                occupant => self.check_preconditions(path, &occupant, conditions, preread)?,
            }
        }
        match self.tree.find(path)? {
            Found::File(file, _) => self.patch(&file, patches),
            Found::Collection(handle, _) => self.patch(&handle, patches),
        }
    }

    fn patch(&self, file: &impl AsFd, patches: &[PropertyPatch]) -> Result<(), DirectoryError> {
        let before = stamp(file)?;
        let held = self.tags.recall(&before);
        let mut properties = DeadProperties::of(file);
        let old = properties.clone();
        let mut modified = None;
        for patch in patches {
            match patch {
                PropertyPatch::Set(name, value) => drop(properties.0.insert(name.clone(), value.clone())),
                PropertyPatch::Remove(name) => drop(properties.0.remove(name)),
                PropertyPatch::Modified(seconds) => modified = Some(*seconds),
            }
        }
        if properties != old {
            let text = properties.text();
            let value = (!properties.0.is_empty()).then_some(&text[..]);
            attributes::set_xattr(file, ATTRIBUTE, value).map_err(|errno| match errno {
                Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::OPNOTSUPP | Errno::DQUOT => DirectoryError::NoRoom,
                errno => DirectoryError::from_errno("keep a property")(errno),
            })?;
            // The time of modification stands, so no bytes were written in between, and the digest is carried over.
            let now = stamp(file)?;
            let same = |now: &Stamp| (now.size, now.modified) == (before.size, before.modified);
            if let Some(held) = held.filter(|_| same(&now)) {
                self.tags.carry_over(&now, held);
            }
        }
        if let Some(seconds) = modified {
            let times = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: Timespec {
                    tv_sec: seconds,
                    tv_nsec: 0,
                },
            };
            let ready = stamp(file)?;
            let held = self.tags.recall(&ready);
            futimens(file, &times).map_err(DirectoryError::from_errno("set a file's time"))?;
            // Setting the time has changed no bytes.
            let now = stamp(file)?;
            if let Some(held) = held.filter(|_| (now.ino, now.size) == (ready.ino, ready.size)) {
                self.tags.carry_over(&now, held);
            }
        }
        rustix::fs::fsync(file).map_err(DirectoryError::from_errno("write a property to the disk"))
    }
}
