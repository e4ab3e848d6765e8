//! The inline write gate: whether a write may be made on the thread that received the bytes.
//!
//! Most writes of a fill do not: their room is laid out (preallocate.rs), and the kernel writes it out later. A fill that makes
//! such a write where it has received the bytes saves two changes of threads a piece. But where more was written than the
//! disk keeps up with, the kernel lets a writer wait, and everything else on that thread with him. So it is measured:
//! after some writes in a row that were prompt the next may be made by a thread that is not to wait, while none hangs, and
//! one at a time; one that was not prompt ends that for a second, and for twice as long each time that trust was misplaced
//! (`docs/decisions/0021-writes-where-they-arrive.md`).

use super::fault;
use super::object::Object;
use super::space::pages;
use crate::ranges::{ByteOffset, ByteRange};
use crate::sync::{lock, unless_held};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A piece that takes longer has waited for the disk, or for a processor for so long that nobody is to wait with it.
const PROMPT: Duration = Duration::from_millis(20);

/// While one takes longer, no other is made by a thread that is not to wait.
const HANGS: Duration = Duration::from_millis(1);

/// Writes in a row that must have been prompt before one is made inline.
const ENOUGH: u32 = 16;

/// How long no write is believed to be prompt after one that was not, and how often that doubles at most.
const REST: Duration = Duration::from_secs(1);
const MAX_PENALTY: u32 = 6;

/// The penalty falls by one after this time of trust.
const FORGIVEN_AFTER: Duration = Duration::from_secs(64);

/// The gate, fed by the times that writes to the data directory took.
#[derive(Debug, Default)]
pub(super) struct InlineWriteGate {
    state: Mutex<State>,
    /// Held by the one that is made by a thread that is not to wait: should it wait after all, the others do not.
    permit: Mutex<()>,
}

/// A write under way, from before its room is taken.
pub(super) struct Write<'a> {
    writes: &'a InlineWriteGate,
    number: u64,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    /// Writes under way, and since when.
    under_way: Vec<(u64, Instant)>,
    in_a_row: u32,
    /// How often trust was misplaced lately.
    penalty: u32,
    rests_until: Option<Instant>,
    /// When trust began, or a doubt was last forgiven.
    since: Option<Instant>,
}

impl State {
    fn is_trusted(&self, now: Instant) -> bool {
        self.in_a_row >= ENOUGH && self.rests_until.is_none_or(|until| until <= now)
    }

    fn hangs(&self, now: Instant) -> bool {
        let begins = self.under_way.iter().map(|(_, begun)| *begun);
        begins
            .min()
            .is_some_and(|begun| now.saturating_duration_since(begun) >= HANGS)
    }
}

impl InlineWriteGate {
    /// Leave to make one write that is a copy and nothing more, as far as can be told.
    fn try_inline(&self, now: Instant) -> Option<MutexGuard<'_, ()>> {
        let leave = unless_held(self.permit.try_lock())?;
        let state = self.state();
        (state.is_trusted(now) && !state.hangs(now)).then_some(leave)
    }

    pub(super) fn begin(&self, now: Instant) -> Write<'_> {
        let mut state = self.state();
        state.begun += 1;
        let number = state.begun;
        state.under_way.push((number, now));
        Write { writes: self, number }
    }

    /// A write that has ended now took so long.
    fn took(&self, now: Instant, time: Duration) {
        let mut state = self.state();
        let was_trusted = state.is_trusted(now);
        if time > PROMPT {
            state.penalty = (state.penalty + u32::from(was_trusted)).min(MAX_PENALTY);
            state.rests_until = now.checked_add(REST * (1 << state.penalty.saturating_sub(1)));
            (state.in_a_row, state.since) = (0, None);
            return;
        }
        state.in_a_row = (state.in_a_row + 1).min(ENOUGH);
        if !was_trusted {
            return;
        }
        let since = *state.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= FORGIVEN_AFTER {
            state.penalty = state.penalty.saturating_sub(1);
            state.since = Some(now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Write<'_> {
    /// Runs `write` and notes how long it took. A failed write counts as a slow one.
    pub(super) fn measure<E>(&self, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let begun = Instant::now();
        let written = write();
        let ended = Instant::now();
        let took = if written.is_ok() { ended - begun } else { Duration::MAX };
        self.writes.took(ended, took);
        written
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let mut state = self.writes.state();
        state.under_way.retain(|(number, _)| *number != self.number);
    }
}

impl Object {
    /// [`Object::write_missing`] where that is, as far as can be told, a copy into memory: the room is laid out,
    /// nobody takes any away, and the disk keeps up. `false` where it is not, or fails; some of it may be present then.
    pub fn write_inline(&self, at: ByteOffset, pieces: &[impl AsRef<[u8]>]) -> bool {
        let bytes: usize = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let Some(range) = ByteRange::with_len(at, bytes as u64) else {
            return true;
        };
        if !self.is_materialized() {
            return false;
        }
        let now = Instant::now();
        let Some(_leave) = self.shared.inline_writes.try_inline(now) else {
            return false;
        };
        // While this is held nobody takes room away.
        let Some(_writing) = unless_held(self.io.try_read()) else {
            return false;
        };
        let gaps: Vec<ByteRange> = {
            let progress = self.progress();
            if !progress.held.covers(pages(range)) {
                return false;
            }
            progress.present.gaps(range).collect()
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

#[cfg(test)]
mod tests {
    use super::super::tests::{film, key, open, representation};
    use super::*;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    fn know_to_be_prompt(writes: &InlineWriteGate, now: Instant) {
        (0..ENOUGH).for_each(|_| writes.took(now, PROMPT));
    }

    #[test]
    fn one_slow_write_ends_trust_for_a_while_and_the_next_for_longer() {
        let (writes, mut now) = (InlineWriteGate::default(), Instant::now());
        let are_prompt = |now: Instant| writes.try_inline(now).is_some();
        assert!(!are_prompt(now));
        know_to_be_prompt(&writes, now);
        assert!(are_prompt(now));
        for penalty in 1..=MAX_PENALTY + 2 {
            writes.took(now, PROMPT * 2);
            know_to_be_prompt(&writes, now);
            let rest = REST * (1 << (penalty.min(MAX_PENALTY) - 1));
            assert!(!are_prompt(now + rest - Duration::from_millis(1)), "{penalty}");
            now += rest;
            assert!(are_prompt(now), "{penalty}");
        }
        // Slow ones that were not trusted are no mistakes.
        writes.took(now, PROMPT * 2);
        let penalty = writes.state().penalty;
        writes.took(now, PROMPT * 2);
        assert_eq!(writes.state().penalty, penalty);
        assert!(!are_prompt(now + REST * 64), "none was prompt since");
    }

    #[test]
    fn doubts_are_forgiven_by_times_of_trust() {
        let (writes, mut now) = (InlineWriteGate::default(), Instant::now());
        know_to_be_prompt(&writes, now);
        writes.took(now, PROMPT * 2);
        assert_eq!(writes.state().penalty, 1);
        now += REST;
        know_to_be_prompt(&writes, now);
        writes.took(now, PROMPT);
        writes.took(now + FORGIVEN_AFTER / 2, PROMPT);
        assert_eq!(writes.state().penalty, 1);
        writes.took(now + FORGIVEN_AFTER, PROMPT);
        assert_eq!(writes.state().penalty, 0);
    }

    #[test]
    fn while_one_write_hangs_no_other_is_made_at_once() {
        let (writes, now) = (InlineWriteGate::default(), Instant::now());
        know_to_be_prompt(&writes, now);
        let hanging = writes.begin(now);
        assert!(writes.try_inline(now).is_some(), "it has just begun");
        let _another = writes.begin(now + HANGS);
        assert!(writes.try_inline(now + HANGS).is_none());
        drop(hanging);
        let leave = writes.try_inline(now + HANGS).expect("the other has just begun");
        assert!(writes.try_inline(now + HANGS).is_none(), "one at a time");
        drop(leave);
    }

    #[test]
    fn a_write_that_fails_ends_trust() {
        let writes = InlineWriteGate::default();
        know_to_be_prompt(&writes, Instant::now());
        let write = writes.begin(Instant::now());
        write
            .measure(|| Err(std::io::Error::other("on purpose")))
            .expect_err("it fails");
        assert!(writes.try_inline(Instant::now()).is_none());
    }

    #[test]
    fn bytes_are_written_at_once_only_where_their_room_is_laid_out_and_nobody_takes_any_away() {
        let dir = TempDir::new().expect("a directory");
        let store = open(dir.path());
        let object = film(&store, 1, MIB, 8 * MIB);
        let step = [[9; 64 * 1024]; 2];
        let write_of = |object: &Object, at: u64| {
            *store.shared.inline_writes.state() = State::default();
            know_to_be_prompt(&store.shared.inline_writes, Instant::now());
            object.write_inline(at, &step)
        };
        // A write behind a megabyte gets a megabyte preallocated.
        assert!(!write_of(&object, MIB));
        store.write(&object, MIB, &[[7; 4096]]).expect("room");
        let at = MIB + 4096;
        *store.shared.inline_writes.state() = State::default();
        assert!(!object.write_inline(at, &step), "nothing is known of the disk");
        let alone = object.io.write().expect("no panic");
        assert!(!write_of(&object, at), "somebody takes bytes away");
        drop(alone);
        assert!(!write_of(&object, 4 * MIB), "no room is taken for it");
        assert_eq!(object.present().total(), MIB + 4096, "nothing of that was written");
        assert!(write_of(&object, at));
        assert_eq!(object.present().total(), at + 128 * 1024);
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
