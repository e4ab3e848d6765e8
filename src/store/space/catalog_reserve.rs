//! The reserve within the quota of what is no object's: the catalog's file, directories, the small files beside them.
//!
//! It grows with the catalog, before the catalog does, and is never more than half of the quota: the catalog is written
//! anew (catalog/compaction.rs), or objects are evicted, before it would be. A quota of less than
//! [`LEAST_QUOTA_WITH_RESERVE`] holds for objects alone, since an empty catalog and its directories would be most of it.

use super::quota::{PAGE_BYTES, Shortage, Space};
use crate::ranges::ByteCount;
use std::sync::atomic::Ordering;

/// A quota of less has no reserve, in bytes. A judgement: sled's file begins with half a MiB, there are two of them while
/// it is written anew, and the directories take another.
const LEAST_QUOTA_WITH_RESERVE: u64 = 16 << 20;

/// The part of the reserve that is no catalog's: the 256 directories of bodies and what else the data directory holds, as
/// many pages again, for manifests while they replace another. A judgement on the safe side.
const OTHER_BYTES: u64 = 2 * 256 * PAGE_BYTES;

/// The share of the quota that the reserve may come to. A judgement: beside objects of one page the catalog of them
/// takes as much as they do.
const LARGEST_SHARE: u64 = 2;

/// The reserve for a catalog of so many bytes: a part of its size more, so that there is room for a new file beside the
/// old one when it must be written anew.
pub(in crate::store) fn reserve_for(catalog_bytes: ByteCount) -> ByteCount {
    OTHER_BYTES + catalog_bytes.saturating_add(catalog_bytes / 3 * 2)
}

/// The reserve for a catalog of so many bytes that may have `limit`. One that is larger already is not called smaller.
fn wanted(catalog_bytes: ByteCount, limit: ByteCount) -> ByteCount {
    reserve_for(catalog_bytes).min(limit.max(catalog_bytes) + OTHER_BYTES)
}

impl Space {
    /// The most that the catalog may take on the disk, in bytes; `None` where no quota bounds it.
    pub(in crate::store) fn catalog_limit(&self) -> Option<ByteCount> {
        let quota = self.quota.filter(|quota| *quota >= LEAST_QUOTA_WITH_RESERVE)?;
        Some(quota / LARGEST_SHARE - OTHER_BYTES)
    }

    /// Bytes of the quota that objects cannot take.
    pub(in crate::store) fn reserve(&self) -> ByteCount {
        self.reserve.load(Ordering::Acquire)
    }

    /// Makes the reserve as large as a catalog of so many bytes needs it. For one thread at a time.
    ///
    /// # Errors
    /// Where objects have taken what it would grow by; it stays as it was.
    pub(in crate::store) fn reserve_for_catalog(&self, catalog_bytes: ByteCount) -> Result<(), Shortage> {
        let Some(limit) = self.catalog_limit() else {
            return Ok(());
        };
        let wanted = wanted(catalog_bytes, limit);
        let held = self.reserve();
        if wanted > held {
            self.take_of_quota(wanted - held)?;
            self.reserve.store(wanted, Ordering::Release);
        } else {
            self.reserve.store(wanted, Ordering::Release);
            self.release(held - wanted);
        }
        Ok(())
    }

    /// [`Space::reserve_for_catalog`], where the catalog has that size already or must grow so that an object can go: what
    /// is taken beyond the quota then is evicted by who looks after the store.
    pub(in crate::store) fn reserve_over_quota(&self, catalog_bytes: ByteCount) {
        if self.reserve_for_catalog(catalog_bytes).is_ok() {
            return;
        }
        let Some(limit) = self.catalog_limit() else { return };
        let more = wanted(catalog_bytes, limit).saturating_sub(self.reserve());
        self.taken.fetch_add(more, Ordering::AcqRel);
        self.reserve.fetch_add(more, Ordering::AcqRel);
    }
}
