//! What can go wrong on the disk, named by operation and object.

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
        /// What the lock file says of its owner.
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
    /// The catalog failed.
    #[error("could not {action} the catalog")]
    Catalog {
        /// The operation, as a verb.
        action: &'static str,
        /// sled's reason.
        source: sled::Error,
    },
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
        /// What does not fit.
        what: String,
    },
}

impl StoreError {
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
