//! How long a client is waited for that has begun a request: its head has a time, its body a rate.
//!
//! ```text
//! between two requests   the connection's keep-alive, and the table of connections (connection_table)
//! in a head              HEAD_WAIT from its first byte to its last
//! in a body              UPLOAD_SILENCE for each piece; in all BODY_WAIT, and a second more for LEAST_RATE bytes that came
//! ```
//!
//! Only time counts in which the server would have read on: where it takes no more for now, the client is not to blame. A
//! client that sends a byte every second within a silence of any length would hold its connection for years; hence the
//! rate.

use crate::clock::Instant;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep_until};

/// The longest from the first byte of a request's head to its last. A judgement: a head is one packet, or a few.
const HEAD_WAIT: Duration = Duration::from_secs(30);

/// The longest silence within a body. A judgement: a phone that changes its network takes some seconds.
const UPLOAD_SILENCE: Duration = Duration::from_secs(30);

/// The waiting that a body may cost in all, beside that which its bytes pay for. A judgement.
const BODY_WAIT: Duration = Duration::from_secs(60);

/// The bytes that pay for a second of waiting. A judgement, as Apache's `mod_reqtimeout` has it: the slowest modem is
/// faster.
const LEAST_RATE: u64 = 500;

/// The part of a request that a client is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Between two requests, or where the framework refuses what comes.
    Between,
    /// In the head of the request with that number.
    Head(u64),
    /// In its body.
    Body(u64),
}

/// The time that a client has taken for the part of a request that it is in.
#[derive(Debug)]
pub(super) struct ClientPatience {
    stage: Stage,
    /// When the stage was seen first.
    begun: Instant,
    /// Bytes of the body that came.
    bytes: u64,
    /// The waiting for them so far.
    waited: Duration,
    /// Since when the server waits for the next piece.
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Default for ClientPatience {
    fn default() -> Self {
        Self {
            stage: Stage::Between,
            begun: Instant::now(),
            bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        }
    }
}

impl ClientPatience {
    /// Notes that so many bytes have come, which have brought the client to that stage.
    pub(super) fn came(&mut self, bytes: usize, stage: Stage) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes as u64;
        self.enter(stage);
    }

    fn enter(&mut self, stage: Stage) {
        if self.stage != stage {
            self.stage = stage;
            self.begun = Instant::now();
            (self.bytes, self.waited, self.waiting_since) = (0, Duration::ZERO, None);
        }
        if stage == Stage::Between {
            self.timer = None;
        }
    }

    /// Ready when the client, of which nothing has come, has taken too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = match self.stage {
            Stage::Between => return Poll::Pending,
            Stage::Head(_) => self.begun + HEAD_WAIT,
            Stage::Body(_) => {
                let since = *self.waiting_since.get_or_insert_with(Instant::now);
                let paid = BODY_WAIT + Duration::from_secs(self.bytes / LEAST_RATE);
                since + paid.saturating_sub(self.waited).min(UPLOAD_SILENCE)
            }
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// The time after which a client is given up that sends `bytes` every `every`, in the stage.
    async fn given_up_after(stage: Stage, bytes: usize, every: Duration) -> Option<Duration> {
        let mut patience = ClientPatience::default();
        let begun = Instant::now();
        patience.came(1, stage);
        while begun.elapsed() < Duration::from_secs(3600) {
            match tokio::time::timeout(every, poll_fn(|cx| patience.poll_over(cx))).await {
                Ok(()) => return Some(begun.elapsed()),
                Err(_) => patience.came(bytes, stage),
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_however_it_comes() {
        let second = Duration::from_secs(1);
        assert_eq!(given_up_after(Stage::Head(1), 1, second).await, Some(HEAD_WAIT));
        assert_eq!(given_up_after(Stage::Between, 1, second).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_but_neither_silent_nor_endless() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(given_up_after(Stage::Body(1), 1, minute).await, Some(UPLOAD_SILENCE));
        let dripping = given_up_after(Stage::Body(1), 1, second).await.expect("given up");
        assert!(
            dripping >= BODY_WAIT && dripping < BODY_WAIT + 2 * second,
            "{dripping:?}"
        );
        assert_eq!(given_up_after(Stage::Body(1), 600, second).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_request_begins_anew() {
        let mut patience = ClientPatience::default();
        patience.came(1, Stage::Head(1));
        tokio::time::advance(HEAD_WAIT - Duration::from_secs(1)).await;
        patience.came(1, Stage::Head(2));
        let begun = Instant::now();
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(begun.elapsed(), HEAD_WAIT);
    }
}
