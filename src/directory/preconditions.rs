//! Preconditions of a change, evaluated in two steps: what has to be read is read before any lock is held, and under
//! the lock tags are only compared.
//!
//! The tag of a file is known by its stamp, or of a large file is made of the stamp (`digest_cache.rs`). A small file
//! whose digest is not known is read by [`TreeWriter::preread`], for the one request that names a tag of it. Where the
//! file is another once the lock is held, the change is refused as [`DirectoryError::TagUnknown`], and tried again
//! after another reading: no reader of a slow disk keeps anybody else from writing (decision 27).

use super::digest_cache::{INLINE_BYTES, PrereadDigest};
use super::error::DirectoryError;
use super::etag::Tag;
use super::path::TreePath;
use super::tree::{Found, Stamp};
use super::tree_writer::{Occupant, TreeWriter};
use crate::header::{Current, EntityTag, Preconditions};
use rustix::fs::Stat;

impl TreeWriter {
    /// Reads the file, if the preconditions name a tag that is not known without that. Takes no lock.
    pub fn preread(&self, path: &TreePath, conditions: &Preconditions) -> PrereadDigest {
        if !conditions.need_tag() {
            return PrereadDigest::default();
        }
        match self.tree.find(path) {
            Ok(Found::File(file, stamp)) if stamp.size <= INLINE_BYTES => {
                PrereadDigest(self.tags.read_digest(&file).ok())
            }
            _ => PrereadDigest::default(),
        }
    }

    /// Evaluates the preconditions against the entry that has the name. Compares only: the caller holds the path's
    /// lock.
    pub(super) fn check_preconditions(
        &self,
        path: &TreePath,
        occupant: &Occupant,
        conditions: &Preconditions,
        preread: &PrereadDigest,
    ) -> Result<(), DirectoryError> {
        if conditions.is_empty() {
            return Ok(());
        }
        let followed;
        let (stat, is_file) = match occupant {
            Occupant::Nothing => (None, false),
            Occupant::Collection(stat) | Occupant::Special(stat) => (Some(stat), false),
            Occupant::File(stat) => (Some(stat), true),
            // The tag of a link, as clients know it, is that of its target.
            Occupant::Link(own) => match self.tree.inspect(path) {
                Ok(stat) => {
                    followed = stat;
                    (Some(&followed), true)
                }
                Err(_) => (Some(own), false),
            },
        };
        let tags = match stat.filter(|_| is_file && conditions.need_tag()) {
            Some(stat) => self.entity_tags_of(stat, preread)?,
            None => Vec::new(),
        };
        let current = stat.map(|stat| Current {
            etags: &tags,
            modified: Stamp::of(stat).modified_at(),
        });
        match conditions.hold(current) {
            true => Ok(()),
            false => Err(DirectoryError::PreconditionFailed),
        }
    }

    fn entity_tags_of(
        &self,
        stat: &Stat,
        PrereadDigest(preread): &PrereadDigest,
    ) -> Result<Vec<EntityTag>, DirectoryError> {
        let stamp = Stamp::of(stat);
        if let Some((_, digest)) = preread.filter(|(read, _)| *read == stamp) {
            return Ok(vec![Tag::Strong(digest).entity_tag()]);
        }
        let tag = self.tags.tag_without_reading(&stamp);
        match (&tag, stamp.size > INLINE_BYTES) {
            (Tag::Weak(_), false) => Err(DirectoryError::TagUnknown),
            _ => {
                let digest = self
                    .tags
                    .digest_of(&stamp)
                    .map(|digest| Tag::Strong(digest).entity_tag());
                Ok([tag.entity_tag()].into_iter().chain(digest).collect())
            }
        }
    }
}
