//! HTTP at our door.
//!
//! A request passes through route (whose is it), lookup (what of it is stored: variant.rs, and whether that may
//! be used: reuse.rs), find (whose fill brings the rest), answer (pure: what to say) and body (the bytes, as they
//! come). Which fields go on to the upstream is decided in forward.rs; methods that are not answered from the store
//! are relayed by pass.rs. problem.rs alone turns errors into HTTP.

mod answer;
mod body;
mod detach;
mod find;
mod forward;
mod guard;
mod hot_headers;
mod lookup;
pub(crate) mod multipart;
mod object_source;
mod pass;
mod problem;
mod quick;
mod request;
mod request_cache;
mod respond;
mod reuse;
mod route;
mod send_quantum;
mod service;
mod streams;
mod variant;

pub use detach::stream_summary;
pub use guard::refusal;
pub use problem::Problem;
pub use request_cache::{RequestCache, RequestTarget};
pub use route::{RouteError, Routed, Routes};
pub use service::{Service, ServiceSettings};

pub(crate) use answer::{Answer, Facts, Question, answer};
pub(crate) use body::{SegmentSource, SegmentedBody};
pub(crate) use problem::unsatisfied;
pub(crate) use request::Request;
