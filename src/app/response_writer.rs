//! The writer of responses on a connection of our own: the header as bytes, the body from where it lies.
//!
//! ```text
//! in memory ────────► one call with the header
//! stored ───────────► sendfile, in calls of CALL_BYTES to MOST_CALL_BYTES
//!     ├ not in the page cache, but present: read into it on a thread (`bring`), then sent
//!     └ retracted, or sendfile may not be used: READ_ON_BYTES by the ordinary way, then tried again
//! to come ──────────► the header first, as soon as the body has to be waited for; pieces as they come
//! ```
//!
//! The promised length is kept, or the connection ends. The header goes out with the first bytes of its body where
//! these are here. A long body is corked, so that calls do not end in small segments; what has to wait for the disk is
//! pushed out before. Nothing is copied into a buffer of the connection, so what a slow reader holds is what the kernel
//! has not sent yet.

use crate::ranges::{ByteOffset, ByteRange};
use crate::serve::{BodyPiece, ObjectBody, QuickBody, Response, ResponseBody, Service, TURN_BYTES, lines_of};
use crate::store::Object;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use rustix::net::SendFlags;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;

/// Bytes that are sent in one call at first: a judgement, as much as the kernel holds unsent of a connection.
const CALL_BYTES: u64 = 256 * 1024;

/// The most that is sent in one call: where the socket has taken all of it, the next asks for twice as much. As much is
/// what one connection sends before it is the others' turn, as in nginx: 0.2 ms (docs/decisions/0014). A client that is
/// fast is woken less often.
const MOST_CALL_BYTES: u64 = 2 << 20;

/// Where a call was not taken whole, the next asks for this: the socket is full, most likely, and all that is asked for
/// is looked for in the page cache first. A judgement: one look (`store::sending` looks once in so many bytes).
const RETRY_BYTES: u64 = 64 * 1024;

/// Bytes that are not in the page cache are read into it in pieces of this length, each sent in one call; the kernel
/// reads ahead. A judgement.
const BRING_BYTES: u64 = CALL_BYTES;

/// Bytes that `sendfile` cannot send are read the ordinary way for this length before it is tried again. Four
/// mebibytes: docs/decisions/0014.
const READ_ON_BYTES: u64 = 4 << 20;

/// The most bytes that are read of pipelined requests before their turn. A judgement: hundreds of requests; a client
/// that sends more waits in its socket.
const MOST_AHEAD_BYTES: usize = 64 * 1024;

/// The answer to one request.
pub(super) struct ResponseWriter<'a> {
    stream: &'a TcpStream,
    service: &'a Service,
    /// Bytes of the client's next requests that have come already.
    ahead: &'a RefCell<Vec<u8>>,
}

impl<'a> ResponseWriter<'a> {
    pub(super) fn new(stream: &'a TcpStream, service: &'a Service, ahead: &'a RefCell<Vec<u8>>) -> Self {
        Self { stream, service, ahead }
    }

    // --- hits --------------------------------------------------------------------------------

    /// Sends the header, and a small body with it, as far as the socket takes them; returns the rest.
    pub(super) fn begin_hit(&self, header: &mut Vec<u8>, body: QuickBody) -> (Bytes, QuickBody) {
        let (flags, body) = match body {
            QuickBody::SmallBody(bytes) => {
                header.extend_from_slice(&bytes);
                (SendFlags::NOSIGNAL, QuickBody::Empty)
            }
            QuickBody::Empty => (SendFlags::NOSIGNAL, QuickBody::Empty),
            // The body follows in the same packet.
            body => (SendFlags::NOSIGNAL | SendFlags::MORE, body),
        };
        let send = || Ok(rustix::net::send(self.stream, header, flags)?);
        let sent = self.stream.try_io(Interest::WRITABLE, send);
        // An error is met again when the rest is written.
        let sent = sent.unwrap_or(0);
        (Bytes::copy_from_slice(&header[sent..]), body)
    }

    /// Sends what is left of the answer to a hit.
    pub(super) async fn hit(&self, header: &[u8], body: QuickBody) -> io::Result<()> {
        self.write(header).await?;
        let (object, range, place) = match body {
            QuickBody::Empty => return Ok(()),
            QuickBody::SmallBody(bytes) => return self.write(&bytes).await,
            QuickBody::Object { object, range, place } => (object, range, place),
        };
        let count = |bytes| {
            self.service.metrics.sent_bytes.inc_by(bytes);
        };
        let (mut at, end) = (range.start(), range.end());
        while let Some(left) = ByteRange::new(at, end) {
            at = self.send_stored(&object, left, count).await?;
            if let Some(stretch) = ByteRange::new(at, end.min(at.saturating_add(READ_ON_BYTES))) {
                let mut body = pin!(self.service.read_on(&object, stretch, &place));
                self.read_on(|cx| body.as_mut().poll_next(cx), stretch.len()).await?;
                at = stretch.end();
            }
        }
        Ok(())
    }

    // --- all other answers -------------------------------------------------------------------

    /// Sends an answer of the application.
    ///
    /// # Errors
    /// Where the client has gone, or where the body ends before its length: the connection is then to be broken.
    pub(super) async fn response(&self, response: Response, head_only: bool, closes: bool) -> io::Result<()> {
        let is_bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let size = response.size();
        let header = self.header(&response.head, size, is_bodiless, closes);
        let length = match size {
            _ if head_only || is_bodiless => return self.write(&header).await,
            BodySize::None | BodySize::Sized(0) => return self.write(&header).await,
            BodySize::Sized(length) => Some(length),
            BodySize::Stream => None,
        };
        match response.body {
            ResponseBody::HeadOnly(_) => self.write(&header).await,
            ResponseBody::Memory(bytes) => self.write_all(&[&header, &bytes]).await,
            ResponseBody::Object(body) if length.is_some() => self.lying(header, body).await,
            ResponseBody::Object(body) => self.pieces(header, body, length).await,
            ResponseBody::Stream(body) => self.pieces(header, body, length).await,
        }
    }

    fn header(&self, response: &HttpResponse<()>, size: BodySize, is_bodiless: bool, closes: bool) -> Vec<u8> {
        let status = response.status();
        let mut header = Vec::with_capacity(1024);
        let reason = status.canonical_reason().unwrap_or_default();
        let framing = match size {
            _ if is_bodiless => String::new(),
            BodySize::None => "content-length: 0\r\n".to_owned(),
            BodySize::Sized(length) => format!("content-length: {length}\r\n"),
            BodySize::Stream => "transfer-encoding: chunked\r\n".to_owned(),
        };
        let close = if closes { "connection: close\r\n" } else { "" };
        // Memory takes all that is written.
        let _ = write!(header, "HTTP/1.1 {} {reason}\r\n{framing}{close}", status.as_str());
        header.extend(lines_of(response, self.service.clock.now()));
        header.extend_from_slice(b"\r\n");
        header
    }

    /// Sends a body from where it lies.
    async fn lying(&self, header: Vec<u8>, mut body: Box<ObjectBody>) -> io::Result<()> {
        let (mut header, mut turn) = (Header(header), 0);
        loop {
            if turn >= TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
            match self.next(&mut header, |cx| body.poll_lying(cx)).await? {
                None => return self.write(&header.take()).await,
                Some(Err(cut)) => {
                    // Pieces before the cut go out first.
                    self.write(&header.take()).await?;
                    return Err(io::Error::other(cut));
                }
                Some(Ok(BodyPiece::Memory(bytes))) => {
                    self.write_all(&[&header.take(), &bytes]).await?;
                    turn += bytes.len() as u64;
                }
                Some(Ok(BodyPiece::Stored(object, range))) => {
                    self.write_more(&header.take()).await?;
                    let at = self.send_stored(&object, range, |bytes| body.sent(bytes)).await?;
                    if at < range.end() {
                        let left = READ_ON_BYTES.min(range.end() - at);
                        self.read_on(|cx| Pin::new(&mut body).poll_next(cx), left).await?;
                    }
                }
            }
        }
    }

    /// Sends a body as it comes: in chunks (RFC 9112 §7.1) where its length is not known.
    async fn pieces<B>(&self, header: Vec<u8>, body: B, length: Option<u64>) -> io::Result<()>
    where
        B: MessageBody,
        B::Error: std::fmt::Display,
    {
        let (mut header, mut body) = (Header(header), pin!(body));
        let mut left = length;
        loop {
            let piece = self.next(&mut header, |cx| body.as_mut().poll_next(cx)).await?;
            match (piece, &mut left) {
                (Some(Err(error)), _) => {
                    self.write(&header.take()).await?;
                    return Err(io::Error::other(error.to_string()));
                }
                (Some(Ok(bytes)), _) if bytes.is_empty() => {}
                (Some(Ok(bytes)), None) => {
                    let size = format!("{:x}\r\n", bytes.len());
                    self.write_all(&[&header.take(), size.as_bytes(), &bytes, b"\r\n"])
                        .await?;
                }
                (Some(Ok(mut bytes)), Some(left)) => {
                    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    self.write_all(&[&header.take(), &bytes]).await?;
                    *left -= bytes.len() as u64;
                    if *left == 0 {
                        return Ok(());
                    }
                }
                (None, None) => return self.write_all(&[&header.take(), b"0\r\n\r\n"]).await,
                // Short of the promised length: whoever reads sees that the connection breaks.
                (None, Some(_)) => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// The result of `poll`. Where it is pending, the header goes out first, and a client that leaves is
    /// noticed.
    async fn next<T>(&self, header: &mut Header, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> io::Result<T> {
        if !header.0.is_empty() {
            let at_once = poll_fn(|cx| Poll::Ready(poll(cx)));
            match at_once.await {
                Poll::Ready(next) => return Ok(next),
                Poll::Pending => self.write(&header.take()).await?,
            }
        }
        let next = poll_fn(|cx| match poll(cx) {
            Poll::Pending => poll_gone(self.stream, self.ahead, cx).map(|()| Err(ErrorKind::ConnectionAborted.into())),
            Poll::Ready(next) => Poll::Ready(Ok(next)),
        });
        next.await
    }

    // --- bytes -------------------------------------------------------------------------------

    /// Sends what can be sent of the range without a copy, telling `sent` of each piece; returns where that ends, and
    /// the rest has to be read.
    async fn send_stored(
        &self,
        object: &Arc<Object>,
        range: ByteRange,
        mut sent: impl FnMut(u64),
    ) -> io::Result<ByteOffset> {
        let (mut at, end) = (range.start(), range.end());
        let (mut turn, mut call) = (0, CALL_BYTES);
        // Up to here it was brought into memory.
        let mut brought = at;
        let is_long = range.len() > CALL_BYTES;
        let _corked = is_long.then(|| Corked::new(self.stream));
        while at < end {
            if turn >= MOST_CALL_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
            let asked = (end - at).min(call);
            let len = usize::try_from(asked).unwrap_or(usize::MAX);
            let stream = self.stream;
            let send = || object.source().send_now(stream, at, len);
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
                Ok(None) if at >= brought && object.presence().covers(range) => {
                    (brought, call) = (end.min(at + BRING_BYTES), CALL_BYTES);
                    push_out(stream);
                    bring(object, at, brought).await;
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

    /// Sends the next `left` bytes of a body, or more of them, as the disk, or the upstream, gives them.
    async fn read_on<E>(
        &self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, E>>>,
        mut left: u64,
    ) -> io::Result<()> {
        // Corked bytes go now: the disk or the upstream may take its time.
        push_out(self.stream);
        let mut header = Header(Vec::new());
        while left > 0 {
            let Some(Ok(bytes)) = self.next(&mut header, &mut poll).await? else {
                // Short of the promised length: whoever reads sees that the connection breaks.
                return Err(ErrorKind::UnexpectedEof.into());
            };
            left = left.saturating_sub(bytes.len() as u64);
            self.write(&bytes).await?;
        }
        Ok(())
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match bytes {
            [] => Ok(()),
            _ => self.write_all(&[bytes]).await,
        }
    }

    /// Writes what is followed at once by more: the kernel may wait for that.
    async fn write_more(&self, mut bytes: &[u8]) -> io::Result<()> {
        let flags = SendFlags::NOSIGNAL | SendFlags::MORE;
        while !bytes.is_empty() {
            let send = || Ok(rustix::net::send(self.stream, bytes, flags)?);
            match self.stream.try_io(Interest::WRITABLE, send) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all pieces, in one call where the socket takes them.
    async fn write_all(&self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.stream.try_write_vectored(slices) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut slices, count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A header that goes out with the first bytes of its body; empty once it has.
struct Header(Vec<u8>);

impl Header {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
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
fn push_out(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_tcp_nodelay(true);
}

/// Has the disk read, on a thread that may wait for it. What becomes of it is seen when it is sent.
async fn bring(object: &Arc<Object>, at: ByteOffset, end: ByteOffset) {
    let object = Arc::clone(object);
    let read = move || {
        let (mut at, mut more) = (at, true);
        while at < end && more {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX);
            let count = object
                .source()
                .read_blocking(at, len)
                .map_or(0, |bytes| bytes.len() as u64);
            at += count;
            more = count > 0;
        }
    };
    let _ = tokio::task::spawn_blocking(read).await;
}

/// Ready when the peer has closed its side. What it sends before that is put into `ahead`: while bytes lie in the
/// socket, nothing tells that it has closed.
pub(super) fn poll_gone(stream: &TcpStream, ahead: &RefCell<Vec<u8>>, cx: &mut Context<'_>) -> Poll<()> {
    let mut ahead = ahead.borrow_mut();
    loop {
        if ahead.len() >= MOST_AHEAD_BYTES {
            // Whether one that asks for so much stays is seen when it is written to.
            return Poll::Pending;
        }
        if ready!(stream.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut bytes = [0; 4096];
        match stream.try_read(&mut bytes) {
            Ok(0) => return Poll::Ready(()),
            Ok(count) => ahead.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}
