//! Which stored replies may answer a later request (RFC 9111 §3, §4), for a shared cache. Pure.
//!
//! Text goes in as [`Fields`], verdicts with their reasons come out; `proxy` and `fill` carry them out.
//! An incomplete object needs no rule of its own for the bytes it lacks: every new session asks with
//! `If-Range`, so a changed upstream shows itself at the next byte.

mod credentials;
mod fields;
mod media;
mod request;
mod reuse;
mod storing;
mod terms;
mod updating;
mod vary;

pub use credentials::{Credentials, is_credential, may_be_anyones};
pub use fields::Fields;
pub use media::{essence, extension, is_inert, is_playlist};
pub use request::RequestDirectives;
pub use reuse::{FreshnessDefaults, Reason, Reuse};
pub use storing::{NotStored, storable, storable_for_get};
pub use terms::{Lifetime, Terms};
pub use updating::{age_on_arrival, updated};
pub use vary::{selecting, selects, variant_name};
