//! The commands that ask a running server: `ls`, `show`, `rm`, `pin`, `unpin`, `verify`, `stats`, `mirror`; and `token`, which
//! asks none.
//!
//! Each is a request or a few to the API under `/-/api/v1`, and lines of text. Always true:
//!
//! - What was asked for goes to stdout, all else to stderr; with `--json` stdout holds JSON only.
//! - What came from elsewhere is escaped before it meets a terminal (output.rs).
//! - The exit code is 0 where all that was asked is so, 1 where it is not, 2 where the command line
//!   makes no sense; then no request was made.
//!
//! `verify --data DIR` alone needs no server: it opens the data directory, and so refuses while one runs.
//!
//! ```text
//! list show change verify stats mirror   the commands
//! api                             requests and answers
//! token                           the file of tokens of an origin
//! server name                     whom to ask, and what of
//! object                          a line of the list of objects
//! output units bar                text
//! ```

mod api;
mod bar;
mod change;
mod failure;
mod list;
mod mirror;
mod name;
mod output;
mod server;
mod show;
mod stats;
mod token;
mod units;
mod verify;

use api::Api;
use clap::{Args, Subcommand};
use failure::Failure;
use mirror::MirrorCommand;
use name::Name;
use output::Output;
use server::RemoteServer;
pub(crate) use server::{SERVER_VARIABLE, TOKEN_VARIABLE};
use std::path::PathBuf;
use std::process::ExitCode;
use token::TokenCommand;

/// The commands that talk to a running server.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the stored objects, in the order of their ids.
    Ls(Ls),
    /// Tells all of one object, with a picture of what is here.
    Show(Show),
    /// Removes objects; who asks for them again has them fetched again.
    Rm(Rm),
    /// Keeps objects from being evicted.
    Pin(Named),
    /// Lets objects be evicted again.
    Unpin(Named),
    /// Compares stored bytes with their checksums.
    Verify(Verify),
    /// Prints the server's counters.
    Stats(ServerArgs),
    /// Lists mirrors and walks them.
    Mirror {
        #[command(subcommand)]
        action: MirrorCommand,
    },
    /// Makes, lists and takes away tokens.
    Token {
        #[command(subcommand)]
        action: TokenCommand,
    },
}

/// Whom to ask, and for whom to print.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server to ask, or its data directory [default: $MILLPOND_SERVER, else the control socket in the data directory,
    /// else $MILLPOND_LISTEN, else http://127.0.0.1:8080]
    #[arg(long, value_name = "URL | ADDR | DIR")]
    server: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// The arguments of `ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only objects whose URL begins so
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// Also print ids, bytes on the disk, age and tag
    #[arg(long)]
    long: bool,
    #[command(flatten)]
    door: ServerArgs,
}

/// The arguments of `show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The object, by its id or upstream URL
    #[arg(value_name = "ID | URL")]
    object: String,
    #[command(flatten)]
    door: ServerArgs,
}

/// The arguments of `pin` and `unpin`.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The objects, by their ids or upstream URLs
    #[arg(value_name = "ID | URL", required = true)]
    objects: Vec<String>,
    #[command(flatten)]
    door: ServerArgs,
}

/// The arguments of `rm`.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    doomed: RemoveArgs,
    /// Keep what is stored, but let it be asked for again before it is used
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    door: ServerArgs,
}

/// The objects to remove: one of the three.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RemoveArgs {
    /// The objects, by their ids or upstream URLs
    #[arg(value_name = "ID | URL")]
    objects: Vec<String>,
    /// All objects whose URL begins so; nothing is asked first
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// All objects that their upstream has given this tag (Surrogate-Key, Cache-Tag); nothing is asked first
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

/// The arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The object, by its id or upstream URL [default: all]
    #[arg(value_name = "ID | URL")]
    object: Option<String>,
    /// Take bad blocks out of their objects, to be fetched again
    #[arg(long)]
    repair: bool,
    /// Verify this data directory without a server
    #[arg(long, value_name = "DIR", conflicts_with_all = ["server", "object"])]
    data: Option<PathBuf>,
    #[command(flatten)]
    door: ServerArgs,
}

/// How a command ended that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All that was asked for is so.
    Done,
    /// Something is not; it has been said what.
    Incomplete,
}

impl Outcome {
    fn of(all_well: bool) -> Self {
        if all_well { Self::Done } else { Self::Incomplete }
    }
}

/// Carries out the command.
pub(crate) fn run(command: Command) -> ExitCode {
    let mut output = Output::stdout();
    let outcome = perform(command, &mut output);
    let written = output.finish();
    match outcome.and_then(|outcome| written.map(|()| outcome)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::FAILURE,
        Err(failure) => {
            let code = failure.exit_code();
            complain(failure);
            code
        }
    }
}

fn perform(command: Command, output: &mut Output) -> Result<Outcome, Failure> {
    if let Command::Token { action } = &command {
        return token::run(action, output).map(|()| Outcome::Done);
    }
    if let Command::Verify(Verify {
        data: Some(dir),
        repair,
        door,
        ..
    }) = &command
    {
        return verify::offline(dir, *repair, door.json, output);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::setup)?;
    runtime.block_on(ask(command, output))
}

/// Reads every name before the first request is made: a mistake in the last must not leave half of it done.
async fn ask(command: Command, output: &mut Output) -> Result<Outcome, Failure> {
    match command {
        Command::Ls(ls) => {
            let api = Api::open(&ls.door).await?;
            let prefix = ls.prefix.as_deref().map(|text| name::prefix(text, api.server()));
            let prefix = prefix.transpose().map_err(Failure::Usage)?;
            list::run(&api, prefix.as_deref(), list::Style::of(&ls), output).await
        }
        Command::Show(show) => {
            let api = Api::open(&show.door).await?;
            let name = Name::read(&show.object, api.server()).map_err(Failure::Usage)?;
            show::run(&api, &name, show.door.json, output).await
        }
        Command::Rm(Rm { doomed, soft, door }) => {
            let api = Api::open(&door).await?;
            match (&doomed.prefix, &doomed.tag) {
                (Some(prefix), _) => {
                    let prefix = name::prefix(prefix, api.server()).map_err(Failure::Usage)?;
                    change::remove_all(&api, ("prefix", &prefix), soft, door.json, output).await
                }
                (None, Some(tag)) if tag.is_empty() => {
                    Err(Failure::Usage("--tag: an empty tag is none; name one".to_owned()))
                }
                (None, Some(tag)) => change::remove_all(&api, ("tag", tag), soft, door.json, output).await,
                (None, None) => {
                    let names = names(&doomed.objects, api.server())?;
                    let change = if soft {
                        change::Change::Expire
                    } else {
                        change::Change::Remove
                    };
                    change::each(&api, &names, change, door.json, output).await
                }
            }
        }
        Command::Pin(Named { objects, door }) => {
            let api = Api::open(&door).await?;
            let names = names(&objects, api.server())?;
            change::each(&api, &names, change::Change::Pin, door.json, output).await
        }
        Command::Unpin(Named { objects, door }) => {
            let api = Api::open(&door).await?;
            let names = names(&objects, api.server())?;
            change::each(&api, &names, change::Change::Unpin, door.json, output).await
        }
        Command::Verify(verify) => {
            let api = Api::open(&verify.door).await?;
            let name = verify.object.as_deref().map(|text| Name::read(text, api.server()));
            let name = name.transpose().map_err(Failure::Usage)?;
            verify::online(&api, name.as_ref(), verify.repair, verify.door.json, output).await
        }
        // Answered without a server.
        Command::Token { .. } => Ok(Outcome::Done),
        Command::Mirror { action } => mirror::run(action, output).await,
        Command::Stats(door) => stats::run(&Api::open(&door).await?, door.json, output).await,
    }
}

/// All the names, or all the mistakes in them.
fn names(texts: &[String], server: &RemoteServer) -> Result<Vec<Name>, Failure> {
    let (mut names, mut mistakes) = (Vec::new(), Vec::new());
    for text in texts {
        match Name::read(text, server) {
            Ok(name) => names.push(name),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() {
        Ok(names)
    } else {
        Err(Failure::Usage(mistakes.join("\n")))
    }
}

/// Says on stderr what went wrong, with its causes.
fn complain(failure: Failure) {
    let text = format!("{:#}", anyhow::Error::from(failure));
    let lines: Vec<String> = text.lines().map(output::plain).collect();
    crate::complain(&lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn mistake(args: &[&str]) -> Option<ErrorKind> {
        let command = Command::augment_subcommands(clap::Command::new("millpond"));
        let all = std::iter::once("millpond").chain(args.iter().copied());
        command.try_get_matches_from(all).err().map(|error| error.kind())
    }

    #[test]
    fn rm_takes_names_or_a_prefix_and_never_both_or_none() {
        assert_eq!(mistake(&["rm", "http://h/a", "http://h/b"]), None);
        assert_eq!(mistake(&["rm", "--prefix", "http://h/", "--server", "h:1"]), None);
        assert_eq!(mistake(&["rm"]), Some(ErrorKind::MissingRequiredArgument));
        let both = mistake(&["rm", "--prefix", "http://h/", "http://h/a"]);
        assert_eq!(both, Some(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn a_data_directory_is_verified_whole_and_without_a_server() {
        assert_eq!(mistake(&["verify", "--data", "/d", "--repair", "--json"]), None);
        for more in [&["--server", "h:1"] as &[&str], &["http://h/a"]] {
            let args = [&["verify", "--data", "/d"], more].concat();
            assert_eq!(mistake(&args), Some(ErrorKind::ArgumentConflict), "{args:?}");
        }
    }

    #[test]
    fn pin_without_an_object_is_refused() {
        assert_eq!(mistake(&["pin"]), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(mistake(&["unpin", "http://h/a"]), None);
    }
}
