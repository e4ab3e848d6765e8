//! Configuration: typed, validated whole, every mistake reported at once.
//!
//! A setting can stand on the command line, in a `MILLPOND_*` variable and in a TOML file; the
//! first of these that has it wins. Sources hand over text under the setting's key (source.rs);
//! two tables (table.rs) know each key, its unit and its default; settings.rs and origin.rs turn text into values.
//! No source has a parser of its own, so a mistake reads the same wherever it was made.

mod origin;
mod public_url;
mod settings;
mod source;
mod table;
mod units;

pub use origin::OriginConfig;
pub use public_url::PublicUrl;
pub use settings::{Config, StreamConfig, UpstreamConfig, describe};
pub use source::{Layers, Mistakes};

/// How an object is answered while it is incomplete; see `docs/delivery.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Answers what was asked as if the object were complete; the body waits for the bytes.
    Follow,
    /// Answers only what is here now.
    Capped,
}

/// The policy for a fill whose last reader has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterLastReader {
    /// Fetches the rest.
    Complete,
    /// Stops, and resumes with the next reader.
    Stop,
    /// Fetches the rest where that is little, else stops.
    Finish {
        /// Where at least this many percent of the object are here, 1 to 100.
        percent: u8,
        /// Or where at most this many bytes are missing.
        bytes: u64,
    },
}
