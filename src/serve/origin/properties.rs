//! WebDAV properties (RFC 4918 §9.1, §9.2): how file managers and rclone read a tree.
//!
//! Depth 0 and 1 are answered, infinity is refused as the RFC allows. Properties are what the file system knows:
//! none can be set. Where a directory would not hold still, the answer holds an item with 507, which says that
//! something may be missing.

use super::Origin;
use super::file::media_type;
use super::page::Text;
use crate::header::print_date;
use crate::origin::{Found, Kind, Listing, OriginError, Stamp, TreePath, list};
use crate::serve::problem::Problem;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use rustix::fs::{StatVfs, fstatvfs};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The longest body of a PROPFIND or PROPPATCH, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// How many properties one request may name, and how long their names may be together, in bytes: they are repeated for
/// each member.
const MAX_NAMED: usize = 256;
const MAX_NAMES_BYTES: usize = 8 * 1024;

/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 128 << 20;

const DAV: &str = "DAV:";

/// The properties that `allprop` gives (RFC 4331 keeps the quota out of it).
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

/// The name of a property: its namespace and local name.
type Name = (String, String);

/// What a request wants to know.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Names,
    These(Vec<Name>),
}

/// What is described.
struct Resource<'a> {
    path: TreePath,
    kind: Kind,
    stamp: &'a Stamp,
    etag: Option<String>,
    room: Option<&'a StatVfs>,
}

impl Origin {
    /// The answer to PROPFIND.
    pub(super) async fn describe(&self, path: &TreePath, headers: &HeaderMap, body: &[u8]) -> HttpResponse {
        let deep = match headers.get("depth").map(|depth| depth.as_bytes()) {
            Some(b"0") => false,
            Some(b"1") => true,
            _ => return endless(),
        };
        let wanted = match read(body) {
            Ok(wanted) => wanted,
            Err(mistake) => return Problem::of_origin(StatusCode::BAD_REQUEST, mistake).response(),
        };
        let (tree, tags, of) = (Arc::clone(&self.tree), Arc::clone(&self.tags), path.clone());
        let look = move || match tree.find(&of)? {
            Found::File(file, stamp) => {
                let tag = match stamp.size > crate::origin::INLINE_BYTES {
                    true => tags.at_once(&stamp),
                    false => tags
                        .digest(&file)
                        .map_or(tags.at_once(&stamp), |(_, digest)| crate::origin::Tag::Strong(digest)),
                };
                Ok(describe_file(&of, &stamp, tag.entity_tag().to_string(), &wanted))
            }
            Found::Collection(handle, stamp) => {
                let listing = deep.then(|| list(&tree, &tags, &of, &handle)).transpose()?;
                describe_collection(&of, &handle, &stamp, listing.as_ref(), &wanted).ok_or(OriginError::TooLong)
            }
        };
        match self.blocking(look).await {
            Ok(text) => multistatus(text),
            Err(error) => super::refused(&error).response(),
        }
    }

    /// The answer to PROPPATCH: no property can be set, and each is told so.
    pub(super) async fn set_properties(&self, path: &TreePath, body: &[u8]) -> HttpResponse {
        let (tree, of) = (Arc::clone(&self.tree), path.clone());
        if let Err(error) = self.blocking(move || tree.find(&of)).await {
            return super::refused(&error).response();
        }
        let names = match read(body) {
            Ok(Wanted::These(names)) => names,
            _ => {
                let what = "the body names no property; write <propertyupdate xmlns=\"DAV:\">";
                return Problem::of_origin(StatusCode::BAD_REQUEST, what).response();
            }
        };
        let mut text = begin();
        let _ = write!(
            text,
            "<D:response><D:href>{}</D:href><D:propstat><D:prop>",
            Text(&path.to_string())
        );
        names.iter().for_each(|name| empty(&mut text, name));
        text.push_str(
            "</D:prop><D:status>HTTP/1.1 403 Forbidden</D:status><D:error><D:cannot-modify-protected-property/></D:error></D:propstat></D:response>",
        );
        multistatus(text)
    }
}

fn describe_file(path: &TreePath, stamp: &Stamp, etag: String, wanted: &Wanted) -> String {
    let mut text = begin();
    let resource = Resource {
        path: path.bare(),
        kind: Kind::File,
        stamp,
        etag: Some(etag),
        room: None,
    };
    resource.write(&mut text, wanted);
    text
}

fn describe_collection(
    path: &TreePath,
    handle: &OwnedFd,
    stamp: &Stamp,
    listing: Option<&Listing>,
    wanted: &Wanted,
) -> Option<String> {
    let room = fstatvfs(handle).ok();
    let mut text = begin();
    let own = Resource {
        path: path.with_slash(),
        kind: Kind::Collection,
        stamp,
        etag: None,
        room: room.as_ref(),
    };
    own.write(&mut text, wanted);
    for member in listing.iter().flat_map(|listing| &listing.members) {
        let tag = member.digest.map(crate::origin::Tag::Strong);
        let tag = tag.unwrap_or(crate::origin::Tag::Weak(member.stamp));
        let child = path.child(&member.name);
        let resource = Resource {
            path: if member.kind == Kind::Collection {
                child.with_slash()
            } else {
                child
            },
            kind: member.kind,
            stamp: &member.stamp,
            etag: (member.kind == Kind::File).then(|| tag.entity_tag().to_string()),
            room: room.as_ref(),
        };
        resource.write(&mut text, wanted);
        if text.len() > MAX_ANSWER_BYTES {
            return None;
        }
    }
    if listing.is_some_and(|listing| !listing.complete) {
        let _ = write!(
            text,
            "<D:response><D:href>{}</D:href><D:status>HTTP/1.1 507 Insufficient Storage</D:status><D:error><D:number-of-matches-within-limits/></D:error></D:response>",
            Text(&path.with_slash().to_string())
        );
    }
    Some(text)
}

impl Resource<'_> {
    fn write(&self, text: &mut String, wanted: &Wanted) {
        // Writing to a string does not fail, here and below.
        let _ = write!(text, "<D:response><D:href>{}</D:href>", Text(&self.path.to_string()));
        let own = |name: &&str| (DAV.to_owned(), (*name).to_owned());
        let names: Vec<Name> = match wanted {
            Wanted::These(names) => names.clone(),
            _ => ALL.iter().map(own).collect(),
        };
        let (mut found, mut missing) = (String::new(), String::new());
        for name in &names {
            let value = (name.0 == DAV).then(|| self.value(&name.1)).flatten();
            match (value, wanted) {
                (Some(_), Wanted::Names) => empty(&mut found, name),
                (Some(value), _) => {
                    let _ = write!(found, "<D:{0}>{value}</D:{0}>", name.1);
                }
                // Who asks for all asks for what there is.
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
        let file = self.kind == Kind::File;
        match name {
            "resourcetype" if file => Some(String::new()),
            "resourcetype" => Some("<D:collection/>".to_owned()),
            "displayname" => Some(Text(self.path.name().unwrap_or("/")).to_string()),
            "getcontentlength" if file => Some(self.stamp.size.to_string()),
            "getcontenttype" if file => Some(Text(&media_type(&self.path)).to_string()),
            "getcontenttype" => Some("httpd/unix-directory".to_owned()),
            "getetag" => Some(Text(self.etag.as_deref()?).to_string()),
            "getlastmodified" => Some(print_date(self.stamp.modified_at())),
            "supportedlock" | "lockdiscovery" => Some(String::new()),
            "quota-available-bytes" => self.room.map(|room| (room.f_bavail * room.f_frsize).to_string()),
            "quota-used-bytes" => self
                .room
                .map(|room| (room.f_blocks.saturating_sub(room.f_bfree) * room.f_frsize).to_string()),
            _ => None,
        }
    }
}

/// Reads what a PROPFIND or PROPPATCH names. No body means everything (RFC 4918 §9.1).
fn read(body: &[u8]) -> Result<Wanted, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Wanted::All);
    }
    let mut reader = NsReader::from_reader(body);
    let (mut names, mut props, mut depth) = (Vec::new(), 0, 0);
    let mut wanted = None;
    loop {
        let (space, event) = reader
            .read_resolved_event()
            .map_err(|error| format!("the body is not XML: {error}"))?;
        let space = match space {
            ResolveResult::Bound(space) => space.as_ref().to_owned(),
            ResolveResult::Unbound => String::new(),
            ResolveResult::Unknown(prefix) => {
                return Err(format!("the body uses the prefix {prefix:?} without a namespace"));
            }
        };
        let (element, opens) = match &event {
            Event::Start(element) => (element, true),
            Event::Empty(element) => (element, false),
            Event::End(_) => {
                depth -= 1;
                if props > depth {
                    props = 0;
                }
                continue;
            }
            Event::DocType(_) => return Err("the body has a document type, which is not read".to_owned()),
            Event::Eof => break,
            _ => continue,
        };
        let local = element.local_name().as_ref().to_owned();
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if local.is_empty() || !local.chars().all(plain) {
            return Err(format!("the body has {local:?}, which is no name"));
        }
        match local.as_str() {
            _ if props > 0 && depth == props => names.push((space, local)),
            _ if props > 0 => {}
            "prop" if space == DAV && opens => props = depth + 1,
            "allprop" if space == DAV => wanted = Some(Wanted::All),
            "propname" if space == DAV => wanted = Some(Wanted::Names),
            _ => {}
        }
        if opens {
            depth += 1;
        }
        let bytes: usize = names.iter().map(|(space, name): &Name| space.len() + name.len()).sum();
        if names.len() > MAX_NAMED || bytes > MAX_NAMES_BYTES || depth > 32 {
            return Err("the body names more properties than are looked at".to_owned());
        }
    }
    match depth {
        0 => Ok(wanted.unwrap_or(Wanted::These(names))),
        _ => Err("the body is not XML: it ends within an element".to_owned()),
    }
}

fn empty(text: &mut String, (space, name): &Name) {
    let _ = match space.as_str() {
        DAV => write!(text, "<D:{name}/>"),
        space => write!(text, "<{name} xmlns=\"{}\"/>", Text(space)),
    };
}

fn begin() -> String {
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">\n".to_owned()
}

fn multistatus(mut text: String) -> HttpResponse {
    text.push_str("</D:multistatus>\n");
    HttpResponse::build(StatusCode::MULTI_STATUS)
        .insert_header((header::CONTENT_TYPE, "application/xml; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text)
}

/// Depth infinity, which is also what no depth means.
fn endless() -> HttpResponse {
    HttpResponse::build(StatusCode::FORBIDDEN)
        .insert_header((header::CONTENT_TYPE, "application/xml; charset=utf-8"))
        .body("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:error xmlns:D=\"DAV:\"><D:propfind-finite-depth/></D:error>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn these(names: &[(&str, &str)]) -> Wanted {
        Wanted::These(
            names
                .iter()
                .map(|(space, name)| ((*space).to_owned(), (*name).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn what_clients_ask_for_is_understood() {
        let rclone = b"<?xml version=\"1.0\"?><d:propfind xmlns:d=\"DAV:\" xmlns:oc=\"http://owncloud.org/ns\"><d:prop><d:getetag/><oc:size/></d:prop></d:propfind>";
        assert_eq!(
            read(rclone),
            Ok(these(&[("DAV:", "getetag"), ("http://owncloud.org/ns", "size")]))
        );
        let plain = b"<propfind xmlns=\"DAV:\"><allprop/></propfind>";
        assert_eq!(read(plain), Ok(Wanted::All));
        assert_eq!(
            read(b"<propfind xmlns='DAV:'><propname/></propfind>"),
            Ok(Wanted::Names)
        );
        assert_eq!(read(b" \n"), Ok(Wanted::All));
        let update = b"<D:propertyupdate xmlns:D='DAV:' xmlns:Z='z:'><D:set><D:prop><Z:a><Z:b>1</Z:b></Z:a></D:prop></D:set><D:remove><D:prop><Z:c/></D:prop></D:remove></D:propertyupdate>";
        assert_eq!(read(update), Ok(these(&[("z:", "a"), ("z:", "c")])));
    }

    #[test]
    fn what_is_no_request_is_said_to_be_none() {
        for body in [
            "<propfind",
            "<a><b></a>",
            "<propfind xmlns='DAV:'>",
            "<x:propfind/>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><propfind xmlns='DAV:'/>",
        ] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
        // Few bytes that would become many, for each member again.
        let long = format!(
            "<propfind xmlns='DAV:' xmlns:z='{}'><prop>{}</prop></propfind>",
            "n".repeat(30_000),
            "<z:a/>".repeat(100)
        );
        assert!(read(long.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_survived(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body);
        }
    }
}
