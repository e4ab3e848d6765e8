//! The handle by which a reader holds a fill.
//!
//! While a cursor is held its reader is counted, and the fill goes on for it; dropping the cursor is leaving. A cursor
//! waits for the head and for refusals, never for bytes: these are waited for at the object, and found there whoever
//! brought them. It says where the reader is, by which read-ahead is measured, and tells why a reader waits.
//!
//! A cursor outlives its fill: then `is_over` is true, the object stays readable, and a byte that is missing needs
//! another join.

use super::position::ReaderPosition;
use crate::api::WaitReason;
use crate::clock::Instant;
use crate::fill::context::Context;
use crate::fill::phase::{Phase, Refusal, Trouble};
use crate::fill::plan::{NEAR_BYTES, NEAR_SECONDS};
use crate::fill::state::FillState;
use crate::live::Stream;
use crate::policy::NotStored;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::Object;
use crate::upstream::Target;
use std::sync::Arc;
use std::time::Duration;

/// A reader's share in a fill; while any is held the fill goes on.
#[derive(Debug)]
pub struct Cursor {
    pub(in crate::fill) shared: Arc<FillState>,
    pub(in crate::fill) context: Arc<Context>,
    pub(in crate::fill) position: Arc<ReaderPosition>,
    pub(in crate::fill) collapsed: bool,
}

impl Cursor {
    /// Whether the fill was under way already.
    pub fn collapsed(&self) -> bool {
        self.collapsed
    }

    /// The target whose request the fill makes.
    pub fn target(&self) -> Arc<Target> {
        self.shared.targets.current()
    }

    /// The stream that the fill logs, where it is one.
    pub fn stream(&self) -> Option<&Arc<Stream>> {
        self.shared.stream()
    }

    /// Why the reply is not kept, as soon as it has come.
    pub fn not_stored(&self) -> Option<NotStored> {
        self.shared.not_stored()
    }

    /// Whether the fill has ended: a reader that needs bytes of it must join another.
    pub fn is_over(&self) -> bool {
        self.shared.is_over()
    }

    /// The reader has taken `bytes` more and is at `at` now, of a range that ends at `end`.
    pub fn reached(&self, at: ByteOffset, end: ByteOffset, bytes: u64) {
        self.position.reached(at, end, bytes, Instant::now());
    }

    /// Why a reader at `at` waits.
    pub fn why(&self, at: ByteOffset) -> WaitReason {
        self.context.situation(&self.shared).why(at)
    }

    /// How far the fill has come now.
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// The phase after [`Phase::Opening`], as soon as it is reached.
    pub async fn opened(&self) -> Phase {
        let mut news = self.shared.news.subscribe();
        match news.wait_for(|told| !matches!(told.phase, Phase::Opening)).await {
            Ok(told) => told.phase.clone(),
            Err(_) => Phase::Stopping,
        }
    }

    /// The upstream's refusal to give the byte at `at`, as soon as there is one that `counts`.
    pub async fn refused(&self, at: ByteOffset, counts: impl Fn(&Refusal) -> bool) -> Arc<Refusal> {
        let mut news = self.shared.news.subscribe();
        loop {
            let told = news.borrow_and_update().trouble.clone();
            if let Some(refusal) = self
                .shared
                .still_valid(told)
                .and_then(|trouble| trouble.refusal_of(at))
                .filter(|refusal| counts(refusal))
            {
                return refusal;
            }
            if news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the first of these bytes of what a single exchange brings in order is here, or will be in a moment, and the
    /// exchange goes on behind it.
    pub fn comes_soon(&self, object: &Object, wanted: ByteRange) -> bool {
        let (here, start) = (object.presence().available(), wanted.start());
        if here.covers(wanted) {
            return true;
        }
        let end = here.run_at(0).unwrap_or_default();
        if end == 0 && start <= NEAR_BYTES {
            // The next exchange begins at the start, where nothing is here yet.
            return true;
        }
        let is_near = here.run_at(start).is_some() || (start >= end && start - end <= NEAR_BYTES);
        // As in a plan (`coming_to`): near in bytes, or near in time at the present rate.
        let reach = self
            .shared
            .rate()
            .map_or(0, |rate| (rate * NEAR_SECONDS) as u64)
            .max(NEAR_BYTES);
        // A session that serves nobody is ended under the lock under which this reader was counted: one that is found
        // here and promises something goes on (`FillReaders::unless_come_since`).
        let news = self.shared.news.look();
        let status = &news.status;
        if is_near && !status.dead_end {
            return true;
        }
        let mut lines = status.sessions.iter().map(|position| position.summary());
        lines.any(|line| {
            // One far behind what is here has begun at the start again, and brings another representation.
            let goes_on = line.at.saturating_add(NEAR_BYTES) >= end;
            let comes = (is_near && goes_on) || (line.at <= start && start - line.at <= reach);
            comes && line.stop.is_none_or(|stop| start < stop)
        })
    }

    /// Why the fill makes no progress at the moment.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble()
    }

    /// How long until the fill will have brought the whole object, at its present rate.
    pub fn completes_in(&self, object: &Object) -> Option<Duration> {
        let missing = object.length()?.saturating_sub(object.presence().present_bytes());
        self.takes(missing)
    }

    /// How long until a fill that reads on from its last byte reaches `at`.
    pub fn reaches_in(&self, object: &Object, at: ByteOffset) -> Option<Duration> {
        let before = ByteRange::new(0, at.saturating_add(1))?;
        self.takes(before.len() - object.presence().present().covered(before))
    }

    fn takes(&self, bytes: u64) -> Option<Duration> {
        let seconds = bytes as f64 / self.shared.rate()?.max(1.0);
        Duration::try_from_secs_f64(seconds).ok()
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.shared.readers.leave(&self.position);
    }
}
