//! Bytes of an object from the page cache to a socket, without a copy of ours (`sendfile`).
//!
//! A read into memory can be refused where it would wait for the disk, and what was read is believed only if nothing
//! was taken away meanwhile. `sendfile` knows neither, so both are settled before it is called:
//!
//! - The last byte of each stretch is read without waiting. What is cached was read or written in stretches and is
//!   dropped in that order, so a stretch whose end is there is there. Where one was not after all, the call waits for
//!   the disk, once: nothing is sent this way for a while after. Waiting for a processor takes as long on a busy
//!   machine, so the kernel is asked whether the thread has read from a disk. Single stretches of what is asked for
//!   all the time are looked for now and then only (residency.rs).
//! - No page is given back while the lock that writers share is held, and the caller holds it (source.rs). Pages that a socket holds already keep their
//!   bytes when the file gives them back, since whole pages are given back and never written to again.

use super::pread;
use super::residency::ResidencyProbe;
use crate::clock::Instant;
use crate::gate::{Gate, GateRules, millis};
use crate::ranges::ByteOffset;
use rustix::io::Errno;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// How far apart the bytes are that are looked for: so far, or so many in what is sent at once. 64 KiB is what
/// `sendfile` moves at a time, the 16 pages of the pipe in the kernel; eight looks in a call of 2 MiB instead of 32
/// were measured (`docs/decisions/0014-a-lane-of-our-own.md`).
const STRETCH_BYTES: u64 = 64 * 1024;
const STRETCHES: u64 = 8;

/// A call that takes longer may have waited for the disk, or for a processor: the kernel is asked then
/// (`docs/decisions/0019-looks-in-hot-objects.md`). A judgement: a call of 2 MiB takes 0.2 ms.
const SUSPECT: Duration = Duration::from_millis(5);

/// No processor is waited for so long. A judgement, for kernels that do not say what a thread has read.
const WAITED: Duration = Duration::from_millis(250);

/// A thread's count of disk reads is looked up anew after this time. A judgement: what the thread reads for other
/// reasons in so long may be taken for a wait of a call, and a look-up reads a file of `/proc`.
const READS_LAST: Duration = Duration::from_secs(1);

/// Sending is tried until it has waited for the disk, and again after a second.
static RULES: GateRules = GateRules {
    successes: 0,
    period: Duration::from_secs(1),
    is_earned_anew: false,
    rest: Duration::from_secs(1),
    max_penalty: 0,
    forgiven_after: 1,
};

/// Whether sending waits for the disk here, as far as is known.
#[derive(Debug)]
pub struct Sending(Gate);

impl Sending {
    /// Nothing is known: sending is tried.
    pub const fn new() -> Self {
        Self(Gate::new(&RULES))
    }
}

impl Default for Sending {
    fn default() -> Self {
        Self::new()
    }
}

impl Sending {
    /// A call that may send begins; `None` while sending rests.
    pub(in crate::store) fn begin(&self) -> Option<SendCall<'_>> {
        let begun = Instant::now();
        let began = millis(begun);
        let reads = ThreadReads::known(begun);
        let Self(gate) = self;
        gate.is_open(began).then_some(SendCall {
            gate,
            begun,
            began,
            reads,
        })
    }
}

/// A call that sends, from its beginning.
#[derive(Debug)]
pub(in crate::store) struct SendCall<'a> {
    gate: &'a Gate,
    begun: Instant,
    /// The same by [`millis`].
    began: u64,
    reads: ThreadReads,
}

/// The bytes of a file that a call is to send.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Stretch<'a> {
    /// The object of the bytes, for the log.
    pub(in crate::store) url: &'a str,
    pub(in crate::store) file: &'a File,
    pub(in crate::store) at: ByteOffset,
    pub(in crate::store) len: usize,
    /// The complete length of the object, where it is known.
    pub(in crate::store) length: Option<u64>,
}

impl SendCall<'_> {
    /// Sends up to so many bytes to a socket that does not wait; how many. `None` where they are to be read instead:
    /// they are not in memory, or the file system does not do this. `found` is called when they were found to be in
    /// memory, before they are sent.
    ///
    /// # Errors
    /// The error of the socket; [`io::ErrorKind::WouldBlock`] where it takes nothing now.
    pub(in crate::store) fn send(
        &self,
        residency: &ResidencyProbe,
        stretch: &Stretch<'_>,
        found: impl FnOnce(),
        to: impl AsFd,
    ) -> io::Result<Option<usize>> {
        let look = self.look_for(residency, stretch);
        if look == Look::Missed {
            return Ok(None);
        }
        found();
        let sent = send(to, stretch.file, stretch.at, stretch.len);
        let ended = Instant::now();
        // Elapsed time alone does not tell a disk from a busy processor: `ThreadReads` does.
        if self.reads.has_waited(self.begun, ended) {
            let (url, at) = (stretch.url, stretch.at);
            tracing::debug!(url, at, "sending has waited for the disk; it rests");
            self.gate.failed(millis(ended), false);
            residency.missed(millis(ended), look == Look::LeftOut);
        } else if let (Look::Found { last, length }, Ok(Some(_))) = (look, &sent) {
            residency.found(self.began, last, length);
        }
        sent
    }

    /// Looks for the bytes in memory, as far as that is due.
    fn look_for(&self, residency: &ResidencyProbe, stretch: &Stretch<'_>) -> Look {
        let Stretch { file, at, len, .. } = *stretch;
        let last = at + (len as u64).max(1) - 1;
        // A kernel that does not tell a thread's disk reads cannot show that a call has waited: probe each time.
        let length = stretch.length.filter(|_| self.reads.bytes.is_some());
        let length = length.filter(|_| len as u64 <= STRETCH_BYTES);
        let is_trusted = length.is_some_and(|length| residency.may_skip(self.began, last, length));
        if is_trusted && !ResidencyProbe::is_turn() {
            return Look::LeftOut;
        }
        if !is_in_memory(file, at, len) {
            residency.missed(self.began, is_trusted);
            // The kernel has begun to read it, on this thread's account.
            ThreadReads::forget();
            return Look::Missed;
        }
        match length {
            Some(length) => Look::Found { last, length },
            None => Look::FoundMore,
        }
    }
}

/// The outcome of the residency probe before a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    LeftOut,
    Missed,
    /// A single stretch, of which this is the last byte, in an object of this length.
    Found {
        last: ByteOffset,
        length: u64,
    },
    /// Several stretches.
    FoundMore,
}

/// A thread's disk reads, lately: where a call takes long, the kernel is asked whether they were more
/// afterwards. What the thread has read for other reasons, its own code for one, is no more than that of a second.
#[derive(Debug, Clone, Copy)]
struct ThreadReads {
    at: Instant,
    /// In bytes. `None` where the kernel does not say.
    bytes: Option<u64>,
}

thread_local! {
    static READS: Cell<Option<ThreadReads>> = const { Cell::new(None) };
}

impl ThreadReads {
    /// The disk reads of this thread, as they were a second before `now` or later.
    fn known(now: Instant) -> Self {
        let known = READS
            .get()
            .filter(|reads| now.saturating_duration_since(reads.at) < READS_LAST);
        known.unwrap_or_else(|| Self::look(now))
    }

    fn look(now: Instant) -> Self {
        let io = std::fs::read_to_string("/proc/thread-self/io").ok();
        let reads = Self {
            at: now,
            bytes: io.and_then(|io| read_bytes(&io)),
        };
        READS.set(Some(reads));
        reads
    }

    /// The count of disk reads is to be looked up anew.
    fn forget() {
        READS.set(None);
    }

    /// Whether a call has waited for the disk.
    fn has_waited(&self, begun: Instant, ended: Instant) -> bool {
        let took = ended - begun;
        took >= SUSPECT && (Self::look(ended).bytes > self.bytes || took > WAITED)
    }
}

/// The bytes that a thread has had read from disks, in what the kernel says of it.
fn read_bytes(io: &str) -> Option<u64> {
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "))?;
    line.parse().ok()
}

/// Sends up to `len` bytes at `at` of a file whose bytes nobody changes to a socket that does not wait; how many.
/// `None` where they are to be read instead: they are not in memory, or the file system does not do this.
///
/// # Errors
/// As [`send_now`](crate::store::Source::send_now) of a stored object.
pub fn send_file_now(
    sending: &Sending,
    file: &File,
    to: impl AsFd,
    at: ByteOffset,
    len: usize,
) -> io::Result<Option<usize>> {
    let Sending(gate) = sending;
    let begun = Instant::now();
    let reads = ThreadReads::known(begun);
    if !gate.is_open(millis(begun)) {
        return Ok(None);
    }
    if !is_in_memory(file, at, len) {
        // The kernel has begun to read it, on this thread's account.
        ThreadReads::forget();
        return Ok(None);
    }
    let sent = send(to, file, at, len);
    let ended = Instant::now();
    if reads.has_waited(begun, ended) {
        tracing::debug!(at, "sending a file has waited for the disk; it rests");
        gate.failed(millis(ended), false);
    }
    sent
}

/// Sends from the page cache.
///
/// # Errors
/// As [`SendCall::send`].
fn send(to: impl AsFd, file: &File, at: ByteOffset, len: usize) -> io::Result<Option<usize>> {
    let mut from = at;
    match rustix::fs::sendfile(to, file, Some(&mut from), len) {
        // The file ends here: reading tells why.
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(count)),
        Err(Errno::IO | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::OVERFLOW) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the last byte of each stretch can be read without waiting.
fn is_in_memory(file: &File, at: ByteOffset, len: usize) -> bool {
    let end = at + len as u64;
    let stretch = (len as u64 / STRETCHES).max(STRETCH_BYTES);
    let mut last = at;
    while last < end {
        last = end.min(last + stretch);
        if !pread::is_in_memory(file, last - 1) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::object::Object;
    use crate::store::tests::{film, open};
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use tempfile::TempDir;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Sends the first page of the object so often; whether it is then still looked for each time.
    fn send_first_page(object: &Object, times: usize) -> bool {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut page = [0; 4096];
        for _ in 0..times {
            if let Some(sent) = object.source().send_now(&ours, 0, page.len()).expect("a socket") {
                theirs.read_exact(&mut page[..sent]).expect("what was sent");
                assert!(page[..sent].iter().all(|byte| *byte == 7));
            }
        }
        let now = millis(Instant::now());
        !object
            .hot
            .residency()
            .may_skip(now, 4095, object.length().expect("known"))
    }

    #[test]
    fn a_busy_body_is_probed_rarely_until_its_pages_are_dropped() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, 1 << 20, 1 << 20);
        assert!(send_first_page(&object, 100));
        // A busy machine may need more than a second for as many as it takes, or sending rests for one.
        let begun = Instant::now();
        while send_first_page(&object, 1500) {
            assert!(begun.elapsed() < PATIENCE, "it is looked for each time");
        }
        let file = object.durability.body().file().expect("a file");
        file.sync_all().expect("on the disk");
        let drop_pages = || rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("told");
        drop_pages();
        if pread::is_in_memory(file, 0) {
            return; // A file system that lies in memory drops nothing.
        }
        while object.hot.residency().penalty() == 0 {
            assert!(begun.elapsed() < PATIENCE, "what is dropped is not noticed");
            // The second of trust may be over: sending as often once more brings it back.
            if send_first_page(&object, 1500) {
                continue;
            }
            for _ in 0..64 {
                drop_pages();
                send_first_page(&object, 1);
            }
        }
    }

    #[test]
    fn disk_reads_of_a_thread_come_from_the_kernels_counter() {
        assert_eq!(read_bytes("rchar: 5\nread_bytes: 4096\nwrite_bytes: 1\n"), Some(4096));
        assert_eq!(read_bytes(""), None);
        let now = Instant::now();
        let reads = ThreadReads::known(now);
        assert!(!reads.has_waited(now, now + SUSPECT / 2));
        assert!(reads.has_waited(now, now + WAITED * 2));
        let fewer = ThreadReads {
            bytes: None,
            ..ThreadReads::look(now)
        };
        let is_told = ThreadReads::look(now).bytes.is_some();
        assert_eq!(fewer.has_waited(now, now + SUSPECT), is_told);
    }
}
