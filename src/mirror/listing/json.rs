//! The JSON listings of Caddy and nginx: an array of members.
//!
//! Both print names as they are, not encoded. Caddy marks collections by a slash at the end of the name and by `is_dir`;
//! nginx by `type`. An empty array is a listing of an empty collection only where it was expected: by itself it shows no
//! format.

use super::{ListedMember, ListingFault, ListingPage, PageBuilder, fault, http_date, rfc3339};
use crate::config::ListingFormat;
use crate::directory::MemberKind;
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
struct CaddyMember {
    name: String,
    size: u64,
    mod_time: String,
    is_dir: bool,
}

#[derive(Deserialize)]
struct NginxMember {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    mtime: String,
    size: Option<u64>,
}

pub(super) fn read_caddy(text: &str) -> Result<ListingPage, ListingFault> {
    // Caddy 2.6 prints `null` for an empty collection.
    let members: Option<Vec<CaddyMember>> = array(text, ListingFormat::Caddy)?;
    let mut builder = PageBuilder::default();
    for member in members.unwrap_or_default() {
        let name = member.name.strip_suffix('/').unwrap_or(&member.name).to_owned();
        builder.add(ListedMember {
            name,
            kind: kind(member.is_dir),
            size: (!member.is_dir).then_some(member.size),
            modified: rfc3339(&member.mod_time),
            tag: None,
        });
    }
    Ok(builder.finish())
}

pub(super) fn read_nginx(text: &str) -> Result<ListingPage, ListingFault> {
    let members: Vec<NginxMember> = array(text, ListingFormat::NginxJson)?;
    let mut builder = PageBuilder::default();
    for member in members {
        let is_collection = match member.kind.as_str() {
            "directory" => true,
            "file" => false,
            // A socket, a pipe or a device: GET of it is refused.
            _ => continue,
        };
        builder.add(ListedMember {
            name: member.name,
            kind: kind(is_collection),
            size: member.size,
            modified: http_date(&member.mtime),
            tag: None,
        });
    }
    Ok(builder.finish())
}

fn array<T: DeserializeOwned>(text: &str, format: ListingFormat) -> Result<T, ListingFault> {
    serde_json::from_str(text).map_err(|error| match error.is_eof() {
        true => ListingFault::Truncated {
            what: "the JSON has no end",
        },
        false => fault(format, error.to_string()),
    })
}

fn kind(is_collection: bool) -> MemberKind {
    match is_collection {
        true => MemberKind::Collection,
        false => MemberKind::File,
    }
}
