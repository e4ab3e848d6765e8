//! A body in staging: its file, where it lies, and what is left to do with it when it is dropped.
//!
//! A body may be dropped on a thread that must not wait: where a client leaves. So what may wait for a file system that
//! hangs is then done on a thread of its own: removing the body and its note, and closing it on another mount. On a thread
//! that may wait, `release` does the same before it returns.

use super::error::DirectoryError;
use super::trash::{NoteFile, spawn_removal};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A body in staging. Dropping it removes it, unless it is placed.
#[derive(Debug)]
pub(super) struct StagedBody {
    pub(super) file: Arc<File>,
    /// The directory that it lies in, and its name there.
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: String,
    /// The note that tells where it lies, if that is not `.millpond`.
    pub(super) note: Option<NoteFile>,
    /// Set once the body has its place, and for an upload: then a drop removes nothing.
    pub(super) placed: bool,
    /// Dropped after `file`.
    remaining: RemainingWork,
}

/// The work that is left with a body in staging when it is dropped.
#[derive(Debug)]
struct RemainingWork {
    file: Option<Arc<File>>,
    /// The file is on another file system than `.millpond`, which may not answer.
    is_apart: bool,
    /// Whether it is dropped on a thread that may wait.
    may_wait: bool,
    body: Option<NoteFile>,
    note: Option<NoteFile>,
}

impl StagedBody {
    pub(super) fn new(file: File, dir: Arc<OwnedFd>, name: String, note: Option<NoteFile>, placed: bool) -> Self {
        let file = Arc::new(file);
        let remaining = RemainingWork {
            file: Some(Arc::clone(&file)),
            is_apart: note.is_some(),
            may_wait: false,
            body: None,
            note: None,
        };
        Self {
            file,
            dir,
            name,
            note,
            placed,
            remaining,
        }
    }

    /// Lets go of it on this thread, which may wait: when this returns, nothing of it is left.
    pub(super) fn release(mut self) {
        self.remaining.may_wait = true;
    }
}

impl Drop for StagedBody {
    fn drop(&mut self) {
        if !self.placed {
            self.remaining.body = Some((Arc::clone(&self.dir), std::mem::take(&mut self.name)));
        }
        self.remaining.note = self.note.take();
    }
}

impl Drop for RemainingWork {
    fn drop(&mut self) {
        let (file, body, note) = (self.file.take(), self.body.take(), self.note.take());
        if body.is_none() && !self.is_apart {
            return;
        }
        let finish = move || {
            let gone = |(dir, name): &NoteFile| {
                let removed = unlinkat(dir, name, AtFlags::empty());
                matches!(removed, Ok(()) | Err(Errno::NOENT))
            };
            // The note goes last: as long as the body may be there, a start must find it.
            if body.as_ref().is_none_or(gone)
                && let Some(note) = &note
            {
                gone(note);
            }
            drop(file);
        };
        if self.may_wait {
            return finish();
        }
        spawn_removal(finish);
    }
}

pub(super) fn create_staged_file(
    dir: Arc<OwnedFd>,
    name: String,
    note: Option<NoteFile>,
) -> Result<StagedBody, DirectoryError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The rights of any new file, which the umask cuts.
    let file =
        openat(&dir, &name, flags, Mode::from_raw_mode(0o666)).map_err(DirectoryError::from_errno("make a file"))?;
    Ok(StagedBody::new(File::from(file), dir, name, note, false))
}
