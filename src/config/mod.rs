//! Configuration: typed, validated whole, every mistake reported at once.
//!
//! A setting can stand on the command line, in a `MILLPOND_*` variable and in a TOML file; the
//! first of these that has it wins. Sources hand over text under the setting's key (source.rs); settings.rs has an entry
//! for each key with one value, mounts.rs and mirrors.rs read upstreams and directories, parse.rs and units.rs turn text into values,
//! and check.rs compares what was read. No source has a parser of its own, so a mistake reads the same wherever it was
//! made.

mod check;
mod mirror_settings;
mod mirrors;
mod mounts;
mod networks;
mod parse;
mod public_url;
mod reader;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod trusted_proxies;
mod units;

pub use check::settings;
pub use mirrors::{ListingFormat, MirrorRules, MirrorSettings, MirrorWhen, Offline};
pub use mounts::{DirectoryConfig, UpstreamConfig};
pub use networks::Networks;
pub use public_url::PublicUrl;
pub use settings::{Config, Needs, Setting};
pub use source::{Layers, Mistakes};
pub use trusted_proxies::TrustedProxies;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An address that connections are accepted at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and a port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only programs on this machine, by its network, reach it. What stands before a socket in the file system
    /// is not known: a proxy, most likely.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Self::Tcp(address) if address.ip().is_loopback())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The way in which an object is answered while it is incomplete; see `docs/delivery.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Answers what was asked as if the object were complete; the body waits for the bytes.
    Follow,
    /// Answers only what is here now.
    Capped,
}

/// The most that objects may take on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaSetting {
    /// A share of the file system.
    Auto,
    /// All that the file system has.
    None,
    /// A number of bytes.
    Bytes(u64),
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
