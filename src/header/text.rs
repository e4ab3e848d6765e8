//! Field values as text, byte for byte.
//!
//! A field value is bytes (RFC 9110 §5.5): servers send file names in Latin-1 and in UTF-8, and a recipient is to
//! treat what is no ASCII as opaque. Inside, a value is a `String` in which each byte is the character of the same
//! number (the "isomorphic" decoding of the Infra standard): every value has such a text, ASCII is itself, and the
//! bytes come back as they were.

use std::borrow::Cow;

/// The text of a field value.
pub fn text_of(value: &[u8]) -> String {
    value.iter().copied().map(char::from).collect()
}

/// The bytes of such a text. A character that no byte stands for, which only a text of ours can have, goes out in
/// UTF-8.
pub fn value_of(text: &str) -> Cow<'_, [u8]> {
    if text.is_ascii() {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut value = Vec::with_capacity(text.len());
    for character in text.chars() {
        match u8::try_from(u32::from(character)) {
            Ok(byte) => value.push(byte),
            Err(_) => value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(value)
}

/// Values of `Content-Encoding` that code nothing: words for the lack of a coding, for a character set or for the
/// framing of an upload, which servers put there by mistake.
const NO_CODING: &[&str] = &[
    "",
    "none",
    "identity",
    "aws-chunked",
    "binary",
    "7bit",
    "8bit",
    "ascii",
    "us-ascii",
    "utf-8",
    "utf8",
    "iso-8859-1",
    "text",
    "plain",
    "null",
    "undefined",
];

/// Whether a `Content-Encoding` field names a coding (RFC 9110 §8.4): one that we do not know is one.
pub fn codes_content(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    let mut members = field.split(',').map(str::trim);
    members.any(|member| !NO_CODING.contains(&member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn latin_1_and_utf_8_values_come_back_as_they_were() {
        for value in [&b"plain"[..], b"caf\xe9.mkv", "caf\u{e9} \u{2014}.mkv".as_bytes()] {
            assert_eq!(&*value_of(&text_of(value)), value);
        }
        assert_eq!(&*value_of("\u{2014}"), "\u{2014}".as_bytes(), "a text of our own");
    }

    #[test]
    fn a_content_encoding_that_codes_nothing_is_none() {
        for field in [
            "",
            " ",
            "none",
            "Identity",
            "aws-chunked",
            "binary",
            "UTF-8",
            "identity, aws-chunked",
        ] {
            assert!(!codes_content(field), "{field}");
        }
        for field in ["gzip", "br", "aws-chunked, gzip", "x-unheard-of", "deflate"] {
            assert!(codes_content(field), "{field}");
        }
    }

    proptest! {
        #[test]
        fn any_value_comes_back_as_it_was(value: Vec<u8>) {
            let text = text_of(&value);
            prop_assert_eq!(&*value_of(&text), &value[..]);
        }
    }
}
