//! WebDAV properties (RFC 4918 §9.1, §9.2): how file managers and rclone read a tree, and what they note down in it.
//!
//! Depth 0 and 1 are answered, infinity is refused as the RFC allows. Live properties are what the file system knows; of these the
//! time of the last change can be set. All others are kept as they come (`directory::properties`).
//!
//! An answer is written while it goes out: a piece of it holds [`PIECE_MEMBERS`] members, and no thread waits for a slow
//! client. Where a directory would not hold still, the last response has status 507, which says that something may be missing.

use super::file::media_type;
use super::page::Text;
use super::writer::LockScope;
use super::xml::{self, DAV, Instruction, Wanted};
use super::{Origin, http_date};
use crate::directory::{
    DeadProperties, DigestCache, DirectoryError, Found, INLINE_BYTES, Member, MemberKind, MemberNames, PrereadDigest,
    PropertyName, PropertyPatch, Stamp, Tag, Tree, TreePath, TreeWriter, member,
};
use crate::header::Preconditions;
use crate::header::parse_date;
use crate::serve::Problem;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use bytes::Bytes;
use rustix::fs::{StatVfs, fstatvfs};
use std::fmt::Write as _;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::UNIX_EPOCH;
use tokio::task::JoinHandle;

/// The longest body of a PROPFIND or PROPPATCH, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// How many members are written at once.
const PIECE_MEMBERS: usize = 256;

/// How many small files of a collection are read for their tags, in bytes together: the rest have none until
/// somebody reads them, so that no tag is another later.
const READ_BYTES: u64 = 16 << 20;

/// The live properties that `allprop` gives (RFC 4331 keeps the quota out of it).
const ALL: &[&str] = &[
    "resourcetype",
    "displayname",
    "getcontentlength",
    "getcontenttype",
    "getetag",
    "getlastmodified",
    "supportedlock",
    "lockdiscovery",
];

/// The other live properties.
const MORE: &[&str] = &["quota-available-bytes", "quota-used-bytes", "creationdate"];

/// The properties by which clients set a file's time: of the RFC, of rclone, and of Windows.
const MICROSOFT: &str = "urn:schemas-microsoft-com:";

/// What is described.
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

impl Origin {
    /// The answer to PROPFIND.
    pub(super) async fn describe(
        &self,
        path: &TreePath,
        headers: &HeaderMap,
        body: &[u8],
        hidden: bool,
    ) -> HttpResponse {
        let deep = match headers.get("depth").map(|depth| depth.as_bytes()) {
            Some(b"0") => false,
            Some(b"1") => true,
            _ => return endless(),
        };
        let wanted = match xml::read(body) {
            Ok(wanted) => wanted,
            Err(mistake) => return Problem::of_origin(StatusCode::BAD_REQUEST, mistake).response(),
        };
        let (tree, tags, of) = (Arc::clone(&self.tree), Arc::clone(&self.tags), path.clone());
        let prefix = self.settings.public_url.prefix().to_owned();
        let (found, allowed) = match self.find(path).await {
            Ok(found) => found,
            Err(error) => return super::refused(&error).response(),
        };
        let look = move || match found {
            Found::File(file, stamp) => {
                let tag = match stamp.size > INLINE_BYTES {
                    true => tags.tag_without_reading(&stamp),
                    false => tags
                        .read_digest(&file)
                        .map_or(tags.tag_without_reading(&stamp), |(_, digest)| Tag::Strong(digest)),
                };
                let resource = Resource {
                    href: format!("{prefix}{}", of.without_slash()),
                    name: of.name().unwrap_or_default(),
                    path: of.without_slash(),
                    kind: MemberKind::File,
                    stamp: &stamp,
                    etag: Some(tag.entity_tag().to_string()),
                    room: None,
                    dead: dead(&wanted, || DeadProperties::of(&file)),
                };
                let mut text = begin();
                resource.write(&mut text, &wanted);
                text.push_str(END);
                Ok((text, None))
            }
            Found::Collection(handle, stamp) => {
                let room = fstatvfs(&handle).ok();
                let own = Resource {
                    href: format!("{prefix}{}", of.with_slash()),
                    name: of.name().unwrap_or("/"),
                    path: of.with_slash(),
                    kind: MemberKind::Collection,
                    stamp: &stamp,
                    etag: None,
                    room: room.as_ref(),
                    dead: dead(&wanted, || DeadProperties::of(&handle)),
                };
                let mut text = begin();
                own.write(&mut text, &wanted);
                if !deep {
                    text.push_str(END);
                    return Ok((text, None));
                }
                let names = MemberNames::read(&tree, &of, &handle, hidden)?;
                let mut members = Members {
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
                let rest = members.write(&mut text)?;
                Ok((text, rest.then_some(members)))
            }
        };
        match self.disk().among(self.turns(path, &allowed), look).await {
            Ok((text, None)) => multistatus(text),
            Ok((text, Some(members))) => multistatus(Pieces {
                ready: Some(Bytes::from(text)),
                members: Some(members),
                writing: None,
                threads: self.threads.clone(),
            }),
            Err(error) => super::refused(&error).response(),
        }
    }

    /// The answer to PROPPATCH: all instructions are carried out, or none (RFC 4918 §9.2).
    pub(super) async fn set_properties(
        &self,
        path: &TreePath,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<HttpResponse, Problem> {
        let conditions = super::put::conditions(headers)?;
        self.demand(&conditions)?;
        let instructions = match xml::read_update(body) {
            Ok(instructions) => instructions,
            Err(mistake) => return Err(Problem::of_origin(StatusCode::BAD_REQUEST, mistake)),
        };
        let patches: Vec<_> = instructions.iter().map(patches).collect();
        let href = format!("{}{path}", self.settings.public_url.prefix());
        if patches.iter().any(Option::is_none) {
            let verdicts = patches.iter().map(|patch| match patch {
                Some(_) => Verdict::Dependent,
                None => Verdict::Protected,
            });
            return Ok(multistatus(update(&href, &instructions, verdicts)));
        }
        let (of, locked) = (path.clone(), LockScope::Paths(vec![path.clone()]));
        let all: Vec<PropertyPatch> = patches.into_iter().flatten().flatten().collect();
        let work = move |writer: &TreeWriter, preread: &PrereadDigest, conditions: &Preconditions, (): &mut ()| {
            writer.patch_properties(&of, &all, conditions, preread)
        };
        let locked_writer = self.locked_writer().map_err(|error| super::refused(&error))?;
        let verdict = match locked_writer.change(path, &locked, conditions, (), work).await {
            Ok(()) => Verdict::Done,
            Err(DirectoryError::NoRoom) => Verdict::NoRoom,
            Err(error) => return Err(super::refused(&error)),
        };
        let verdicts = instructions.iter().map(|_| verdict);
        Ok(multistatus(update(&href, &instructions, verdicts)))
    }
}

/// What came of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Done,
    Protected,
    /// Another has failed.
    Dependent,
    NoRoom,
}

impl Verdict {
    const EACH: [Self; 4] = [Self::Done, Self::Protected, Self::Dependent, Self::NoRoom];

    fn status(self) -> &'static str {
        match self {
            Self::Done => "200 OK",
            Self::Protected => "403 Forbidden",
            Self::Dependent => "424 Failed Dependency",
            Self::NoRoom => "507 Insufficient Storage",
        }
    }
}

/// What an instruction does to the file; `None` where the property is the file system's own.
fn patches(Instruction { name, value }: &Instruction) -> Option<Vec<PropertyPatch>> {
    let seconds = |text: &str| {
        let date = parse_date(text).map(|date| match date.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
        });
        date.or_else(|| text.trim().parse().ok())
    };
    let modified = value.as_deref().and_then(seconds).map(PropertyPatch::Modified);
    let keep = match value {
        Some(value) => PropertyPatch::Set(name.clone(), value.clone()),
        None => PropertyPatch::Remove(name.clone()),
    };
    match (name.0.as_str(), name.1.as_str()) {
        (DAV, "getlastmodified" | "lastmodified") => modified.map(|patch| vec![patch]),
        (MICROSOFT, "Win32LastModifiedTime") => Some(modified.into_iter().chain([keep]).collect()),
        (DAV, name) if ALL.contains(&name) || MORE.contains(&name) => None,
        _ => Some(vec![keep]),
    }
}

fn update(href: &str, instructions: &[Instruction], verdicts: impl Iterator<Item = Verdict>) -> String {
    let verdicts: Vec<Verdict> = verdicts.collect();
    let mut text = begin();
    let _ = write!(text, "<D:response><D:href>{}</D:href>", Text(href));
    for verdict in Verdict::EACH {
        let named = instructions
            .iter()
            .zip(&verdicts)
            .filter(|(_, other)| **other == verdict);
        let names: Vec<_> = named.map(|(instruction, _)| &instruction.name).collect();
        if names.is_empty() {
            continue;
        }
        text.push_str("<D:propstat><D:prop>");
        names.into_iter().for_each(|name| empty(&mut text, name));
        let _ = write!(text, "</D:prop><D:status>HTTP/1.1 {}</D:status>", verdict.status());
        if verdict == Verdict::Protected {
            text.push_str("<D:error><D:cannot-modify-protected-property/></D:error>");
        }
        text.push_str("</D:propstat>");
    }
    text.push_str("</D:response>\n");
    text.push_str(END);
    text
}

/// The dead properties, where the request may ask for some.
fn dead(wanted: &Wanted, read: impl FnOnce() -> DeadProperties) -> DeadProperties {
    let live =
        |(space, name): &PropertyName| space == DAV && (ALL.contains(&name.as_str()) || MORE.contains(&name.as_str()));
    match wanted {
        Wanted::These(names) if names.iter().all(live) => DeadProperties::default(),
        _ => read(),
    }
}

/// The members of a collection that are still to be described.
struct Members {
    tree: Arc<Tree>,
    tags: Arc<DigestCache>,
    prefix: String,
    path: TreePath,
    handle: OwnedFd,
    room: Option<StatVfs>,
    wanted: Wanted,
    names: MemberNames,
    at: usize,
    /// How many bytes of small files may still be read for their tags.
    may_read: u64,
}

impl Members {
    /// Writes the next of them; whether there are more. The end of the document comes with the last.
    fn write(&mut self, text: &mut String) -> Result<bool, DirectoryError> {
        let until = self.names.len().min(self.at + PIECE_MEMBERS);
        while self.at < until {
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
                Text(&self.prefix),
                Text(&self.path.to_string())
            );
        }
        text.push_str(END);
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
                false => dead(&self.wanted, || DeadProperties::of_member(handle, name)),
            },
            path,
        };
        resource.write(text, &self.wanted);
    }

    /// The tag of a member; a small file that nobody has read is read for it, as long as that is little.
    fn tag(&mut self, found: &Member, path: &TreePath) -> Option<Tag> {
        let wants = match &self.wanted {
            Wanted::These(names) => names.iter().any(|(space, name)| space == DAV && name == "getetag"),
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

/// A piece, and the members that come behind it.
type Written = (String, Option<Members>);

/// A document in pieces, each of which is written when the one before has gone out.
struct Pieces {
    ready: Option<Bytes>,
    members: Option<Members>,
    writing: Option<JoinHandle<Result<Written, DirectoryError>>>,
    threads: tokio::runtime::Handle,
}

impl MessageBody for Pieces {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(ready) = self.ready.take() {
            return Poll::Ready(Some(Ok(ready)));
        }
        if let Some(mut members) = self.members.take() {
            let write = move || {
                let mut text = String::new();
                let more = members.write(&mut text)?;
                Ok((text, more.then_some(members)))
            };
            self.writing = Some(self.threads.spawn_blocking(write));
        }
        let Some(writing) = &mut self.writing else {
            return Poll::Ready(None);
        };
        let written = ready!(Pin::new(writing).poll(cx));
        self.writing = None;
        // An error breaks the connection: the document has no end then.
        let (text, members) = written??;
        self.members = members;
        Poll::Ready(Some(Ok(Bytes::from(text))))
    }
}

impl Resource<'_> {
    fn write(&self, text: &mut String, wanted: &Wanted) {
        // Writing to a string does not fail, here and below.
        let _ = write!(text, "<D:response><D:href>{}</D:href>", Text(&self.href));
        let own = |name: &&str| (DAV.to_owned(), (*name).to_owned());
        let names: Vec<PropertyName> = match wanted {
            Wanted::These(names) => names.clone(),
            _ => ALL.iter().map(own).chain(self.dead.names().cloned()).collect(),
        };
        let (mut found, mut missing) = (String::new(), String::new());
        for name in &names {
            let live = (name.0 == DAV).then(|| self.value(&name.1)).flatten();
            let value = live.or_else(|| self.dead.get(name).map(str::to_owned));
            match (value, wanted) {
                (Some(_), Wanted::Names) => empty(&mut found, name),
                (Some(value), _) => full(&mut found, name, &value),
                // A request for all is one for what there is.
                (None, Wanted::These(_)) => empty(&mut missing, name),
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

    /// The value of one of our properties, as XML; `None` where the resource does not have it.
    fn value(&self, name: &str) -> Option<String> {
        let file = self.kind == MemberKind::File;
        match name {
            "resourcetype" if file => Some(String::new()),
            "resourcetype" => Some("<D:collection/>".to_owned()),
            "displayname" => Some(Text(self.name).to_string()),
            "getcontentlength" if file => Some(self.stamp.size.to_string()),
            "getcontenttype" if file => Some(Text(&media_type(&self.path)).to_string()),
            "getcontenttype" => Some("httpd/unix-directory".to_owned()),
            "getetag" => Some(Text(self.etag.as_deref()?).to_string()),
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

fn empty(text: &mut String, (space, name): &PropertyName) {
    let _ = match space.as_str() {
        DAV => write!(text, "<D:{name}/>"),
        space => write!(text, "<{name} xmlns=\"{}\"/>", Text(space)),
    };
}

fn full(text: &mut String, (space, name): &PropertyName, value: &str) {
    let _ = match space.as_str() {
        DAV => write!(text, "<D:{name}>{value}</D:{name}>"),
        space => write!(text, "<{name} xmlns=\"{}\">{value}</{name}>", Text(space)),
    };
}

const END: &str = "</D:multistatus>\n";

fn begin() -> String {
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">\n".to_owned()
}

fn multistatus(body: impl MessageBody + 'static) -> HttpResponse {
    HttpResponse::build(StatusCode::MULTI_STATUS)
        .insert_header((header::CONTENT_TYPE, "application/xml; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(body)
}

/// Depth infinity, which is also what no depth means.
fn endless() -> HttpResponse {
    HttpResponse::build(StatusCode::FORBIDDEN)
        .insert_header((header::CONTENT_TYPE, "application/xml; charset=utf-8"))
        .body("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:error xmlns:D=\"DAV:\"><D:propfind-finite-depth/></D:error>\n")
}
