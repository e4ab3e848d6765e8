//! What of an object passes by without being stored: who says so, who waits for it, who lets go of it.
//!
//! The bytes themselves lie in the lanes of transit.rs.

use super::object::{Object, wake};
use crate::ranges::{ByteOffset, ByteRange};
use bytes::Bytes;
use std::sync::atomic::Ordering;

/// Why what an upstream sends is passed on to readers without being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Passing {
    /// There is no room.
    DiskFull = 1,
    /// The disk refuses for another reason.
    DiskFailed = 2,
}

impl Passing {
    /// What is said of it in `Cache-Status` (RFC 9211 §2.8).
    pub fn detail(self) -> &'static str {
        match self {
            Self::DiskFull => "disk-full",
            Self::DiskFailed => "disk-failed",
        }
    }
}

impl Object {
    /// Why bytes pass by unstored at the moment, where they do.
    pub fn passing(&self) -> Option<Passing> {
        match self.passing.load(Ordering::Acquire) {
            1 => Some(Passing::DiskFull),
            2 => Some(Passing::DiskFailed),
            _ => None,
        }
    }

    /// From now on, who begins to wait is heard by [`Object::awaited`].
    pub fn begin_passing(&self, why: Passing) {
        self.passing.store(why as u8, Ordering::Release);
    }

    /// Hands bytes that the disk would not take to those who wait for them; a session's bytes come in
    /// order, and only the last of them are held.
    pub fn pass_on(&self, session: u64, at: ByteOffset, bytes: Bytes, why: Passing) {
        let Some(range) = ByteRange::with_len(at, bytes.len() as u64) else {
            return;
        };
        let woken = {
            let mut progress = self.progress();
            if progress.transit.offer(session, at, bytes) {
                self.raise_epoch();
            }
            self.has_passing.store(true, Ordering::Release);
            self.begin_passing(why);
            progress.passing(range)
        };
        wake(woken);
    }

    /// Nothing passes by unstored from now on. What did stays until readers have it
    /// ([`Object::let_pass`]).
    pub fn end_passing(&self) {
        self.passing.store(0, Ordering::Release);
    }

    /// Whether bytes are held that have passed by.
    pub fn has_passing(&self) -> bool {
        self.has_passing.load(Ordering::Acquire)
    }

    /// Lets go of what passed by and ends before `at`: those bytes are absent.
    pub fn let_pass(&self, at: ByteOffset) {
        let mut progress = self.progress();
        if progress.transit.let_go_before(at) {
            self.raise_epoch();
        }
        self.has_passing.store(!progress.transit.is_empty(), Ordering::Release);
    }

    /// Returns when somebody waits for a byte of the range.
    pub async fn awaited(&self, range: ByteRange) {
        loop {
            let mut roused = std::pin::pin!(self.passed_on.notified());
            // Listening from here on: a reader that comes after the look is heard.
            roused.as_mut().enable();
            if self.progress().is_awaited(range) {
                return;
            }
            roused.await;
        }
    }

    pub(super) fn rouse_passing(&self) {
        // Another session's success may have ended the passing under one that still has bytes in its hands.
        self.passed_on.notify_waiters();
    }
}
