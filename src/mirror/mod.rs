//! Mirrors: subtrees of upstreams that are kept here whole, and current.
//!
//! ```text
//! run        when a mirror is walked, and what is written down of it
//! walk       one walk: collections downwards, each listed, compared, brought up to date
//! bring      one file: brought whole by its fill, after all that readers want
//! obtain     one listing from its server: all pages, or why it is not to be believed
//! diff       pure: what a listing changes in what is known
//! listing/   pure: the formats of listings, read into names
//! losses     pure: which lost members may go, and which are held
//! removal    what has been missing for long enough, and what is done about it
//! filter     pure: names that are left out
//! source     pure: the URL and the key of a path
//! ```
//!
//! A mirrored file is an ordinary object, with ranges, checksums and validators as any other, and pinned. What was listed is in
//! the tree index of the store. The sentence that all of it serves: *absence is believed only when a complete listing in the
//! expected format says so, twice; it is never inferred from an error.*

mod bring;
mod diff;
mod disk;
mod filter;
pub mod listing;
mod losses;
mod obtain;
mod removal;
mod run;
mod source;
mod walk;

pub use run::{Mirror, MirrorOf, Mirrors, WalkOrder, Walking};
pub use source::{key_of, url_of};
