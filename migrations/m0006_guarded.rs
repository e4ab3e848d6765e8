//! Step 6: whether an object was fetched with credentials, and may be others' only when the upstream says so. Frozen.
//!
//! Trees stay as they are. Version 5 of a record has that word at the end of its representation; in older records it is
//! not there, and their objects are given to all, as they were. Older versions are read, and are written anew when their
//! object is used. The step is here so that a program that does not know version 5 refuses the catalog.

/// The step itself changes nothing.
pub(super) fn run(_db: &sled::Db) -> sled::Result<()> {
    Ok(())
}
