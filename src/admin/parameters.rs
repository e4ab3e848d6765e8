//! The names in a request to the API: an id in its path, parameters in its query.
//!
//! A parameter that is not known, or whose value is not understood, is an error that names it and what there is. One that
//! were passed over would make `DELETE ?prefxi=…` remove everything.

use super::problem;
use crate::key::ObjectId;
use crate::proxy::Problem;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpRequest};
use std::future::{Ready, ready};

/// A parameter of a query, as it is documented.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The form of its value: `1..1000`, `ID`.
    pub(super) form: &'static str,
    /// The meaning, in a sentence.
    pub(super) what: &'static str,
}

/// The parameters of an operation, read from its query.
pub(super) trait Parameters: Default + 'static {
    /// All that there are.
    const ALL: &'static [Parameter];

    /// Takes one; `None` where it is unknown or its value is not understood.
    fn take(&mut self, name: &str, value: &str) -> Option<()>;
}

/// The parameters of the request.
pub(super) struct Query<P>(pub(super) P);

impl<P: Parameters> FromRequest for Query<P> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let mut parameters = P::default();
        for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            if parameters.take(&name, &value).is_none() {
                let detail = format!("{name}={value} is not understood; there is {}", known::<P>());
                return ready(Err(problem(StatusCode::BAD_REQUEST, detail)));
            }
        }
        ready(Ok(Self(parameters)))
    }
}

/// The parameters that there are, in words.
pub(super) fn known<P: Parameters>() -> String {
    let forms: Vec<String> = P::ALL
        .iter()
        .map(|parameter| format!("{}={}", parameter.name, parameter.form))
        .collect();
    match forms.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "no parameter".to_owned(),
    }
}

/// For operations without parameters.
#[derive(Debug, Default)]
pub(super) struct NoParameters;

impl Parameters for NoParameters {
    const ALL: &'static [Parameter] = &[];

    fn take(&mut self, _: &str, _: &str) -> Option<()> {
        None
    }
}

/// `true` or `false`.
pub(super) fn flag(value: &str) -> Option<bool> {
    value.parse().ok()
}

/// The object that the path names.
pub(super) struct ObjectPath(pub(super) ObjectId);

impl FromRequest for ObjectPath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.match_info().get("id").and_then(ObjectId::parse);
        let what = "an id has 32 hexadecimal digits";
        ready(id.map(Self).ok_or_else(|| problem(StatusCode::BAD_REQUEST, what)))
    }
}
