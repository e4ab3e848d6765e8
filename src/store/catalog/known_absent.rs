//! Telling at once that nothing is stored under a URL, and making the first object there at once.
//!
//! A catalog that is read from the disk makes whoever asks wait, so it is asked on a thread that may. But most catalogs lie in
//! memory, and who asks for a film that is not here waits for two threads to change places before anything is asked of the
//! upstream. So it is measured: after some look-ups in a row that were quick, the next is made where it is wanted; the
//! first that was slow ends that.

use crate::clock::Instant;
use crate::key::ObjectKey;
use crate::store::object::Object;
use crate::store::object::representation::Representation;
use crate::store::store::Store;
use std::sync::Arc;

impl Store {
    /// Whether it is certain, without waiting for the disk, that nothing is stored under that URL. Where it is not,
    /// [`Store::load`] tells.
    pub fn known_absent(&self, key: &ObjectKey) -> bool {
        let begun = Instant::now();
        if !self.catalog_latency.are_quick(begun) || self.is_restoring() {
            return false;
        }
        // In this order: an object is open before it has a record.
        let is_absent = self.shared.catalog.has_none_now(key.id()) && self.open.get(key.id()).is_none();
        self.catalog_latency.took(begun, Instant::now());
        is_absent
    }

    /// [`Store::create`] where it waits for neither the disk nor another's turn, because nothing is stored under that
    /// URL, and nothing is to be closed for it. `None`, with nothing done, where that is not certain.
    pub fn create_now(&self, key: &ObjectKey, representation: &Representation) -> Option<Arc<Object>> {
        let changing = self.open.changing_now()?;
        // In this turn nothing else comes to be there.
        if !self.known_absent(key) {
            return None;
        }
        self.try_recount()?.touch(key.id(), 0);
        let object = self.generation(key, representation.clone(), None);
        changing.hold_now(&object).then_some(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{key, open, representation};
    use tempfile::TempDir;

    fn know_to_be_quick(store: &Store) {
        store.catalog_latency.pretend_quick(Instant::now());
    }

    #[test]
    fn an_absent_object_is_created_at_once_unless_that_could_block() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let make = |number| store.create_now(&key(number), &representation(1000));
        let make_quickly = |number| {
            know_to_be_quick(&store);
            make(number)
        };
        assert!(make(1).is_none(), "how long looking takes is not known yet");
        let made = make_quickly(1).expect("nothing is there");
        assert!(Arc::ptr_eq(&made, &store.resident(&key(1)).expect("found")));
        assert!(make_quickly(1).is_none(), "it is there");
        let turn = store.open.changing();
        assert!(make_quickly(2).is_none(), "another changes what is open");
        drop(turn);
        let recount = store.recount();
        assert!(make_quickly(2).is_none(), "another counts");
        drop(recount);
        assert!(store.resident(&key(2)).is_none());
        make_quickly(2).expect("nobody is in the way");
    }

    #[test]
    fn an_empty_object_created_at_once_is_whole() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        know_to_be_quick(&store);
        let object = store.create_now(&key(1), &representation(0)).expect("made");
        assert!(object.is_whole());
    }

    #[test]
    fn no_object_is_created_at_once_where_another_must_be_closed() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let mut made = 0;
        while made < 5000 {
            know_to_be_quick(&store);
            if store.create_now(&key(made), &representation(10)).is_none() {
                break;
            }
            made += 1;
        }
        assert!((256..5000).contains(&made), "{made}");
        // The way that may wait closes some, and there is room again.
        store.create(&key(made), representation(10)).expect("made");
        know_to_be_quick(&store);
        store.create_now(&key(made + 1), &representation(10)).expect("made");
    }
}
