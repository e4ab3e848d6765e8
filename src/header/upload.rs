//! The fields of resumable uploads (draft-ietf-httpbis-resumable-upload): structured items.
//!
//! A field of another type, or that does not read, is as good as none: the draft says to ignore it. Parameters of an
//! item are passed over. What an upload does without the field is decided in `webdav`.

use sfv::{BareItem, Item, Parser};

/// A boolean item (`?1`); `None` for anything else, which the draft says to ignore.
pub fn boolean(field: &str) -> Option<bool> {
    match Parser::new(field).parse::<Item>().ok()?.bare_item {
        BareItem::Boolean(truth) => Some(truth),
        _ => None,
    }
}

/// An integer item that is not negative; `None` for anything else, which the draft says to ignore.
pub fn count(field: &str) -> Option<u64> {
    match Parser::new(field).parse::<Item>().ok()?.bare_item {
        BareItem::Integer(number) => u64::try_from(i64::from(number)).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_and_counts_are_read_and_other_values_ignored() {
        assert_eq!(
            (boolean("?1"), boolean(" ?0 "), boolean("?0;a=1")),
            (Some(true), Some(false), Some(false))
        );
        assert_eq!((boolean("1"), boolean("true"), boolean("")), (None, None, None));
        assert_eq!(
            (count("0"), count("123456789012345")),
            (Some(0), Some(123_456_789_012_345))
        );
        assert_eq!(
            (count("-1"), count("1.5"), count("?1"), count("1, 2")),
            (None, None, None, None)
        );
    }
}
