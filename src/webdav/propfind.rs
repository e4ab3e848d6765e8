//! PROPFIND (RFC 4918 §9.1): how file managers and rclone read a tree.
//!
//! Depth 0 and 1 are answered; infinity, which a missing `Depth` means too, is refused as the RFC allows. Live
//! properties are what the file system knows; dead ones are those that clients have set (`proppatch.rs`).
//!
//! An answer is written while it goes out: each piece has some [`PIECE_BYTES`] and is written when the one before has been
//! sent, so no thread waits for a slow client, and what all answers hold together is bounded (listing_budget.rs). Where the directory changed while
//! it was read, the last response has status 507, which says that members may be missing.

use super::escape::Escaped;
use super::get_file::media_type;
use super::listing_budget::ListingShare;
use super::multistatus::{ALLPROP, DOCUMENT_END, OTHER_LIVE, document_start, multistatus, write_empty, write_value};
use super::open_file::{MountThreads, OpenEntry};
use super::request_xml::{self, DAV, RequestedProperties};
use super::{DirectoryService, http_date};
use crate::directory::{
    DeadProperties, DigestCache, DirectoryError, Found, INLINE_BYTES, Member, MemberKind, MemberNames, PropertyName,
    Stamp, Tag, Tree, TreePath, member,
};
use crate::proxy::Problem;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use bytes::Bytes;
use rustix::fs::{StatVfs, fstatvfs};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The longest body of a PROPFIND or PROPPATCH, in bytes: a judgement.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// The members of one piece of an answer, and the bytes at which it ends before that: judgements. What is held of a piece
/// that nobody takes is as much as this and one member.
const PIECE_MEMBERS: usize = 256;
const PIECE_BYTES: usize = 64 << 10;

/// When a client comes again for whose answer there was no memory. A judgement: answers take milliseconds where they are
/// read, and those that are not give way after 30 s.
const COME_AGAIN: Duration = Duration::from_secs(5);

/// The small files that one request may have read for their tags, in bytes together (decision 26). Beyond that a file
/// that nobody has read has no `getetag`, rather than one that changes once it is read.
const READ_BYTES: u64 = 16 << 20;

/// One `response` element: a file or collection, and what is known of it.
struct Resource<'a> {
    href: String,
    name: &'a str,
    path: TreePath,
    kind: MemberKind,
    stamp: &'a Stamp,
    etag: Option<String>,
    room: Option<&'a StatVfs>,
    dead: DeadProperties,
}

impl DirectoryService {
    /// The answer to PROPFIND.
    pub(super) async fn propfind(
        &self,
        path: &TreePath,
        headers: &HeaderMap,
        body: &[u8],
        hidden: bool,
    ) -> HttpResponse {
        let deep = match headers.get("depth").map(|depth| depth.as_bytes()) {
            Some(b"0") => false,
            Some(b"1") => true,
            _ => return infinite_depth_refused(),
        };
        let wanted = match request_xml::read_propfind(body) {
            Ok(wanted) => wanted,
            Err(mistake) => return Problem::of_origin(StatusCode::BAD_REQUEST, mistake).response(),
        };
        let (tree, tags, of) = (Arc::clone(&self.tree), Arc::clone(&self.tags), path.clone());
        let (prefix, budget) = (self.settings.prefix.clone(), Arc::clone(&self.listing_budget));
        let (found, allowed) = match self.find(path).await {
            Ok(found) => found,
            Err(error) => return super::problem_of(&error).response(),
        };
        let look = move || match found {
            OpenEntry::File(file, stamp) => {
                let text = file_document(&tags, &prefix, &of, file.file(), &stamp, &wanted);
                Ok((text, Rest::Nothing))
            }
            OpenEntry::Collection(handle, stamp) => {
                let room = fstatvfs(&handle).ok();
                let mut text = collection_start(&prefix, &of, &handle, &stamp, room.as_ref(), &wanted);
                if !deep {
                    text.push_str(DOCUMENT_END);
                    return Ok((text, Rest::Nothing));
                }
                let names = MemberNames::read(&tree, &of, &handle, hidden)?;
                let mut members = PendingMembers {
                    tree,
                    tags,
                    prefix,
                    path: of.with_slash(),
                    handle,
                    room,
                    wanted,
                    names,
                    at: 0,
                    may_read: READ_BYTES,
                };
                let rest = match members.write(&mut text)? {
                    false => Rest::Nothing,
                    true => budget
                        .admit(members.names.bytes(), members)
                        .map_or(Rest::Refused, Rest::Later),
                };
                Ok((text, rest))
            }
        };
        match self.disk().run_with_permit(self.permits(path, &allowed), look).await {
            Ok((text, Rest::Nothing)) => multistatus(text),
            Ok((_, Rest::Refused)) => {
                let what = "too many clients are being told of large collections; try again in a moment";
                Problem::later(COME_AGAIN, what).response()
            }
            Ok((text, Rest::Later(share))) => multistatus(MultistatusBody {
                ready: Some(Bytes::from(text)),
                share: Some(share),
                writing: None,
                threads: self.disk().of_mount(path, &allowed),
            }),
            Err(error) => super::problem_of(&error).response(),
        }
    }
}

/// The beginning of the answer about a collection: what is told of itself.
fn collection_start(
    prefix: &str,
    of: &TreePath,
    handle: &OwnedFd,
    stamp: &Stamp,
    room: Option<&StatVfs>,
    wanted: &RequestedProperties,
) -> String {
    let own = Resource {
        href: format!("{prefix}{}", of.with_slash()),
        name: of.name().unwrap_or("/"),
        path: of.with_slash(),
        kind: MemberKind::Collection,
        stamp,
        etag: None,
        room,
        dead: dead_properties_for(wanted, || DeadProperties::of(handle)),
    };
    let mut text = document_start();
    own.write(&mut text, wanted);
    text
}

/// The whole answer about a file.
fn file_document(
    tags: &DigestCache,
    prefix: &str,
    of: &TreePath,
    file: &File,
    stamp: &Stamp,
    wanted: &RequestedProperties,
) -> String {
    let tag = match stamp.size > INLINE_BYTES {
        true => tags.tag_without_reading(stamp),
        false => tags
            .read_digest(file)
            .map_or(tags.tag_without_reading(stamp), |(_, digest)| Tag::Strong(digest)),
    };
    let resource = Resource {
        href: format!("{prefix}{}", of.without_slash()),
        name: of.name().unwrap_or_default(),
        path: of.without_slash(),
        kind: MemberKind::File,
        stamp,
        etag: Some(tag.entity_tag().to_string()),
        room: None,
        dead: dead_properties_for(wanted, || DeadProperties::of(file)),
    };
    let mut text = document_start();
    resource.write(&mut text, wanted);
    text.push_str(DOCUMENT_END);
    text
}

/// The dead properties, read only where the request may ask for some.
fn dead_properties_for(wanted: &RequestedProperties, read: impl FnOnce() -> DeadProperties) -> DeadProperties {
    let live = |(space, name): &PropertyName| {
        space == DAV && (ALLPROP.contains(&name.as_str()) || OTHER_LIVE.contains(&name.as_str()))
    };
    match wanted {
        RequestedProperties::Named(names) if names.iter().all(live) => DeadProperties::default(),
        _ => read(),
    }
}

/// The rest of an answer behind its first piece.
enum Rest {
    Nothing,
    Later(ListingShare<PendingMembers>),
    /// There is no memory for it.
    Refused,
}

/// The members of a collection that are not described yet.
pub struct PendingMembers {
    tree: Arc<Tree>,
    tags: Arc<DigestCache>,
    prefix: String,
    path: TreePath,
    handle: OwnedFd,
    room: Option<StatVfs>,
    wanted: RequestedProperties,
    names: MemberNames,
    at: usize,
    /// The bytes of small files that may still be read for their tags.
    may_read: u64,
}

impl fmt::Debug for PendingMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, at) = (&self.path, self.at);
        f.debug_struct("PendingMembers")
            .field("path", path)
            .field("at", &at)
            .finish_non_exhaustive()
    }
}

impl PendingMembers {
    /// Writes the next piece; whether members are left. The last piece ends the document.
    fn write(&mut self, text: &mut String) -> Result<bool, DirectoryError> {
        let until = self.names.len().min(self.at + PIECE_MEMBERS);
        while self.at < until && text.len() < PIECE_BYTES {
            let found = match self.names.get(self.at) {
                Some(name) => member(&self.tree, &self.tags, &self.path, &self.handle, name)?,
                None => None,
            };
            self.at += 1;
            if let Some(found) = found {
                self.write_one(text, &found);
            }
        }
        if self.at < self.names.len() {
            return Ok(true);
        }
        if !self.names.complete {
            let _ = write!(
                text,
                "<D:response><D:href>{}{}</D:href><D:status>HTTP/1.1 507 Insufficient Storage</D:status><D:error><D:number-of-matches-within-limits/></D:error></D:response>",
                Escaped(&self.prefix),
                Escaped(&self.path.to_string())
            );
        }
        text.push_str(DOCUMENT_END);
        Ok(false)
    }

    fn write_one(&mut self, text: &mut String, found: &Member) {
        let child = self.path.child(&found.name);
        let path = match found.kind {
            MemberKind::Collection => child.with_slash(),
            MemberKind::File => child,
        };
        let tag = self.tag(found, &path);
        let (handle, name) = (&self.handle, found.name.as_str());
        let resource = Resource {
            href: format!("{}{path}", self.prefix),
            name,
            kind: found.kind,
            stamp: &found.stamp,
            etag: tag.map(|tag| tag.entity_tag().to_string()),
            room: self.room.as_ref(),
            dead: match self.tree.mounts().is_mount(&self.path, name) {
                true => DeadProperties::default(),
                false => dead_properties_for(&self.wanted, || DeadProperties::of_member(handle, name)),
            },
            path,
        };
        resource.write(text, &self.wanted);
    }

    /// The tag of a member. A small file that nobody has read is read for it, as long as `may_read` lasts.
    fn tag(&mut self, found: &Member, path: &TreePath) -> Option<Tag> {
        let wants = match &self.wanted {
            RequestedProperties::Named(names) => names.iter().any(|(space, name)| space == DAV && name == "getetag"),
            _ => true,
        };
        if found.kind == MemberKind::Collection || !wants || found.tag.is_some() {
            return found.tag;
        }
        self.may_read = self.may_read.checked_sub(found.stamp.size.max(4096))?;
        match self.tree.find(path) {
            Ok(Found::File(file, _)) => self.tags.read_digest(&file).ok().map(|(_, digest)| Tag::Strong(digest)),
            _ => None,
        }
    }
}

/// A piece of the document, and the members behind it.
type Written = (String, Option<Box<PendingMembers>>);

/// A document whose pieces are each written when the one before has gone out.
struct MultistatusBody {
    ready: Option<Bytes>,
    /// Where the members are that are left; nowhere at the end.
    share: Option<ListingShare<PendingMembers>>,
    writing: Option<JoinHandle<Option<Result<Written, DirectoryError>>>>,
    threads: MountThreads,
}

impl MessageBody for MultistatusBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(ready) = self.ready.take() {
            return Poll::Ready(Some(Ok(ready)));
        }
        if self.writing.is_none() {
            let Some(share) = &self.share else {
                return Poll::Ready(None);
            };
            let Some(mut members) = share.take() else {
                return Poll::Ready(Some(Err(
                    "nothing of the answer was taken, and others needed its memory".into(),
                )));
            };
            let write = move || {
                let mut text = String::new();
                let more = members.write(&mut text)?;
                Ok((text, more.then_some(members)))
            };
            self.writing = Some(self.threads.spawn(move || Some(write())));
        }
        let Some(writing) = &mut self.writing else {
            return Poll::Ready(None);
        };
        let written = ready!(Pin::new(writing).poll(cx));
        self.writing = None;
        let share = self.share.take();
        // An error breaks the connection, so the document visibly has no end.
        let (text, members) = written?.ok_or("a writing thread was lost")??;
        if let (Some(share), Some(members)) = (share, members) {
            share.put_back(members);
            self.share = Some(share);
        }
        Poll::Ready(Some(Ok(Bytes::from(text))))
    }
}

impl Resource<'_> {
    fn write(&self, text: &mut String, wanted: &RequestedProperties) {
        // Writing to a string does not fail, here and below.
        let _ = write!(text, "<D:response><D:href>{}</D:href>", Escaped(&self.href));
        let own = |name: &&str| (DAV.to_owned(), (*name).to_owned());
        let names: Vec<PropertyName> = match wanted {
            RequestedProperties::Named(names) => names.clone(),
            _ => ALLPROP.iter().map(own).chain(self.dead.names().cloned()).collect(),
        };
        let (mut found, mut missing) = (String::new(), String::new());
        for name in &names {
            let live = (name.0 == DAV).then(|| self.value(&name.1)).flatten();
            let value = live.or_else(|| self.dead.get(name).map(str::to_owned));
            match (value, wanted) {
                (Some(_), RequestedProperties::Names) => write_empty(&mut found, name),
                (Some(value), _) => write_value(&mut found, name, &value),
                // `allprop` and `propname` ask only for properties that the resource has.
                (None, RequestedProperties::Named(_)) => write_empty(&mut missing, name),
                (None, _) => {}
            }
        }
        for (properties, status) in [(found, "200 OK"), (missing, "404 Not Found")] {
            if !properties.is_empty() {
                let _ = write!(
                    text,
                    "<D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 {status}</D:status></D:propstat>"
                );
            }
        }
        text.push_str("</D:response>\n");
    }

    /// The value of a live property, as XML; `None` where the resource does not have it.
    fn value(&self, name: &str) -> Option<String> {
        let file = self.kind == MemberKind::File;
        match name {
            "resourcetype" if file => Some(String::new()),
            "resourcetype" => Some("<D:collection/>".to_owned()),
            "displayname" => Some(Escaped(self.name).to_string()),
            "getcontentlength" if file => Some(self.stamp.size.to_string()),
            "getcontenttype" if file => Some(Escaped(&media_type(&self.path)).to_string()),
            "getcontenttype" => Some("httpd/unix-directory".to_owned()),
            "getetag" => Some(Escaped(self.etag.as_deref()?).to_string()),
            "getlastmodified" => Some(http_date(self.stamp.modified_at())),
            "supportedlock" | "lockdiscovery" => Some(String::new()),
            "quota-available-bytes" => self.room.map(|room| (room.f_bavail * room.f_frsize).to_string()),
            "quota-used-bytes" => self
                .room
                .map(|room| (room.f_blocks.saturating_sub(room.f_bfree) * room.f_frsize).to_string()),
            _ => None,
        }
    }
}

/// The refusal of depth infinity, which a request without `Depth` asks for too.
fn infinite_depth_refused() -> HttpResponse {
    HttpResponse::build(StatusCode::FORBIDDEN)
        .insert_header((header::CONTENT_TYPE, "application/xml; charset=utf-8"))
        .body("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:error xmlns:D=\"DAV:\"><D:propfind-finite-depth/></D:error>\n")
}
