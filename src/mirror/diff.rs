//! The changes that a listing makes to what is known of a collection. Pure.
//!
//! ```text
//!                    listed as before                 listed otherwise, or anew
//!   Current ───────────────────────────► Current    ──────────────────────────────► Listed ─ fetched or validated ─► Current
//!
//!                  absent            absent again, a day later       the upstream says 404 or 410 too
//!   any listed ─────────────► Suspect 1 ──────────────────► Suspect 2 ─────────────────────────────────► Removed
//!        ▲                       │ listed again
//!        └───────────────────────┘
//!   absent under another fingerprint ─► Unlisted: served, and never removed for not being listed
//! ```
//!
//! Absence counts only in a complete listing of the same fingerprint as the one before, and only once in each `grace`: an
//! error, a half listing, another credential or another filter say nothing of what there is. Members are compared by their
//! decoded names, both sides in the order of their bytes.

use super::listing::ListedMember;
use crate::directory::MemberKind;
use crate::store::{IndexedMember, MemberState};
use std::cmp::Ordering;

/// Under which conditions a listing is compared with what was known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    /// The listing is complete: all that is there is in it.
    pub(super) is_complete: bool,
    /// The members that are known were listed under the same fingerprint.
    pub(super) same_fingerprint: bool,
    /// Now, in seconds since 1970.
    pub(super) now: u64,
    /// The time between two absences that count, in seconds.
    pub(super) grace: u64,
}

/// The members of a collection after a listing, in the order of their names' bytes. A partial listing adds and updates,
/// and takes nothing away.
pub(super) fn merge(known: Vec<IndexedMember>, listed: Vec<ListedMember>, how: Comparison) -> Vec<IndexedMember> {
    let mut merged = Vec::with_capacity(known.len().max(listed.len()));
    let (mut known, mut listed) = (known.into_iter().peekable(), listed.into_iter().peekable());
    loop {
        let order = match (known.peek(), listed.peek()) {
            (Some(one), Some(other)) => one.name.cmp(&other.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return merged,
        };
        // Both were looked at: those that are taken are there.
        let member = match order {
            Ordering::Less => known.next().map(|member| absent(member, how)),
            Ordering::Greater => listed.next().map(|member| indexed(member, MemberState::Listed)),
            Ordering::Equal => known
                .next()
                .zip(listed.next())
                .map(|(known, listed)| again(&known, listed)),
        };
        merged.extend(member);
    }
}

/// The members after a listing that has not changed (304): what it lacked before it lacks again.
pub(super) fn unchanged(known: Vec<IndexedMember>, how: Comparison) -> Vec<IndexedMember> {
    let again = known.into_iter().map(|member| match member.state {
        MemberState::Suspect { .. } => absent(member, how),
        _ => member,
    });
    again.collect()
}

/// A member that is listed again.
fn again(known: &IndexedMember, listed: ListedMember) -> IndexedMember {
    let is_kept = matches!(known.state, MemberState::Current);
    let state = match is_kept && is_unchanged(known, &listed) {
        true => MemberState::Current,
        false => MemberState::Listed,
    };
    indexed(listed, state)
}

/// Whether the listing tells that the file is the one that was fetched. Where it tells no exact size and time, it does not.
fn is_unchanged(known: &IndexedMember, listed: &ListedMember) -> bool {
    if known.is_collection != (listed.kind == MemberKind::Collection) {
        return false;
    }
    let same_times = known.size == listed.size && known.modified == listed.modified;
    match (&known.tag, &listed.tag) {
        // Where both have a tag it says more than size and time, but a length that differs is another file all the same.
        (Some(before), Some(now)) => before == now && known.size == listed.size,
        // A server that reads files for their tags may not have come to this one before, or may have forgotten.
        _ => same_times && listed.size.is_some() && listed.modified.is_some(),
    }
}

fn indexed(listed: ListedMember, state: MemberState) -> IndexedMember {
    IndexedMember {
        is_collection: listed.kind == MemberKind::Collection,
        name: listed.name,
        size: listed.size,
        modified: listed.modified,
        tag: listed.tag,
        state,
    }
}

/// A member that is not in the listing.
fn absent(member: IndexedMember, how: Comparison) -> IndexedMember {
    let counts = how.is_complete && how.same_fingerprint;
    let state = match member.state {
        state @ (MemberState::Removed { .. } | MemberState::Unlisted) => state,
        state if !how.is_complete => state,
        // The first listing under another fingerprint is a new beginning.
        _ if !counts => MemberState::Unlisted,
        MemberState::Suspect {
            absences,
            since,
            counted,
        } => match how.now >= counted.saturating_add(how.grace) {
            true => MemberState::Suspect {
                absences: absences.saturating_add(1),
                since,
                counted: how.now,
            },
            false => member.state,
        },
        MemberState::Listed | MemberState::Current | MemberState::LeftOut => MemberState::Suspect {
            absences: 1,
            since: how.now,
            counted: how.now,
        },
    };
    IndexedMember { state, ..member }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    fn listed(name: &str, size: u64) -> ListedMember {
        ListedMember {
            name: name.to_owned(),
            kind: MemberKind::File,
            size: Some(size),
            modified: Some(7),
            tag: None,
        }
    }

    fn complete(now: u64) -> Comparison {
        Comparison {
            is_complete: true,
            same_fingerprint: true,
            now,
            grace: DAY,
        }
    }

    fn current(members: Vec<IndexedMember>) -> Vec<IndexedMember> {
        let state = MemberState::Current;
        members
            .into_iter()
            .map(|member| IndexedMember { state, ..member })
            .collect()
    }

    fn states(members: &[IndexedMember]) -> Vec<(&str, MemberState)> {
        members
            .iter()
            .map(|member| (member.name.as_str(), member.state))
            .collect()
    }

    #[test]
    fn an_unchanged_file_stays_and_a_changed_one_is_to_be_fetched() {
        let known = current(merge(Vec::new(), vec![listed("a", 1), listed("b", 1)], complete(0)));
        let merged = merge(known, vec![listed("a", 1), listed("b", 2), listed("c", 3)], complete(1));
        let wanted = [
            ("a", MemberState::Current),
            ("b", MemberState::Listed),
            ("c", MemberState::Listed),
        ];
        assert_eq!(states(&merged), wanted);
    }

    #[test]
    fn a_page_for_people_never_says_that_a_file_is_unchanged() {
        let bare = |name: &str| ListedMember {
            size: None,
            modified: None,
            ..listed(name, 0)
        };
        let known = current(merge(Vec::new(), vec![bare("a")], complete(0)));
        assert_eq!(
            states(&merge(known, vec![bare("a")], complete(1))),
            [("a", MemberState::Listed)]
        );
    }

    #[test]
    fn absence_counts_once_a_day_and_only_in_complete_listings_of_the_same_fingerprint() {
        let known = current(merge(Vec::new(), vec![listed("a", 1), listed("b", 1)], complete(0)));
        let half = Comparison {
            is_complete: false,
            ..complete(1)
        };
        let after_half = merge(known.clone(), vec![listed("a", 1)], half);
        assert_eq!(states(&after_half)[1], ("b", MemberState::Current));
        let suspect = |absences, counted| MemberState::Suspect {
            absences,
            since: 2,
            counted,
        };
        let once_more = |known: &[IndexedMember]| merge(known.to_vec(), vec![listed("a", 1)], complete(2));
        let once = once_more(&known);
        assert_eq!(states(&once)[1], ("b", suspect(1, 2)));
        let soon = merge(once, vec![listed("a", 1)], complete(2 + DAY - 1));
        assert_eq!(states(&soon)[1], ("b", suspect(1, 2)), "the same day says nothing new");
        let twice = merge(soon, vec![listed("a", 1)], complete(2 + DAY));
        assert_eq!(states(&twice)[1], ("b", suspect(2, 2 + DAY)));
        let unchanged_soon = unchanged(once_more(&known), complete(2 + DAY - 1));
        assert_eq!(states(&unchanged_soon)[1], ("b", suspect(1, 2)));
        let unchanged_later = unchanged(once_more(&known), complete(2 + DAY));
        assert_eq!(
            states(&unchanged_later)[1],
            ("b", suspect(2, 2 + DAY)),
            "304 is a listing, too"
        );
        let back = merge(twice, vec![listed("a", 1), listed("b", 1)], complete(3 + DAY));
        assert_eq!(
            states(&back)[1],
            ("b", MemberState::Listed),
            "the upstream is asked whether it is the same"
        );
        let other = Comparison {
            same_fingerprint: false,
            ..complete(9)
        };
        let unlisted = merge(known, vec![listed("a", 1)], other);
        assert_eq!(states(&unlisted)[1], ("b", MemberState::Unlisted));
        let later = merge(unlisted, vec![listed("a", 1)], complete(99 * DAY));
        assert_eq!(
            states(&later)[1],
            ("b", MemberState::Unlisted),
            "it is never removed for that"
        );
    }

    #[test]
    fn a_tag_that_appears_later_is_no_change() {
        let tagged = |tag: &str| ListedMember {
            tag: Some(tag.to_owned()),
            ..listed("a", 1)
        };
        let known = current(merge(Vec::new(), vec![listed("a", 1)], complete(0)));
        let known = merge(known, vec![tagged("\"1\"")], complete(1));
        assert_eq!(states(&known), [("a", MemberState::Current)]);
        let known = merge(known, vec![tagged("\"2\"")], complete(2));
        assert_eq!(states(&known), [("a", MemberState::Listed)]);
    }

    proptest! {
        #[test]
        fn whatever_is_listed_is_served_and_nothing_goes_by_one_listing(
            names in proptest::collection::btree_set("[a-e]{1,2}", 0..12),
            now in proptest::collection::btree_set("[a-e]{1,2}", 0..12),
            is_complete: bool,
            same_fingerprint: bool,
        ) {
            let list = |names: &std::collections::BTreeSet<String>| names.iter().map(|name| listed(name, 1)).collect::<Vec<_>>();
            let known = current(merge(Vec::new(), list(&names), complete(0)));
            let how = Comparison { is_complete, same_fingerprint, ..complete(DAY) };
            let merged = merge(known, list(&now), how);
            let union: Vec<&str> = names.union(&now).map(String::as_str).collect();
            prop_assert_eq!(merged.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), union);
            for member in &merged {
                prop_assert!(member.is_served());
                let may_be_suspect = is_complete && same_fingerprint && !now.contains(&member.name);
                let is_suspect = matches!(member.state, MemberState::Suspect { .. });
                prop_assert!(may_be_suspect || !is_suspect);
            }
        }
    }
}
