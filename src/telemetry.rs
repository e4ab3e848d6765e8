//! The server's counters, and the way of its log.
//!
//! One registry a server, nothing global, so that several servers can share a process. Names follow
//! the vocabulary of the documents; `docs/metrics.md` lists them.

use crate::masking::without_secrets;
use crate::sync::lock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{self, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tracing_subscriber::Layer;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The label of answers: the status code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    /// The status code.
    pub status: u16,
}

/// The label of positions that readers wait at: the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WhyLabel {
    /// The reason, in a word.
    pub why: String,
}

/// The label of requests to upstreams that failed: the cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    /// The cause, in a word.
    pub cause: &'static str,
}

/// A count that threads add to without meeting: a line of memory that two cores write to moves between them each time.
#[derive(Debug, Default)]
pub struct Shards([Shard; SHARDS]);

/// How many threads add to a count apart. A judgement: as many as a common machine has workers; with more of them some
/// share, and a count takes 2 KiB.
const SHARDS: usize = 16;

/// The share of some threads. Relaxed: a counter that orders nothing. Aligned to two cache lines, which processors
/// fetch in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

impl Shards {
    fn mine(&self) -> &AtomicU64 {
        // Threads so far. Relaxed: a number for each thread is all that is asked of it.
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS);
        &self.0[MINE.with(|mine| *mine)].0
    }
}

impl counter::Atomic<u64> for Shards {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    fn inc_by(&self, by: u64) -> u64 {
        self.mine().fetch_add(by, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

/// A counter for what happens many thousand times a second.
pub type Busy = Counter<u64, Shards>;

/// The counters of one server.
#[derive(Debug)]
pub struct Metrics {
    /// The counters by their names. Held while the text is written, so that scrapes do it one after the other; what
    /// counts never takes it.
    registry: Mutex<Registry>,
    answers: Family<StatusLabel, Busy>,
    /// 200 and 206, nearly all answers: counted without a look-up.
    usual: [Busy; 2],
    /// Requests whose wanted bytes were all stored and fresh.
    pub hits: Busy,
    /// Requests for which the upstream was asked, or a fill joined.
    pub misses: Counter,
    /// Requests that shared a fill.
    pub collapsed: Counter,
    /// Bytes handed to connections.
    pub sent_bytes: Busy,
    /// Bodies that could not be sent to their promised end.
    pub broken_bodies: Counter,
    waiting: Family<WhyLabel, Gauge>,
    upstream_failures: Family<CauseLabel, Counter>,
    /// Fills under way; set when the metrics are read.
    pub fills: Gauge,
    /// Bytes that objects take on the disk; set when the metrics are read.
    pub stored_bytes: Gauge,
    evicted: Counter,
    punched_bytes: Counter,
    bad_blocks: Counter,
    /// 1 while the catalog can be used, 0 while it cannot.
    pub catalog_open: Gauge,
}

impl Metrics {
    /// Counters at 0.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("millpond");
        let answers = Family::<StatusLabel, Busy>::default();
        let usual = [200, 206].map(|status| answers.get_or_create(&StatusLabel { status }).clone());
        registry.register("answers", "Answers by status", answers.clone());
        let waiting = Family::<WhyLabel, Gauge>::default();
        registry.register("waiting", "Positions that readers wait at, by reason", waiting.clone());
        let upstream_failures = Family::<CauseLabel, Counter>::default();
        let help = "Requests to upstreams that brought no reply, by cause";
        registry.register("upstream_failures", help, upstream_failures.clone());
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let busy = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Busy::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            answers,
            usual,
            waiting,
            upstream_failures,
            hits: busy(&mut registry, "hits", "Requests answered from the store"),
            misses: counter(&mut registry, "misses", "Requests that needed the upstream"),
            collapsed: counter(&mut registry, "collapsed", "Requests that shared a fill"),
            sent_bytes: busy(&mut registry, "sent_bytes", "Body bytes handed to connections"),
            broken_bodies: counter(
                &mut registry,
                "broken_bodies",
                "Bodies broken before their promised end",
            ),
            fills: gauge(&mut registry, "fills", "Fills under way"),
            stored_bytes: gauge(&mut registry, "stored_bytes", "Bytes that objects take on the disk"),
            evicted: counter(&mut registry, "evicted", "Objects evicted since the start"),
            punched_bytes: counter(&mut registry, "punched_bytes", "Bytes taken out of objects that stay"),
            bad_blocks: counter(&mut registry, "bad_blocks", "Blocks that did not match their checksums"),
            catalog_open: gauge(&mut registry, "catalog_open", "Whether the catalog can be used"),
            registry: Mutex::new(registry),
        }
    }

    /// Counts one answer.
    pub fn answered(&self, status: u16) {
        match status {
            200 => self.usual[0].inc(),
            206 => self.usual[1].inc(),
            status => self.answers.get_or_create(&StatusLabel { status }).inc(),
        };
    }

    /// Counts a request to an upstream that brought no reply.
    pub fn upstream_failed(&self, cause: &'static str) {
        self.upstream_failures.get_or_create(&CauseLabel { cause }).inc();
    }

    /// Sets how many positions are waited at, one reason each.
    pub fn set_waiting<'a>(&self, reasons: impl Iterator<Item = &'a str>) {
        self.waiting.clear();
        for why in reasons {
            self.waiting.get_or_create(&WhyLabel { why: why.to_owned() }).inc();
        }
    }

    /// Sets what the store counts itself, since the start: objects that were evicted, bytes that were taken out of objects
    /// that stay, and blocks that did not match their checksums.
    pub fn set_counted(&self, evicted: u64, punched_bytes: u64, bad_blocks: u64) {
        // The largest: a scrape that was overtaken by another does not set them back.
        self.evicted.inner().fetch_max(evicted, Ordering::Relaxed);
        self.punched_bytes.inner().fetch_max(punched_bytes, Ordering::Relaxed);
        self.bad_blocks.inner().fetch_max(bad_blocks, Ordering::Relaxed);
    }

    /// All of them in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = lock(&self.registry);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The text with control characters written out: one in a header field or a path must not steer a terminal.
fn escape_controls(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(
            text.chars()
                .map(|sign| match sign.is_control() {
                    true => sign.escape_default().to_string(),
                    false => sign.to_string(),
                })
                .collect(),
        ),
    }
}

/// Sends the process's log to stderr; `directives` like `info` or `warn,millpond::fill=debug`.
///
/// # Errors
/// Where the directives do not parse.
pub fn log_to_stderr(directives: &str) -> Result<(), String> {
    // A broken body is told once, by us and with its URL; directives that name actix still win.
    let directives = format!("actix_http=off,actix_server=warn,{directives}");
    let levels = directives.parse::<Targets>().map_err(|error| error.to_string())?;
    // Where URLs are told, whoever tells them: a signed one opens its object to all who read the log.
    let fields = debug_fn(|writer, field, value| {
        let text = format!("{value:?}");
        let text = escape_controls(&text);
        let text = without_secrets(&text);
        match field.name() {
            "message" => write!(writer, "{text}"),
            name => write!(writer, "{name}={text}"),
        }
    });
    let log = tracing_subscriber::fmt::layer()
        .fmt_fields(fields.delimited(" "))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second call in one process keeps the first log.
    let _ = tracing_subscriber::registry().with(log.with_filter(levels)).try_init();
    Ok(())
}
