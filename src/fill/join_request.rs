//! Requests of readers that join a fill, or begin one.
//!
//! It decides how the fill opens (owner/opening.rs) and whether one that is under way serves it too
//! (`FillState::is_open_to`). Which bytes a reader waits for after that it says to the object, not here.

use crate::upstream::Span;

/// The request of a reader that joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRequest {
    /// The head only: no byte need be fetched for it.
    Head,
    /// Bytes, first these.
    Bytes(Span),
    /// These bytes, and no others: they may be brought by an exchange of their own, whose part is joined to nothing.
    Only(Span),
    /// Whether what is stored is still that of the upstream.
    Validity {
        /// The bytes of the one that has taken its place are wanted too.
        bytes: bool,
    },
    /// Bytes of a new generation: the stored one may not be reused.
    Anew(Span),
    /// [`JoinRequest::Only`] of a new generation.
    OnlyAnew(Span),
    /// [`JoinRequest::Only`], where a fill of the whole is known to be far from them: see `Registry::join_apart`.
    Apart(Span),
}

impl JoinRequest {
    pub(super) fn is_for_bytes(self) -> bool {
        self.span().is_some() || matches!(self, Self::Validity { bytes: true })
    }

    /// The first bytes that are wanted.
    pub(super) fn span(self) -> Option<Span> {
        match self {
            Self::Bytes(span) | Self::Only(span) | Self::Anew(span) | Self::OnlyAnew(span) | Self::Apart(span) => {
                Some(span)
            }
            Self::Head | Self::Validity { .. } => None,
        }
    }

    pub(super) fn is_anew(self) -> bool {
        matches!(self, Self::Validity { .. } | Self::Anew(_) | Self::OnlyAnew(_))
    }
}
