//! A file of the tree, as an answer to GET and HEAD.
//!
//! The same decisions as for a stored object (`answer.rs`), the same segments and pace, the same reads. What is
//! different is that others may write to the file while it is sent: one response is of one state of it, so each
//! block counts only if the file is still in the state in which it was opened. Where it is not, the body breaks.

use super::Origin;
use crate::header::{EntityTag, Known, print_date, repr_digest};
use crate::origin::{Found, INLINE_BYTES, OriginError, Stamp, Tag, TreePath, stamp, weak_tag};
use crate::ranges::{ByteOffset, ByteRange};
use crate::serve::answer::{Answer, Facts, answer};
use crate::serve::body::{HeadOnly, first_byte};
use crate::serve::multipart::{self, Segment};
use crate::serve::pace::Pace;
use crate::serve::problem::unsatisfied;
use crate::serve::request::Request;
use crate::store::{read_blocking, read_now};
use crate::telemetry::Metrics;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often a file is opened again that is written while it is read for its tag.
const MAX_CHANGING: usize = 3;

/// How much older than now a time must be to tell states apart by itself (RFC 9110 §8.8.2.2).
const STRONG_AFTER: Duration = Duration::from_secs(2);

/// A file, and what is known of its bytes.
pub(super) struct Tagged {
    file: File,
    pub(super) stamp: Stamp,
    pub(super) tag: Tag,
}

impl Origin {
    /// The tag of an open file: read at once where the file is small, later where it is not.
    pub(super) async fn tagged(&self, path: &TreePath, file: File, stamp: Stamp) -> Result<Tagged, OriginError> {
        let tag = self.tags.at_once(&stamp);
        if matches!(tag, Tag::Strong(_)) {
            return Ok(Tagged { file, stamp, tag });
        }
        if stamp.size > INLINE_BYTES {
            self.summing.ask(path);
            return Ok(Tagged { file, stamp, tag });
        }
        let (tree, tags, path) = (Arc::clone(&self.tree), Arc::clone(&self.tags), path.clone());
        let read = move || {
            let mut file = file;
            for _ in 0..MAX_CHANGING {
                match tags.digest(&file) {
                    Ok((stamp, digest)) => {
                        return Ok(Tagged {
                            file,
                            stamp,
                            tag: Tag::Strong(digest),
                        });
                    }
                    Err(OriginError::Changing) => {}
                    Err(error) => return Err(error),
                }
                match tree.find(&path)? {
                    Found::File(again, _) => file = again,
                    Found::Collection(..) => return Err(OriginError::Changing),
                }
            }
            let stamp = crate::origin::stamp(&file)?;
            let tag = Tag::Weak(stamp);
            Ok(Tagged { file, stamp, tag })
        };
        self.blocking(read).await
    }

    /// The answer to a GET or HEAD of a file.
    pub(super) fn send_file(&self, path: &TreePath, request: &Request<'_>, tagged: Tagged) -> HttpResponse {
        let Tagged { file, stamp, tag } = tagged;
        let etag = tag.entity_tag();
        // Who has the file under the tag of before it was read has the same bytes.
        let theirs = request.question.conditions.if_none_match;
        let weak = theirs.map(|_| weak_tag(&stamp).to_string());
        let now = self.clock.now();
        let modified = stamp.modified_at().min(now);
        let known = Known {
            etag: &etag,
            weak_etag: weak.as_deref(),
            modified: Some(modified),
            strong_date: modified + STRONG_AFTER <= now,
            dated: None,
        };
        let facts = Facts {
            status: 200,
            length: Some(stamp.size),
            known,
            coded: false,
        };
        let decided = answer(request.question, facts);
        let media = media_type(path);
        let (status, segments, multipart) = match &decided {
            Answer::NotModified => {
                let named = weak.filter(|weak| theirs.is_some_and(|theirs| theirs.contains(weak)));
                let shown = named.unwrap_or_else(|| etag.to_string());
                return head(StatusCode::NOT_MODIFIED, &shown, modified).finish();
            }
            Answer::PreconditionFailed => {
                return head(StatusCode::PRECONDITION_FAILED, &etag.to_string(), modified).finish();
            }
            Answer::Unsatisfiable(size) => return unsatisfied(Some(*size)).finish(),
            Answer::Whole(_) => {
                let all = ByteRange::new(0, stamp.size).map(Segment::Object);
                (StatusCode::OK, all.into_iter().collect(), None)
            }
            Answer::Parts(ranges, size) => {
                let (segments, multipart) = multipart::parts(ranges, *size, &etag.to_string(), Some(&media));
                (StatusCode::PARTIAL_CONTENT, segments, multipart)
            }
        };
        let mut head = head(status, &etag.to_string(), modified);
        if let Answer::Parts(ranges, size) = &decided
            && let [range] = ranges[..]
        {
            let part = crate::header::ContentRange::Part {
                range,
                size: Some(*size),
            };
            head.insert_header((header::CONTENT_RANGE, part.field()));
        }
        head.insert_header((header::CONTENT_TYPE, multipart.as_deref().unwrap_or(&media)));
        if self.settings.writable && runs_scripts(&media) {
            // What somebody has put here must not act in the name of who looks at it.
            head.insert_header((header::CONTENT_SECURITY_POLICY, "sandbox"));
        }
        if let (true, Some(digest)) = (request.wants_digest, tag.digest()) {
            head.insert_header((HeaderName::from_static("repr-digest"), repr_digest(digest)));
        }
        if request.head_only {
            return head.body(HeadOnly::of(&segments));
        }
        let strong = !EntityTag::is_weak(&etag);
        head.body(FileBody::new(file, stamp, strong, segments, Arc::clone(&self.metrics)))
    }
}

fn head(status: StatusCode, etag: &str, modified: std::time::SystemTime) -> HttpResponseBuilder {
    let mut head = HttpResponse::build(status);
    head.insert_header((header::ETAG, etag))
        .insert_header((header::LAST_MODIFIED, print_date(modified)))
        .insert_header((header::ACCEPT_RANGES, HeaderValue::from_static("bytes")))
        .insert_header((header::CACHE_CONTROL, super::CACHE_CONTROL))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    head
}

/// The media type that the name's extension suggests.
pub(super) fn media_type(path: &TreePath) -> String {
    let extension = path.name().and_then(|name| Some(name.rsplit_once('.')?.1));
    let guess = extension.map(actix_files::file_extension_to_mime);
    guess.map_or_else(|| "application/octet-stream".to_owned(), |media| media.to_string())
}

fn runs_scripts(media: &str) -> bool {
    media.contains("html") || media.contains("svg") || media.contains("xml")
}

/// Why the body of a file breaks.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the file was written to while it was sent")]
    Changed,
    #[error("the disk did not give the file's bytes: {0}")]
    Disk(#[from] io::Error),
    #[error("a reading thread was lost")]
    Lost,
}

/// The bytes of one state of a file.
struct FileBody {
    file: Arc<File>,
    /// The state that is sent.
    state: Stamp,
    /// It goes out under a strong tag: then not even its end may have moved.
    strong: bool,
    segments: VecDeque<Segment>,
    size: u64,
    at: ByteOffset,
    pace: Pace,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// Why the body ends before its time, while what came before goes out.
    cut: Option<Cut>,
    metrics: Arc<Metrics>,
}

impl FileBody {
    fn new(file: File, state: Stamp, strong: bool, segments: Vec<Segment>, metrics: Arc<Metrics>) -> Self {
        Self {
            file: Arc::new(file),
            state,
            strong,
            size: segments.iter().filter_map(Segment::len).sum(),
            at: first_byte(segments.first()),
            segments: segments.into(),
            pace: Pace::new(),
            reading: None,
            cut: None,
            metrics,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            let end = match self.segments.front() {
                None => return Poll::Ready(None),
                Some(Segment::Text(text)) => {
                    let text = text.clone();
                    self.next_segment();
                    return Poll::Ready(Some(Ok(text)));
                }
                Some(Segment::Object(range)) => range.end(),
                Some(Segment::ToEnd(_)) => self.state.size,
            };
            if self.at == end {
                self.next_segment();
                continue;
            }
            if self.pace.rests(cx) {
                return Poll::Pending;
            }
            let read = ready!(self.poll_read(end, cx));
            return Poll::Ready(Some(read.and_then(|block| match self.is_unchanged() {
                true => {
                    self.at += block.len() as u64;
                    self.pace.sent(block.len() as u64);
                    Ok(block)
                }
                false => Err(Cut::Changed),
            })));
        }
    }

    fn poll_read(&mut self, end: ByteOffset, cx: &mut Context<'_>) -> Poll<Result<Bytes, Cut>> {
        if self.reading.is_none() {
            let block = self.pace.block_bytes();
            let len = usize::try_from(end - self.at).map_or(block, |len| len.min(block));
            if let Some(block) = read_now(&self.file, self.at, len)? {
                return Poll::Ready(Ok(block));
            }
            let (file, at) = (Arc::clone(&self.file), self.at);
            self.reading = Some(tokio::task::spawn_blocking(move || read_blocking(&file, at, len)));
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Pending;
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map_err(|_| Cut::Lost).and_then(|read| Ok(read?)))
    }

    /// Whether what was just read is of the state that is sent. A recording that grows has, under its weak tag, the
    /// bytes that were promised.
    fn is_unchanged(&self) -> bool {
        let state = &self.state;
        stamp(&*self.file).is_ok_and(|now| {
            (now.modified, now.size) == (state.modified, state.size) || (!self.strong && now.size > state.size)
        })
    }

    fn next_segment(&mut self) {
        self.segments.pop_front();
        self.at = first_byte(self.segments.front());
    }
}

impl MessageBody for FileBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(cut) = self.cut.take() {
            self.metrics.broken_bodies.inc();
            tracing::warn!(%cut, "breaking a connection");
            return Poll::Ready(Some(Err(cut.into())));
        }
        match ready!(self.poll_piece(cx)) {
            Some(Ok(bytes)) => {
                self.metrics.sent_bytes.inc_by(bytes.len() as u64);
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(cut)) => {
                // The head, and what came before the cut, go out first: an error ends the connection at once.
                self.cut = Some(cut);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}
