//! The entity tag of a file's state: its digest where that is known in time, else its stamp.
//!
//! Which of the three a state gets, and why, is told in digest_cache.rs. A tag is written in one way only, for clients and
//! sync programs compare its letters: a stamp's fields stand in hexadecimal, separated by `-`, strong and weak alike.

use super::sha256::Digest;
use super::tree::Stamp;
use crate::header::EntityTag;
use serde::{Deserialize, Serialize};

/// The entity tag of a file's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// The digest of its bytes.
    Strong(Digest),
    /// The stamp of a large file that has rested: its bytes cannot change without that.
    Stamped(StampTag),
    /// The stamp of a file that has just been changed.
    Weak(Stamp),
}

/// The opaque part of a tag that is made of a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampTag {
    ino: u64,
    size: u64,
    modified: i128,
    changed: i128,
}

impl StampTag {
    pub(super) fn of(stamp: &Stamp) -> Self {
        Self {
            ino: stamp.ino,
            size: stamp.size,
            modified: stamp.modified,
            changed: stamp.changed,
        }
    }
}

/// The time of change is part of the tag: an edit whose time of modification was put back changes it all the same.
impl std::fmt::Display for StampTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:x}-{:x}-{:x}-{:x}",
            self.size, self.modified, self.changed, self.ino
        )
    }
}

impl Tag {
    /// The tag as HTTP writes it.
    pub fn entity_tag(&self) -> EntityTag {
        match self {
            Self::Strong(digest) => EntityTag::strong(&hex(digest)),
            Self::Stamped(stamp_tag) => EntityTag::strong(&stamp_tag.to_string()),
            Self::Weak(stamp) => weak_tag(stamp),
        }
    }

    /// Whether it is a strong tag.
    pub fn is_strong(&self) -> bool {
        !matches!(self, Self::Weak(_))
    }
}

/// The weak tag of a file's state, while it has just been changed.
pub fn weak_tag(stamp: &Stamp) -> EntityTag {
    EntityTag::weak(&StampTag::of(stamp).to_string())
}

fn hex(digest: &Digest) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    digest
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}
