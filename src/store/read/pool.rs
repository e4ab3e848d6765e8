//! Buffers for reading bodies, kept a few per thread.
//!
//! A body is polled and its block copied into the connection's write buffer on one thread, so one
//! or two buffers serve all connections of a worker. More than the few that are kept go back to
//! the allocator: memory follows what is in flight, not what once was.

use bytes::Bytes;
use std::cell::{RefCell, RefMut};
use std::io;

/// The largest block read at once. Larger ones lose to the CPU's caches, smaller ones to calls
/// (`docs/decisions/0003-block-size.md`).
pub const BLOCK_BYTES: usize = 256 * 1024;

/// Reads up to this length use a smaller buffer: many small answers at once would hold a block each, and threads that
/// read for others would leave one in each of their heaps. Measured on 100,000 small objects in memory: 98 MB with
/// blocks for all, 68 with these.
const SMALL_BYTES: usize = 32 * 1024;

/// Idle buffers of each length that a thread keeps. A judgement: one or two serve all connections of a worker, and four
/// blocks a thread are a megabyte.
const KEPT_PER_THREAD: usize = 4;

thread_local! {
    static IDLE: Idle = const { Idle { small: RefCell::new(Vec::new()), blocks: RefCell::new(Vec::new()) } };
}

/// The buffers that nobody uses, of either length.
struct Idle {
    small: RefCell<Vec<Vec<u8>>>,
    blocks: RefCell<Vec<Vec<u8>>>,
}

impl Idle {
    fn of(&self, length: usize) -> RefMut<'_, Vec<Vec<u8>>> {
        match length {
            SMALL_BYTES => self.small.borrow_mut(),
            _ => self.blocks.borrow_mut(),
        }
    }
}

struct Pooled {
    buffer: Vec<u8>,
    filled: usize,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // A thread that is ending has no pool any more; then the buffer is simply freed.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.of(buffer.len());
            if idle.len() < KEPT_PER_THREAD {
                idle.push(buffer);
            }
        });
    }
}

/// Bytes that `fill` writes into a buffer of at most `len`, and no more than a block.
pub(in crate::store) fn filled(len: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Bytes> {
    let length = if len > SMALL_BYTES { BLOCK_BYTES } else { SMALL_BYTES };
    let buffer = IDLE
        .with(|idle| idle.of(length).pop())
        .unwrap_or_else(|| vec![0; length]);
    let mut pooled = Pooled { buffer, filled: 0 };
    pooled.filled = fill(&mut pooled.buffer[..len.min(length)])?;
    Ok(Bytes::from_owner(pooled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_block_gives_its_buffer_back() {
        let first = filled(SMALL_BYTES + 1, |space| Ok(space.len())).expect("filled");
        let address = first.as_ptr();
        assert_eq!(first.len(), SMALL_BYTES + 1);
        drop(first);
        let small = filled(10, |space| Ok(space.len())).expect("filled");
        assert!(small.len() == 10 && small.as_ptr() != address);
        drop(small);
        let second = filled(usize::MAX, |space| Ok(space.len())).expect("filled");
        assert_eq!(second.as_ptr(), address);
        assert_eq!(second.len(), BLOCK_BYTES);
    }
}
