//! `Repr-Digest` and `Want-Repr-Digest` (RFC 9530), for SHA-256.
//!
//! Fields are structured fields (RFC 9651), read and printed by `sfv`. Two readers, since two mistakes are to be
//! avoided: a digest that an upstream states is taken for none where it does not read, and the bytes are kept as they
//! are; a claim of a client that uploads is an error where it does not read, since a check that was asked for must not
//! be left out.

use serde::{Deserialize, Serialize};
use sfv::{BareItem, DictSerializer, Dictionary, Item, KeyRef, ListEntry, Parser};

const SHA_256: &str = "sha-256";

/// The SHA-256 that a `Repr-Digest` states, where it states one; what does not read states none.
pub fn stated_sha256(field: &str) -> Option<[u8; 32]> {
    match member(field)? {
        BareItem::ByteSequence(bytes) => bytes.try_into().ok(),
        _ => None,
    }
}

/// A digest that the sender states of its bytes, for the receiver to verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// SHA-256, 32 bytes.
    Sha256(Vec<u8>),
    /// SHA-512, 64 bytes.
    Sha512(Vec<u8>),
}

/// The claim of a `Repr-Digest` or `Content-Digest`, the strongest first; `None` where only algorithms are named
/// that are not known here, which RFC 9530 §2 says to ignore.
///
/// # Errors
/// In words, where it is no such field: what cannot be held to must not be taken for what was.
pub fn claim(field: &str) -> Result<Option<Claim>, &'static str> {
    let dictionary: Dictionary = Parser::new(field)
        .parse()
        .map_err(|_| "is not a dictionary of byte sequences")?;
    let bytes = |name: &str, length: usize| match dictionary.get(name) {
        None => Ok(None),
        Some(ListEntry::Item(item)) => match &item.bare_item {
            BareItem::ByteSequence(bytes) if bytes.len() == length => Ok(Some(bytes.clone())),
            _ => Err("has a digest that is not as long as its algorithm's are"),
        },
        Some(ListEntry::InnerList(_)) => Err("has a list where a digest belongs"),
    };
    let sha512 = bytes("sha-512", 64)?.map(Claim::Sha512);
    let sha256 = bytes(SHA_256, 32)?.map(Claim::Sha256);
    Ok(sha512.or(sha256))
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

/// The bytes of an item that is a byte sequence (RFC 9651 §3.3.5).
pub(crate) fn byte_sequence(field: &str) -> Option<Vec<u8>> {
    match Parser::new(field).parse::<Item>().ok()?.bare_item {
        BareItem::ByteSequence(bytes) => Some(bytes),
        _ => None,
    }
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
    fn a_field_without_a_valid_sha_256_states_no_digest() {
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
    fn a_malformed_digest_claim_is_refused_not_dropped() {
        assert!(matches!(claim(EMPTY), Ok(Some(Claim::Sha256(_)))));
        assert_eq!(claim("md5=:AAAA:"), Ok(None));
        for field in ["sha-256=:AAAA:", "sha-256=1", "sha-512=(1)", "sha-256=:!:", "sha-256"] {
            assert!(claim(field).is_err(), "{field}");
        }
    }

    #[test]
    fn sha_256_is_wanted_at_a_preference_of_1_to_10() {
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

    #[test]
    fn fuzzed_structured_fields_are_read_or_refused() {
        crate::fuzzing::fuzz("structured", |field| {
            let field = String::from_utf8_lossy(field);
            let _ = (
                stated_sha256(&field),
                claim(&field),
                wants_sha256(&field),
                byte_sequence(&field),
            );
            let _ = (crate::header::boolean(&field), crate::header::count(&field));
            let _ = crate::header::preferred_wait(std::iter::once(&*field));
            let _ = crate::header::prefers_async(std::iter::once(&*field));
        });
    }
}
