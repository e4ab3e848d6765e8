//! HTTP/1.1 on the wire; it knows no cache.
//!
//! ```text
//! rewind ──► connection ──► request_head            a connection begins here, and is handed to the framework where needed
//!                │ ▲
//!                ▼ │ Handler: hit, at_once, answer  the composition says what answers
//!          response_writer ──► response             a head, and a body as what it is
//!                └──► send_file                     the only way to what lies stored: SendFile
//! ```
//!
//! The rooms above give values ([`Response`], [`HitBody`]) and never see a socket; this room sends them and never sees
//! a file. request_line.rs makes visible to the framework what its URI type would cut off, and ends connections whose
//! clients take too long (client_patience.rs); connection_table.rs bounds how many there are.

mod client_patience;
mod connection;
mod connection_table;
mod handler;
mod request_head;
mod request_line;
mod response;
mod response_writer;
mod rewind;
mod send_file;

pub use handler::{Handler, HitBody};
pub use request_head::{FieldSlots, RequestHead};
pub use response::{BodyPiece, HeadOnly, Response, ResponseBody, StoredBody, lines_of};
pub use response_writer::TURN_BYTES;
pub use send_file::SendFile;

pub(crate) use connection::Http1Connections;
pub(crate) use connection_table::{AnswerInProgress, ConnectionTable, SeatHandle};
pub(crate) use request_line::Watched;
pub(crate) use rewind::Connections;
