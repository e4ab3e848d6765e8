//! The `millpond` command: reads flags, starts the server, waits for the signal to stop; or asks one that runs.
//!
//! Standard output has what was asked for, standard error the log and what went wrong. A configuration is read whole
//! before anything starts, and all of its mistakes are told at once. The exit code is 0, 1 where something failed, and
//! 2 where the command line or the configuration makes no sense.

mod cli;

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use millpond::config::{Config, Layers, ListenAddress, Needs, Setting, settings};
use millpond::server::Server;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::process::ExitCode;

/// jemalloc, where the feature asks for it (docs/decisions/0017); else the system's allocator. It is built for one size of
/// pages, and ARM has several.
#[cfg(all(feature = "jemalloc", target_os = "linux", target_arch = "x86_64"))]
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
    /// Serves players and other clients: upstreams, directories, and any URL as /https/HOST/PATH.
    Serve(Settings),
    /// Serves one directory: to another millpond, players, browsers and file managers. The short form of serve
    /// --directory DIR --ad-hoc false.
    Origin(OriginArgs),
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
    Check(Settings),
    /// Lists every setting with its default and meaning.
    Show,
}

/// The flags of all settings, which are made of their table (`millpond::config::settings`).
#[derive(Debug, Default)]
struct Settings {
    flags: Vec<(String, Vec<String>)>,
    /// A TOML file with settings.
    file: Option<String>,
}

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config").long("config").value_name("FILE").help(
            "A TOML file with settings. Every setting can also stand there and in MILLPOND_* variables; flags win",
        );
        let flags = settings().map(|setting| flag(&setting));
        command.arg(file).args(flags)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |key: &str| {
            let values = matches.get_many::<String>(key);
            values.into_iter().flatten().cloned().collect::<Vec<_>>()
        };
        Ok(Self {
            flags: settings()
                .map(|setting| (setting.key.to_owned(), values(setting.key)))
                .collect(),
            file: values("config").pop(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting. Without a form it may stand without a value, and means true.
fn flag(setting: &Setting) -> Arg {
    let meaning = setting.plain();
    let shown = match setting.default {
        "" => meaning,
        default => format!("{meaning} [default: {default}]"),
    };
    let flag = Arg::new(setting.key)
        .long(setting.key.replace('_', "-"))
        .help(shown)
        .help_heading(match setting.needs {
            Needs::Nothing => "The server",
            Needs::Cache | Needs::Upstream => "Upstreams and what is kept of them",
            Needs::Mirror => "Mirrors of upstreams",
            Needs::Directory => "Directories",
            Needs::WritableDirectory => "Directories that may be changed",
        });
    match (setting.key, setting.form) {
        ("listen" | "upstream" | "directory" | "mirror", form) => flag.value_name(form).action(ArgAction::Append),
        (_, "" | "BOOL") => flag
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(setting.form.is_empty())
            .default_missing_value("true"),
        (_, form) => flag.value_name(form),
    }
}

impl Settings {
    /// The configuration that the command line says, then the environment, then the file, then the command itself.
    fn config(self, defaults: &[(&str, &str)]) -> Result<Config, String> {
        let file = self.file.or_else(|| std::env::var("MILLPOND_CONFIG").ok());
        let mut layers = Layers::new();
        layers.add_flags(self.flags);
        // The commands' own variables: a shell that has them set may start a server too.
        let of_commands = [cli::SERVER_VARIABLE, cli::TOKEN_VARIABLE];
        layers.add_environment(variables().filter(|(name, _)| !of_commands.contains(&name.as_str())));
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("--config: could not read {path}: {error}"))?;
            layers.add_toml(&text, &path);
        }
        let defaults = defaults.iter();
        layers.add_defaults(defaults.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let config = Config::read(&layers).map_err(|mistakes| mistakes.to_string())?;
        for warning in config.warnings(&layers) {
            complain(&format!("warning: {warning}"));
        }
        Ok(config)
    }
}

/// The variables of the environment that are text; others can be no settings, and `std::env::vars` panics at them.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The arguments of `origin`.
#[derive(Debug)]
struct OriginArgs {
    directory: Option<String>,
    settings: Settings,
}

impl Args for OriginArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let directory = Arg::new("DIR").help("The directory to serve, at /");
        let command = Settings::augment_args(command.arg(directory));
        command.mut_arg("directory", |directory| directory.hide(true))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OriginArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            directory: matches.get_one::<String>("DIR").cloned(),
            settings: Settings::from_arg_matches(matches)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl OriginArgs {
    fn config(mut self) -> Result<Config, String> {
        if let Some(directory) = self.directory {
            // The path as it is: `=` and `,` in it are its own letters.
            self.settings
                .flags
                .push(("directories..path".to_owned(), vec![directory]));
        }
        let config = self.settings.config(&[("ad_hoc", "false")])?;
        match config.directories.is_empty() {
            true => Err("no directory is named; name the directory to serve: millpond origin DIR".to_owned()),
            false => Ok(config),
        }
    }
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        Command::Serve(settings) => match settings.config(&[]) {
            Ok(config) => outcome(&config.log, || serve(&config)),
            Err(mistakes) => misuse(&mistakes),
        },
        Command::Origin(arguments) => match arguments.config() {
            Ok(config) => outcome(&config.log, || serve(&config)),
            Err(mistakes) => misuse(&mistakes),
        },
        Command::Config {
            action: ConfigAction::Check(settings),
        } => match settings.config(&[]) {
            Ok(_) => {
                say("the configuration is valid");
                ExitCode::SUCCESS
            }
            Err(mistakes) => misuse(&mistakes),
        },
        Command::Config {
            action: ConfigAction::Show,
        } => {
            for setting in settings() {
                let Setting { key, default, .. } = &setting;
                say(&format!("{key:<24} {default:<16} {}", setting.plain()));
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
    let scheme = if config.tls_certificate.is_some() {
        "https"
    } else {
        "http"
    };
    // Where a directory is at the root, what is printed is its URL.
    let has_root = config.directories.iter().any(|directory| directory.name.is_none());
    let root = if has_root { "/" } else { "" };
    for address in server.addresses() {
        match address {
            ListenAddress::Tcp(address) => say(&format!("listening on {scheme}://{address}{root}")),
            ListenAddress::Unix(_) => say(&format!("listening on {address}")),
        }
    }
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
