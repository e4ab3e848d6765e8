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
use super::listing_cache::{CachedListing, ListingCache};
use super::listing_html;
use super::listing_view::{Listing, ListingForm, ListingView, Sort, href, media_kind, playable, rfc3339};
use crate::directory::{
    DigestCache, DirectoryError, ListingDigest, Member, MemberKind, MemberNames, Tag, Tree, TreePath, member, stamp,
};
use crate::header::{EntityTag, Known};
use crate::http1::HeadOnly;
use crate::proxy::{Answer, Facts, Problem, Request, answer};
use actix_web::HttpResponse;
use actix_web::body::BodySize;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use bytes::Bytes;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The members on a page of JSON unless the request asks for fewer: a judgement.
const PAGE_MEMBERS: usize = 1000;

/// The most members that are sorted for one HTML page: a judgement. Sorting needs all of them inspected for one
/// answer.
const MAX_SORTED: usize = 10_000;

/// The most names that a playlist is made of: a judgement.
const MAX_PLAYLIST: usize = 100_000;

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
        for member in listing_html::sorted(&listing, Sort::Name, false) {
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
