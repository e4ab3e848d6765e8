//! Origin mode: a directory of which we are the authority.
//!
//! ```text
//! path      names: what a request's path means in the tree (pure)
//! tree      the directory: opens beneath its root
//! watching  tells what appears, so that it is summed
//! tags      which bytes a file holds: SHA-256 remembered by stamp; summing reads large ones for them
//! list      what is in a collection, and whether that is all
//! change    put, remove, make, move, copy: wholly or not at all; staging holds what is not whole, locks the paths
//! uploads   bodies that come in several requests
//! access    who may do what: tokens, of which hashes are kept
//! error     what can go wrong
//! ```
//!
//! Nothing here knows HTTP beyond entity tags and conditions; `serve::origin` carries it to clients.

mod access;
mod change;
mod error;
mod list;
mod locks;
mod path;
mod staging;
mod summing;
mod tags;
mod tree;
mod uploads;
mod watching;

pub use access::{Caller, Right, Tokens, new_token};
pub use change::{Changes, Done};
pub use error::OriginError;
pub use list::{Kind, Listing, Member, list};
pub use locks::{Held, Locks};
pub use path::{PathError, TreePath, encode};
pub use staging::{Arrived, Incoming, Staging};
pub use summing::Summing;
pub use tags::{Digest, INLINE_BYTES, Tag, Tags, weak_tag};
pub use tree::{Found, LAST_SECOND, Stamp, Tree, stamp};
pub use uploads::{Record, Turn, Upload, Uploads};
pub use watching::Watching;
