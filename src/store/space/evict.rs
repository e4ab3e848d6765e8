//! Which objects go when room is needed, and how.
//!
//! There is no queue of a million objects to keep, in memory or on disk: a few objects are drawn at
//! random, and the least worthy of them goes. Ids are digests, so the records after a random id are
//! random objects. What one costs does not grow with their number, and needs nothing that a crash could
//! take. The worth of an object, and how many are drawn, was chosen by simulation: `benches/eviction.rs`
//! and `docs/decisions/0008-eviction.md`.
//!
//! Pinned objects and objects that somebody reads or fills are never taken.

use crate::clock::Instant;
use crate::clock::unix_seconds;
use crate::key::ObjectId;
use crate::store::catalog::record::Record;
use crate::store::error::StoreError;
use crate::store::fault;
use crate::store::open_objects::Taken;
use crate::store::store::Store;
use crate::sync::lock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How many objects are drawn for each that goes. By simulation better than 16; to draw on until four times the wanted
/// bytes are among them is hardly better (`benches/eviction.rs`).
const DRAWN: usize = 64;

/// The most of them that go at once, for a little room in advance: small objects would be drawn for one by one. An
/// eighth of a draw are still the least worthy ones; the room is a judgement, as much as a fill writes in one step.
const MOST_AT_ONCE: usize = DRAWN / 8;
const ROOM_AT_ONCE: u64 = 256 << 10;

/// How often is drawn before every object is looked at: most may be pinned or in use. A judgement: four draws
/// miss all that may go only where that is less than one object in a hundred or so.
const DRAWS: usize = 4;

/// How long it is remembered that nothing at all could go: so many times as long as it took to find out, since that
/// grows with the number of objects; a fixed half second let films through unstored that had room a moment later
/// (`docs/decisions/0008-eviction.md`). Two seconds are a judgement, for catalogs whose search takes longer.
const BARREN_FOR_SEARCHES: u32 = 8;
const BARREN_FOR_AT_MOST: Duration = Duration::from_secs(2);

/// How often room is made for one piece: others may take it first. A judgement; a piece that finds none by then is
/// forwarded unstored.
const MAX_TRIES: usize = 64;

/// The facts by which an object is chosen for eviction.
#[derive(Debug, Clone, Copy)]
struct EvictionCandidate {
    /// Disk space of the object, in bytes.
    size: u64,
    /// In seconds since 1970.
    last_used: u64,
    hits: u64,
}

impl EvictionCandidate {
    /// The greatest score of a draw is evicted: idle seconds × ∛size ÷ √hits (`benches/eviction.rs`).
    fn eviction_score(self, now: u64) -> f64 {
        let idle = now.saturating_sub(self.last_used).saturating_add(1) as f64;
        let hits = self.hits.saturating_add(1) as f64;
        idle * (self.size as f64).cbrt() / hits.sqrt()
    }
}

impl Store {
    /// Does what needs room, and makes room until it succeeds or nothing more can go.
    pub(in crate::store) fn with_room<T>(
        &self,
        mut work: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // The file system's own word counts like ours: what it is asked beforehand may be true no more.
        let lacks_room = |done: &Result<T, StoreError>| matches!(done, Err(error) if error.missing_bytes().is_some());
        let mut done = work();
        for _ in 0..MAX_TRIES {
            if !lacks_room(&done) {
                return done;
            }
            // One caller evicts at a time, and tries its work again first: room for one piece is not made twice.
            let mut barren = lock(&self.evicting);
            // An eviction that was waited for may have made room for this one too.
            done = work();
            if !lacks_room(&done) || barren.is_some_and(|until| until > Instant::now()) {
                return done;
            }
            *barren = None;
            if self.reclaim_preallocated() > 0 {
                // Release preallocated, unwritten space before evicting objects.
                drop(barren);
                done = work();
                continue;
            }
            let begun = Instant::now();
            match self.evict_some() {
                Ok(Some(_)) => {}
                nothing => {
                    let search = begun.elapsed().saturating_mul(BARREN_FOR_SEARCHES);
                    *barren = Some(Instant::now() + search.min(BARREN_FOR_AT_MOST));
                    if let Err(error) = nothing {
                        tracing::warn!(%error, "could not make room");
                    }
                    return done;
                }
            }
            drop(barren);
            done = work();
        }
        done
    }

    /// Evicts objects until the quota holds, which may be a smaller one than before: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn shrink(&self) -> Result<(), StoreError> {
        self.evict_while(|| self.shared.space.excess() > 0).map(drop)
    }

    /// Evicts until `is_needed` says no, or nothing can go; whether something went. What was found to be futile is not
    /// tried again at once.
    fn evict_while(&self, is_needed: impl Fn() -> bool) -> Result<bool, StoreError> {
        let mut barren = lock(&self.evicting);
        let mut went = false;
        while is_needed() && barren.is_none_or(|until| until <= Instant::now()) {
            match self.evict_some()? {
                Some(_) => went = true,
                None => *barren = Some(Instant::now() + BARREN_FOR_AT_MOST),
            }
        }
        Ok(went)
    }

    /// Brings what has grown past its bounds within them: objects go whose records are too much for the catalog, the catalog
    /// is written anew, and objects go for what the quota lacks. For the thread that looks after the store; costs two
    /// comparisons where nothing has.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub(in crate::store) fn keep_within_bounds(&self) -> Result<(), StoreError> {
        let catalog = &self.shared.catalog;
        catalog.compact_if_due(false);
        if self.evict_while(|| catalog.has_too_much())? {
            catalog.compact_if_due(true);
        }
        self.shrink()
    }

    /// Evicts the least worthy of a few; returns the bytes they took, or `None` where nothing can go.
    pub(in crate::store) fn evict_some(&self) -> Result<Option<u64>, StoreError> {
        let now = unix_seconds(self.shared.clock.now());
        for _ in 0..DRAWS {
            let drawn = self.shared.catalog.draw(DRAWN)?;
            let candidates = drawn.iter().filter_map(|(id, record)| {
                let candidate = self.candidate(*id, record)?;
                Some((candidate.eviction_score(now), *id))
            });
            let mut drawn: Vec<(f64, ObjectId)> = candidates.collect();
            drawn.sort_unstable_by(|left, right| right.0.total_cmp(&left.0));
            let mut room = 0;
            for (_, id) in drawn.iter().take(MOST_AT_ONCE) {
                room += self.evict(*id)?.unwrap_or_default();
                if room >= ROOM_AT_ONCE {
                    break;
                }
            }
            if room > 0 {
                return Ok(Some(room));
            }
        }
        // The draws held none that may go: the first of all that may, whatever its score.
        for record in self.shared.catalog.scan(None) {
            let (id, record) = record?;
            if self.candidate(id, &record).is_some()
                && let Some(bytes) = self.evict(id)?
            {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Whether a few bytes could be stored: there is room, or something that may go for it. For a blocking
    /// thread.
    pub fn could_store(&self, bytes: u64) -> bool {
        if self.room().is_none_or(|room| room >= bytes) {
            return true;
        }
        let drawn = self.shared.catalog.draw(DRAWN).unwrap_or_default();
        drawn.iter().any(|(id, record)| self.candidate(*id, record).is_some())
    }

    /// The object as a candidate; `None` where it may not be evicted.
    fn candidate(&self, id: ObjectId, record: &Record) -> Option<EvictionCandidate> {
        self.open.look(id, |open| match open {
            // One reference is the map's own: more means a reader or a fill.
            Some(object) if object.is_pinned() || Arc::strong_count(object) > 1 => None,
            Some(object) => Some(EvictionCandidate {
                size: object.disk_bytes(),
                last_used: object.last_used(),
                hits: object.access.hits(),
            }),
            None if record.pinned => None,
            None => Some(EvictionCandidate {
                size: record.disk_bytes(),
                last_used: record.last_used,
                hits: record.hits,
            }),
        })
    }

    /// Evicts an object, unless somebody has come to need it; returns the bytes that it took.
    fn evict(&self, id: ObjectId) -> Result<Option<u64>, StoreError> {
        // In this turn nobody can open it again from its record.
        let changing = self.open.changing();
        let (url, bytes) = match changing.take_idle(id) {
            Taken::InUse => return Ok(None),
            Taken::Idle(object) => {
                if let Err(error) = self.shared.catalog.remove(id, object.generation) {
                    changing.put_back(object);
                    return Err(error);
                }
                // The record is gone, so nobody opens it again: the files need no turn.
                drop(changing);
                fault::point("evicted-record");
                let bytes = object.disk_bytes();
                self.discard(&object);
                self.remove_files(id, object.generation);
                (object.url().to_owned(), bytes)
            }
            Taken::NotOpen => {
                let Some(record) = self.shared.catalog.get(id)?.filter(|record| !record.pinned) else {
                    return Ok(None);
                };
                let bytes = record.disk_bytes();
                {
                    let mut recount = self.recount();
                    recount.touch(id, bytes);
                    self.shared.catalog.remove(id, record.generation)?;
                }
                drop(changing);
                fault::point("evicted-record");
                self.remove_files(id, record.generation);
                self.shared.space.release(bytes);
                (record.url, bytes)
            }
        };
        self.evicted.fetch_add(1, Ordering::Relaxed);
        tracing::info!(url, bytes, "evicted for room");
        Ok(Some(bytes))
    }
}
