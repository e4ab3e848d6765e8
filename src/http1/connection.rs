//! HTTP/1.1 connections before they are actix's: requests without a body are answered here.
//!
//! ```text
//!                        bytes from `ahead`, else from the socket
//!         ┌──► waiting ───────────────────────────────────────────► begin
//!         │       │ keep-alive over, stopping,                         │
//!         │       ▼ or the client has closed                           │
//!         │     Over                                                   │
//!         │                                                            ▼
//!         │    Hand ◄── half a request, a body, HTTP/1.0, odd framing, /-/
//!         │     │       the bytes that were read go along (rewind.rs): actix-http's to its end
//!         │                                                            │
//!         │    Hit ◄─── a GET that the handler answers by `hit` ───────┤
//!         │     │       header and small body went out in `begin`      │
//!         │    Ask ◄─── any other GET or HEAD ─────────────────────────┘
//!         │     │       `at_once`, else `answer`; a client that leaves takes its request along
//!         │     ▼
//!         └── sent ──► an error, or `connection: close`: Over
//! ```
//!
//! The following is always true:
//!
//! - A connection that waits holds no buffer. Requests are read into one buffer of the worker, and headers made in
//!   another (`Scratch`); both are borrowed within one poll, never over an await.
//! - There is no half-read request here. One that has not come whole in one read is handed over with its bytes; the
//!   framework waits for the rest, and bounds how long.
//! - Bytes are answered in the order in which they came. What lies behind a request, and what comes while it is
//!   answered, is put into `ahead`, and is looked at before the socket is.
//! - Handing over is for good: the framework owns the socket from then on, and nothing would tell when its buffers are
//!   empty (docs/decisions/0014).
//! - A failure to send ends the connection. A body that breaks is cut short of its length, which the client sees.
//! - The order to stop, the idle time, and the table of connections that needs its place, end a connection only between
//!   two requests.
//!
//! The order of the three ways is that of their price (handler.rs). A hit costs a look into the worker's own table and
//! no word of the framework's; a request with conditions needs the framework's map of fields; all else has to wait. The
//! framework's work for a request (a pool of requests, a map of fields, a copy of the body into a write buffer) costs
//! as much as the kernel takes to send it, and it cannot send from the page cache at all.

use super::connection_table::SeatHandle;
use super::handler::{BodyOf, Handler};
use super::request_head::{FieldSlots, RequestHead};
use super::response_writer::{ResponseWriter, poll_gone};
use crate::clock::Instant;
use actix_web::dev;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use futures::future::{Either, select};
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep_until};

/// The longest header that is read here. A longer one is handed over. A judgement: the requests of players take some
/// hundred bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// The end of our part in a connection.
pub(super) enum Ended {
    /// The connection has served its time.
    Over,
    /// A request needs the framework; these bytes of it were read.
    Hand(TcpStream, Vec<u8>),
}

/// The state that the connections of one worker share.
#[derive(Debug)]
pub(crate) struct Http1Connections<H> {
    handler: H,
    /// How long a connection is kept on which no request comes.
    keep_alive: Duration,
    /// The request just read, and the header about to be sent: nothing lies here across an await.
    scratch: RefCell<Scratch>,
}

#[derive(Debug)]
struct Scratch {
    request: Vec<u8>,
    header: Vec<u8>,
}

impl<H: Handler> Http1Connections<H> {
    pub(crate) fn new(handler: H, keep_alive: Duration) -> Self {
        let scratch = Scratch {
            request: vec![0; MAX_REQUEST_BYTES],
            // A guess: it grows to the longest header, and stays.
            header: Vec::with_capacity(4096),
        };
        Self {
            handler,
            keep_alive,
            scratch: RefCell::new(scratch),
        }
    }

    /// Answers requests until one is not for here, or `stopping` says that no more are to be.
    pub(super) async fn serve(
        &self,
        mut stream: TcpStream,
        seat: &SeatHandle,
        stopping: impl Future<Output = ()>,
    ) -> Ended {
        let mut waiting = pin!(Waiting {
            stopping,
            idle: sleep_until(Instant::now() + self.keep_alive),
            keep_alive: self.keep_alive,
            served: Instant::now(),
        });
        // Bytes that came behind a request.
        let ahead = RefCell::new(Vec::new());
        loop {
            let next = poll_fn(|cx| match self.poll_next(&mut stream, &ahead, cx) {
                Poll::Pending if seat.poll_closes(cx).is_ready() => Poll::Ready(Next::Over),
                Poll::Pending => waiting.as_mut().poll_over(cx).map(|()| Next::Over),
                next => next,
            });
            let next = next.await;
            let busy = seat.begin();
            let (sent, closes) = match next {
                Next::Hit { header, body, closes } => {
                    let out = ResponseWriter::new(&stream, &self.handler, &ahead);
                    (out.hit(&header, body).await, closes)
                }
                Next::Ask { head, closes } => (self.ask(&stream, &ahead, &head, closes).await, closes),
                Next::Hand(bytes) => return Ended::Hand(stream, bytes),
                Next::Over => return Ended::Over,
            };
            if sent.is_err() || closes {
                return Ended::Over;
            }
            let now = Instant::now();
            *waiting.as_mut().project().served = now;
            busy.end(now);
        }
    }

    /// The next request, and the answer to it as far as it could not be sent at once.
    fn poll_next(
        &self,
        stream: &mut TcpStream,
        ahead: &RefCell<Vec<u8>>,
        cx: &mut Context<'_>,
    ) -> Poll<Next<BodyOf<H>>> {
        let mut scratch = self.scratch.borrow_mut();
        let Scratch { request, header } = &mut *scratch;
        // Older than what lies in the socket.
        let bytes = ahead.take();
        if !bytes.is_empty() {
            return Poll::Ready(self.begin(stream, &bytes, header, ahead));
        }
        let mut read = ReadBuf::new(request);
        Poll::Ready(match ready!(Pin::new(&mut *stream).poll_read(cx, &mut read)) {
            // No byte is the end: the client has closed.
            Ok(()) if read.filled().is_empty() => Next::Over,
            Ok(()) => self.begin(stream, read.filled(), header, ahead),
            Err(_) => Next::Over,
        })
    }

    fn begin(
        &self,
        stream: &TcpStream,
        bytes: &[u8],
        header: &mut Vec<u8>,
        ahead: &RefCell<Vec<u8>>,
    ) -> Next<BodyOf<H>> {
        header.clear();
        let mut slots = FieldSlots::default();
        let Some(request) = RequestHead::read(bytes, &mut slots) else {
            return Next::Hand(bytes.to_vec());
        };
        let closes = request.closes();
        let next = match self.handler.hit(&request, header) {
            Some(body) => {
                let (header, body) = ResponseWriter::new(stream, &self.handler, ahead).begin_hit(header, body);
                Next::Hit { header, body, closes }
            }
            None => match request.head(stream.peer_addr().ok()) {
                Some(head) => Next::Ask {
                    head: Box::new(head),
                    closes,
                },
                None => return Next::Hand(bytes.to_vec()),
            },
        };
        // `ahead` is empty here: `poll_next` has taken what lay there.
        ahead.borrow_mut().extend_from_slice(&bytes[request.length()..]);
        next
    }

    /// Has a request answered by the handler. A client that leaves meanwhile takes its request along.
    async fn ask(
        &self,
        stream: &TcpStream,
        ahead: &RefCell<Vec<u8>>,
        head: &dev::RequestHead,
        closes: bool,
    ) -> std::io::Result<()> {
        let may_half_close = self.handler.may_half_close(head);
        let response = match self.handler.at_once(head) {
            Some(response) => response,
            None => {
                // In a place of its own: what a connection holds while it is sent to is less.
                let answering = Box::pin(self.handler.answer(head));
                let gone = pin!(poll_fn(|cx| poll_gone(stream, ahead, may_half_close, cx)));
                match select(answering, gone).await {
                    Either::Left((response, _)) => response,
                    Either::Right(((), _)) => return Err(std::io::ErrorKind::ConnectionAborted.into()),
                }
            }
        };
        let out = ResponseWriter::new(stream, &self.handler, ahead).for_half_closed(may_half_close);
        out.response(response, head.method == "HEAD", closes).await
    }
}

pin_project! {
    /// The time-outs that end an idle connection.
    struct Waiting<F> {
        #[pin]
        stopping: F,
        #[pin]
        idle: Sleep,
        keep_alive: Duration,
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
            let until = *this.served + *this.keep_alive;
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            this.idle.as_mut().reset(until);
        }
    }
}

enum Next<B> {
    /// The rest of the answer to a hit.
    Hit {
        header: Bytes,
        body: B,
        closes: bool,
    },
    /// A request that has to be looked into.
    Ask {
        head: Box<dev::RequestHead>,
        closes: bool,
    },
    Hand(Vec<u8>),
    Over,
}
