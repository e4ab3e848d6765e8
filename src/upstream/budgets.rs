//! The budgets of all upstreams, found by scheme, host and port.
//!
//! Requests to one host share its permits and its rest, whichever URLs they are for. Clients may name any host, so that
//! the table is bounded.

use super::budget::{Budget, BudgetSettings};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use url::Url;

/// With more upstreams than this those that nobody uses are forgotten. A judgement: clients may name any host, and each
/// costs some hundred bytes.
const MAX_KEPT: usize = 1024;

/// The budgets of all upstreams, by scheme, host and port.
#[derive(Debug)]
pub struct Budgets {
    settings: BudgetSettings,
    /// By scheme, host and port. Held while one is found or made; the `state` of each is taken under it where there are
    /// too many.
    kept: Mutex<HashMap<String, Arc<Budget>>>,
}

impl Budgets {
    /// Budgets with these bounds, each for itself.
    pub fn new(settings: BudgetSettings) -> Self {
        Self {
            settings,
            kept: Mutex::default(),
        }
    }

    /// The budget of the upstream that `url` belongs to.
    pub fn of(&self, url: &Url) -> Arc<Budget> {
        let name = url.origin().ascii_serialization();
        let mut kept = lock(&self.kept);
        if kept.len() >= MAX_KEPT {
            // A rest is remembered: forgotten, the upstream would be asked again at once.
            kept.retain(|_, budget| Arc::strong_count(budget) > 1 || budget.status().resting.is_some());
        }
        let make = || Arc::new(Budget::new(self.settings.clone()));
        Arc::clone(kept.entry(name).or_insert_with(make))
    }
}
