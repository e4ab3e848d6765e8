//! The URLs that a fill may ask, and where they led.
//!
//! Readers of one object may come with different URLs for it: signed anew, or with a signature that is worth nothing.
//! One is the current target; a second is kept as a spare, to be tried when the current one opens nothing more.
//!
//! ```text
//!                 renew (a reader)                         promote (a session: the spare opens it)
//!  another URL ───────────────────► spare ──────────────────────────────────────────────────────► current
//!     │                               │ forget_spare (a session: it opens nothing either)
//!     └─ trusted, the current not ────┴──────────────────────────────────────────────────────────► current
//! ```
//!
//! Each renewal is counted. What was told of the fill's trouble before a renewal is no longer valid, since an error for
//! the old URL must not be reported for the new one; so a trouble is published with the count under which it was found
//! (snapshot.rs), and no reader has to take it back.
//!
//! Readers and sessions write here, the owner looks: so all is under one lock, held for a comparison or a copy.

use crate::clock::Instant;
use crate::sync::lock;
use crate::upstream::{Target, Trust};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use url::Url;

/// How long the place that redirects led to is asked directly. A judgement: where the place has gone before, one
/// request is in vain (`ask`).
const LOCATION_LIFETIME: Duration = Duration::from_secs(300);

/// The URLs that a fill may ask.
#[derive(Debug)]
pub(in crate::fill) struct FillTargets {
    /// Written by readers that come with another URL and by sessions that learn what a URL is worth; both do so some
    /// times in the life of a fill, so a lock costs nothing. Held for a copy; no other lock is taken under it.
    held: Mutex<HeldTargets>,
}

#[derive(Debug)]
struct HeldTargets {
    /// The target to ask for.
    current: Arc<Target>,
    /// Another URL for the same object, which the latest reader came with. It is tried when the current one opens
    /// nothing more.
    spare: Option<Arc<Target>>,
    /// How many readers have come with another target.
    renewals: u64,
    /// One has come since the owner last looked.
    renewed: bool,
    /// Where redirects led, and when.
    location: Option<(Url, Instant)>,
}

impl FillTargets {
    pub(in crate::fill) fn new(target: Arc<Target>) -> Self {
        Self {
            held: Mutex::new(HeldTargets {
                current: target,
                spare: None,
                renewals: 0,
                renewed: false,
                location: None,
            }),
        }
    }

    fn held(&self) -> MutexGuard<'_, HeldTargets> {
        lock(&self.held)
    }

    /// The target to ask for.
    pub(in crate::fill) fn current(&self) -> Arc<Target> {
        Arc::clone(&self.held().current)
    }

    /// A reader came with `target`. One that may go everywhere takes the place of one that may not, and is never
    /// replaced by one. Whether the owner has a renewal to look at.
    pub(in crate::fill) fn renew(&self, target: &Arc<Target>) -> bool {
        let mut held = self.held();
        let current = &held.current;
        // The same URL with the same trust brings nothing new: a failure of one is that of the other.
        let same = current.url == target.url && current.trust == target.trust;
        match (current.trust, target.trust) {
            // One client's credentials are not used for others.
            _ if same || !current.same_credentials(target) => return held.renewed,
            (Trust::Configured, Trust::Public) => return held.renewed,
            (Trust::Public, Trust::Configured) => held.current = Arc::clone(target),
            _ => held.spare = Some(Arc::clone(target)),
        }
        held.renewals += 1;
        held.renewed = true;
        true
    }

    /// How many renewals there have been: what was found out before one says nothing of the URLs after it.
    pub(in crate::fill) fn renewals(&self) -> u64 {
        self.held().renewals
    }

    /// Whether a reader has come with another target since this was last asked, or [`Self::only`].
    pub(in crate::fill) fn take_renewed(&self) -> bool {
        std::mem::take(&mut self.held().renewed)
    }

    /// The count of renewals, where `asked` is the only URL there is; `None` where another has come while it was asked,
    /// or is to be tried still: a reader that brought it is not to be told of this one.
    pub(in crate::fill) fn only(&self, asked: &Arc<Target>) -> Option<u64> {
        let mut held = self.held();
        let renewed = std::mem::take(&mut held.renewed);
        let has_another = !Arc::ptr_eq(&held.current, asked) || held.spare.is_some();
        (!renewed && !has_another).then_some(held.renewals)
    }

    /// The URL that is worth a try where `asked` opens nothing: what has taken its place, or was not tried yet.
    pub(in crate::fill) fn another_than(&self, asked: &Arc<Target>) -> Option<Arc<Target>> {
        let held = self.held();
        match Arc::ptr_eq(&held.current, asked) {
            true => held.spare.clone(),
            false => Some(Arc::clone(&held.current)),
        }
    }

    /// Forgets the spare URL: the upstream refuses it too.
    pub(in crate::fill) fn forget_spare(&self, tried: &Arc<Target>) {
        self.held().spare.take_if(|spare| Arc::ptr_eq(spare, tried));
    }

    /// The other URL opens what this one does not any more.
    pub(in crate::fill) fn promote(&self, target: &Arc<Target>) {
        let mut held = self.held();
        held.current = Arc::clone(target);
        held.spare.take_if(|spare| Arc::ptr_eq(spare, target));
        held.location = None;
    }

    /// Where redirects led a short while ago.
    pub(in crate::fill) fn location(&self) -> Option<Url> {
        let held = self.held();
        let (url, since) = held.location.as_ref()?;
        (since.elapsed() < LOCATION_LIFETIME).then(|| url.clone())
    }

    /// Remembers where redirects led.
    pub(in crate::fill) fn remember_location(&self, url: Url) {
        let mut held = self.held();
        let known = held.location.as_ref();
        if known.is_none_or(|(known, since)| *known != url || since.elapsed() >= LOCATION_LIFETIME) {
            held.location = Some((url, Instant::now()));
        }
    }

    pub(in crate::fill) fn forget_location(&self) {
        self.held().location = None;
    }
}
