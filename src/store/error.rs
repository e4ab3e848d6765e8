//! Errors of the disk, named by operation and object.
//!
//! Each names what was attempted and at what; the operating system's or sled's reason is its `source()`, not part of
//! its text. Two facts are asked by callers: whether room was what was missing, by our limits or by the file system's
//! word, since an eviction may then help; and whether it is the catalog that has failed, since that is opened anew by
//! itself. The texts are for operators and the log: clients see none of the paths in them.

use super::space::quota::{PAGE_BYTES, Shortage};
use crate::ranges::ByteCount;
use std::io;
use std::path::PathBuf;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process owns the data directory.
    #[error(
        "the data directory {dir} is in use by another millpond ({holder}); stop that one, or choose another directory with --data"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The owner, as the lock file names it.
        holder: String,
    },
    /// A file operation failed.
    #[error("could not {action} {path}")]
    File {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A read of a body failed.
    #[error("could not read at {at} of the body of {url}")]
    Read {
        /// The object.
        url: String,
        /// The offset, in bytes.
        at: u64,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A write to a body failed.
    #[error("could not write {count} bytes at {at} of the body of {url}")]
    Write {
        /// The object.
        url: String,
        /// The offset, in bytes.
        at: u64,
        /// How many bytes.
        count: usize,
        /// The operating system's reason.
        source: io::Error,
    },
    /// There is no room for bytes, and nothing that may be evicted for them.
    #[error("no room for {bytes} bytes of {url}: {}", match shortage {
        Shortage::Quota => "all that the quota holds is in use or pinned; raise it with --quota",
        Shortage::Catalog => "the quota's reserve for the catalog is used by objects that are in use or pinned; raise the quota with --quota",
        Shortage::FileSystem => "the file system has no more than what is to be left free (min_free)",
    })]
    NoRoom {
        /// The object.
        url: String,
        /// How many bytes.
        bytes: u64,
        /// The resource that runs short.
        shortage: Shortage,
    },
    /// The catalog failed.
    #[error("could not {action} the catalog")]
    Catalog {
        /// The operation, as a verb.
        action: &'static str,
        /// sled's reason.
        source: sled::Error,
    },
    /// The catalog has failed, and is not open again yet.
    #[error("the catalog is not open: it failed, as the log says, and is opened again when the disk allows")]
    NoCatalog,
    /// The catalog was lost, in whole or in part, and is being written anew.
    #[error("the catalog was lost and is being written anew: it does not name all that is stored yet")]
    Restoring,
    /// The data directory was written by a newer millpond.
    #[error(
        "the catalog has schema {found}, this millpond knows up to {known}; use a newer millpond or another --data directory"
    )]
    NewerSchema {
        /// The version in the catalog.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A record does not decode.
    #[error("a record of the catalog is damaged: {what}")]
    Damaged {
        /// The mismatch, in words.
        what: String,
    },
}

impl StoreError {
    /// Whether it is the catalog that has failed.
    pub(super) fn is_of_catalog(&self) -> bool {
        matches!(self, Self::NoCatalog | Self::Catalog { .. })
    }

    /// How many bytes of room were missing, by our own limits or by the file system's word, where that was
    /// the trouble.
    pub fn missing_bytes(&self) -> Option<ByteCount> {
        let is_full =
            |source: &io::Error| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::NoRoom { bytes, .. } => Some(*bytes),
            Self::Write { count, source, .. } if is_full(source) => Some(*count as u64),
            // A manifest or a new directory: how much it wanted is not known, and a page is what it takes at least.
            Self::File { source, .. } if is_full(source) => Some(PAGE_BYTES),
            _ => None,
        }
    }

    pub(super) fn catalog(action: &'static str) -> impl FnOnce(sled::Error) -> Self {
        move |source| Self::Catalog { action, source }
    }

    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.into(),
            source,
        }
    }
}
