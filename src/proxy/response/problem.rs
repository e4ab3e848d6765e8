//! Errors as answers: the one place that turns them into HTTP (RFC 9457).
//!
//! Clients learn what went wrong and whose side it is on, never local paths.

use crate::api::ProblemDetails;
use crate::fill::{Moved, Refusal};
use crate::header::{CacheStatus, ContentRange, Forwarded, value_of};
use crate::proxy::request::route::{RouteError, Routes};
use crate::upstream::UpstreamError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The name of the field of RFC 9211.
pub(in crate::proxy) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Without a descriptor or a port left: when to ask again. A judgement: connections end all the time.
const EXHAUSTED: Duration = Duration::from_secs(5);

/// An answer that is not the object.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
    allow: Option<Cow<'static, str>>,
    /// Parts that few problems have.
    more: Option<Box<More>>,
    /// Credentials would help (RFC 9110 §11.6.1).
    challenge: bool,
    /// `None` for what no cache has a part in.
    cache_status: Option<CacheStatus>,
}

/// Parts that few problems have.
#[derive(Debug, Default)]
struct More {
    /// The problem's type (RFC 9457 §3.1.1).
    kind: Option<&'static str>,
    /// Further members of its body.
    members: Vec<(&'static str, serde_json::Value)>,
    fields: Vec<(HeaderName, String)>,
}

impl Problem {
    /// A problem with this status, in words for the client.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after: None,
            allow: None,
            more: None,
            challenge: false,
            cache_status: Some(CacheStatus::forwarded(Forwarded::UriMiss)),
        }
    }

    /// A request that has come by here several times.
    pub(in crate::proxy) fn circles() -> Self {
        let what = "the request goes in circles: it has come by here several times (Via); check where --upstream leads";
        Self::new(StatusCode::LOOP_DETECTED, what)
    }

    /// The same, naming the methods that are served.
    pub(in crate::proxy) fn allowing(mut self) -> Self {
        self.allow = Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into());
        self
    }

    /// 503 that says when to come back; for bytes that a fill brings the time is estimated in `cache/not_here_yet.rs`.
    pub fn later(after: Duration, detail: &str) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.retry_after = Some(after);
        problem
    }

    /// The same with the true story.
    pub(in crate::proxy) fn with(mut self, cache_status: CacheStatus) -> Self {
        self.cache_status = Some(cache_status);
        self
    }

    /// The store failed; the log has the rest.
    pub(in crate::proxy) fn store(error: &crate::store::StoreError) -> Self {
        tracing::error!(%error, cause = ?std::error::Error::source(error), "the store failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the cache's disk failed; its log says how",
        )
    }

    /// A problem of a directory that is ours: no cache has a part in it.
    pub(crate) fn of_origin(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            cache_status: None,
            ..Self::new(status, detail)
        }
    }

    /// The same where no cache has a part in it.
    pub fn without_story(self) -> Self {
        Self {
            cache_status: None,
            ..self
        }
    }

    /// The same, asking for a token, or a password of clients that know no better.
    pub(crate) fn challenging(self) -> Self {
        Self {
            challenge: true,
            ..self
        }
    }

    /// The same, of a type that programs know.
    pub(crate) fn of_type(mut self, kind: &'static str) -> Self {
        self.more().kind = Some(kind);
        self
    }

    /// Whether it is of that type.
    pub(crate) fn is_of_type(&self, kind: &str) -> bool {
        self.more.as_ref().is_some_and(|more| more.kind == Some(kind))
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// The same, whose body says that too.
    pub(crate) fn with_member(mut self, name: &'static str, value: serde_json::Value) -> Self {
        self.more().members.push((name, value));
        self
    }

    /// The same with one more field.
    pub(crate) fn with_field(mut self, name: HeaderName, value: String) -> Self {
        self.more().fields.push((name, value));
        self
    }

    /// The same, naming these methods.
    pub fn allowing_only(mut self, methods: impl Into<Cow<'static, str>>) -> Self {
        self.allow = Some(methods.into());
        self
    }

    /// The request goes nowhere.
    pub fn route(error: RouteError) -> Self {
        let status = match error {
            RouteError::Nowhere => StatusCode::NOT_FOUND,
            RouteError::AdHocOff => StatusCode::FORBIDDEN,
            RouteError::NotAUrl | RouteError::Outside | RouteError::HiddenDots | RouteError::RawSign => {
                StatusCode::BAD_REQUEST
            }
            RouteError::TooLong => StatusCode::URI_TOO_LONG,
        };
        Self::new(status, error.to_string())
    }

    pub(in crate::proxy) fn upstream(error: &UpstreamError) -> Self {
        let status = match error {
            _ if error.is_refused() => StatusCode::FORBIDDEN,
            _ if error.is_exhaustion() => return Self::later(EXHAUSTED, &error.to_string()),
            _ if error.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }

    /// The answer.
    pub fn response(&self) -> HttpResponse {
        let title = self.status.canonical_reason().unwrap_or("Problem");
        let members = self.more.iter().flat_map(|more| &more.members);
        let body = ProblemDetails {
            kind: self.more.as_ref().and_then(|more| more.kind).map(str::to_owned),
            title: Some(title.to_owned()),
            status: self.status.as_u16(),
            detail: Some(self.detail.clone()),
            more: members
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        let mut response = HttpResponse::build(self.status);
        for (name, value) in self.more.iter().flat_map(|more| &more.fields) {
            response.append_header((name.clone(), value.as_str()));
        }
        response
            .insert_header((header::CONTENT_TYPE, "application/problem+json"))
            .insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(cache_status) = &self.cache_status {
            response.insert_header((CACHE_STATUS, cache_status.to_string()));
        }
        if let Some(methods) = &self.allow {
            response.insert_header((header::ALLOW, methods.as_ref()));
        }
        if self.challenge {
            response.append_header((header::WWW_AUTHENTICATE, "Bearer realm=\"millpond\""));
            response.append_header((header::WWW_AUTHENTICATE, "Basic realm=\"millpond\", charset=\"UTF-8\""));
        }
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        response.body(serde_json::to_string(&body).unwrap_or_default())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.response()
    }
}

/// The upstream's own answer, passed on as it is.
pub(in crate::proxy) fn refused(refusal: &Refusal, mut cache_status: CacheStatus) -> HttpResponse {
    cache_status.upstream_status = Some(refusal.status);
    if refusal.status == 416 {
        return unsatisfiable(refusal.complete_length, cache_status);
    }
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    for (name, value) in &refusal.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::from_bytes(&value_of(value)),
        ) {
            response.append_header((name, value));
        }
    }
    if let Some(after) = &refusal.retry_after {
        response.insert_header((header::RETRY_AFTER, after.as_str()));
    }
    response.insert_header((CACHE_STATUS, cache_status.to_string()));
    response.body(refusal.body.clone())
}

/// Sends the client where the upstream's redirects led, by the name that it has here.
pub(in crate::proxy) fn redirected(routes: &Routes, moved: &Moved, mut cache_status: CacheStatus) -> HttpResponse {
    let Some(path) = routes.path_of(&moved.url) else {
        // The fill has looked before; the routes do not change.
        return Problem::new(
            StatusCode::BAD_GATEWAY,
            "the upstream redirects to what is not served here",
        )
        .with(cache_status)
        .response();
    };
    cache_status.upstream_status = Some(moved.status);
    let status = StatusCode::from_u16(moved.status).unwrap_or(StatusCode::FOUND);
    HttpResponse::build(status)
        .insert_header((header::LOCATION, path))
        .insert_header((CACHE_STATUS, cache_status.to_string()))
        .finish()
}

/// 416 with the complete length, where it is known (RFC 9110 §15.5.17).
pub(in crate::proxy) fn unsatisfiable(size: Option<u64>, cache_status: CacheStatus) -> HttpResponse {
    unsatisfied(size)
        .insert_header((CACHE_STATUS, cache_status.to_string()))
        .finish()
}

/// The same of what no cache has a part in.
pub(crate) fn unsatisfied(size: Option<u64>) -> HttpResponseBuilder {
    let mut response = HttpResponse::RangeNotSatisfiable();
    if let Some(size) = size {
        response.insert_header((header::CONTENT_RANGE, ContentRange::Unsatisfied { size }.to_string()));
    }
    response.insert_header((header::ACCEPT_RANGES, "bytes"));
    response
}
