//! Stored objects: a page of the list, one object, and what a purge has removed.
//!
//! An object is one stored representation of one URL. Its id is the digest of the URL and of the fields that select the
//! representation, so it is the same after a restart and on another machine.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How much of an object is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ObjectState {
    /// Bytes are missing, or it is not known how many there are.
    Incomplete,
    /// Every byte of a known length is here, or the upstream's framing ended cleanly.
    Complete,
    /// The upstream closed the connection as the only sign of the end: it may have been cut.
    Unverified,
    /// A state that a newer server knows.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How the bytes of an object came together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum JoinState {
    /// By one exchange, or by several under a strong validator.
    Proven,
    /// By several under a weak tag or a date, with bytes compared where they meet.
    Compared,
    /// As `proven`; weak tags and dates of this URL are not believed any more.
    Distrusted,
    /// A state that a newer server knows.
    #[default]
    #[serde(other)]
    Unknown,
}

/// An object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ObjectSummary {
    /// The id, as 32 hexadecimal digits.
    pub id: String,
    /// The canonical URL.
    pub url: String,
    /// How much is here.
    #[serde(default)]
    pub state: ObjectState,
    /// The complete length in bytes; `null` where the upstream has not told it.
    #[serde(default)]
    pub complete_length: Option<u64>,
    /// The bytes that are here, as half-open pairs.
    #[serde(default)]
    pub present: Vec<[u64; 2]>,
    /// How many bytes are here.
    #[serde(default)]
    pub present_bytes: u64,
    /// Disk space of the object, in bytes.
    #[serde(default)]
    pub disk_bytes: u64,
    /// The tag that clients are given.
    #[serde(default)]
    pub etag: String,
    /// How its bytes came together.
    #[serde(default)]
    pub joined: JoinState,
    /// When it was made, in seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// When it last answered a request, in seconds since 1970; 0 where it never has.
    #[serde(default)]
    pub last_used: u64,
    /// How many requests it has answered.
    #[serde(default)]
    pub hits: u64,
    /// Whether the object is exempt from eviction.
    #[serde(default)]
    pub pinned: bool,
    /// Fields that a newer server knows.
    #[serde(flatten)]
    #[cfg_attr(test, schema(ignore))]
    pub more: Map<String, Value>,
}

/// A page of the list of objects, in the order of their ids.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ObjectPage {
    /// The objects.
    pub objects: Vec<ObjectSummary>,
    /// The last id of a full page: the next one is asked for by `after` with it. `null` at the end of the list.
    #[serde(default)]
    pub next: Option<String>,
}

/// The outcome of a purge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Purged {
    /// Objects that were removed; after a soft purge, those that are validated before their next use.
    pub removed: u64,
    /// Their disk space, in bytes; 0 after a soft purge.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_a_newer_server_keeps_its_fields() {
        let line = r#"{"id":"aa","url":"http://h/a","state":"frozen","bad_blocks":2}"#;
        let object: ObjectSummary = serde_json::from_str(line).expect("an object");
        assert_eq!(
            (object.state, object.joined),
            (ObjectState::Unknown, JoinState::Unknown)
        );
        assert_eq!(object.more["bad_blocks"], 2);
        let again = serde_json::to_value(&object).expect("JSON");
        assert_eq!(again["bad_blocks"], 2, "written where it was read");
        assert!(again.get("more").is_none());
    }
}
