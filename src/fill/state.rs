//! The state that a fill shares with its readers: one for each fill, held by its owner and by every cursor.
//!
//! Readers say that they come and leave, where they are, and what they came with (`readers`, `arrivals`, `positions`,
//! `access`, `target`); the owner says how far the fill is (`phase`, `trouble`, `status`). A reader counts itself among
//! the readers before the arrivals and says its place last; it takes its place away before it is counted out. The owner
//! reads the arrivals first, so a reader that it finds counted and without a place is one that is still coming, or is
//! leaving at this moment.
//!
//! Locks are held for moments, in this order where one is taken under another: `target`, then `spare`, the trouble and
//! the object's progress; the phase, then `positions` with each reader's own, `access` and the object's progress
//! (retention.rs). `status`, `location` and `throughput` are taken alone.

use super::phase::{Phase, Trouble};
use super::position::{AccessPattern, ReaderPosition, ReaderProgress};
use super::session::SessionPosition;
use super::throughput::Throughput;
use super::want::Want;
use crate::key::ObjectKey;
use crate::live::Stream;
use crate::policy::NotStored;
use crate::ranges::ByteOffset;
use crate::store::Object;
use crate::sync::lock;
use crate::upstream::{Target, Trust};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use url::Url;

/// The state that a fill shares with its readers.
#[derive(Debug)]
pub(super) struct FillState {
    pub(super) key: ObjectKey,
    /// The target to ask for. A lock, since readers replace it while sessions ask; held for a copy, and by the owner
    /// while it decides whether a refusal is a failure, so that no reader renews the target meanwhile. `spare` and the
    /// trouble are taken under it.
    target: Mutex<Arc<Target>>,
    /// Another URL for the same object, which the latest reader came with: it may be signed anew, or have a signature
    /// that is worth nothing. It is tried when the target itself opens nothing more. Its lock is held for a copy.
    spare: Mutex<Option<Arc<Target>>>,
    /// A reader has come with another target since the owner last looked. Release when it is set, under the lock of the
    /// target, AcqRel when it is taken, Acquire when a joining reader looks; the targets themselves lie under their
    /// locks.
    pub(super) renewed: AtomicBool,
    /// Where redirects led, and when: written by the sessions that were redirected, read by those that ask next. Its
    /// lock is held for a copy.
    location: Mutex<Option<(Url, Instant)>>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) trouble: watch::Sender<Option<Trouble>>,
    /// How many cursors there are. AcqRel when one comes or goes, Acquire when they are counted: an owner that finds a
    /// reader gone finds in `access` when it left. A joining reader is counted under the lock of the fills, under which
    /// the fill is retired.
    pub(super) readers: AtomicUsize,
    /// How many readers have ever come. AcqRel when one is counted, behind `readers`, and Acquire when the owner reads
    /// it, before `readers`: an arrival that is seen is a reader that is counted, or has left.
    arrivals: AtomicU64,
    /// A reader has asked for bytes, so completing the object is worth while. AcqRel when it is set, behind that
    /// reader's hint and wish, and Acquire when the owner looks.
    pub(super) bytes_wanted: AtomicBool,
    /// Where readers were last: the holes after it are filled first. Relaxed: an old one begins elsewhere, and orders
    /// nothing.
    pub(super) hint: AtomicU64,
    /// Where the wishes of the latest readers ended. Its lock is held for an entry or a copy: by readers that come and
    /// leave, and by the owner.
    pub(super) access: Mutex<AccessPattern>,
    /// Rung when a reader joins or leaves.
    pub(super) changed: Notify,
    /// The fill has left the map, and brings nothing more. Release when it is set, under the lock of the fills, and
    /// Acquire when it is read: a reader that sees it joins under that lock, and finds another fill. A fill that
    /// retires sets it before its sessions' stops are zero, so a writer that sees such a stop sees this too.
    pub(super) over: AtomicBool,
    /// The object was purged, or is not to be shared: the fill goes on for the readers it has, and no other joins it.
    /// Release when it is set, behind `not_stored`, and Acquire when the owner looks.
    pub(super) detached: AtomicBool,
    /// Why the reply is not kept.
    pub(super) not_stored: OnceLock<NotStored>,
    /// The stream that it logs, where it is one.
    stream: OnceLock<Arc<Stream>>,
    /// The bytes that have come lately. Its lock is held for an addition, once for each batch of a session, and for a
    /// look.
    pub(super) throughput: Arc<Mutex<Throughput>>,
    /// The positions of all readers; a cursor that is dropped takes its own away. Its lock is held while one is added
    /// or taken away, and while all are copied, each under its own lock then.
    positions: Mutex<Vec<Arc<ReaderPosition>>>,
    /// The owner's status. Its lock is held while the owner puts a new one in, while readers look which sessions there
    /// are, and while it is decided that one ends that serves nobody: a reader is either counted before that, or does
    /// not find the session.
    pub(super) status: Mutex<FillStatus>,
}

/// The owner's status, published after each plan.
#[derive(Debug, Default)]
pub(super) struct FillStatus {
    pub(super) sessions: Vec<Arc<SessionPosition>>,
    pub(super) retry_at: Option<Instant>,
    /// The last failure was the disk's.
    pub(super) disk: bool,
    pub(super) ranges: bool,
    /// No other exchange can go on where the sessions end.
    pub(super) dead_end: bool,
}

/// How long the place that redirects led to is asked directly. A judgement: where the place has gone before, one
/// request is in vain (`ask`).
const LOCATION_LIFETIME: Duration = Duration::from_secs(300);

impl FillState {
    pub(super) fn new(target: Arc<Target>, bytes_wanted: bool) -> Self {
        Self {
            key: target.key.clone(),
            target: Mutex::new(target),
            spare: Mutex::default(),
            location: Mutex::default(),
            renewed: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Opening),
            trouble: watch::Sender::new(None),
            readers: AtomicUsize::new(0),
            arrivals: AtomicU64::new(0),
            // Set before the owner starts: it must not take the first reader for one of the head.
            bytes_wanted: AtomicBool::new(bytes_wanted),
            hint: AtomicU64::new(0),
            access: Mutex::default(),
            changed: Notify::new(),
            over: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            not_stored: OnceLock::new(),
            stream: OnceLock::new(),
            throughput: Arc::new(Mutex::new(Throughput::new(Instant::now()))),
            positions: Mutex::default(),
            status: Mutex::default(),
        }
    }

    /// A fill that has brought its object whole is only winding up: it cannot revalidate or begin anew.
    pub(super) fn is_open_to(&self, want: Want) -> bool {
        if self.stream.get().is_some_and(|stream| stream.status().state.is_over()) {
            return false;
        }
        match (&*self.phase.borrow(), want) {
            (Phase::Ready(object), want) if want.is_anew() => !object.is_whole(),
            _ => true,
        }
    }

    /// The object whose bytes the fill brings, once its head is known.
    pub(super) fn object(&self) -> Option<Arc<Object>> {
        match &*self.phase.borrow() {
            Phase::Ready(object) => Some(Arc::clone(object)),
            _ => None,
        }
    }

    /// The stream that it logs, where it is one.
    pub(super) fn stream(&self) -> Option<&Arc<Stream>> {
        self.stream.get()
    }

    /// Marks the fill as the writer of a stream.
    pub(super) fn set_stream(&self, stream: &Arc<Stream>) {
        let _ = self.stream.set(Arc::clone(stream));
    }

    /// The target to ask for.
    pub(super) fn target(&self) -> Arc<Target> {
        Arc::clone(&lock(&self.target))
    }

    /// A reader came with `target`. One that may go everywhere takes the place of one that may not, and
    /// is never replaced by one.
    pub(super) fn renew(&self, target: &Arc<Target>) {
        let mut held = lock(&self.target);
        // The same URL with the same trust brings nothing new: a failure of one is that of the other.
        let same = held.url == target.url && held.trust == target.trust;
        match (held.trust, target.trust) {
            // One client's credentials are not used for others.
            _ if same || !held.same_credentials(target) => return,
            (Trust::Configured, Trust::Public) => return,
            (Trust::Public, Trust::Configured) => *held = Arc::clone(target),
            _ => *self.spare() = Some(Arc::clone(target)),
        }
        // An error for the old URL must not be reported for the new one.
        self.trouble.send_replace(None);
        self.renewed.store(true, Ordering::Release);
        drop(held);
    }

    /// The target, locked: no reader renews it while this is held.
    pub(super) fn hold_target(&self) -> MutexGuard<'_, Arc<Target>> {
        lock(&self.target)
    }

    /// The URL that is worth a try where `asked` opens nothing: what has taken its place, or was not tried yet.
    pub(super) fn another_than(&self, asked: &Arc<Target>) -> Option<Arc<Target>> {
        let held = self.hold_target();
        if !Arc::ptr_eq(&held, asked) {
            return Some(Arc::clone(&held));
        }
        self.spare().clone()
    }

    /// Whether there is one that was not tried, or is being tried.
    pub(super) fn has_spare(&self) -> bool {
        self.spare().is_some()
    }

    /// Forgets the spare URL: the upstream refuses it too.
    pub(super) fn forget_spare(&self, tried: &Arc<Target>) {
        self.spare().take_if(|spare| Arc::ptr_eq(spare, tried));
    }

    /// The other URL opens what this one does not any more.
    pub(super) fn promote(&self, target: &Arc<Target>) {
        *self.hold_target() = Arc::clone(target);
        self.forget_spare(target);
        self.forget_location();
    }

    fn spare(&self) -> MutexGuard<'_, Option<Arc<Target>>> {
        lock(&self.spare)
    }

    /// Where redirects led a short while ago.
    pub(super) fn location(&self) -> Option<Url> {
        let held = lock(&self.location);
        let (url, since) = held.as_ref()?;
        (since.elapsed() < LOCATION_LIFETIME).then(|| url.clone())
    }

    /// Remembers where redirects led.
    pub(super) fn remember_location(&self, url: Url) {
        let mut held = lock(&self.location);
        if held
            .as_ref()
            .is_none_or(|(known, since)| *known != url || since.elapsed() >= LOCATION_LIFETIME)
        {
            *held = Some((url, Instant::now()));
        }
    }

    pub(super) fn forget_location(&self) {
        *lock(&self.location) = None;
    }

    /// Whether the latest reader goes on where another one ended, so that the next is known beforehand;
    /// and when the last one left.
    pub(super) fn access(&self) -> (bool, Option<Instant>) {
        let access = lock(&self.access);
        (access.in_sequence, access.left)
    }

    /// Counts a reader that comes: among the readers first, since the owner reads the arrivals first.
    pub(super) fn count_reader(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
        self.arrivals.fetch_add(1, Ordering::AcqRel);
    }

    /// Adds the position of a reader that has come.
    pub(super) fn add_position(&self, position: &Arc<ReaderPosition>) {
        lock(&self.positions).push(Arc::clone(position));
    }

    /// Forgets the position of a reader that leaves.
    pub(super) fn forget_position(&self, position: &Arc<ReaderPosition>) {
        lock(&self.positions).retain(|known| !Arc::ptr_eq(known, position));
    }

    /// How many readers have ever come.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Acquire)
    }

    /// Marks a session as ended that serves no reader, unless one has come since there had been so many `arrivals`. A reader
    /// is counted before it looks, under the same lock, which sessions there are (`Cursor::comes_soon`): so none relies on
    /// a session that is about to end.
    pub(super) fn ends_unattended(&self, position: &SessionPosition, arrivals: u64) -> bool {
        let _looks = lock(&self.status);
        let ends = self.arrivals() == arrivals;
        if ends {
            position.end();
        }
        ends
    }

    pub(super) fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Acquire) > 0
    }

    /// Where the latest wishes ended: whoever had them may be back for the next.
    pub(super) fn left_at(&self) -> Vec<ByteOffset> {
        let access = lock(&self.access);
        access.latest_ends()
    }

    /// How each of the readers goes.
    pub(super) fn reading(&self) -> Vec<ReaderProgress> {
        let positions = lock(&self.positions);
        positions.iter().map(|position| position.now()).collect()
    }

    /// Bytes per second that the fill brings, where enough has come to tell.
    pub(super) fn rate(&self) -> Option<f64> {
        let throughput = lock(&self.throughput);
        throughput.rate(Instant::now())
    }
}
