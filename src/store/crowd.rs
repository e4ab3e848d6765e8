//! Blocks that several fast readers on this machine want at the same moment, in memory.
//!
//! `sendfile` gives a socket the pages of a file in pieces of 64 KiB, each of which wakes a client that waits on this
//! machine; for a client elsewhere the network card takes them without a copy. One call with bytes that lie in memory
//! wakes it a fifth as often, and where many read the same, the copy comes out of the processor's caches
//! (`docs/decisions/0016-what-a-crowd-reads.md`).

use super::object::Object;
use super::reading;
use crate::ranges::{ByteOffset, ByteRange};
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The length of a block, in bytes.
const BLOCK_BYTES: u64 = 1 << 20;

/// So many readers that come to a block within this time are a crowd.
const CROWD: u32 = 3;
const TOGETHER: Duration = if cfg!(test) {
    // How fast the machine is at the moment is not what is tested.
    Duration::from_secs(60)
} else {
    Duration::from_millis(50)
};

/// The most blocks in memory, and the most that are watched.
const MOST_BLOCKS: usize = 32;
const MOST_WATCHED: usize = 256;

/// A block that nobody has taken for so long is given back.
const IDLE: Duration = Duration::from_secs(1);

/// What crowds read now.
#[derive(Debug, Default)]
pub(super) struct Crowds(Mutex<VecDeque<Watched>>);

/// A block to which readers come.
#[derive(Debug)]
struct Watched {
    /// Of which object; no two have the same.
    generation: u64,
    block: u64,
    /// The object's, when the block was found to be here: nothing was taken away since.
    epoch: u64,
    since: Instant,
    readers: u32,
    used: Instant,
    bytes: Option<Arc<Vec<u8>>>,
}

impl Crowds {
    fn watched(&self) -> MutexGuard<'_, VecDeque<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what nobody has taken for a while: to be called every second or so.
    pub(super) fn forget_idle(&self, now: Instant) {
        let mut all = self.watched();
        all.retain(|watched| now.saturating_duration_since(watched.used) < IDLE);
    }

    /// The bytes in memory.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let watched = self.watched();
        watched
            .iter()
            .flat_map(|watched| &watched.bytes)
            .map(|bytes| bytes.len())
            .sum()
    }

    /// A block, where it is in memory.
    fn find(&self, generation: u64, block: u64, epoch: u64) -> Option<Arc<Vec<u8>>> {
        let mut all = self.watched();
        let index = all.iter().position(|watched| watched.is(generation, block))?;
        if all[index].epoch != epoch {
            all.remove(index);
            return None;
        }
        let watched = &mut all[index];
        let bytes = watched.bytes.clone()?;
        watched.used = Instant::now();
        Some(bytes)
    }

    /// A reader has come to a block that is not in memory; whether it is to be brought there for those who follow.
    fn come_to(&self, generation: u64, block: u64, epoch: u64) -> bool {
        let now = Instant::now();
        let mut all = self.watched();
        let found = all
            .iter_mut()
            .find(|watched| watched.is(generation, block) && watched.epoch == epoch);
        let Some(watched) = found else {
            if all.len() >= MOST_WATCHED {
                all.pop_front();
            }
            all.push_back(Watched {
                generation,
                block,
                epoch,
                since: now,
                readers: 1,
                used: now,
                bytes: None,
            });
            return false;
        };
        if now - watched.since > TOGETHER {
            (watched.since, watched.readers) = (now, 0);
        }
        watched.used = now;
        watched.readers += 1;
        // Exactly then: whoever comes while it is read does not read it as well.
        watched.readers == CROWD && watched.bytes.is_none()
    }

    /// A buffer for one more block: that of the one that was not taken for longest, where there are enough.
    fn spare(&self) -> Vec<u8> {
        let mut all = self.watched();
        if all.iter().filter(|watched| watched.bytes.is_some()).count() < MOST_BLOCKS {
            return Vec::new();
        }
        let in_memory = all.iter_mut().filter(|watched| watched.bytes.is_some());
        let oldest = in_memory.min_by_key(|watched| watched.used);
        let oldest = oldest.and_then(|watched| watched.bytes.take());
        // Somebody may still be sending it.
        oldest.and_then(|bytes| Arc::try_unwrap(bytes).ok()).unwrap_or_default()
    }

    fn keep(&self, generation: u64, block: u64, epoch: u64, bytes: Arc<Vec<u8>>) {
        let mut all = self.watched();
        let watched = all
            .iter_mut()
            .find(|watched| watched.is(generation, block) && watched.epoch == epoch);
        if let Some(watched) = watched {
            watched.bytes = Some(bytes);
        }
    }
}

impl Watched {
    fn is(&self, generation: u64, block: u64) -> bool {
        self.generation == generation && self.block == block
    }
}

impl Object {
    /// [`Object::send_now`] for a fast reader on this machine: what a crowd reads is sent from memory.
    ///
    /// # Errors
    /// As there.
    pub fn send_to_crowd(&self, to: impl AsFd, at: ByteOffset, len: usize) -> io::Result<Option<usize>> {
        let end = at.saturating_add(len as u64);
        let mut from = at;
        let mut block = self.crowd_block(from);
        while from < end {
            let mut until = end.min(block_after(from));
            let sent = match block.take() {
                Some(bytes) => {
                    let place = (from % BLOCK_BYTES) as usize;
                    let bytes = &bytes[place..place + (until - from) as usize];
                    let sent = rustix::net::send(&to, bytes, SendFlags::NOSIGNAL);
                    sent.map(Some).map_err(io::Error::from)
                }
                None => {
                    // All that is not in memory in one call.
                    while until < end && block.is_none() {
                        block = self.crowd_block(until);
                        if block.is_none() {
                            until = end.min(block_after(until));
                        }
                    }
                    let sent = self.send_now(&to, from, (until - from) as usize);
                    if let Ok(Some(count)) = sent {
                        self.gather(from, count as u64);
                    }
                    sent
                }
            };
            match sent {
                Ok(Some(count)) => from += count as u64,
                // It is met again where something was sent before it.
                _ if from > at => break,
                sent => return sent,
            }
            if from < until {
                break;
            }
            if block.is_none() && from < end {
                block = self.crowd_block(from);
            }
        }
        Ok(usize::try_from(from - at).ok())
    }

    /// The block around `at`, where it is in memory and may be sent.
    fn crowd_block(&self, at: ByteOffset) -> Option<Arc<Vec<u8>>> {
        // Before it is looked whether the bytes are here: what is taken away afterwards raises it.
        let epoch = self.epoch();
        let block = at / BLOCK_BYTES;
        self.is_sendable(block)
            .then(|| self.shared.crowds.find(self.generation, block, epoch))?
    }

    /// Whether all of a block is here, and known to be right.
    fn is_sendable(&self, block: u64) -> bool {
        let Some(range) = self.length().and_then(|length| range_of(block, length)) else {
            return false;
        };
        !self.has_pass_through() && self.is_checked(range.start(), range.len() as usize) && self.covers(range)
    }

    /// Counts a reader that was sent `count` bytes from `from` on; brings the blocks into memory to which a crowd has
    /// come with it, for those who follow.
    fn gather(&self, from: ByteOffset, count: u64) {
        let crowds = &self.shared.crowds;
        for block in from.div_ceil(BLOCK_BYTES)..(from + count).div_ceil(BLOCK_BYTES) {
            let epoch = self.epoch();
            if self.is_sendable(block)
                && crowds.come_to(self.generation, block, epoch)
                && let Some(bytes) = self.read_block(block, crowds.spare())
            {
                crowds.keep(self.generation, block, epoch, Arc::new(bytes));
            }
        }
    }

    /// A block, where the kernel has all of it in memory.
    fn read_block(&self, block: u64, mut space: Vec<u8>) -> Option<Vec<u8>> {
        let range = range_of(block, self.length()?)?;
        space.resize(usize::try_from(range.len()).ok()?, 0);
        // Who gives pages back waits for this.
        let _kept = self.io.try_read().ok()?;
        reading::fill_now(self.body.file().ok()?, range.start(), &mut space)?;
        Some(space)
    }
}

/// Where the block after that of `at` begins.
fn block_after(at: ByteOffset) -> ByteOffset {
    (at / BLOCK_BYTES + 1).saturating_mul(BLOCK_BYTES)
}

/// The bytes of a block, of an object of that length.
fn range_of(block: u64, length: u64) -> Option<ByteRange> {
    let start = block.checked_mul(BLOCK_BYTES)?;
    ByteRange::new(start, length.min(start.saturating_add(BLOCK_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{film, open};
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    /// Reads the object as a fast client does, in calls of `call` bytes; what it got.
    fn read(object: &Object, length: u64, call: usize) -> Vec<u8> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        let (mut got, mut at) = (Vec::new(), 0);
        while at < length {
            let len = call.min((length - at) as usize);
            let sent = object.send_to_crowd(&ours, at, len).expect("a socket");
            let sent = sent.expect("bytes that are here");
            let mut bytes = vec![0; sent];
            theirs.read_exact(&mut bytes).expect("what was sent");
            got.extend(bytes);
            at += sent as u64;
        }
        got
    }

    fn is_all(bytes: &[u8], length: u64, value: u8) -> bool {
        bytes.len() as u64 == length && bytes.iter().all(|byte| *byte == value)
    }

    #[test]
    fn what_a_crowd_reads_is_read_from_the_file_once() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let length = 2 * MIB + 5;
        let object = film(&store, 1, length, length);
        for _ in 0..2 {
            assert!(is_all(&read(&object, length, 700_000), length, 7));
            assert_eq!(object.shared.crowds.bytes(), 0, "two are no crowd");
        }
        assert!(is_all(&read(&object, length, 700_000), length, 7));
        assert_eq!(object.shared.crowds.bytes() as u64, length);
        // Behind its back: what is sent from now on is sent from memory.
        let file = std::fs::OpenOptions::new().write(true).open(object.body.path());
        let file = file.expect("opened");
        file.write_all_at(&vec![8; length as usize], 0).expect("written");
        assert!(is_all(&read(&object, length, 2 << 20), length, 7));
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let sent = object.send_to_crowd(&ours, MIB - 10, 20).expect("a socket");
        assert_eq!(sent, Some(20), "across the end of a block");
        let mut bytes = [0; 20];
        theirs.read_exact(&mut bytes).expect("what was sent");
        assert_eq!(bytes, [7; 20]);
        object.shared.crowds.forget_idle(Instant::now() + IDLE);
        assert_eq!(object.shared.crowds.bytes(), 0);
        assert!(is_all(&read(&object, length, 700_000), length, 8), "the file again");
    }

    #[test]
    fn what_was_taken_away_is_not_sent_from_memory() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, MIB, MIB);
        for _ in 0..4 {
            assert!(is_all(&read(&object, MIB, 1 << 20), MIB, 7));
        }
        assert_eq!(object.shared.crowds.bytes() as u64, MIB);
        object
            .retract(ByteRange::new(0, 4096).expect("not empty"))
            .expect("taken away");
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        assert_eq!(object.send_to_crowd(&ours, 0, 100).expect("a socket"), None);
        // What comes in its place is what is read.
        store.write(&object, 0, &[[9; 4096]]).expect("room");
        let got = read(&object, MIB, 1 << 20);
        assert!(is_all(&got[..4096], 4096, 9) && is_all(&got[4096..], MIB - 4096, 7));
    }

    #[test]
    fn the_memory_of_crowds_is_bounded() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let length = (MOST_BLOCKS as u64 + 4) * MIB;
        let object = film(&store, 1, length, length);
        for at in (0..length).step_by(MIB as usize) {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            for _ in 0..CROWD {
                let sent = object.send_to_crowd(&ours, at, 1000).expect("a socket");
                theirs.read_exact(&mut vec![0; sent.expect("here")]).expect("sent");
            }
            let most = ((at / MIB + 1) as usize).min(MOST_BLOCKS) << 20;
            assert_eq!(object.shared.crowds.bytes(), most);
        }
    }
}
