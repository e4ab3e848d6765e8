//! The `millpond` command: reads flags, starts the server, waits for the signal to stop; or asks one that runs.
//!
//! Standard output has what was asked for, standard error the log and what went wrong. A configuration is read whole
//! before anything starts, and all of its mistakes are told at once. The exit code is 0, 1 where something failed, and
//! 2 where the command line or the configuration makes no sense.

mod cli;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use millpond::app::{OriginServer, Server};
use millpond::config::{Config, Layers, OriginConfig, describe};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::process::ExitCode;

/// See docs/decisions/0017. Elsewhere it is the system's: jemalloc is built for one size of pages, and ARM has several.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a command line or configuration that makes no sense. Two, as shells and clap have it.
const MISUSE: u8 = 2;

/// A media cache server: fetches once, keeps what it fetched, plays while it fetches.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves players: any URL as /https/HOST/PATH, and the configured upstreams.
    Serve(Box<Settings>),
    /// Serves a directory: to another millpond, players, browsers and file managers.
    Origin(Box<OriginFlags>),
    /// Reads a configuration without serving.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    #[command(flatten)]
    Client(cli::Command),
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Says whether the configuration is valid.
    Check(Box<Settings>),
    /// Lists every setting with its default and meaning.
    Show,
}

/// The flags that every server has.
#[derive(Debug, Args)]
struct Common {
    /// Address and port to accept connections at; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Space to leave free in the file system [default: 256MiB, or a twentieth of a small one]
    #[arg(long, value_name = "SIZE")]
    min_free: Option<String>,
    /// How long running answers may take to finish after SIGTERM [default: 30s]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// The log's level: error, warn, info, debug, or module=level,… [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

impl Common {
    /// The settings that a command line with these and its own says, then the environment, then the file.
    fn layers(self, own: impl IntoIterator<Item = (&'static str, Vec<String>)>) -> Result<Layers, String> {
        let ours = [
            ("listen", one(self.listen)),
            ("min_free", one(self.min_free)),
            ("grace", one(self.grace)),
            ("log", one(self.log)),
        ];
        let flags = own.into_iter().chain(ours);
        let file = self.config.or_else(|| std::env::var("MILLPOND_CONFIG").ok());
        let mut layers = Layers::new();
        layers.add_flags(flags.map(|(key, values)| (key.to_owned(), values)));
        // The commands' own variable: a shell that has it set may start a server too.
        layers.add_environment(variables().filter(|(name, _)| name != cli::SERVER_VARIABLE));
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("--config: could not read {path}: {error}"))?;
            layers.add_toml(&text, &path);
        }
        for warning in layers.warnings() {
            complain(&format!("warning: {warning}"));
        }
        Ok(layers)
    }
}

/// The variables of the environment that are text; others can be no settings, and `std::env::vars` panics at them.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Every setting can also stand in MILLPOND_* variables and in the TOML file; flags win.
#[derive(Debug, Args)]
struct Settings {
    /// Data directory [default: millpond in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Upstream to serve at / or, with a name, at /NAME/; can be given several times
    #[arg(long, value_name = "URL | NAME=URL")]
    upstream: Vec<String>,
    /// How incomplete objects are answered: follow or capped [default: follow]
    #[arg(long)]
    delivery: Option<String>,
    /// The most that objects may take on the disk, like 50GiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// Let URLs that clients name lead to private addresses
    #[arg(long)]
    allow_private: bool,
    /// Whether clients may name any URL: true, false or auto [default: auto, true on loopback]
    #[arg(long, value_name = "BOOL")]
    ad_hoc: Option<String>,
    /// The policy of a fill without readers: complete, stop or finish:PERCENT%,SIZE [default: complete]
    #[arg(long, value_name = "POLICY")]
    after_last_reader: Option<String>,
    /// How far ahead of a reader is fetched, in time at its rate, or all [default: all]
    #[arg(long, value_name = "TIME")]
    read_ahead: Option<String>,
    /// A PEM file of certificate authorities to trust beside the system's
    #[arg(long, value_name = "FILE")]
    upstream_ca: Option<String>,
    /// The longest that a header waits for the first wanted byte [default: 5s]
    #[arg(long, value_name = "TIME")]
    header_wait: Option<String>,
    /// How long readers are held while the upstream fails [default: 5m]
    #[arg(long, value_name = "TIME")]
    hold_limit: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Every setting can also stand in MILLPOND_* variables and in the TOML file; flags win.
#[derive(Debug, Args)]
struct OriginFlags {
    /// The directory to serve
    #[arg(value_name = "DIR")]
    root: Option<String>,
    /// Let clients change the directory
    #[arg(long)]
    writable: bool,
    /// A file of tokens, made by `millpond token add`; who has none is refused
    #[arg(long, value_name = "FILE")]
    tokens: Option<String>,
    /// Refuse changes that do not say what they replace (428)
    #[arg(long)]
    demand_conditions: bool,
    /// Whether DELETE of a collection removes all that is in it, or only an empty one [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    deep_delete: Option<String>,
    /// The largest file that may be put, like 20GiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    largest_upload: Option<String>,
    /// Show names that begin with a dot to all who read, not only to those who may write
    #[arg(long)]
    hidden: bool,
    /// The URL that clients use, where a proxy stands before this server
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Serve the directory though it is another than the one that was served from this path before
    #[arg(long)]
    new_root: bool,
    /// Refuse names that some systems do not take
    #[arg(long)]
    portable: bool,
    /// A PEM file of the certificate to serve HTTPS with, and its chain
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// A PEM file of the certificate's key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Log each request here, a line of JSON each
    #[arg(long, value_name = "FILE")]
    access_log: Option<String>,
    /// Where what is known of the files is kept [default: millpond in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl OriginFlags {
    fn config(self) -> Result<OriginConfig, String> {
        let flags = [
            ("root", one(self.root)),
            ("writable", given(self.writable)),
            ("tokens", one(self.tokens)),
            ("demand_conditions", given(self.demand_conditions)),
            ("deep_delete", one(self.deep_delete)),
            ("largest_upload", one(self.largest_upload)),
            ("hidden", given(self.hidden)),
            ("public_url", one(self.public_url)),
            ("new_root", given(self.new_root)),
            ("portable", given(self.portable)),
            ("tls_certificate", one(self.tls_certificate)),
            ("tls_key", one(self.tls_key)),
            ("access_log", one(self.access_log)),
            ("data", one(self.data)),
        ];
        let layers = self.common.layers(flags)?;
        OriginConfig::read(&layers).map_err(|mistakes| mistakes.to_string())
    }
}

fn one(value: Option<String>) -> Vec<String> {
    value.into_iter().collect()
}

/// A flag without a value.
fn given(flag: bool) -> Vec<String> {
    one(flag.then(|| "true".to_owned()))
}

impl Settings {
    fn config(self) -> Result<Config, String> {
        let flags = [
            ("data", one(self.data)),
            ("upstream", self.upstream),
            ("delivery", one(self.delivery)),
            ("quota", one(self.quota)),
            ("allow_private", given(self.allow_private)),
            ("ad_hoc", one(self.ad_hoc)),
            ("after_last_reader", one(self.after_last_reader)),
            ("read_ahead", one(self.read_ahead)),
            ("upstream_ca", one(self.upstream_ca)),
            ("header_wait", one(self.header_wait)),
            ("hold_limit", one(self.hold_limit)),
        ];
        let layers = self.common.layers(flags)?;
        Config::read(&layers).map_err(|mistakes| mistakes.to_string())
    }
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        Command::Serve(settings) => match settings.config() {
            Ok(config) => outcome(&config.log, || serve(&config)),
            Err(mistakes) => misuse(&mistakes),
        },
        Command::Origin(flags) => match flags.config() {
            Ok(config) => outcome(&config.log, || origin(&config)),
            Err(mistakes) => misuse(&mistakes),
        },
        Command::Config {
            action: ConfigAction::Check(settings),
        } => match settings.config() {
            Ok(_) => {
                say("the configuration is valid");
                ExitCode::SUCCESS
            }
            Err(mistakes) => misuse(&mistakes),
        },
        Command::Config {
            action: ConfigAction::Show,
        } => {
            for (key, default, says) in describe() {
                say(&format!("{key:<20} {default:<16} {says}"));
            }
            ExitCode::SUCCESS
        }
        Command::Client(command) => cli::run(command),
    }
}

/// Runs a server to its end, with its log going to stderr.
fn outcome(log: &str, run: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    if let Err(mistake) = millpond::telemetry::log_to_stderr(log) {
        return misuse(&format!("log: {log:?} {mistake}"));
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    // Before the store opens: how many objects stay open depends on it.
    raise_descriptor_limit();
    let server = Server::start(config)?;
    say(&format!("listening on http://{}", server.address()));
    signals.wait();
    tracing::info!(grace = ?config.grace, "stopping: running answers may finish");
    Ok(server.stop()?)
}

fn origin(config: &OriginConfig) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    raise_descriptor_limit();
    let server = OriginServer::start(config)?;
    say(&format!("listening on {}", server.url()));
    signals.wait();
    tracing::info!(grace = ?config.grace, "stopping: running answers may finish");
    Ok(server.stop()?)
}

/// The signals that end a server in the orderly way. Made before it starts: one that comes in between must not end
/// it the hard way.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = runtime.block_on(async {
            std::io::Result::Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
        })?;
        Ok(Self {
            runtime,
            terminate,
            interrupt,
        })
    }

    fn wait(&mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        });
    }
}

/// Each reader takes a descriptor, and each open object; many systems give a process 1024 unless it asks.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, now = limit.current, "could not raise the limit of open files");
    }
}

fn misuse(mistakes: &str) -> ExitCode {
    complain(mistakes);
    ExitCode::from(MISUSE)
}

/// A reader of our output that is gone is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn complain(text: &str) {
    for line in text.lines() {
        let _ = writeln!(std::io::stderr(), "millpond: {line}");
    }
}
