//! Step 5: the tree of streams, by id. Frozen.
//!
//! Programs of schema 4 made this tree when they first opened the catalog, and no step said so. It is made here where it is
//! not there, and left as it is where it is.

pub(super) fn run(db: &sled::Db) -> sled::Result<()> {
    db.open_tree("streams").map(drop)
}
