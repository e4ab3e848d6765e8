//! The JSON of the API under `/-/api/v1`: one type for each body, written by the server and read by whoever asks it.
//!
//! The server (`admin`), the commands (`cli`) and programs that embed millpond use these types and no others, and the
//! schemas of `/-/openapi.json` are derived from them. Sizes are in bytes, times in seconds since 1970 UTC, ranges of
//! bytes half-open pairs `[start, end)`.
//!
//! Fields may be added and none changes its meaning. So a reader of an answer passes over fields that it does not know, takes a
//! word that it does not know for `unknown`, and has a default for every field but those that name the thing.

mod fills;
mod objects;
mod problem;
mod stats;
mod streams;
mod verify;

pub use fills::{FillPhase, FillSummaries, FillSummary, SessionStage, SessionSummary, WaitReason, WaiterSummary};
pub use objects::{JoinState, ObjectPage, ObjectState, ObjectSummary, Purged};
pub use problem::ProblemDetails;
pub use stats::Stats;
pub use streams::{StreamLinks, StreamState, StreamSummaries, StreamSummary};
pub use verify::{BadBlock, VerifyEvent, VerifyLine, VerifyProgress, VerifySummary};
