//! A collection, as an answer to GET and HEAD: HTML for people, JSON for programs, a playlist for players.
//!
//! The representation is chosen by `Accept`, or by `?as=` where a link must choose. Each is made from one reading of
//! the directory, on a thread, and its `ETag` is a digest of its bytes: a listing that has not changed is not sent
//! twice.
//!
//! ```text
//! JSON                in pages of 1000 members; the reading of the first is cached for the others (listing_cache.rs)
//! HTML, up to 10,000  on one page, sorted as the reader likes
//! HTML, beyond that   in pages, in the order of the names
//! playlist            on one page, of the first 100,000 names
//! ```

use super::DirectoryService;
use super::get_file::media_type;
use super::listing_cache::{CachedListing, ListingCache};
use super::listing_html;
use crate::directory::{
    DigestCache, DirectoryError, ListingDigest, Member, MemberKind, MemberNames, Tag, Tree, TreePath, encode_segment,
    member, stamp,
};
use crate::header::{EntityTag, Known, list_members};
use crate::http1::HeadOnly;
use crate::serve::{Answer, Facts, Problem, Request, answer};
use actix_web::HttpResponse;
use actix_web::body::BodySize;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use bytes::Bytes;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Semaphore;

/// The members on a page of JSON unless the request asks for fewer: a judgement.
const PAGE_MEMBERS: usize = 1000;

/// The most members that a request can ask for on one page: a judgement.
const MAX_PAGE_MEMBERS: usize = 10_000;

/// The most members that are sorted for one HTML page: a judgement. Sorting needs all of them inspected for one
/// answer.
const MAX_SORTED: usize = 10_000;

/// The most names that a playlist is made of: a judgement.
const MAX_PLAYLIST: usize = 100_000;

/// The representations of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListingForm {
    Html,
    Json,
    Playlist,
}

impl ListingForm {
    fn media(self) -> &'static str {
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
    fn accepted(headers: &HeaderMap) -> Self {
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
    form: Option<ListingForm>,
    pub(super) sort: listing_html::Sort,
    pub(super) descending: bool,
    limit: Option<usize>,
    after: Option<String>,
    /// The state of the listing (`listing=`) that a page is to be of.
    listing: Option<String>,
    /// The member that is to be shown in a player.
    pub(super) play: Option<String>,
}

impl ListingView {
    fn read(query: &str) -> Result<Self, String> {
        let mut view = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let wrong = |wanted: &str| Err(format!("{key}={value} is not {wanted}"));
            match &*key {
                "as" => match ListingForm::named(&value) {
                    Some(form) => view.form = Some(form),
                    None => return wrong("html, json or m3u"),
                },
                "sort" => match listing_html::Sort::named(&value) {
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

impl DirectoryService {
    /// The answer to a GET or HEAD of a collection.
    pub(super) async fn send_collection(
        &self,
        opened: OpenCollection,
        request: &Request<'_>,
        headers: &HeaderMap,
        query: &str,
    ) -> HttpResponse {
        let view = match ListingView::read(query) {
            Ok(view) => view,
            Err(mistake) => return Problem::of_origin(StatusCode::BAD_REQUEST, mistake).response(),
        };
        let form = view.form.unwrap_or_else(|| ListingForm::accepted(headers));
        let reading = ListingReader {
            tree: Arc::clone(&self.tree),
            tags: Arc::clone(&self.tags),
            listing_cache: Arc::clone(&self.listing_cache),
            path: opened.path,
            handle: opened.handle,
            hidden: opened.hidden,
        };
        let disk = self.disk();
        let made = disk.run_with_permit(opened.permits, move || {
            Ok(match form {
                ListingForm::Json => Some(reading.json(&view)?),
                ListingForm::Html => {
                    let listing = reading.listing(&view)?;
                    match &view.play {
                        Some(name) => listing_html::player_page(&reading.path, &listing, name),
                        None => Some(listing_html::listing_page(&reading.path, &listing, &view)),
                    }
                }
                ListingForm::Playlist => Some(reading.playlist()?),
            })
        });
        let text = match made.await {
            Ok(Some(text)) => Bytes::from(text),
            Ok(None) => {
                let what = "there is nothing of that name to play here";
                return Problem::of_origin(StatusCode::NOT_FOUND, what).response();
            }
            Err(error) => return super::problem_of(&error).response(),
        };
        listing_response(
            &text,
            form,
            request,
            self.cache_control(opened.hidden && !self.settings.hidden),
        )
    }
}

fn listing_response(text: &Bytes, form: ListingForm, request: &Request<'_>, caching: &'static str) -> HttpResponse {
    let etag = EntityTag::strong(&blake3::hash(text).to_hex()[..32]);
    let known = Known {
        etag: &etag,
        weak_etag: None,
        modified: None,
        strong_date: false,
        dated: None,
    };
    let facts = Facts {
        status: 200,
        length: Some(text.len() as u64),
        known,
        // A listing has no ranges worth having.
        content_encoded: true,
    };
    let (status, body) = match answer(request.question, facts) {
        Answer::NotModified => (StatusCode::NOT_MODIFIED, None),
        Answer::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, None),
        _ => (StatusCode::OK, Some(text)),
    };
    let mut head = HttpResponse::build(status);
    head.insert_header((header::ETAG, etag.to_string()))
        .insert_header((header::VARY, HeaderValue::from_static("accept")))
        .insert_header((header::CACHE_CONTROL, caching))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    let Some(text) = body else { return head.finish() };
    head.insert_header((header::CONTENT_TYPE, form.media()));
    if form == ListingForm::Html {
        head.insert_header((header::CONTENT_SECURITY_POLICY, listing_html::POLICY));
    }
    match request.head_only {
        true => head.body(HeadOnly::new(BodySize::Sized(text.len() as u64))),
        false => head.body(text.clone()),
    }
}

/// A collection that was found and opened.
pub(super) struct OpenCollection {
    pub(super) path: TreePath,
    pub(super) handle: OwnedFd,
    /// Names that begin with a dot are shown.
    pub(super) hidden: bool,
    /// The permits of the mount that the collection is on; `None` on the directory's own file system.
    pub(super) permits: Option<Arc<Semaphore>>,
}

/// The reader of one collection, for a thread that may wait for the disk.
struct ListingReader {
    tree: Arc<Tree>,
    tags: Arc<DigestCache>,
    listing_cache: Arc<ListingCache>,
    path: TreePath,
    handle: OwnedFd,
    hidden: bool,
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

impl ListingReader {
    /// The members at these indices. Some may have been removed since the names were read.
    fn members(&self, names: &MemberNames, from: usize, until: usize) -> Result<Vec<Member>, DirectoryError> {
        let named = (from..until.min(names.len())).filter_map(|index| names.get(index));
        let found = named.map(|name| member(&self.tree, &self.tags, &self.path, &self.handle, name));
        found.filter_map(Result::transpose).collect()
    }

    /// The reading that the page is of: the cached one that it names, or a new one.
    fn cached(&self, view: &ListingView) -> Result<CachedListing, DirectoryError> {
        let kept = view
            .listing
            .as_ref()
            .and_then(|listing| self.listing_cache.get(&self.path, self.hidden, listing));
        if let Some(cached) = kept {
            return Ok(cached);
        }
        let before = stamp(&self.handle)?;
        let mut names = MemberNames::read(&self.tree, &self.path, &self.handle, self.hidden)?;
        let mut digest = ListingDigest::default();
        for name in names.iter() {
            if let Some(found) = member(&self.tree, &self.tags, &self.path, &self.handle, name)? {
                digest.add(&found);
            }
        }
        names.complete &= stamp(&self.handle)? == before;
        let listing = digest.finish();
        Ok(CachedListing::new(&self.path, self.hidden, listing, Arc::new(names)))
    }

    /// The JSON listing: paged, with what a program needs to know whether the listing is complete.
    fn json(&self, view: &ListingView) -> Result<String, DirectoryError> {
        let cached = self.cached(view)?;
        let names = &cached.names;
        let limit = view.limit.unwrap_or(PAGE_MEMBERS);
        let from = view.after.as_deref().map_or(0, |after| names.index_after(after));
        let shown = self.members(names, from, from + limit)?;
        let entries: Vec<_> = shown.iter().map(json_member).collect();
        let mut text = json!({
            "path": self.path.to_string(),
            "complete": names.complete,
            "skipped": names.skipped,
            // The id is the same on every page of one reading.
            "listing": cached.listing,
            "total": names.len(),
            "entries": entries,
            "next": next_page_query("json", Some(limit), &cached, from + limit),
        })
        .to_string();
        text.push('\n');
        self.keep(cached, limit);
        Ok(text)
    }

    /// The members that an HTML page shows.
    fn listing(&self, view: &ListingView) -> Result<Listing, DirectoryError> {
        let names = match &view.listing {
            Some(_) => self.cached(view)?,
            None => {
                let names = MemberNames::read(&self.tree, &self.path, &self.handle, self.hidden)?;
                // An HTML page is compared with no other, so its reading is named by time and count rather than by a
                // digest of all members.
                let id = format!("{:x}-{}", stamp(&self.handle)?.changed, names.len());
                CachedListing::new(&self.path, self.hidden, id, Arc::new(names))
            }
        };
        let cached = names;
        let names = Arc::clone(&cached.names);
        let cut = names.len() > MAX_SORTED;
        let (from, limit) = match cut {
            true => (
                view.after.as_deref().map_or(0, |after| names.index_after(after)),
                PAGE_MEMBERS,
            ),
            false => (0, MAX_SORTED),
        };
        let listing = Listing {
            members: self.members(&names, from, from + limit)?,
            complete: names.complete,
            skipped: names.skipped,
            total: names.len(),
            cut,
            next: next_page_query("html", None, &cached, from + limit),
        };
        self.keep(cached, limit);
        Ok(listing)
    }

    fn keep(&self, cached: CachedListing, limit: usize) {
        if cached.names.len() > limit {
            self.listing_cache.insert(cached);
        }
    }

    /// The playlist: what can be played, in natural order.
    fn playlist(&self) -> Result<String, DirectoryError> {
        let names = MemberNames::read(&self.tree, &self.path, &self.handle, self.hidden)?;
        let shown = names.len().min(MAX_PLAYLIST);
        let mut members = Vec::new();
        for index in 0..shown {
            let Some(name) = names.get(index) else { continue };
            // A name that is no film's or song's need not be inspected.
            if matches!(media_kind(&self.path, name), Some("video" | "audio"))
                && let Some(found) = member(&self.tree, &self.tags, &self.path, &self.handle, name)?
            {
                members.push(found);
            }
        }
        let listing = Listing {
            members,
            complete: names.complete,
            skipped: names.skipped,
            total: names.len(),
            cut: false,
            next: None,
        };
        let mut text = "#EXTM3U\n".to_owned();
        for member in listing_html::sorted(&listing, listing_html::Sort::Name, false) {
            if playable(&self.path, member).is_some() {
                text.push_str(&format!("#EXTINF:-1,{}\n{}\n", member.name, href(member)));
            }
        }
        Ok(text)
    }
}

/// The query of the page that begins at that index; `None` behind the last.
fn next_page_query(form: &str, limit: Option<usize>, cached: &CachedListing, place: usize) -> Option<String> {
    cached.names.get(place)?;
    let last = cached.names.get(place.checked_sub(1)?)?;
    let after = url::form_urlencoded::byte_serialize(last.as_bytes()).collect::<String>();
    let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    Some(format!("?as={form}{limit}&after={after}&listing={}", cached.listing))
}

fn json_member(member: &Member) -> serde_json::Value {
    let mut entry = json!({
        "name": member.name,
        "href": href(member),
        "type": match member.kind { MemberKind::Collection => "collection", MemberKind::File => "file" },
        "modified": rfc3339(member),
    });
    if member.kind == MemberKind::File {
        entry["size"] = member.stamp.size.into();
        entry["etag"] = match member.tag.filter(Tag::is_strong) {
            Some(tag) => tag.entity_tag().to_string().into(),
            None => serde_json::Value::Null,
        };
    }
    if member.link {
        entry["link"] = true.into();
    }
    entry
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
fn media_kind(path: &TreePath, name: &str) -> Option<&'static str> {
    let media = media_type(&path.child(name));
    ["video", "audio", "image"]
        .into_iter()
        .find(|kind| media.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/')))
        .filter(|_| !media.contains("mpegurl"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
