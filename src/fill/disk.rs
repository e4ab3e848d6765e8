//! The steps of a fill that may wait for the disk.
//!
//! They run on blocking threads of the fill's own runtime (runtimes.rs), so that the thread of the fill never waits for
//! a disk. A step that is no longer waited for, since the task that began it was dropped, goes on to its end all the
//! same: nothing is left half written.

use crate::store::{Object, StoreError};
use std::sync::Arc;
use tokio::task::JoinError;

/// Records what is present; what goes wrong is logged too.
pub(super) async fn record(object: Arc<Object>) -> Result<(), StoreError> {
    let recording = Arc::clone(&object);
    let recorded = on_disk(move || recording.sink().commit()).await;
    if let Err(error) = &recorded {
        tracing::error!(url = object.url(), %error, "could not record progress");
    }
    recorded
}

/// Gives back what room was taken for bytes that do not come now.
pub(super) async fn give_back(object: &Arc<Object>) {
    if object.is_whole() {
        return;
    }
    let incomplete = Arc::clone(object);
    if let Err(error) = on_disk(move || incomplete.sink().release_preallocated()).await {
        tracing::warn!(url = object.url(), %error, "could not give back the room that was taken ahead");
    }
}

/// Does what may wait for the disk on a thread that may; goes on there where it is not waited for.
pub(super) async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work)
        .await
        .map_err(JoinError::try_into_panic)
    {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime has ended, and the task that waits here ends with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::runtime::Runtime;

    #[test]
    fn work_for_the_disk_is_no_panic_where_the_program_ends() {
        let runtime = Runtime::new().expect("a runtime");
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _within = handle.enter();
        assert!(on_disk(|| ()).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_panic_of_work_for_the_disk_is_not_swallowed() {
        let panics = std::panic::AssertUnwindSafe(on_disk(|| panic!("on purpose")));
        panics.catch_unwind().await.expect_err("it panics");
    }
}
