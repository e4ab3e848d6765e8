//! The source of an object: how it is read, in the ways that cost least. Out of memory, from the page cache to a socket,
//! from the disk.
//!
//! A read that may not wait is refused where it would have to: bytes that are absent, that were not compared since the
//! start, or that the kernel does not have in memory. A reader notes the [epoch](crate::store::Presence::epoch), looks, reads, and
//! believes what it read only if the epoch is the same. Bytes that are sent by the kernel cannot be taken back, so they
//! are kept from being punched until they are in the socket: retraction waits for `io`, and has made them absent before.

use super::sendfile::Stretch;
use super::small_bodies::{SMALL_BYTES, SmallBody};
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::error::StoreError;
use crate::store::object::Object;
use bytes::Bytes;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// An object, for who reads it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a>(&'a Object);

impl Object {
    /// The object, for who reads it.
    pub fn source(&self) -> Source<'_> {
        Source(self)
    }
}

impl Source<'_> {
    /// Up to `len` bytes at `at` out of memory; `None` where the disk must be waited for. They are to be
    /// believed only while the [epoch](crate::store::Presence::epoch) lasts.
    ///
    /// # Errors
    /// Where the body cannot be read, or ends before bytes that were recorded as present.
    pub fn read_now(self, at: ByteOffset, len: usize) -> Result<Option<Bytes>, StoreError> {
        self.0.read_now(at, len)
    }

    /// Up to `len` bytes at `at`, waiting for the disk: for a blocking thread. Blocks that were not read since the start
    /// are compared with their checksums first; one that does not match goes, with the epoch.
    ///
    /// # Errors
    /// As [`Source::read_now`].
    pub fn read_blocking(self, at: ByteOffset, len: usize) -> Result<Bytes, StoreError> {
        self.0.read_blocking(at, len)
    }

    /// Sends up to `len` bytes at `at` to a socket that does not wait; how many. `None` where they are to be read
    /// instead: they are absent, unchecked, not in memory, or the file system does not do this.
    ///
    /// # Errors
    /// The error of the socket; [`io::ErrorKind::WouldBlock`] where it takes nothing now.
    pub fn send_now(self, to: impl AsFd, at: ByteOffset, len: usize) -> io::Result<Option<usize>> {
        self.0.send_after(|| (), to, at, len)
    }

    /// The body, where it is small and in memory, or can be read without a wait.
    pub fn small_body(self) -> Option<Arc<SmallBody>> {
        self.0.small_body()
    }

    /// These bytes, where the whole body is cached.
    pub fn small_body_part(self, range: ByteRange) -> Option<Bytes> {
        self.0.small_body_part(range)
    }

    /// The SHA-256 of the complete representation, read from the disk where it is not known yet; `None`
    /// where bytes are missing. For a blocking thread: a film takes seconds.
    ///
    /// # Errors
    /// Where the body cannot be read.
    pub fn compute_digest(self) -> Result<Option<[u8; 32]>, StoreError> {
        self.0.compute_digest()
    }
}

impl Object {
    /// [`Source::read_now`].
    pub(in crate::store) fn read_now(&self, at: ByteOffset, len: usize) -> Result<Option<Bytes>, StoreError> {
        if let Some(mut piece) = self.presence.held(at) {
            piece.truncate(len);
            return Ok(Some(piece));
        }
        if !self.integrity.is_checked(at, len) {
            return Ok(None);
        }
        if let Some(slice) = self.hot.small_body().slice(at, len) {
            return Ok(Some(slice));
        }
        // Noted before the bytes are read: a body that was taken away meanwhile is not cached.
        let epoch = self.presence.epoch();
        // A read error is reported by the blocking read that follows, which may take its time.
        let block = self.durability.body().read_now(at, len).unwrap_or_default();
        if let Some(block) = &block
            && at == 0
            && block.len() as u64 <= SMALL_BYTES
            && self.is_whole()
            && self.length() == Some(block.len() as u64)
        {
            self.hot
                .cache(block, || self.presence.epoch() != epoch || self.is_discarded());
        }
        Ok(block)
    }

    /// [`Source::read_blocking`].
    pub(in crate::store) fn read_blocking(&self, at: ByteOffset, len: usize) -> Result<Bytes, StoreError> {
        if self.integrity.has_unchecked() {
            self.check(at, len);
        }
        self.durability.body().read_blocking(at, len).map_err(|source| {
            // Bytes that do not read are made absent, so that a reader which looks again waits until they are fetched.
            self.drop_unreadable(at, &source);
            self.read_error(at, source)
        })
    }

    fn read_error(&self, at: ByteOffset, source: std::io::Error) -> StoreError {
        StoreError::Read {
            url: self.url.clone(),
            at,
            source,
        }
    }

    /// [`Source::small_body_part`].
    pub(in crate::store) fn small_body_part(&self, range: ByteRange) -> Option<Bytes> {
        let epoch = self.presence.epoch();
        let len = usize::try_from(range.len()).ok()?;
        let bytes = self.hot.small_body().slice(range.start(), len)?;
        self.hot.small_body().touch();
        (bytes.len() == len && self.presence.epoch() == epoch).then_some(bytes)
    }

    /// [`Source::small_body`].
    pub(in crate::store) fn small_body(&self) -> Option<Arc<SmallBody>> {
        let length = self.length().filter(|length| *length <= SMALL_BYTES)?;
        self.hot.small_body().touch();
        self.hot.small_body().get().or_else(|| {
            self.read_now(0, usize::try_from(length).ok()?).ok()??;
            self.hot.small_body().get()
        })
    }

    /// [`Source::send_now`]; `found` is called when the bytes were found to be here, before they are sent.
    pub(in crate::store) fn send_after(
        &self,
        found: impl FnOnce(),
        to: impl AsFd,
        at: ByteOffset,
        len: usize,
    ) -> io::Result<Option<usize>> {
        let Some(call) = self.shared.sending.begin() else {
            return Ok(None);
        };
        if self.presence.has_pass_through() || !self.integrity.is_checked(at, len) {
            return Ok(None);
        }
        // Retraction waits for this lock, and has made the pages absent before.
        // Tried, not waited for: a hole is being punched, and reading waits for that on another thread.
        let Some(_kept) = self.durability.keep_pages_now() else {
            return Ok(None);
        };
        let is_here = ByteRange::with_len(at, len as u64).is_some_and(|range| self.presence.covers(range));
        let file = match self.durability.body().file() {
            Ok(file) if is_here => file,
            _ => return Ok(None),
        };
        let stretch = Stretch {
            url: &self.url,
            file,
            at,
            len,
            length: self.length(),
        };
        self.hot.send(&call, &stretch, found, to)
    }
}
