//! The writer of responses on a connection of our own: the header as bytes, the body from where it lies.
//!
//! ```text
//! in memory ────────► one call with the header
//! stored ───────────► sendfile, in calls that grow (send_file.rs)
//!     ├ not in the page cache, but present: read into it on a thread, then sent
//!     └ retracted, or sendfile may not be used: READ_ON_BYTES by the ordinary way, then tried again
//! to come ──────────► the header first, as soon as the body has to be waited for; pieces as they come
//! ```
//!
//! The promised length is kept, or the connection ends. The header goes out with the first bytes of its body where
//! these are here. Nothing is copied into a buffer of the connection, so what a slow reader holds is what the kernel has
//! not sent yet.

use super::handler::{BodyOf, Handler, HitBody};
use super::response::{BodyPiece, Response, ResponseBody, StoredBody, lines_of};
use super::send_file::{push_out, send_stored};
use crate::ranges::ByteRange;
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
use std::task::{Context, Poll, ready};
use tokio::io::Interest;

/// Bytes that one connection sends before other connections of the worker get their turn. Measured:
/// docs/decisions/0003.
pub const TURN_BYTES: u64 = 512 * 1024;

/// Bytes that `sendfile` cannot send are read the ordinary way for this length before it is tried again. Four
/// mebibytes: docs/decisions/0014.
const READ_ON_BYTES: u64 = 4 << 20;

/// The most bytes that are read of pipelined requests before their turn. A judgement: hundreds of requests; a client
/// that sends more waits in its socket.
const MOST_AHEAD_BYTES: usize = 64 * 1024;

/// The answer to one request.
pub(super) struct ResponseWriter<'a, H> {
    stream: &'a TcpStream,
    handler: &'a H,
    /// Bytes of the client's next requests that have come already.
    ahead: &'a RefCell<Vec<u8>>,
    /// Whether a client that has closed its side waits for the rest.
    may_half_close: bool,
}

impl<'a, H: Handler> ResponseWriter<'a, H> {
    pub(super) fn new(stream: &'a TcpStream, handler: &'a H, ahead: &'a RefCell<Vec<u8>>) -> Self {
        Self {
            stream,
            handler,
            ahead,
            may_half_close: false,
        }
    }

    /// The same for a client that may have closed its side and waits.
    pub(super) fn for_half_closed(self, may_half_close: bool) -> Self {
        Self { may_half_close, ..self }
    }

    // --- hits --------------------------------------------------------------------------------

    /// Sends the header, and a small body with it, as far as the socket takes them; returns the rest.
    pub(super) fn begin_hit(&self, header: &mut Vec<u8>, body: BodyOf<H>) -> (Bytes, BodyOf<H>) {
        let (flags, body) = match body {
            HitBody::Memory(bytes) => {
                header.extend_from_slice(&bytes);
                (SendFlags::NOSIGNAL, HitBody::Empty)
            }
            HitBody::Empty => (SendFlags::NOSIGNAL, HitBody::Empty),
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
    pub(super) async fn hit(&self, header: &[u8], body: BodyOf<H>) -> io::Result<()> {
        self.write(header).await?;
        let (source, range, place) = match body {
            HitBody::Empty => return Ok(()),
            HitBody::Memory(bytes) => return self.write(&bytes).await,
            HitBody::Stored { source, range, place } => (source, range, place),
        };
        let (mut at, end) = (range.start(), range.end());
        while let Some(left) = ByteRange::new(at, end) {
            at = send_stored(self.stream, &source, left, |bytes| self.handler.sent(bytes)).await?;
            if let Some(stretch) = ByteRange::new(at, end.min(at.saturating_add(READ_ON_BYTES))) {
                let mut body = pin!(self.handler.read_on(&source, stretch, &place));
                self.read_on(|cx| body.as_mut().poll_next(cx), stretch.len()).await?;
                at = stretch.end();
            }
        }
        Ok(())
    }

    // --- all other answers -------------------------------------------------------------------

    /// Sends an answer that is no hit.
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
            ResponseBody::Stored(body) if length.is_some() => self.lying(header, body).await,
            ResponseBody::Stored(body) => self.pieces(header, body, length).await,
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
        header.extend(lines_of(response, self.handler.now()));
        header.extend_from_slice(b"\r\n");
        header
    }

    /// Sends a body from where it lies.
    async fn lying(&self, header: Vec<u8>, mut body: Box<dyn StoredBody>) -> io::Result<()> {
        let (mut header, mut turn) = (Header(header), 0);
        loop {
            if turn >= TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
            match self.next(&mut header, |cx| body.poll_piece(cx)).await? {
                None => return self.write(&header.take()).await,
                Some(Err(cut)) => {
                    // Pieces before the cut go out first.
                    self.write(&header.take()).await?;
                    return Err(io::Error::other(cut.to_string()));
                }
                Some(Ok(BodyPiece::Memory(bytes))) => {
                    self.write_all(&[&header.take(), &bytes]).await?;
                    turn += bytes.len() as u64;
                }
                Some(Ok(BodyPiece::Stored(source, range))) => {
                    self.write_more(&header.take()).await?;
                    let at = send_stored(self.stream, &source, range, |bytes| body.sent(bytes)).await?;
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
            Poll::Pending => poll_gone(self.stream, self.ahead, self.may_half_close, cx)
                .map(|()| Err(ErrorKind::ConnectionAborted.into())),
            Poll::Ready(next) => Poll::Ready(Ok(next)),
        });
        next.await
    }

    // --- bytes -------------------------------------------------------------------------------

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

/// Ready when the peer has closed its side. What it sends before that is put into `ahead`: while bytes lie in the
/// socket, nothing tells that it has closed. A client that may close its side and wait has gone only where the
/// connection fails.
pub(super) fn poll_gone(
    stream: &TcpStream,
    ahead: &RefCell<Vec<u8>>,
    may_half_close: bool,
    cx: &mut Context<'_>,
) -> Poll<()> {
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
            // Whatever is waited for wakes the task; this end tells nothing more.
            Ok(0) if may_half_close => return Poll::Pending,
            Ok(0) => return Poll::Ready(()),
            Ok(count) => ahead.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}
