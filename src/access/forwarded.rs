//! The way that a request came, as it says itself: `Forwarded` (RFC 7239), `Via`, and the `X-Forwarded-*` fields.
//!
//! Anybody can write these fields. As a reason to refuse they are believed from everybody: a request that says that
//! somebody has forwarded it has no right that comes from its address. As the name of this server they are believed
//! from proxies on this machine and from those that the operator has named; as the address of the client, which is
//! logged and has its share of connections, from those that are named only.

use crate::config::TrustedProxies;
use crate::header::{is_forwarding, list_members};
use actix_web::dev::RequestHead;
use actix_web::http::header::{HeaderMap, HeaderName};
use std::net::{IpAddr, SocketAddr};

/// The members of a field's lines. One that is no text is a member that nothing is.
fn fields<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(HeaderName::from_static(name));
    lines.flat_map(|line| list_members(line.to_str().unwrap_or("?")))
}

/// The values of a parameter in all elements of `Forwarded`.
fn parameters<'a>(headers: &'a HeaderMap, wanted: &'a str) -> impl Iterator<Item = &'a str> {
    fields(headers, "forwarded").flat_map(move |element| {
        element.split(';').filter_map(move |pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case(wanted)
                .then(|| value.trim().trim_matches('"'))
        })
    })
}

/// Whether somebody has forwarded the request, as far as it says so itself.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_forwarding(name.as_str()))
}

/// Whether somebody has forwarded the request for another machine, as far as it says so itself.
pub(super) fn is_for_another_machine(headers: &HeaderMap) -> bool {
    let mut nodes = parameters(headers, "for")
        .chain(fields(headers, "x-forwarded-for"))
        .chain(fields(headers, "x-real-ip"));
    nodes.any(|node| !address(node).is_some_and(|address| address.is_loopback()))
}

/// The address of the client: the peer's or, where that is a proxy of the operator's, the last one in the list of those
/// that proxies have written which is no such proxy. `None` where a proxy of the operator's does not say it, or says
/// two things: one of the fields may have come from the client.
pub(super) fn client_address(head: &RequestHead, proxies: &TrustedProxies) -> Option<IpAddr> {
    let peer = head.peer_addr.map(|peer| peer.ip().to_canonical());
    if !proxies.contains(peer) {
        return peer;
    }
    let headers = &head.headers;
    let last = |nodes: Vec<&str>| -> Option<Option<IpAddr>> {
        let nodes: Vec<Option<IpAddr>> = nodes.into_iter().map(address).collect();
        let is_proxy = |node: Option<IpAddr>| node.is_some_and(|node| proxies.contains(Some(node)));
        // Where all are proxies, the first of them asks for itself.
        let client = nodes.iter().rev().find(|node| !is_proxy(**node));
        client.or_else(|| nodes.first()).copied()
    };
    let mut told = [
        last(parameters(headers, "for").collect()),
        last(fields(headers, "x-forwarded-for").collect()),
        last(fields(headers, "x-real-ip").collect()),
    ]
    .into_iter()
    .flatten();
    let first = told.next()??;
    told.all(|other| other == Some(first)).then_some(first)
}

/// An address with or without a port, and in brackets or not.
fn address(node: &str) -> Option<IpAddr> {
    let bare = || node.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || Some(node.parse::<SocketAddr>().ok()?.ip());
    let address: Option<IpAddr> = node.parse().ok().or_else(bare).or_else(with_port);
    address.map(|address| address.to_canonical())
}

/// The names under which the request was sent to a proxy, if that proxy may say so.
pub fn named_hosts(headers: &HeaderMap, peer: Option<SocketAddr>, proxies: &TrustedProxies) -> Vec<String> {
    let peer = peer.map(|peer| peer.ip().to_canonical());
    match peer.is_some_and(|peer| peer.is_loopback()) || proxies.contains(peer) {
        true => {
            let named = parameters(headers, "host").chain(fields(headers, "x-forwarded-host"));
            named.map(str::to_owned).collect()
        }
        false => Vec::new(),
    }
}

/// Whether two authorities name one server, without regard to case and to a scheme's default port.
pub fn is_same_authority(one: &str, other: &str) -> bool {
    let bare = |authority: &str| {
        let lower = authority.trim().to_ascii_lowercase();
        let without = lower.strip_suffix(":80").or_else(|| lower.strip_suffix(":443"));
        without.map_or(lower.clone(), str::to_owned)
    };
    bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn client(peer: &str, fields: &[(&'static str, &'static str)], proxies: &str) -> Option<String> {
        let mut head = RequestHead::default();
        head.peer_addr = peer.parse().ok();
        head.headers = headers(fields);
        let proxies = TrustedProxies::read(proxies).expect("valid");
        client_address(&head, &proxies).map(|address| address.to_string())
    }

    #[test]
    fn a_request_that_somebody_has_forwarded_says_so() {
        for (name, value) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "proto=http"),
            ("x-real-ip", ""),
            ("via", "1.1 proxy"),
            ("x-forwarded-anything", "a"),
            ("x_forwarded_for", "a"),
        ] {
            assert!(is_forwarded(&headers(&[(name, value)])), "{name}");
        }
        assert!(!is_forwarded(&headers(&[("range", "bytes=0-"), ("viable", "1")])));
    }

    #[test]
    fn a_request_that_was_forwarded_for_another_machine_is_known() {
        for fields in [
            &[("x-forwarded-for", "203.0.113.7")][..],
            &[("x-forwarded-for", "127.0.0.1, 203.0.113.7")],
            &[("forwarded", "for=192.0.2.1;proto=http")],
            &[("forwarded", "for=\"[2001:db8::1]:4711\"")],
            &[("forwarded", "for=unknown")],
            &[("x-real-ip", "192.0.2.1")],
        ] {
            assert!(is_for_another_machine(&headers(fields)), "{fields:?}");
        }
        for fields in [
            &[][..],
            &[
                ("x-forwarded-for", "127.0.0.1"),
                ("forwarded", "for=127.0.0.1;proto=http"),
            ],
            &[("forwarded", "for=\"[::1]:4711\"")],
            &[("x-forwarded-host", "dav.example.org"), ("via", "1.1 proxy")],
        ] {
            assert!(!is_for_another_machine(&headers(fields)), "{fields:?}");
        }
    }

    #[test]
    fn only_named_proxies_tell_the_address_of_the_client() {
        let field = [("x-forwarded-for", "203.0.113.7, 198.51.100.9, 10.0.0.2")];
        assert_eq!(client("127.0.0.1:1", &field, "").as_deref(), Some("127.0.0.1"));
        let proxies = "127.0.0.1 10.0.0.0/8";
        // The client may have written all that stands left of the last address that no proxy of the operator's has.
        assert_eq!(client("127.0.0.1:1", &field, proxies).as_deref(), Some("198.51.100.9"));
        assert_eq!(client("127.0.0.1:1", &[], proxies), None);
        let forwarded = [("forwarded", "for=\"[2001:db8::1]:4711\";proto=http")];
        assert_eq!(
            client("127.0.0.1:1", &forwarded, proxies).as_deref(),
            Some("2001:db8::1")
        );
        let unknown = [("forwarded", "for=unknown")];
        assert_eq!(client("127.0.0.1:1", &unknown, proxies), None);
        let two = [("x-real-ip", "198.51.100.9"), ("x-forwarded-for", "127.0.0.1")];
        assert_eq!(client("127.0.0.1:1", &two, "127.0.0.1"), None);
        let same = [("x-real-ip", "198.51.100.9"), ("x-forwarded-for", "198.51.100.9")];
        assert_eq!(
            client("127.0.0.1:1", &same, "127.0.0.1").as_deref(),
            Some("198.51.100.9")
        );
        // A peer at a socket in the file system has no address.
        assert_eq!(client("", &same, "unix").as_deref(), Some("198.51.100.9"));
        assert_eq!(client("", &same, ""), None);
    }

    #[test]
    fn only_a_trusted_proxy_names_the_server() {
        let fields = headers(&[("x-forwarded-host", "dav.example.org"), ("forwarded", "host=a:8080")]);
        let peer = |text: &str| text.parse().ok();
        let nobody = TrustedProxies::default();
        assert_eq!(
            named_hosts(&fields, peer("127.0.0.1:1"), &nobody),
            ["a:8080", "dav.example.org"]
        );
        assert!(named_hosts(&fields, peer("192.0.2.1:1"), &nobody).is_empty());
        let trusted = TrustedProxies::read("192.0.2.1").expect("valid");
        assert_eq!(named_hosts(&fields, peer("192.0.2.1:1"), &trusted).len(), 2);
    }

    #[test]
    fn a_default_port_makes_no_other_server() {
        assert!(is_same_authority("Dav.example.org:80", "dav.example.org"));
        assert!(is_same_authority("dav.example.org", "dav.example.org:443"));
        assert!(!is_same_authority("dav.example.org:8080", "dav.example.org"));
    }

    #[test]
    fn fuzzed_fields_of_proxies_name_an_address_or_none() {
        let proxies = TrustedProxies::read("127.0.0.1").expect("valid");
        crate::fuzzing::fuzz("forwarded", |value| {
            let Ok(value) = HeaderValue::from_bytes(value) else {
                return;
            };
            for name in ["forwarded", "x-forwarded-for", "x-real-ip"] {
                let mut head = RequestHead::default();
                head.peer_addr = "127.0.0.1:1".parse().ok();
                head.headers.append(HeaderName::from_static(name), value.clone());
                assert!(is_forwarded(&head.headers));
                let _ = (client_address(&head, &proxies), is_for_another_machine(&head.headers));
                let _ = named_hosts(&head.headers, head.peer_addr, &proxies);
            }
        });
    }
}
