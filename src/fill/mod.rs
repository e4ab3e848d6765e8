//! Fills: bringing bytes in, once, where a reader waits.
//!
//! One owner task per object (owner.rs) holds its state; readers are cursors over the object and
//! never talk to a session. What to ask for is decided by a pure function (plan.rs), what a reply
//! is worth by another (join.rs). A session (session.rs) is one exchange that moves bytes from the
//! upstream to the store and knows nothing else. The registry (registry.rs) makes sure that there
//! is one owner per object, however many readers come.
//!
//! ```text
//! reader ──join──► registry ──► owner ──plan──► session ──► upstream
//!    ▲                            ▲                │
//!    └── woken by store::presence │◄── events ─────┘──► store::commit
//! ```
//!
//! A reader that leaves stops nobody: the fill goes on as `after_last_reader` says.

mod backoff;
mod join;
mod meter;
mod owner;
mod plan;
mod registry;
mod session;

pub use registry::{Cursor, FillSettings, Phase, Refusal, Registry, Trouble, Want};

pub use crate::config::AfterLastReader;
