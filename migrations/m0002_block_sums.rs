//! Step 2: checksums of blocks. Frozen.
//!
//! Adds the tree `sums`: 16-byte object id, generation and group number, eight bytes each, big-endian →
//! `[1] + postcard` of a group. Records stay as they are: version 2 of a record adds the digest, and
//! version 1 is read as one without it, so that a million of them need not be written anew at a start.
//! Objects without sums are read unchecked, and get them as `verify` comes by.

/// Makes the tree of schema 2.
pub(super) fn run(db: &sled::Db) -> sled::Result<()> {
    db.open_tree("sums")?;
    Ok(())
}
