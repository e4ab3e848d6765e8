//! The headers that every answer from one object repeats, made once an object.
//!
//! They are derived from the object's head and kept with it (`Head::derived`), so a head that is replaced takes them
//! along, and no answer has fields of one head and terms of another. The terms of reuse are read from the upstream's
//! fields once, not with each hit.

use crate::clock::from_unix_seconds;
use crate::header::{codes_content, parse_date, value_of};
use crate::policy::{Terms, essence, extension, is_playlist};
use crate::store::{Head, Object};
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use std::borrow::Cow;
use std::time::SystemTime;

/// The parts of an answer that depend on the object alone.
pub(in crate::proxy) struct HotHeaders {
    /// The fields kept from the upstream, with ours in place of theirs.
    pub(in crate::proxy) fields: Vec<(HeaderName, HeaderValue)>,
    /// The upstream's terms of reuse.
    pub(in crate::proxy) terms: Terms,
    /// Whether the media type is one that is the same for every client: a film, a picture, a font.
    pub(in crate::proxy) is_for_all: bool,
    /// Whether it is the body of a film or a song: without explicit freshness it stays fresh.
    pub(in crate::proxy) is_media: bool,
    /// The upstream states a digest.
    pub(in crate::proxy) has_digest: bool,
    /// `Last-Modified`.
    pub(in crate::proxy) modified: Option<SystemTime>,
    /// Whether the body is coded: its ranges mean nothing to a player.
    pub(in crate::proxy) content_encoded: bool,
    /// Whether that is a strong validator.
    pub(in crate::proxy) strong_date: bool,
    /// `Date`.
    pub(in crate::proxy) dated: Option<SystemTime>,
    /// The upstream's tag, where it is weak.
    pub(in crate::proxy) weak_etag: Option<String>,
}

impl HotHeaders {
    /// That of `head`, which is the head of `object`.
    pub(in crate::proxy) fn of<'a>(head: &'a Head, object: &Object) -> &'a Self {
        head.derived(|head| Self::make(head, object))
    }

    fn make(head: &Head, object: &Object) -> Self {
        let representation = head.representation();
        let validators = &representation.validators;
        let media = content_type(head, object);
        // The terms count from the time at which the reply came, not from now.
        let received = from_unix_seconds(head.validated());
        Self {
            fields: fields(head, object),
            terms: Terms::read(representation.status, representation, received),
            is_for_all: media.as_deref().is_none_or(|media| is_for_all(media, object.url())),
            is_media: representation.status == 200 && is_media(media.as_deref().unwrap_or_default(), object.url()),
            has_digest: representation.header("repr-digest").is_some(),
            content_encoded: representation.header("content-encoding").is_some_and(codes_content),
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
    // A bare response has the tag that its upstream gave it, if any: no bytes are joined to it.
    let etag = match representation.status {
        200 => object.shows_etag().then(|| object.etag().to_string()),
        _ => representation.validators.etag.clone(),
    };
    let all: Vec<(String, String)> = named
        .chain(media)
        .chain(etag.map(|etag| ("etag".to_owned(), etag)))
        .collect();
    let named = all
        .iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name.as_str()).ok()?, value_of(value))));
    in_one_block(named.collect())
}

/// Fields whose values are parts of one piece of memory: an answer that repeats them touches one count, not ten.
fn in_one_block(fields: Vec<(HeaderName, Cow<'_, [u8]>)>) -> Vec<(HeaderName, HeaderValue)> {
    let block = Bytes::from(fields.iter().map(|(_, value)| &**value).collect::<Vec<_>>().concat());
    let mut at = 0;
    let parts = fields.into_iter().filter_map(|(name, value)| {
        let part = block.slice(at..at + value.len());
        at += value.len();
        Some((name, HeaderValue::from_maybe_shared(part).ok()?))
    });
    parts.collect()
}

/// Films, music, pictures, and what a server without a table of types serves them as. Pages, playlists and data
/// may be made for the one who asks.
fn is_for_all(media: &str, url: &str) -> bool {
    let media = essence(media);
    let kinds = [
        "audio/",
        "video/",
        "image/",
        "font/",
        "application/octet-stream",
        "application/ogg",
    ];
    !is_playlist(&media, url) && kinds.iter().any(|kind| media.starts_with(kind))
}

/// Bodies of films and songs. A camera's picture changes under its name, and so do packages, lists and pages: what says
/// nothing of its freshness is asked for each time where it is none of these.
fn is_media(media: &str, url: &str) -> bool {
    let media = essence(media);
    let is_media =
        |media: &str| media.starts_with("video/") || media.starts_with("audio/") || media == "application/ogg";
    let is_unnamed = media.is_empty() || media == "application/octet-stream";
    // A stream of bytes without a type and without an extension is what media servers call their films.
    let by_name = || match extension(url) {
        Some(extension) => is_media(&mime_of(extension)),
        None => media.is_empty(),
    };
    !is_playlist(&media, url) && (is_media(&media) || (is_unnamed && by_name()))
}

fn mime_of(extension: &str) -> String {
    actix_files::file_extension_to_mime(extension).to_string()
}

/// The upstream's media type, else the one that the name's extension suggests.
pub(in crate::proxy) fn content_type(head: &Head, object: &Object) -> Option<String> {
    if let Some(named) = head.representation().header("content-type") {
        return Some(named.to_owned());
    }
    if head.representation().status != 200 {
        return None;
    }
    extension(object.url()).map(mime_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn films_and_songs_are_media_and_changing_resources_are_not() {
        for (media, url) in [
            ("video/mp4", "http://h/film"),
            ("audio/flac; x=y", "http://h/song"),
            ("application/octet-stream", "http://h/film.mkv?x=/y.deb"),
            ("", "http://h/film.mp4"),
            ("application/ogg", "http://h/a"),
            ("", "http://h/Videos/17/stream"),
        ] {
            assert!(is_media(media, url), "{media} {url}");
        }
        for (media, url) in [
            ("application/octet-stream", "http://h/live.m3u8"),
            ("video/vnd.mpeg.dash.mpd", "http://h/live"),
            ("audio/x-scpls", "http://h/now"),
            ("audio/mpegurl", "http://h/list"),
            ("image/jpeg", "http://h/snapshot.jpg"),
            ("application/octet-stream", "http://h/tool_1.0_amd64.deb"),
            ("application/octet-stream", "http://h/data"),
            ("application/json", "http://h/film.mp4"),
            ("text/html", "http://h/film.mp4"),
        ] {
            assert!(!is_media(media, url), "{media} {url}");
        }
    }

    #[test]
    fn pictures_are_for_all_clients_and_lists_and_pages_are_not() {
        assert!(is_for_all("image/png", "http://h/a.png"));
        assert!(!is_for_all("application/octet-stream", "http://h/list.M3U8?token=1"));
        assert!(!is_for_all("text/html", "http://h/"));
    }
}
