//! The rights that there are, and sets of them.
//!
//! ```text
//! play    media: GET of what upstreams and directories have; any method of an upstream's, which judges it itself
//! look    the API's lists, the counters
//! write   changes of a directory
//! rule    changes of the cache, and what opens what is somebody's: lists of streams, whole URLs, codes for the page
//! ```
//!
//! `read` is an older name of play.

use serde::Deserialize;

/// A right, as the scope of a token names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read media, and what directories have.
    #[serde(alias = "read")]
    Play,
    /// Read the API and the counters.
    Look,
    /// Change directories.
    Write,
    /// Change the cache.
    Rule,
}

impl Right {
    /// All of them, in the order in which they are printed.
    const ALL: [Self; 4] = [Self::Play, Self::Look, Self::Write, Self::Rule];

    /// The right's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Play => "play",
            Self::Look => "look",
            Self::Write => "write",
            Self::Rule => "rule",
        }
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// The set of these.
    pub const fn of(rights: &[Right]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < rights.len() {
            bits |= 1 << rights[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Every right.
    pub const fn all() -> Self {
        Self::of(&Right::ALL)
    }

    /// The rights of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set without the rights to change something of this server's.
    #[must_use]
    pub const fn without_changes(self) -> Self {
        Self(self.0 & !Self::of(&[Right::Write, Right::Rule]).0)
    }

    /// Whether the right is in the set.
    pub const fn has(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }

    /// The names, separated by commas.
    pub fn names(self) -> String {
        let names = Right::ALL.into_iter().filter(|right| self.has(*right)).map(Right::name);
        names.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_rights_that_it_was_made_of() {
        let set = Rights::of(&[Right::Look, Right::Rule]);
        assert!(set.has(Right::Look) && set.has(Right::Rule));
        assert!(!set.has(Right::Play) && !set.has(Right::Write));
        assert_eq!(set.and(Rights::of(&[Right::Play])).names(), "play,look,rule");
        assert_eq!(Rights::all().names(), "play,look,write,rule");
        assert_eq!(Rights::default().names(), "");
    }
}
