//! The disk: bodies, and the catalog that says what they hold. sled is seen here only.
//!
//! ```text
//! DIR/lock                            held (flock) by the one process that owns DIR
//! DIR/catalog/                        sled: one record an object, see catalog.rs
//! DIR/objects/ab/<id>-<gen>.body      sparse; written in place
//! DIR/objects/ab/<id>-<gen>.json      manifest: enough to write the record anew
//! DIR/catalog.set-aside-<time>/       a catalog that would not open, kept for inspection
//! ```
//!
//! The order in which bytes become present: write, wake the readers; later fdatasync, record
//! (commit.rs). Readers have them from memory until then (handing.rs). Nothing above this module may
//! assume that a body is a local file: it asks for bytes, is told which are here, and waits for the
//! rest (object.rs).

mod absent;
mod ahead;
mod body;
mod catalog;
mod commit;
mod crowd;
mod digest;
mod error;
mod evict;
mod fault;
mod handing;
mod heal;
mod index;
mod kept;
mod layout;
mod list;
mod looks;
mod manifest;
mod object;
mod open;
mod passing;
mod pool;
mod presence;
mod prompt;
mod reading;
mod record;
mod recover;
mod representation;
mod retract;
mod schema;
mod sending;
mod space;
mod stock;
mod streams;
mod sums;
#[cfg(test)]
mod tests;
mod transit;
mod uses;
mod verify;

pub use error::StoreError;
pub use handing::HandedOn;
pub use index::{Created, Store, StoreSettings};
pub use kept::Kept;
pub use list::{How, Opened, Removed, Sums, Which, line_of};
pub use object::{Object, ObjectState};
pub use passing::Passing;
pub use pool::BLOCK_BYTES;
pub use presence::{Broken, Presence, WaitingAt, Watch};
pub use reading::{read_blocking, read_now};
pub use representation::{Expired, Head, Joined, Representation};
pub use space::Shortage;
pub use streams::StreamRecord;
pub use uses::Tally;
pub use verify::{Check, Report, verify_offline};

use std::sync::{TryLockError, TryLockResult};

/// What a lock gives that nobody holds, poisoned or not; `None` where it would have to be waited for.
fn unless_held<T>(tried: TryLockResult<T>) -> Option<T> {
    match tried {
        Ok(held) => Some(held),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
