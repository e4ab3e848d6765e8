//! Pass-through: bytes that the disk does not take and that readers get all the same. Why that is so, when a session may
//! forward more, and when a forwarded byte is released.
//!
//! The bytes themselves lie in the tails of pass_through_buffer.rs.

use crate::ranges::{ByteOffset, ByteRange};
use crate::store::object::presence::{Presence, wake};
use bytes::Bytes;
use std::sync::atomic::Ordering;

/// Why an upstream's bytes are forwarded to readers without being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PassThroughReason {
    /// There is no room.
    DiskFull = 1,
    /// The disk refuses for another reason.
    DiskFailed = 2,
}

impl PassThroughReason {
    /// The `detail` of `Cache-Status` (RFC 9211 §2.8).
    pub fn detail(self) -> &'static str {
        match self {
            Self::DiskFull => "disk-full",
            Self::DiskFailed => "disk-failed",
        }
    }
}

impl Presence {
    /// Why bytes are forwarded unstored at the moment, where they are.
    pub fn pass_through_reason(&self) -> Option<PassThroughReason> {
        match self.pass_through.load(Ordering::Acquire) {
            1 => Some(PassThroughReason::DiskFull),
            2 => Some(PassThroughReason::DiskFailed),
            _ => None,
        }
    }

    /// Notes why bytes are forwarded unstored from now on.
    pub fn begin_pass_through(&self, why: PassThroughReason) {
        self.pass_through.store(why as u8, Ordering::Release);
    }

    /// Gives readers bytes that the disk would not take; a session's bytes come in
    /// order, and only the last of them are held.
    pub fn forward_unstored(&self, session: u64, at: ByteOffset, bytes: Bytes, why: PassThroughReason) {
        let Some(range) = ByteRange::with_len(at, bytes.len() as u64) else {
            return;
        };
        let woken = {
            let mut progress = self.progress();
            if progress.pass_through.offer(session, at, bytes) {
                // Other bytes have left for these: a reader that has looked must look again.
                self.raise_epoch();
            }
            self.has_pass_through.store(true, Ordering::Release);
            self.begin_pass_through(why);
            progress.take_waiters_in(range)
        };
        wake(woken);
    }

    /// Bytes are stored again from now on. Those that were forwarded stay in memory until readers have them
    /// ([`Presence::release_before`]).
    pub fn stop_pass_through(&self) {
        self.pass_through.store(0, Ordering::Release);
    }

    /// Whether the pass-through buffer holds bytes.
    pub fn has_pass_through(&self) -> bool {
        self.has_pass_through.load(Ordering::Acquire)
    }

    /// Releases the forwarded bytes that end before `at`: they are absent again.
    pub fn release_before(&self, at: ByteOffset) {
        let mut progress = self.progress();
        if progress.pass_through.let_go_before(at) {
            self.raise_epoch();
        }
        self.has_pass_through
            .store(!progress.pass_through.is_empty(), Ordering::Release);
    }

    /// Returns when a reader waits for a byte of the range.
    pub async fn awaited(&self, range: ByteRange) {
        loop {
            let mut roused = std::pin::pin!(self.pass_through_demand.notified());
            // Listening from here on: a reader that comes after the look is heard.
            roused.as_mut().enable();
            if self.progress().is_awaited(range) {
                return;
            }
            roused.await;
        }
    }

    pub(in crate::store) fn wake_pass_through(&self) {
        // Another session's success may have ended the pass-through under a session that still holds bytes.
        self.pass_through_demand.notify_waiters();
    }
}
