//! HTTP/1.1 on the wire; it knows no cache.
//!
//! What a connection says is read here (request_head.rs), and targets that the HTTP library would cut are made visible
//! to it (request_line.rs).

mod request_head;
mod request_line;

pub use request_head::{FieldSlots, RequestHead};

pub(crate) use request_line::Watched;
