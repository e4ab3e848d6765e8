//! What every answer from one object repeats, made once an object.

use crate::clock::from_unix_seconds;
use crate::header::parse_date;
use crate::policy::Terms;
use crate::store::{Head, Object};
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use std::time::SystemTime;

/// The parts of an answer that depend on the object alone.
pub(super) struct Prepared {
    /// The fields kept from the upstream, with ours in place of theirs.
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    /// What the upstream says of its reuse.
    pub(super) terms: Terms,
    /// It is of a kind that does not change from hour to hour.
    pub(super) lasts: bool,
    /// The upstream states a digest.
    pub(super) has_digest: bool,
    /// `Last-Modified`.
    pub(super) modified: Option<SystemTime>,
    /// Whether the body is coded: its ranges mean nothing to a player.
    pub(super) coded: bool,
    /// Whether that is a strong validator.
    pub(super) strong_date: bool,
    /// `Date`.
    pub(super) dated: Option<SystemTime>,
    /// The upstream's tag, where it is weak.
    pub(super) weak_etag: Option<String>,
}

impl Prepared {
    /// That of `head`, which is the head of `object`.
    pub(super) fn of<'a>(head: &'a Head, object: &Object) -> &'a Self {
        head.prepared(|head| Self::make(head, object))
    }

    fn make(head: &Head, object: &Object) -> Self {
        let representation = head.representation();
        let validators = &representation.validators;
        let media = content_type(head, object);
        let received = from_unix_seconds(head.validated());
        Self {
            fields: fields(head, object),
            terms: Terms::read(representation.status, representation, received),
            lasts: media.is_none_or(|media| lasts(&media)),
            has_digest: representation.header("repr-digest").is_some(),
            coded: representation.header("content-encoding").is_some(),
            modified: representation.header("last-modified").and_then(parse_date),
            strong_date: validators.strong_date().is_some(),
            dated: representation.header("date").and_then(parse_date),
            weak_etag: validators.etag.clone().filter(|tag| tag.starts_with("W/")),
        }
    }
}

fn fields(head: &Head, object: &Object) -> Vec<(HeaderName, HeaderValue)> {
    let representation = head.representation();
    let kept = representation.headers.iter().filter(|(name, _)| name != "content-type");
    let named = kept.map(|(name, value)| (name.clone(), value.clone()));
    let media = content_type(head, object).map(|media| ("content-type".to_owned(), media));
    // What says something of the resource has the tag that its upstream gave it, if any: nothing is joined to it.
    let etag = match representation.status {
        200 => Some(object.etag().to_string()),
        _ => representation.validators.etag.clone(),
    };
    let all: Vec<(String, String)> = named
        .chain(media)
        .chain(etag.map(|etag| ("etag".to_owned(), etag)))
        .collect();
    let named = all
        .iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name.as_str()).ok()?, value.as_bytes())));
    in_one_block(named.collect())
}

/// Fields whose values are parts of one piece of memory: an answer that repeats them touches one count, not ten.
fn in_one_block(fields: Vec<(HeaderName, &[u8])>) -> Vec<(HeaderName, HeaderValue)> {
    let block = Bytes::from(fields.iter().map(|(_, value)| *value).collect::<Vec<_>>().concat());
    let mut at = 0;
    let parts = fields.into_iter().filter_map(|(name, value)| {
        let part = block.slice(at..at + value.len());
        at += value.len();
        Some((name, HeaderValue::from_maybe_shared(part).ok()?))
    });
    parts.collect()
}

/// Films, music, pictures, and what a server without a table of types serves them as. Pages, playlists and data
/// change.
fn lasts(media: &str) -> bool {
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let playlist = media.ends_with("mpegurl");
    let kinds = [
        "audio/",
        "video/",
        "image/",
        "font/",
        "application/octet-stream",
        "application/ogg",
    ];
    !playlist && kinds.iter().any(|kind| media.starts_with(kind))
}

/// The upstream's media type, else the one that the name's extension suggests.
pub(super) fn content_type(head: &Head, object: &Object) -> Option<String> {
    if let Some(named) = head.representation().header("content-type") {
        return Some(named.to_owned());
    }
    if head.representation().status != 200 {
        return None;
    }
    let path = object.url().split(['?', '#']).next()?;
    let (_, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
    let guess = actix_files::file_extension_to_mime(extension);
    Some(guess.to_string())
}
