//! Masks over what looks like a credential in a URL, for logs and lists.
//!
//! A signed URL opens its object to whoever reads it. Text of any kind is read here, since URLs stand in errors and
//! messages too: the value of each query parameter whose name looks like a credential's is replaced by `…`.

use std::borrow::Cow;

/// Words within the name of such a parameter, in lower case. Masking one too many costs a reader of the log a guess.
const SECRET: [&str; 12] = [
    "auth",
    "credential",
    "hash",
    "hdn",
    "hmac",
    "jwt",
    "key",
    "md5",
    "passw",
    "secret",
    "sig",
    "token",
];

/// The same for whole names.
const SECRET_NAMES: [&str; 4] = ["pass", "pwd", "session", "sid"];

/// The text with masks over the values of parameters that look like credentials.
pub(crate) fn without_secrets(text: &str) -> Cow<'_, str> {
    let mut masked = String::new();
    let mut copied = 0;
    let mut from = 0;
    while let Some(found) = text[from..].find(['?', '&']) {
        let name_at = from + found + 1;
        from = name_at;
        let Some(name_len) = text[name_at..].find(|sign: char| matches!(sign, '=' | '?') || ends_a_parameter(sign))
        else {
            break;
        };
        let value_at = name_at + name_len + 1;
        if !text[name_at + name_len..].starts_with('=') || !is_secret(&text[name_at..name_at + name_len]) {
            continue;
        }
        let value_len = text[value_at..].find(ends_a_parameter).unwrap_or(text.len() - value_at);
        masked.push_str(&text[copied..value_at]);
        masked.push('…');
        copied = value_at + value_len;
        from = copied;
    }
    match copied {
        0 => Cow::Borrowed(text),
        _ => Cow::Owned(masked + &text[copied..]),
    }
}

/// Whether a parameter ends before the sign. A value may have brackets and apostrophes in it: what is left of it would be
/// shown behind the mask.
fn ends_a_parameter(sign: char) -> bool {
    matches!(sign, '&' | '#' | '"' | '<' | '>') || sign.is_whitespace()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|word| name.contains(word)) || SECRET_NAMES.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_parameters_that_look_like_credentials_are_masked() {
        for (text, shown) in [
            ("/a?as=json&access_token=abc&x", "/a?as=json&access_token=…&x"),
            ("http://h/a?X-Amz-Signature=0f&b=1", "http://h/a?X-Amz-Signature=…&b=1"),
            (
                "could not fetch \"http://h/?sig=s%20s\" (cut)",
                "could not fetch \"http://h/?sig=…\" (cut)",
            ),
            ("/a?token=1&token=2#f", "/a?token=…&token=…#f"),
            ("/a?token=", "/a?token=…"),
            ("/a?PWD=é&b", "/a?PWD=…&b"),
            ("/a?my:token=(a)'b", "/a?my:token=…"),
            ("/a?token", "/a?token"),
            ("/token=abc", "/token=abc"),
            ("/a?page=2&é=1", "/a?page=2&é=1"),
            ("?", "?"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
        assert!(matches!(without_secrets("/a?page=2"), Cow::Borrowed(_)));
    }
}
