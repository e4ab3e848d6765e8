//! S3 ListObjectsV2, with the delimiter `/` and URL-encoded keys.
//!
//! Keys are flat: what looks like a collection is a common prefix. A key that ends in a slash is what some programs make to
//! have an empty collection, and holds nothing that could be a file here; one with an empty or a dot segment could be
//! reached by no path. The tag of an object that was uploaded in parts is no digest, but changes with it, which is all that
//! is asked of it.

use super::{ListedMember, ListingFault, ListingPage, PageBuilder, fault, rfc3339};
use crate::config::ListingFormat;
use crate::directory::MemberKind;
use percent_encoding::percent_decode_str;
use quick_xml::events::Event;
use quick_xml::reader::Reader;

const FORMAT: ListingFormat = ListingFormat::S3;

/// The elements of one object or prefix, as they are read.
#[derive(Debug, Default)]
struct Item {
    key: String,
    modified: Option<i64>,
    tag: Option<String>,
    size: Option<u64>,
}

/// The document, as it is read.
#[derive(Debug, Default)]
struct Said {
    truncated: Option<bool>,
    next: Option<String>,
    encoded: bool,
    items: Vec<Item>,
    prefixes: Vec<String>,
}

pub(super) fn read(text: &str, prefix: &str) -> Result<ListingPage, ListingFault> {
    let said = parse(text)?;
    let Some(truncated) = said.truncated else {
        return Err(fault(FORMAT, "it does not say whether it is truncated (IsTruncated)"));
    };
    let decoded = |text: &str| -> Option<String> {
        match said.encoded {
            // Keys are encoded as forms are: a space comes as a plus sign.
            true => {
                let text = text.replace('+', " ");
                percent_decode_str(&text)
                    .decode_utf8()
                    .ok()
                    .map(|name| name.into_owned())
            }
            false => Some(text.to_owned()),
        }
    };
    let mut builder = PageBuilder::default();
    for item in &said.items {
        let Some(key) = decoded(&item.key) else {
            builder.page.left_out.push(format!("{:?}: it is not UTF-8", item.key));
            continue;
        };
        let Some(name) = key.strip_prefix(prefix) else {
            return Err(fault(FORMAT, format!("the key {key:?} does not begin with {prefix:?}")));
        };
        // The marker of the collection itself.
        if name.is_empty() {
            continue;
        }
        if name.ends_with('/') {
            let text = format!("{key:?}: a key that ends in a slash is no file here");
            builder.page.left_out.push(text);
            continue;
        }
        builder.add(ListedMember {
            name: name.to_owned(),
            kind: MemberKind::File,
            size: item.size,
            modified: item.modified,
            tag: item.tag.clone(),
        });
    }
    for common in &said.prefixes {
        let name = decoded(common);
        let name = name
            .as_deref()
            .and_then(|name| name.strip_prefix(prefix)?.strip_suffix('/'));
        let Some(name) = name else {
            builder
                .page
                .left_out
                .push(format!("{common:?}: it is no prefix beneath {prefix:?}"));
            continue;
        };
        builder.add(ListedMember {
            name: name.to_owned(),
            kind: MemberKind::Collection,
            size: None,
            modified: None,
            tag: None,
        });
    }
    let page = builder.finish();
    match (truncated, said.next) {
        (true, None) => Err(fault(FORMAT, "it is truncated and names no next page")),
        (true, next) => Ok(ListingPage { next, ..page }),
        (false, _) => Ok(page),
    }
}

fn parse(text: &str) -> Result<Said, ListingFault> {
    let mut reader = Reader::from_str(text);
    let (mut open, mut value) = (Vec::<String>::new(), String::new());
    let (mut said, mut item) = (Said::default(), Item::default());
    let mut has_root = false;
    loop {
        let event = reader
            .read_event()
            .map_err(|error| fault(FORMAT, format!("it is not XML: {error}")))?;
        match event {
            Event::Start(element) => {
                let name = element.local_name().as_ref().to_owned();
                match open.len() {
                    0 if name != "ListBucketResult" => {
                        return Err(fault(FORMAT, format!("its root is {name:?}, not ListBucketResult")));
                    }
                    0 => has_root = true,
                    1 => item = Item::default(),
                    _ => {}
                }
                value.clear();
                open.push(name);
            }
            Event::Text(text) => value.push_str(text.as_ref()),
            Event::CData(text) => value.push_str(text.as_ref()),
            Event::GeneralRef(reference) => {
                let escaped = format!("&{};", reference.as_ref());
                let text = quick_xml::escape::unescape(&escaped)
                    .map_err(|_| fault(FORMAT, "it has an entity that is not declared"))?;
                value.push_str(&text);
            }
            Event::End(_) => {
                let name = open.pop().unwrap_or_default();
                said.take(&open, &name, value.trim(), &mut item);
                value.clear();
            }
            Event::DocType(_) => return Err(fault(FORMAT, "it has a document type")),
            Event::Eof => break,
            Event::Empty(_) | Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
    match () {
        () if !open.is_empty() => Err(ListingFault::Truncated {
            what: "an element is open at its end",
        }),
        () if !has_root => Err(fault(FORMAT, "it is empty")),
        () => Ok(said),
    }
}

impl Said {
    /// Takes the value of an element that ends, within those that are open.
    fn take(&mut self, open: &[String], name: &str, value: &str, item: &mut Item) {
        let within = open.get(1).map(String::as_str);
        match (open.len(), within, name) {
            (1, _, "IsTruncated") => self.truncated = Some(value == "true"),
            (1, _, "NextContinuationToken") => self.next = Some(value.to_owned()),
            (1, _, "EncodingType") => self.encoded = value == "url",
            (1, _, "Contents") => self.items.push(std::mem::take(item)),
            (2, Some("Contents"), "Key") => value.clone_into(&mut item.key),
            (2, Some("Contents"), "LastModified") => item.modified = rfc3339(value),
            (2, Some("Contents"), "ETag") => item.tag = Some(value.to_owned()),
            (2, Some("Contents"), "Size") => item.size = value.parse().ok(),
            (2, Some("CommonPrefixes"), "Prefix") => self.prefixes.push(value.to_owned()),
            _ => {}
        }
    }
}
