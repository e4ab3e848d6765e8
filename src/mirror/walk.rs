//! One walk of a mirror: from its own collection downwards, each listed, compared and brought up to date.
//!
//! ```text
//! collection ─ known, listed by this walk ─► its collections          (the walk goes on after a crash)
//!     └─ asked for its listing
//!          ├─ complete ──► merged with what is known (diff.rs), written down; its files brought; written down again
//!          ├─ unchanged ─► what is known; its files brought, where one was not
//!          ├─ partial ───► its files brought; nothing is written down as its listing
//!          └─ none ──────► told; what is known stays as it is, and its collections are walked
//! ```
//!
//! A collection that is written down before its files are brought says of each that the upstream is still to be asked about it; only what
//! came of it makes that `Current`. So a crash anywhere costs questions, never a wrong word. The number of the walk stands in
//! a collection when all of it is done: a walk that goes on takes those for read.
//!
//! Losses are noted for the end of the walk (removal.rs): no step here removes anything. A few collections are walked at once, and a few files of each; what their requests may do
//! to the upstream and to readers is bounded by its budget, where a mirror comes last.

use super::bring::{Brought, bring};
use super::diff::{Comparison, merge, unchanged};
use super::disk::on_disk;
use super::filter::is_excluded;
use super::losses::{DueCollection, due_members};
use super::obtain::{ListedCollection, Lister, Obtained};
use super::source::{key_of, url_of};
use crate::api::WalkReport;
use crate::clock::unix_seconds;
use crate::config::{ListingFormat, MirrorSettings};
use crate::directory::TreePath;
use crate::fill::Registry;
use crate::key::digest_of;
use crate::store::{
    IndexedCollection, IndexedMember, ListingOrigin, MemberState, MirrorSource, Store, StoreError, Stored,
};
use crate::sync::lock;
use crate::upstream::{Client, ConfiguredUpstream, Target, Trust};
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Collections that are walked at once. A judgement: the budget of an upstream lets half of its connections be a mirror's,
/// four by default.
const COLLECTIONS_AT_ONCE: usize = 4;

/// Files of one collection that are brought at once: a judgement, as above.
const FILES_AT_ONCE: usize = 4;

/// Two absences count where so many seconds lie between them. A judgement: a day, so that an outage of one is none of two.
const GRACE: u64 = 24 * 3600;

/// A file that was changed within so many nanoseconds before its listing may change again without another time: the two
/// seconds of FAT, and of most that round.
const RACY: i64 = 2_000_000_000;

/// The words for a walk that was ordered to stop.
const STOPPED: &str = "the server is stopping";

/// The context that all walks of a mirror share.
#[derive(Debug, Clone)]
pub(super) struct WalkContext {
    pub(super) store: Arc<Store>,
    pub(super) fills: Registry,
    pub(super) client: Client,
    pub(super) upstream: Arc<ConfiguredUpstream>,
    pub(super) source: MirrorSource,
    pub(super) settings: MirrorSettings,
    /// Whether cookies are taken off requests and replies.
    pub(super) drop_cookies: bool,
    /// The collection that is mirrored.
    pub(super) root: TreePath,
}

/// A walk.
pub(super) struct Walk {
    pub(super) context: WalkContext,
    /// A dry run fetches and writes down nothing.
    pub(super) dry_run: bool,
    /// The conditions that its listings have in common, but for their format.
    pub(super) conditions: [u8; 16],
    /// Written as the walk goes, looked at by those who tell of it. Held for a figure or a copy.
    pub(super) report: Arc<Mutex<WalkReport>>,
    /// The format of the listings, as soon as it is known. Held for a look.
    pub(super) format: Mutex<Option<ListingFormat>>,
    /// Requests for listings. Relaxed: a counter that orders nothing.
    pub(super) listings: AtomicU64,
    /// Members that may be removed when the walk has seen the whole tree. Held for an addition.
    pub(super) due: Mutex<Vec<DueCollection>>,
    /// Files that are known, listed or suspect. Relaxed: a counter that orders nothing.
    pub(super) known_files: AtomicU64,
    /// True when the walk is to stop.
    pub(super) stopping: watch::Receiver<bool>,
}

/// A collection that is still to be walked.
struct Next {
    path: TreePath,
    depth: usize,
}

impl Walk {
    /// Walks the tree; the report tells how it went.
    pub(super) async fn run(&self) {
        let root = Next {
            path: self.context.root.with_slash(),
            depth: 0,
        };
        let (mut waiting, mut walking) = (vec![root], FuturesUnordered::new());
        loop {
            while walking.len() < COLLECTIONS_AT_ONCE
                && let Some(next) = waiting.pop()
            {
                if self.is_stopped() {
                    return;
                }
                // The first listing finds out the format, which the others go by.
                let is_alone = lock(&self.format).is_none() && !walking.is_empty();
                if is_alone {
                    waiting.push(next);
                    break;
                }
                walking.push(self.collection(next));
            }
            let Some(found) = walking.next().await else { return };
            self.report().listings = self.listings.load(Ordering::Relaxed);
            waiting.extend(found);
        }
    }

    /// The conditions that listings must have in common to be compared: who is asked, by what credential, through which filter, and in
    /// which format.
    fn fingerprint(&self) -> [u8; 16] {
        let format = lock(&self.format).map_or("", ListingFormat::name);
        let digest = digest_of(&[&self.conditions, format.as_bytes()]);
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest[..16]);
        fingerprint
    }

    /// The members that may be removed, and the number of files of the mirror.
    pub(super) fn take_due(&self) -> (Vec<DueCollection>, u64) {
        let due = std::mem::take(&mut *lock(&self.due));
        (due, self.known_files.load(Ordering::Relaxed))
    }

    /// Notes what a complete listing says of losses.
    fn note_losses(&self, path: &TreePath, members: &[IndexedMember]) {
        let is_suspect = |member: &&IndexedMember| matches!(member.state, MemberState::Suspect { .. });
        let listed = members.iter().filter(|member| is_listed(member)).count();
        let is_known = |member: &&IndexedMember| !member.is_collection && (is_listed(member) || is_suspect(member));
        let known = members.iter().filter(is_known).count() as u64;
        self.known_files.fetch_add(known, Ordering::Relaxed);
        let due = due_members(members);
        if !due.is_empty() {
            lock(&self.due).push(DueCollection {
                path: path.clone(),
                members: due,
                known,
                is_empty: listed == 0,
            });
        }
    }

    pub(super) fn report(&self) -> std::sync::MutexGuard<'_, WalkReport> {
        lock(&self.report)
    }

    /// Whether the walk ends here: by order, or for want of room.
    fn is_stopped(&self) -> bool {
        let mut report = self.report();
        if *self.stopping.borrow() {
            report.stopped.get_or_insert_with(|| STOPPED.to_owned());
        }
        report.stopped.is_some()
    }

    fn fail(&self, reason: &str, path: &TreePath) {
        self.report().fail(reason, &path.to_string());
    }

    /// Walks one collection; the collections in it are returned.
    async fn collection(&self, next: Next) -> Vec<Next> {
        let Next { path, depth } = next;
        let known = match self.known(&path).await {
            Ok(known) => known,
            Err(error) => {
                self.fail(&error.to_string(), &path);
                return Vec::new();
            }
        };
        if let Some(known) = known.as_ref().filter(|known| self.is_done(known)) {
            let mut report = self.report();
            report.dirs += 1;
            for member in known.members.iter().filter(|member| !member.is_collection) {
                report.files += u64::from(is_listed(member));
                report.unchanged += u64::from(member.state == MemberState::Current);
            }
            drop(report);
            return self.beneath(&path, depth, &known.members);
        }
        let format = *lock(&self.format);
        let lister = Lister {
            client: &self.context.client,
            upstream: &self.context.upstream,
            requests: &self.listings,
        };
        let tag = known
            .as_ref()
            .filter(|known| known.listed.fingerprint == self.fingerprint())
            .and_then(|known| known.listed.tag.clone());
        let obtained = lister.obtain(&path, format, tag.as_deref()).await;
        if let Obtained::Complete(listing) | Obtained::Partial(listing, _) = &obtained
            && let Some(found) = listing.found
        {
            *lock(&self.format) = Some(found);
        }
        match obtained {
            Obtained::Complete(listing) => self.complete(&path, depth, known, listing).await,
            Obtained::Unchanged => self.unchanged(&path, depth, known).await,
            Obtained::Partial(listing, why) => self.partial(&path, depth, known, listing, &why).await,
            Obtained::Refused(status) => {
                self.fail(&format!("the upstream refuses its listing ({status})"), &path);
                self.refused(&path, known).await;
                Vec::new()
            }
            Obtained::Gone(status) => self.failed(&path, depth, known, &format!("its listing is {status}")),
            Obtained::Failed(why) => self.failed(&path, depth, known, &why),
        }
    }

    /// Whether this walk has been through the collection before a crash.
    fn is_done(&self, known: &IndexedCollection) -> bool {
        !self.dry_run && known.listed.walk == self.report().walk
    }

    async fn complete(
        &self,
        path: &TreePath,
        depth: usize,
        known: Option<IndexedCollection>,
        listing: ListedCollection,
    ) -> Vec<Next> {
        let now = unix_seconds(self.context.store.now());
        let (before, known) = known.map_or((None, Vec::new()), |known| (Some(known.listed), known.members));
        let fingerprint = self.fingerprint();
        let how = Comparison {
            is_complete: true,
            same_fingerprint: before.as_ref().is_none_or(|listed| listed.fingerprint == fingerprint),
            now,
            grace: GRACE,
        };
        let date = listing.date;
        let members = merge(known.clone(), listing.members, how);
        let origin = ListingOrigin {
            fingerprint,
            as_of: now,
            walk: before.as_ref().map_or(0, |listed| listed.walk),
            tag: listing.tag,
            is_refused: false,
        };
        let known = before.map(|_| known);
        self.finish(path, depth, (origin, date), known, members).await
    }

    async fn unchanged(&self, path: &TreePath, depth: usize, known: Option<IndexedCollection>) -> Vec<Next> {
        let Some(known) = known else {
            self.fail("the upstream says that nothing has changed, of what is not known", path);
            return Vec::new();
        };
        let how = Comparison {
            is_complete: true,
            // The tag was sent because of that.
            same_fingerprint: true,
            now: unix_seconds(self.context.store.now()),
            grace: GRACE,
        };
        let origin = ListingOrigin {
            as_of: how.now,
            is_refused: false,
            ..known.listed
        };
        let members = unchanged(known.members.clone(), how);
        self.finish(path, depth, (origin, None), Some(known.members), members)
            .await
    }

    /// Brings the files of a collection that was listed completely, and writes it down; `known` is what was known of it.
    async fn finish(
        &self,
        path: &TreePath,
        depth: usize,
        (mut origin, date): (ListingOrigin, Option<i64>),
        known: Option<Vec<IndexedMember>>,
        mut members: Vec<IndexedMember>,
    ) -> Vec<Next> {
        self.leave_out(&mut members, depth);
        if !self.dry_run {
            members = self.reclaim(path, members).await;
        }
        let is_changed = known.is_none_or(|known| known != members);
        self.count(&members);
        self.note_losses(path, &members);
        if !self.dry_run && is_changed && !self.write(path, &origin, &members).await {
            return Vec::new();
        }
        let brought = self.files(path, &mut members, date).await;
        if self.dry_run {
            return self.beneath(path, depth, &members);
        }
        if !self.is_stopped() {
            origin.walk = self.report().walk;
        }
        let written = match brought {
            true => self.write(path, &origin, &members).await,
            false => self.write_origin(path, &origin).await,
        };
        match written {
            true => self.beneath(path, depth, &members),
            false => Vec::new(),
        }
    }

    /// Brings what a partial listing has, and goes on with what is known beside it.
    async fn partial(
        &self,
        path: &TreePath,
        depth: usize,
        known: Option<IndexedCollection>,
        listing: ListedCollection,
        why: &str,
    ) -> Vec<Next> {
        self.fail(&format!("its listing is not complete: {why}"), path);
        let how = Comparison {
            is_complete: false,
            same_fingerprint: false,
            now: 0,
            grace: GRACE,
        };
        let members = known.map_or_else(Vec::new, |known| known.members);
        let mut members = merge(members, listing.members, how);
        self.leave_out(&mut members, depth);
        self.files(path, &mut members, None).await;
        self.beneath(path, depth, &members)
    }

    /// Goes on with what is known of a collection that could not be listed.
    fn failed(&self, path: &TreePath, depth: usize, known: Option<IndexedCollection>, why: &str) -> Vec<Next> {
        self.fail(why, path);
        match depth {
            // The upstream is away, or has another tree now: each collection of it would fail alike.
            0 => Vec::new(),
            _ => known.map_or_else(Vec::new, |known| self.beneath(path, depth, &known.members)),
        }
    }

    /// Notes that the upstream does not let the collection be listed: what is here of it stays, and is hidden.
    async fn refused(&self, path: &TreePath, known: Option<IndexedCollection>) {
        if let Some(known) = known.filter(|_| !self.dry_run) {
            let origin = ListingOrigin {
                is_refused: true,
                ..known.listed
            };
            self.write_origin(path, &origin).await;
        }
    }

    /// Marks the members that the mirror does not keep.
    fn leave_out(&self, members: &mut [IndexedMember], depth: usize) {
        let settings = &self.context.settings;
        for member in members {
            let too_deep = member.is_collection && depth >= settings.depth;
            let too_large = member
                .size
                .zip(settings.largest)
                .is_some_and(|(size, largest)| size > largest);
            let is_out = too_deep || too_large || is_excluded(&member.name, &settings.exclude);
            match member.state {
                MemberState::Listed | MemberState::Current if is_out => member.state = MemberState::LeftOut,
                MemberState::LeftOut if !is_out => member.state = MemberState::Listed,
                _ => {}
            }
        }
    }

    fn count(&self, members: &[IndexedMember]) {
        let mut report = self.report();
        report.dirs += 1;
        for member in members {
            match member.state {
                MemberState::Suspect { .. } => report.suspect += 1,
                MemberState::LeftOut => report.left_out += 1,
                MemberState::Listed | MemberState::Current if !member.is_collection => report.files += 1,
                _ => {}
            }
        }
    }

    /// Brings the files that are not here, or of which it is not known whether they are; whether a member changed.
    async fn files(&self, path: &TreePath, members: &mut [IndexedMember], date: Option<i64>) -> bool {
        let files: Vec<usize> = members
            .iter()
            .enumerate()
            .filter(|(_, member)| !member.is_collection)
            .filter(|(_, member)| matches!(member.state, MemberState::Listed | MemberState::Current))
            .map(|(index, _)| index)
            .collect();
        let targets: Vec<Arc<Target>> = files
            .iter()
            .map(|index| self.target(path, &members[*index].name))
            .collect();
        let Some(stored) = self.stored(&targets).await else {
            self.fail("the catalog could not be read", path);
            return false;
        };
        let mut work = Vec::new();
        for ((index, target), stored) in files.into_iter().zip(targets).zip(stored) {
            let is_here =
                stored.is_some_and(|stored| stored.is_whole && (stored.is_pinned || !self.context.settings.pin));
            match members[index].state {
                MemberState::Current if is_here => self.report().unchanged += 1,
                _ if self.dry_run => {
                    let mut report = self.report();
                    report.fetched += 1;
                    report.bytes += members[index].size.unwrap_or_default();
                }
                _ => work.push((index, target)),
            }
        }
        let mut has_changed = false;
        let mut bringing = futures::stream::iter(work)
            .map(|(index, target)| async move { (index, self.bring(&target).await) })
            .buffer_unordered(FILES_AT_ONCE);
        while let Some((index, brought)) = bringing.next().await {
            let Some(brought) = brought else { continue };
            let member = &mut members[index];
            let shown = path.child(&member.name).to_string();
            let object = brought.tell(&mut self.report(), &shown);
            let Some(object) = object else { continue };
            // A length that is not the listed one is of a file that has changed since it was listed.
            let is_listed_one = member.size.is_none() || member.size == object.length();
            if is_listed_one && !is_racy(member, date) && member.state != MemberState::Current {
                member.state = MemberState::Current;
                has_changed = true;
            }
        }
        has_changed
    }

    /// Brings one file; `None` where the walk is to stop.
    async fn bring(&self, target: &Arc<Target>) -> Option<Brought> {
        if self.is_stopped() {
            return None;
        }
        let context = &self.context;
        let mut stopping = self.stopping.clone();
        let brought = tokio::select! {
            brought = bring(&context.fills, &context.store, target) => brought,
            // An error means that the server has gone, which is the same order.
            _ = stopping.wait_for(|stopping| *stopping) => return None,
        };
        if let Brought::Unchanged(object) | Brought::Fetched(object) = &brought
            && context.settings.pin
            && !object.is_pinned()
        {
            let (store, id) = (Arc::clone(&context.store), object.id());
            if let Err(error) = on_disk(move || store.pin_mirrored(id)).await {
                tracing::warn!(url = object.url(), %error, "could not record that a mirrored file is kept");
            }
        }
        Some(brought)
    }

    /// The collections among the members that are to be walked.
    fn beneath(&self, path: &TreePath, depth: usize, members: &[IndexedMember]) -> Vec<Next> {
        let collections = members
            .iter()
            .filter(|member| member.is_collection && is_listed(member) && member.state != MemberState::LeftOut);
        let next = collections.map(|member| Next {
            path: path.child(&member.name).with_slash(),
            depth: depth + 1,
        });
        let mut next: Vec<Next> = next.collect();
        // The last is walked first.
        next.reverse();
        next
    }

    /// The target of a file.
    fn target(&self, path: &TreePath, name: &str) -> Arc<Target> {
        let path = path.child(name);
        let base = &self.context.upstream.base;
        Arc::new(Target {
            key: key_of(base, &path),
            upstream: Some(Arc::clone(&self.context.upstream)),
            drop_cookies: self.context.drop_cookies,
            is_mirrored: true,
            ..Target::new(url_of(base, &path), Trust::Configured)
        })
    }

    // --- what is written down ----------------------------------------------------------------

    pub(super) async fn known(&self, path: &TreePath) -> Result<Option<IndexedCollection>, StoreError> {
        let (store, source, path) = (Arc::clone(&self.context.store), self.context.source, path.to_string());
        on_disk(move || store.collection(source, &path)).await
    }

    async fn stored(&self, targets: &[Arc<Target>]) -> Option<Vec<Option<Stored>>> {
        let (store, keys) = (
            Arc::clone(&self.context.store),
            targets.iter().map(|target| target.key.id()).collect::<Vec<_>>(),
        );
        on_disk(move || keys.into_iter().map(|id| store.peek(id)).collect::<Result<Vec<_>, _>>())
            .await
            .ok()
    }

    pub(super) async fn write(&self, path: &TreePath, origin: &ListingOrigin, members: &[IndexedMember]) -> bool {
        let collection = IndexedCollection {
            listed: origin.clone(),
            members: members.to_vec(),
        };
        let (store, source, text) = (Arc::clone(&self.context.store), self.context.source, path.to_string());
        let written = on_disk(move || store.put_collection(source, &text, &collection)).await;
        self.is_written(written, path)
    }

    async fn write_origin(&self, path: &TreePath, origin: &ListingOrigin) -> bool {
        let (store, source, text) = (Arc::clone(&self.context.store), self.context.source, path.to_string());
        let origin = origin.clone();
        let written = on_disk(move || store.put_listing_origin(source, &text, &origin)).await;
        self.is_written(written, path)
    }

    fn is_written(&self, written: Result<(), StoreError>, path: &TreePath) -> bool {
        if let Err(error) = &written {
            self.fail(&format!("it could not be written down: {error}"), path);
        }
        written.is_ok()
    }
}

/// Whether the member was in the last listing.
fn is_listed(member: &IndexedMember) -> bool {
    matches!(
        member.state,
        MemberState::Listed | MemberState::Current | MemberState::LeftOut
    )
}

/// Whether the file may have changed after it was listed, within the second that its time tells.
fn is_racy(member: &IndexedMember, date: Option<i64>) -> bool {
    let by_time = member.tag.is_none();
    let lies_close = |modified: i64, date: i64| date.saturating_sub(modified) < RACY;
    by_time
        && member
            .modified
            .zip(date)
            .is_some_and(|(modified, date)| lies_close(modified, date))
}
