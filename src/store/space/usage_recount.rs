//! The count of what is stored, while it lasts (crash_recount.rs).
//!
//! Objects are counted in the order of their ids. One that changes, comes or goes before it was counted is remembered
//! with the space that it took then, so that each is counted once, as it was at the start.

use super::quota::Stated;
use crate::key::ObjectId;
use std::collections::HashMap;

/// The count, while it lasts.
#[derive(Debug, Default)]
pub(in crate::store) struct UsageRecount {
    /// All up to and with this one are counted.
    pub(in crate::store) up_to: Option<ObjectId>,
    /// The space at the start, in bytes, of objects that were changed before they were counted.
    pub(in crate::store) touched: HashMap<ObjectId, u64>,
    pub(in crate::store) counted: u64,
    /// The count is right, or the ledger was: so the next start may believe it.
    pub(in crate::store) is_exact: bool,
    /// The recount is still due.
    pub(in crate::store) due: bool,
}

impl UsageRecount {
    pub(in crate::store) fn new(stated: Stated) -> Self {
        Self {
            is_exact: matches!(stated, Stated::Exactly(_)),
            due: !matches!(stated, Stated::Exactly(_)),
            ..Self::default()
        }
    }

    /// The count was made while bytes were written, so it is not exact.
    pub(in crate::store) fn counted_nearly(&mut self) {
        *self = Self::default();
    }

    /// An object is about to change, come or go, which takes so many bytes now.
    pub(in crate::store) fn touch(&mut self, id: ObjectId, bytes: u64) {
        if self.due && self.up_to.is_none_or(|counted| counted < id) {
            self.touched.entry(id).or_insert(bytes);
        }
    }
}
