//! Step 4: field values byte for byte, and how bytes were joined. Frozen.
//!
//! Trees stay as they are. Version 4 of a record has field values in which each byte is the character of the same
//! number, where versions 1 to 3 had texts in UTF-8 (and had left out other values); it adds whether the upstream
//! gives parts, and how the bytes came together. Older versions are read, and are written anew when their object is
//! used. The step is here so that a program that does not know version 4 refuses the catalog.

/// Nothing is to be done at once.
pub(super) fn run(_db: &sled::Db) -> sled::Result<()> {
    Ok(())
}
