//! Step 1: the initial schema. Frozen.
//!
//! Trees: `objects` (16-byte object id → `[1] + postcard` record) and `meta` (`schema` → version as
//! four bytes, big-endian). sled makes trees on opening, so the step only opens them.

/// Makes the trees of schema 1.
pub(super) fn run(db: &sled::Db) -> sled::Result<()> {
    db.open_tree("objects")?;
    Ok(())
}
