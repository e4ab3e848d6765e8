//! The steps of a mirror that may wait for the disk.
//!
//! They run on blocking threads, so that a walk delays no fill, with which it shares its threads. A step that is no longer
//! waited for goes on to its end: nothing is left half written.

use crate::store::StoreError;

/// Does what may wait for the disk on a thread that may.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::NoCatalog),
    }
}
