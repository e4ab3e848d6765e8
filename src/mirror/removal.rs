//! Removal: what has been missing in complete listings for long enough, and what is done about it.
//!
//! ```text
//! suspect, absent twice a day apart ─► more than a fifth would go, or all of a collection? ─ yes ─► held: three more absences,
//!        │ no                                                                                       or a person's word
//!        ▼
//! the upstream is asked for it ─ 404, 410 ─► removed: not served, its bytes kept for a week
//!        └─ any other answer ──────────────► suspect still, and its absences count anew where it is there
//! ```
//!
//! It comes after a walk that has seen the whole tree; one that could not stops here, since an outage looks like many losses.
//! Decisions are pure (losses.rs); a member counts as all the files beneath it. The bytes of what was removed stay where they
//! are, for a week or until room is needed; until then a listing that has the member again finds them.

use super::disk::on_disk;
use super::losses::{DueCollection, decide};
use super::obtain::Lister;
use super::source::{key_of, url_of};
use super::walk::Walk;
use crate::clock::unix_seconds;
use crate::directory::TreePath;
use crate::store::{Expired, IndexedMember, MemberState, MirrorSource, Store, StoreError};
use std::sync::Arc;

/// For how long the bytes of what was removed are kept, in seconds: a week.
const KEPT: u64 = 7 * 24 * 3600;

/// Collections of a removed subtree that are looked at together: a judgement, some kilobytes of names.
const TOGETHER: usize = 256;

impl Walk {
    /// Removes what has been missing for long enough, after a walk that has seen the whole tree.
    pub(super) async fn remove_lost(&self, by_order: bool) {
        let (mut due, known) = self.take_due();
        for collection in &mut due {
            for member in collection.members.iter_mut().filter(|member| member.is_collection) {
                let path = collection.path.child(&member.name).with_slash();
                member.files = self.files_beneath(&path).await.unwrap_or(u64::MAX / 1000);
            }
            let beneath: u64 = collection
                .members
                .iter()
                .map(|member| member.files.saturating_sub(1))
                .sum();
            collection.known = collection.known.saturating_add(beneath);
        }
        let (allowed, held) = decide(due, known, by_order);
        self.report().held += held;
        for collection in allowed {
            self.remove_from(collection).await;
        }
    }

    /// Asks for each of the members, and removes those that the upstream has lost.
    async fn remove_from(&self, due: DueCollection) {
        let lister = Lister {
            client: &self.context.client,
            upstream: &self.context.upstream,
            requests: &self.listings,
        };
        let now = unix_seconds(self.context.store.now());
        let Ok(Some(mut collection)) = self.known(&due.path).await else {
            return;
        };
        let mut gone = Vec::new();
        for member in &due.members {
            let path = due.path.child(&member.name);
            let path = if member.is_collection { path.with_slash() } else { path };
            let status = lister.status_of(&url_of(&self.context.upstream.base, &path)).await;
            let indexed = collection
                .members
                .iter_mut()
                .find(|indexed| indexed.name == member.name);
            let Some(indexed) = indexed else { continue };
            match (status, &mut indexed.state) {
                (Some(404 | 410), state) => {
                    *state = MemberState::Removed { at: now };
                    let mut report = self.report();
                    report.removed += member.files;
                    report.suspect = report.suspect.saturating_sub(1);
                    drop(report);
                    gone.push((path, member.is_collection));
                }
                // The upstream hides it from its listing, and still has it.
                (Some(200..300), MemberState::Suspect { absences, counted, .. }) => {
                    (*absences, *counted) = (1, now);
                }
                _ => self.report().held += member.files,
            }
        }
        if self.write(&due.path, &collection.listed, &collection.members).await {
            for (path, is_collection) in gone {
                self.withdraw(&path, is_collection).await;
            }
        }
    }

    /// Has what is stored of a removed member used no more.
    async fn withdraw(&self, path: &TreePath, is_collection: bool) {
        let (store, source, base) = (
            Arc::clone(&self.context.store),
            self.context.source,
            self.context.upstream.base.clone(),
        );
        let path = path.clone();
        let withdrawn = on_disk(move || {
            each_file(&store, source, &path, is_collection, |file| {
                let id = key_of(&base, file).id();
                store.unpin_mirrored(id)?;
                store.expire(id, Expired::Invalidated).map(drop)
            })
        });
        if let Err(error) = withdrawn.await {
            tracing::warn!(%error, "could not withdraw what a mirror has lost: the next walk tries again");
        }
    }

    async fn files_beneath(&self, path: &TreePath) -> Option<u64> {
        let (store, source, path) = (Arc::clone(&self.context.store), self.context.source, path.clone());
        let counted = on_disk(move || {
            let mut files = 0;
            each_file(&store, source, &path, true, |_| {
                files += 1;
                Ok(())
            })?;
            Ok(files)
        });
        counted.await.ok()
    }

    /// Gives back the room of the members that were removed long enough ago; the others are returned.
    pub(super) async fn reclaim(&self, path: &TreePath, members: Vec<IndexedMember>) -> Vec<IndexedMember> {
        let now = unix_seconds(self.context.store.now());
        let is_over = |member: &IndexedMember| matches!(member.state, MemberState::Removed { at } if now >= at.saturating_add(KEPT));
        if !members.iter().any(is_over) {
            return members;
        }
        let (over, mut staying): (Vec<_>, Vec<_>) = members.into_iter().partition(is_over);
        for member in over {
            let place = path.child(&member.name);
            let (store, source, base) = (
                Arc::clone(&self.context.store),
                self.context.source,
                self.context.upstream.base.clone(),
            );
            let is_collection = member.is_collection;
            let reclaimed = on_disk(move || {
                let place = if is_collection { place.with_slash() } else { place };
                each_file(&store, source, &place, is_collection, |file| {
                    if let Some(object) = store.load_id(key_of(&base, file).id())? {
                        store.remove(&object);
                    }
                    Ok(())
                })?;
                match is_collection {
                    true => forget(&store, source, &place.to_string()),
                    false => Ok(()),
                }
            });
            if let Err(error) = reclaimed.await {
                tracing::warn!(%error, "could not reclaim what a mirror has lost: the next walk tries again");
                staying.push(member);
            }
        }
        staying.sort_by(|one, other| one.name.cmp(&other.name));
        staying
    }
}

/// Does something with each file that is known at the path: itself, or those of all collections beneath it.
fn each_file(
    store: &Store,
    source: MirrorSource,
    path: &TreePath,
    is_collection: bool,
    mut work: impl FnMut(&TreePath) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if !is_collection {
        return work(path);
    }
    let (top, mut after) = (path.to_string(), None::<String>);
    loop {
        let collections = store.collections(source, &top, after.as_deref(), TOGETHER)?;
        for text in &collections {
            let Ok(collection_path) = TreePath::parse_upstream(text) else {
                continue;
            };
            let Some(collection) = store.collection(source, text)? else {
                continue;
            };
            for member in collection.members.iter().filter(|member| !member.is_collection) {
                work(&collection_path.child(&member.name))?;
            }
        }
        match collections.last() {
            Some(last) => after = Some(last.clone()),
            None => return Ok(()),
        }
    }
}

/// Forgets the collections at the path and beneath it.
fn forget(store: &Store, source: MirrorSource, path: &str) -> Result<(), StoreError> {
    loop {
        let collections = store.collections(source, path, None, TOGETHER)?;
        if collections.is_empty() {
            return Ok(());
        }
        for collection in collections {
            store.forget_collection(source, &collection)?;
        }
    }
}
