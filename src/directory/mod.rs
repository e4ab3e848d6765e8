//! A directory of which we are the authority: reading it, changing it, and what is remembered of it.
//!
//! ```text
//! names      path               a request's path as names in the tree (pure)
//! reading    tree               opens files and collections beneath the root; root_identity tells the root from another directory
//!            mounts             the file systems that are mounted in it, and the permits of those who wait for one
//!            members            the members of a collection, and whether the listing is complete
//! digests    digest_cache       digests (sha256) by stamp, and the choice of a file's entity tag (etag)
//!            digest_queue       threads that hash large files; watcher tells them what appears
//! changing   tree_writer        PUT, DELETE, MKCOL, MOVE: each happens wholly or not at all
//!            locks              the critical section of a path or a mount; preconditions are evaluated in it
//!            staging            bodies until they are whole (staged_body); uploads: those that come in several requests
//!            atomic_rename      the last step, with what the file system offers; replacement: the same with a way back
//!            removal            entries taken out of the tree, with notes; trash: what lies there; recovery: what a start
//!                               does with all that
//!            copy               COPY; cross_device_move: MOVE to another file system; collection_checksum: whether a
//!                               collection has changed in between
//!            attributes         owner, rights and extended attributes; dead_properties lie in one of these
//! error                         what can go wrong, as the operating system or a precondition tells it
//! ```
//!
//! Nothing here knows HTTP beyond entity tags and preconditions; `webdav` carries it to clients. Every function may wait
//! for the disk: callers run them on threads for that.

mod atomic_rename;
mod attributes;
mod collection_checksum;
mod copy;
mod cross_device_move;
mod dead_properties;
mod digest_cache;
mod digest_queue;
mod error;
mod etag;
mod fixed_bytes;
mod locks;
mod members;
mod mounts;
mod path;
mod preconditions;
mod random_name;
mod recovery;
mod removal;
mod replacement;
mod root_identity;
mod sha256;
mod staged_body;
mod staging;
mod trash;
mod tree;
mod tree_writer;
mod uploads;
mod watcher;

pub use collection_checksum::CollectionChecksum;
pub use copy::{CopyMode, StagedCopy};
pub use cross_device_move::{SourceOutcome, SourceRemoval, SourceState};
pub use dead_properties::{DeadProperties, PropertyName, PropertyPatch};
pub use digest_cache::{DigestCache, INLINE_BYTES, PrereadDigest};
pub use digest_queue::DigestQueue;
pub use error::DirectoryError;
pub use etag::{Tag, weak_tag};
pub use fixed_bytes::has_fixed_bytes;
pub use locks::{HeldLocks, Locks};
pub use members::{ListingDigest, Member, MemberKind, MemberNames, member};
pub use mounts::{MountPoint, Mounts};
pub use path::{PathError, TreePath, encode_segment};
pub use replacement::Replacement;
pub use root_identity::RootIdentity;
pub use sha256::{Digest, sha256_of};
pub use staging::{IncomingBody, ReceivedBody, Staging};
pub use trash::{Backup, StagedEntry, Trash};
pub use tree::{AllowedMounts, Found, LAST_SECOND, MAX_LINKED_MOUNTS, Stamp, Tree, cached_stamp, stamp};
pub use tree_writer::{Loss, TreeWriter, WriteOutcome};
pub use uploads::{Upload, UploadLease, UploadRecord, Uploads};
pub use watcher::DirectoryWatcher;
