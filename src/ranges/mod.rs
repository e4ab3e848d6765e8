//! Byte arithmetic: ranges and sets of them. Pure; knows neither HTTP nor disks.
//!
//! All ranges are half-open and never empty. HTTP's inclusive ends appear only in `header`,
//! where `Range` and `Content-Range` are read and printed.

mod codec;
mod range;
mod set;

pub use codec::{MalformedRanges, decode, encode};
pub use range::ByteRange;
pub use set::RangeSet;

/// A position in an object, in bytes from its first.
pub type ByteOffset = u64;

/// A number of bytes.
pub type ByteCount = u64;
