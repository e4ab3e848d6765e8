//! The names by which this server may be called: a page whose own name was made to point at this machine (DNS rebinding)
//! is of the same origin as our answers, and names itself in `Host`.
//!
//! ```text
//! on loopback    an address, localhost, one of `names`, the host of `public_url`
//! elsewhere      the same, the machine's name, single labels (nas), *.local
//! ```
//!
//! No name that others can register is among them. A request by a socket in the file system is no browser's, and may name
//! what it likes. Ports are not compared: what is before this server may have another.

use crate::config::{Config, ListenAddress, PublicUrl};
use std::net::{IpAddr, Ipv6Addr};

/// The reason for which a `Host` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostError {
    /// The value is no host with or without a port.
    Malformed,
    /// The host is not this server's.
    Unknown,
}

/// The names of a server.
#[derive(Debug, Default)]
pub(super) struct KnownHosts {
    /// Lower case, without a dot at the end. One that begins with `*.` stands for all beneath it.
    names: Vec<String>,
    is_loopback_only: bool,
}

impl KnownHosts {
    /// The names that a configuration and the machine give.
    pub(super) fn new(config: &Config) -> Self {
        let public = match &config.public_url {
            PublicUrl::Known { authority, .. } => split_port(authority).map(|(host, _)| host.to_owned()),
            PublicUrl::Unknown | PublicUrl::Any => None,
        };
        let is_tcp_elsewhere = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(address) if !address.ip().to_canonical().is_loopback());
        let is_loopback_only = !config.listen.iter().any(is_tcp_elsewhere);
        let machine = (!is_loopback_only).then(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        let names = config.names.iter().cloned().chain(public).chain(machine);
        Self {
            names: names.map(|name| plain(&name)).filter(|name| !name.is_empty()).collect(),
            is_loopback_only,
        }
    }

    /// Whether the server goes by that name, the value of a `Host`.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn check(&self, host: &[u8]) -> Result<(), HostError> {
        let host = std::str::from_utf8(host).map_err(|_| HostError::Malformed)?;
        let (name, _) = split_port(host).ok_or(HostError::Malformed)?;
        if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_known = |known: &String| match known.strip_prefix('*') {
            Some(domain) => name.len() > domain.len() && ends_with(name, domain),
            None => known.eq_ignore_ascii_case(name),
        };
        let is_ours = name.eq_ignore_ascii_case("localhost") || self.names.iter().any(is_known);
        let is_near = || !self.is_loopback_only && (!name.contains('.') || ends_with(name, ".local"));
        (is_ours || is_near()).then_some(()).ok_or(HostError::Unknown)
    }
}

fn plain(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

fn ends_with(name: &str, end: &str) -> bool {
    let start = name.len().checked_sub(end.len());
    start
        .and_then(|start| name.get(start..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// A host and its port; `None` where it is no `uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2.2).
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            let port = match behind {
                "" => None,
                behind => Some(behind.strip_prefix(':')?),
            };
            (&host[..address.len() + 2], port)
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    if name.is_empty() || !(name.starts_with('[') || name.bytes().all(is_name)) {
        return None;
    }
    match port {
        // A colon without a port is the scheme's own.
        None | Some("") => Some((name, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some((name, Some(digits.parse().ok()?))),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str], is_loopback_only: bool) -> KnownHosts {
        KnownHosts {
            names: names.iter().map(|name| plain(name)).collect(),
            is_loopback_only,
        }
    }

    #[test]
    fn a_loopback_listener_goes_by_addresses_localhost_and_its_names() {
        let hosts = hosts(&["Films.example.org.", "*.lan.example"], true);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.168.1.7",
            "localhost",
            "LocalHost:1",
            "localhost.",
            "films.example.ORG:443",
            "films.example.org.",
            "a.lan.example",
        ] {
            assert_eq!(hosts.check(host.as_bytes()), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "nas",
            "nas.local",
            "films.example.org.evil.example",
            "lan.example",
            "evillan.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert_eq!(hosts.check(host.as_bytes()), Err(HostError::Unknown), "{host}");
        }
    }

    #[test]
    fn a_server_of_a_network_goes_by_names_that_nobody_can_register() {
        let hosts = hosts(&["films.example.org"], false);
        for host in [
            "nas:8080",
            "nas.local",
            "NAS.Local.:80",
            "films.example.org",
            "10.0.0.1",
        ] {
            assert_eq!(hosts.check(host.as_bytes()), Ok(()), "{host}");
        }
        assert_eq!(hosts.check(b"evil.example"), Err(HostError::Unknown));
        assert_eq!(hosts.check(b"local.evil.example"), Err(HostError::Unknown));
    }

    #[test]
    fn a_host_that_is_none_is_malformed() {
        let hosts = hosts(&[], false);
        for host in [
            &b""[..],
            b":80",
            b"a b",
            b"a@b",
            b"a/b",
            b"a:b",
            b"a:99999",
            b"a:80:80",
            b"[::1",
            b"[nas]",
            b"[::1]80",
            b"::1",
            b"caf\xc3\xa9",
            b"\xff",
        ] {
            assert_eq!(hosts.check(host), Err(HostError::Malformed), "{host:?}");
        }
    }

    #[test]
    fn fuzzed_hosts_are_ours_by_a_name_of_ours_only() {
        let hosts = hosts(&["films.example.org", "*.lan.example"], true);
        crate::fuzzing::fuzz("host", |host| {
            if hosts.check(host).is_ok() {
                let text = std::str::from_utf8(host).expect("a host is text");
                let (name, _) = split_port(text).expect("a host has its form");
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
                let is_ours = ["localhost", "films.example.org"].contains(&&*name) || name.ends_with(".lan.example");
                assert!(is_address || is_ours, "{name}");
            }
        });
    }
}
