//! Why a reader waits, in a word and in figures. Pure.
//!
//! The reasons are looked for in this order: the disk; a session that is near and slow; a session that is far, of an
//! upstream without ranges; a rest, of the fill or of its upstream; and else the budget. A session that still queues is
//! no reason: its turn is.

use crate::api::{SessionStage, SessionSummary, WaitReason};
use crate::ranges::ByteOffset;
use std::time::Duration;

/// All that the reason depends on.
#[derive(Debug)]
pub(in crate::fill) struct Situation {
    pub(in crate::fill) sessions: Vec<SessionSummary>,
    pub(in crate::fill) disk: bool,
    /// How long the object's own rest after a failure still lasts.
    pub(in crate::fill) resting: Option<Duration>,
    /// How long its upstream's does.
    pub(in crate::fill) upstream_resting: Option<Duration>,
    pub(in crate::fill) ranges: bool,
}

/// A reader this far ahead of a session waits for one of its own, or for the whole line to pass. A judgement, twice
/// what counts as near in a plan.
const FAR_BYTES: u64 = 1 << 20;

impl Situation {
    /// Why a reader at `at` waits.
    pub(in crate::fill) fn why(&self, at: ByteOffset) -> WaitReason {
        if self.disk {
            return WaitReason::Disk;
        }
        let covering = self
            .sessions
            .iter()
            .filter(|session| session.at <= at && session.stop.is_none_or(|stop| at < stop))
            .max_by_key(|session| (session.at, session.stage != SessionStage::Queued))
            .filter(|session| session.stage != SessionStage::Queued);
        match covering {
            Some(session) if at - session.at <= FAR_BYTES => WaitReason::UpstreamSlow,
            Some(session) if !self.ranges => WaitReason::NoRanges { at: session.at, of: at },
            _ => match self.resting.max(self.upstream_resting) {
                Some(rest) => WaitReason::Backoff {
                    until_ms: u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
                },
                None => WaitReason::Budget,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, stop: Option<u64>, stage: SessionStage) -> SessionSummary {
        SessionSummary { at, stop, stage }
    }

    fn told(at: u64, sessions: &[SessionSummary], change: impl FnOnce(&mut Situation)) -> WaitReason {
        let mut situation = Situation {
            sessions: sessions.to_vec(),
            disk: false,
            resting: None,
            upstream_resting: None,
            ranges: true,
        };
        change(&mut situation);
        situation.why(at)
    }

    #[test]
    fn each_wait_has_its_true_reason() {
        let moving = [line(100, Some(900), SessionStage::Moving)];
        let queued = [line(100, Some(900), SessionStage::Queued)];
        let whole = [line(5, None, SessionStage::Moving)];
        assert_eq!(told(500, &moving, |_| {}), WaitReason::UpstreamSlow);
        assert_eq!(told(500, &queued, |_| {}), WaitReason::Budget);
        assert_eq!(told(950, &moving, |_| {}), WaitReason::Budget);
        let far = 5 << 20;
        assert_eq!(
            told(far, &whole, |situation| situation.ranges = false),
            WaitReason::NoRanges { at: 5, of: far }
        );
        let rest = Some(Duration::from_secs(3));
        let backoff = WaitReason::Backoff { until_ms: 3000 };
        assert_eq!(told(500, &[], |situation| situation.resting = rest), backoff);
        assert_eq!(
            told(500, &queued, |situation| situation.upstream_resting = rest),
            backoff
        );
        assert_eq!(
            told(500, &moving, |situation| situation.resting = rest),
            WaitReason::UpstreamSlow
        );
        assert_eq!(told(500, &moving, |situation| situation.disk = true), WaitReason::Disk);
        for reason in [WaitReason::UpstreamSlow, WaitReason::Budget, backoff, WaitReason::Disk] {
            assert!(WaitReason::TOKENS.contains(&reason.token()));
        }
    }
}
