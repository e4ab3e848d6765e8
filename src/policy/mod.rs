//! Which stored replies may answer a later request (RFC 9111 §3, §4). Pure.
//!
//! What is here is the part that a range cache cannot do without: freshness of complete objects. An
//! incomplete object needs no rule of its own: every new session asks with `If-Range`, so a
//! changed upstream shows itself at the next byte. The rest of RFC 9111 belongs in this module.

mod freshness;

pub use freshness::{Reason, Reuse, Terms};
