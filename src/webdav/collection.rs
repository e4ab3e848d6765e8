//! A collection, as an answer to GET and HEAD: a page for people, JSON for programs, a playlist for players.
//!
//! Which of them is chosen by `Accept`, or by `?as=` where a link must choose. All are made from one reading of the
//! directory; the `ETag` of each is a digest of its bytes, so a listing that says the same is not sent twice.
//!
//! ```text
//! JSON                in pages of 1000 members; the reading of the first page is kept for those that follow (cursors.rs)
//! HTML, up to 10,000  on one page, sorted as the reader likes
//! HTML, beyond that   in pages, in the order of the names; so is the playlist cut, at 100,000
//! ```

use super::Origin;
use super::cursors::{Cursors, ListingCursor};
use super::file::media_type;
use super::page;
use crate::directory::{
    DigestCache, DirectoryError, ListingDigest, Member, MemberKind, MemberNames, Tag, Tree, TreePath, encode_segment,
    member, stamp,
};
use crate::header::{EntityTag, Known, list_members};
use crate::serve::multipart::Segment;
use crate::serve::{Answer, Facts, HeadOnly, Problem, Request, answer};
use actix_web::HttpResponse;
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

/// How many members a page of JSON holds, unless asked for fewer, and at most.
const PAGE_MEMBERS: usize = 1000;
const MAX_PAGE_MEMBERS: usize = 10_000;

/// How many members are sorted for one page for people.
const MAX_SORTED: usize = 10_000;

/// How many members a playlist is made of.
const MAX_PLAYLIST: usize = 100_000;

/// The forms that a listing has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Playlist,
}

impl Form {
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

    /// The form that suits the field best (RFC 9110 §12.5.1); the page where it has no wish.
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

/// What the query of a listing asks for.
#[derive(Debug, Default)]
pub(super) struct ListingView {
    form: Option<Form>,
    pub(super) sort: page::Sort,
    pub(super) descending: bool,
    limit: Option<usize>,
    after: Option<String>,
    /// The state of the listing that a page is asked for of.
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
                "as" => match Form::named(&value) {
                    Some(form) => view.form = Some(form),
                    None => return wrong("html, json or m3u"),
                },
                "sort" => match page::Sort::named(&value) {
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
                // What else stands in a query is no part of a name, and nothing to us.
                _ => {}
            }
        }
        Ok(view)
    }
}

impl Origin {
    /// The answer to a GET or HEAD of a collection.
    pub(super) async fn send_collection(
        &self,
        opened: Opened,
        request: &Request<'_>,
        headers: &HeaderMap,
        query: &str,
    ) -> HttpResponse {
        let view = match ListingView::read(query) {
            Ok(view) => view,
            Err(mistake) => return Problem::of_origin(StatusCode::BAD_REQUEST, mistake).response(),
        };
        let form = view.form.unwrap_or_else(|| Form::accepted(headers));
        let reading = Reading {
            tree: Arc::clone(&self.tree),
            tags: Arc::clone(&self.tags),
            cursors: Arc::clone(&self.cursors),
            path: opened.path,
            handle: opened.handle,
            hidden: opened.hidden,
        };
        let disk = self.disk();
        let made = disk.among(opened.turns, move || {
            Ok(match form {
                Form::Json => Some(reading.json(&view)?),
                Form::Html => {
                    let listing = reading.listing(&view)?;
                    match &view.play {
                        Some(name) => page::player(&reading.path, &listing, name),
                        None => Some(page::listing(&reading.path, &listing, &view)),
                    }
                }
                Form::Playlist => Some(reading.playlist()?),
            })
        });
        let text = match made.await {
            Ok(Some(text)) => Bytes::from(text),
            Ok(None) => {
                let what = "there is nothing of that name to play here";
                return Problem::of_origin(StatusCode::NOT_FOUND, what).response();
            }
            Err(error) => return super::refused(&error).response(),
        };
        answered(
            &text,
            form,
            request,
            self.cache_control(opened.hidden && !self.settings.hidden),
        )
    }
}

fn answered(text: &Bytes, form: Form, request: &Request<'_>, caching: &'static str) -> HttpResponse {
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
    if form == Form::Html {
        head.insert_header((header::CONTENT_SECURITY_POLICY, page::POLICY));
    }
    match request.head_only {
        true => head.body(HeadOnly::of(&[Segment::Text(text.clone())])),
        false => head.body(text.clone()),
    }
}

/// A collection that was found.
pub(super) struct Opened {
    pub(super) path: TreePath,
    pub(super) handle: OwnedFd,
    /// Whether names that begin with a dot are shown.
    pub(super) hidden: bool,
    /// The turns of those who wait for the mount that it is on; `None` on the directory's own.
    pub(super) turns: Option<Arc<Semaphore>>,
}

/// A collection that is open to be listed.
struct Reading {
    tree: Arc<Tree>,
    tags: Arc<DigestCache>,
    cursors: Arc<Cursors>,
    path: TreePath,
    handle: OwnedFd,
    hidden: bool,
}

/// Members of a collection, as a page shows them.
#[derive(Debug)]
pub(super) struct Listing {
    /// The members, in the order of their names' bytes.
    pub(super) members: Vec<Member>,
    pub(super) complete: bool,
    pub(super) skipped: usize,
    /// How many the collection has.
    pub(super) total: usize,
    /// They were too many to be sorted; and where the next are, if there are more.
    pub(super) cut: bool,
    pub(super) next: Option<String>,
}

impl Reading {
    /// The members at these places. Some may have gone since the names were read.
    fn members(&self, names: &MemberNames, from: usize, until: usize) -> Result<Vec<Member>, DirectoryError> {
        let named = (from..until.min(names.len())).filter_map(|index| names.get(index));
        let found = named.map(|name| member(&self.tree, &self.tags, &self.path, &self.handle, name));
        found.filter_map(Result::transpose).collect()
    }

    /// The reading that the page is of: the one that is kept, or a new one.
    fn cursor(&self, view: &ListingView) -> Result<ListingCursor, DirectoryError> {
        let kept = view
            .listing
            .as_ref()
            .and_then(|listing| self.cursors.get(&self.path, self.hidden, listing));
        if let Some(cursor) = kept {
            return Ok(cursor);
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
        Ok(ListingCursor::new(&self.path, self.hidden, listing, Arc::new(names)))
    }

    /// The listing for programs: paged, and with what they need to know whether it is all.
    fn json(&self, view: &ListingView) -> Result<String, DirectoryError> {
        let cursor = self.cursor(view)?;
        let names = &cursor.names;
        let limit = view.limit.unwrap_or(PAGE_MEMBERS);
        let from = view.after.as_deref().map_or(0, |after| names.index_after(after));
        let shown = self.members(names, from, from + limit)?;
        let entries: Vec<_> = shown.iter().map(entry).collect();
        let mut text = json!({
            "path": self.path.to_string(),
            "complete": names.complete,
            "skipped": names.skipped,
            // The same on every page of one state.
            "listing": cursor.listing,
            "total": names.len(),
            "entries": entries,
            "next": next("json", Some(limit), &cursor, from + limit),
        })
        .to_string();
        text.push('\n');
        self.keep(cursor, limit);
        Ok(text)
    }

    /// The members that a page for people shows.
    fn listing(&self, view: &ListingView) -> Result<Listing, DirectoryError> {
        let names = match &view.listing {
            Some(_) => self.cursor(view)?,
            None => {
                let names = MemberNames::read(&self.tree, &self.path, &self.handle, self.hidden)?;
                // Pages that are not compared need no state but a name for their reading.
                let id = format!("{:x}-{}", stamp(&self.handle)?.changed, names.len());
                ListingCursor::new(&self.path, self.hidden, id, Arc::new(names))
            }
        };
        let cursor = names;
        let names = Arc::clone(&cursor.names);
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
            next: next("html", None, &cursor, from + limit),
        };
        self.keep(cursor, limit);
        Ok(listing)
    }

    fn keep(&self, cursor: ListingCursor, limit: usize) {
        if cursor.names.len() > limit {
            self.cursors.insert(cursor);
        }
    }

    /// A playlist of what can be played, in the order in which people count.
    fn playlist(&self) -> Result<String, DirectoryError> {
        let names = MemberNames::read(&self.tree, &self.path, &self.handle, self.hidden)?;
        let shown = names.len().min(MAX_PLAYLIST);
        let mut members = Vec::new();
        for index in 0..shown {
            let Some(name) = names.get(index) else { continue };
            // What is no film by its name need not be looked at.
            if matches!(kind_of(&self.path, name), Some("video" | "audio"))
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
        for member in page::sorted(&listing, page::Sort::Name, false) {
            if playable(&self.path, member).is_some() {
                text.push_str(&format!("#EXTINF:-1,{}\n{}\n", member.name, href(member)));
            }
        }
        Ok(text)
    }
}

/// The query of the page that begins at that place of the reading; `None` behind the last.
fn next(form: &str, limit: Option<usize>, cursor: &ListingCursor, place: usize) -> Option<String> {
    cursor.names.get(place)?;
    let last = cursor.names.get(place.checked_sub(1)?)?;
    let after = url::form_urlencoded::byte_serialize(last.as_bytes()).collect::<String>();
    let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    Some(format!("?as={form}{limit}&after={after}&listing={}", cursor.listing))
}

fn entry(member: &Member) -> serde_json::Value {
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

/// A reference to the member, relative to its collection. It begins with the name itself, since Kodi takes nothing else for
/// an entry; a colon, which would look like a scheme, is escaped (`path.rs`).
pub(super) fn href(member: &Member) -> String {
    let slash = if member.kind == MemberKind::Collection { "/" } else { "" };
    format!("{}{slash}", encode_segment(&member.name))
}

/// When the member was last written.
pub(super) fn rfc3339(member: &Member) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(member.stamp.modified);
    let time = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    time.unwrap_or_else(|| {
        // Times that no calendar has.
        let start = UNIX_EPOCH + Duration::ZERO;
        OffsetDateTime::from(start).format(&Rfc3339).unwrap_or_default()
    })
}

/// Whether a player can do something with it, and what kind of thing it is.
pub(super) fn playable(path: &TreePath, member: &Member) -> Option<&'static str> {
    if member.kind == MemberKind::Collection {
        return None;
    }
    kind_of(path, &member.name)
}

/// The same by a file's name alone.
fn kind_of(path: &TreePath, name: &str) -> Option<&'static str> {
    let media = media_type(&path.child(name));
    ["video", "audio", "image"]
        .into_iter()
        .find(|kind| media.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/')))
        .filter(|_| !media.contains("mpegurl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Form {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).expect("a value"));
        Form::accepted(&headers)
    }

    #[test]
    fn the_accept_field_selects_the_form_of_a_listing() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, wanted) in [
            (browser, Form::Html),
            ("*/*", Form::Html),
            ("application/json", Form::Json),
            ("application/json, */*;q=0.1", Form::Json),
            ("text/html;q=0.5, application/json", Form::Json),
            ("text/html, application/json;q=0.9", Form::Html),
            ("audio/x-mpegurl", Form::Playlist),
            ("application/json;q=rubbish", Form::Json),
            ("application/json;q=0", Form::Html),
        ] {
            assert_eq!(form(accept), wanted, "{accept}");
        }
        assert_eq!(Form::accepted(&HeaderMap::new()), Form::Html);
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
