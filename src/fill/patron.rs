//! The share of a mirror in a fill: it reads nothing, and wants the object whole.
//!
//! A fill that has patrons and no readers asks the upstream after everything that anybody waits for (`Class::Mirror`), and
//! fetches to the end whatever the policy for fills without readers says. A patron keeps no fill that can bring nothing
//! more: it learns of the end, and looks at what has come.

use super::phase::{Phase, Trouble};
use super::state::FillState;
use crate::policy::NotStored;
use crate::store::Object;
use std::sync::Arc;
use std::time::Duration;

/// The wish of a mirror that a fill bring its object whole; dropping it takes the wish back.
#[derive(Debug)]
pub struct Patron {
    shared: Arc<FillState>,
}

impl Patron {
    /// The patron that was counted by the fill.
    pub(super) fn of(shared: Arc<FillState>) -> Self {
        Self { shared }
    }

    /// The phase after [`Phase::Opening`], as soon as it is reached.
    pub async fn opened(&self) -> Phase {
        let mut news = self.shared.news.subscribe();
        match news.wait_for(|told| !matches!(told.phase, Phase::Opening)).await {
            Ok(told) => told.phase.clone(),
            Err(_) => Phase::Stopping,
        }
    }

    /// Returns when the fill brings nothing more, or has made no progress for so long: why, then.
    pub async fn ended(&self, patience: Duration) -> Option<Trouble> {
        loop {
            let before = self.shared.last_brought();
            if tokio::time::timeout(patience, self.shared.ended()).await.is_ok() {
                return None;
            }
            if self.shared.last_brought() == before
                && let Some(trouble) = self.shared.trouble()
            {
                return Some(trouble);
            }
        }
    }

    /// The object that the fill brings, once its head is known.
    pub fn object(&self) -> Option<Arc<Object>> {
        self.shared.object()
    }

    /// Why the reply is not kept, as soon as it has come.
    pub fn not_stored(&self) -> Option<NotStored> {
        self.shared.not_stored()
    }

    /// Why the fill makes no progress at the moment.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble()
    }
}

impl Drop for Patron {
    fn drop(&mut self) {
        self.shared.readers.forsake();
    }
}
