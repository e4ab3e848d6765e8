//! Kinds of replies, by their media type and their name.
//!
//! A playlist changes while its film does not, so it is not taken for fresh as a film is. Types are compared without
//! parameters, in lower case and by their ends: `audio/mpegurl`, `application/vnd.apple.mpegurl` and
//! `application/x-mpegurl` are one kind. A type that says playlist is believed under any name, and so is a name under
//! any type, since many servers have no type for one.

/// Whether it is a list of other resources, which a player reads again and again: by its type, or by its name where the
/// server has no type for it.
pub fn is_playlist(media: &str, url: &str) -> bool {
    let media = essence(media);
    const TYPES: [&str; 7] = [
        "mpegurl",
        "scpls",
        "dash+xml",
        "dash.mpd",
        "xspf+xml",
        "ms-asf-playlist",
        "x-ms-asx",
    ];
    const NAMES: [&str; 8] = ["m3u8", "m3u", "mpd", "pls", "xspf", "asx", "ism", "isml"];
    let by_name =
        || extension(url).is_some_and(|extension| NAMES.iter().any(|name| extension.eq_ignore_ascii_case(name)));
    TYPES.iter().any(|kind| media.ends_with(kind)) || by_name()
}

/// Text that browsers show as it is, where they are forbidden to guess (`nosniff`).
const SHOWN_AS_TEXT: &[&str] = &["application/json", "text/css", "text/csv", "text/plain", "text/vtt"];

/// Whether no browser that is forbidden to guess (`nosniff`) runs anything that it finds in a document of that type: films,
/// sounds, fonts, pictures but SVG, and plain text.
pub fn is_inert(media: &str) -> bool {
    // Two types in one line are none.
    let media = Some(essence(media)).filter(|media| !media.contains(','));
    media.is_some_and(|media| match media.split_once('/') {
        _ if SHOWN_AS_TEXT.contains(&media.as_str()) => true,
        Some(("audio" | "video" | "font", _)) => true,
        Some(("image", kind)) => !kind.contains("svg") && !kind.contains("xml"),
        _ => false,
    })
}

/// A media type without its parameters, in lower case.
pub fn essence(media: &str) -> String {
    media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The extension of the last segment of a URL's path.
pub fn extension(url: &str) -> Option<&str> {
    let path = url.split(['?', '#']).next()?;
    Some(path.rsplit('/').next()?.rsplit_once('.')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_run_nothing_is_inert() {
        for media in [
            "video/mp4",
            "Audio/MPEG; codecs=mp3",
            "image/png",
            "font/woff2",
            "text/plain; charset=utf-8",
        ] {
            assert!(is_inert(media), "{media}");
        }
        for media in [
            "text/html",
            "image/svg+xml",
            "IMAGE/SVG+XML",
            "application/octet-stream",
            "",
            "video",
            "image/png, text/html",
            "text/plain, text/html",
            "text/xml",
        ] {
            assert!(!is_inert(media), "{media}");
        }
    }

    #[test]
    fn a_playlist_is_known_by_its_type_or_its_name() {
        for (media, url) in [
            ("application/vnd.apple.mpegurl", "http://h/a"),
            ("application/dash+xml", "http://h/a"),
            ("text/plain", "http://h/live.m3u8?token=1"),
            ("", "http://h/a/b.MPD"),
        ] {
            assert!(is_playlist(media, url), "{media} {url}");
        }
        assert!(!is_playlist("video/mp4", "http://h/m3u8/film.mp4?x=.m3u8"));
    }
}
