//! Whether a write waits for anything but a copy into memory.
//!
//! Most writes of a fill do not: their room is laid out (ahead.rs), and the kernel writes it out later. A fill that makes
//! such a write where it has received the bytes saves two changes of threads a piece. But where more was written than the
//! disk keeps up with, the kernel lets a writer wait, and everything else on that thread with him. So it is measured:
//! after some writes in a row that were prompt the next may be made by a thread that is not to wait; one that was not
//! ends that for a second, and for twice as long each time that trust was misplaced
//! (`docs/decisions/0021-writes-where-they-arrive.md`).

use super::object::Object;
use super::space::pages;
use crate::ranges::ByteRange;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// A piece that takes longer has waited for the disk, or for a processor for so long that nobody is to wait with it.
const PROMPT: Duration = Duration::from_millis(20);

/// So many in a row must have been prompt.
const ENOUGH: u32 = 16;

/// How long no write is believed to be prompt after one that was not, and how often that doubles at most.
const REST: Duration = Duration::from_secs(1);
const MOST_DOUBTS: u32 = 6;

/// One doubt is forgiven after so long a time of trust.
const FORGIVEN_AFTER: Duration = Duration::from_secs(64);

/// What the last writes to the data directory have come to.
#[derive(Debug, Default)]
pub(super) struct Writes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    /// How often trust was misplaced lately.
    doubts: u32,
    rests_until: Option<Instant>,
    /// When trust began, or a doubt was last forgiven.
    since: Option<Instant>,
}

impl State {
    fn is_trusted(&self, now: Instant) -> bool {
        self.in_a_row >= ENOUGH && self.rests_until.is_none_or(|until| until <= now)
    }
}

impl Writes {
    fn are_prompt(&self, now: Instant) -> bool {
        self.state().is_trusted(now)
    }

    /// A write that has ended now took so long.
    pub(super) fn took(&self, now: Instant, time: Duration) {
        let mut state = self.state();
        let was_trusted = state.is_trusted(now);
        if time > PROMPT {
            state.doubts = (state.doubts + u32::from(was_trusted)).min(MOST_DOUBTS);
            state.rests_until = now.checked_add(REST * (1 << state.doubts.saturating_sub(1)));
            (state.in_a_row, state.since) = (0, None);
            return;
        }
        state.in_a_row = (state.in_a_row + 1).min(ENOUGH);
        if !was_trusted {
            return;
        }
        let since = *state.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= FORGIVEN_AFTER {
            state.doubts = state.doubts.saturating_sub(1);
            state.since = Some(now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    /// Whether [`Object::write_missing`] of the range is, as far as can be told, a copy into memory: its room is laid
    /// out, nobody takes any away, and the disk keeps up.
    pub fn writes_at_once(&self, range: ByteRange) -> bool {
        let is_free = || !matches!(self.io.try_read(), Err(TryLockError::WouldBlock));
        self.is_settled()
            && self.shared.writes.are_prompt(Instant::now())
            && self.progress().held.covers(pages(range))
            && is_free()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{film, open};
    use super::*;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    fn know_to_be_prompt(writes: &Writes, now: Instant) {
        (0..ENOUGH).for_each(|_| writes.took(now, PROMPT));
    }

    #[test]
    fn one_slow_write_ends_trust_for_a_while_and_the_next_for_longer() {
        let (writes, mut now) = (Writes::default(), Instant::now());
        assert!(!writes.are_prompt(now));
        know_to_be_prompt(&writes, now);
        assert!(writes.are_prompt(now));
        for doubts in 1..=MOST_DOUBTS + 2 {
            writes.took(now, PROMPT * 2);
            know_to_be_prompt(&writes, now);
            let rest = REST * (1 << (doubts.min(MOST_DOUBTS) - 1));
            assert!(!writes.are_prompt(now + rest - Duration::from_millis(1)), "{doubts}");
            now += rest;
            assert!(writes.are_prompt(now), "{doubts}");
        }
        // Slow ones that were not trusted are no mistakes.
        writes.took(now, PROMPT * 2);
        let doubts = writes.state().doubts;
        writes.took(now, PROMPT * 2);
        assert_eq!(writes.state().doubts, doubts);
        assert!(!writes.are_prompt(now + REST * 64), "none was prompt since");
    }

    #[test]
    fn doubts_are_forgiven_by_times_of_trust() {
        let (writes, mut now) = (Writes::default(), Instant::now());
        know_to_be_prompt(&writes, now);
        writes.took(now, PROMPT * 2);
        assert_eq!(writes.state().doubts, 1);
        now += REST;
        know_to_be_prompt(&writes, now);
        writes.took(now, PROMPT);
        writes.took(now + FORGIVEN_AFTER / 2, PROMPT);
        assert_eq!(writes.state().doubts, 1);
        writes.took(now + FORGIVEN_AFTER, PROMPT);
        assert_eq!(writes.state().doubts, 0);
    }

    #[test]
    fn a_write_is_a_copy_only_where_its_room_is_laid_out_and_nobody_takes_any_away() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, MIB, 8 * MIB);
        let step = |at: u64| ByteRange::with_len(at, 128 * 1024).expect("a range");
        // What follows a megabyte is given a megabyte ahead.
        store.write(&object, MIB, &[[7; 4096]]).expect("room");
        let is_laid_out = object.progress().held.covers(pages(step(MIB + 4096)));
        assert!(is_laid_out, "as ahead.rs has it");
        let writes_at_once = |at: u64| {
            know_to_be_prompt(&store.shared.writes, Instant::now());
            object.writes_at_once(step(at))
        };
        object.shared.writes.took(Instant::now(), PROMPT * 2);
        assert!(!object.writes_at_once(step(MIB + 4096)), "the disk does not keep up");
        *object.shared.writes.state() = State::default();
        assert!(writes_at_once(MIB + 4096));
        assert!(!writes_at_once(4 * MIB), "no room is taken for it");
        let alone = object.io.write().expect("no panic");
        assert!(!writes_at_once(MIB + 4096), "somebody takes bytes away");
        drop(alone);
        let new = store.create(&super::super::tests::key(2), super::super::tests::representation(MIB));
        assert!(!new.expect("made").object.writes_at_once(step(0)), "it has no file yet");
    }
}
