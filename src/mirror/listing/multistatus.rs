//! WebDAV: the answer to a PROPFIND of depth 1 (RFC 4918 §9.1).
//!
//! Each `response` has an `href`, absolute or a path, and a status for each group of properties. The collection itself is
//! among them and is no member; all others must lie one level below it. A `response` with the status 507 says that the
//! server has not listed all (RFC 5323 §5.2); one with another status of its own than 200 is of a member of which nothing
//! is known, and makes the listing incomplete.

use super::{ListedMember, ListingFault, ListingPage, PageBuilder, fault, http_date};
use crate::config::ListingFormat;
use crate::directory::{MemberKind, TreePath};
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use url::Url;

const DAV: &str = "DAV:";

const FORMAT: ListingFormat = ListingFormat::Webdav;

/// The deepest element: a judgement. Dead properties may have XML of their own, but are not asked for.
const MAX_DEPTH: usize = 32;

/// The body of the request: nothing is asked for but what a mirror compares.
pub const PROPFIND: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:propfind xmlns:D=\"DAV:\"><D:prop><D:resourcetype/>",
    "<D:getcontentlength/><D:getlastmodified/><D:getetag/></D:prop></D:propfind>\n"
);

/// A `response` element, as far as it is read.
#[derive(Debug, Default)]
struct Response {
    href: String,
    /// The status of the whole resource, where it has one.
    status: Option<u16>,
    properties: Properties,
    /// The group of properties that is being read.
    group: Properties,
    group_status: Option<u16>,
}

#[derive(Debug, Default)]
struct Properties {
    is_collection: bool,
    /// `resourcetype` was there, so that it is known whether this is a collection.
    has_type: bool,
    length: Option<u64>,
    modified: Option<i64>,
    tag: Option<String>,
}

pub(super) fn read(text: &str, url: &Url) -> Result<ListingPage, ListingFault> {
    let mut document = Document {
        url,
        open: Vec::new(),
        text: String::new(),
        response: None,
        builder: PageBuilder::default(),
        has_self: false,
        has_root: false,
    };
    let mut reader = NsReader::from_str(text);
    loop {
        let (space, event) = reader
            .read_resolved_event()
            .map_err(|error| fault(FORMAT, format!("it is not XML: {error}")))?;
        let is_dav = matches!(&space, ResolveResult::Bound(space) if space.as_ref() == DAV);
        let name = |local: &str| match is_dav {
            true => local.to_owned(),
            // Another namespace's element is nothing that is looked for.
            false => format!("?{local}"),
        };
        match event {
            Event::Start(element) => {
                let name = name(element.local_name().as_ref());
                document.start(name)?;
            }
            Event::Empty(element) => {
                let name = name(element.local_name().as_ref());
                document.start(name)?;
                document.end()?;
            }
            Event::End(_) => document.end()?,
            Event::Text(text) => document.text.push_str(text.as_ref()),
            Event::CData(text) => document.text.push_str(text.as_ref()),
            Event::GeneralRef(reference) => document.reference(reference.as_ref())?,
            Event::DocType(_) => return Err(fault(FORMAT, "it has a document type")),
            Event::Eof => break,
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
    document.finish()
}

struct Document<'a> {
    url: &'a Url,
    open: Vec<String>,
    /// The text of the element that is open.
    text: String,
    response: Option<Response>,
    builder: PageBuilder,
    has_self: bool,
    has_root: bool,
}

impl Document<'_> {
    fn start(&mut self, name: String) -> Result<(), ListingFault> {
        if self.open.is_empty() {
            if name != "multistatus" {
                return Err(fault(FORMAT, format!("its root is {name:?}, not multistatus")));
            }
            self.has_root = true;
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(fault(FORMAT, "its elements lie too deep"));
        }
        self.text.clear();
        match (self.open.len(), name.as_str()) {
            (1, "response") => self.response = Some(Response::default()),
            (2, "propstat") => {
                if let Some(response) = &mut self.response {
                    response.group = Properties::default();
                    response.group_status = None;
                }
            }
            (4, "resourcetype") => self.group(|group| group.has_type = true),
            (5, "collection") if self.is_within("resourcetype") => self.group(|group| group.is_collection = true),
            _ => {}
        }
        self.open.push(name);
        Ok(())
    }

    fn is_within(&self, name: &str) -> bool {
        self.open.last().is_some_and(|open| open == name)
    }

    fn group(&mut self, change: impl FnOnce(&mut Properties)) {
        if let Some(response) = &mut self.response {
            change(&mut response.group);
        }
    }

    /// Resolves a reference to a character, or one of the entities that XML declares itself.
    fn reference(&mut self, name: &str) -> Result<(), ListingFault> {
        let escaped = format!("&{name};");
        let text = quick_xml::escape::unescape(&escaped)
            .map_err(|_| fault(FORMAT, format!("it has the entity {name:?}, which is not declared")))?;
        self.text.push_str(&text);
        Ok(())
    }

    fn end(&mut self) -> Result<(), ListingFault> {
        let name = self.open.pop().unwrap_or_default();
        let text = std::mem::take(&mut self.text);
        let text = text.trim();
        let depth = self.open.len();
        match (depth, name.as_str()) {
            (1, "response") => {
                if let Some(response) = self.response.take() {
                    self.add(response)?;
                }
            }
            (2, "href") => {
                if let Some(response) = &mut self.response {
                    // A second href belongs to a response about several resources, none of which is described.
                    if response.href.is_empty() {
                        text.clone_into(&mut response.href);
                    }
                }
            }
            (2, "status") => {
                let status = status_of(text)?;
                if let Some(response) = &mut self.response {
                    response.status = Some(status);
                }
            }
            (2, "propstat") => {
                if let Some(response) = &mut self.response {
                    let group = std::mem::take(&mut response.group);
                    if response.group_status.is_some_and(|status| (200..300).contains(&status)) {
                        response.properties.merge(group);
                    }
                }
            }
            (3, "status") => {
                let status = status_of(text)?;
                if let Some(response) = &mut self.response {
                    response.group_status = Some(status);
                }
            }
            (4, "getcontentlength") => {
                let length = text.parse().ok();
                self.group(|group| group.length = length);
            }
            (4, "getlastmodified") => {
                let modified = http_date(text);
                self.group(|group| group.modified = modified);
            }
            (4, "getetag") if !text.is_empty() => {
                let tag = tag_of(text);
                self.group(|group| group.tag = Some(tag));
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, response: Response) -> Result<(), ListingFault> {
        if response.href.is_empty() {
            return Err(fault(FORMAT, "a response has no href"));
        }
        // Resolved by hand: a URL parser would take a name with a colon for a scheme, and resolve dots.
        let path = path_of(&response.href, self.url)
            .ok_or_else(|| fault(FORMAT, format!("{:?} is of another server", response.href)))?;
        let base = TreePath::parse_upstream(self.url.path()).map_err(|why| fault(FORMAT, why.to_string()))?;
        let found = match TreePath::parse_upstream(path) {
            Ok(found) => found,
            Err(why) => {
                self.builder.leave_out(path, &why);
                return Ok(());
            }
        };
        if response.status == Some(507) {
            self.builder.page.is_cut = true;
            return Ok(());
        }
        if found.without_slash() == base.without_slash() {
            if !response.properties.is_collection {
                return Err(fault(FORMAT, "the resource is not a collection"));
            }
            self.has_self = true;
            return Ok(());
        }
        let is_member = found.names().len() == base.names().len() + 1 && found.is_within(&base);
        let Some(name) = found.name().filter(|_| is_member) else {
            return Err(fault(FORMAT, format!("{path:?} is no member of {:?}", self.url.path())));
        };
        let is_known = response.status.is_none_or(|status| (200..300).contains(&status));
        if !is_known || !response.properties.has_type {
            let text = format!("{name:?}: the server does not tell what it is");
            self.builder.page.left_out.push(text);
            return Ok(());
        }
        let properties = response.properties;
        self.builder.add(ListedMember {
            name: name.to_owned(),
            kind: match properties.is_collection {
                true => MemberKind::Collection,
                false => MemberKind::File,
            },
            size: properties.length.filter(|_| !properties.is_collection),
            modified: properties.modified,
            tag: properties.tag.filter(|_| !properties.is_collection),
        });
        Ok(())
    }

    fn finish(self) -> Result<ListingPage, ListingFault> {
        match () {
            () if !self.open.is_empty() => Err(ListingFault::Truncated {
                what: "an element is open at its end",
            }),
            () if !self.has_root => Err(fault(FORMAT, "it is empty")),
            () if !self.has_self => Err(fault(FORMAT, "the collection itself is not in it")),
            () => Ok(self.builder.finish()),
        }
    }
}

impl Properties {
    fn merge(&mut self, other: Self) {
        self.is_collection |= other.is_collection;
        self.has_type |= other.has_type;
        self.length = self.length.or(other.length);
        self.modified = self.modified.or(other.modified);
        self.tag = self.tag.take().or(other.tag);
    }
}

/// The path of a reference, which is a path or a URL of the same server.
fn path_of<'a>(href: &'a str, base: &Url) -> Option<&'a str> {
    if href.starts_with('/') && !href.starts_with("//") {
        return Some(href);
    }
    let (_, rest) = href.split_once("://")?;
    let url = Url::parse(href).ok()?;
    // Behind a proxy servers name themselves by the scheme and port that they know.
    let is_same = url.host_str() == base.host_str();
    rest.find('/').map(|at| &rest[at..]).filter(|_| is_same)
}

/// The code of a status line.
fn status_of(line: &str) -> Result<u16, ListingFault> {
    let code = line.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| fault(FORMAT, format!("{line:?} is no status")))
}

/// A tag as `ETag` has it: some servers leave out the quotes here.
fn tag_of(text: &str) -> String {
    match text.ends_with('"') {
        true => text.to_owned(),
        false => format!("\"{text}\""),
    }
}
