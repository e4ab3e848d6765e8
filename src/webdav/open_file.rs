//! Open files of the tree, which may be let go of on any thread.
//!
//! close(2) asks a network file system whether it has everything (FUSE's flush, NFS's write-back), so closing a file of a
//! mount that hangs waits for it, however it was opened. A body ends on the thread that serves its connection, and that
//! thread must not wait. So the last hold on a file of a mount is given to a thread for the disk, with a permit of its mount
//! as for any other work there. A file of the directory's own file system is closed where it is let go of.

use crate::directory::{Found, Stamp};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// The threads for work on one mount that may wait for its file system.
#[derive(Debug, Clone)]
pub(super) struct MountThreads {
    pub(super) threads: tokio::runtime::Handle,
    /// The permits of the mount; `None` for the directory's own file system.
    pub(super) permits: Option<Arc<Semaphore>>,
}

impl MountThreads {
    /// Runs work that waits for the disk, with a permit of its mount.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let (permits, threads) = (self.permits.clone(), self.threads.clone());
        self.threads.spawn(async move {
            let permit = match permits {
                Some(permits) => Some(permits.acquire_owned().await.ok()?),
                None => None,
            };
            let done = threads.spawn_blocking(move || {
                let _permit = permit;
                work()
            });
            done.await.ok().flatten()
        })
    }

    /// Whether the file system is another than the directory's own, and may hang by itself.
    pub(super) fn is_apart(&self) -> bool {
        self.permits.is_some()
    }
}

/// An open file, and the threads of the mount that it is on.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: Arc<File>,
    /// Dropped after `file`, so it is the last hold that this value has.
    last: LastHold,
}

/// The hold on a file that is let go of on a thread of its mount.
#[derive(Debug)]
struct LastHold {
    file: Option<Arc<File>>,
    threads: MountThreads,
}

impl OpenFile {
    /// A file that is open on the mount of these threads.
    pub(super) fn new(file: File, threads: MountThreads) -> Self {
        let file = Arc::new(file);
        let last = LastHold {
            file: Some(Arc::clone(&file)),
            threads,
        };
        Self { file, last }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Another hold, for work on a thread of the mount: it must not outlive that work.
    pub(super) fn share(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(super) fn threads(&self) -> &MountThreads {
        &self.last.threads
    }

    /// Reads on a thread of the mount.
    pub(super) fn spawn_reading<E: From<io::Error> + Send + 'static, T: Send + 'static>(
        &self,
        read: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T, E>> {
        let file = self.share();
        let reading = self.threads().spawn(move || Some(read(&file)));
        self.threads().threads.spawn(async move {
            let lost = || io::Error::other("a reading thread was lost");
            Ok(reading.await.ok().flatten().ok_or_else(lost)??)
        })
    }
}

/// An entry of the tree, open.
#[derive(Debug)]
pub(super) enum OpenEntry {
    File(OpenFile, Stamp),
    /// A collection is closed anywhere: no file system is asked.
    Collection(OwnedFd, Stamp),
}

impl OpenEntry {
    /// The entry that was found on the mount of these threads.
    pub(super) fn new(found: Found, threads: MountThreads) -> Self {
        match found {
            Found::File(file, stamp) => Self::File(OpenFile::new(file, threads), stamp),
            Found::Collection(handle, stamp) => Self::Collection(handle, stamp),
        }
    }
}

impl Drop for LastHold {
    fn drop(&mut self) {
        if let Some(file) = self.file.take().filter(|_| self.threads.is_apart()) {
            self.threads.spawn(move || {
                drop(file);
                Some(())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_of_a_mount_is_closed_on_a_thread_with_its_permit() {
        let permits = Arc::new(Semaphore::new(1));
        let threads = MountThreads {
            threads: tokio::runtime::Handle::current(),
            permits: Some(Arc::clone(&permits)),
        };
        let file = OpenFile::new(tempfile::tempfile().expect("a file"), threads);
        let seen = Arc::downgrade(&file.share());
        let held = Arc::clone(&permits).acquire_owned().await.expect("free");
        drop(file);
        tokio::task::yield_now().await;
        // All permits are with those who wait for the mount: so is this file.
        assert!(seen.upgrade().is_some());
        drop(held);
        while seen.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
