//! Resumable uploads: a body that comes in several requests, over days and restarts if need be.
//!
//! ```text
//! DIR/.millpond/upload-<id>        the bytes so far
//! DIR/.millpond/upload-<id>.json   the record: path, preconditions, and how many of the bytes are on the disk
//! ```
//!
//! ```text
//! begin ──► append ──► record ──► … ──► finish ──► placing ──► placed: complete, bytes removed
//!             write      sync, then       hash       the record names   │
//!                        the record                  the body's inode   └─► not placed: as before finish
//! ```
//!
//! The offset in the record is told to the client and never runs ahead of a sync: acknowledged bytes are there after a
//! crash, and bytes beyond them are cut off. Bytes are given up only when the file has its place: `placing` is
//! recorded before that, `complete` after it. A start that finds `placing` compares the inode: if the body has left
//! the upload's name, it was placed.
//!
//! One request at a time holds the lease. A later one takes over, since its client knows that the earlier has failed:
//! it counts `takeovers` up, the holder sees that, records what has come and lets go. A complete upload stays known,
//! without its bytes, for as long as it could have been resumed.

use super::error::DirectoryError;
use super::path::TreePath;
use super::random_name::random_name;
use super::staging::{IncomingBody, ReceivedBody, UPLOAD_PREFIX, sync_directory};
use super::tree::stamp;
use super::tree_writer::TreeWriter;
use crate::clock::{SharedClock, unix_seconds};
use crate::header::{Claim, Preconditions};
use crate::sync::lock;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, watch};

/// The most uploads that may be under way: a judgement.
const MAX_UPLOADS: usize = 10_000;

/// The most complete uploads that are remembered; then the oldest are forgotten. A judgement.
const MAX_COMPLETE: usize = 10_000;

/// The most uploads whose bodies stay open between requests: a judgement, well below usual limits of descriptors.
const MAX_OPEN: usize = 128;

/// The bytes that may have come since the record was last written: a judgement. After a crash of the server as many
/// are sent again.
const RECORD_EVERY: u64 = 64 << 20;

/// The record of an upload, as it is stored. Its fields' names are the format.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadRecord {
    /// The path of the file, as in a URL.
    pub path: String,
    /// The preconditions under which it is placed.
    pub conditions: Preconditions,
    /// The digests that the client claims for the whole file.
    pub claims: Vec<Claim>,
    /// The time that the client gives the file, in seconds since 1970.
    pub modified: Option<i64>,
    /// The length of the whole file, once the client has told it.
    pub length: Option<u64>,
    /// The bytes that have come and are on the disk.
    pub offset: u64,
    /// The file was placed, or refused for good.
    pub complete: bool,
    /// The inode of the body that is about to be placed. An exchange leaves the file that was replaced under the
    /// upload's name, and a start must not take that for the upload.
    #[serde(default)]
    pub placing: Option<u64>,
    /// The time of the last request, in seconds since 1970.
    pub touched: u64,
}

/// One upload.
#[derive(Debug)]
pub struct Upload {
    /// The id. A caller also needs the right to write to the path.
    pub id: String,
    /// The path of the file.
    pub path: TreePath,
    /// Counts the requests that have taken over.
    takeovers: watch::Sender<u64>,
    /// Set once the record is complete. Relaxed suffices: it only selects whom to count and to forget, and the record
    /// decides, under its lock.
    complete: AtomicBool,
    /// Held by the request that has the lease, while its body comes and while the disk takes it. tokio's, since it is
    /// held over awaits and waited for without a thread; a request that takes over lets the holder know first.
    /// `Uploads::known` is taken under it, for moments, and never the other way round.
    state: Arc<tokio::sync::Mutex<State>>,
}

#[derive(Debug)]
struct State {
    record: UploadRecord,
    /// The body and the hash of it; `None` once complete, and between requests where many uploads are open.
    body: Option<IncomingBody>,
    cancelled: bool,
}

/// The exclusive right to change an upload, until another request takes over.
#[derive(Debug)]
pub struct UploadLease {
    state: OwnedMutexGuard<State>,
    takeover: watch::Receiver<u64>,
    id: String,
}

/// The uploads of one tree.
#[derive(Debug)]
pub struct Uploads {
    writer: Arc<TreeWriter>,
    /// All uploads, by their ids. Held for a look, an insertion or a removal; neither the disk nor an upload's state is
    /// waited for under it.
    known: Mutex<HashMap<String, Arc<Upload>>>,
    lifetime: Duration,
    clock: SharedClock,
}

impl Uploads {
    /// The uploads that lie in `.millpond`. One whose record is damaged is removed.
    ///
    /// # Errors
    /// Where the place cannot be read.
    pub fn open(writer: Arc<TreeWriter>, lifetime: Duration, clock: SharedClock) -> Result<Self, DirectoryError> {
        let uploads = Self {
            writer,
            known: Mutex::default(),
            lifetime,
            clock,
        };
        let failed = DirectoryError::from_errno("read the uploads in .millpond");
        let mut names = Vec::new();
        for entry in Dir::read_from(uploads.writer.staging.dir()?).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_prefix(UPLOAD_PREFIX).map(str::to_owned));
        }
        for name in &names {
            match name.strip_suffix(".json") {
                Some(id) => match uploads.load(id) {
                    Ok(upload) => {
                        uploads.lock().insert(id.to_owned(), Arc::new(upload));
                    }
                    Err(LoadError::Damaged(why)) => {
                        tracing::warn!(id, why, "an upload cannot be resumed, and is removed");
                        uploads.erase(id);
                    }
                    // Acknowledged bytes are not thrown away because they cannot be read just now.
                    Err(LoadError::Unavailable(error)) => {
                        tracing::error!(id, %error, "an upload cannot be read; a later start tries it again");
                    }
                },
                // The body of an upload whose record was never written.
                None if !names.contains(&format!("{name}.json")) => uploads.erase(name),
                None => {}
            }
        }
        Ok(uploads)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        lock(&self.known)
    }

    /// The time for which an upload that nobody touches can be resumed.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The upload with that id.
    pub fn get(&self, id: &str) -> Option<Arc<Upload>> {
        self.lock().get(id).cloned()
    }

    /// The lease of an upload, taken over from the request that holds it; `None` where the upload was cancelled or
    /// has expired.
    pub async fn lease(&self, upload: &Upload) -> Option<UploadLease> {
        let lease = upload.take_over().await?;
        (!self.has_expired(lease.record())).then_some(lease)
    }

    fn has_expired(&self, record: &UploadRecord) -> bool {
        record.touched < unix_seconds(self.clock.now()).saturating_sub(self.lifetime.as_secs())
    }

    /// Begins an upload. May wait for the disk.
    ///
    /// # Errors
    /// Where there is no room, or there are too many.
    pub fn begin(&self, mut record: UploadRecord) -> Result<Arc<Upload>, DirectoryError> {
        let complete = |upload: &Arc<Upload>| upload.complete.load(Ordering::Relaxed);
        if self.lock().values().filter(|upload| !complete(upload)).count() >= MAX_UPLOADS {
            return Err(DirectoryError::TooManyUploads);
        }
        let id = random_name();
        let staging = &self.writer.staging;
        let body = staging.create_upload_body(&format!("{UPLOAD_PREFIX}{id}"), record.length)?;
        record.touched = unix_seconds(self.clock.now());
        let written = self.write(&id, &record);
        let begun = written.and_then(|()| Upload::new(id.clone(), record, Some(body)));
        let upload = Arc::new(begun.inspect_err(|_| self.erase(&id))?);
        self.lock().insert(id, Arc::clone(&upload));
        Ok(upload)
    }

    /// Appends bytes. May wait for the disk.
    ///
    /// # Errors
    /// Where the disk does not take them.
    pub fn append(&self, lease: &mut UploadLease, bytes: &[u8]) -> Result<(), DirectoryError> {
        let state = &mut *lease.state;
        self.open_body(&lease.id, state)?;
        let Some(body) = &mut state.body else {
            return Err(DirectoryError::Absent);
        };
        body.write(&self.writer.staging, bytes)?;
        match body.len() - state.record.offset >= RECORD_EVERY {
            true => self.record(lease),
            false => Ok(()),
        }
    }

    /// Syncs the body, then writes the record: from then on its offset can be told.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn record(&self, lease: &mut UploadLease) -> Result<(), DirectoryError> {
        let state = &mut *lease.state;
        if let Some(body) = &state.body {
            body.sync()?;
            state.record.offset = body.len();
        }
        state.record.touched = unix_seconds(self.clock.now());
        self.write(&lease.id, &state.record)
    }

    /// Truncates the body to that offset.
    ///
    /// # Errors
    /// Where the disk does not do it.
    pub fn truncate_to(&self, lease: &mut UploadLease, offset: u64) -> Result<(), DirectoryError> {
        let state = &mut *lease.state;
        state.body = None;
        state.record.offset = offset;
        self.open_body(&lease.id, state)?;
        self.record(lease)
    }

    /// Ends a request: where many uploads are open, the body is closed until the next.
    pub fn close_if_many(&self, lease: &mut UploadLease) {
        if self.lock().len() > MAX_OPEN {
            lease.state.body = None;
        }
    }

    /// Makes a received body of a complete upload, to be placed. Until [`Uploads::mark_placed`] the upload is as it
    /// was.
    ///
    /// # Errors
    /// Where the disk does not take or give it.
    pub fn finish(&self, lease: &mut UploadLease) -> Result<(ReceivedBody, UploadRecord), DirectoryError> {
        self.record(lease)?;
        let state = &mut *lease.state;
        self.open_body(&lease.id, state)?;
        let body = state.body.as_ref().ok_or(DirectoryError::Absent)?;
        let path = TreePath::parse(&state.record.path).map_err(|_| DirectoryError::BadName)?;
        let staging = &self.writer.staging;
        let received = staging.finish_upload(body, &path.parent(), state.record.modified)?;
        state.record.placing = Some(stamp(body.file())?.ino);
        self.write(&lease.id, &state.record)?;
        Ok((received, lease.state.record.clone()))
    }

    /// The body was placed, or refused for good: what lies under the upload's name is removed, and the record is
    /// complete.
    ///
    /// # Errors
    /// Where the disk does not take that.
    pub fn mark_placed(&self, lease: &mut UploadLease) -> Result<(), DirectoryError> {
        let state = &mut *lease.state;
        state.record.offset = state.body.as_ref().map_or(state.record.offset, IncomingBody::len);
        state.record.complete = true;
        state.record.placing = None;
        state.record.touched = unix_seconds(self.clock.now());
        if let Some(body) = state.body.take() {
            body.discard_on_drop().release();
        }
        if let Some(upload) = self.get(&lease.id) {
            upload.complete.store(true, Ordering::Relaxed);
        }
        self.forget_oldest();
        self.write(&lease.id, &lease.state.record)
    }

    /// The body was not placed, for a reason that can be mended.
    ///
    /// # Errors
    /// Where the disk does not take that.
    pub fn mark_not_placed(&self, lease: &mut UploadLease) -> Result<(), DirectoryError> {
        lease.state.record.placing = None;
        self.write(&lease.id, &lease.state.record)
    }

    fn open_body(&self, id: &str, state: &mut State) -> Result<(), DirectoryError> {
        if state.body.is_none() && !state.record.complete {
            let name = format!("{UPLOAD_PREFIX}{id}");
            state.body = Some(self.writer.staging.open_upload_body(&name, state.record.offset)?);
        }
        Ok(())
    }

    /// Forgets the oldest complete upload where there are more than are remembered.
    fn forget_oldest(&self) {
        let complete = |upload: &&Arc<Upload>| upload.complete.load(Ordering::Relaxed);
        let all: Vec<Arc<Upload>> = self.lock().values().filter(complete).cloned().collect();
        let oldest = |upload: &&Arc<Upload>| upload.state.try_lock().map_or(u64::MAX, |state| state.record.touched);
        if all.len() > MAX_COMPLETE
            && let Some(upload) = all.iter().min_by_key(oldest)
        {
            self.erase(&upload.id);
            self.lock().remove(&upload.id);
        }
    }

    /// Removes an upload and its bytes.
    pub fn cancel(&self, lease: &mut UploadLease) {
        lease.state.cancelled = true;
        if let Some(body) = lease.state.body.take() {
            body.discard_on_drop().release();
        }
        self.erase(&lease.id);
        self.lock().remove(&lease.id);
    }

    /// Removes uploads that nobody has touched for their lifetime. May wait for the disk.
    pub fn sweep(&self) {
        let all: Vec<Arc<Upload>> = self.lock().values().cloned().collect();
        for upload in all {
            // An upload whose lease is held is being touched.
            if let Ok(state) = Arc::clone(&upload.state).try_lock_owned()
                && self.has_expired(&state.record)
            {
                let mut lease = UploadLease {
                    state,
                    takeover: upload.takeovers.subscribe(),
                    id: upload.id.clone(),
                };
                tracing::info!(id = upload.id, path = %upload.path, "an upload was not resumed in time, and is removed");
                self.cancel(&mut lease);
            }
        }
    }

    fn load(&self, id: &str) -> Result<Upload, LoadError> {
        let failed = DirectoryError::from_errno("read an upload");
        let staging = &self.writer.staging;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(
            staging.dir()?,
            format!("{UPLOAD_PREFIX}{id}.json"),
            flags,
            Mode::empty(),
        )
        .map_err(failed)?;
        let mut text = Vec::new();
        let read = File::from(file).take(1 << 20).read_to_end(&mut text);
        read.map_err(DirectoryError::from_io("read an upload"))?;
        let mut record: UploadRecord =
            serde_json::from_slice(&text).map_err(|_| LoadError::Damaged("its record does not read"))?;
        if let Some(file) = record.placing.take() {
            let there = staging.inspect_upload(&format!("{UPLOAD_PREFIX}{id}"))?;
            if there.is_none_or(|stat| stat.st_ino != file) {
                let _ = unlinkat(&*staging.dir()?, format!("{UPLOAD_PREFIX}{id}"), AtFlags::empty());
                record.complete = true;
                // A record that cannot be written now is found the same by the next start.
                let _ = self.write(id, &record);
            }
        }
        if !record.complete {
            match staging.upload_length(&format!("{UPLOAD_PREFIX}{id}"))? {
                None => return Err(LoadError::Damaged("its bytes are gone")),
                Some(there) if there < record.offset => return Err(LoadError::Damaged("some of its bytes are gone")),
                Some(_) => {}
            }
        }
        Upload::new(id.to_owned(), record, None).map_err(|_| LoadError::Damaged("its path does not read"))
    }

    fn write(&self, id: &str, record: &UploadRecord) -> Result<(), DirectoryError> {
        let failed = DirectoryError::from_errno("write the record of an upload");
        let dir = self.writer.staging.dir()?;
        let dir = &*dir;
        let (new, name) = (format!("put-{}", random_name()), format!("{UPLOAD_PREFIX}{id}.json"));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(dir, &new, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?);
        let text = serde_json::to_vec(record).map_err(|error| DirectoryError::Disk {
            doing: "write the record of an upload",
            source: error.into(),
        })?;
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        written.map_err(DirectoryError::from_io("write the record of an upload"))?;
        renameat(dir, &new, dir, &name).map_err(failed)?;
        sync_directory(dir)
    }

    fn erase(&self, id: &str) {
        let Ok(dir) = self.writer.staging.dir() else { return };
        for name in [format!("{UPLOAD_PREFIX}{id}.json"), format!("{UPLOAD_PREFIX}{id}")] {
            let _ = unlinkat(&*dir, name, AtFlags::empty());
        }
    }
}

/// The reason for which an upload is not loaded.
enum LoadError {
    /// The upload can never be resumed.
    Damaged(&'static str),
    /// The disk, or the limit of descriptors, does not let it be read now.
    Unavailable(DirectoryError),
}

impl From<DirectoryError> for LoadError {
    fn from(error: DirectoryError) -> Self {
        Self::Unavailable(error)
    }
}

impl Upload {
    fn new(id: String, record: UploadRecord, body: Option<IncomingBody>) -> Result<Self, DirectoryError> {
        let path = TreePath::parse(&record.path).map_err(|_| DirectoryError::BadName)?;
        let record_complete = record.complete;
        let state = State {
            record,
            body,
            cancelled: false,
        };
        Ok(Self {
            id,
            path,
            complete: AtomicBool::new(record_complete),
            takeovers: watch::Sender::new(0),
            state: Arc::new(tokio::sync::Mutex::new(state)),
        })
    }

    /// Takes over from the request that holds the lease; `None` where the upload is cancelled by then.
    async fn take_over(&self) -> Option<UploadLease> {
        self.takeovers.send_modify(|count| *count += 1);
        let takeover = self.takeovers.subscribe();
        let state = Arc::clone(&self.state).lock_owned().await;
        let id = self.id.clone();
        (!state.cancelled).then_some(UploadLease { state, takeover, id })
    }
}

impl UploadLease {
    /// The record.
    pub fn record(&self) -> &UploadRecord {
        &self.state.record
    }

    /// The bytes that have come, whether they are on the disk or not.
    pub fn offset(&self) -> u64 {
        let record = &self.state.record;
        self.state.body.as_ref().map_or(record.offset, IncomingBody::len)
    }

    /// Notes the length that the client has told.
    pub fn set_length(&mut self, length: u64) {
        self.state.record.length = Some(length);
    }

    /// Changes when another request takes over.
    pub fn takeover(&self) -> watch::Receiver<u64> {
        self.takeover.clone()
    }
}
