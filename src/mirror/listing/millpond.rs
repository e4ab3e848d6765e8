//! The JSON listing of a millpond directory.
//!
//! The document says by itself whether it is complete. Pages of one reading have one `listing`, which the next page's query
//! names; where the server has forgotten that reading the next page is of another, and the pages do not belong together.

use super::{ListedMember, ListingFault, ListingPage, PageBuilder, fault, rfc3339};
use crate::config::ListingFormat;
use crate::directory::MemberKind;
use serde::Deserialize;

#[derive(Deserialize)]
struct Document {
    complete: bool,
    listing: String,
    entries: Vec<Entry>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    modified: String,
    size: Option<u64>,
    etag: Option<String>,
}

pub(super) fn read(text: &str) -> Result<ListingPage, ListingFault> {
    let format = ListingFormat::Millpond;
    let document: Document = serde_json::from_str(text).map_err(|error| match error.is_eof() {
        true => ListingFault::Truncated {
            what: "the JSON has no end",
        },
        false => fault(format, error.to_string()),
    })?;
    let mut builder = PageBuilder::default();
    for entry in document.entries {
        let kind = match entry.kind.as_str() {
            "collection" => MemberKind::Collection,
            "file" => MemberKind::File,
            other => return Err(fault(format, format!("a member is of the type {other:?}"))),
        };
        builder.add(ListedMember {
            kind,
            size: entry.size,
            modified: rfc3339(&entry.modified),
            tag: entry.etag,
            name: entry.name,
        });
    }
    let page = builder.finish();
    Ok(ListingPage {
        is_cut: !document.complete,
        reading: Some(document.listing),
        next: document.next,
        ..page
    })
}
