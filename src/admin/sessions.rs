//! Sessions of the operator's browser: a code for one, its exchange for a cookie, and its end.
//!
//! A code is made for who may rule, by the control socket most of all; the page exchanges it. The exchange takes JSON,
//! which a form of another site cannot send.

use super::parameters::{NoParameters, Query};
use super::problem;
use crate::access::{CODE_LIFETIME, SESSION_LIFETIME};
use crate::api::SessionCode;
use crate::crypto::NoRandomness;
use crate::proxy::Problem;
use crate::site::Site;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Bytes, Data, Json};
use actix_web::{HttpRequest, HttpResponse};

/// A code for one session.
pub(super) async fn make_code(site: Data<Site>, _: Query<NoParameters>) -> Result<Json<SessionCode>, Problem> {
    let code = site.access.sessions.new_code().map_err(|error| no_bits(&error))?;
    Ok(Json(SessionCode {
        code,
        expires_in_seconds: CODE_LIFETIME.as_secs(),
    }))
}

/// Exchanges a code for a cookie.
pub(super) async fn open(
    site: Data<Site>,
    request: HttpRequest,
    body: Bytes,
    _: Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let code: Option<SessionCode> = serde_json::from_slice(&body).ok().filter(|_| is_json);
    let Some(code) = code else {
        let what = "send {\"code\":\"…\"} as application/json";
        return Err(problem(StatusCode::BAD_REQUEST, what));
    };
    let redeemed = site
        .access
        .sessions
        .redeem(&code.code)
        .map_err(|error| no_bits(&error))?;
    match redeemed {
        Some(value) => answer(&site, &value, SESSION_LIFETIME.as_secs()),
        None => {
            let what = "the code is not good: it was used, is older than five minutes, or was never made; make another";
            Err(problem(StatusCode::FORBIDDEN, what))
        }
    }
}

/// Ends the session of the cookie that the request shows.
pub(super) async fn close(
    site: Data<Site>,
    request: HttpRequest,
    _: Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    site.access.close_session(request.head());
    answer(&site, "", 0)
}

fn answer(site: &Site, value: &str, seconds: u64) -> Result<HttpResponse, Problem> {
    let cookie = site.access.session_cookie(value, seconds);
    let cookie = HeaderValue::from_str(&cookie).map_err(|_| problem(StatusCode::INTERNAL_SERVER_ERROR, "no cookie"))?;
    Ok(HttpResponse::NoContent()
        .insert_header((header::SET_COOKIE, cookie))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .finish())
}

fn no_bits(error: &NoRandomness) -> Problem {
    tracing::error!(%error, "the operating system gives no random bits");
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the operating system gives no random bits",
    )
}
