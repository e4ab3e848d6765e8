//! What every object of the benchmark contains: words that tell where they are.

/// Odd, so that no two words of an object are equal.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

const WORD: u64 = 8;

fn word(index: u64) -> [u8; 8] {
    index.wrapping_add(1).wrapping_mul(FACTOR).to_le_bytes()
}

fn byte(at: u64) -> u8 {
    word(at / WORD)[(at % WORD) as usize]
}

/// Writes the content from the offset `at` on.
pub(crate) fn write(at: u64, into: &mut [u8]) {
    let (before, words) = into.split_at_mut(lead(at).min(into.len()));
    before.iter_mut().zip(at..).for_each(|(into, at)| *into = byte(at));
    let mut index = (at + before.len() as u64) / WORD;
    let mut chunks = words.chunks_exact_mut(WORD as usize);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&word(index));
        index += 1;
    }
    let rest = chunks.into_remainder();
    rest.copy_from_slice(&word(index)[..rest.len()]);
}

/// Whether these are the bytes from the offset `at` on.
pub(crate) fn is_right(at: u64, bytes: &[u8]) -> bool {
    let (before, words) = bytes.split_at(lead(at).min(bytes.len()));
    let first = (at + before.len() as u64) / WORD;
    let chunks = words.chunks_exact(WORD as usize);
    let rest = chunks.remainder();
    let last = word(first + chunks.len() as u64);
    before.iter().zip(at..).all(|(found, at)| *found == byte(at))
        && chunks.zip(first..).all(|(found, index)| found == word(index))
        && rest == &last[..rest.len()]
}

/// The bytes before the first whole word.
fn lead(at: u64) -> usize {
    (at.wrapping_neg() % WORD) as usize
}
