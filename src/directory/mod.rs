//! Origin mode: a directory of which we are the authority.
//!
//! ```text
//! path        names: what a request's path means in the tree (pure)
//! tree        the directory: opens beneath its root; mounts lists what is mounted in it, identity tells it from another
//! watching    tells what appears, so that it is summed
//! tags        which bytes a file holds: SHA-256 remembered by stamp; summing reads large ones for them
//! list        what is in a collection, and whether that is all
//! change      put, remove, make, move: wholly or not at all; evaluation of conditions before, placing as the last step,
//!             attributes and properties beside the bytes; locks the paths
//! copying     copies, placed by replacing; moving: the removal of what was copied elsewhere (census tells whether it has changed)
//! staging     what is not whole; aside: what was taken out of the tree, for good or not (gone)
//! uploads     bodies that come in several requests
//! access      who may do what: tokens, of which hashes are kept
//! error       what can go wrong
//! ```
//!
//! Nothing here knows HTTP beyond entity tags and conditions; `webdav` carries it to clients.

mod access;
mod aside;
mod attributes;
mod census;
mod change;
mod copying;
mod error;
mod evaluation;
mod gone;
mod identity;
mod list;
mod locks;
mod mounts;
mod moving;
mod path;
mod placing;
mod properties;
mod replacing;
mod staging;
mod summing;
mod tags;
mod tree;
mod uploads;
mod watching;

pub use access::{Caller, Right, Tokens, new_token};
pub use census::Census;
pub use change::{Changes, Done, Loss};
pub use copying::{Copied, Copying};
pub use error::OriginError;
pub use evaluation::Evidence;
pub use gone::{Gone, Kept, Made};
pub use identity::Identity;
pub use list::{Fingerprint, Member, MemberKind, Names, member};
pub use locks::{HeldLocks, Locks};
pub use mounts::{MountPoint, Mounts};
pub use moving::{EntryState, Original, Removed};
pub use path::{PathError, TreePath, encode};
pub use properties::{Patch, Properties, PropertyName};
pub use replacing::Displaced;
pub use staging::{Arrived, Incoming, Staging};
pub use summing::Summing;
pub use tags::{Digest, INLINE_BYTES, Tag, Tags, sum, weak_tag};
pub use tree::{Crossing, Found, LAST_SECOND, MAX_CROSSED, Stamp, Tree, remembered_stamp, stamp};
pub use uploads::{Turn, Upload, UploadRecord, Uploads};
pub use watching::Watching;
