//! Step 7: the tree index of mirrors. Frozen.
//!
//! Adds the tree `index`: headers of mirrored collections, their members, and how mirrors stand, each
//! `[1] + postcard` under a key that begins with the kind of the value. What was there stays as it is.

/// Makes the tree of schema 7.
pub(super) fn run(db: &sled::Db) -> sled::Result<()> {
    db.open_tree("index").map(drop)
}
