//! The inline write gate: whether a write may be made on the thread that received the bytes.
//!
//! Most writes of a fill do not: their room is laid out (preallocate.rs), and the kernel writes it out later. A fill that makes
//! such a write where it has received the bytes saves two changes of threads a piece. But where more was written than the
//! disk keeps up with, the kernel lets a writer wait, and everything else on that thread with him. So it is measured:
//! after some writes in a row that were prompt the next may be made by a thread that is not to wait, while none hangs, and
//! one at a time; one that was not prompt ends that for a second, and for twice as long each time that trust was misplaced
//! (`docs/decisions/0021-writes-where-they-arrive.md`).

use crate::clock::Instant;
use crate::gate::{Gate, GateRules, millis};
use crate::sync::{lock, unless_held};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// A piece that takes longer has waited for the disk, or for a processor for so long that nobody is to wait with it. A
/// judgement: the copy takes 20 µs (`docs/decisions/0021-writes-where-they-arrive.md`), and a busy machine takes some
/// milliseconds more.
const PROMPT: Duration = Duration::from_millis(20);

/// While one takes longer, no other is made by a thread that is not to wait. A judgement: fifty times what the copy
/// takes.
const HANGS: Duration = Duration::from_millis(1);

/// Sixteen prompt writes in a row are 4 MiB of a fill: more than the kernel takes without looking at its dirty pages.
static RULES: GateRules = GateRules {
    successes: 16,
    period: Duration::from_secs(1),
    is_earned_anew: false,
    rest: Duration::from_secs(1),
    max_penalty: 6,
    forgiven_after: 64,
};

/// The gate, fed by the times that writes to the data directory took.
#[derive(Debug)]
pub(in crate::store) struct InlineWriteGate {
    gate: Gate,
    /// The writes under way. The lock is held while the few that there are at once are looked through, and for no
    /// write: a thread that asks whether one hangs does not hang with it.
    under_way: Mutex<WritesUnderWay>,
    /// Held over the one write that is made inline, and only ever tried: should that one wait after all, no other
    /// thread waits with it.
    permit: Mutex<()>,
}

/// A write under way, from before its room is taken.
pub(in crate::store) struct Write<'a> {
    writes: &'a InlineWriteGate,
    number: u64,
}

#[derive(Debug, Default)]
struct WritesUnderWay {
    /// How many have begun: the number of the last one.
    begun: u64,
    since: Vec<(u64, Instant)>,
}

impl Default for InlineWriteGate {
    fn default() -> Self {
        Self {
            gate: Gate::new(&RULES),
            under_way: Mutex::default(),
            permit: Mutex::default(),
        }
    }
}

impl InlineWriteGate {
    /// Leave to make one write that is a copy and nothing more, as far as can be told.
    pub(in crate::store) fn try_inline(&self, now: Instant) -> Option<MutexGuard<'_, ()>> {
        let leave = unless_held(self.permit.try_lock())?;
        (self.gate.is_open(millis(now)) && !self.hangs(now)).then_some(leave)
    }

    /// Whether some write is under way for longer than a prompt one takes.
    fn hangs(&self, now: Instant) -> bool {
        let under_way = lock(&self.under_way);
        let begun = under_way.since.iter().map(|(_, begun)| *begun).min();
        begun.is_some_and(|begun| now.saturating_duration_since(begun) >= HANGS)
    }

    pub(in crate::store) fn begin(&self, now: Instant) -> Write<'_> {
        let mut under_way = lock(&self.under_way);
        under_way.begun += 1;
        let number = under_way.begun;
        under_way.since.push((number, now));
        Write { writes: self, number }
    }

    /// As many prompt writes as open the gate, or one slow one: for tests of what stands behind it.
    #[cfg(test)]
    pub(in crate::store) fn pretend(&self, now: Instant, is_prompt: bool) {
        match is_prompt {
            true => (0..RULES.successes).for_each(|_| self.took(now, PROMPT)),
            false => self.gate.failed(millis(now), false),
        }
    }

    /// A write that has ended now took so long.
    fn took(&self, now: Instant, time: Duration) {
        let now = millis(now);
        if time > PROMPT {
            // A slow write on a blocking thread counts too, but is no misplaced trust unless the gate was open.
            self.gate.failed(now, self.gate.is_open(now));
        } else {
            self.gate.succeeded(now);
        }
    }
}

impl Write<'_> {
    /// Runs `write` and notes how long it took. A failed write counts as a slow one.
    pub(in crate::store) fn measure<E>(&self, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
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
        lock(&self.writes.under_way)
            .since
            .retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_inline_write_ends_trust_until_its_rest_is_over() {
        let (writes, now) = (InlineWriteGate::default(), Instant::now());
        let are_prompt = |now: Instant| writes.try_inline(now).is_some();
        assert!(!are_prompt(now));
        writes.pretend(now, true);
        assert!(are_prompt(now));
        writes.took(now, PROMPT * 2);
        writes.pretend(now, true);
        let rested = now + RULES.rest;
        assert!(!are_prompt(rested), "writes of the rest do not count");
        writes.pretend(rested, true);
        assert!(are_prompt(rested));
        assert_eq!(writes.gate.penalty(), 1);
    }

    #[test]
    fn no_write_is_inline_while_another_hangs() {
        let (writes, now) = (InlineWriteGate::default(), Instant::now());
        writes.pretend(now, true);
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
        writes.pretend(Instant::now(), true);
        let write = writes.begin(Instant::now());
        write
            .measure(|| Err(std::io::Error::other("on purpose")))
            .expect_err("it fails");
        assert!(writes.try_inline(Instant::now()).is_none());
    }
}
