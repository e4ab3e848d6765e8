//! HTTP/2 connections, answered by the application.
//!
//! ```text
//! handshake ──► accept ──► one task a stream: request ─► application ─► head ─► pieces, as the client has room
//!     │            │ the order to stop, or nothing asked for KEEP_ALIVE
//!     ▼            ▼
//!  too slow     GOAWAY; streams under way go on to their end
//! ```
//!
//! The framework's own dispatcher bounds neither the number of streams nor the size of a head, nor does it close a
//! connection that is idle but answers pings; so connections are driven here, with the `h2` library. Always true:
//!
//! - What one connection can make us hold is bounded: [`MAX_STREAMS`] streams, heads of [`MAX_HEAD_BYTES`], and
//!   [`CONNECTION_WINDOW`] of what it uploads. Of an answer a stream holds one piece.
//! - A promised length is kept, or the stream is reset: a body that breaks is never ended quietly.
//! - A client that resets a stream takes its request along, also while nothing is sent.
//! - The application sees a request as it would of HTTP/1.1: a path, and the authority in `Host`.

use super::KEEP_ALIVE;
use crate::clock::{Instant, SharedClock};
use crate::header::print_date;
use crate::http1::SeatHandle;
use actix_http::error::PayloadError;
use actix_http::{BoxedPayloadStream, Payload, Request};
use actix_service::Service;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{RequestHead, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, Uri, Version};
use actix_web::{Error, HttpResponse};
use bytes::Bytes;
use futures::Stream;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

/// Streams that a connection may have at once: RFC 9113 §6.5.2 recommends no fewer.
const MAX_STREAMS: u32 = 100;

/// The largest list of fields of one request. A judgement: half of what the framework takes of HTTP/1.1.
const MAX_HEAD_BYTES: u32 = 64 * 1024;

/// Bytes that a client may upload ahead of what is read of one stream. A judgement: 80 ms at 100 Mbit/s.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same of all streams of a connection together. A judgement: four streams at full speed.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Bytes of one stream that wait to be written. A judgement, as much as the kernel holds unsent of a connection.
const SEND_BUFFER: usize = 256 * 1024;

/// The longest that a client may take to begin to speak HTTP/2. A judgement.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// The longest that a client may take to close a connection that was told to go. A judgement.
const GOAWAY_WAIT: Duration = Duration::from_secs(1);

/// Answers the requests of one connection, until it is closed or `stopping` says that no more are to be.
pub(super) async fn serve<I, S>(
    io: I,
    peer: Option<SocketAddr>,
    (application, clock, seat): (Rc<S>, SharedClock, SeatHandle),
    stopping: impl Future<Output = ()>,
) where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request, Response = ServiceResponse, Error = Error> + 'static,
{
    let handshake = Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(io);
    let Ok(Ok(mut connection)) = timeout(HANDSHAKE_WAIT, handshake).await else {
        return;
    };
    let served = Rc::new(Cell::new(Instant::now()));
    let (mut idle, mut stopping) = (pin!(sleep(KEEP_ALIVE)), pin!(stopping));
    // Whether the client has been told to go.
    let mut goes = false;
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(Next::Accepted(Box::new(accepted)));
            }
            let is_asked = seat.poll_closes(cx).is_ready() && !connection.has_streams();
            if !goes && (is_asked || stopping.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Next::Stop);
            }
            idle.as_mut().poll(cx).map(|()| Next::Idle)
        });
        match next.await {
            Next::Accepted(accepted) => {
                let Some(Ok((request, respond))) = *accepted else {
                    return;
                };
                let (application, served, clock) = (Rc::clone(&application), Rc::clone(&served), Arc::clone(&clock));
                let busy = seat.begin();
                actix_web::rt::spawn(async move {
                    let _busy = busy;
                    answer(request, respond, peer, &*application, &clock).await;
                    served.set(Instant::now());
                });
            }
            Next::Stop => {
                goes = true;
                connection.graceful_shutdown();
                // A client that sleeps acknowledges nothing: it is not waited for.
                idle.as_mut().reset(Instant::now() + GOAWAY_WAIT);
            }
            Next::Idle if goes && connection.has_streams() => idle.as_mut().reset(Instant::now() + GOAWAY_WAIT),
            Next::Idle if goes => return,
            Next::Idle => match idle_until(&mut connection, served.get()) {
                Some(until) => idle.as_mut().reset(until),
                None => {
                    goes = true;
                    connection.graceful_shutdown();
                    idle.as_mut().reset(Instant::now() + GOAWAY_WAIT);
                }
            },
        }
    }
}

/// A request that has come, with the handle for its answer; `None` at the end of the connection.
type Accepted = Option<Result<(http::Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

enum Next {
    Accepted(Box<Accepted>),
    Stop,
    Idle,
}

/// The time until which a connection may stay idle; `None` where that is over.
fn idle_until<I: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<I, Bytes>,
    served: Instant,
) -> Option<Instant> {
    let now = Instant::now();
    let until = match connection.has_streams() {
        true => now + KEEP_ALIVE,
        false => served + KEEP_ALIVE,
    };
    (until > now).then_some(until)
}

/// Has one request answered, and sends the answer.
async fn answer<S>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: Option<SocketAddr>,
    application: &S,
    clock: &SharedClock,
) where
    S: Service<Request, Response = ServiceResponse, Error = Error>,
{
    let Some(request) = read(request, peer) else {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    };
    let head_only = request.head().method == Method::HEAD;
    let mut answering = pin!(application.call(request));
    let answered = poll_fn(|cx| {
        if let Poll::Ready(answered) = answering.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        // A client that leaves takes its request along.
        respond.poll_reset(cx).map(|_| None)
    });
    let response = match answered.await {
        None => return,
        Some(Ok(response)) => response.into_parts().1,
        Some(Err(error)) => HttpResponse::from_error(error),
    };
    if let Err(error) = send(response, respond, head_only, clock.now()).await {
        tracing::debug!(%error, "an HTTP/2 stream ended before its answer");
    }
}

/// The request in the framework's words; `None` where it has none for it.
fn read(request: http::Request<RecvStream>, peer: Option<SocketAddr>) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let mut head = RequestHead::default();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    head.uri = Uri::try_from(target).ok()?;
    head.version = Version::HTTP_2;
    head.peer_addr = peer;
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (name, value) in &parts.headers {
        if name == http::header::COOKIE {
            cookies.push(value.as_bytes());
            continue;
        }
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers
            .append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if !cookies.is_empty() {
        // Clients may send each cookie as a field of its own (RFC 9113 §8.2.3).
        let cookies = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).ok()?;
        head.headers.insert(header::COOKIE, cookies);
    }
    if let Some(authority) = parts.uri.authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        head.headers.insert(header::HOST, HeaderValue::from_str(host).ok()?);
    }
    let payload = match body.is_end_stream() {
        true => Payload::None,
        false => {
            if !head.headers.contains_key(header::CONTENT_LENGTH) {
                // The sign by which a body without a length is known behind here (RFC 9112 §6).
                let chunked = HeaderValue::from_static("chunked");
                head.headers.insert(header::TRANSFER_ENCODING, chunked);
            }
            Payload::from(Box::pin(Upload(body)) as BoxedPayloadStream)
        }
    };
    let mut request = Request::with_payload(payload);
    *request.head_mut() = head;
    Some(request)
}

/// The body of a request; what is taken of it makes room for more.
struct Upload(RecvStream);

impl Stream for Upload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.0.poll_data(cx));
        if let Some(Ok(bytes)) = &piece {
            // An error of the connection is met again when the next piece is read.
            let _ = self.0.flow_control().release_capacity(bytes.len());
        }
        let broken = |error| PayloadError::Io(std::io::Error::other::<h2::Error>(error));
        Poll::Ready(piece.map(|piece| piece.map_err(broken)))
    }
}

/// Sends a response: its head, then its body as the client has room for it.
async fn send(
    response: HttpResponse,
    mut respond: SendResponse<Bytes>,
    head_only: bool,
    now: SystemTime,
) -> Result<(), h2::Error> {
    let (head, body) = response.into_parts();
    let is_bodiless = matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let promised = match body.size() {
        _ if is_bodiless => None,
        BodySize::None => Some(0),
        BodySize::Sized(length) => Some(length),
        BodySize::Stream => None,
    };
    let ends = head_only || is_bodiless || promised == Some(0);
    let mut stream = respond.send_response(head_of(&head, promised, now), ends)?;
    if ends {
        return Ok(());
    }
    let (mut body, mut sent) = (pin!(body), 0);
    loop {
        let piece = poll_fn(|cx| {
            if let Poll::Ready(piece) = body.as_mut().poll_next(cx) {
                return Poll::Ready(Some(piece));
            }
            stream.poll_reset(cx).map(|_| None)
        });
        match piece.await {
            // The client has reset the stream.
            None => return Ok(()),
            Some(Some(Ok(bytes))) => {
                sent += bytes.len() as u64;
                send_piece(&mut stream, bytes).await?;
            }
            Some(None) if promised.is_none_or(|promised| promised == sent) => {
                return stream.send_data(Bytes::new(), true);
            }
            // The promised length will not be kept, which the client must see.
            Some(None | Some(Err(_))) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
        }
    }
}

/// Sends one piece, a window of the client's at a time.
async fn send_piece(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => room?,
            // The stream is no longer open to us.
            None => return Err(Reason::STREAM_CLOSED.into()),
        };
        let piece = bytes.split_to(room.min(bytes.len()));
        stream.send_data(piece, false)?;
    }
    Ok(())
}

/// The head of a response, without the fields that HTTP/2 does not have (RFC 9113 §8.2.2).
fn head_of(response: &HttpResponse<()>, promised: Option<u64>, now: SystemTime) -> http::Response<()> {
    let dropped = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let mut head = http::Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(response.status().as_u16()).unwrap_or_default();
    let fields = head.headers_mut();
    for (name, value) in response.headers().iter().filter(|(name, _)| !dropped.contains(name)) {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_bytes(value.as_bytes())) {
            fields.append(name, value);
        }
    }
    if let Some(length) = promised {
        fields.insert(http::header::CONTENT_LENGTH, length.into());
    }
    if !fields.contains_key(http::header::DATE)
        && let Ok(date) = http::HeaderValue::from_str(&print_date(now))
    {
        fields.insert(http::header::DATE, date);
    }
    head
}
