//! `Repr-Digest` and `Want-Repr-Digest` (RFC 9530), for SHA-256.

use sfv::{BareItem, DictSerializer, Dictionary, KeyRef, ListEntry, Parser};

const SHA_256: &str = "sha-256";

/// The SHA-256 that a `Repr-Digest` states, where it states one; what does not read states none.
pub fn stated_sha256(field: &str) -> Option<[u8; 32]> {
    match member(field)? {
        BareItem::ByteSequence(bytes) => bytes.try_into().ok(),
        _ => None,
    }
}

/// Whether a `Want-Repr-Digest` asks for a SHA-256: its preference is from 1 to 10, 0 means not at all.
pub fn wants_sha256(field: &str) -> bool {
    let preference = match member(field) {
        Some(BareItem::Integer(preference)) => i64::from(preference),
        _ => 0,
    };
    (1..=10).contains(&preference)
}

/// A `Repr-Digest` with a SHA-256.
pub fn repr_digest(sha256: &[u8; 32]) -> String {
    let mut field = DictSerializer::new();
    if let Ok(key) = KeyRef::from_str(SHA_256) {
        let _ = field.bare_item(key, &sha256[..]);
    }
    field.finish().unwrap_or_default()
}

fn member(field: &str) -> Option<BareItem> {
    let mut dictionary: Dictionary = Parser::new(field).parse().ok()?;
    match dictionary.swap_remove(SHA_256)? {
        ListEntry::Item(item) => Some(item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-256 of nothing, and as RFC 9530 writes it.
    const EMPTY: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    #[test]
    fn a_digest_is_printed_as_it_is_read() {
        let digest = stated_sha256(EMPTY).expect("one");
        assert_eq!(digest[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_eq!(repr_digest(&digest), EMPTY);
        assert_eq!(stated_sha256(&format!("sha-512=:AAAA:, {EMPTY}")), Some(digest));
    }

    #[test]
    fn what_is_no_digest_states_none() {
        for field in [
            "",
            "sha-256=47DE",
            "sha-256=:AAAA:",
            "sha-512=:AAAA:",
            "sha-256",
            "sha-256=:!:",
        ] {
            assert_eq!(stated_sha256(field), None, "{field}");
        }
    }

    #[test]
    fn a_preference_of_0_is_a_refusal() {
        assert!(wants_sha256("sha-256=1"));
        assert!(wants_sha256("sha-512=3, sha-256=10, unixsum=0"));
        for field in [
            "sha-256=0",
            "sha-512=3",
            "sha-256=11",
            "sha-256=-1",
            "sha-256=1.5",
            "*",
            "",
        ] {
            assert!(!wants_sha256(field), "{field}");
        }
    }
}
