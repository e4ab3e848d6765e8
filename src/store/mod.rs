//! The disk: bodies, and the catalog that says what they hold. sled is seen here only.
//!
//! ```text
//! DIR/lock                            held (flock) by the one process that owns DIR
//! DIR/catalog/                        sled: one record an object, see catalog/; once written anew in g2/, g3/ and so on
//! DIR/objects/ab/<id>-<gen>.body      sparse; written in place
//! DIR/objects/ab/<id>-<gen>.json      manifest: enough to write the record anew
//! DIR/catalog.set-aside-<time>/       a catalog that would not open, kept for inspection
//! ```
//!
//! The order in which bytes become present: write, wake the readers; later fdatasync, record
//! (commit.rs). Readers have them from memory until then (write/unwritten_bytes.rs). Nothing above this module may
//! assume that a body is a local file: it asks for bytes, is told which are here, and waits for the
//! rest (presence.rs).
//!
//! Its rooms:
//!
//! ```text
//! store open_objects   finds, makes and removes objects; those that are open
//! staged               a generation that takes the place of another when it is whole
//! query purge          objects as people are told of them, and removed by order
//! object/              one object: what is here of it, its head, its parts that own their state
//! write/  read/        the way of bytes in, and out; `Sink` and `Source` are all that others see
//! integrity/           checksums, digests, damage
//! space/               quota, reservations, the catalog's reserve, eviction
//! catalog/             records and manifests: what survives this process
//! body_file layout     the files on the disk
//! ```
//!
//! Each file uses only those further down in this order: what a store does (evict, purge, query, recount, heal, verify,
//! streams); the store; sink, source and watch; the steps of an object (body_writes, commit, retract, damage); the object;
//! its parts; gates and caches that all share; values and files (record, manifest, representation, run_checksums).

mod body_file;
mod catalog;
mod context;
mod error;
mod fault;
mod integrity;
mod layout;
mod object;
mod open_objects;
mod purge;
mod query;
mod read;
mod space;
mod staged;
#[expect(
    clippy::module_inception,
    reason = "the store of the store: its other files are named for their parts too"
)]
mod store;
#[cfg(test)]
mod tests;
mod write;

pub use catalog::streams::StreamRecord;
pub use catalog::tree_index::{IndexedCollection, IndexedMember, ListingOrigin, MemberState, MirrorSource};
pub use error::StoreError;
pub use integrity::verify::{Report, verify_offline};
pub use object::Object;
pub use object::access_stats::HitCounter;
pub use object::presence::Presence;
pub use object::progress::{Availability, Broken, WaitingAt};
pub use object::representation::{Expired, Head, Joined, Representation};
pub use purge::{PurgeMode, PurgeScope};
pub use query::{Stored, summary_of};
pub use read::pool::BLOCK_BYTES;
pub use read::pread::{read_blocking, read_now};
pub use read::sendfile::{Sending, send_file_now};
pub use read::small_bodies::SmallBody;
pub use read::source::Source;
pub use read::watch::Watch;
pub use space::quota::{Quota, Shortage};
pub use store::{Created, Store, StoreSettings};
pub use write::in_flight_write::InFlightWrite;
pub use write::pass_through::PassThroughReason;
pub use write::sink::Sink;
