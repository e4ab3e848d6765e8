//! `Forwarded` (RFC 7239) and the `X-Forwarded-*` fields: for whom a proxy sends the request, and under which name it
//! was sent.
//!
//! Anybody can write these fields. As a reason to refuse they are believed from everybody: a request that says it
//! comes from another machine is not from a program on this one. As the name of this server they are believed from
//! proxies on this machine and from those that the operator has named.

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

/// The reason to refuse a change that was forwarded for another machine; `None` where every client that is named is
/// on this one.
pub fn refusal_if_forwarded(headers: &HeaderMap) -> Option<&'static str> {
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

/// The names under which the request was sent to a proxy, if that proxy is trusted to say so.
pub(super) fn named_hosts(headers: &HeaderMap, peer: Option<SocketAddr>, trusted: &[IpAddr]) -> Vec<String> {
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

/// Whether two authorities name one server, without regard to case and to a scheme's default port.
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
            assert!(refusal_if_forwarded(&headers(fields)).is_some(), "{fields:?}");
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
            assert!(refusal_if_forwarded(&headers(fields)).is_none(), "{fields:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_names_the_server() {
        let fields = headers(&[("x-forwarded-host", "dav.example.org"), ("forwarded", "host=a:8080")]);
        let peer = |text: &str| text.parse().ok();
        assert_eq!(
            named_hosts(&fields, peer("127.0.0.1:1"), &[]),
            ["a:8080", "dav.example.org"]
        );
        assert!(named_hosts(&fields, peer("192.0.2.1:1"), &[]).is_empty());
        let trusted = ["192.0.2.1".parse().expect("an address")];
        assert_eq!(named_hosts(&fields, peer("192.0.2.1:1"), &trusted).len(), 2);
    }

    #[test]
    fn a_default_port_makes_no_other_server() {
        assert!(is_same_authority("Dav.example.org:80", "dav.example.org"));
        assert!(is_same_authority("dav.example.org", "dav.example.org:443"));
        assert!(!is_same_authority("dav.example.org:8080", "dav.example.org"));
    }
}
