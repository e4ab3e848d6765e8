//! The retry after a failure: when the next try is made, what a cut means for it, and when a fill gives up.
//!
//! ```text
//!              cut, refused, disagreed                 rest over            progress that can be resumed
//!   trying ───────────────────────────► resting ─────────────────► trying ───────────────────────────► no failures
//!                                          │ the hold limit passed without a byte
//!                                          └──► gave up: the next reader begins anew
//! ```
//!
//! Every failure ends in `failed`: it sets the time of the next try, longer with each failure in a row, and tells the
//! trouble to the readers that wait. What may not be tried again breaks the object instead. A reader that has waited for
//! the hold limit while the upstream fails is broken, whatever the fill does.

use super::super::fetch::session::Outcome;
use super::super::phase::{Refusal, Trouble};
use super::Owner;
use super::disk_pressure::DiskPressure;
use crate::clock::Instant;
use crate::store::{Broken, Object, PassThroughReason, StoreError};
use crate::upstream::{backoff, random};
use std::sync::Arc;
use std::time::Duration;

/// The failures of a fill in a row, and what they mean for its next try.
#[derive(Default)]
pub(super) struct RetryState {
    pub(super) in_a_row: u32,
    pub(super) since: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    /// The last one was a door that is closed to this URL: 401, 403, 404 or 410.
    pub(super) closed: bool,
    /// The hold limit passed without a byte: wait for a reader before trying on.
    pub(super) gave_up: bool,
}

impl Owner {
    /// Changes the fill by the end of a session: it is over, goes on, or failed.
    pub(super) async fn on_outcome(&mut self, outcome: Outcome, progressed: bool) {
        if self.shared.stream().is_some() {
            return self.on_stream_outcome(outcome).await;
        }
        let Some(object) = &self.object else { return };
        let resumes = self.resumes();
        let what = match outcome {
            Outcome::Reached => {
                self.disk_pressure = match (object.presence().pass_through_reason(), self.disk_pressure.take()) {
                    (None, _) => None,
                    // The bytes were forwarded unstored, and would be again: without a reader they are not asked for.
                    (Some(why), None) => Some(DiskPressure::after(
                        None,
                        why == PassThroughReason::DiskFull,
                        Instant::now(),
                    )),
                    (Some(_), known) => known,
                };
                return;
            }
            Outcome::Preempted | Outcome::Unattended => return,
            Outcome::Curtailed if progressed => return,
            Outcome::Curtailed => "the upstream gives next to nothing of what it is asked for".to_owned(),
            Outcome::Ended { length, unverified } => {
                object.presence().end_at(length, unverified);
                return;
            }
            Outcome::Cut(error) => format!("{error}"),
            Outcome::Lost => "a session was lost".to_owned(),
            Outcome::Disagrees => return self.disagreed().await,
            Outcome::Slept => "the machine has slept".to_owned(),
            Outcome::Short => "the body ended before the length it had promised".to_owned(),
            Outcome::Disk(error) => {
                let by_limit = matches!(error, StoreError::NoRoom { .. });
                let error = &error as &dyn std::error::Error;
                tracing::warn!(url = object.url(), error, "the disk takes no more for now");
                self.disk_pressure = Some(DiskPressure::after(self.disk_pressure.take(), by_limit, Instant::now()));
                if !self.shared.readers.are_here() {
                    object.presence().stop_pass_through();
                }
                return;
            }
        };
        tracing::info!(url = object.url(), what, resumes, progressed, "a session was cut short");
        if !(progressed && resumes) {
            self.failed(what, None, None);
        }
    }

    pub(super) fn recovered(&mut self) {
        // Where every cut means beginning again, some bytes are no progress yet.
        if self.resumes() {
            self.failures = RetryState::default();
        }
        self.shared.news.clear_trouble();
    }

    pub(super) fn failed(
        &mut self,
        what: String,
        refusal: Option<(Arc<Refusal>, u64, u64)>,
        at_least: Option<Duration>,
    ) {
        let renewals = self.shared.targets.renewals();
        self.failed_before(renewals, what, refusal, at_least);
    }

    /// [`Owner::failed`], of what was found out when there had been so many renewals of the target.
    pub(super) fn failed_before(
        &mut self,
        renewals: u64,
        what: String,
        refusal: Option<(Arc<Refusal>, u64, u64)>,
        at_least: Option<Duration>,
    ) {
        let now = Instant::now();
        // Sessions that fail together are one failure.
        if self.failures.retry_at.is_none_or(|at| at <= now) {
            self.failures.in_a_row += 1;
        }
        self.failures.closed = false;
        self.failures.since.get_or_insert(now);
        let rest = backoff(self.failures.in_a_row, random()).max(at_least.unwrap_or_default());
        self.failures.retry_at = self.failures.retry_at.max(Some(now + rest));
        tracing::warn!(url = self.shared.key.url(), what, ?rest, "the fill rests");
        if let Some(object) = self.object.as_ref().filter(|object| object.head().is_bare_response()) {
            // The status has been sent to clients, and asking again might bring another.
            self.failures.gave_up = true;
            object.presence().break_for_good(Broken::Upstream(what.as_str().into()));
        }
        let what = what.into();
        self.shared.news.set_trouble(Trouble { what, refusal }, renewals);
    }

    /// When the reader that waits longest will have been held long enough, while the upstream fails.
    pub(super) fn hold_ends(&self) -> Option<Instant> {
        let failing_since = self.failures.since?;
        let waiting_since = self.object.as_ref()?.presence().longest_wait()?;
        Some(failing_since.max(waiting_since) + self.context.settings.hold_limit)
    }

    /// When a fill that nobody waits for will have failed long enough to be left alone.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        let failing_since = self.failures.since.filter(|_| !self.failures.gave_up)?;
        // Bytes that come from another session are a sign of life too.
        let moved = self.shared.last_brought();
        // Without ranges what moves is what was here before.
        let moved = moved.filter(|_| self.resumes());
        let quiet_since = moved.map_or(failing_since, |moved| moved.max(failing_since));
        Some(quiet_since + self.context.settings.hold_limit)
    }

    pub(super) fn on_alarm(&mut self, object: &Object) {
        let now = Instant::now();
        if self.failures.retry_at.is_some_and(|at| at <= now) {
            self.failures.retry_at = None;
        }
        if self.patience_ends().is_some_and(|end| end <= now) {
            self.failures.gave_up = true;
        }
        if self.hold_ends().is_some_and(|end| end <= now)
            && let Some(cutoff) = now.checked_sub(self.context.settings.hold_limit)
        {
            let what = self
                .shared
                .trouble()
                .map_or_else(|| "failed".into(), |trouble| trouble.what);
            tracing::warn!(url = object.url(), %what, "the hold limit is over: breaking the readers that waited so long");
            // Readers whose bytes keep coming have not waited: their sessions are not the ones that fail.
            object.presence().break_waiters(&Broken::Upstream(what), cutoff);
        }
    }
}
