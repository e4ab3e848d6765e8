//! Writes of what is absent: the first half of the commit order (commit.rs), for each piece as it arrives.
//!
//! A gap of the object is written in one call, with `io` shared, and is present before those who waited for it are
//! woken. Two ways lead there: `write_missing`, on a thread that may wait for the disk, takes the room first;
//! `write_inline`, where the bytes were received, writes only where room was taken and nothing is in the way.

use super::inline_gate::Write;
use crate::clock::Instant;
use crate::ranges::{ByteOffset, ByteRange};
use crate::store::error::StoreError;
use crate::store::fault;
use crate::store::object::Object;
use std::io;

impl Object {
    pub(in crate::store) fn no_room(&self, bytes: u64, shortage: crate::store::Shortage) -> StoreError {
        StoreError::NoRoom {
            url: self.url.clone(),
            bytes,
            shortage,
        }
    }

    /// Writes what is absent of the bytes that begin at `at`, in one call where it lies together, then wakes those who
    /// waited for it.
    ///
    /// Blocks as a write to the page cache does. Two calls at once must not share bytes: the fill
    /// gives each session its own range. Nothing is evicted for it; see [`crate::store::Store::write`].
    ///
    /// # Errors
    /// Where there is no room or the disk refuses; what was written before it did is present.
    pub(in crate::store) fn write_missing(
        &self,
        at: ByteOffset,
        pieces: &[impl AsRef<[u8]>],
    ) -> Result<(), StoreError> {
        let bytes: usize = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let Some(range) = ByteRange::with_len(at, bytes as u64) else {
            return Ok(());
        };
        self.materialize()?;
        for gap in self.presence.gaps(range) {
            // Retraction takes this lock alone: it waits until this piece is written and present.
            let writing = self.durability.keep_pages();
            let write = self.shared.inline_writes.begin(Instant::now());
            // Room before bytes: the quota holds at every moment.
            self.reserve(gap)?;
            fault::point("room-taken");
            if let Err(source) = self.write_gap(&write, gap, at, pieces) {
                // The hole is punched by who has the lock alone.
                drop((write, writing));
                // The room of the gap goes back, whatever part of it was written.
                if let Err(error) = self.punch(gap) {
                    tracing::debug!(url = self.url, %error, "could not give back what was not written");
                }
                return Err(StoreError::Write {
                    url: self.url.clone(),
                    at: gap.start(),
                    count: gap.len() as usize,
                    source,
                });
            }
            fault::point("present");
        }
        Ok(())
    }

    /// Writes a gap whose room is taken, of the bytes that begin at `at`; wakes those who wait for it. For who holds the
    /// lock that writers share.
    pub(in crate::store) fn write_gap(
        &self,
        write: &Write<'_>,
        gap: ByteRange,
        at: ByteOffset,
        pieces: &[impl AsRef<[u8]>],
    ) -> io::Result<()> {
        let absent = part(pieces, (gap.start() - at) as usize, gap.len() as usize);
        write.measure(|| self.durability.body().write(gap.start(), &absent))?;
        fault::point("written");
        // The sums' lock is released before `progress` is taken: a reader's look never waits for a hash.
        self.integrity.wrote(gap.start(), &absent);
        self.presence.arrived(gap);
        Ok(())
    }

    /// [`Object::write_missing`] where that is, as far as can be told, a copy into memory: the room is laid out,
    /// nobody takes any away, and the disk keeps up. `false` where it is not, or fails; some of it may be present then.
    pub(in crate::store) fn write_inline(&self, at: ByteOffset, pieces: &[impl AsRef<[u8]>]) -> bool {
        self.write_inline_at(Instant::now(), at, pieces)
    }

    fn write_inline_at(&self, now: Instant, at: ByteOffset, pieces: &[impl AsRef<[u8]>]) -> bool {
        let bytes: usize = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let Some(range) = ByteRange::with_len(at, bytes as u64) else {
            return true;
        };
        if !self.is_materialized() {
            return false;
        }
        let Some(_leave) = self.shared.inline_writes.try_inline(now) else {
            return false;
        };
        // While this is held nobody takes room away.
        let Some(_writing) = self.durability.keep_pages_now() else {
            return false;
        };
        let Some(gaps) = self.presence.gaps_with_room(range) else {
            return false;
        };
        let write = self.shared.inline_writes.begin(now);
        gaps.into_iter().all(|gap| {
            let written = self.write_gap(&write, gap, at, pieces);
            match &written {
                Ok(()) => fault::point("present"),
                Err(error) => tracing::debug!(url = self.url, %error, "what was to be written at once is tried again"),
            }
            written.is_ok()
        })
    }
}

/// The `len` bytes from the one numbered `from` on, in pieces.
fn part(pieces: &[impl AsRef<[u8]>], mut from: usize, mut len: usize) -> Vec<&[u8]> {
    let mut part = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let piece = piece.as_ref();
        let rest = &piece[from.min(piece.len())..];
        from -= piece.len() - rest.len();
        let rest = &rest[..len.min(rest.len())];
        len -= rest.len();
        if !rest.is_empty() {
            part.push(rest);
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{film, key, open, representation};
    use std::time::Duration;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    #[test]
    fn inline_writes_need_preallocated_room_and_no_retract_under_way() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, MIB, 8 * MIB);
        let step = [[9; 64 * 1024]; 2];
        let write_of = |object: &Object, at: u64| {
            // The writes of this test itself may have been slow, and a rest is over after a minute.
            let later = Instant::now() + Duration::from_secs(120);
            store.shared.inline_writes.pretend(later, true);
            object.write_inline_at(later, at, &step)
        };
        // A write behind a megabyte gets a megabyte preallocated.
        assert!(!write_of(&object, MIB));
        store.write(&object, MIB, &[[7; 4096]]).expect("room");
        let at = MIB + 4096;
        store.shared.inline_writes.pretend(Instant::now(), false);
        assert!(!object.write_inline(at, &step), "the disk was slow a moment ago");
        let alone = object.durability.hold_pages_alone();
        assert!(!write_of(&object, at), "somebody takes bytes away");
        drop(alone);
        assert!(!write_of(&object, 4 * MIB), "no room is taken for it");
        assert_eq!(
            object.presence.present().total(),
            MIB + 4096,
            "nothing of that was written"
        );
        assert!(write_of(&object, at));
        assert_eq!(object.presence.present().total(), at + 128 * 1024);
        assert!(
            object
                .read_blocking(at, 4096)
                .expect("written")
                .iter()
                .all(|byte| *byte == 9)
        );
        assert!(write_of(&object, at), "what is there already is not written again");
        let new = store.create(&key(2), representation(MIB)).expect("made").object;
        assert!(!write_of(&new, 0), "it has no file yet");
    }
}
