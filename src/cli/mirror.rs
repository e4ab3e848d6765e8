//! `millpond mirror ls`, `plan`, `run` and `report`: mirrors, and their walks as they go.
//!
//! A walk goes on when the command is ended: it is the server's. Its outcome is well where each collection was listed
//! completely and every file is here; what was not is told by reason, with the first path of each.

use super::Outcome;
use super::ServerArgs;
use super::api::Api;
use super::failure::Failure;
use super::output::{Output, plain};
use super::units::{count, size};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use millpond::api::{MirrorSummaries, MirrorSummary, WalkLine, WalkReport};
use reqwest::Method;
use std::io::IsTerminal;

/// The commands about mirrors.
#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Lists the mirrors, and how each stands.
    Ls(ServerArgs),
    /// Tells what a walk would do, and changes nothing.
    Plan(NamedMirror),
    /// Walks a mirror now, and tells how it goes.
    Run {
        #[command(flatten)]
        named: NamedMirror,
        /// Carry out removals that are held: that many files, or all of a collection, are really gone
        #[arg(long)]
        confirm_removals: bool,
    },
    /// Tells what the last walk did.
    Report(NamedMirror),
}

/// A mirror, and whom to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct NamedMirror {
    /// The mirror, as `millpond mirror ls` lists it
    #[arg(value_name = "NAME/PATH")]
    mirror: String,
    #[command(flatten)]
    door: ServerArgs,
}

/// Carries out the command.
pub(super) async fn run(command: MirrorCommand, output: &mut Output) -> Result<Outcome, Failure> {
    match command {
        MirrorCommand::Ls(door) => {
            let api = Api::open(&door).await?;
            list(&api, door.json, output).await
        }
        MirrorCommand::Plan(named) => {
            let api = Api::open(&named.door).await?;
            walk(&api, &named, ("true", "false"), output).await
        }
        MirrorCommand::Run {
            named,
            confirm_removals,
        } => {
            let api = Api::open(&named.door).await?;
            let confirms = if confirm_removals { "true" } else { "false" };
            walk(&api, &named, ("false", confirms), output).await
        }
        MirrorCommand::Report(named) => {
            let api = Api::open(&named.door).await?;
            report(&api, &named, output).await
        }
    }
}

async fn mirrors(api: &Api) -> Result<(String, MirrorSummaries), Failure> {
    let text = api.call(Method::GET, "mirrors", &[]).await?;
    let mirrors = api.read(&text)?;
    Ok((text, mirrors))
}

async fn list(api: &Api, json: bool, output: &mut Output) -> Result<Outcome, Failure> {
    let (text, found) = mirrors(api).await?;
    if json {
        output.line(&text);
        return Ok(Outcome::Done);
    }
    for mirror in &found.mirrors {
        output.line(&line(mirror));
    }
    if found.mirrors.is_empty() {
        output.line("no mirrors: name one with --mirror NAME/PATH");
    }
    Ok(Outcome::Done)
}

fn line(mirror: &MirrorSummary) -> String {
    let state = match (&mirror.walking, &mirror.last) {
        (Some(walking), _) => format!("walking: {}", brief(walking)),
        (None, Some(last)) if last.complete => format!("complete: {}", brief(last)),
        (None, Some(last)) => format!("INCOMPLETE: {}", brief(last)),
        (None, None) => "not walked yet".to_owned(),
    };
    format!("{}  {}  {state}", plain(&mirror.name), plain(&mirror.url))
}

fn brief(report: &WalkReport) -> String {
    let mut text = format!("{}, {}", count(report.dirs, "dir"), count(report.files, "file"));
    if report.failures() > 0 {
        text.push_str(&format!(", {} failed", report.failures()));
    }
    text
}

async fn report(api: &Api, named: &NamedMirror, output: &mut Output) -> Result<Outcome, Failure> {
    let (_, found) = mirrors(api).await?;
    let wanted = named.mirror.trim_end_matches('/');
    let mirror = found
        .mirrors
        .iter()
        .find(|mirror| mirror.name.trim_end_matches('/') == wanted);
    let Some(mirror) = mirror else {
        let names: Vec<&str> = found.mirrors.iter().map(|mirror| mirror.name.as_str()).collect();
        return Err(Failure::Usage(format!(
            "there is no mirror {:?}; there is {}",
            named.mirror,
            names.join(", ")
        )));
    };
    let Some(last) = &mirror.last else {
        return Err(Failure::Usage(format!("{} has not been walked yet", mirror.name)));
    };
    tell(last, named.door.json, output);
    Ok(Outcome::of(last.complete))
}

/// Walks the mirror, telling how it goes.
async fn walk(
    api: &Api,
    named: &NamedMirror,
    (dry_run, confirms): (&str, &str),
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let query = [
        ("mirror", named.mirror.as_str()),
        ("dry_run", dry_run),
        ("confirm_removals", confirms),
    ];
    let mut lines = api.lines(Method::POST, "mirrors/walk", &query).await?;
    let bar = (!named.door.json && std::io::stderr().is_terminal()).then(spinner);
    let mut walked = None;
    while let Some(text) = lines.next().await? {
        if text.trim().is_empty() {
            continue;
        }
        let line: WalkLine = api.read(&text)?;
        if let (Some(progress), Some(bar)) = (&line.progress, &bar) {
            bar.set_message(format!(
                "{}, {} fetched ({})",
                brief(progress),
                progress.fetched,
                size(progress.bytes)
            ));
            bar.tick();
        }
        walked = line.walked.or(walked);
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let walked = walked.ok_or_else(|| Failure::NoSummary {
        by: api.server().address(),
    })?;
    tell(&walked, named.door.json, output);
    Ok(Outcome::of(walked.complete))
}

fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

/// Tells a report, a line for each figure and each kind of failure.
fn tell(report: &WalkReport, json: bool, output: &mut Output) {
    if json {
        output.line(&serde_json::to_string(report).unwrap_or_default());
        return;
    }
    let fetched = if report.dry_run {
        "to fetch or ask about"
    } else {
        "fetched"
    };
    output.line(&format!(
        "walk {}: dirs {}, files {}, unchanged {}, {fetched} {} ({}), removed {}, suspect {}, held {}",
        report.walk,
        report.dirs,
        report.files,
        report.unchanged,
        report.fetched,
        size(report.bytes),
        report.removed,
        report.suspect,
        report.held,
    ));
    if report.held > 0 {
        output.line("held: too many are missing at once, or all of a collection; --confirm-removals says that they are really gone");
    }
    if report.left_out > 0 {
        output.line(&format!("left out by the filters: {}", report.left_out));
    }
    for (reason, failures) in &report.failed {
        let more = match failures.count {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        output.line(&format!("failed: {}{more}: {}", plain(&failures.first), plain(reason)));
    }
    if let Some(stopped) = &report.stopped {
        output.line(&format!("stopped: {}", plain(stopped)));
    }
}
