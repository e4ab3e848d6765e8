//! The fields of a request that matter, read once: its conditions, its range, the replies that it takes.
//!
//! Values lie where the framework has them; nothing is copied but what is parsed. `Range` is read for GET alone (RFC
//! 9110 §14.2), and a preference to wait makes the answer a capped one, whatever the setting.

pub(super) mod forward;
pub(super) mod route;

use super::response::decide::Question;
use crate::config::Delivery;
use crate::header::{Conditions, preferred_wait, wants_sha256};
use crate::policy::{Fields, RequestDirectives};
use actix_web::dev::RequestHead;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use std::time::Duration;

/// A request for an object, read once.
pub(crate) struct Request<'a> {
    pub(crate) question: Question<'a>,
    pub(super) asked: RequestDirectives,
    pub(crate) head_only: bool,
    pub(super) delivery: Delivery,
    pub(super) wait: Option<Duration>,
    pub(crate) wants_digest: bool,
    /// `Last-Event-ID` (HTML §9.2.2).
    pub(super) last_event: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// Reads a request; `None` for a method that is not served.
    pub(crate) fn read(head: &'a RequestHead, delivery: Delivery) -> Option<Self> {
        let head_only = head.method == Method::HEAD;
        if !head_only && head.method != Method::GET {
            return None;
        }
        let fields = RequestFields(&head.headers);
        let wait = preferred_wait(fields.lines("prefer"));
        Some(Self {
            question: question(&head.headers, head_only),
            asked: RequestDirectives::read(&fields),
            head_only,
            delivery: if wait.is_some() { Delivery::Capped } else { delivery },
            wait,
            wants_digest: fields.lines("want-repr-digest").any(wants_sha256),
            last_event: head.headers.get("last-event-id").and_then(|id| id.to_str().ok()),
        })
    }

    /// A GET without conditions and preferences.
    pub(super) fn plain(delivery: Delivery) -> Self {
        Self {
            question: Question::default(),
            asked: RequestDirectives::default(),
            head_only: false,
            delivery,
            wait: None,
            wants_digest: false,
            last_event: None,
        }
    }
}

fn question(headers: &HeaderMap, head_only: bool) -> Question<'_> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    Question {
        // RFC 9110 §14.2: Range is defined for GET alone.
        range: if head_only {
            None
        } else {
            headers.get(header::RANGE).map(header::HeaderValue::as_bytes)
        },
        conditions: Conditions {
            if_match: text(header::IF_MATCH),
            if_unmodified_since: text(header::IF_UNMODIFIED_SINCE),
            if_none_match: text(header::IF_NONE_MATCH),
            if_modified_since: text(header::IF_MODIFIED_SINCE),
            if_range: text(header::IF_RANGE),
        },
    }
}

/// The fields of a request, as policy reads them.
pub(super) struct RequestFields<'a>(pub(super) &'a HeaderMap);

impl Fields for RequestFields<'_> {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.get_all(name).filter_map(|value| value.to_str().ok())
    }

    fn is_text(&self, name: &str) -> bool {
        self.0.get_all(name).all(|value| value.to_str().is_ok())
    }
}
