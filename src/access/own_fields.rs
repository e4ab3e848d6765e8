//! The server's own fields of a request: its tokens, and the cookie of its page.
//!
//! A token comes as `Authorization: Bearer`, or as the password of `Basic` for clients that know no better, or in
//! `Millpond-Token`, where `Authorization` is for an upstream. All that ends here: cache policy, keys, logs and upstreams
//! never see it, so a hit with a token is the hit that it is without.

use super::sessions::COOKIE_PREFIX;
use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

/// The field for a token of this server on a request whose `Authorization` is for an upstream.
pub const TOKEN_FIELD: HeaderName = HeaderName::from_static("millpond-token");

/// Whether a request carries something that ends at this server, whoever its caller is.
pub(super) fn has_own_fields(headers: &HeaderMap) -> bool {
    headers.contains_key(TOKEN_FIELD)
        || headers
            .get_all(header::COOKIE)
            .any(|field| has_own_cookie(field.as_bytes()))
}

/// A token, as a request shows it.
pub(super) struct ShownToken {
    pub(super) token: String,
    /// Whether browsers send it by themselves, also where a page of another site asks.
    pub(super) is_ambient: bool,
}

/// The token that a request shows for this server.
pub(super) fn shown_token(headers: &HeaderMap) -> Option<ShownToken> {
    match headers.get(TOKEN_FIELD) {
        Some(field) => own_token(field),
        None => token_of(headers.get(header::AUTHORIZATION)?),
    }
}

/// The token in a `Millpond-Token`.
pub(super) fn own_token(field: &HeaderValue) -> Option<ShownToken> {
    Some(ShownToken {
        token: field.to_str().ok()?.trim().to_owned(),
        is_ambient: false,
    })
}

/// The token in an `Authorization`.
pub(super) fn token_of(field: &HeaderValue) -> Option<ShownToken> {
    let (scheme, rest) = field.to_str().ok()?.trim().split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(ShownToken {
            token: rest.trim().to_owned(),
            is_ambient: false,
        }),
        "basic" => {
            let decoded = base64(rest.trim())?;
            let (_, password) = decoded.split_once(':')?;
            Some(ShownToken {
                token: password.to_owned(),
                is_ambient: true,
            })
        }
        _ => None,
    }
}

/// Base64 text (RFC 4648 §4).
fn base64(text: &str) -> Option<String> {
    // A structured field's byte sequence is base64 between colons.
    let bytes = crate::header::byte_sequence(&format!(":{text}:"))?;
    String::from_utf8(bytes).ok()
}

/// The values of the cookie of that name.
pub(super) fn cookie_values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(header::COOKIE);
    let pairs = fields.flat_map(|field| cookies(field.as_bytes()));
    pairs.filter_map(move |pair| {
        let (own, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        (own.trim() == name).then(|| value.trim())
    })
}

/// The request without the server's own fields and, where `Authorization` has a token of ours, without that.
pub(super) fn without_own(head: &RequestHead, is_ours: bool) -> Cow<'_, RequestHead> {
    if !is_ours && !has_own_fields(&head.headers) {
        return Cow::Borrowed(head);
    }
    let mut head = head.clone();
    head.headers.remove(TOKEN_FIELD);
    if is_ours {
        head.headers.remove(header::AUTHORIZATION);
    }
    let cookies: Vec<HeaderValue> = head.headers.remove(header::COOKIE).collect();
    for cookie in cookies {
        match without_own_cookie(&cookie) {
            None => head.headers.append(header::COOKIE, cookie),
            Some(Some(rest)) => head.headers.append(header::COOKIE, rest),
            Some(None) => {}
        }
    }
    Cow::Owned(head)
}

/// The cookies of a `Cookie` field (RFC 6265 §4.2.1), as bytes: an upstream's own may be no text.
fn cookies(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let pairs = field.split(|byte| *byte == b';');
    pairs.map(<[u8]>::trim_ascii)
}

/// Whether the cookie is a millpond's: of this server, or of one at another port of the same host.
fn is_own_cookie(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.trim_ascii().starts_with(COOKIE_PREFIX) && pair.contains(&b'=')
}

fn has_own_cookie(field: &[u8]) -> bool {
    cookies(field).any(is_own_cookie)
}

/// The field without the server's own cookie: `None` where it has none, and no field at all where it has no other.
fn without_own_cookie(field: &HeaderValue) -> Option<Option<HeaderValue>> {
    has_own_cookie(field.as_bytes()).then(|| {
        let others: Vec<&[u8]> = cookies(field.as_bytes()).filter(|pair| !is_own_cookie(pair)).collect();
        let rest = HeaderValue::from_bytes(&others.join(&b"; "[..])).ok();
        rest.filter(|rest| !rest.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_cookie_is_removed_and_the_others_stay() {
        let cleaned = |field: &str| {
            let field = HeaderValue::from_str(field).expect("a value");
            without_own_cookie(&field).map(|rest| rest.map(|rest| rest.to_str().expect("text").to_owned()))
        };
        assert_eq!(cleaned("a=1; b=millpond-session"), None);
        assert_eq!(cleaned("millpond-session-1f=x"), Some(None));
        let some = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(cleaned("a=1; millpond-session-1f=x; b=2"), some("a=1; b=2"));
        assert_eq!(cleaned("millpond-session=x;a=1;millpond-session-2=y"), some("a=1"));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; millpond-session-1f=x"));
        headers.append(header::COOKIE, HeaderValue::from_static("millpond-session-1f = y"));
        let found: Vec<&str> = cookie_values(&headers, "millpond-session-1f").collect();
        assert_eq!(found, ["x", "y"]);
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_a_password() {
        let token = |field: &str| token_of(&HeaderValue::from_str(field).expect("a value"));
        let shown = |field: &str| token(field).map(|shown| (shown.token, shown.is_ambient));
        assert_eq!(shown("Bearer abc"), Some(("abc".to_owned(), false)));
        assert_eq!(shown("bearer  abc "), Some(("abc".to_owned(), false)));
        assert_eq!(shown("Basic dXNlcjphYmM="), Some(("abc".to_owned(), true)));
        for field in ["abc", "Digest abc", "Basic !!", "Basic YWJj", ""] {
            assert_eq!(shown(field), None, "{field}");
        }
    }
}
