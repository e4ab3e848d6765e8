//! Mirrors: how each stands, and what a walk of it did.
//!
//! Times are in seconds since 1970, sizes in bytes. A walk that is under way is told by the same report as one that is over;
//! its `ended` is missing then.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All mirrors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct MirrorSummaries {
    /// The mirrors.
    pub mirrors: Vec<MirrorSummary>,
}

/// A mirror.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct MirrorSummary {
    /// The name of the mirror: that of its upstream and its path, `NAME/PATH/`.
    pub name: String,
    /// The URL that it mirrors.
    pub url: String,
    /// When it is walked: `access`, or an interval.
    pub when: String,
    /// The format of its listings, as soon as it is known.
    pub format: Option<String>,
    /// The walk that is under way.
    pub walking: Option<WalkReport>,
    /// The last walk that is over.
    pub last: Option<WalkReport>,
}

/// The deeds of a walk, or those that a dry run foresees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct WalkReport {
    /// The number of the walk.
    pub walk: u64,
    /// A dry run: it fetched, removed and wrote down nothing.
    pub dry_run: bool,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: Option<u64>,
    /// Whether it came to the end of the tree, with a complete listing of each collection and every file here.
    pub complete: bool,
    /// Why it stopped early, in words.
    pub stopped: Option<String>,
    /// Collections that were listed completely.
    pub dirs: u64,
    /// Files in them.
    pub files: u64,
    /// Files of which the listing, or the upstream when it was asked (304), says that they are the ones that are here.
    pub unchanged: u64,
    /// Files that were fetched; in a dry run, that would be fetched or asked about.
    pub fetched: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Files that the mirror leaves out, by its filters.
    pub left_out: u64,
    /// Requests for listings.
    pub listings: u64,
    /// Failures, by reason.
    pub failed: BTreeMap<String, WalkFailures>,
    /// Members that were missing in complete listings, and are served all the same.
    pub suspect: u64,
    /// Members that were removed.
    pub removed: u64,
    /// Members whose removal waits for a person, or for further listings.
    pub held: u64,
}

/// WalkFailures of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(default)]
pub struct WalkFailures {
    /// How many there were.
    pub count: u64,
    /// The path of the first.
    pub first: String,
}

/// One line of a walk that is told as it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WalkEvent {
    /// How far it is.
    Progress(WalkReport),
    /// The end.
    Walked(WalkReport),
}

/// A line as it is read: of the fields one is there, and none in an event that a newer server knows.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct WalkLine {
    /// How far it is.
    pub progress: Option<WalkReport>,
    /// The end.
    pub walked: Option<WalkReport>,
}

impl WalkReport {
    /// How many failures there were.
    pub fn failures(&self) -> u64 {
        self.failed.values().map(|failures| failures.count).sum()
    }

    /// Notes that something at the path failed.
    pub fn fail(&mut self, reason: &str, path: &str) {
        let failures = self.failed.entry(reason.to_owned()).or_default();
        if failures.count == 0 {
            path.clone_into(&mut failures.first);
        }
        failures.count += 1;
    }
}
