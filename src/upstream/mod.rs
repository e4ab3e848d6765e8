//! The network side: one request to an upstream, and its reply as it really came.
//!
//! The HTTP client is seen here only. It is set to follow nothing, decompress nothing and time
//! nothing but silence; what a reply claims is read here, and believed or not in `fill::fetch::classify_reply`.

mod authorization;
mod backoff;
mod budget;
mod budgets;
mod circuit;
mod client;
mod configured;
mod error;
mod exchange;
mod failures;
mod probe;
mod public_addresses;
mod request;
mod tls;

pub use authorization::Authorization;
pub(crate) use backoff::{random, rest as backoff};
pub use budget::{Budget, BudgetSettings, BudgetStatus, Class, Permit, PermitHandle, QUANTUM_BYTES};
pub use budgets::Budgets;
pub use circuit::Circuit;
pub use client::{Client, ClientSettings};
pub use configured::ConfiguredUpstream;
pub use error::UpstreamError;
pub use exchange::{Exchange, Framing, Reply};
pub use public_addresses::is_public;
pub use request::{Ask, Relay, RelayedPieces, Span, Target, Trust};
pub use tls::trusting;
