//! Whether a reply is a live stream: decided from the reply, here and nowhere else.
//!
//! A live stream is a 200 that names no length and no lifetime of its own, and has a type that is known for having no
//! end, a radio's fields, or a rule of the operator's. In doubt a reply is an ordinary one, which is kept as an object
//! and read by ranges: a film that is taken for a stream could not be sought in. The format follows from the type and
//! `icy-metaint`; it tells where a listener may come in (sync_points.rs).

use crate::policy::{Fields, Lifetime, Terms};
use crate::upstream::Framing;
use std::time::{Duration, SystemTime};

/// Media types that have no end by their nature, where the reply names no length.
const LIVE_TYPES: &[&str] = &["multipart/x-mixed-replace", "text/event-stream"];

/// Media types that have no end where nothing but the connection's close could tell one. In chunks they end like files:
/// a song that is coded as it is sent, a segment that is sent while it is made.
const LIVE_TO_THE_CLOSE: &[&str] = &["audio/aac", "audio/aacp", "audio/mpeg", "video/mp2t"];

/// The format of a stream: it tells where a listener may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamFormat {
    /// Frames that a decoder finds by itself (MPEG audio): any place will do.
    Frames,
    /// MPEG transport packets of 188 bytes.
    Packets,
    /// Audio with metadata after every so many bytes (`icy-metaint`): a client counts from where it came in.
    Icy {
        /// The bytes of audio between two pieces of metadata; at least 1.
        every: u64,
    },
    /// Events, each ended by an empty line (`text/event-stream`).
    Events,
    /// Parts that replace each other (`multipart/x-mixed-replace`).
    Parts {
        /// The delimiter between two parts, with the dashes before it.
        delimiter: String,
    },
    /// Something else: it is understood from its beginning alone.
    Whole,
}

/// The rules that make a stream of replies which would not be one by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Media types, in lower case; `audio/*` stands for all of a kind.
    pub types: Vec<String>,
}

impl StreamFormat {
    /// The kind of stream that a reply is; `None` where it is an ordinary one.
    ///
    /// A reply that names its length has an end. So has one of any other type than those that are known for having
    /// none, unless it comes from a radio server (`icy-*` fields) or a rule says so.
    pub fn of(status: u16, framing: Framing, fields: &(impl Fields + ?Sized), rules: &Rules) -> Option<Self> {
        let has_end = matches!(framing, Framing::Length(_));
        let media = media_type(fields);
        let is_radio = ["icy-name", "icy-br", "icy-metaint", "icy-url", "ice-audio-info"]
            .iter()
            .any(|name| fields.has(name));
        let ruled = || rules.types.iter().any(|rule| matches(rule, &media));
        // A reply with explicit freshness is a segment of something (HLS), whatever its type.
        let terms = Terms::read(status, fields, SystemTime::UNIX_EPOCH);
        let has_end = has_end || matches!(terms.lifetime, Lifetime::Explicit(lifetime) if lifetime > Duration::ZERO);
        let by_type = LIVE_TYPES.contains(&media.as_str())
            || (framing == Framing::Close && LIVE_TO_THE_CLOSE.contains(&media.as_str()));
        let is_live = status == 200 && !has_end && (by_type || is_radio || ruled());
        is_live.then(|| Self::by_type(fields))
    }

    /// The kind by its media type alone: of a reply that is kept as a stream whatever it is.
    pub fn by_type(fields: &(impl Fields + ?Sized)) -> Self {
        let media = media_type(fields);
        let every = fields.first("icy-metaint").and_then(|every| every.trim().parse().ok());
        if let Some(every) = every.filter(|every| *every > 0) {
            return Self::Icy { every };
        }
        match media.as_str() {
            "text/event-stream" => Self::Events,
            "video/mp2t" => Self::Packets,
            "multipart/x-mixed-replace" => match boundary(fields.first("content-type").unwrap_or_default()) {
                Some(boundary) => Self::Parts {
                    // Some servers have the dashes in the parameter already.
                    delimiter: format!("--{}", boundary.trim_start_matches("--")),
                },
                None => Self::Whole,
            },
            "audio/mpeg" | "audio/aac" | "audio/aacp" => Self::Frames,
            _ => Self::Whole,
        }
    }
}

fn media_type(fields: &(impl Fields + ?Sized)) -> String {
    let media = fields.first("content-type").unwrap_or_default();
    media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn matches(rule: &str, media: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(kind) => media.starts_with(kind),
        None => media == rule,
    }
}

fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1);
    let (_, value) = parameters
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(framing: Framing, fields: &[(&str, &str)]) -> Option<StreamFormat> {
        let rules = Rules {
            types: vec!["application/ogg".to_owned(), "x/*".to_owned()],
        };
        StreamFormat::of(200, framing, fields, &rules)
    }

    #[test]
    fn replies_with_a_length_and_chunked_files_are_no_streams() {
        let radio = [("content-type", "audio/mpeg"), ("icy-name", "A")];
        assert_eq!(kind(Framing::Length(10), &radio), None);
        assert_eq!(kind(Framing::Close, &radio), Some(StreamFormat::Frames));
        let segment = [("content-type", "video/mp2t"), ("cache-control", "max-age=60")];
        assert_eq!(kind(Framing::Delimited, &segment), None);
        let live = [
            ("content-type", "video/mp2t"),
            ("cache-control", "no-cache"),
            ("expires", "0"),
        ];
        assert_eq!(kind(Framing::Close, &live), Some(StreamFormat::Packets));
        assert_eq!(kind(Framing::Delimited, &live), None, "a segment in chunks");
        let song = [("content-type", "audio/mpeg")];
        assert_eq!(
            kind(Framing::Delimited, &song),
            None,
            "a song that is coded as it is sent"
        );
        assert_eq!(kind(Framing::Close, &song), Some(StreamFormat::Frames));
        assert_eq!(kind(Framing::Delimited, &radio), Some(StreamFormat::Frames));
        assert_eq!(
            StreamFormat::of(404, Framing::Close, &radio[..], &Rules::default()),
            None
        );
    }

    #[test]
    fn a_media_type_icy_fields_or_a_rule_make_a_stream() {
        let of = |media: &str| kind(Framing::Delimited, &[("content-type", media)]);
        assert_eq!(of("text/html"), None);
        assert_eq!(of("video/x-matroska"), None);
        assert_eq!(of("Text/Event-Stream; charset=utf-8"), Some(StreamFormat::Events));
        assert_eq!(of("application/ogg"), Some(StreamFormat::Whole));
        assert_eq!(of("x/y"), Some(StreamFormat::Whole));
        let delimiter = "--frame".to_owned();
        for boundary in ["frame", "\"frame\"", "--frame"] {
            let media = format!("multipart/x-mixed-replace;boundary={boundary}");
            assert_eq!(
                of(&media),
                Some(StreamFormat::Parts {
                    delimiter: delimiter.clone()
                }),
                "{boundary}"
            );
        }
        assert_eq!(of("multipart/x-mixed-replace"), Some(StreamFormat::Whole));
        let icy = [("content-type", "audio/mpeg"), ("icy-metaint", "16000")];
        assert_eq!(kind(Framing::Close, &icy), Some(StreamFormat::Icy { every: 16000 }));
        let opus = [("content-type", "audio/ogg"), ("icy-name", "A")];
        assert_eq!(kind(Framing::Close, &opus), Some(StreamFormat::Whole));
    }
}
