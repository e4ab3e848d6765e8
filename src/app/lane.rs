//! A connection before it is actix's: hits are answered here, for as long as nothing else is asked for.
//!
//! ```text
//! bytes of a request ──► a hit, plainly asked for? ── yes ──► header, then the body from the page cache ──► next
//!                                  │ no
//!                                  └──► the connection, with the bytes that were read, is actix-http's to its end
//! ```
//!
//! What the framework does for a request (a pool of requests, a map of fields, a copy of the body into a write buffer)
//! costs as much as the kernel takes to send it, and it cannot send from the page cache at all.

use super::KEEP_ALIVE;
use crate::ranges::{ByteOffset, ByteRange};
use crate::serve::{QuickBody, QuickRequest, Recent, Service, TURN_BYTES};
use crate::store::Object;
use crate::upstream::Target;
use actix_web::body::MessageBody;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use pin_project_lite::pin_project;
use rustix::net::SendFlags;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The longest header that is read here.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// What is sent in one call, in bytes; and in the next, where the socket has taken less than that: it is full, most
/// likely, and all that is asked for is looked for first.
const CALL_BYTES: u64 = 256 * 1024;
const RETRY_BYTES: u64 = 64 * 1024;

/// What is not in memory is brought there in pieces of this length; the kernel reads ahead of them.
const BRING_BYTES: u64 = 256 * 1024;

/// What cannot be sent from there all the same is read on the ordinary way for this long before it is tried again.
const READ_ON_BYTES: u64 = 4 << 20;

/// How a conversation went.
pub(super) enum Ended {
    /// The connection has served its time.
    Over,
    /// It asks for more than this lane knows; these bytes of it were read.
    Hand(TcpStream, Vec<u8>),
}

/// What the connections of one worker share.
#[derive(Debug)]
pub(super) struct Lane {
    service: Arc<Service>,
    recent: Rc<Recent>,
    /// What was just read, and the header that is about to be sent: nothing lies here over a wait.
    scratch: RefCell<Scratch>,
}

#[derive(Debug)]
struct Scratch {
    request: Vec<u8>,
    header: Vec<u8>,
}

impl Lane {
    pub(super) fn new(service: Arc<Service>, recent: Rc<Recent>) -> Self {
        let scratch = Scratch {
            request: vec![0; MAX_REQUEST_BYTES],
            header: Vec::with_capacity(4096),
        };
        Self {
            service,
            recent,
            scratch: RefCell::new(scratch),
        }
    }

    /// Answers hits until something else is asked for, or `stopping` says that no more are to be.
    pub(super) async fn converse(&self, mut stream: TcpStream, stopping: impl Future<Output = ()>) -> Ended {
        let mut waiting = pin!(Waiting {
            stopping,
            idle: sleep_until(Instant::now() + KEEP_ALIVE),
            served: Instant::now(),
        });
        // What came behind a request.
        let mut ahead = Vec::new();
        loop {
            let next = poll_fn(|cx| match self.poll_next(&mut stream, &mut ahead, cx) {
                Poll::Pending => waiting.as_mut().poll_over(cx).map(|()| Next::Over),
                next => next,
            });
            let answer = match next.await {
                Next::Answer(answer) => answer,
                Next::Hand(bytes) => return Ended::Hand(stream, bytes),
                Next::Over => return Ended::Over,
            };
            if self.send(&stream, answer.header, answer.body).await.is_err() || answer.closes {
                return Ended::Over;
            }
            *waiting.as_mut().project().served = Instant::now();
        }
    }

    /// The next request, and the answer to it as far as it could not be sent at once.
    fn poll_next(&self, stream: &mut TcpStream, ahead: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<Next> {
        let mut scratch = self.scratch.borrow_mut();
        let Scratch { request, header } = &mut *scratch;
        if !ahead.is_empty() {
            let bytes = std::mem::take(ahead);
            return Poll::Ready(self.answer(stream, &bytes, header, ahead));
        }
        let mut read = ReadBuf::new(request);
        Poll::Ready(match ready!(Pin::new(&mut *stream).poll_read(cx, &mut read)) {
            Ok(()) if read.filled().is_empty() => Next::Over,
            Ok(()) => self.answer(stream, read.filled(), header, ahead),
            Err(_) => Next::Over,
        })
    }

    fn answer(&self, stream: &TcpStream, bytes: &[u8], header: &mut Vec<u8>, ahead: &mut Vec<u8>) -> Next {
        header.clear();
        let quick = QuickRequest::read(bytes);
        let found = quick.and_then(|quick| Some((quick, self.service.quick(&self.recent, &quick, header)?)));
        let Some((quick, body)) = found else {
            return Next::Hand(bytes.to_vec());
        };
        ahead.extend_from_slice(&bytes[quick.length()..]);
        let (header, body) = begin(stream, header, body);
        Next::Answer(Answer {
            header,
            body,
            closes: quick.closes(),
        })
    }

    /// Sends what is left of an answer.
    async fn send(&self, stream: &TcpStream, header: Bytes, body: QuickBody) -> io::Result<()> {
        write_all(stream, &header).await?;
        match body {
            QuickBody::Empty => Ok(()),
            QuickBody::Kept(bytes) => write_all(stream, &bytes).await,
            QuickBody::Object { object, range, target } => self.send_object(stream, &object, range, &target).await,
        }
    }

    async fn send_object(
        &self,
        stream: &TcpStream,
        object: &Arc<Object>,
        range: ByteRange,
        target: &Arc<Target>,
    ) -> io::Result<()> {
        let (mut at, end) = (range.start(), range.end());
        let (mut turn, mut call) = (0, CALL_BYTES);
        // Up to here it was brought into memory.
        let mut brought = at;
        while at < end {
            if turn >= TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
            let asked = (end - at).min(call);
            let len = usize::try_from(asked).unwrap_or(usize::MAX);
            match stream.try_io(Interest::WRITABLE, || object.send_now(stream, at, len)) {
                Ok(Some(count)) => {
                    let count = count as u64;
                    at += count;
                    turn += count;
                    call = if count < asked { RETRY_BYTES } else { CALL_BYTES };
                    self.service.metrics.sent_bytes.inc_by(count);
                }
                // What is absent is not the disk's to bring.
                Ok(None) if at >= brought && object.covers(range) => {
                    brought = end.min(at + BRING_BYTES);
                    uncork(stream);
                    bring(object, at, brought).await;
                }
                Ok(None) => {
                    let stretch = ByteRange::new(at, end.min(at + READ_ON_BYTES));
                    let Some(stretch) = stretch else { return Ok(()) };
                    self.read_on(stream, object, stretch, target).await?;
                    at = stretch.end();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    call = CALL_BYTES;
                    stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a stretch as the disk, or the upstream, gives it.
    async fn read_on(
        &self,
        stream: &TcpStream,
        object: &Arc<Object>,
        stretch: ByteRange,
        target: &Arc<Target>,
    ) -> io::Result<()> {
        uncork(stream);
        let mut body = pin!(self.service.read_on(object, stretch, target));
        let mut left = stretch.len();
        while left > 0 {
            let next = poll_fn(|cx| match body.as_mut().poll_next(cx) {
                // A player that has gone must be noticed while there is nothing to write to it.
                Poll::Pending => poll_gone(stream, cx).map(|()| None),
                Poll::Ready(next) => Poll::Ready(next),
            });
            let Some(Ok(bytes)) = next.await else {
                // Short of the promised length: whoever reads sees that the connection breaks.
                return Err(ErrorKind::UnexpectedEof.into());
            };
            left = left.saturating_sub(bytes.len() as u64);
            write_all(stream, &bytes).await?;
        }
        Ok(())
    }
}

pin_project! {
    /// What ends a connection that asks for nothing.
    struct Waiting<F> {
        #[pin]
        stopping: F,
        #[pin]
        idle: Sleep,
        served: Instant,
    }
}

impl<F: Future<Output = ()>> Waiting<F> {
    /// Ready when it is over. The timer is not told of each answer: it looks when the last one was when its time has
    /// come.
    fn poll_over(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.stopping.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            ready!(this.idle.as_mut().poll(cx));
            let until = *this.served + KEEP_ALIVE;
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            this.idle.as_mut().reset(until);
        }
    }
}

enum Next {
    Answer(Answer),
    Hand(Vec<u8>),
    Over,
}

/// What is left to be sent.
struct Answer {
    header: Bytes,
    body: QuickBody,
    closes: bool,
}

/// Sends the header, and a small body with it, as far as the socket takes them; returns the rest.
fn begin(stream: &TcpStream, header: &mut Vec<u8>, body: QuickBody) -> (Bytes, QuickBody) {
    let (flags, body) = match body {
        QuickBody::Kept(bytes) => {
            header.extend_from_slice(&bytes);
            (SendFlags::NOSIGNAL, QuickBody::Empty)
        }
        QuickBody::Empty => (SendFlags::NOSIGNAL, QuickBody::Empty),
        // The body follows in the same packet.
        body => (SendFlags::NOSIGNAL | SendFlags::MORE, body),
    };
    let sent = stream.try_io(Interest::WRITABLE, || Ok(rustix::net::send(stream, header, flags)?));
    // What went wrong is met again when the rest is written.
    let sent = sent.unwrap_or(0);
    (Bytes::copy_from_slice(&header[sent..]), body)
}

/// Has the header go out now, not when the kernel has waited for more to go with it.
fn uncork(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_tcp_nodelay(true);
}

/// Has the disk read, on a thread that may wait for it. What becomes of it is seen when it is sent.
async fn bring(object: &Arc<Object>, at: ByteOffset, end: ByteOffset) {
    let object = Arc::clone(object);
    let read = move || {
        let (mut at, mut more) = (at, true);
        while at < end && more {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX);
            let count = object.read_blocking(at, len).map_or(0, |bytes| bytes.len() as u64);
            at += count;
            more = count > 0;
        }
    };
    let _ = tokio::task::spawn_blocking(read).await;
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ready when the peer has closed its side.
fn poll_gone(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        if ready!(stream.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut byte = [0];
        let peek = || Ok(rustix::net::recv(stream, &mut byte, rustix::net::RecvFlags::PEEK)?.1);
        match stream.try_io(Interest::READABLE, peek) {
            Ok(0) => return Poll::Ready(()),
            // It has asked for more already, so it is there; whether it stays is seen when it is written to.
            Ok(_) => return Poll::Pending,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}
