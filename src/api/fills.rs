//! Fills under way: what each brings, by which requests, and why its readers wait.
//!
//! Offsets and lengths are in bytes, times in milliseconds. A field that a newer server adds is passed over by an older
//! program, and one that an older server lacks has its default. A phase that this program does not know is `Unknown`.

use serde::{Deserialize, Serialize};

/// All fills under way.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct FillSummaries {
    /// The fills.
    pub fills: Vec<FillSummary>,
}

/// A fill.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct FillSummary {
    /// The id of its object.
    pub id: String,
    /// The canonical URL.
    pub url: String,
    /// Whether the representation is known.
    pub phase: FillPhase,
    /// The complete length in bytes, where known.
    #[serde(default)]
    pub complete_length: Option<u64>,
    /// How many bytes are here.
    #[serde(default)]
    pub present_bytes: u64,
    /// Readers that hold the fill.
    #[serde(default)]
    pub readers: usize,
    /// Bytes per second, where known.
    #[serde(default)]
    pub rate: Option<u64>,
    /// The requests to the upstream.
    #[serde(default)]
    pub sessions: Vec<SessionSummary>,
    /// The readers that wait, and why.
    #[serde(default)]
    pub waiting: Vec<WaiterSummary>,
    /// The last failure, while it lasts.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// How far a fill is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum FillPhase {
    /// The upstream has not described the representation yet.
    Opening,
    /// The representation is known.
    Ready,
    /// A phase that a newer server knows.
    #[serde(other)]
    Unknown,
}

/// One exchange of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SessionSummary {
    /// The next byte that it will bring.
    pub at: u64,
    /// Where it ends; `null` where only the upstream knows.
    pub stop: Option<u64>,
    /// How far it is.
    pub stage: SessionStage,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SessionStage {
    /// The session waits for its turn in the upstream's budget.
    Queued,
    /// The upstream has been asked.
    Asked,
    /// Bytes come.
    Moving,
}

/// A position that readers wait at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct WaiterSummary {
    /// The first absent byte.
    pub at: u64,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// The reason.
    #[serde(flatten)]
    pub why: WaitReason,
}

/// The reason for which a reader has not got its byte yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum WaitReason {
    /// The upstream has been asked and its bytes are on the way.
    UpstreamSlow,
    /// No connection is free: of the object, or of its upstream's budget.
    Budget,
    /// The upstream has failed or asked for a rest, and will be asked again.
    Backoff {
        /// In so many milliseconds.
        until_ms: u64,
    },
    /// The upstream has no ranges: it is read from its start.
    NoRanges {
        /// The byte that it has come to.
        at: u64,
        /// The byte that is waited for.
        of: u64,
    },
    /// The disk refuses.
    Disk,
}

impl WaitReason {
    /// All the words, for whoever counts them.
    pub const TOKENS: [&'static str; 5] = ["upstream-slow", "budget", "backoff", "no-ranges", "disk"];

    /// The reason in one word, as in `Cache-Status` and the metrics.
    pub fn token(self) -> &'static str {
        match self {
            Self::UpstreamSlow => "upstream-slow",
            Self::Budget => "budget",
            Self::Backoff { .. } => "backoff",
            Self::NoRanges { .. } => "no-ranges",
            Self::Disk => "disk",
        }
    }
}
