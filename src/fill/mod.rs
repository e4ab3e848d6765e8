//! Fills: bringing bytes in, once, where a reader waits.
//!
//! An owner task per object (owner/) holds the state of its fill; readers are cursors over the object (reader/) and
//! never talk to a session. What to ask for is decided by a pure function (plan/); another classifies the replies
//! (fetch/classify_reply.rs). A session (fetch/) is one exchange; its task moves bytes from the upstream to the store and
//! knows nothing else. All of a fill runs on one thread (runtimes.rs). The registry (registry.rs) makes sure that there is
//! one owner per object, however many readers come. What owner and readers share is cut by who writes it (state.rs): what
//! readers tell (reader/readers.rs), the URLs that may be asked (fetch/targets.rs), and what the owner says (snapshot.rs).
//! When a failure is retried, and when a fill gives up, is in owner/retry.rs.
//!
//! ```text
//! reader ──join──► registry ──► owner ──plan──► session ──► upstream
//!    ▲                            ▲                │
//!    └── woken by store::object::presence │◄── events ─────┘──► store::write::commit
//! ```
//!
//! Every exchange waits for its turn in the budget of its upstream (fetch/ask.rs). What readers want now and
//! soon is gathered in owner/demand.rs; why one waits is told by reader/wait_reason.rs. Where the disk has no room for
//! more, plan/retention.rs takes what was watched, and fetch/session.rs forwards what it cannot store.
//!
//! What one exchange brings is one representation, whatever its validator. Bytes of another are joined under a strong one
//! anywhere, under a weak tag and an old date where they agree with the last that are here, and else never: a reader that is
//! far from the fill of such an object gets an exchange of its own (docs/decisions/0022).
//!
//! A reader that leaves stops nobody: the fill goes on as `after_last_reader` says.

mod asker;
mod context;
mod disk;
mod fetch;
mod hit_for_miss;
mod join_request;
mod owner;
mod patron;
mod phase;
mod plan;
mod purge;
mod reader;
mod registry;
mod relay;
mod runtimes;
mod settings;
mod snapshot;
mod state;

pub use asker::AskerVerdict;
pub use join_request::JoinRequest;
pub use patron::Patron;
pub use phase::{Moved, Phase, Refusal, Trouble};
pub use purge::Purge;
pub use reader::cursor::Cursor;
pub use registry::Registry;
pub use relay::request_body::{DetachedRequest, RequestBody, Seen, UploadFault};
pub use relay::{RelayError, Relayed, RelayedBody};
pub use runtimes::{FillRuntimes, RunningRuntimes};
pub use settings::{FillSettings, Served};

pub use crate::config::AfterLastReader;
