//! The head of an object as it stands now, and what follows from its first one: the tag that clients are given.
//!
//! A head is replaced, never changed (representation.rs): a reader that has loaded one keeps it. The tag does not follow:
//! a generation has one tag from its first byte to its last, made when the object is. What the upstream was found not
//! to do is noted beside the head, since a new head does not undo it.

use super::representation::{Head, Joined, Representation};
use crate::clock::Clock;
use crate::header::EntityTag;
use crate::key::{self, ObjectId};
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(in crate::store) struct CurrentHead {
    head: ArcSwap<Head>,
    etag: EntityTag,
    /// Whether clients are told the tag.
    shows_etag: bool,
    /// The upstream was found to give no parts of it. Release, Acquire; orders nothing else.
    without_parts: AtomicBool,
}

impl CurrentHead {
    /// The head of a generation that was last validated then.
    pub(in crate::store) fn new(
        id: ObjectId,
        generation: u64,
        representation: Representation,
        validated: u64,
        clock: &dyn Clock,
    ) -> Self {
        Self {
            etag: etag_for(&representation, id, generation),
            shows_etag: shows_etag(&representation),
            head: ArcSwap::new(Head::new(representation, validated, clock)),
            without_parts: AtomicBool::new(false),
        }
    }

    pub(in crate::store) fn load(&self) -> Guard<Arc<Head>> {
        self.head.load()
    }

    /// Puts another head in the place of the one before.
    pub(in crate::store) fn replace(&self, representation: Representation, validated: u64, clock: &dyn Clock) {
        self.head.store(Head::new(representation, validated, clock));
    }

    pub(in crate::store) fn etag(&self) -> &EntityTag {
        &self.etag
    }

    pub(in crate::store) fn shows_etag(&self) -> bool {
        self.shows_etag
    }

    /// Whether bytes are those of one exchange, and the upstream gives parts, as far as is known.
    pub(in crate::store) fn gives_parts_apart(&self) -> bool {
        let head = self.head.load();
        let representation = &head.representation;
        representation.gives_parts && !representation.ranges && !self.without_parts.load(Ordering::Acquire)
    }

    /// The upstream has given the whole where a part was asked for.
    pub(in crate::store) fn note_without_parts(&self) {
        self.without_parts.store(true, Ordering::Release);
    }
}

fn etag_for(representation: &Representation, id: ObjectId, generation: u64) -> EntityTag {
    let validators = &representation.validators;
    if let Some(tag) = validators.entity_tag().filter(|tag| !tag.is_weak()) {
        return tag;
    }
    let id = id.to_string();
    if !has_say(representation) {
        return EntityTag::strong(&format!("{}-{generation:x}", &id[..16]));
    }
    let length = representation
        .complete_length
        .map_or_else(String::new, |length| length.to_string());
    let said = [&validators.etag, &validators.last_modified].map(|field| field.as_deref().unwrap_or_default());
    let digest = key::digest_of(&[said[0].as_bytes(), said[1].as_bytes(), length.as_bytes()]);
    EntityTag::strong(&format!("{}-{}", &id[..16], key::Hex(&digest[..8])))
}

/// Whether the upstream says something by which representations are told apart.
fn has_say(representation: &Representation) -> bool {
    representation.joined != Joined::Distrusted && !representation.validators.says_nothing()
}

fn shows_etag(representation: &Representation) -> bool {
    let is_apart = representation.gives_parts && !representation.ranges;
    has_say(representation) || !is_apart
}
