//! The mirrors of a server: when each is walked, one walk of it at a time, and what is written down of it.
//!
//! A mirror with an interval is walked when the server has started, unless its last walk is younger, and then at that
//! interval, a tenth more or less: many caches of one upstream do not come to it in one moment. An order to walk joins the
//! walk that is under way; a dry run has one of its own, since it changes nothing. A walk that a crash or a stop has ended
//! goes on where it was, under the same number.

use super::disk::on_disk;
use super::source::{source_of, url_of};
use super::walk::{Walk, WalkContext};
use crate::api::{MirrorSummary, WalkReport};
use crate::clock::{from_unix_seconds, unix_seconds};
use crate::config::{ListingFormat, MirrorSettings, MirrorWhen};
use crate::directory::TreePath;
use crate::fill::Registry;
use crate::key::digest_of;
use crate::store::{Store, StoreError};
use crate::sync::lock;
use crate::upstream::{Client, ConfiguredUpstream, random};
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The time after which a mirror is walked again whose own collection could not be listed. A judgement: the upstream may be
/// starting, or its credential be renewed.
const AFTER_NOTHING: Duration = Duration::from_secs(60);

/// The mirrors of a server.
#[derive(Debug)]
pub struct Mirrors {
    mirrors: Vec<Arc<Mirror>>,
    /// Where walks run.
    threads: Handle,
    /// True when they are to stop.
    stopping: watch::Sender<bool>,
}

/// The subject of a mirror.
#[derive(Debug)]
pub struct MirrorOf {
    /// The upstream.
    pub upstream: Arc<ConfiguredUpstream>,
    /// The path of the mirrored collection, not encoded, with a slash at either end.
    pub path: String,
    /// The settings.
    pub settings: MirrorSettings,
    /// Whether cookies are taken off requests and replies.
    pub drop_cookies: bool,
}

/// An order to walk.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalkOrder {
    /// A dry run fetches, removes and writes down nothing.
    pub dry_run: bool,
    /// A person says that removals which are held are right.
    pub confirms_removals: bool,
}

/// One mirror.
#[derive(Debug)]
pub struct Mirror {
    name: String,
    context: WalkContext,
    /// The walk that is under way. Held for a look or a change.
    walking: Mutex<Option<Walking>>,
}

/// A walk that is under way.
#[derive(Debug, Clone)]
pub struct Walking {
    /// Written by the walk, looked at by those who tell of it. Held for a figure or a copy.
    report: Arc<Mutex<WalkReport>>,
    is_over: watch::Receiver<bool>,
}

/// The side of a walk that its task has.
#[derive(Debug)]
struct BegunWalk {
    /// As [`Walking`] has it: held for a figure or a copy.
    report: Arc<Mutex<WalkReport>>,
    /// True when the walk is over.
    over: watch::Sender<bool>,
}

/// The state of a mirror, as it is written down.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct MirrorState {
    /// The number of the latest walk.
    walk: u64,
    /// Whether it is under way, or was when the server ended.
    is_under_way: bool,
    /// When it began, in seconds since 1970.
    began: u64,
    /// The format of the listings.
    format: Option<String>,
    /// The report of the last walk that is over, as JSON.
    last: Option<String>,
}

impl Mirrors {
    /// The mirrors of that list, none of which is walked yet.
    pub fn new(list: Vec<MirrorOf>, store: &Arc<Store>, fills: &Registry, client: &Client, threads: Handle) -> Self {
        let mirror = |of: MirrorOf| {
            let names = of.path.split('/').filter(|name| !name.is_empty());
            let root = names.fold(TreePath::root(), |path, name| path.child(name));
            let name = format!("{}{}", of.upstream.name.as_deref().unwrap_or_default(), of.path);
            let context = WalkContext {
                store: Arc::clone(store),
                fills: fills.clone(),
                client: client.clone(),
                source: source_of(&of.upstream.base),
                upstream: of.upstream,
                settings: of.settings,
                drop_cookies: of.drop_cookies,
                root: root.with_slash(),
            };
            Arc::new(Mirror {
                name,
                context,
                walking: Mutex::default(),
            })
        };
        Self {
            mirrors: list.into_iter().map(mirror).collect(),
            threads,
            stopping: watch::Sender::new(false),
        }
    }

    /// Begins to walk the mirrors that have an interval.
    pub fn start(&self) {
        for mirror in &self.mirrors {
            let witnessed = Arc::clone(mirror);
            self.threads.spawn(async move { witnessed.remember_witness().await });
            if let MirrorWhen::Every(interval) = mirror.context.settings.when {
                let (mirror, stopping) = (Arc::clone(mirror), self.stopping.subscribe());
                self.threads
                    .spawn(async move { mirror.at_intervals(interval, stopping).await });
            }
        }
    }

    /// Stops all walks: what they have come to is written down. Returns when they have ended.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        for mirror in &self.mirrors {
            let walking = lock(&mirror.walking).clone();
            if let Some(walking) = walking {
                walking.ended().await;
            }
        }
    }

    /// The mirror of that name.
    pub fn named(&self, name: &str) -> Option<&Arc<Mirror>> {
        let name = name.trim_end_matches('/');
        self.mirrors
            .iter()
            .find(|mirror| mirror.name.trim_end_matches('/') == name)
    }

    /// The names of all.
    pub fn names(&self) -> Vec<&str> {
        self.mirrors.iter().map(|mirror| mirror.name.as_str()).collect()
    }

    /// Walks the mirror; an order while it is walked joins that walk, unless one of them is a dry run.
    pub fn walk(&self, mirror: &Arc<Mirror>, order: WalkOrder) -> Walking {
        let (walking, begun) = mirror.join_or_begin(order.dry_run);
        if let Some(begun) = begun {
            let (mirror, stopping) = (Arc::clone(mirror), self.stopping.subscribe());
            self.threads
                .spawn(async move { mirror.carry_out(begun, order, stopping).await });
        }
        walking
    }

    /// How each stands: for a blocking thread.
    ///
    /// # Errors
    /// Where the catalog refuses.
    pub fn summaries(&self) -> Result<Vec<MirrorSummary>, StoreError> {
        self.mirrors.iter().map(|mirror| mirror.summary()).collect()
    }
}

impl Walking {
    /// How far it is.
    pub fn report(&self) -> WalkReport {
        lock(&self.report).clone()
    }

    /// Returns when it is over.
    pub async fn ended(&self) {
        let mut is_over = self.is_over.clone();
        // An error means that its task has gone, which is the same.
        let _ = is_over.wait_for(|is_over| *is_over).await;
    }
}

impl Mirror {
    /// Names the upstream's own word from before this start: a listing is believed only from the URL that was asked, so one that
    /// was walked has answered there by itself.
    async fn remember_witness(&self) {
        let state = self.state().await.unwrap_or_default();
        let last: Option<WalkReport> = state.last.and_then(|last| serde_json::from_str(&last).ok());
        if last.is_some_and(|last| last.dirs > 0) {
            let root = url_of(&self.context.upstream.base, &self.context.root);
            self.context.upstream.circuit.is_witnessed_by(&root);
        }
    }

    async fn at_intervals(self: &Arc<Self>, interval: Duration, mut stopping: watch::Receiver<bool>) {
        loop {
            let due = self.due_in(interval).await;
            // A walk of an upstream that is away would only fail: it comes when that is back.
            let ready = async {
                tokio::time::sleep(due).await;
                self.context.upstream.circuit.is_here().await;
            };
            tokio::select! {
                () = ready => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            match self.join_or_begin(false) {
                (_, Some(begun)) => self.carry_out(begun, WalkOrder::default(), stopping.clone()).await,
                (running, None) => running.ended().await,
            }
        }
    }

    /// How long until the next walk: none where one was broken off.
    async fn due_in(&self, interval: Duration) -> Duration {
        let state = self.state().await.unwrap_or_default();
        let now = self.context.store.now();
        let since = now.duration_since(from_unix_seconds(state.began)).unwrap_or_default();
        let last: Option<WalkReport> = state.last.as_deref().and_then(|last| serde_json::from_str(last).ok());
        let came_to_nothing = last.is_some_and(|last| last.dirs == 0);
        let wanted = match state.walk {
            0 => Duration::ZERO,
            _ if state.is_under_way => Duration::ZERO,
            _ if came_to_nothing => interval.min(AFTER_NOTHING),
            _ => jittered(interval, random()),
        };
        wanted.saturating_sub(since)
    }

    /// The walk that is under way; else one that begins, with what its task is to have.
    fn join_or_begin(&self, dry_run: bool) -> (Walking, Option<BegunWalk>) {
        let mut walking = lock(&self.walking);
        if let Some(running) = walking.as_ref().filter(|_| !dry_run) {
            return (running.clone(), None);
        }
        let (over, is_over) = watch::channel(false);
        let begun = Walking {
            report: Arc::default(),
            is_over,
        };
        if !dry_run {
            *walking = Some(begun.clone());
        }
        let report = Arc::clone(&begun.report);
        (begun, Some(BegunWalk { report, over }))
    }

    /// Walks, and says that it is over.
    async fn carry_out(&self, begun: BegunWalk, order: WalkOrder, stopping: watch::Receiver<bool>) {
        if let Err(error) = self.carry_out_order(order, &begun.report, stopping).await {
            let mut report = lock(&begun.report);
            report.stopped = Some(error.to_string());
            report.ended = Some(unix_seconds(self.context.store.now()));
        }
        if !order.dry_run {
            *lock(&self.walking) = None;
        }
        begun.over.send_replace(true);
    }

    async fn carry_out_order(
        &self,
        order: WalkOrder,
        report: &Arc<Mutex<WalkReport>>,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), StoreError> {
        let (context, dry_run) = (&self.context, order.dry_run);
        self.reload_credential().await;
        let mut state = self.state().await?;
        let goes_on = state.is_under_way && !dry_run;
        if !goes_on {
            state.walk += 1;
            state.began = unix_seconds(context.store.now());
        }
        let named = state.format.as_deref().and_then(ListingFormat::named);
        *lock(report) = WalkReport {
            walk: state.walk,
            dry_run,
            began: state.began,
            ..WalkReport::default()
        };
        if !dry_run {
            state.is_under_way = true;
            self.put_state(&state).await;
        }
        tracing::info!(
            mirror = self.name,
            walk = state.walk,
            dry_run,
            goes_on,
            "walking a mirror"
        );
        let walk = Walk {
            context: context.clone(),
            dry_run,
            conditions: self.conditions(),
            report: Arc::clone(report),
            format: Mutex::new(context.settings.listing.or(named)),
            listings: AtomicU64::new(0),
            due: Mutex::default(),
            known_files: AtomicU64::new(0),
            stopping: stopping.clone(),
        };
        walk.run().await;
        // A collection that could not be listed says nothing, and keeps no other from what its listing says.
        let came_to_the_end = lock(report).stopped.is_none();
        if came_to_the_end && !dry_run {
            walk.remove_lost(order.confirms_removals).await;
        }
        let found = *lock(&walk.format);
        let told = self.conclude(report);
        if !dry_run {
            state.format = found.map(|format| format.name().to_owned());
            // One that the server's stop has ended goes on with the next start.
            state.is_under_way = *stopping.borrow();
            state.last = Some(told);
            self.put_state(&state).await;
        }
        Ok(())
    }

    /// Reads the upstream's credential again, which may have been renewed.
    async fn reload_credential(&self) {
        if self.context.upstream.authorization.is_some() {
            let upstream = Arc::clone(&self.context.upstream);
            let reading = move || {
                if let Some(authorization) = &upstream.authorization {
                    authorization.reload();
                }
                Ok(())
            };
            // Its own trouble it has told in the log.
            let _ = on_disk(reading).await;
        }
    }

    /// Ends the report, and tells it in the log; the report as JSON.
    fn conclude(&self, report: &Mutex<WalkReport>) -> String {
        let mut report = lock(report);
        report.ended = Some(unix_seconds(self.context.store.now()));
        report.complete = report.stopped.is_none() && report.failed.is_empty();
        tracing::info!(
            mirror = self.name,
            walk = report.walk,
            dirs = report.dirs,
            files = report.files,
            fetched = report.fetched,
            failed = report.failures(),
            complete = report.complete,
            "a mirror was walked"
        );
        serde_json::to_string(&*report).unwrap_or_default()
    }

    /// The conditions that listings must have in common to be compared, but for their format.
    fn conditions(&self) -> [u8; 16] {
        let context = &self.context;
        let credential = context.upstream.authorization.as_ref().map(|known| known.id());
        let filter = format!("{:?}", context.settings.exclude);
        let digest = digest_of(&[
            context.upstream.base.as_str().as_bytes(),
            &credential.unwrap_or_default(),
            filter.as_bytes(),
        ]);
        let mut conditions = [0; 16];
        conditions.copy_from_slice(&digest[..16]);
        conditions
    }

    fn summary(&self) -> Result<MirrorSummary, StoreError> {
        let context = &self.context;
        let state: Option<MirrorState> = context.store.mirror_state(context.source, &context.root.to_string())?;
        let state = state.unwrap_or_default();
        Ok(MirrorSummary {
            name: self.name.clone(),
            url: url_of(&context.upstream.base, &context.root).to_string(),
            when: match context.settings.when {
                MirrorWhen::Access => "access".to_owned(),
                MirrorWhen::Every(interval) => format!("{}s", interval.as_secs()),
            },
            format: context
                .settings
                .listing
                .map(|format| format.name().to_owned())
                .or(state.format),
            walking: lock(&self.walking).as_ref().map(Walking::report),
            last: state.last.and_then(|last| serde_json::from_str(&last).ok()),
        })
    }

    async fn state(&self) -> Result<MirrorState, StoreError> {
        let (store, source, path) = (
            Arc::clone(&self.context.store),
            self.context.source,
            self.context.root.to_string(),
        );
        let state = on_disk(move || store.mirror_state(source, &path)).await?;
        Ok(state.unwrap_or_default())
    }

    async fn put_state(&self, state: &MirrorState) {
        let (store, source, path) = (
            Arc::clone(&self.context.store),
            self.context.source,
            self.context.root.to_string(),
        );
        let state = state.clone();
        if let Err(error) = on_disk(move || store.put_mirror_state(source, &path, &state)).await {
            tracing::warn!(mirror = self.name, %error, "could not write down how a mirror stands");
        }
    }
}

/// The interval, a tenth more or less by a number from 0 to 1.
fn jittered(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_tenth_more_or_less() {
        let hour = Duration::from_secs(3600);
        for (chance, seconds) in [(0.0, 3240), (0.5, 3600), (1.0, 3960)] {
            assert_eq!(jittered(hour, chance).as_secs(), seconds);
        }
    }
}
