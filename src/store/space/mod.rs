//! The space that bodies take: bounded by a quota and by a floor of free space, reserved before it is written to.
//!
//! `quota` counts what is taken and says whether more may be. `reservation` and `preallocate` take room for one object's
//! pages; `catalog_reserve` keeps a part of the quota for what is no object's; `evict` makes room by removing objects. After a crash the count is unknown: `crash_recount` counts what is on the
//! disk while the server runs, and `usage_recount` keeps changes and count apart meanwhile.

pub(super) mod catalog_reserve;
pub(super) mod crash_recount;
pub(super) mod evict;
pub(super) mod preallocate;
pub(super) mod quota;
pub(super) mod reservation;
pub(super) mod usage_recount;
