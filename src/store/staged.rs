//! Staged generations: one that takes the place of another when all of it is here, and not before.
//!
//! ```text
//! create_staged ─► written and synced, and recorded nowhere ─┬─ publish ─► found; the one before goes
//!                  the one before is found                   └─ abandon, or a crash ─► its body goes
//! ```
//!
//! An ordinary generation takes the place of the one before with its head: a cache would rather serve the new one from its first
//! byte. What a mirror holds must not be lost to a line that breaks in the middle of a change. Publishing records the whole in
//! one step, and from then on it is like any other; a crash before that step leaves a body that no record speaks of, which the
//! next start removes.

use super::StoreError;
use super::object::Object;
use super::object::representation::Representation;
use super::store::Store;
use crate::key::ObjectKey;
use std::sync::Arc;

impl Store {
    /// A new generation of a URL whose generation before stays, and is found, until this one is whole and published: for what
    /// must not be lost to a fetch that breaks off.
    pub fn create_staged(&self, key: &ObjectKey, representation: Representation, before: &Object) -> Arc<Object> {
        let object = self.generation(key, representation, Some(before));
        object.durability.set_staged(true);
        object.set_pinned(before.is_pinned());
        object
    }

    /// Has a staged generation, all of which is here, take the place of the one before: for a blocking thread. Readers of
    /// that one finish with it.
    ///
    /// # Errors
    /// Where the disk or the catalog refuses; the one before stays then.
    pub fn publish(&self, object: &Arc<Object>) -> Result<(), StoreError> {
        let before = self.load_id(object.id())?;
        if before
            .as_ref()
            .is_some_and(|before| before.generation >= object.generation)
        {
            // Another has taken its place meanwhile, which is newer.
            self.abandon(object);
            return Ok(());
        }
        self.with_room(|| object.publish())?;
        self.open.changing().hold(object);
        if let Some(before) = before {
            self.discard(&before);
            self.remove_files(before.id(), before.generation);
        }
        Ok(())
    }

    /// Gives a staged generation up: its body goes when its last reader leaves.
    pub fn abandon(&self, object: &Object) {
        self.discard(object);
        self.remove_files(object.id(), object.generation);
    }
}

#[cfg(test)]
mod tests {
    use crate::store::Store;
    use crate::store::tests::{close, files, film, key, open, representation};
    use std::sync::Arc;
    use tempfile::TempDir;

    /// An old film, and a new one of 20,000 bytes in its place, of which so many are here.
    fn staged(store: &Store, present: usize) -> Arc<super::Object> {
        let old = film(store, 1, 10_000, 10_000);
        old.set_pinned(true);
        old.record_pin().expect("recorded");
        let new = store.create_staged(&key(1), representation(20_000), &old);
        store.write(&new, 0, &[vec![9; present]]).expect("room");
        new.commit().expect("synced");
        new
    }

    fn found(store: &Store) -> (Option<u64>, Vec<u8>) {
        let object = store.load(&key(1)).expect("readable").expect("an object");
        assert!(object.is_whole() && object.is_pinned());
        (object.length(), object.read_blocking(5000, 3).expect("bytes").to_vec())
    }

    const OLD: (Option<u64>, [u8; 3]) = (Some(10_000), [7; 3]);
    const NEW: (Option<u64>, [u8; 3]) = (Some(20_000), [9; 3]);

    fn is(found: (Option<u64>, Vec<u8>), wanted: (Option<u64>, [u8; 3])) -> bool {
        (found.0, found.1.as_slice()) == (wanted.0, &wanted.1)
    }

    #[test]
    fn the_old_generation_is_found_until_the_new_one_is_published() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let new = staged(&store, 20_000);
        assert!(is(found(&store), OLD));
        store.publish(&new).expect("recorded");
        assert!(is(found(&store), NEW));
        drop(new);
        assert_eq!(files(dir.path()).len(), 2, "a body and a manifest");
        let used = store.used_bytes();
        close(store, true);
        let store = open(dir.path());
        assert!(is(found(&store), NEW));
        assert_eq!(store.used_bytes(), used);
        let mut bad = 0;
        let mut count = |event: crate::api::VerifyEvent| {
            bad += usize::from(matches!(event, crate::api::VerifyEvent::Bad(_)));
            true
        };
        store.verify(false, None, &mut count).expect("readable");
        assert_eq!(bad, 0);
    }

    #[test]
    fn a_crash_or_an_abandoned_fetch_leaves_the_old_generation() {
        for crashes in [true, false] {
            let dir = TempDir::new().expect("a directory");
            let store = open(dir.path());
            let new = staged(&store, 12_000);
            if !crashes {
                store.abandon(&new);
            }
            drop(new);
            close(store, !crashes);
            let store = open(dir.path());
            store.look_after();
            assert!(is(found(&store), OLD), "{crashes}");
            assert_eq!(files(dir.path()).len(), 2, "{crashes}");
            let one = store.used_bytes();
            assert!((8192..40_000).contains(&one), "{crashes}: {one}");
        }
    }

    #[test]
    fn a_crash_behind_the_record_leaves_the_new_generation() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let new = staged(&store, 20_000);
        new.publish().expect("recorded");
        drop(new);
        close(store, false);
        let store = open(dir.path());
        store.look_after();
        assert!(is(found(&store), NEW));
        assert_eq!(files(dir.path()).len(), 2);
    }
}
