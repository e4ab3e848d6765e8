//! The access log: a line of JSON for each request, written when its answer has been sent, or was broken off.
//!
//! Lines go through a bounded queue to a thread of their own, so that a slow disk delays no answer; a line that finds
//! the queue full is dropped and counted, and the count stands in the next line. A file that was moved away
//! (logrotate) is made anew within a second. Credentials are never written, nor the values of query parameters whose
//! names look like one.

use crate::clock::Instant;
use crate::clock::SharedClock;
use crate::http1::{BodyPiece, Response, ResponseBody, StoredBody};
use crate::masking::without_secrets;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderName};
use bytes::Bytes;
use serde::Serialize;
use std::borrow::Cow;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The lines that may wait for the disk: a judgement.
const MAX_WAITING: usize = 4096;

/// The interval at which the file is looked for at its path. A judgement.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest field of a client's that is written, in bytes: a judgement.
const MAX_FIELD_BYTES: usize = 512;

/// The caller of a request, as its line has it.
pub(super) struct LoggedCaller {
    /// The client's address, where it is known.
    pub(super) address: Option<IpAddr>,
    /// The name of the token that it has shown.
    pub(super) token: Option<String>,
}

/// An open access log.
#[derive(Debug)]
pub struct AccessLog {
    sender: SyncSender<Message>,
    /// The lines that found no room since the last one that did; the next line tells them. Relaxed: the count belongs
    /// to no other data, and the channel orders the lines.
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Box<LogLine>),
    /// Flushes the lines so far, and reports back.
    Flush(SyncSender<()>),
}

#[derive(Debug, Serialize)]
struct LogLine {
    time: String,
    client: Option<String>,
    /// The name of the token.
    token: Option<String>,
    method: String,
    target: String,
    status: u16,
    /// Bytes of the body that were handed to the connection.
    bytes: u64,
    /// Whether the body was sent to its end.
    whole: bool,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    /// The number of lines before this one that found the queue full.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

impl AccessLog {
    /// Opens a log; lines go to its end.
    ///
    /// # Errors
    /// Where the file cannot be written to.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = open_for_append(path)?;
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("millpond-log".to_owned())
            .spawn(move || write_lines(&path, file, &receiver))?;
        Ok(Self {
            sender,
            lost: Arc::default(),
        })
    }

    /// Returns when all lines so far are in the file.
    pub fn flush(&self) {
        let (done, over) = sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            let _ = over.recv();
        }
    }

    /// The same response, whose line is written when its body is over or dropped.
    pub(super) fn log_when_sent(
        &self,
        caller: LoggedCaller,
        head: &RequestHead,
        begun: Instant,
        clock: &SharedClock,
        response: Response,
    ) -> Response {
        let field = |name: HeaderName| {
            let text = String::from_utf8_lossy(head.headers.get(name)?.as_bytes()).into_owned();
            Some(shortened(text))
        };
        let line = LogLine {
            time: rfc3339(clock.now()),
            client: caller.address.map(|address| address.to_string()),
            token: caller.token,
            method: head.method.to_string(),
            target: shortened(without_secrets(&target_of(head)).into_owned()),
            status: response.status().as_u16(),
            bytes: 0,
            whole: false,
            seconds: 0.0,
            range: field(header::RANGE),
            user_agent: field(header::USER_AGENT),
            referer: field(header::REFERER).map(|referer| without_secrets(&referer).into_owned()),
            lost: None,
        };
        let is_bodiless = matches!(response.size(), BodySize::None | BodySize::Sized(0)) || head.method == "HEAD";
        let mut entry = LogEntry {
            line: Some(Box::new(line)),
            size: response.size(),
            begun,
            whole: is_bodiless,
            sender: self.sender.clone(),
            lost: Arc::clone(&self.lost),
        };
        let Response { head, body } = response;
        let body = match body {
            ResponseBody::HeadOnly(body) => ResponseBody::HeadOnly(body),
            ResponseBody::Memory(bytes) => {
                entry.sent(bytes.len() as u64);
                ResponseBody::Memory(bytes)
            }
            ResponseBody::Stored(body) => ResponseBody::Stored(Box::new(LoggedBody { body, entry })),
            ResponseBody::Stream(body) => ResponseBody::Stream(BoxBody::new(LoggedBody { body, entry })),
        };
        Response::new(head, body)
    }
}

/// The line of one answer, which counts what is sent, and is written when it is dropped.
struct LogEntry {
    line: Option<Box<LogLine>>,
    /// The length that is promised.
    size: BodySize,
    begun: Instant,
    whole: bool,
    sender: SyncSender<Message>,
    /// That of the log. Relaxed, as there.
    lost: Arc<AtomicU64>,
}

impl LogEntry {
    /// Notes that bytes of the body were handed to the connection.
    fn sent(&mut self, bytes: u64) {
        if let Some(line) = &mut self.line {
            line.bytes += bytes;
            // A sized body is not polled again once all of it has come.
            self.whole = matches!(self.size, BodySize::Sized(promised) if promised == line.bytes);
        }
    }
}

/// A body whose bytes are counted, however they are sent.
struct LoggedBody<B> {
    body: B,
    entry: LogEntry,
}

impl<B: MessageBody + Unpin> MessageBody for LoggedBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_next(cx);
        match &polled {
            Poll::Ready(Some(Ok(bytes))) => self.entry.sent(bytes.len() as u64),
            Poll::Ready(None) => self.entry.whole = true,
            _ => {}
        }
        polled
    }
}

impl StoredBody for LoggedBody<Box<dyn StoredBody>> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Box<dyn Error>>>> {
        let polled = self.body.poll_piece(cx);
        match &polled {
            Poll::Ready(Some(Ok(BodyPiece::Memory(bytes)))) => self.entry.sent(bytes.len() as u64),
            Poll::Ready(None) => self.entry.whole = true,
            _ => {}
        }
        polled
    }

    fn sent(&mut self, bytes: u64) {
        self.body.sent(bytes);
        self.entry.sent(bytes);
    }
}

impl Drop for LogEntry {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        line.whole = self.whole;
        line.seconds = (self.begun.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        // Relaxed: the count belongs to no other data, and the channel orders the lines.
        line.lost = Some(self.lost.swap(0, Ordering::Relaxed)).filter(|lost| *lost > 0);
        let lost = line.lost.unwrap_or_default();
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Line(line)) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

fn write_lines(path: &Path, file: File, receiver: &Receiver<Message>) {
    let mut writer = BufWriter::new(file);
    let mut looked = Instant::now();
    let mut told = false;
    loop {
        // All lines that have come are written in one go, and flushed before this thread waits for more.
        let message = match receiver.try_recv() {
            Ok(message) => Ok(message),
            Err(_) => {
                let flushed = writer.flush();
                report_once(path, flushed, &mut told);
                receiver.recv_timeout(LOOK_EVERY)
            }
        };
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            if let (false, Ok(file)) = (is_same_file(path, writer.get_ref()), open_for_append(path)) {
                let _ = writer.flush();
                writer = BufWriter::new(file);
            }
        }
        match message {
            Ok(Message::Line(line)) => {
                let mut text = serde_json::to_vec(&line).unwrap_or_default();
                text.push(b'\n');
                let written = writer.write_all(&text);
                report_once(path, written, &mut told);
            }
            Ok(Message::Flush(done)) => {
                let flushed = writer.flush();
                report_once(path, flushed, &mut told);
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Reports a failure to write once, and again after a write has succeeded in between.
fn report_once(path: &Path, written: std::io::Result<()>, told: &mut bool) {
    match written {
        Ok(()) => *told = false,
        Err(error) if !*told => {
            tracing::error!(path = %path.display(), %error, "could not write the access log");
            *told = true;
        }
        Err(_) => {}
    }
}

fn open_for_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn is_same_file(path: &Path, file: &File) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (there, here) = (std::fs::metadata(path).map(id), file.metadata().map(id));
    matches!((there, here), (Ok(there), Ok(here)) if there == here)
}

/// The target as it came.
fn target_of(head: &RequestHead) -> Cow<'_, str> {
    match head.uri.query() {
        None => Cow::Borrowed(head.uri.path()),
        Some(query) => Cow::Owned(format!("{}?{query}", head.uri.path())),
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_FIELD_BYTES {
        let mut end = MAX_FIELD_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_field_is_cut_at_a_character() {
        assert_eq!(shortened("é".repeat(400)).chars().count(), 257);
    }
}
