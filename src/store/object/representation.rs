//! The upstream's description of an object's bytes: status, validators, fields; and the head that is made of it.
//!
//! A representation is a value, and serialised: its shape is part of records and manifests, so new fields have defaults
//! and a changed one needs a new version (record.rs, manifest.rs). A [`Head`] is a representation with the time of its
//! last validation, shared and never changed: an object gets another head in its place. Field values are texts as
//! `header::text_of` makes them. What the layer above derives from a head lives as long as the head, so that it is
//! derived once and cannot outlive what it was made of.

use crate::clock::{Clock, unix_seconds};
use crate::header::{OverlapValidator, Validators};
use crate::policy::Fields;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The upstream's description of the bytes. Fixed for a generation, but for the fields that a 304 brings anew
/// (RFC 9111 §3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Representation {
    /// The status of the reply: 200 for what may have ranges, else one that says something of the resource.
    #[serde(default = "ok")]
    pub status: u16,
    /// The complete length in bytes, where the reply named it.
    pub complete_length: Option<u64>,
    /// The reply's validators.
    pub validators: Validators,
    /// End-to-end header fields to repeat to clients: names in lower case, without the framing.
    pub headers: Vec<(String, String)>,
    /// Whether later sessions may ask for ranges of it: a strong validator joins what they bring.
    pub ranges: bool,
    /// How old the reply was when it came, in seconds (RFC 9111 §4.2.3).
    #[serde(default)]
    pub age: u64,
    /// The fields of the request that selected it, by the reply's `Vary`: names, and values as
    /// `policy::selecting` writes them.
    #[serde(default)]
    pub selected_by: Vec<(String, String)>,
    /// Whether somebody has ended its time.
    #[serde(default)]
    pub expired: Expired,
    /// How often it was invalidated: its variants before that are not found any more.
    #[serde(default)]
    pub invalidated: u32,
    /// Which of several under one URL it is stored as; see `ObjectKey::variant`.
    #[serde(default)]
    pub variant: Option<String>,
    /// Whether the upstream has answered a `Range` by a part. Without a strong validator nothing else joins such
    /// parts, but each can answer the request that it was asked for.
    #[serde(default)]
    pub gives_parts: bool,
    /// How its bytes came together.
    #[serde(default)]
    pub joined: Joined,
    /// Whether it was fetched with a client's credentials, and does not say that others may have it: each of them is to be
    /// allowed it by the upstream.
    #[serde(default)]
    pub is_guarded: bool,
}

/// How the bytes of an object came together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Joined {
    /// By one exchange, or by several under a strong validator.
    #[default]
    Proven,
    /// By several under a weak tag or a date, with bytes compared where they meet. A later disagreement ends the
    /// object.
    Compared,
    /// As [`Joined::Proven`]; but before it another representation under the same weak tag or date was here, whose
    /// bytes were others. What such validators say of this URL is not believed any more.
    Distrusted,
}

/// Whether the time of a reply was ended before it was over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expired {
    /// The lifetime was not ended.
    #[default]
    No,
    /// The reply is stale by order (a soft purge).
    Stale,
    /// A request that has succeeded may have changed the resource: the reply must be validated before it is used
    /// (RFC 9111 §4.4).
    Invalidated,
}

pub(in crate::store) fn ok() -> u16 {
    200
}

impl Default for Representation {
    fn default() -> Self {
        Self {
            status: ok(),
            complete_length: None,
            validators: Validators::default(),
            headers: Vec::new(),
            ranges: false,
            age: 0,
            selected_by: Vec::new(),
            expired: Expired::No,
            invalidated: 0,
            variant: None,
            gives_parts: false,
            joined: Joined::Proven,
            is_guarded: false,
        }
    }
}

/// More than any reply is fresh for: lifetimes are read up to 2^31 seconds (RFC 9111 §1.2.2).
const UNKNOWN_AGE: Duration = Duration::from_secs(1 << 32);

/// A representation's head, with what the layer above made of it.
#[derive(Debug)]
pub struct Head {
    pub(in crate::store) representation: Representation,
    /// When the upstream last vouched for it, in seconds since 1970.
    pub(in crate::store) validated: u64,
    /// How long ago that was when this head was made, and when it was made by [`Clock::elapsed`].
    age: Duration,
    made: Duration,
    derived: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Head {
    pub(in crate::store) fn new(representation: Representation, validated: u64, clock: &dyn Clock) -> Arc<Self> {
        let now = unix_seconds(clock.now());
        Arc::new(Self {
            representation,
            validated,
            // The wall clock was set back since: how old it is nobody knows.
            age: now.checked_sub(validated).map_or(UNKNOWN_AGE, Duration::from_secs),
            made: clock.elapsed(),
            derived: OnceLock::new(),
        })
    }

    /// The upstream's description.
    pub fn representation(&self) -> &Representation {
        &self.representation
    }

    /// Whether later sessions may ask for ranges of the object.
    pub fn has_ranges(&self) -> bool {
        self.representation.ranges
    }

    /// Whether it is that of a reply with another status than 200: what it says of the resource, none of its bytes.
    pub fn is_bare_response(&self) -> bool {
        self.representation.status != 200
    }

    /// When the upstream last vouched for it, in seconds since 1970.
    pub fn validated(&self) -> u64 {
        self.validated
    }

    /// How long ago that was when `elapsed` is what the clock of its store says now. The wall clock counts for
    /// what was stored before the start alone.
    pub fn since_validated(&self, elapsed: Duration) -> Duration {
        self.age.saturating_add(elapsed.saturating_sub(self.made))
    }

    /// A value that the layer above derives from the head, derived once: `make` runs at the first call.
    ///
    /// # Panics
    /// Where a second type asks: there is one such thing.
    pub fn derived<T: Any + Send + Sync>(&self, make: impl FnOnce(&Self) -> T) -> &T {
        let derived = self.derived.get_or_init(|| Box::new(make(self)));
        derived.downcast_ref().expect("one type prepares an object's head")
    }
}

impl Representation {
    /// Bytes of the names and values of the fields that are repeated to clients.
    pub fn header_bytes(&self) -> usize {
        self.headers.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The validator under which bytes of another exchange may be joined where they agree with those that are here;
    /// `None` where a strong one joins them anyway, and where nothing does.
    pub fn overlap_validator(&self) -> Option<OverlapValidator> {
        let believed = self.joined != Joined::Distrusted && self.status == 200;
        self.validators
            .overlap()
            .filter(|_| believed && self.complete_length.is_some())
    }

    /// The first field of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Fields for Representation {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        // The tag is not among the fields that are repeated: clients are given another where it is weak.
        let tag = self.validators.etag.as_deref().filter(|_| name == "etag");
        tag.into_iter().chain(self.headers.lines(name))
    }
}
