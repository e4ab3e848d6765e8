//! A connection before it is actix's: whatever asks for something and sends no body is answered here.
//!
//! ```text
//! bytes of a request ──► a hit, plainly asked for? ── yes ──► header, then the body from the page cache ──► next
//!                                  │ no
//!                                  ├──► another request without a body ──► the application's answer ──► next
//!                                  └──► the connection, with the bytes that were read, is actix-http's to its end
//! ```
//!
//! What the framework does for a request (a pool of requests, a map of fields, a copy of the body into a write buffer)
//! costs as much as the kernel takes to send it, and it cannot send from the page cache at all.

use super::outgoing::{Outgoing, poll_gone};
use super::{KEEP_ALIVE, answered};
use crate::serve::{QuickBody, QuickRequest, Recent, Service};
use actix_web::dev::{Payload, RequestHead};
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use futures::future::{Either, select};
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The longest header that is read here.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

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

    /// Answers requests until one is not for here, or `stopping` says that no more are to be.
    pub(super) async fn converse(&self, mut stream: TcpStream, stopping: impl Future<Output = ()>) -> Ended {
        let mut waiting = pin!(Waiting {
            stopping,
            idle: sleep_until(Instant::now() + KEEP_ALIVE),
            served: Instant::now(),
        });
        // What came behind a request.
        let ahead = RefCell::new(Vec::new());
        loop {
            let next = poll_fn(|cx| match self.poll_next(&mut stream, &ahead, cx) {
                Poll::Pending => waiting.as_mut().poll_over(cx).map(|()| Next::Over),
                next => next,
            });
            let (sent, closes) = match next.await {
                Next::Hit { header, body, closes } => {
                    let out = Outgoing::new(&stream, &self.service, &ahead);
                    (out.hit(&header, body).await, closes)
                }
                Next::Ask { head, closes } => (self.ask(&stream, &ahead, &head, closes).await, closes),
                Next::Hand(bytes) => return Ended::Hand(stream, bytes),
                Next::Over => return Ended::Over,
            };
            if sent.is_err() || closes {
                return Ended::Over;
            }
            *waiting.as_mut().project().served = Instant::now();
        }
    }

    /// The next request, and the answer to it as far as it could not be sent at once.
    fn poll_next(&self, stream: &mut TcpStream, ahead: &RefCell<Vec<u8>>, cx: &mut Context<'_>) -> Poll<Next> {
        let mut scratch = self.scratch.borrow_mut();
        let Scratch { request, header } = &mut *scratch;
        let bytes = ahead.take();
        if !bytes.is_empty() {
            return Poll::Ready(self.begin(stream, &bytes, header, ahead));
        }
        let mut read = ReadBuf::new(request);
        Poll::Ready(match ready!(Pin::new(&mut *stream).poll_read(cx, &mut read)) {
            Ok(()) if read.filled().is_empty() => Next::Over,
            Ok(()) => self.begin(stream, read.filled(), header, ahead),
            Err(_) => Next::Over,
        })
    }

    fn begin(&self, stream: &TcpStream, bytes: &[u8], header: &mut Vec<u8>, ahead: &RefCell<Vec<u8>>) -> Next {
        header.clear();
        let Some(quick) = QuickRequest::read(bytes) else {
            return Next::Hand(bytes.to_vec());
        };
        let closes = quick.closes();
        let next = match self.service.quick(&self.recent, &quick, header) {
            Some(body) => {
                let (header, body) = Outgoing::new(stream, &self.service, ahead).begin_hit(header, body);
                Next::Hit { header, body, closes }
            }
            None => match quick.head(bytes, stream.peer_addr().ok()) {
                Some(head) => Next::Ask {
                    head: Box::new(head),
                    closes,
                },
                None => return Next::Hand(bytes.to_vec()),
            },
        };
        ahead.borrow_mut().extend_from_slice(&bytes[quick.length()..]);
        next
    }

    /// Has a request answered by the application. A client that leaves meanwhile takes its request along.
    async fn ask(
        &self,
        stream: &TcpStream,
        ahead: &RefCell<Vec<u8>>,
        head: &RequestHead,
        closes: bool,
    ) -> std::io::Result<()> {
        let response = match self.service.at_once(&self.recent, head) {
            Some(response) => response,
            None => {
                // In a place of its own: what a connection holds while it is sent to is less.
                let answered = Box::pin(answered(&self.service, head, Payload::None));
                let gone = pin!(poll_fn(|cx| poll_gone(stream, ahead, cx)));
                match select(answered, gone).await {
                    Either::Left((response, _)) => response,
                    Either::Right(((), _)) => return Err(std::io::ErrorKind::ConnectionAborted.into()),
                }
            }
        };
        let out = Outgoing::new(stream, &self.service, ahead);
        out.response(response, head.method == "HEAD", closes).await
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
    /// What is left to be sent of the answer to a hit.
    Hit {
        header: Bytes,
        body: QuickBody,
        closes: bool,
    },
    /// A request that has to be looked into.
    Ask {
        head: Box<RequestHead>,
        closes: bool,
    },
    Hand(Vec<u8>),
    Over,
}
