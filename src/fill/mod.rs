//! Fills: bringing bytes in, once, where a reader waits.
//!
//! One owner task per object (owner.rs) holds its state; readers are cursors over the object and
//! never talk to a session. What to ask for is decided by a pure function (plan.rs), what a reply
//! is worth by another (join.rs). A session (session.rs) is one exchange that moves bytes from the
//! upstream to the store and knows nothing else; what it has received and not written yet is in batch.rs.
//! All of a fill runs on one thread (threads.rs). The registry (registry.rs) makes sure that there is one owner per object, however many readers come.
//!
//! ```text
//! reader ──join──► registry ──► owner ──plan──► session ──► upstream
//!    ▲                            ▲                │
//!    └── woken by store::presence │◄── events ─────┘──► store::commit
//! ```
//!
//! Every exchange waits for its turn in the budget of its upstream (ask.rs). What readers want now and
//! soon is gathered in owner/wishes.rs; why one waits is told by why.rs. Where the disk has no room for
//! more, room.rs takes what was watched, and session.rs passes on what it cannot store.
//!
//! What one exchange brings is one representation, whatever its validator. Bytes of another are joined under a strong one
//! anywhere, under a weak tag and an old date where they agree with the last that are here, and else never: a reader that is
//! far from the fill of such an object gets an exchange of its own (docs/decisions/0022).
//!
//! A reader that leaves stops nobody: the fill goes on as `after_last_reader` says.

mod ask;
mod batch;
mod context;
mod cursor;
mod join;
mod line;
mod meter;
mod owner;
mod passage;
mod place;
mod plan;
mod registry;
mod room;
mod session;
mod threads;
mod unshared;
mod why;

pub use cursor::Cursor;
pub use line::{FillLine, WaitingLine};
pub use passage::{Outgoing, Passed, Seen, Sending};
pub use registry::{FillSettings, Moved, Phase, Refusal, Registry, Served, Trouble, Want};
pub use threads::{RunningThreads, Threads};
pub use why::{SessionLine, Stage, Why};

pub use crate::config::AfterLastReader;
