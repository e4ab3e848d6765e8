//! Losses: which of the members that complete listings lack may be removed, and which are held. Pure.
//!
//! A member is due when it was absent often enough (diff.rs counts). Few may go; where many would at once, it is an outage
//! rather than a person who cleared up, and they are held until further listings have said the same, or a person has. A
//! collection counts as all the files beneath it.

use crate::directory::TreePath;
use crate::store::{IndexedMember, MemberState};

/// The absences after which a member may be removed, a day apart each.
const CONFIRMATIONS: u32 = 2;

/// The further absences after which one is removed whose removal was held.
const FURTHER: u32 = 3;

/// The share of the files of a collection, or of the mirror, that may go at once, in percent.
const MOST_PERCENT: u64 = 20;

/// The number of files that may go at once in any case.
const MOST_ANYHOW: u64 = 10;

/// A collection with members that may be removed.
#[derive(Debug, Clone)]
pub(super) struct DueCollection {
    pub(super) path: TreePath,
    /// The members: their names, and for how many files each stands.
    pub(super) members: Vec<DueMember>,
    /// The files that are known in it, those that may be removed among them.
    pub(super) known: u64,
    /// The listing of it is empty, and was not before.
    pub(super) is_empty: bool,
}

/// A member that may be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueMember {
    pub(super) name: String,
    pub(super) is_collection: bool,
    pub(super) files: u64,
    pub(super) absences: u32,
}

/// The members that have been absent often enough to be looked at.
pub(super) fn due_members(members: &[IndexedMember]) -> Vec<DueMember> {
    let due = members.iter().filter_map(|member| match member.state {
        MemberState::Suspect { absences, .. } if absences >= CONFIRMATIONS => Some(DueMember {
            name: member.name.clone(),
            is_collection: member.is_collection,
            files: 1,
            absences,
        }),
        _ => None,
    });
    due.collect()
}

/// Parts the members that may be removed from those that are held; `known` is the number of files of the whole mirror.
pub(super) fn decide(due: Vec<DueCollection>, known: u64, by_order: bool) -> (Vec<DueCollection>, u64) {
    let is_sure = |member: &DueMember| by_order || member.absences >= CONFIRMATIONS + FURTHER;
    let files = |members: &[DueMember]| members.iter().map(|member| member.files).sum::<u64>();
    let too_many = |files: u64, known: u64| files > MOST_ANYHOW && files * 100 > known * MOST_PERCENT;
    let (mut held, mut allowed) = (0, Vec::new());
    for collection in due {
        let is_held = collection.is_empty || too_many(files(&collection.members), collection.known);
        let (going, staying): (Vec<_>, Vec<_>) = collection
            .members
            .into_iter()
            .partition(|member| !is_held || is_sure(member));
        held += files(&staying);
        if !going.is_empty() {
            allowed.push(DueCollection {
                members: going,
                ..collection
            });
        }
    }
    let all: u64 = allowed.iter().map(|collection| files(&collection.members)).sum();
    if too_many(all, known) {
        for collection in &mut allowed {
            let (going, staying): (Vec<_>, Vec<_>) =
                std::mem::take(&mut collection.members).into_iter().partition(is_sure);
            held += files(&staying);
            collection.members = going;
        }
    }
    allowed.retain(|collection| !collection.members.is_empty());
    (allowed, held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(name: &str, absences: &[u32], known: u64, is_empty: bool) -> DueCollection {
        let members = absences.iter().enumerate().map(|(number, absences)| DueMember {
            name: number.to_string(),
            is_collection: false,
            files: 1,
            absences: *absences,
        });
        DueCollection {
            path: TreePath::root().child(name).with_slash(),
            members: members.collect(),
            known,
            is_empty,
        }
    }

    fn going(decided: &[DueCollection]) -> usize {
        decided.iter().map(|collection| collection.members.len()).sum()
    }

    #[test]
    fn few_files_go_and_more_than_a_fifth_are_held() {
        let (allowed, held) = decide(vec![due("a", &[2; 10], 20, false)], 1000, false);
        assert_eq!((going(&allowed), held), (10, 0), "ten may go anyhow");
        let (allowed, held) = decide(vec![due("a", &[2; 11], 20, false)], 1000, false);
        assert_eq!((going(&allowed), held), (0, 11));
        let (allowed, held) = decide(vec![due("a", &[2; 20], 100, false)], 1000, false);
        assert_eq!((going(&allowed), held), (20, 0), "a fifth may go");
        let (allowed, held) = decide(vec![due("a", &[5; 11], 20, false)], 1000, false);
        assert_eq!((going(&allowed), held), (11, 0), "three further absences are enough");
        let (allowed, held) = decide(vec![due("a", &[2; 11], 20, false)], 1000, true);
        assert_eq!((going(&allowed), held), (11, 0), "a person has said so");
    }

    #[test]
    fn a_collection_that_is_empty_now_is_held_however_few_its_files() {
        let (allowed, held) = decide(vec![due("a", &[2, 2], 2, true)], 1000, false);
        assert_eq!((going(&allowed), held), (0, 2));
        let (allowed, _) = decide(vec![due("a", &[5, 5], 2, true)], 1000, false);
        assert_eq!(going(&allowed), 2);
    }

    #[test]
    fn many_small_losses_over_the_mirror_are_held_together() {
        let all: Vec<_> = (0..10)
            .map(|number| due(&number.to_string(), &[2, 2], 10, false))
            .collect();
        let (allowed, held) = decide(all.clone(), 99, false);
        assert_eq!((going(&allowed), held), (0, 20));
        let (allowed, held) = decide(all, 100, false);
        assert_eq!((going(&allowed), held), (20, 0));
    }
}
