//! Step 3: replies of any status, their age, and several under one URL. Frozen.
//!
//! Trees stay as they are. Version 3 of a record adds to its representation a status, an age and what selects
//! it; versions 1 and 2 are read as 200, of age 0, selected by nothing, and are written anew when their object
//! is used. The step is here so that a program that does not know version 3 refuses the catalog.

/// Nothing is to be done at once.
pub(super) fn run(_db: &sled::Db) -> sled::Result<()> {
    Ok(())
}
