//! The parts of a listing that all of its forms share: the query, the members of a page, and what is told of each.
//!
//! The form is chosen by `Accept` (RFC 9110 §12.5.1), or by `?as=` where a link must choose. A query that does not read is
//! refused with what would; parameters of others, such as those of trackers, are ignored.

use super::get_file::media_type;
use crate::directory::{Member, MemberKind, TreePath, encode_segment};
use crate::header::list_members;
use actix_web::http::header::{self, HeaderMap};
use std::time::{Duration, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The most members that a request can ask for on one page: a judgement.
const MAX_PAGE_MEMBERS: usize = 10_000;

/// The representations of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListingForm {
    Html,
    Json,
    Playlist,
}

impl ListingForm {
    pub(super) fn media(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Playlist => "audio/x-mpegurl; charset=utf-8",
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "html" => Some(Self::Html),
            "json" => Some(Self::Json),
            "m3u" => Some(Self::Playlist),
            _ => None,
        }
    }

    /// The representation that the field prefers (RFC 9110 §12.5.1); HTML where it has no preference.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
        let field = lines.collect::<Vec<_>>().join(",");
        let quality = |names: &[&str]| {
            let of = |name: &str| {
                list_members(&field)
                    .filter_map(|member| quality_of(member, name))
                    .next()
            };
            names.iter().filter_map(|name| of(name)).max()
        };
        let html = quality(&["text/html", "application/xhtml+xml"]).unwrap_or(0);
        let json = quality(&["application/json"]).unwrap_or(0);
        let list = quality(&["audio/x-mpegurl", "application/vnd.apple.mpegurl", "audio/mpegurl"]).unwrap_or(0);
        match () {
            () if json > html && json >= list => Self::Json,
            () if list > html => Self::Playlist,
            () => Self::Html,
        }
    }
}

/// The quality, in thousandths, that a member of `Accept` gives to exactly that media type.
fn quality_of(member: &str, name: &str) -> Option<u32> {
    let mut parts = member.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(name) {
        return None;
    }
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let quality = quality.and_then(|text| text.trim().parse::<f32>().ok()).unwrap_or(1.0);
    Some((quality.clamp(0.0, 1.0) * 1000.0) as u32)
}

/// The query of a listing, read.
#[derive(Debug, Default)]
pub(super) struct ListingView {
    pub(super) form: Option<ListingForm>,
    pub(super) sort: Sort,
    pub(super) descending: bool,
    pub(super) limit: Option<usize>,
    pub(super) after: Option<String>,
    /// The state of the listing (`listing=`) that a page is to be of.
    pub(super) listing: Option<String>,
    /// The member that is to be shown in a player.
    pub(super) play: Option<String>,
}

impl ListingView {
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let mut view = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let wrong = |wanted: &str| Err(format!("{key}={value} is not {wanted}"));
            match &*key {
                "as" => match ListingForm::named(&value) {
                    Some(form) => view.form = Some(form),
                    None => return wrong("html, json or m3u"),
                },
                "sort" => match Sort::named(&value) {
                    Some(sort) => view.sort = sort,
                    None => return wrong("name, size or modified"),
                },
                "order" => match &*value {
                    "asc" => view.descending = false,
                    "desc" => view.descending = true,
                    _ => return wrong("asc or desc"),
                },
                "limit" => match value.parse() {
                    Ok(limit @ 1..=MAX_PAGE_MEMBERS) => view.limit = Some(limit),
                    _ => return wrong("a number from 1 to 10000"),
                },
                "after" => view.after = Some(value.into_owned()),
                "listing" => view.listing = Some(value.into_owned()),
                "play" => view.play = Some(value.into_owned()),
                // Other parameters, such as those of trackers, are ignored.
                _ => {}
            }
        }
        Ok(view)
    }
}

/// The column by which a listing is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    #[default]
    Name,
    Size,
    Modified,
}

impl Sort {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "name" => Some(Self::Name),
            "size" => Some(Self::Size),
            "modified" => Some(Self::Modified),
            _ => None,
        }
    }
}

/// The members of a collection on one page.
#[derive(Debug)]
pub(super) struct Listing {
    /// The members, in the order of their names' bytes.
    pub(super) members: Vec<Member>,
    pub(super) complete: bool,
    pub(super) skipped: usize,
    /// The number of members of the whole collection.
    pub(super) total: usize,
    /// `cut`: there are too many to be sorted. `next`: the query of the page that follows, if there is one.
    pub(super) cut: bool,
    pub(super) next: Option<String>,
}

/// A reference to the member, relative to its collection. It begins with the name itself, since Kodi takes nothing
/// else for an entry; a colon, which would look like a scheme, is escaped (`path.rs`).
pub(super) fn href(member: &Member) -> String {
    let slash = if member.kind == MemberKind::Collection { "/" } else { "" };
    format!("{}{slash}", encode_segment(&member.name))
}

/// The time of the last write to the member.
pub(super) fn rfc3339(member: &Member) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(member.stamp.modified);
    let time = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    time.unwrap_or_else(|| {
        // A time outside of the calendar is shown as 1970.
        let start = UNIX_EPOCH + Duration::ZERO;
        OffsetDateTime::from(start).format(&Rfc3339).unwrap_or_default()
    })
}

/// The kind of player that the member needs: video, audio or image; `None` where there is none for it.
pub(super) fn playable(path: &TreePath, member: &Member) -> Option<&'static str> {
    if member.kind == MemberKind::Collection {
        return None;
    }
    media_kind(path, &member.name)
}

/// The same by the file's name alone.
pub(super) fn media_kind(path: &TreePath, name: &str) -> Option<&'static str> {
    let media = media_type(&path.child(name));
    ["video", "audio", "image"]
        .into_iter()
        .find(|kind| media.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/')))
        .filter(|_| !media.contains("mpegurl"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn form(accept: &str) -> ListingForm {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).expect("a value"));
        ListingForm::accepted(&headers)
    }

    #[test]
    fn the_accept_field_selects_the_form_of_a_listing() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, wanted) in [
            (browser, ListingForm::Html),
            ("*/*", ListingForm::Html),
            ("application/json", ListingForm::Json),
            ("application/json, */*;q=0.1", ListingForm::Json),
            ("text/html;q=0.5, application/json", ListingForm::Json),
            ("text/html, application/json;q=0.9", ListingForm::Html),
            ("audio/x-mpegurl", ListingForm::Playlist),
            ("application/json;q=rubbish", ListingForm::Json),
            ("application/json;q=0", ListingForm::Html),
        ] {
            assert_eq!(form(accept), wanted, "{accept}");
        }
        assert_eq!(ListingForm::accepted(&HeaderMap::new()), ListingForm::Html);
    }

    #[test]
    fn a_wrong_query_is_named() {
        for (query, part) in [
            ("as=xml", "json"),
            ("limit=0", "10000"),
            ("sort=colour", "size"),
            ("order=up", "desc"),
        ] {
            let mistake = ListingView::read(query).expect_err("wrong");
            assert!(mistake.contains(part), "{mistake}");
        }
        assert!(ListingView::read("utm=1&as=json").is_ok());
    }
}
