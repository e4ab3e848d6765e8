//! HTTP at our door.
//!
//! A request passes through route (whose is it), lookup (what of it is stored: variant.rs, and whether that may
//! be used: reuse.rs), find (whose fill brings the rest), answer (pure: what to say) and body (the bytes, as they
//! come). What of it goes on to the upstream is in onward.rs; methods that are not answered from the store
//! are passed on by pass.rs. problem.rs alone turns errors into HTTP.

mod answer;
mod body;
mod detach;
mod direct;
mod find;
mod guard;
mod lookup;
mod multipart;
mod onward;
mod origin;
mod pace;
mod pass;
mod prepared;
mod problem;
mod quick;
mod recent;
mod request;
mod respond;
mod reuse;
mod route;
mod streams;
mod variant;

pub use body::Cut;
pub use detach::{no_such_stream, status_line};
pub use direct::{DirectBody, Lying};
pub use guard::refusal;
pub use lookup::{Service, ServiceSettings};
pub use origin::{Access, AccessLog, BadTokens, Cursors, Origin, OriginSettings};
pub use pace::TURN_BYTES;
pub use problem::Problem;
pub use quick::{QuickBody, QuickRequest, lines_of};
pub use recent::Recent;
pub use route::{RouteError, Routed, Routes};
