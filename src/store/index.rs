//! The store: finds, makes and removes objects.
//!
//! Open objects are held in a map so that a hit costs one lock and no disk. Nothing is scanned at
//! start: a record is read when its object is first asked for.

use super::body::Body;
use super::catalog::{Catalog, OpenFailure};
use super::error::StoreError;
use super::manifest::Manifest;
use super::object::{Object, ObjectState, Representation, Shared};
use super::record::Record;
use super::recover;
use super::space::Space;
use crate::clock::{SharedClock, unix_seconds};
use crate::key::{ObjectId, ObjectKey};
use crate::ranges::{self, RangeSet};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::UNIX_EPOCH;

/// The most objects kept open without a reader: each costs a file descriptor.
const MAX_IDLE_OPEN: usize = 512;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The data directory; made if it does not exist.
    pub dir: PathBuf,
    /// The most bytes that bodies may hold; `None` is no limit.
    pub quota_bytes: Option<u64>,
}

/// Where things lie in the data directory.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    fn catalog(&self) -> PathBuf {
        self.dir.join("catalog")
    }

    fn body(&self, id: ObjectId, generation: u64) -> PathBuf {
        let id = id.to_string();
        self.objects()
            .join(&id[..2])
            .join(format!("{id}-{generation:016x}.body"))
    }
}

/// The objects of one data directory, which this process owns.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    shared: Arc<Shared>,
    open: RwLock<HashMap<ObjectId, Arc<Object>>>,
    ended: Mutex<Option<Receiver<()>>>,
}

/// A generation just made.
#[derive(Debug)]
pub struct Created {
    /// The new one.
    pub object: Arc<Object>,
    /// The one in whose place it stands.
    pub replaced: Option<Arc<Object>>,
}

/// A line of the list of objects, read from the catalog or from the open object.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Opened {
    /// The digest of the URL, as 32 hexadecimal digits.
    pub id: String,
    /// The canonical URL.
    pub url: String,
    /// How much is here.
    pub state: ObjectState,
    /// The complete length in bytes, where known.
    pub complete_length: Option<u64>,
    /// The bytes that are here, as half-open pairs `[start, end)`.
    pub present: Vec<[u64; 2]>,
    /// How many bytes are here.
    pub present_bytes: u64,
    /// The tag that clients are given.
    pub etag: String,
    /// When it last answered a request, in seconds since 1970.
    pub last_used: u64,
    /// How many requests it has answered.
    pub hits: u64,
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
        fs::create_dir_all(layout.objects()).map_err(StoreError::file("create", layout.objects()))?;
        let lock = lock(&settings.dir)?;
        let catalog = open_catalog(&layout, &clock)?;
        let (alive, ended) = channel();
        let shared = Arc::new(Shared {
            catalog,
            clock,
            space: Space::new(settings.quota_bytes),
            _lock: lock,
            _alive: alive,
        });
        Ok(Self {
            layout,
            shared,
            open: RwLock::default(),
            ended: Mutex::new(Some(ended)),
        })
    }

    /// Ends when nothing of this store is open any more: no catalog, no body, no lock. The first caller
    /// gets it; it yields no value, only its end.
    pub fn ending(&self) -> Option<Receiver<()>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The object of `key`, if it is open: no disk is touched.
    pub fn resident(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.open_objects()
            .get(&key.id())
            .filter(|object| object.url() == key.url())
            .cloned()
    }

    /// The object of `key`, opened from the disk if need be: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog or the body cannot be read. A body that is gone is no error: the object is
    /// then forgotten, since somebody emptied the cache.
    pub fn load(&self, key: &ObjectKey) -> Result<Option<Arc<Object>>, StoreError> {
        if let Some(object) = self.resident(key) {
            return Ok(Some(object));
        }
        // One at a time: two handles of one object would each have a truth of their own.
        let mut open = self.open_objects_mut();
        if let Some(object) = open.get(&key.id()) {
            return Ok(Some(Arc::clone(object)));
        }
        let Some(record) = self.shared.catalog.get(key.id())? else {
            return Ok(None);
        };
        if record.url != key.url() {
            return Ok(None);
        }
        let Some(object) = self.reopen(key.id(), record)? else {
            return Ok(None);
        };
        let object = Arc::new(object);
        open.insert(key.id(), Arc::clone(&object));
        let surplus = surplus(&mut open);
        drop(open);
        close(surplus);
        Ok(Some(object))
    }

    fn reopen(&self, id: ObjectId, record: Record) -> Result<Option<Object>, StoreError> {
        let path = self.layout.body(id, record.generation);
        let body = match Body::open(&path) {
            Ok(body) => body,
            Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(url = record.url, "the body is gone: forgetting the object");
                self.shared.catalog.remove(id, record.generation)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let recorded = ranges::decode(&record.present).map_err(|error| StoreError::Damaged {
            what: error.to_string(),
        });
        let mut durable = recorded.unwrap_or_else(|error| {
            tracing::error!(url = record.url, %error, "starting the object anew");
            RangeSet::new()
        });
        durable.truncate(body.file_len()?);
        if let Some(length) = record.complete_length {
            durable.truncate(length);
        }
        Ok(Some(Object::from_record(
            id,
            record,
            durable,
            body,
            Arc::clone(&self.shared),
        )))
    }

    /// A new generation of `key`, empty: for a blocking thread.
    ///
    /// The one before it is removed and returned: the caller breaks its readers, after making the new
    /// one known, so that a reader who begins again does not meet the old one.
    ///
    /// # Errors
    /// Where the disk or the catalog refuses; the generation before then stays.
    pub fn create(&self, key: &ObjectKey, representation: Representation) -> Result<Created, StoreError> {
        let before = self.load(key)?;
        let generation = self.next_generation(before.as_deref());
        let path = self.layout.body(key.id(), generation);
        let shard = path.parent().unwrap_or(&self.layout.dir);
        fs::create_dir_all(shard).map_err(StoreError::file("create", shard))?;
        let body = Body::create(&path)?;
        let object = Arc::new(Object::new(
            key,
            generation,
            representation,
            body,
            Arc::clone(&self.shared),
        ));
        Manifest::new(key.url(), generation, object.representation(), object.created)
            .write(&path.with_extension("json"))?;
        self.shared.catalog.put(key.id(), &object.record(&RangeSet::new()))?;
        if object.length() == Some(0) {
            object.end_at(0, false);
        }
        self.open_objects_mut().insert(key.id(), Arc::clone(&object));
        if let Some(before) = &before {
            self.discard(before);
        }
        Ok(Created {
            object,
            replaced: before,
        })
    }

    /// Generations rise, whatever the clock does: a late record of an old one never replaces a new one.
    fn next_generation(&self, before: Option<&Object>) -> u64 {
        let now = self.shared.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        before.map_or(now, |before| now.max(before.generation.saturating_add(1)))
    }

    /// Removes an object: later requests do not find it, attached readers keep the open body.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn remove(&self, object: &Arc<Object>) -> Result<(), StoreError> {
        {
            let mut open = self.open_objects_mut();
            if open.get(&object.id()).is_some_and(|held| Arc::ptr_eq(held, object)) {
                open.remove(&object.id());
            }
        }
        self.shared.catalog.remove(object.id(), object.generation)?;
        self.discard(object);
        Ok(())
    }

    fn discard(&self, object: &Object) {
        let bytes = {
            // Under the lock that writers count under, so that each byte is released once.
            let progress = object.progress();
            if object.discarded.swap(true, Ordering::AcqRel) {
                return;
            }
            progress.present.total()
        };
        self.shared.space.release(bytes);
        for path in [object.body.path().to_owned(), object.body.path().with_extension("json")] {
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "already gone");
            }
        }
    }

    /// How many more bytes fit, by the quota and by the file system; `None` where that cannot be told.
    pub fn room(&self) -> Option<u64> {
        let free = rustix::fs::statvfs(&self.layout.dir)
            .ok()
            .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        [self.shared.space.room(), free].into_iter().flatten().min()
    }

    /// Up to `limit` objects in the order of their ids, after `after`: for a blocking thread.
    pub fn list(&self, after: Option<ObjectId>, limit: usize) -> Vec<Opened> {
        self.shared
            .catalog
            .scan(after)
            .take(limit)
            .map(|(id, record)| self.line(id, record))
            .collect()
    }

    /// One object of the list.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub fn show(&self, id: ObjectId) -> Result<Option<Opened>, StoreError> {
        Ok(self.shared.catalog.get(id)?.map(|record| self.line(id, record)))
    }

    /// The open object knows more than its record: bytes that are present but not yet durable.
    fn line(&self, id: ObjectId, record: Record) -> Opened {
        let open = self.open_objects().get(&id).cloned();
        if let Some(object) = open {
            let present = object.present();
            return Opened {
                id: id.to_string(),
                url: object.url().to_owned(),
                state: object.state(),
                complete_length: object.length(),
                present: pairs(&present),
                present_bytes: present.total(),
                etag: object.etag().to_string(),
                last_used: object.last_used(),
                hits: object.hits.load(Ordering::Relaxed),
            };
        }
        let present = ranges::decode(&record.present).unwrap_or_default();
        let whole = record.complete_length == Some(present.total());
        Opened {
            id: id.to_string(),
            state: match (whole, record.unverified) {
                (false, _) => ObjectState::Incomplete,
                (true, false) => ObjectState::Complete,
                (true, true) => ObjectState::Unverified,
            },
            complete_length: record.complete_length,
            present: pairs(&present),
            present_bytes: present.total(),
            etag: record.representation.validators.etag.unwrap_or_default(),
            last_used: record.last_used,
            hits: record.hits,
            url: record.url,
        }
    }

    /// Bytes that bodies hold.
    pub fn used_bytes(&self) -> u64 {
        self.shared.space.used()
    }

    /// Counts what the bodies hold and removes files that no record speaks of: for a blocking thread.
    ///
    /// # Errors
    /// Where the directory cannot be listed.
    pub fn take_stock(&self) -> Result<(), StoreError> {
        let started = self.next_generation(None);
        for path in recover::files(&self.layout.objects(), "body")? {
            let Some((id, generation)) = parse_name(&path) else {
                continue;
            };
            let record = self.shared.catalog.get(id).ok().flatten();
            match record {
                // What this process made it has counted as it wrote.
                Some(record) if record.generation == generation && generation >= started => {}
                Some(record) if record.generation == generation => {
                    let bytes = ranges::decode(&record.present).unwrap_or_default().total();
                    self.shared.space.reserve(bytes);
                }
                _ if generation < started && !self.open_objects().contains_key(&id) => {
                    tracing::info!(path = %path.display(), "removing a body that no record speaks of");
                    let _ = fs::remove_file(path.with_extension("json"));
                    fs::remove_file(&path).map_err(StoreError::file("remove", &path))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns when the quota is exceeded; at once if it is.
    pub async fn exceeded(&self) {
        self.shared.space.exceeded().notified().await;
    }

    /// Evicts whole objects, least recently used first, until the quota holds: for a blocking thread.
    ///
    /// Objects that are pinned, read or filled stay.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn evict(&self) -> Result<usize, StoreError> {
        let mut candidates: Vec<(u64, ObjectId)> = Vec::new();
        for (id, record) in self.shared.catalog.scan(None).filter(|(_, record)| !record.pinned) {
            let used = self
                .open_objects()
                .get(&id)
                .map_or(record.last_used, |object| object.last_used());
            candidates.push((used, id));
        }
        candidates.sort_unstable();
        let mut evicted = 0;
        for (_, id) in candidates {
            if self.shared.space.excess() == 0 {
                break;
            }
            if let Some(object) = self.take_idle(id)? {
                tracing::info!(
                    url = object.url(),
                    bytes = object.present_bytes(),
                    "evicting for the quota"
                );
                self.shared.catalog.remove(id, object.generation)?;
                self.discard(&object);
                evicted += 1;
            }
        }
        Ok(evicted)
    }

    fn take_idle(&self, id: ObjectId) -> Result<Option<Arc<Object>>, StoreError> {
        let mut open = self.open_objects_mut();
        if let Some(object) = open.get(&id) {
            // The map's own handle is the only one: nobody reads or fills it, and with the map
            // locked nobody can begin to.
            return Ok(if Arc::strong_count(object) == 1 {
                open.remove(&id)
            } else {
                None
            });
        }
        match self.shared.catalog.get(id)? {
            Some(record) => Ok(self.reopen(id, record)?.map(Arc::new)),
            None => Ok(None),
        }
    }

    /// Records the use of all open objects and writes the catalog out.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn flush(&self) -> Result<(), StoreError> {
        let open: Vec<Arc<Object>> = self.open_objects().values().cloned().collect();
        for object in open {
            object.record_use()?;
        }
        self.shared.catalog.flush()
    }

    fn open_objects(&self) -> RwLockReadGuard<'_, HashMap<ObjectId, Arc<Object>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_objects_mut(&self) -> RwLockWriteGuard<'_, HashMap<ObjectId, Arc<Object>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pairs(set: &RangeSet) -> Vec<[u64; 2]> {
    set.iter().map(|run| [run.start(), run.end()]).collect()
}

/// Takes the least recently used idle objects out of an overfull map.
fn surplus(open: &mut HashMap<ObjectId, Arc<Object>>) -> Vec<Arc<Object>> {
    if open.len() <= MAX_IDLE_OPEN {
        return Vec::new();
    }
    let mut idle: Vec<(u64, ObjectId)> = open
        .iter()
        .filter(|(_, object)| Arc::strong_count(object) == 1 && !object.has_unrecorded())
        .map(|(id, object)| (object.last_used(), *id))
        .collect();
    idle.sort_unstable();
    idle.truncate(MAX_IDLE_OPEN / 4);
    idle.iter().filter_map(|(_, id)| open.remove(id)).collect()
}

fn close(objects: Vec<Arc<Object>>) {
    for object in objects {
        if let Err(error) = object.record_use() {
            tracing::warn!(url = object.url(), %error, "could not record the use of an object");
        }
    }
}

fn parse_name(path: &Path) -> Option<(ObjectId, u64)> {
    let (id, generation) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((ObjectId::parse(id)?, u64::from_str_radix(generation, 16).ok()?))
}

/// The lock of a data directory.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // Said aloud: a child process between fork and exec holds a copy of the descriptor, and closing
        // ours alone would leave the directory locked until then.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

fn lock(dir: &Path) -> Result<DirLock, StoreError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&path).map_err(StoreError::file("open", &path))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.trim().is_empty() {
            "process unknown".to_owned()
        } else {
            holder.trim().to_owned()
        };
        return Err(StoreError::InUse {
            dir: dir.to_owned(),
            holder,
        });
    }
    let write = |file: &mut File| {
        file.set_len(0)
            .and_then(|()| writeln!(file, "process {}", std::process::id()))
    };
    write(&mut file).map_err(StoreError::file("write", &path))?;
    Ok(DirLock(file))
}

/// Opens the catalog; one that will not open is set aside and written anew from the manifests.
fn open_catalog(layout: &Layout, clock: &SharedClock) -> Result<Catalog, StoreError> {
    let path = layout.catalog();
    let existed = path.exists();
    let why = match Catalog::open(&path) {
        Ok(catalog) => {
            if !existed {
                restore(layout, &catalog)?;
            }
            return Ok(catalog);
        }
        Err(OpenFailure::Refused(error)) => return Err(error),
        Err(OpenFailure::Unreadable(why)) => why,
    };
    let aside = layout
        .dir
        .join(format!("catalog.set-aside-{}", unix_seconds(clock.now())));
    tracing::error!(%why, set_aside = %aside.display(), "the catalog does not open: setting it aside and writing it anew from the manifests");
    fs::rename(&path, &aside).map_err(StoreError::file("set aside", &path))?;
    let catalog = Catalog::open(&path).map_err(|failure| match failure {
        OpenFailure::Refused(error) => error,
        OpenFailure::Unreadable(what) => StoreError::Damaged { what },
    })?;
    restore(layout, &catalog)?;
    Ok(catalog)
}

fn restore(layout: &Layout, catalog: &Catalog) -> Result<(), StoreError> {
    let whole = recover::rebuild(layout, catalog)?;
    if whole > 0 {
        tracing::warn!(objects = whole, "restored complete objects from their manifests");
    }
    Ok(())
}
