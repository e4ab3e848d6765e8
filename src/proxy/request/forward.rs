//! Forwarding: which fields of a client's request go on to the upstream (RFC 9110 §7.6).
//!
//! Fields of the connection end here. `Via` is added, and for an upstream that the configuration names the client's
//! address. A request whose reply others may get is stripped of more: what asks for a part, and what claims to have
//! been sent elsewhere. A request that is passed on as it is keeps both.

use crate::config::AfterLastReader;
use crate::header::{SURROGATE, end_to_end, text_of};
use crate::policy::Credentials;
use crate::upstream::{Target, Trust};
use actix_web::dev::RequestHead;
use std::sync::Arc;

/// Our name in `Via` (RFC 9110 §7.6.3).
const PSEUDONYM: &str = "millpond";

/// A request that has come by here so often goes in circles. A judgement: more than any chain of proxies that is meant.
const MOST_TURNS: usize = 8;

/// Fields that are answered here, or stand for something that is different on the next hop.
const NOT_FORWARDED: &[&str] = &["accept-encoding", "content-length", "expect", "host"];

/// Fields that ask for less than the whole, or for how it is answered: of what is here, which the upstream is not.
pub(in crate::proxy) const OF_A_PART: &[&str] = &[
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "prefer",
    "range",
];

/// Fields by which some upstreams let a request say where it was really sent, by whom, or what it really is. They are
/// no part of a key: a reply made for one such claim would be given to all.
const CLAIMS: &[&str] = &[
    "base-url",
    "cf-connecting-ip",
    "client-ip",
    "destination-url",
    "fastly-client-ip",
    "forwarded",
    "front-end-https",
    "http-host",
    "proxy-host",
    "proxy-url",
    "remote-addr",
    "request-uri",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-host",
    "x-override-url",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-true-ip",
    "x-url-scheme",
];

/// The same by how their names begin: families that grow with every framework.
const CLAIMS_BEGIN: &[&str] = &[
    "x-envoy-",
    "x-forwarded",
    "x-http-",
    "x-method",
    "x-original-",
    "x-proxy-",
    "x-rewrite-",
];

/// Whether an upstream may take the field of that name, in lower case, for one of these claims.
///
/// CGI, WSGI, PHP and Rack hand a program the field's name with `_` for every sign that is no letter, so `X_Forwarded_Host`
/// is `X-Forwarded-Host` to it.
fn is_claim(name: &str) -> bool {
    let spelled = name.replace(|sign: char| !sign.is_ascii_alphanumeric(), "-");
    CLAIMS.contains(&spelled.as_str()) || CLAIMS_BEGIN.iter().any(|family| spelled.starts_with(family))
}

/// Fields that we write: what a client says there is not what its request is fetched with.
pub(in crate::proxy) const WRITTEN: &[&str] = &["forwarded", "via", "x-forwarded-for", "x-forwarded-proto"];

/// A client's fields as those of a fetch of `target`.
pub(in crate::proxy) fn fetched_for(
    http: &RequestHead,
    target: &Arc<Target>,
    (scheme, credentials): (&str, &[String]),
) -> Arc<Target> {
    let mut fields = end_to_end_of(http, target);
    fields.retain(|(name, _)| {
        let name = name.as_str();
        !NOT_FORWARDED.contains(&name) && !OF_A_PART.contains(&name) && (!is_claim(name) || name == "x-forwarded-for")
    });
    add_way(http, target, (None, scheme), &mut fields);
    let mut target = target.with_fields(fields);
    target.credentials = Credentials::of(&target.fields, credentials);
    if target.trust == Trust::Public && is_asked_by_other_site(http) {
        // A picture of any size in any page would else have the rest of its URL fetched when its browser has left.
        target.after_last_reader = Some(AfterLastReader::Stop);
    }
    Arc::new(target)
}

/// Whether a browser says that a page of another site, or of another port of this host, asks.
pub(crate) fn is_asked_by_other_site(http: &RequestHead) -> bool {
    let site = http.headers.get("sec-fetch-site").map(|site| site.as_bytes());
    matches!(site, Some(b"cross-site" | b"same-site"))
}

/// The fields of a request that is passed on as it is: nobody else gets its answer, so the client may claim
/// what it likes, and the upstream is told the name by which we were called.
pub(in crate::proxy) fn forwarded_fields(http: &RequestHead, target: &Target, scheme: &str) -> Vec<(String, String)> {
    let mut fields = end_to_end_of(http, target);
    // Claims in the spellings that only some upstreams understand: no proxy between us and the client writes them.
    fields.retain(|(name, _)| !is_claim(name) || !name.contains(['_', '.']));
    let host = http.headers.get("host").and_then(|host| host.to_str().ok());
    add_way(http, target, (host, scheme), &mut fields);
    fields
}

/// Whether the request says of itself what is no part of its key.
pub(in crate::proxy) fn makes_claims(http: &RequestHead) -> bool {
    http.headers
        .keys()
        .any(|name| is_claim(name.as_str()) && name != "x-forwarded-for")
}

fn end_to_end_of(http: &RequestHead, target: &Target) -> Vec<(String, String)> {
    let texts: Vec<(&str, String)> = http
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), text_of(value.as_bytes())))
        .collect();
    let mut fields = end_to_end(
        &texts
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect::<Vec<_>>(),
    );
    if target.drop_cookies {
        fields.retain(|(name, _)| name != "cookie");
    }
    // A browser shows what it has been given for one upstream to all of our origin; a player is told for which.
    let by_browser = |name: &str| name == "origin" || name.starts_with("sec-fetch-");
    let is_browsers = fields.iter().any(|(name, _)| by_browser(name));
    fields.retain(|(name, value)| {
        let lent = target.trust == Trust::Public && is_browsers;
        name != "authorization" || !(lent || is_of_the_connection(value))
    });
    fields
}

/// Credentials that speak for a connection, not for a request: ours to the upstream are shared by all clients.
fn is_of_the_connection(value: &str) -> bool {
    let scheme = value.split_whitespace().next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("ntlm") || scheme.eq_ignore_ascii_case("negotiate")
}

/// Adds our own step to the way of a request: who asks is the business of an upstream whose operator is ours.
fn add_way(
    http: &RequestHead,
    target: &Target,
    (host, scheme): (Option<&str>, &str),
    fields: &mut Vec<(String, String)>,
) {
    if target.trust == Trust::Configured
        && let Some(peer) = http.peer_addr.map(|peer| peer.ip())
    {
        let node = match peer {
            std::net::IpAddr::V4(peer) => peer.to_string(),
            std::net::IpAddr::V6(peer) => format!("\"[{peer}]\""),
        };
        let quotable = host.filter(|host| !host.contains(['"', '\\']));
        let named = quotable.map_or_else(String::new, |host| format!(";host=\"{host}\""));
        append(fields, "forwarded", &format!("for={node}{named};proto={scheme}"));
        append(fields, "x-forwarded-for", &peer.to_string());
        for (name, value) in [("x-forwarded-host", host), ("x-forwarded-proto", Some(scheme))] {
            if let Some(value) = value.filter(|_| !fields.iter().any(|(known, _)| known == name)) {
                fields.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    if target.trust == Trust::Configured {
        append(
            fields,
            "surrogate-capability",
            &format!("{SURROGATE}=\"Surrogate/1.0\""),
        );
    }
    let version = match http.version {
        actix_web::http::Version::HTTP_10 => "1.0",
        actix_web::http::Version::HTTP_2 => "2",
        _ => "1.1",
    };
    append(fields, "via", &format!("{version} {PSEUDONYM}"));
}

/// Adds a member to a list field.
fn append(fields: &mut Vec<(String, String)>, name: &str, member: &str) {
    match fields.iter_mut().rev().find(|(known, _)| known == name) {
        Some((_, value)) => *value = format!("{value}, {member}"),
        None => fields.push((name.to_owned(), member.to_owned())),
    }
}

/// Whether the request has been here before, more often than can be meant.
pub(in crate::proxy) fn goes_in_circles(http: &RequestHead) -> bool {
    let by_us = |member: &&str| member.split_whitespace().nth(1) == Some(PSEUDONYM);
    let lines = http.headers.get_all("via").filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter(by_us).count() >= MOST_TURNS
}

/// Whether the client would go on in another protocol than HTTP. Other upgrades are offers that may be passed
/// over (RFC 9110 §7.8).
pub(in crate::proxy) fn wants_websocket(http: &RequestHead) -> bool {
    let lines = http.headers.get_all("upgrade").filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}
