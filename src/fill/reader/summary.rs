//! How fills look from outside: a line each, and why their readers wait.
//!
//! A summary is put together from several locks, one after the other, each held for a copy: its figures are each true,
//! and may be some moments apart. Nothing here changes a fill or waits for one, so the API may ask as often as it
//! likes.

use super::wait_reason::Situation;
use crate::api::{FillPhase, FillSummary, WaiterSummary};
use crate::clock::Instant;
use crate::fill::context::Context;
use crate::fill::state::FillState;

impl Context {
    pub(in crate::fill) fn summary(&self, shared: &FillState) -> FillSummary {
        let object = shared.object();
        let situation = self.situation(shared);
        let waiting = object
            .as_ref()
            .map(|object| object.presence().waiting())
            .unwrap_or_default();
        let milliseconds = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        FillSummary {
            id: shared.key.id().to_string(),
            url: shared.key.url().to_owned(),
            phase: if object.is_some() {
                FillPhase::Ready
            } else {
                FillPhase::Opening
            },
            complete_length: object.as_ref().and_then(|object| object.length()),
            present_bytes: object.as_ref().map_or(0, |object| object.presence().present_bytes()),
            readers: shared.readers.count(),
            rate: shared.rate().map(|rate| rate as u64),
            waiting: waiting
                .iter()
                .map(|waiting| WaiterSummary {
                    at: waiting.at,
                    for_ms: milliseconds(waiting.since),
                    why: situation.why(waiting.at),
                })
                .collect(),
            sessions: situation.sessions,
            trouble: shared.trouble().map(|trouble| trouble.what.to_string()),
        }
    }

    pub(in crate::fill) fn situation(&self, shared: &FillState) -> Situation {
        let budget_status = self.client.budget_of(&shared.targets.current().url).status();
        let news = shared.news.look();
        let status = &news.status;
        let now = Instant::now();
        Situation {
            sessions: status.sessions.iter().map(|position| position.summary()).collect(),
            disk: status.disk,
            resting: status.retry_at.and_then(|at| at.checked_duration_since(now)),
            upstream_resting: budget_status.resting,
            ranges: status.ranges,
        }
    }
}
