//! Stored bytes to a socket without a copy of ours, as `sendfile(2)` sends them.
//!
//! [`SendFile`] is the only way in which anything here reaches a file: the wire knows neither the file nor where its
//! bytes lie. What is stored says what of it can be sent now; the wire has the kernel take it, in calls that grow while
//! the socket takes all of them, and has the rest brought into memory on a thread that may wait for the disk.
//!
//! A long body is corked, so that calls do not end in small segments; what has to wait for the disk is pushed out
//! before.

use crate::ranges::{ByteOffset, ByteRange};
use actix_web::rt::net::TcpStream;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use tokio::io::Interest;

/// Bytes that are sent in one call at first: a judgement, as much as the kernel holds unsent of a connection.
const CALL_BYTES: u64 = 256 * 1024;

/// The most that is sent in one call: where the socket has taken all of it, the next asks for twice as much. As much is
/// what one connection sends before it is the others' turn, as in nginx: 0.2 ms (docs/decisions/0014). A client that is
/// fast is woken less often.
const MOST_CALL_BYTES: u64 = 2 << 20;

/// Where a call was not taken whole, the next asks for this: the socket is full, most likely, and all that is asked for
/// is looked for in the page cache first. A judgement: one look (`store::read::sendfile` looks once in so many bytes).
const RETRY_BYTES: u64 = 64 * 1024;

/// Bytes that are not in the page cache are read into it in pieces of this length, each sent in one call; the kernel
/// reads ahead. A judgement.
const BRING_BYTES: u64 = CALL_BYTES;

/// Stored bytes that can be sent from where they lie.
pub trait SendFile: Send + Sync {
    /// Sends up to `len` bytes at `at` to a socket that does not wait; how many. `None` where they are to be read
    /// instead.
    ///
    /// # Errors
    /// The error of the socket; [`ErrorKind::WouldBlock`] where it takes nothing now.
    fn send_now(&self, to: BorrowedFd<'_>, at: ByteOffset, len: usize) -> io::Result<Option<usize>>;

    /// Whether every byte of the range is present: then reading brings into memory what cannot be sent now.
    fn covers(&self, range: ByteRange) -> bool;

    /// Has the disk read up to `len` bytes at `at` into memory, and waits for it: for a blocking thread. How many; 0
    /// where the disk gives none.
    fn bring_blocking(&self, at: ByteOffset, len: usize) -> usize;
}

/// Sends what can be sent of the range without a copy, telling `sent` of each piece; returns where that ends, and the
/// rest has to be read.
///
/// # Errors
/// The error of the socket.
pub(super) async fn send_stored<F>(
    stream: &TcpStream,
    source: &Arc<F>,
    range: ByteRange,
    mut sent: impl FnMut(u64),
) -> io::Result<ByteOffset>
where
    F: SendFile + ?Sized + 'static,
{
    let (mut at, end) = (range.start(), range.end());
    let (mut turn, mut call) = (0, CALL_BYTES);
    // Up to here it was brought into memory.
    let mut brought = at;
    let is_long = range.len() > CALL_BYTES;
    let _corked = is_long.then(|| Corked::new(stream));
    while at < end {
        if turn >= MOST_CALL_BYTES {
            turn = 0;
            tokio::task::yield_now().await;
        }
        let asked = (end - at).min(call);
        let len = usize::try_from(asked).unwrap_or(usize::MAX);
        let send = || source.send_now(stream.as_fd(), at, len);
        match stream.try_io(Interest::WRITABLE, send) {
            Ok(Some(count)) => {
                let count = count as u64;
                at += count;
                turn += count;
                call = match count < asked {
                    true => RETRY_BYTES,
                    false => (2 * call).clamp(CALL_BYTES, MOST_CALL_BYTES),
                };
                sent(count);
            }
            // Reading ahead helps only where the bytes are present.
            Ok(None) if at >= brought && source.covers(range) => {
                (brought, call) = (end.min(at + BRING_BYTES), CALL_BYTES);
                push_out(stream);
                bring(source, at, brought).await;
            }
            Ok(None) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // The socket is waited for until it has room: the next call asks as the first did.
                call = CALL_BYTES;
                stream.writable().await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

/// A connection on which only whole segments go out, until this is dropped: several calls make one body, and without
/// it each ends in a segment of some bytes, which wakes the client like any other.
struct Corked<'a>(&'a TcpStream);

impl<'a> Corked<'a> {
    fn new(stream: &'a TcpStream) -> Self {
        // Without it bodies are merely slower.
        let _ = rustix::net::sockopt::set_tcp_cork(stream, true);
        Self(stream)
    }
}

impl Drop for Corked<'_> {
    fn drop(&mut self) {
        // Setting the option fails where the connection has broken.
        let _ = rustix::net::sockopt::set_tcp_cork(self.0, false);
    }
}

/// Has what was written go out now, not when the kernel has waited for more to go with it; also where it is corked
/// (tcp(7)).
pub(super) fn push_out(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_tcp_nodelay(true);
}

/// Has the disk read, on a thread that may wait for it. What becomes of it is seen when it is sent.
async fn bring<F: SendFile + ?Sized + 'static>(source: &Arc<F>, at: ByteOffset, end: ByteOffset) {
    let source = Arc::clone(source);
    let read = move || {
        let (mut at, mut more) = (at, true);
        while at < end && more {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX);
            let count = source.bring_blocking(at, len) as u64;
            at += count;
            more = count > 0;
        }
    };
    let _ = tokio::task::spawn_blocking(read).await;
}
