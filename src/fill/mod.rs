//! Fills: bringing bytes in, once, where a reader waits.
//!
//! An owner task per object (owner/) holds the state of its fill; readers are cursors over the object and
//! never talk to a session. What to ask for is decided by a pure function (plan.rs); another classifies
//! the replies (classify_reply.rs). A session (session.rs) is one exchange; its task moves bytes from the
//! upstream to the store (receive.rs) and knows nothing else; what it has received and not written yet is in write_batch.rs.
//! All of a fill runs on one thread (runtimes.rs). The registry (registry.rs) makes sure that there is one owner per object, however many readers
//! come. What owner and readers share is cut by who writes it (state.rs): what readers tell (readers.rs), the URLs that
//! may be asked (targets.rs), and what the owner says (snapshot.rs).
//!
//! ```text
//! reader ──join──► registry ──► owner ──plan──► session ──► upstream
//!    ▲                            ▲                │
//!    └── woken by store::presence │◄── events ─────┘──► store::commit
//! ```
//!
//! Every exchange waits for its turn in the budget of its upstream (ask.rs). What readers want now and
//! soon is gathered in owner/wishes.rs; why one waits is told by wait_reason.rs. Where the disk has no room for
//! more, retention.rs takes what was watched, and session.rs forwards what it cannot store.
//!
//! What one exchange brings is one representation, whatever its validator. Bytes of another are joined under a strong one
//! anywhere, under a weak tag and an old date where they agree with the last that are here, and else never: a reader that is
//! far from the fill of such an object gets an exchange of its own (docs/decisions/0022).
//!
//! A reader that leaves stops nobody: the fill goes on as `after_last_reader` says.

mod ask;
mod classify_reply;
mod context;
mod cursor;
mod disk;
mod hit_for_miss;
mod owner;
mod phase;
mod plan;
mod position;
mod purge;
mod readers;
mod receive;
mod registry;
mod relay;
mod request_body;
mod retention;
mod runtimes;
mod session;
mod settings;
mod snapshot;
mod state;
mod summary;
mod targets;
mod throughput;
mod wait_reason;
mod want;
mod write_batch;

pub use cursor::Cursor;
pub use phase::{Moved, Phase, Refusal, Trouble};
pub use purge::Purge;
pub use registry::Registry;
pub use relay::Relayed;
pub use request_body::{DetachedRequest, RequestBody, Seen};
pub use runtimes::{FillRuntimes, RunningRuntimes};
pub use settings::{FillSettings, Served};
pub use want::Want;

pub use crate::config::AfterLastReader;
