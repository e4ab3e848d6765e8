//! Answers of strangers' hosts, confined: they may do nothing to the origin that they share with everybody else's.
//!
//! All hosts that clients name are served under one origin, which is also that of the API. So a document of one has no
//! scripts there (`Content-Security-Policy: sandbox`) and is taken for what its type says; of its fields those pass that
//! describe the content and its caching. What speaks for a whole origin (`Clear-Site-Data`, `Set-Cookie`,
//! `Service-Worker-Allowed`), to a proxy in front (`X-Accel-Redirect`) or for the network (`Access-Control-Allow-Private-Network`)
//! does not. Films, sounds and pictures can run nothing and are not sandboxed: Chromium plays none that is.

use crate::policy::is_inert;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The fields of a stranger that pass, those that we write included.
const PASSES: &[&str] = &[
    "accept-patch",
    "accept-post",
    "accept-ranges",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "age",
    "allow",
    "cache-control",
    "cache-status",
    "cdn-cache-control",
    "connection",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-security-policy",
    "content-type",
    "contentfeatures.dlna.org",
    "cross-origin-embedder-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "date",
    "dav",
    "deprecation",
    "digest",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "lock-token",
    "ms-author-via",
    "permissions-policy",
    "pragma",
    "preference-applied",
    "proxy-status",
    "referrer-policy",
    "repr-digest",
    "retry-after",
    "server",
    "server-timing",
    "stream-offset",
    "timeseekrange.dlna.org",
    "timing-allow-origin",
    "trailer",
    "transfer-encoding",
    "transfermode.dlna.org",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-content-duration",
    "x-content-type-options",
    "x-frame-options",
    "x-oc-mtime",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
    "x-robots-tag",
];

/// The same by how their names begin: of radios, of object stores, of uploads, and our own.
const PASSES_BEGIN: &[&str] = &[
    "ice-",
    "icy-",
    "millpond-",
    "upload-",
    "x-amz-",
    "x-audiocast-",
    "x-goog-",
    "x-ms-",
];

/// Takes from the fields of an answer of a host that the operator has not named what would speak for our whole origin.
pub(in crate::proxy) fn keep_harmless(fields: &mut HeaderMap) {
    let passes = |name: &str| PASSES.contains(&name) || PASSES_BEGIN.iter().any(|family| name.starts_with(family));
    let dropped: Vec<HeaderName> = fields.keys().filter(|name| !passes(name.as_str())).cloned().collect();
    for name in dropped {
        fields.remove(name);
    }
}

/// Sandboxes a document that could run scripts.
pub(in crate::proxy) fn sandbox(fields: &mut HeaderMap) {
    // A browser guesses at a type that it is not forbidden to guess at.
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !is_inert_type(fields) {
        fields.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    }
}

/// Has a browser save a document that could run scripts, rather than show it.
pub(in crate::proxy) fn attach(fields: &mut HeaderMap) {
    if !is_inert_type(fields) {
        fields.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
}

fn is_inert_type(fields: &HeaderMap) -> bool {
    // Of several lines browsers take the last, or combine them.
    let mut lines = fields.get_all(header::CONTENT_TYPE).peekable();
    lines.peek().is_some() && lines.all(|line| line.to_str().is_ok_and(is_inert))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_describe_content_pass_and_those_that_speak_for_an_origin_do_not() {
        let pass = [
            "content-range",
            "stream-offset",
            "icy-metaint",
            "x-amz-meta-title",
            "transfermode.dlna.org",
        ];
        let dropped = [
            "clear-site-data",
            "service-worker-allowed",
            "x-accel-redirect",
            "refresh",
            "alt-svc",
            "x-unknown",
        ];
        let mut fields = HeaderMap::new();
        for name in pass.iter().chain(&dropped) {
            fields.insert(HeaderName::from_static(name), HeaderValue::from_static("a"));
        }
        keep_harmless(&mut fields);
        assert!(pass.iter().all(|name| fields.contains_key(*name)), "{fields:?}");
        assert_eq!(fields.len(), pass.len(), "{fields:?}");
    }

    #[test]
    fn a_type_in_several_lines_is_inert_where_each_is() {
        let mut fields = HeaderMap::new();
        assert!(!is_inert_type(&fields));
        fields.append(header::CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
        assert!(is_inert_type(&fields));
        fields.append(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert!(!is_inert_type(&fields));
    }
}
