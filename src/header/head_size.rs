//! The size of a reply's head, by which too large ones are refused, and stored ones do not grow.
//!
//! It is counted as RFC 9113 §6.5.2 does for lists of fields, whichever version of HTTP they came by. A head is stored with
//! its object, and held in memory while that is open.

/// The most bytes of a reply's head: names, values, and 32 for each field. 32 KiB in a hundred fields, which is four times
/// what nginx takes; three hundred short fields are less.
pub const MAX_REPLY_HEAD_BYTES: usize = 36 << 10;

/// The bytes that a field counts beside its name and value (RFC 9113 §6.5.2).
const FIELD_BYTES: usize = 32;

/// The size of fields with names and values of these lengths.
pub fn head_bytes(lengths: impl Iterator<Item = (usize, usize)>) -> usize {
    lengths.map(|(name, value)| name + value + FIELD_BYTES).sum()
}
