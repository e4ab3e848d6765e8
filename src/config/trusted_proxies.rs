//! The proxies that the operator has put before this server.
//!
//! ```text
//! 192.0.2.1        one address
//! 10.0.0.0/8       a network
//! unix             whoever connects to a socket in the file system that `listen` names
//! ```

use super::networks::{Networks, names, read_network};
use std::net::IpAddr;

/// Proxies whose word for a client's address counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Networks,
    unix: bool,
}

impl TrustedProxies {
    /// Reads the setting: a list between commas or white space.
    ///
    /// # Errors
    /// The mistake in the setting, in words.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut proxies = Self::default();
        for name in names(text) {
            match (name, read_network(name)) {
                ("unix", _) => proxies.unix = true,
                (_, Some(network)) => proxies.networks.push(network),
                _ => {
                    return Err(format!(
                        "has {name:?}, which is no address, no network like 10.0.0.0/8, and not unix"
                    ));
                }
            }
        }
        Ok(proxies)
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether a peer is one of them; one without an address has come by a socket in the file system.
    pub fn contains(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            None => self.unix,
            Some(peer) => self.networks.contains(peer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_addresses_networks_or_sockets() {
        let proxies = TrustedProxies::read("192.0.2.1, 10.0.0.0/8 2001:db8::/32").expect("valid");
        let has = |text: &str| proxies.contains(text.parse().ok());
        assert!(has("192.0.2.1") && has("10.1.2.3") && has("2001:db8::5"));
        assert!(!has("192.0.2.2") && !has("11.0.0.1") && !proxies.contains(None));
        assert!(TrustedProxies::read("unix").expect("valid").contains(None));
        assert!(TrustedProxies::read("").expect("valid").is_empty());
        for text in ["nginx", "10.0.0.0/33", "unix:/a"] {
            assert!(TrustedProxies::read(text).is_err(), "{text}");
        }
    }
}
