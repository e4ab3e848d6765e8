//! The objects that are open, by their ids.
//!
//! A hit looks here and waits for no disk: the map is locked for moments. Whatever decides which objects there are
//! (opening one from its record, making, evicting, removing one) reads and writes the disk between two looks. It does
//! so one at a time, holding a [`Changing`], and only whoever holds that can alter the map.

use super::object::Object;
use crate::key::ObjectId;
use crate::sync::{lock, read, unless_held, write};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The most objects kept open without a reader: each costs a file descriptor, of which they take a quarter at most, and
/// some kilobytes of memory. With 512 of them objects of 1 KiB came at 0.24 of nginx's rate, with 4096 at 0.89; 2048 is
/// a judgement between that and the memory. The least is a judgement too, for processes that may have a thousand
/// descriptors.
const MAX_IDLE_OPEN: usize = 2048;
const LEAST_IDLE_OPEN: usize = 256;

/// The most that the heads of objects kept open may take, in bytes: a head is usually some hundred bytes, and 36 KiB at
/// most. A judgement: as much as the objects above take with heads of usual size.
const MAX_HEAD_BYTES: usize = 8 << 20;

/// Objects that are closed in one go, with the map locked: 128 at once held up look-ups for milliseconds.
const CLOSED_AT_ONCE: usize = 32;

#[derive(Debug)]
pub(super) struct OpenObjects {
    /// Shared by look-ups, held alone by whoever has the turn, for moments either way: no disk is waited for under it.
    /// An object's `progress` is taken under it.
    map: RwLock<OpenMap>,
    /// The turn. Held over reads and writes of records and files, so that no second `Object` of one generation is made
    /// and nothing is evicted between its record and its place in the map. Taken before `map`, a recount and the locks
    /// of objects; a thread that may not wait only tries it.
    changing: Mutex<()>,
    /// With more open than this it is looked which of them are idle. Relaxed: orders nothing; a look too many or too
    /// few is all that a value of a moment ago costs.
    crowded_at: AtomicUsize,
    /// The same for the bytes of heads. Relaxed, as above.
    heavy_at: AtomicUsize,
    /// As many are kept open without a reader.
    idle: usize,
}

/// The map, and the bytes of the heads of what is in it, as they were when it came.
#[derive(Debug, Default)]
struct OpenMap {
    objects: HashMap<ObjectId, OpenObject>,
    head_bytes: usize,
}

#[derive(Debug)]
struct OpenObject {
    object: Arc<Object>,
    head_bytes: usize,
}

impl OpenMap {
    fn get(&self, id: ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(&id).map(|open| &open.object)
    }

    fn insert(&mut self, object: Arc<Object>) {
        let (id, head_bytes) = (object.id(), object.head_bytes());
        self.remove(id);
        self.head_bytes += head_bytes;
        self.objects.insert(id, OpenObject { object, head_bytes });
    }

    fn remove(&mut self, id: ObjectId) -> Option<Arc<Object>> {
        let OpenObject { object, head_bytes } = self.objects.remove(&id)?;
        self.head_bytes -= head_bytes;
        Some(object)
    }

    fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values().map(|open| &open.object)
    }
}

impl OpenObjects {
    /// None, in a process that may have so many files open.
    pub(super) fn new(descriptors: Option<u64>) -> Self {
        let share = descriptors.map_or(usize::MAX, |all| usize::try_from(all / 4).unwrap_or(usize::MAX));
        let idle = share.clamp(LEAST_IDLE_OPEN, MAX_IDLE_OPEN);
        Self {
            map: RwLock::default(),
            changing: Mutex::default(),
            crowded_at: AtomicUsize::new(idle),
            heavy_at: AtomicUsize::new(MAX_HEAD_BYTES),
            idle,
        }
    }

    pub(super) fn get(&self, id: ObjectId) -> Option<Arc<Object>> {
        self.map().get(id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Object>> {
        self.map().objects().cloned().collect()
    }

    /// The result of `look` for the open object of that id, or for none; `look` runs under the map's lock and must not block.
    pub(super) fn look<T>(&self, id: ObjectId, look: impl FnOnce(Option<&Arc<Object>>) -> T) -> T {
        look(self.map().get(id))
    }

    /// Waits for its turn: for a blocking thread.
    pub(super) fn changing(&self) -> Changing<'_> {
        Changing {
            objects: self,
            _turn: lock(&self.changing),
        }
    }

    /// The turn, where nobody has it.
    pub(super) fn changing_now(&self) -> Option<Changing<'_>> {
        unless_held(self.changing.try_lock()).map(|turn| Changing {
            objects: self,
            _turn: turn,
        })
    }

    /// From now on idle objects are looked for again, where there are too many.
    pub(super) fn look_for_idle(&self) {
        self.crowded_at.store(self.idle, Ordering::Relaxed);
        self.heavy_at.store(MAX_HEAD_BYTES, Ordering::Relaxed);
    }

    fn map(&self) -> RwLockReadGuard<'_, OpenMap> {
        read(&self.map)
    }

    /// Whether so much is open that idle objects are to be closed.
    fn is_crowded(&self, map: &OpenMap) -> bool {
        map.objects.len() > self.crowded_at.load(Ordering::Relaxed)
            || map.head_bytes > self.heavy_at.load(Ordering::Relaxed)
    }
}

/// The turn to change which objects there are.
pub(super) struct Changing<'a> {
    objects: &'a OpenObjects,
    _turn: MutexGuard<'a, ()>,
}

/// The outcome of taking an object out of the map.
pub(super) enum Taken {
    /// No object of that id is open.
    NotOpen,
    /// The object is pinned, or a reader or a fill holds it.
    InUse,
    /// The object has left the map, and this is its only reference.
    Idle(Arc<Object>),
}

impl Changing<'_> {
    fn map(&self) -> RwLockWriteGuard<'_, OpenMap> {
        write(&self.objects.map)
    }

    /// [`Changing::hold`], where no other is to be closed for it; `false` where one would be.
    pub(super) fn hold_now(&self, object: &Arc<Object>) -> bool {
        let mut map = self.map();
        let is_roomy = map.objects.len() < self.objects.crowded_at.load(Ordering::Relaxed)
            && map.head_bytes + object.head_bytes() <= self.objects.heavy_at.load(Ordering::Relaxed);
        if is_roomy {
            map.insert(Arc::clone(object));
        }
        is_roomy
    }

    /// Holds an object open, in the place of an older one, and closes the least recently used idle ones where there
    /// are too many.
    pub(super) fn hold(&self, object: &Arc<Object>) {
        for closed in self.hold_and_close(object) {
            // In this turn: a second handle would be opened from a record without this one's use.
            if !closed.access.are_news() {
                continue;
            }
            if let Err(error) = closed.record_use() {
                tracing::warn!(id = %closed.id(), %error, "could not record the use of an object");
            }
        }
    }

    fn hold_and_close(&self, object: &Arc<Object>) -> Vec<Arc<Object>> {
        let mut map = self.map();
        map.insert(Arc::clone(object));
        if !self.objects.is_crowded(&map) {
            return Vec::new();
        }
        let mut idle: Vec<(u64, ObjectId)> = map
            .objects()
            // The map's own reference: under its lock no other can be made. What is not recorded would be lost.
            .filter(|object| Arc::strong_count(object) == 1 && !object.presence.has_unrecorded())
            .map(|object| (object.last_used(), object.id()))
            .collect();
        idle.sort_unstable();
        let least = idle.iter().take(CLOSED_AT_ONCE);
        let closed: Vec<_> = least.filter_map(|(_, id)| map.remove(*id)).collect();
        // The cached small body is invalidated; after reopening, hits are counted from the persisted record.
        closed.iter().for_each(|object| object.hot.small_body().invalidate());
        // Where most are in use, they are not looked at again for each one that comes.
        let crowded_at = self.objects.idle.max(map.objects.len() + CLOSED_AT_ONCE / 2);
        self.objects.crowded_at.store(crowded_at, Ordering::Relaxed);
        let heavy_at = MAX_HEAD_BYTES.max(map.head_bytes + MAX_HEAD_BYTES / 64);
        self.objects.heavy_at.store(heavy_at, Ordering::Relaxed);
        closed
    }

    /// Takes an object out of the map that nobody uses.
    pub(super) fn take_idle(&self, id: ObjectId) -> Taken {
        let mut map = self.map();
        match map.get(id) {
            None => Taken::NotOpen,
            Some(object) if object.is_pinned() || Arc::strong_count(object) > 1 => Taken::InUse,
            Some(_) => map.remove(id).map_or(Taken::NotOpen, Taken::Idle),
        }
    }

    /// Undoes [`Changing::take_idle`].
    pub(super) fn put_back(&self, object: Arc<Object>) {
        self.map().insert(object);
    }

    /// Takes this very object out of the map.
    pub(super) fn remove(&self, object: &Arc<Object>) {
        let mut map = self.map();
        if map.get(object.id()).is_some_and(|held| Arc::ptr_eq(held, object)) {
            map.remove(object.id());
        }
    }
}
