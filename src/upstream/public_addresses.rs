//! Which addresses and ports a URL that a client named may lead to: those of web servers on the public Internet.
//!
//! A name is resolved here, and only public addresses are kept, so the check is made on the very addresses that are
//! connected to, on every hop. An address that carries another (mapped, NAT64, 6to4, ISATAP) leads where that one leads.
//! The ranges are those of IANA's special-purpose registries, and what a cloud answers its own machines at. An address of
//! this machine is none either, however public: what listens here trusts its neighbours.

use crate::config::Networks;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// A resolver that keeps public addresses only.
#[derive(Debug)]
pub(super) struct PublicOnly {
    /// The networks that the operator calls private.
    pub(super) private: Networks,
}

#[derive(Debug, thiserror::Error)]
#[error("no public address")]
pub(super) struct NotPublic;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| may_be_asked(address.ip(), &private))
                .collect();
            if public.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether a URL that a client named may lead to the address; `private` are those that the operator calls so.
pub(super) fn may_be_asked(address: IpAddr, private: &Networks) -> bool {
    is_public(address) && !private.contains(address.to_canonical()) && !is_own(address)
}

/// Ports above 1023 at which no web server is, but something that takes parts of a request for its own protocol: those
/// that browsers refuse (the Fetch standard's "bad ports"), and the common databases.
const BAD_PORTS: &[u16] = &[
    1719, 1720, 1723, 2049, 3306, 3659, 4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669,
    6679, 6697, 10080, 11211, 27017,
];

/// Whether a URL that a client named may lead to the port: of those that belong to a protocol only HTTP's.
pub(super) fn is_web_port(port: u16) -> bool {
    matches!(port, 80 | 443) || (port >= 1024 && !BAD_PORTS.contains(&port))
}

/// Whether the address is one of this machine's: the kernel lets nobody bind another's.
fn is_own(address: IpAddr) -> bool {
    let binds = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    // Where the system lets everybody bind everything (`ip_nonlocal_bind`), binding tells nothing.
    let example = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    binds(address) && !binds(example)
}

/// Whether the address belongs to the public Internet (IANA's special-purpose registries).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmarking = a == 198 && (b == 18 || b == 19);
    let protocol = a == 192 && b == 0 && c == 0;
    // The relays of 6to4, which lead into whatever network is behind them (RFC 7526).
    let relay = a == 192 && b == 88 && c == 99;
    // The address at which Azure tells its machines about themselves.
    let of_a_cloud = [a, b, c, d] == [168, 63, 129, 16];
    !(a == 0
        || a >= 240
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || shared
        || benchmarking
        || protocol
        || relay
        || of_a_cloud)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Addresses that carry an IPv4 address lead where that one leads.
    let embedded = address.to_ipv4_mapped().or_else(|| match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        // ISATAP (RFC 5214 §6.1): the prefix of any network, and the address of a machine in it.
        [.., 0 | 0x200, 0x5efe, high, low] => Some(join(high, low)),
        _ => None,
    });
    if let Some(embedded) = embedded {
        return is_public_v4(embedded);
    }
    let global_unicast = segments[0] & 0xe000 == 0x2000;
    let documentation = (segments[0] == 0x2001 && segments[1] == 0xdb8) || segments[0] == 0x3fff;
    let protocol = segments[0] == 0x2001 && segments[1] < 0x200;
    global_unicast && !documentation && !protocol
}

fn join(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_the_operator_calls_private_is_not_asked() {
        let private = Networks::read("2606:4700::/32, 1.2.3.0/24").expect("valid");
        let may = |text: &str| may_be_asked(text.parse().expect("an address"), &private);
        assert!(may("2606:4701::1") && may("1.2.4.1"));
        for text in ["2606:4700::1", "1.2.3.4", "::ffff:1.2.3.4", "127.0.0.1"] {
            assert!(!may(text), "{text}");
        }
    }

    #[test]
    fn private_addresses_are_known_in_every_notation() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "::ffff:192.168.1.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
            "::127.0.0.1",
            "192.88.99.1",
            "168.63.129.16",
            "64:ff9b:1::a01:203",
            "2001:0:7f00:1::",
            "2a00:5efe::5efe:a01:203",
            "2a00:1::200:5efe:7f00:1",
            "2002:c058:6301::",
        ] {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "100.128.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "168.63.129.17",
            "2a00:1::200:5efe:101:101",
        ] {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn an_address_of_this_machine_is_its_own() {
        for text in ["127.0.0.1", "127.9.9.9"] {
            assert!(is_own(text.parse().expect("an address")), "{text}");
        }
        for text in ["93.184.216.34", "2606:4700::1111"] {
            assert!(!is_own(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn ports_of_other_protocols_are_none_of_the_web() {
        for port in [80, 443, 1024, 8080, 8096, 32400, 65535] {
            assert!(is_web_port(port), "{port}");
        }
        for port in [0, 1, 22, 25, 53, 445, 1023, 2049, 5060, 6379, 6667, 11211] {
            assert!(!is_web_port(port), "{port}");
        }
    }
}
