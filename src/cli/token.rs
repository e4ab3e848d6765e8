//! `token add`, `ls`, `rm`: the file of tokens that `--tokens FILE` names.
//!
//! A token is printed once, when it is made; the file keeps its hash. The file is replaced whole, so that a server
//! which reads it meanwhile sees the old one or the new one; comments in it stay.

use super::failure::Failure;
use super::output::Output;
use clap::{Args, Subcommand};
use millpond::access::{Right, Rights, Tokens, new_token};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The change to the tokens of a file.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token and prints it, once; the file keeps its hash.
    Add(Add),
    /// Lists who has a token, and what each may do.
    Ls {
        /// The file of tokens
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Takes a token away; a running server notices within a second.
    Rm {
        /// The file of tokens
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Whose token
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// The arguments of `token add`.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The file of tokens; it is made if it is not there
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// For whom; the name stands in the access log
    #[arg(value_name = "NAME")]
    name: String,
    /// Let it change directories too
    #[arg(long)]
    write: bool,
    /// Let it read the API and the counters too
    #[arg(long)]
    look: bool,
    /// Let it change the cache too, and see whole URLs; it may look, then, too
    #[arg(long)]
    rule: bool,
    /// Only what is there, like /films/
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
}

pub(super) fn run(command: &TokenCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Add(Add {
            file,
            name,
            write,
            look,
            rule,
            prefix,
        }) => {
            let mut text = read(file, true)?;
            let more = [
                (*look || *rule, Right::Look),
                (*write, Right::Write),
                (*rule, Right::Rule),
            ];
            let more = more
                .into_iter()
                .filter(|(is_given, _)| *is_given)
                .map(|(_, right)| right);
            let rights: Vec<Right> = std::iter::once(Right::Play).chain(more).collect();
            let made = new_token(name, Rights::of(&rights), prefix.as_deref());
            let (token, lines) = made.map_err(Failure::Usage)?;
            if section(&text, name).is_some() {
                let what = format!(
                    "{} has a token {name} already; take another name, or rm it first",
                    file.display()
                );
                return Err(Failure::Usage(what));
            }
            if !text.is_empty() && !text.ends_with("\n\n") {
                text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
            }
            text.push_str(&lines);
            replace(file, &text)?;
            output.line(&token);
        }
        TokenCommand::Ls { file } => {
            let tokens = valid(file, &read(file, false)?)?;
            tokens.describe().iter().for_each(|line| output.line(line));
        }
        TokenCommand::Rm { file, name } => {
            let text = read(file, false)?;
            let Some((start, end)) = section(&text, name) else {
                return Err(Failure::Usage(format!("{} has no token {name}", file.display())));
            };
            replace(file, &format!("{}{}", &text[..start], &text[end..]))?;
        }
    }
    Ok(())
}

/// The file's text, which is that of a valid one.
fn read(file: &Path, may_be_new: bool) -> Result<String, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => valid(file, &text).map(|_| text),
        Err(error) if may_be_new && error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::Usage(format!("could not read {}: {error}", file.display()))),
    }
}

fn valid(file: &Path, text: &str) -> Result<Tokens, Failure> {
    Tokens::read(text).map_err(|mistake| Failure::Usage(format!("{}: {}", file.display(), mistake.trim_end())))
}

/// Where the lines of that name begin and end.
fn section(text: &str, name: &str) -> Option<(usize, usize)> {
    let header = |line: &str| line.trim_start().starts_with('[');
    let (mut at, mut start) = (0, None);
    for line in text.split_inclusive('\n') {
        let inside = line.split('#').next().unwrap_or_default().trim();
        let own = inside
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .map(|inner| inner.trim().trim_matches(['"', '\'']));
        match start {
            None if own == Some(name) => start = Some(at),
            Some(start) if header(line) => return Some((start, at)),
            _ => {}
        }
        at += line.len();
    }
    start.map(|start| (start, at))
}

fn replace(file: &Path, text: &str) -> Result<(), Failure> {
    valid(file, text)?;
    let beside = file.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut new| new.write_all(text.as_bytes()).and_then(|()| new.sync_all()))
        .and_then(|()| std::fs::rename(&beside, file));
    written.map_err(|error| Failure::Usage(format!("could not write {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_name_are_found_whatever_stands_around_them() {
        let text = "# ours\n[a]\nx = 1\n\n[ \"b\" ] # note\ny = [\n 1 ]\n[c]\n";
        let lines = |name| section(text, name).map(|(start, end)| &text[start..end]);
        assert_eq!(lines("a"), Some("[a]\nx = 1\n\n"));
        assert_eq!(lines("b"), Some("[ \"b\" ] # note\ny = [\n 1 ]\n"));
        assert_eq!(lines("c"), Some("[c]\n"));
        assert_eq!(lines("d"), None);
    }
}
