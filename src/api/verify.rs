//! A verification, told as it goes: a line of JSON for each event.
//!
//! The last line is `verified`. A report without it was cut, and says nothing of what it did not come to.

use serde::{Deserialize, Serialize};

/// One line of a verification's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VerifyEvent {
    /// How far it is.
    Progress(VerifyProgress),
    /// A run of bytes that is not what was stored.
    Bad(BadBlock),
    /// The end.
    Verified(VerifySummary),
}

/// How far a verification is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct VerifyProgress {
    /// Objects that are done.
    pub objects_done: u64,
    /// Objects in all.
    pub objects: u64,
    /// Bytes that are done.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// A run of bytes that is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct BadBlock {
    /// The object's id.
    pub id: String,
    /// The object's canonical URL.
    pub url: String,
    /// The number of the block of 1 MiB.
    pub block: u64,
    /// The damaged run, half-open: its first byte, counted from the object's first.
    pub start: u64,
    /// The end of that run.
    pub end: u64,
    /// The mismatch, in words.
    pub what: String,
}

/// The outcome of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct VerifySummary {
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Damaged runs.
    pub bad_blocks: u64,
    /// Damaged runs that were made absent, to be fetched again.
    pub repaired: u64,
    /// Bytes that had no checksum before; they have one now where repairs were asked for.
    pub unchecked_bytes: u64,
}

/// A line as it is read: of the fields one is there, and none in an event that a newer server knows.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct VerifyLine {
    /// How far it is.
    pub progress: Option<VerifyProgress>,
    /// A run of bytes that is not what was stored.
    pub bad: Option<BadBlock>,
    /// The end.
    pub verified: Option<VerifySummary>,
}

impl From<VerifyEvent> for VerifyLine {
    fn from(event: VerifyEvent) -> Self {
        let mut line = Self::default();
        match event {
            VerifyEvent::Progress(progress) => line.progress = Some(progress),
            VerifyEvent::Bad(bad) => line.bad = Some(bad),
            VerifyEvent::Verified(verified) => line.verified = Some(verified),
        }
        line
    }
}
