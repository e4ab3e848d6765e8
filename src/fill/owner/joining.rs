//! The bytes of which exchanges may be put together, and where the next may begin.
//!
//! Under a strong validator bytes are joined anywhere; under a weak tag beside an old date at one byte, the end of what
//! is here, after an overlap that agrees; else never (docs/decisions/0022). An upstream whose ranges contradicted
//! themselves is treated as one without.

use super::Owner;
use crate::policy::NotStored;
use crate::ranges::ByteOffset;

impl Owner {
    /// Whether pieces from anywhere are joined.
    pub(super) fn joins_anywhere(&self) -> bool {
        let ranges = self.object.as_ref().is_some_and(|object| object.head().has_ranges());
        ranges && !self.distrusts_ranges
    }

    /// Whether the upstream gives parts, be they joined or not.
    pub(super) fn has_ranges(&self) -> bool {
        let object = self.object.as_ref();
        !self.distrusts_ranges && object.is_some_and(|object| object.head().has_ranges() || object.gives_parts_apart())
    }

    /// The byte from which on another exchange can bring what is missing, where its bytes have to be compared with those
    /// before; `None` where they need not be, or nothing may be joined.
    pub(super) fn grows_at(&self) -> Option<ByteOffset> {
        let object = self.object.as_ref().filter(|object| !object.head().has_ranges())?;
        let joins = object.gives_parts_apart() && object.head().representation().overlap_validator().is_some();
        let end = object.presence().available().run_at(self.base).unwrap_or(self.base);
        (joins && !self.distrusts_ranges).then_some(end)
    }

    /// Whether it brings a part, its exchange is over, and no other can go on with it.
    pub(super) fn is_stranded(&self) -> bool {
        let is_part = self.shared.not_stored() == Some(NotStored::Part);
        is_part && self.sessions.is_empty() && self.grows_at().is_none()
    }

    /// Whether what was cut goes on where it was.
    pub(super) fn resumes(&self) -> bool {
        self.joins_anywhere() || self.grows_at().is_some()
    }
}
