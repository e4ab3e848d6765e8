//! Locks that nobody poisons.
//!
//! Sections under our locks are short and do not panic; should one, the value behind its lock is still whole, and one failed
//! request must not end all others. So a poisoned lock is taken like any other, here and nowhere else. Refused: `parking_lot`,
//! which has no poison; it would be a second kind of lock beside that of the standard library, to save these lines.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError, TryLockResult,
};

/// Takes the lock, poisoned or not.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the lock for reading, poisoned or not.
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the lock for writing, poisoned or not.
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the lock up until the condition is told, and takes it again, poisoned or not.
pub(crate) fn wait<'a, T>(condition: &Condvar, held: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(held).unwrap_or_else(PoisonError::into_inner)
}

/// The guard of a lock that is free, poisoned or not; `None` where taking it would block.
pub(crate) fn unless_held<T>(tried: TryLockResult<T>) -> Option<T> {
    match tried {
        Ok(held) => Some(held),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_lock_that_a_panic_has_poisoned_is_taken_like_any_other() {
        let (mutex, rw) = (Arc::new(Mutex::new(1)), Arc::new(RwLock::new(2)));
        let held = (Arc::clone(&mutex), Arc::clone(&rw));
        let panics = std::thread::spawn(move || {
            let _guards = (held.0.lock(), held.1.write());
            panic!("under both locks");
        });
        assert!(panics.join().is_err() && mutex.is_poisoned() && rw.is_poisoned());
        *lock(&mutex) += 10;
        *write(&rw) += 10;
        assert_eq!((*lock(&mutex), *read(&rw)), (11, 12));
        assert_eq!(unless_held(mutex.try_lock()).map(|value| *value), Some(11));
        let held = lock(&mutex);
        assert!(unless_held(mutex.try_lock()).is_none());
        drop(held);
    }
}
