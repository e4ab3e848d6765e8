//! Listings of collections, as the servers of the world write them, read into names. Pure.
//!
//! ```text
//! millpond.rs   our own JSON, in pages              precise: tag, size, nanoseconds
//! json.rs       Caddy's and nginx's JSON            precise: size and time
//! multistatus.rs  WebDAV, PROPFIND of depth 1       precise: tag, size, seconds
//! s3.rs         S3 ListObjectsV2, in pages          precise: tag, size, milliseconds
//! html.rs       nginx, Apache, lighttpd, Python,
//!               rclone: pages made for people       names alone are believed
//! ```
//!
//! A listing says which names there are, and by its silence which there are not: absence is believed of nothing else. So
//! the readers here refuse rather than guess. A body in another format than the one that is expected is a
//! [`ListingFault`], and so is one whose end is not that of the format: a half listing looks like a whole one otherwise. A
//! name that no path here could name is reported as left out, and the listing is not complete then.
//!
//! Names are decoded once, here, and are `TreePath` segments from then on. What a page for people says of sizes and times
//! is rounded and in a time zone that is not told: it is not read at all.

mod html;
mod json;
mod millpond;
mod multistatus;
mod s3;
#[cfg(test)]
mod tests;

pub use multistatus::PROPFIND;

use crate::config::ListingFormat;
use crate::directory::{MemberKind, PathError, TreePath};
use std::borrow::Cow;
use url::Url;

/// The largest listing that is read, in bytes of one page: a judgement. A hundred thousand members take some 30 MB in the
/// wordiest format, PROPFIND; the bound is on memory.
pub const MAX_LISTING_BYTES: usize = 64 << 20;

/// The most members of one collection: a judgement.
pub const MAX_MEMBERS: usize = 1_000_000;

/// A member of a collection, as its listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedMember {
    /// The name: a decoded segment.
    pub name: String,
    /// The kind.
    pub kind: MemberKind,
    /// The length in bytes, where the format tells it exactly.
    pub size: Option<u64>,
    /// The time of the last change in nanoseconds since 1970, as exact as the format has it.
    pub modified: Option<i64>,
    /// The entity tag, as it would come in `ETag`.
    pub tag: Option<String>,
}

/// A page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListingPage {
    /// The members.
    pub members: Vec<ListedMember>,
    /// The names that were left out, each with the reason, as texts for a report.
    pub left_out: Vec<String>,
    /// The server says that it has not listed all.
    pub is_cut: bool,
    /// The reading that the page is of: another on the next page is another listing.
    pub reading: Option<String>,
    /// The query under which the next page is, of the collection's URL or of the bucket's; `None` on the last page.
    pub next: Option<String>,
}

/// The reason for which a body is no listing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingFault {
    /// Not of the expected format.
    #[error("it is no listing in the format {}: {what}", .format.name())]
    Format {
        /// The format that was expected.
        format: ListingFormat,
        /// The fault, in words.
        what: String,
    },
    /// Ended before the format does.
    #[error("it ends in the middle: {what}")]
    Truncated {
        /// The missing part.
        what: &'static str,
    },
    /// More members than are read.
    #[error("it has more than {MAX_MEMBERS} members")]
    TooMany,
}

/// Where a listing was got from.
#[derive(Debug, Clone, Copy)]
pub struct ListingSource<'a> {
    /// The URL of the collection; its path ends in a slash.
    pub url: &'a Url,
    /// For S3, the keys' common start: the path of the collection within its bucket, decoded.
    pub prefix: &'a str,
}

/// Reads a page of a listing.
///
/// # Errors
/// Where the body is no page of that format, or ends before it.
pub fn read(format: ListingFormat, source: ListingSource<'_>, body: &[u8]) -> Result<ListingPage, ListingFault> {
    // Bytes that are not UTF-8 are in one name as a rule, and the others are read all the same.
    let text = String::from_utf8_lossy(body);
    let is_text = matches!(text, Cow::Borrowed(_));
    let text = text.trim_start_matches('\u{feff}');
    let mut page = match format {
        ListingFormat::Millpond => millpond::read(text),
        ListingFormat::Caddy => json::read_caddy(text),
        ListingFormat::NginxJson => json::read_nginx(text),
        ListingFormat::Webdav => multistatus::read(text, source.url),
        ListingFormat::S3 => s3::read(text, source.prefix),
        html => html::read(html, text, source.url),
    }?;
    if !is_text {
        leave_out_replaced(&mut page);
    }
    match page.members.len() > MAX_MEMBERS {
        true => Err(ListingFault::TooMany),
        false => Ok(page),
    }
}

/// Leaves out the names in which bytes were replaced that are not UTF-8: nobody could ask for them.
fn leave_out_replaced(page: &mut ListingPage) {
    let (replaced, members) = std::mem::take(&mut page.members)
        .into_iter()
        .partition(|member| member.name.contains(char::REPLACEMENT_CHARACTER));
    let replaced: Vec<ListedMember> = replaced;
    page.members = members;
    let texts = replaced
        .iter()
        .map(|member| format!("{:?}: it is not UTF-8", member.name));
    page.left_out.extend(texts);
}

/// The format of a body that answers a GET of a collection, where it is one of those that do.
pub fn recognize(source: ListingSource<'_>, body: &[u8]) -> Option<ListingFormat> {
    let by_get = |format: &ListingFormat| !matches!(format, ListingFormat::Webdav | ListingFormat::S3);
    let is_whole = |format: &ListingFormat| read(*format, source, body).is_ok();
    let shows_one = || !is_empty_array(body);
    ListingFormat::ALL
        .into_iter()
        .filter(by_get)
        .find(|format| is_whole(format) && (format.is_html() || *format == ListingFormat::Millpond || shows_one()))
}

/// Whether the body is a JSON array without members: an empty collection, of a server that could be either of two.
pub fn is_empty_array(body: &[u8]) -> bool {
    serde_json::from_slice::<Vec<serde_json::Value>>(body).is_ok_and(|members| members.is_empty())
}

/// The members of a page, as they are found: names that cannot be mapped are left out, and said.
#[derive(Debug, Default)]
struct PageBuilder {
    page: ListingPage,
}

impl PageBuilder {
    /// Adds a member whose name is not encoded.
    fn add(&mut self, member: ListedMember) {
        match TreePath::check_name(&member.name) {
            Ok(()) => self.page.members.push(member),
            Err(why) => self.leave_out(&member.name, &why),
        }
    }

    fn leave_out(&mut self, name: &str, why: &PathError) {
        self.page.left_out.push(format!("{name:?}: {why}"));
    }

    /// The page. Of a name that is there twice the second is left out: a path leads to one of them only.
    fn finish(mut self) -> ListingPage {
        self.page.members.sort_by(|one, other| one.name.cmp(&other.name));
        let members = std::mem::take(&mut self.page.members);
        for member in members {
            match self.page.members.last() {
                Some(before) if before.name == member.name && before.kind == member.kind => {}
                Some(before) if before.name == member.name => {
                    let text = format!("{:?}: a file and a collection have that name", member.name);
                    self.page.left_out.push(text);
                }
                _ => self.page.members.push(member),
            }
        }
        self.page
    }
}

fn fault(format: ListingFormat, what: impl Into<String>) -> ListingFault {
    ListingFault::Format {
        format,
        what: what.into(),
    }
}

/// A time in the notation of RFC 3339, in nanoseconds since 1970.
fn rfc3339(text: &str) -> Option<i64> {
    use time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, &Rfc3339).ok()?;
    time.unix_timestamp_nanos().try_into().ok()
}

/// A time as HTTP has it, in nanoseconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    let time = crate::header::parse_date(text)?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    since.as_nanos().try_into().ok()
}
