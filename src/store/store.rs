//! The store: finds, makes and removes objects.
//!
//! Open objects are held in a map so that a hit costs one lock and no disk. Nothing is scanned at
//! start: a record is read when its object is first asked for.

use super::body_file::Body;
use super::catalog::latency::CatalogLatency;
use super::catalog::rebuild;
use super::catalog::record::Record;
use super::catalog::{Catalog, OpenFailure, Trees, catalog_room_bytes};
use super::context::StoreContext;
use super::error::StoreError;
use super::fault;
use super::integrity::run_checksums;
use super::layout::{Layout, close_to_others, lock_directory};
use super::object::Object;
use super::object::representation::Representation;
use super::open_objects::OpenObjects;
use super::read::sendfile::Sending;
use super::space::catalog_reserve::reserve_for;
use super::space::preallocate::Preallocation;
use super::space::quota::{Quota, Space, Stated, pages_of};
use super::space::usage_recount::UsageRecount;
use super::write::inline_gate::InlineWriteGate;
use crate::clock::Instant;
use crate::clock::{SharedClock, unix_nanoseconds, unix_seconds};
use crate::key::{ObjectId, ObjectKey};
use crate::ranges::{ByteOffset, ByteRange, RangeSet};
use crate::sync::{lock, unless_held};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The data directory; made if it does not exist.
    pub dir: PathBuf,
    /// The most bytes that objects may take on the disk; `None` is no limit.
    pub quota: Quota,
    /// Free space to leave in the file system, in bytes; `None` is 256 MiB, or a twentieth of a small one.
    pub min_free_bytes: Option<u64>,
}

/// The objects of one data directory, which this process owns.
#[derive(Debug)]
pub struct Store {
    pub(super) layout: Layout,
    pub(super) shared: Arc<StoreContext>,
    pub(super) open: OpenObjects,
    pub(super) catalog_latency: CatalogLatency,
    /// The end of the channel that closes with the last part of this store; taken once, held for moments.
    ended: Mutex<Option<Receiver<()>>>,
    /// The greatest number that was given: two generations never share a file. AcqRel and Acquire; numbers that differ
    /// and rise are all that is asked of it.
    latest_generation: AtomicU64,
    /// The used bytes that the ledger stated at the start.
    pub(super) believed: u64,
    /// The count after a crash. Held while a batch of records is read, so that no object changes between its record and
    /// its count; taken under the turn of `open`. A thread that may not wait only tries it.
    recount: Mutex<UsageRecount>,
    /// The catalog was lost, and is not all written anew yet. Release and Acquire: a thread that sees it fall finds the
    /// records that were written before.
    pub(super) restoring: AtomicBool,
    /// When what a start owes is done, or tried again; `None` once it was. Held while `look_after`
    /// mends the catalog and tidies up, before any other lock: one thread does that at a time.
    pub(super) tidy_at: Mutex<Option<Instant>>,
    /// The eviction lock; its value is the time until which eviction is known to be futile. Held over an
    /// eviction and the attempt before it, so that room for one piece is made once; the turn of `open` and the locks of
    /// objects are taken under it.
    pub(super) evicting: Mutex<Option<Instant>>,
    /// How many objects were evicted. Relaxed: a counter that orders nothing.
    pub(super) evicted: AtomicU64,
    /// Generations that went while the catalog could not be told. A lock around a list; held for moments.
    untold: Mutex<Vec<(ObjectId, u64)>>,
}

/// A generation just made.
#[derive(Debug)]
pub struct Created {
    /// The new one.
    pub object: Arc<Object>,
    /// The one in whose place it stands.
    pub replaced: Option<Arc<Object>>,
}

impl Store {
    /// Opens the data directory, making it where it does not exist.
    ///
    /// # Errors
    /// Where another process owns it, the disk refuses, or a newer millpond wrote it.
    pub fn open(settings: &StoreSettings, clock: SharedClock) -> Result<Self, StoreError> {
        let layout = Layout {
            dir: settings.dir.clone(),
        };
        layout.create()?;
        let lock = lock_directory(&settings.dir)?;
        let (trees, is_new) = open_catalog(&layout, &clock)?;
        close_to_others(&layout.catalog());
        let reserve = reserve_for(catalog_room_bytes(&layout.catalog()));
        let (dir, quota, floor) = (&settings.dir, settings.quota, settings.min_free_bytes);
        let (space, mut stated) = Space::open(dir, &layout.ledger(), quota, reserve, floor);
        let space = Arc::new(space);
        let catalog = Catalog::new(&layout.catalog(), trees, Arc::clone(&space));
        if let Stated::Exactly(bytes) = stated
            && is_new
        {
            // Incomplete objects are lost with the catalog: the space of their bodies is found by a recount.
            stated = Stated::AtMost(bytes);
        }
        // Nothing is ever sent: the receiver ends when the last holder of the sender is dropped.
        let (alive, ended) = channel();
        let began = unix_nanoseconds(clock.now());
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let store = Self {
            layout,
            shared: Arc::new(StoreContext {
                catalog,
                clock,
                space,
                small_bodies: Arc::default(),
                sending: Sending::default(),
                preallocation: Preallocation::default(),
                inline_writes: InlineWriteGate::default(),
                is_exact: AtomicBool::new(true),
                bad_blocks: AtomicU64::new(0),
                punched_bytes: AtomicU64::new(0),
                _lock: lock,
                _alive: alive,
            }),
            open: OpenObjects::new(descriptors),
            catalog_latency: CatalogLatency::default(),
            ended: Mutex::new(Some(ended)),
            latest_generation: AtomicU64::new(began),
            believed: match stated {
                Stated::Exactly(bytes) | Stated::AtMost(bytes) => bytes,
                Stated::Nothing => 0,
            },
            recount: Mutex::new(UsageRecount::new(stated)),
            restoring: AtomicBool::new(is_new),
            tidy_at: Mutex::new(Some(Instant::now())),
            evicting: Mutex::default(),
            evicted: AtomicU64::new(0),
            untold: Mutex::default(),
        };
        if stated == Stated::Nothing && store.shared.catalog.is_open() {
            // No bound is known: nothing may be written before what is here has been counted.
            store.restore_lost()?;
            store.count(0)?;
        }
        Ok(store)
    }

    /// Ends when nothing of this store is open any more: no catalog, no body, no lock. The first caller
    /// gets it; it yields no value, only its end.
    pub fn ending(&self) -> Option<Receiver<()>> {
        lock(&self.ended).take()
    }

    /// Writes a lost catalog anew, where that is still to be done.
    pub(super) fn restore_lost(&self) -> Result<(), StoreError> {
        if !self.is_restoring() {
            return Ok(());
        }
        let whole = rebuild::rebuild(&self.layout, &self.shared.catalog)?;
        self.restoring.store(false, Ordering::Release);
        if whole > 0 {
            tracing::warn!(objects = whole, "restored complete objects from their manifests");
        }
        Ok(())
    }

    /// The object of `key`, if it is open: no disk is touched.
    pub fn resident(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        let open = self.open.get(key.id());
        open.filter(|object| object.url() == key.url())
    }

    /// The object of `key`, opened from the disk if need be: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog or the body cannot be read. A body that is gone is no error: the object is
    /// then forgotten, since somebody emptied the cache.
    pub fn load(&self, key: &ObjectKey) -> Result<Option<Arc<Object>>, StoreError> {
        let object = match self.load_id(key.id()) {
            // Nothing can be known of it now; its readers are served all the same.
            Err(StoreError::NoCatalog | StoreError::Catalog { .. }) => None,
            object => object?,
        };
        Ok(object.filter(|object| object.url() == key.url()))
    }

    /// [`Store::load`] by the digest of the URL.
    ///
    /// # Errors
    /// As there.
    pub fn load_id(&self, id: ObjectId) -> Result<Option<Arc<Object>>, StoreError> {
        if let Some(object) = self.open.get(id) {
            return Ok(Some(object));
        }
        if self.is_restoring() && self.shared.catalog.get(id)?.is_none() {
            rebuild::rebuild_one(&self.layout, &self.shared.catalog, id)?;
        }
        // Under the map's turn: two `Object`s of one generation would each have a progress of their own.
        let changing = self.open.changing();
        if let Some(object) = self.open.get(id) {
            return Ok(Some(object));
        }
        // Measured here too, on a thread that may wait: this is how the gate for look-ups in place opens.
        let begun = Instant::now();
        let record = self.shared.catalog.get(id)?;
        self.catalog_latency.took(begun, Instant::now());
        let Some(record) = record else {
            return Ok(None);
        };
        let Some(object) = self.reopen(id, record)? else {
            return Ok(None);
        };
        let object = Arc::new(object);
        changing.hold(&object);
        Ok(Some(object))
    }

    /// Whether a lost catalog is still being written anew.
    pub(super) fn is_restoring(&self) -> bool {
        self.restoring.load(Ordering::Acquire)
    }

    fn reopen(&self, id: ObjectId, record: Record) -> Result<Option<Object>, StoreError> {
        let path = self.layout.body(id, record.generation);
        let body = match Body::open(&path) {
            Ok(body) => body,
            Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(url = record.url, "the body is gone: forgetting the object");
                self.forget(id, &record)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut durable = record.durable().unwrap_or_else(|error| {
            tracing::error!(url = record.url, %error, "starting the object anew");
            RangeSet::new()
        });
        if let Some(length) = record.complete_length {
            durable.truncate(length);
        }
        self.cut_off(&record, &mut durable, body.file_len()?);
        // What a crash left beyond the record would be room that nobody counts.
        body.trim_to(&durable)?;
        // Before the space changes: the recount goes by what the object took at the start.
        self.recount().touch(id, record.disk_bytes());
        // A body that was cut behind our back takes less room than its record says.
        let held = pages_of(&durable).total() + record.manifest_bytes;
        self.shared.space.release(record.disk_bytes().saturating_sub(held));
        let generation = record.generation;
        let object = Object::from_record(id, record, durable, body, Arc::clone(&self.shared));
        if let Ok(sums) = self.shared.catalog.sums(id, generation, 0) {
            object.integrity.set_first_sums(sums);
        }
        Ok(Some(object))
    }

    /// Where the file ends before bytes that were recorded, their blocks are damaged.
    fn cut_off(&self, record: &Record, durable: &mut RangeSet, file_len: u64) {
        let end = durable.iter().last().map_or(0, ByteRange::end);
        if end <= file_len {
            return;
        }
        // The rest of the cut block has no checksum of its own.
        let block = run_checksums::block_of(file_len);
        durable.truncate(block * run_checksums::BLOCK_BYTES);
        self.shared.bad_blocks.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            url = record.url,
            block,
            start = block * run_checksums::BLOCK_BYTES,
            end,
            "a body on the disk is cut: what is missing will be fetched again"
        );
    }

    /// A new generation of `key`, empty: for a blocking thread.
    ///
    /// The one before it is removed and returned: the caller breaks its readers, after making the new
    /// one known, so that a reader who begins again does not meet the old one. Where the disk has no room
    /// or refuses, the new one lives in memory until its first bytes find room: its readers get theirs
    /// passed on.
    ///
    /// # Errors
    /// Where the generation before cannot be read; it then stays.
    pub fn create(&self, key: &ObjectKey, representation: Representation) -> Result<Created, StoreError> {
        let before = self.load(key)?;
        let object = self.generation(key, representation, before.as_deref());
        object.set_pinned(before.as_ref().is_some_and(|before| before.is_pinned()));
        if before.is_none() {
            self.recount().touch(key.id(), 0);
        }
        // Before its record: what is not in the map is taken for something that nobody uses.
        self.open.changing().hold(&object);
        // Where something goes for it, its record comes first. Else its first bytes do not wait for its files.
        if before.is_some() {
            self.materialize(&object);
        }
        if let Some(before) = &before {
            self.discard(before);
            self.remove_files(before.id(), before.generation);
        }
        Ok(Created {
            object,
            replaced: before,
        })
    }

    /// A generation that is nowhere yet but in memory; one without bytes is whole.
    pub(super) fn generation(
        &self,
        key: &ObjectKey,
        representation: Representation,
        before: Option<&Object>,
    ) -> Arc<Object> {
        let generation = self.next_generation(before);
        let body = Body::at(&self.layout.body(key.id(), generation));
        let object = Object::new(key, generation, representation, body, Arc::clone(&self.shared));
        if object.length() == Some(0) {
            object.presence.end_at(0, false);
        }
        Arc::new(object)
    }

    /// Makes the files and the record of a new generation, where that is still to be done: for a blocking thread.
    /// The first write does that too; an object without bytes has none.
    pub fn materialize(&self, object: &Object) {
        if let Err(error) = self.with_room(|| object.materialize()) {
            tracing::error!(
                url = object.url(),
                error = &error as &dyn std::error::Error,
                "the disk does not take a new object yet"
            );
        }
    }

    /// The time by the clock that everything stored is dated by.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// A new generation that later requests do not find: for readers who came before a purge. Its room is
    /// free when the last of them leaves.
    pub fn create_apart(&self, key: &ObjectKey, representation: Representation) -> Arc<Object> {
        let object = self.generation(key, representation, None);
        object.durability.discard();
        object
    }

    /// Writes what is absent of the bytes that begin at `at`, whatever pieces they are in, evicting other objects
    /// where that needs room: for a blocking thread.
    ///
    /// # Errors
    /// Where the disk refuses, or there is no room and nothing more can be evicted; what was written before is present.
    pub fn write(&self, object: &Object, at: ByteOffset, pieces: &[impl AsRef<[u8]>]) -> Result<(), StoreError> {
        if object.is_discarded() {
            // An object that no later request finds is not worth an eviction: without room it is forwarded unstored.
            return object.write_missing(at, pieces);
        }
        self.with_room(|| object.write_missing(at, pieces))
    }

    /// Records that the upstream says the object is still its representation, with the fields that stand now and the age of
    /// that word in seconds; objects go for a head that has grown: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses, or has no room for the larger head; it counts until the object is closed then.
    pub fn confirm(&self, object: &Object, headers: &[(String, String)], age: u64) -> Result<(), StoreError> {
        self.with_room(|| object.confirm(headers.to_vec(), age))
    }

    /// Generations rise, whatever the clock does: a late record of an old one never replaces a new one.
    fn next_generation(&self, before: Option<&Object>) -> u64 {
        let now = unix_nanoseconds(self.shared.clock.now());
        // The clock alone would do but for a clock that is set back.
        let floor = before.map_or(now, |before| now.max(before.generation.saturating_add(1)));
        let next = |last: u64| floor.max(last.saturating_add(1));
        // `fetch_update` returns the previous value.
        let last = self
            .latest_generation
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        next(last.unwrap_or_default())
    }

    /// Removes an object: later requests do not find it, attached readers keep the open body. A catalog that
    /// cannot be told now is told when it is open again.
    pub fn remove(&self, object: &Arc<Object>) {
        self.open.changing().remove(object);
        // First, so that no record is written after the one that goes.
        self.discard(object);
        fault::point("discarded");
        if let Err(error) = self.shared.catalog.remove(object.id(), object.generation) {
            tracing::warn!(url = object.url(), %error, "the catalog is to be told later that an object is gone");
            self.untold().push((object.id(), object.generation));
        }
        self.remove_files(object.id(), object.generation);
    }

    /// From here on nothing is recorded of the object; its room is free when its last reader leaves.
    pub(super) fn discard(&self, object: &Object) {
        // A record that is being written is written first.
        let _recorded = object.durability.recorded();
        object.durability.discard();
        object.hot.small_body().invalidate();
    }

    /// Gives back what a crash left in the body of an object beyond what its record speaks of.
    pub(super) fn trim(&self, id: ObjectId, record: &Record) -> Result<(), StoreError> {
        let body = Body::open(&self.layout.body(id, record.generation))?;
        body.trim_to(&record.durable()?)
    }

    /// Forgets an object that is not open.
    fn forget(&self, id: ObjectId, record: &Record) -> Result<(), StoreError> {
        let bytes = record.disk_bytes();
        {
            let mut recount = self.recount();
            recount.touch(id, bytes);
            self.shared.catalog.remove(id, record.generation)?;
        }
        self.remove_files(id, record.generation);
        self.shared.space.release(bytes);
        Ok(())
    }

    /// Removes the files and checksums of a generation.
    pub(super) fn remove_files(&self, id: ObjectId, generation: u64) {
        if let Err(error) = self.shared.catalog.remove_sums(id, generation) {
            tracing::warn!(%error, "could not remove the checksums of an object");
        }
        let body = self.layout.body(id, generation);
        for path in [body.with_extension("json"), body] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    // No record speaks of it: the next start that counts removes it.
                    self.recount().is_exact = false;
                    tracing::warn!(path = %path.display(), %error, "could not remove a file");
                }
                _ => {}
            }
        }
    }

    /// Pins an object, or unpins it: a pinned one is never evicted. `None` where there is no such object.
    ///
    /// # Errors
    /// Where the catalog or the manifest cannot be written.
    pub fn pin(&self, id: ObjectId, pinned: bool) -> Result<Option<Arc<Object>>, StoreError> {
        let Some(object) = self.load_id(id)? else {
            return Ok(None);
        };
        object.set_pinned(pinned);
        object.record_pin()?;
        self.shared.catalog.flush()?;
        Ok(Some(object))
    }

    /// Pins an object of a mirror; what a power cut makes of that is mended by the next walk.
    ///
    /// # Errors
    /// Where the catalog cannot be written.
    pub fn pin_mirrored(&self, id: ObjectId) -> Result<(), StoreError> {
        if let Some(object) = self.load_id(id)? {
            object.set_pinned(true);
            object.record_use()?;
        }
        Ok(())
    }

    /// Lets an object be evicted that a mirror has pinned.
    ///
    /// # Errors
    /// Where the catalog cannot be written.
    pub fn unpin_mirrored(&self, id: ObjectId) -> Result<(), StoreError> {
        if let Some(object) = self.load_id(id)? {
            object.set_pinned(false);
            object.record_use()?;
        }
        Ok(())
    }

    /// How many more bytes fit without an eviction, by the quota and by the file system; `None` where that
    /// cannot be told.
    pub fn room(&self) -> Option<u64> {
        self.shared.space.room()
    }

    /// The most bytes that objects may take now, beside the reserve of the catalog; `None` is no limit.
    pub fn room_of_objects(&self) -> Option<u64> {
        let quota = self.shared.space.quota()?;
        Some(quota.saturating_sub(self.shared.space.reserve()))
    }

    /// Bytes that objects take on the disk.
    pub fn used_bytes(&self) -> u64 {
        self.shared.space.used()
    }

    /// How many objects were evicted since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// How many bytes were taken out of objects that stay, since the start.
    pub fn punched_bytes(&self) -> u64 {
        self.shared.punched_bytes.load(Ordering::Relaxed)
    }

    /// How many blocks did not match their checksums, since the start.
    pub fn bad_blocks(&self) -> u64 {
        self.shared.bad_blocks.load(Ordering::Relaxed)
    }

    /// Whether the catalog can be used: after a failure it is opened again when the disk allows.
    pub fn has_catalog(&self) -> bool {
        self.shared.catalog.is_open()
    }

    /// Records the use of all open objects and writes the catalog out: the last act of an orderly stop.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn flush(&self) -> Result<(), StoreError> {
        let open = self.open.all();
        let mut exact =
            self.recount().is_exact && self.untold().is_empty() && self.shared.is_exact.load(Ordering::Acquire);
        for object in open {
            object.record_use()?;
            exact &= object.unrecorded_room() == 0;
        }
        self.shared.catalog.flush()?;
        if exact {
            self.shared.space.close();
        }
        Ok(())
    }

    pub(super) fn untold(&self) -> MutexGuard<'_, Vec<(ObjectId, u64)>> {
        lock(&self.untold)
    }

    pub(super) fn recount(&self) -> MutexGuard<'_, UsageRecount> {
        lock(&self.recount)
    }

    /// [`Store::recount`], where nobody holds it: who counts reads the catalog meanwhile.
    pub(super) fn try_recount(&self) -> Option<MutexGuard<'_, UsageRecount>> {
        unless_held(self.recount.try_lock())
    }
}

/// Opens the catalog, and tells whether it is a new one; one that will not open is set aside.
fn open_catalog(layout: &Layout, clock: &SharedClock) -> Result<(Option<Trees>, bool), StoreError> {
    let path = layout.catalog();
    let existed = path.exists();
    let why = match Trees::open_or_go_on(&path) {
        Ok(trees) => return Ok((trees, !existed)),
        Err(OpenFailure::Refused(error)) => return Err(error),
        Err(OpenFailure::Unreadable(why)) => why,
    };
    let aside = layout
        .dir
        .join(format!("catalog.set-aside-{}", unix_seconds(clock.now())));
    tracing::error!(%why, set_aside = %aside.display(), "the catalog does not open: setting it aside and writing it anew from the manifests");
    fs::rename(&path, &aside).map_err(StoreError::file("set aside", &path))?;
    let trees = Trees::open_or_go_on(&path).map_err(|failure| match failure {
        OpenFailure::Refused(error) => error,
        OpenFailure::Unreadable(what) => StoreError::Damaged { what },
    })?;
    Ok((trees, true))
}
