//! The body of every error (RFC 9457), sent as `application/problem+json`.
//!
//! The status is always there, and the same as that of the answer; the rest may be absent. Members of a problem's type
//! stand beside the others, and are kept as they came.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An error, and the mend where there is one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ProblemDetails {
    /// The problem's type (RFC 9457 §3.1.1), where programs are to tell it from others of its status.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The status in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The status code.
    pub status: u16,
    /// The problem in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Further members, by the type.
    #[serde(flatten)]
    #[cfg_attr(test, schema(ignore))]
    pub more: Map<String, Value>,
}
