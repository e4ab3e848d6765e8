//! Lists of addresses and networks, as settings write them: `192.0.2.1, 10.0.0.0/8 2001:db8::/32`.
//!
//! Which proxies are trusted is one such list, with a word more (trusted_proxies.rs); which addresses are private is
//! another. A single address is the network that holds it alone.

use ipnet::IpNet;
use std::net::IpAddr;

/// Addresses and networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Reads a setting: a list between commas or white space.
    ///
    /// # Errors
    /// The mistake in the setting, in words.
    pub fn read(text: &str) -> Result<Self, String> {
        let read = |name: &str| {
            let network = read_network(name);
            network.ok_or_else(|| format!("has {name:?}, which is no address, and no network like 10.0.0.0/8"))
        };
        names(text).map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the address is one of them, or of one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    pub(super) fn push(&mut self, network: IpNet) {
        self.0.push(network);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The members of a list between commas or white space.
pub(super) fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t']).filter(|name| !name.is_empty())
}

/// A network, or the one of a single address.
pub(super) fn read_network(name: &str) -> Option<IpNet> {
    let address = || name.parse::<IpAddr>().ok().map(IpNet::from);
    name.parse().ok().or_else(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_addresses_and_networks() {
        let networks = Networks::read("192.0.2.1, 2001:db8:7::/48").expect("valid");
        let has = |text: &str| networks.contains(text.parse().expect("an address"));
        assert!(has("192.0.2.1") && has("2001:db8:7:1::5"));
        assert!(!has("192.0.2.2") && !has("2001:db8:8::5"));
        assert_eq!(Networks::read(""), Ok(Networks::default()));
        let mistake = Networks::read("192.0.2.1 home").expect_err("no network");
        assert!(mistake.contains("\"home\""), "{mistake}");
    }
}
