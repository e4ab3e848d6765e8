//! The hot read of an object: what answers without a wait for the disk, and without a copy where that can be.
//!
//! Two shortcuts are owned here, each with the file that says how it works: the cached body of a small object
//! (small_bodies.rs), and the residency probe that lets bytes of a larger one go from the page cache to a socket
//! (residency.rs, sendfile.rs). Neither decides whether bytes are present or checked: that is settled by the caller, who
//! keeps the pages from being punched meanwhile. There is no lock: a swap for the body, atomics for the probe.

use super::residency::ResidencyProbe;
use super::sendfile::{SendCall, Stretch};
use super::small_bodies::{SmallBody, SmallBodySlot};
use crossbeam_utils::CachePadded;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

#[derive(Debug)]
pub(in crate::store) struct HotRead {
    /// The whole body, where it is small; gone as soon as the epoch rises, so the presence has the slot too.
    small_body: Arc<SmallBodySlot>,
    /// Whether its bytes have to be probed for in the page cache before they are sent. Its atomics are written by each
    /// call: no other field shares its cache line.
    residency: CachePadded<ResidencyProbe>,
}

impl HotRead {
    pub(in crate::store) fn new(small_body: Arc<SmallBodySlot>) -> Self {
        Self {
            small_body,
            residency: CachePadded::default(),
        }
    }

    /// The place of the cached body.
    pub(in crate::store) fn small_body(&self) -> &Arc<SmallBodySlot> {
        &self.small_body
    }

    /// Caches a body that was just read, unless `is_outdated` says then that bytes of it may have gone since it was.
    pub(in crate::store) fn cache(&self, body: &[u8], is_outdated: impl FnOnce() -> bool) {
        self.small_body.cache(SmallBody::new(body));
        // Asked last: whoever makes the body outdated after this finds it cached, and takes it out.
        if is_outdated() {
            self.small_body.invalidate();
        }
    }

    /// Sends bytes that are present and stay so; see [`SendCall::send`].
    ///
    /// # Errors
    /// As there.
    pub(in crate::store) fn send(
        &self,
        call: &SendCall<'_>,
        stretch: &Stretch<'_>,
        found: impl FnOnce(),
        to: impl AsFd,
    ) -> io::Result<Option<usize>> {
        call.send(&self.residency, stretch, found, to)
    }

    #[cfg(test)]
    pub(in crate::store) fn residency(&self) -> &ResidencyProbe {
        &self.residency
    }
}
