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
//! (commit.rs). Readers have them from memory until then (in_flight.rs). Nothing above this module may
//! assume that a body is a local file: it asks for bytes, is told which are here, and waits for the
//! rest (presence.rs).
//!
//! Its files stand in layers, and each uses only those further down:
//!
//! ```text
//! what a store does     evict purge query recount heal verify streams absent digest reservation
//! store                 store ── open
//! surfaces              sink source watch ── in_flight_write
//! steps of an object    writes commit retract damage
//! object                object ── context
//! parts of an object    presence (progress pass_through preallocate) durability integrity hot_read current_head access_stats
//! what all share        inline_gate sending small_body residency catalog_latency usage_recount
//! values and the disk   record manifest representation sums ── space body catalog layout reading pool error
//! ```

mod absent;
mod access_stats;
mod body;
mod catalog;
mod catalog_latency;
mod commit;
mod context;
mod current_head;
mod damage;
mod digest;
mod durability;
mod error;
mod evict;
mod fault;
mod heal;
mod hot_read;
mod in_flight;
mod in_flight_write;
mod inline_gate;
mod integrity;
mod layout;
mod manifest;
mod object;
mod open;
mod pass_through;
mod pass_through_buffer;
mod pool;
mod preallocate;
mod presence;
mod progress;
mod purge;
mod query;
mod reading;
mod record;
mod recount;
mod recover;
mod representation;
mod reservation;
mod residency;
mod retract;
mod schema;
mod sending;
mod sink;
mod small_body;
mod source;
mod space;
#[expect(
    clippy::module_inception,
    reason = "the store of the store: its other files are named for their parts too"
)]
mod store;
mod streams;
mod sums;
#[cfg(test)]
mod tests;
mod usage_recount;
mod verify;
mod watch;
mod writes;

pub use access_stats::HitCounter;
pub use error::StoreError;
pub use in_flight_write::InFlightWrite;
pub use object::Object;
pub use pass_through::PassThroughReason;
pub use pool::BLOCK_BYTES;
pub use presence::Presence;
pub use progress::{Availability, Broken, WaitingAt};
pub use purge::{PurgeMode, PurgeScope};
pub use query::summary_of;
pub use reading::{read_blocking, read_now};
pub use representation::{Expired, Head, Joined, Representation};
pub use sending::{Sending, send_file_now};
pub use sink::Sink;
pub use small_body::SmallBody;
pub use source::Source;
pub use space::Shortage;
pub use store::{Created, Store, StoreSettings};
pub use streams::StreamRecord;
pub use verify::{Report, verify_offline};
pub use watch::Watch;
