//! An exchange: a reply's head as values, its body in pieces as they arrive.
//!
//! A reply is read once, here, and read as it came: how its body ends (RFC 9112 §6.3), which validators it has, which
//! fields go on. Field values are texts as `header::text_of` makes them, so none is dropped for its bytes. Whether what
//! a reply claims is believed is decided above (`fill::fetch::classify_reply`). A body in a transfer coding that is not known
//! is no body: nobody could tell its bytes. Dropping an exchange ends it, and closes its connection where the body is
//! not over.

use super::error::UpstreamError;
use super::request::Target;
use crate::clock::Instant;
use crate::header::{ContentRange, Validators, codes_content, end_to_end, parse_date, text_of};
use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How the end of a body is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, in bytes.
    Length(u64),
    /// Chunked coding or HTTP/2: the end is said.
    Delimited,
    /// The connection closes: a cut looks the same.
    Close,
}

/// The head of a reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// How the body ends.
    pub framing: Framing,
    /// `Content-Range`: `None` without one, `Some(None)` for one that is malformed.
    pub content_range: Option<Option<ContentRange>>,
    /// The validators.
    pub validators: Validators,
    /// `Accept-Ranges`: whether it says `bytes` or `none`; `None` where it says something else, or is not there.
    pub accepts_ranges: Option<bool>,
    /// `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// The body is coded (`Content-Encoding`), although `identity` was asked for.
    pub content_encoded: bool,
    /// `Age`, in seconds (RFC 9111 §5.1): the first member, where it is a number.
    pub age: Option<u64>,
    /// From the request to this head.
    pub delay: Duration,
    /// End-to-end fields worth keeping: names in lower case.
    pub headers: Vec<(String, String)>,
}

/// End-to-end fields that are not kept: ours to say, or of the upstream's own host.
const NOT_KEPT: &[&str] = &[
    "accept-ranges",
    "age",
    "alt-svc",
    "content-length",
    "content-range",
    "etag",
    "strict-transport-security",
];

/// Of what is passed on as it is: the framing is said anew, and the rest binds the upstream's own host.
const OF_THE_HOST: &[&str] = &["alt-svc", "content-length", "strict-transport-security"];

impl Reply {
    /// Reads the head of a reply.
    ///
    /// # Errors
    /// The transfer coding that its body is in, where that is none that is known: nobody could tell its bytes.
    pub(super) fn read(
        status: u16,
        version: reqwest::Version,
        headers: &HeaderMap,
        delay: Duration,
    ) -> Result<Self, String> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
        let framing = match (transfer_coding(headers), length) {
            // Whatever their fields say (RFC 9112 §6.3, RFC 9110 §15.3.6).
            _ if matches!(status, 204 | 205 | 304) => Framing::Length(0),
            (TransferCoding::Chunked, _) => Framing::Delimited,
            // The client reads such a body to the close: its end is ours to know.
            (TransferCoding::None, Some(length)) => Framing::Length(length),
            (TransferCoding::None, None) if version >= reqwest::Version::HTTP_2 => Framing::Delimited,
            (TransferCoding::None, None) => Framing::Close,
            (TransferCoding::Unknown(coding), _) => return Err(coding),
        };
        Ok(Self {
            status,
            framing,
            content_range: headers
                .get(header::CONTENT_RANGE)
                .map(|value| value.to_str().ok().and_then(ContentRange::parse)),
            validators: Validators {
                etag: text(header::ETAG).map(str::to_owned),
                last_modified: text(header::LAST_MODIFIED).map(str::to_owned),
                date: text(header::DATE).map(str::to_owned),
            },
            accepts_ranges: text(header::ACCEPT_RANGES).and_then(accepts_ranges),
            retry_after: text(header::RETRY_AFTER).map(str::to_owned),
            content_encoded: headers
                .get_all(header::CONTENT_ENCODING)
                .iter()
                .any(|coding| codes_content(&text_of(coding.as_bytes()))),
            age: text(header::AGE).and_then(age),
            delay,
            headers: kept(headers),
        })
    }
}

impl Reply {
    /// How long the upstream asks to be left alone: in seconds, or up to a date (RFC 9110 §10.2.3).
    pub fn rest(&self) -> Option<Duration> {
        let text = self.retry_after.as_deref()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = parse_date(self.validators.date.as_deref()?)?;
        Some(parse_date(text)?.duration_since(date).unwrap_or_default())
    }

    /// The first kept field of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// How a body was coded for its way (RFC 9112 §6.1).
#[derive(Debug, PartialEq, Eq)]
enum TransferCoding {
    /// No coding, or `identity`, which RFC 7230 took back and servers still say.
    None,
    /// `chunked` and nothing else: the client has undone it.
    Chunked,
    /// Any other, as it is named.
    Unknown(String),
}

fn transfer_coding(headers: &HeaderMap) -> TransferCoding {
    let lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings: Vec<String> = lines
        .flat_map(|line| {
            text_of(line.as_bytes())
                .split(',')
                .map(|coding| coding.trim().to_ascii_lowercase())
                .collect::<Vec<_>>()
        })
        .filter(|coding| !coding.is_empty() && coding != "identity")
        .collect();
    match codings.as_slice() {
        [] => TransferCoding::None,
        [coding] if coding == "chunked" => TransferCoding::Chunked,
        codings => TransferCoding::Unknown(codings.join(", ")),
    }
}

/// A range unit that is not `bytes` says nothing against bytes (`0-1234`, say many scripts): `none` alone does
/// (RFC 9110 §14.3).
fn accepts_ranges(units: &str) -> Option<bool> {
    let units = units.to_ascii_lowercase();
    let mut members = units.split(',').map(str::trim);
    if members.clone().any(|unit| unit == "bytes") {
        return Some(true);
    }
    members.any(|unit| unit == "none").then_some(false)
}

/// The first member of an `Age` field; one that is no number is ignored.
fn age(field: &str) -> Option<u64> {
    let first = field.split(',').next()?.trim();
    let digits = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
    // An age beyond what can be counted is very old (RFC 9111 §1.2.2).
    digits.then(|| first.parse().unwrap_or(1 << 31))
}

fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut kept = texts(headers);
    // A coding that codes nothing is no coding: a client that takes it at its word could not read the body.
    let is_kept =
        |name: &str, value: &str| !NOT_KEPT.contains(&name) && (name != "content-encoding" || codes_content(value));
    kept.retain(|(name, value)| is_kept(name, value));
    kept
}

/// The end-to-end fields, with their values as `header::text_of` has them.
fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let texts: Vec<(&str, String)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), text_of(value.as_bytes())))
        .collect();
    let fields: Vec<(&str, &str)> = texts.iter().map(|(name, value)| (*name, value.as_str())).collect();
    end_to_end(&fields)
}

/// A reply whose body is still to come. Dropping it ends the exchange.
#[derive(Debug)]
pub struct Exchange {
    /// The head.
    pub reply: Reply,
    /// Where the reply came from: the URL asked, or where its redirects led.
    pub url: Url,
    /// The status of the first redirect that led there; `None` where there was none.
    pub redirected: Option<u16>,
    /// The target that was asked for, with the fields that were sent.
    pub target: Arc<Target>,
    pub(super) response: reqwest::Response,
}

impl Exchange {
    /// The next piece of the body; `None` where its framing says that it has ended.
    ///
    /// # Errors
    /// Where it was cut, reset, badly framed, or silent for longer than the limit.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        // A 205 has no content; one that has some all the same ends before it, and its connection with it.
        if self.reply.status == 205 {
            return Ok(None);
        }
        self.response
            .chunk()
            .await
            .map_err(|source| UpstreamError::Cut { source: source.into() })
    }

    /// [`Exchange::next`], where the connection itself does not limit its silence.
    ///
    /// # Errors
    /// As there.
    pub async fn next_within(&mut self, limit: Duration) -> Result<Option<Bytes>, UpstreamError> {
        match tokio::time::timeout(limit, self.next()).await {
            Ok(next) => next,
            Err(silence) => Err(UpstreamError::Cut { source: silence.into() }),
        }
    }

    /// All fields that are meant for a client, names in lower case: for a reply that is passed on as it is.
    pub fn end_to_end(&self) -> Vec<(String, String)> {
        let mut fields = texts(self.response.headers());
        fields.retain(|(name, _)| !OF_THE_HOST.contains(&name.as_str()));
        if self.target.drop_cookies {
            fields.retain(|(name, _)| name != "set-cookie");
        }
        fields
    }

    /// The body of an error reply: at most `limit` bytes of it, and what comes within `time`.
    pub async fn small_body(mut self, limit: usize, time: Duration) -> Vec<u8> {
        let mut body = Vec::new();
        let deadline = Instant::now() + time;
        while let Ok(Ok(Some(piece))) = tokio::time::timeout_at(deadline, self.next()).await {
            let room = limit - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() == limit {
                break;
            }
        }
        body
    }
}
