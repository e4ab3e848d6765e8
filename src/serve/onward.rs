//! What of a client's request goes on to the upstream (RFC 9110 §7.6).

use crate::header::end_to_end;
use crate::upstream::{Target, Trust};
use actix_web::HttpRequest;
use std::sync::Arc;

/// Who we are in `Via` (RFC 9110 §7.6.3).
const PSEUDONYM: &str = "millpond";

/// A request that has come by here so often goes in circles.
const MOST_TURNS: usize = 8;

/// Fields that are answered here, or stand for something that is different on the next hop.
const NOT_FORWARDED: &[&str] = &[
    "accept-encoding",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "prefer",
    "range",
];

/// A client's fields as those of a fetch of `target`.
pub(super) fn fetched_for(http: &HttpRequest, target: &Arc<Target>) -> Arc<Target> {
    let mut fields = forwarded(http, target);
    fields.retain(|(name, _)| !NOT_FORWARDED.contains(&name.as_str()));
    Arc::new(target.with_fields(fields))
}

/// All end-to-end fields of a request, with our own step added to its way.
pub(super) fn forwarded(http: &HttpRequest, target: &Target) -> Vec<(String, String)> {
    let text = http
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)));
    let mut fields = end_to_end(&text.collect::<Vec<_>>());
    if target.drop_cookies {
        fields.retain(|(name, _)| name != "cookie");
    }
    // Who asks is the business of an upstream whose operator is ours.
    if target.trust == Trust::Configured {
        add_way(http, &mut fields);
    }
    let version = match http.version() {
        actix_web::http::Version::HTTP_10 => "1.0",
        actix_web::http::Version::HTTP_2 => "2",
        _ => "1.1",
    };
    append(&mut fields, "via", &format!("{version} {PSEUDONYM}"));
    fields
}

/// Who asks, and by which name we were called (RFC 7239, and the older fields that say the same).
fn add_way(http: &HttpRequest, fields: &mut Vec<(String, String)>) {
    let Some(peer) = http.peer_addr().map(|peer| peer.ip()) else {
        return;
    };
    let host = http.headers().get("host").and_then(|host| host.to_str().ok());
    let node = match peer {
        std::net::IpAddr::V4(peer) => peer.to_string(),
        std::net::IpAddr::V6(peer) => format!("\"[{peer}]\""),
    };
    let quotable = host.filter(|host| !host.contains(['"', '\\']));
    let named = quotable.map_or_else(String::new, |host| format!(";host=\"{host}\""));
    append(fields, "forwarded", &format!("for={node}{named};proto=http"));
    append(fields, "x-forwarded-for", &peer.to_string());
    for (name, value) in [("x-forwarded-host", host), ("x-forwarded-proto", Some("http"))] {
        if let Some(value) = value.filter(|_| !fields.iter().any(|(known, _)| known == name)) {
            fields.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// Adds a member to a list field.
fn append(fields: &mut Vec<(String, String)>, name: &str, member: &str) {
    match fields.iter_mut().rev().find(|(known, _)| known == name) {
        Some((_, value)) => *value = format!("{value}, {member}"),
        None => fields.push((name.to_owned(), member.to_owned())),
    }
}

/// Whether the request has been here before, more often than can be meant.
pub(super) fn goes_in_circles(http: &HttpRequest) -> bool {
    let by_us = |member: &&str| member.split_whitespace().nth(1) == Some(PSEUDONYM);
    let lines = http.headers().get_all("via").filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter(by_us).count() >= MOST_TURNS
}

/// Whether the client would go on in another protocol than HTTP. Other upgrades are offers that may be passed
/// over (RFC 9110 §7.8).
pub(super) fn wants_websocket(http: &HttpRequest) -> bool {
    let lines = http.headers().get_all("upgrade").filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}
