//! What a reverse proxy says of the request that it hands on: for whom, and under which name it was asked.
//!
//! `Forwarded` (RFC 7239) and the `X-Forwarded-*` fields are written by anybody. For a refusal they are believed from everybody: a
//! request that says of itself that it comes from another machine is none of a program on this one. For the name of the
//! server they are believed from proxies on this machine and from those that the operator has named.

use crate::header::list_members;
use actix_web::http::header::{HeaderMap, HeaderName};
use std::net::{IpAddr, SocketAddr};

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

/// Why a request that was forwarded may not change anything; `None` where all whom it was forwarded for are on this
/// machine.
pub(super) fn stranger(headers: &HeaderMap) -> Option<&'static str> {
    let mut nodes = parameters(headers, "for")
        .chain(fields(headers, "x-forwarded-for"))
        .chain(fields(headers, "x-real-ip"));
    let is_here = |node: &str| address(node).is_some_and(|address| address.to_canonical().is_loopback());
    nodes
        .any(|node| !is_here(node))
        .then_some("the request was forwarded for another machine; without a file of tokens only programs on this one change the directory")
}

/// An address with or without a port, and in brackets or not.
fn address(node: &str) -> Option<IpAddr> {
    let bare = || node.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || Some(node.parse::<SocketAddr>().ok()?.ip());
    node.parse().ok().or_else(bare).or_else(with_port)
}

/// The names of the server that the request was asked under, if a proxy says so that is believed.
pub(super) fn hosts(headers: &HeaderMap, peer: Option<SocketAddr>, trusted: &[IpAddr]) -> Vec<String> {
    let is_trusted = |peer: SocketAddr| {
        let address = peer.ip().to_canonical();
        address.is_loopback() || trusted.contains(&address)
    };
    match peer.is_some_and(is_trusted) {
        true => {
            let named = parameters(headers, "host").chain(fields(headers, "x-forwarded-host"));
            named.map(str::to_owned).collect()
        }
        false => Vec::new(),
    }
}

/// Whether two authorities name one server: without regard to case, and a scheme's default port spelled out or not.
pub(super) fn is_same_authority(one: &str, other: &str) -> bool {
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

    #[test]
    fn a_request_forwarded_for_another_machine_is_a_stranger() {
        for fields in [
            &[("x-forwarded-for", "203.0.113.7")][..],
            &[("x-forwarded-for", "127.0.0.1, 203.0.113.7")],
            &[("forwarded", "for=192.0.2.1;proto=http")],
            &[("forwarded", "for=\"[2001:db8::1]:4711\"")],
            &[("forwarded", "for=unknown")],
            &[("x-real-ip", "192.0.2.1")],
        ] {
            assert!(stranger(&headers(fields)).is_some(), "{fields:?}");
        }
        for fields in [
            &[][..],
            &[
                ("x-forwarded-for", "127.0.0.1"),
                ("forwarded", "for=127.0.0.1;proto=http"),
            ],
            &[("forwarded", "for=\"[::1]:4711\"")],
            &[("via", "1.1 proxy")],
        ] {
            assert!(stranger(&headers(fields)).is_none(), "{fields:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_names_the_server() {
        let fields = headers(&[("x-forwarded-host", "dav.example.org"), ("forwarded", "host=a:8080")]);
        let peer = |text: &str| text.parse().ok();
        assert_eq!(hosts(&fields, peer("127.0.0.1:1"), &[]), ["a:8080", "dav.example.org"]);
        assert!(hosts(&fields, peer("192.0.2.1:1"), &[]).is_empty());
        let trusted = ["192.0.2.1".parse().expect("an address")];
        assert_eq!(hosts(&fields, peer("192.0.2.1:1"), &trusted).len(), 2);
    }

    #[test]
    fn a_default_port_makes_no_other_server() {
        assert!(is_same_authority("Dav.example.org:80", "dav.example.org"));
        assert!(is_same_authority("dav.example.org", "dav.example.org:443"));
        assert!(!is_same_authority("dav.example.org:8080", "dav.example.org"));
    }
}
