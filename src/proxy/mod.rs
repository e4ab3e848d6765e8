//! HTTP at our door: the cache.
//!
//! ```text
//! request/    the fields that matter, read once; whose the request is; which fields go on to the upstream
//! hit/        what is answered from what was made a moment ago
//! cache/      what is stored, whether it may be reused, whose fill brings the rest
//! response/   what to say (pure), the header, the body as its bytes come
//! streams/    live streams, and requests that outlive their clients
//! ```
//!
//! A request goes down this list, and each part uses only `service.rs`, which holds what all of them need, and parts that
//! its own decision needs.

mod cache;
mod hit;
mod request;
mod response;
mod service;
mod streams;

pub use cache::askers::Askers;
pub use hit::request_cache::{RequestCache, RequestTarget};
pub use request::route::{RouteError, Routed, Routes};
pub use response::problem::Problem;
pub use service::{Service, ServiceSettings};
pub use streams::async_requests::stream_summary;

pub(crate) use request::Request;
pub(crate) use request::forward::is_asked_by_other_site;
pub(crate) use response::body::{SegmentSource, SegmentedBody};
pub(crate) use response::decide::{Answer, Facts, Question, answer};
pub(crate) use response::multipart;
pub(crate) use response::problem::unsatisfied;
