//! millpond: a media cache server that plays while it fetches.
//!
//! The modules form a stack. Each uses only those below it (`tests/tidy.rs` keeps this true):
//!
//! ```text
//! server                   composition; the only place that knows everyone
//! admin                    what millpond says of itself, under /-/
//! site                     what a server serves: its mounts, and the way of a request to one of them
//! webdav                   the directory at our door: read, listed and changed over HTTP and WebDAV
//! access                   who sends a request, and what it may do
//! proxy                    the cache at our door: HTTP requests of players
//! mirror                   subtrees of upstreams that are kept here whole
//! fill                     where bytes come from
//! live  directory          streams: which replies are, where readers come in; a directory that is ours
//! store  upstream          disk (sled here only), network (the HTTP client here only)
//! http1                    the wire: connections, heads of requests, how responses are sent; it knows no cache
//! policy                   pure: which stored answers may be reused
//! header                   pure: RFC 9110 fields
//! ranges                   pure: byte arithmetic
//! api key telemetry config    types of the JSON under /-/; names, counters, settings
//! gate
//! clock  sync  crypto  masking
//! ```
//!
//! `ARCHITECTURE.md` tells the way of a read through them and where the next feature belongs.

pub mod server;

pub mod admin;

pub mod site;

pub mod webdav;

pub mod access;

pub mod proxy;

pub mod mirror;

pub mod fill;

pub mod directory;
pub mod live;

pub mod store;
pub mod upstream;

pub mod http1;
pub mod policy;

pub mod header;

pub mod ranges;

pub mod api;
pub mod clock;
pub mod config;
mod crypto;
#[cfg(test)]
mod fuzzing;
mod gate;
pub mod key;
mod masking;
mod sync;
pub mod telemetry;
