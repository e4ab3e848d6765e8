//! The body of a 207 (RFC 4918 §13) in its parts, and which properties are live: what PROPFIND and PROPPATCH share.
//!
//! A document is [`document_start`], any number of `response` elements, and [`DOCUMENT_END`]. Elements of the namespace
//! `DAV:` have the prefix `D`; each other property carries its namespace itself, so it means the same wherever it stands.

use super::escape::Escaped;
use super::request_xml::DAV;
use crate::directory::PropertyName;
use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::http::{StatusCode, header};
use std::fmt::Write as _;

/// The live properties that `allprop` asks for. RFC 4331 keeps the quota out of it.
pub(super) const ALLPROP: &[&str] = &[
    "resourcetype",
    "displayname",
    "getcontentlength",
    "getcontenttype",
    "getetag",
    "getlastmodified",
    "supportedlock",
    "lockdiscovery",
];

/// The live properties that are sent only where they are named. `creationdate` is here to be protected; it has no value.
pub(super) const OTHER_LIVE: &[&str] = &["quota-available-bytes", "quota-used-bytes", "creationdate"];

pub(super) fn write_empty(text: &mut String, (space, name): &PropertyName) {
    let _ = match space.as_str() {
        DAV => write!(text, "<D:{name}/>"),
        space => write!(text, "<{name} xmlns=\"{}\"/>", Escaped(space)),
    };
}

pub(super) fn write_value(text: &mut String, (space, name): &PropertyName, value: &str) {
    let _ = match space.as_str() {
        DAV => write!(text, "<D:{name}>{value}</D:{name}>"),
        space => write!(text, "<{name} xmlns=\"{}\">{value}</{name}>", Escaped(space)),
    };
}

pub(super) const DOCUMENT_END: &str = "</D:multistatus>\n";

pub(super) fn document_start() -> String {
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">\n".to_owned()
}

pub(super) fn multistatus(body: impl MessageBody + 'static) -> HttpResponse {
    HttpResponse::build(StatusCode::MULTI_STATUS)
        .insert_header((header::CONTENT_TYPE, "application/xml; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(body)
}
