//! A file of the tree, as an answer to GET and HEAD.
//!
//! A file is answered by the same pure decision as a stored object (`decide.rs`), in the same segments and at the same
//! pace; `file_source.rs` gives the bytes. A small file is hashed before the header, so its tag is its digest; a large
//! file has a tag of its stamp (`digest_cache.rs`).
//!
//! Preconditions of reads accept every tag under which a client may have been given the state that is sent: the strong
//! one, the weak one from before the file had rested and, in `If-Match`, either without its `W/`, which VLC cuts off.

use super::file_source::FileSource;
use super::open_file::OpenFile;
use super::{DirectoryService, http_date};
use crate::directory::{AllowedMounts, Digest, DirectoryError, Found, INLINE_BYTES, Stamp, Tag, TreePath};
use crate::header::{EntityTag, Known, list_members, repr_digest};
use crate::http1::{HeadOnly, Response, ResponseBody};
use crate::proxy::multipart::{self, Segment};
use crate::proxy::{Answer, Facts, Question, Request, SegmentedBody, answer, unsatisfied};
use crate::ranges::ByteRange;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The attempts at reading a file for its tag while it is written to; then it is sent under a weak tag. A judgement.
const MAX_CHANGING: usize = 3;

/// The age from which a date is a strong validator: a judgement, twice the one second that RFC 9110 §8.8.2.2 asks
/// for.
const STRONG_AFTER: Duration = Duration::from_secs(2);

/// The age from which a file's date is told. A file that is written twice within one second would have one date for two
/// states. One second: that is as exact as an HTTP date (RFC 9110 §5.6.7).
pub(super) const DATED_AFTER: Duration = Duration::from_secs(1);

/// An open file and its entity tag.
pub(super) struct TaggedFile {
    file: OpenFile,
    pub(super) stamp: Stamp,
    pub(super) tag: Tag,
}

impl DirectoryService {
    /// The tag of an open file. A small one is hashed now, a large one is queued to be hashed.
    pub(super) async fn tag_file(
        &self,
        path: &TreePath,
        allowed: &AllowedMounts,
        file: OpenFile,
        stamp: Stamp,
    ) -> Result<TaggedFile, DirectoryError> {
        let tag = self.tags.tag_without_reading(&stamp);
        if stamp.size > INLINE_BYTES && self.tags.digest_of(&stamp).is_none() {
            self.digest_queue.enqueue(path);
        }
        if tag.is_strong() || stamp.size > INLINE_BYTES {
            return Ok(TaggedFile { file, stamp, tag });
        }
        let (tree, tags, of) = (Arc::clone(&self.tree), Arc::clone(&self.tags), path.clone());
        let (allowed, reading) = (allowed.clone(), file.threads().permits.clone());
        let read = move || {
            let mut file = file;
            for _ in 0..MAX_CHANGING {
                match tags.read_digest(file.file()) {
                    Ok((stamp, digest)) => {
                        return Ok(TaggedFile {
                            file,
                            stamp,
                            tag: Tag::Strong(digest),
                        });
                    }
                    Err(DirectoryError::ChangedMeanwhile) => {}
                    Err(error) => return Err(error),
                }
                match tree.find_through(&of, &allowed)? {
                    Found::File(again, _) => file = OpenFile::new(again, file.threads().clone()),
                    Found::Collection(..) => return Err(DirectoryError::ChangedMeanwhile),
                }
            }
            let stamp = crate::directory::stamp(file.file())?;
            let tag = Tag::Weak(stamp);
            Ok(TaggedFile { file, stamp, tag })
        };
        self.disk().run_with_permit(reading, read).await
    }

    /// The answer to a GET or HEAD of a file.
    pub(super) fn send_file(&self, path: &TreePath, request: &Request<'_>, tagged: TaggedFile) -> Response {
        let TaggedFile { file, stamp, tag } = tagged;
        let etag = tag.entity_tag();
        let theirs = request.question.conditions.if_none_match;
        let given = GivenTags::new(self, &stamp, &etag, request.question);
        let question = given.translate(request.question);
        let now = self.clock.now();
        let modified = stamp.modified_at().min(now);
        let known = Known {
            etag: &etag,
            weak_etag: None,
            modified: Some(modified),
            strong_date: modified + STRONG_AFTER <= now,
            dated: None,
        };
        let facts = Facts {
            status: 200,
            length: Some(stamp.size),
            known,
            content_encoded: false,
        };
        let decided = answer(question, facts);
        let media = media_type(path);
        let head = |status, etag: &str| self.file_head(status, etag, path, &stamp, now);
        let (status, segments, multipart) = match &decided {
            Answer::NotModified => {
                let named = theirs.and_then(|theirs| given.named_by(theirs));
                let shown = named.unwrap_or_else(|| etag.to_string());
                return head(StatusCode::NOT_MODIFIED, &shown).finish().into();
            }
            Answer::PreconditionFailed => {
                return head(StatusCode::PRECONDITION_FAILED, &etag.to_string()).finish().into();
            }
            Answer::Unsatisfiable(size) => return unsatisfied(Some(*size)).finish().into(),
            Answer::Whole(_) => {
                let all = ByteRange::new(0, stamp.size).map(Segment::Object);
                (StatusCode::OK, all.into_iter().collect(), None)
            }
            Answer::Parts(ranges, size) => {
                let (segments, multipart) = multipart::parts(ranges, *size, &etag.to_string(), Some(&media));
                (StatusCode::PARTIAL_CONTENT, segments, multipart)
            }
        };
        let mut head = head(status, &etag.to_string());
        self.add_content_fields(&mut head, &decided, multipart.as_deref().unwrap_or(&media));
        if let Some(digest) = self.known_digest(&tag, &stamp).filter(|_| request.wants_digest) {
            head.insert_header((HeaderName::from_static("repr-digest"), repr_digest(&digest)));
        }
        let head = head.finish().drop_body();
        if request.head_only {
            let body = HeadOnly::new(multipart::size_of(&segments));
            return Response::new(head, ResponseBody::HeadOnly(body));
        }
        let source = FileSource::new(path.clone(), file, stamp, tag, Arc::clone(&self.tags));
        let body = SegmentedBody::new(source, segments, Arc::clone(&self.metrics));
        Response::new(head, ResponseBody::Stored(Box::new(body)))
    }

    /// The digest of the file's bytes, where it is known.
    fn known_digest(&self, tag: &Tag, stamp: &Stamp) -> Option<Digest> {
        match tag {
            Tag::Strong(digest) => Some(*digest),
            _ => self.tags.digest_of(stamp),
        }
    }

    /// The fields that describe the content of an answer with one: which part it is, its media type, its sandbox.
    fn add_content_fields(&self, head: &mut HttpResponseBuilder, decided: &Answer, media: &str) {
        if let Answer::Parts(ranges, size) = decided
            && let [range] = ranges[..]
        {
            let part = crate::header::ContentRange::Part {
                range,
                size: Some(*size),
            };
            head.insert_header((header::CONTENT_RANGE, part.field()));
        }
        head.insert_header((header::CONTENT_TYPE, media));
        if runs_scripts(media) {
            // The author of a page there must not act, by its scripts, in the name of the person who looks at it.
            head.insert_header((header::CONTENT_SECURITY_POLICY, "sandbox"));
        }
    }

    fn file_head(
        &self,
        status: StatusCode,
        etag: &str,
        path: &TreePath,
        stamp: &Stamp,
        now: SystemTime,
    ) -> HttpResponseBuilder {
        let mut head = HttpResponse::build(status);
        head.insert_header((header::ETAG, etag))
            .insert_header((header::ACCEPT_RANGES, HeaderValue::from_static("bytes")))
            .insert_header((
                header::CACHE_CONTROL,
                self.cache_control(path.is_hidden() && !self.settings.hidden),
            ))
            .insert_header((header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
        tell_date(&mut head, stamp.modified_at(), now);
        head
    }
}

/// Adds `Last-Modified`, as [`told_date`] has it. A date of just now comes with a `Date` of its own: the server's
/// cached one may be a second old, and `Last-Modified` is never later than `Date` (RFC 9110 §8.8.2.1).
pub(super) fn tell_date(head: &mut HttpResponseBuilder, modified: SystemTime, now: SystemTime) {
    if let Some(told) = told_date(modified, now) {
        head.insert_header((header::LAST_MODIFIED, http_date(told)));
        if told == now {
            head.insert_header((header::DATE, http_date(now)));
        }
    }
}

/// The date that clients are told of a file. `None` while its second lasts, for they would send it in
/// `If-Unmodified-Since` (RFC 9110 §8.8.2.2); never a date later than now (§8.8.2.1).
fn told_date(modified: SystemTime, now: SystemTime) -> Option<SystemTime> {
    match now.duration_since(modified) {
        Ok(age) => (age >= DATED_AFTER).then_some(modified),
        // A date in the future is told as now; no change that is made now gets such a date.
        Err(_) => Some(now),
    }
}

/// The tags under which clients may have been given a state.
struct GivenTags<'a> {
    etag: &'a EntityTag,
    text: String,
    tags: Vec<EntityTag>,
}

impl<'a> GivenTags<'a> {
    fn new(origin: &DirectoryService, stamp: &Stamp, etag: &'a EntityTag, question: Question<'_>) -> Self {
        let conditions = question.conditions;
        let fields = [conditions.if_match, conditions.if_none_match, conditions.if_range];
        let mut tags = match fields.iter().any(Option::is_some) {
            true => origin.tags.all_tags(stamp),
            false => Vec::new(),
        };
        tags.push(etag.clone());
        Self {
            etag,
            text: etag.to_string(),
            tags,
        }
    }

    /// The question with every given tag replaced by the one that the state has now.
    fn translate<'q>(&'q self, question: Question<'q>) -> Question<'q> {
        let mut question = question;
        let conditions = &mut question.conditions;
        let named = |field: &str, same: fn(&EntityTag, &EntityTag) -> bool| {
            let mut members = list_members(field).filter_map(EntityTag::parse);
            members.any(|tag| self.tags.iter().any(|given| same(&tag, given)))
        };
        if conditions
            .if_match
            .is_some_and(|field| named(field, EntityTag::weak_eq))
        {
            // A tag that was given for this state matches it, also where it is weak.
            conditions.if_match = Some("*");
        }
        if conditions
            .if_none_match
            .is_some_and(|field| named(field, EntityTag::weak_eq))
        {
            conditions.if_none_match = Some(&self.text);
        }
        if conditions
            .if_range
            .is_some_and(|field| named(field, EntityTag::strong_eq))
            && !self.etag.is_weak()
        {
            conditions.if_range = Some(&self.text);
        }
        question
    }

    /// The first given tag that the field names, as it is written there.
    fn named_by(&self, field: &str) -> Option<String> {
        let mut members = list_members(field).filter_map(EntityTag::parse);
        let named = members.find(|tag| self.tags.iter().any(|given| tag.weak_eq(given)));
        named.map(|tag| tag.to_string())
    }
}

/// The media type that the extension of the name suggests.
pub(super) fn media_type(path: &TreePath) -> String {
    let extension = path.name().and_then(|name| Some(name.rsplit_once('.')?.1));
    let guess = extension.map(actix_files::file_extension_to_mime);
    guess.map_or_else(|| "application/octet-stream".to_owned(), |media| media.to_string())
}

fn runs_scripts(media: &str) -> bool {
    let is_archive = media.starts_with("message/") || media.starts_with("multipart/");
    is_archive || ["html", "svg", "xml"].iter().any(|kind| media.contains(kind))
}
