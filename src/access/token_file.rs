//! The file of tokens, read again when it is another.
//!
//! A thread looks at the file's time of change once a second, so that no request waits for the disk. A file that does not
//! read leaves the tokens as they were, which is logged once.

use super::tokens::Tokens;
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

/// The interval at which the file's time of change is looked at. A judgement: a token that was withdrawn is of use for
/// a second more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A mistake in the file of tokens, met at the start.
#[derive(Debug, thiserror::Error)]
#[error("tokens: {}: {mistake}", path.display())]
pub struct TokenFileError {
    path: PathBuf,
    mistake: String,
}

/// The tokens of a file, as it is now.
#[derive(Debug)]
pub(super) struct TokenFile {
    tokens: Arc<ArcSwap<Tokens>>,
    /// Dropped with the file: the thread that looks at it ends then.
    _stop: Sender<()>,
}

impl TokenFile {
    /// Reads the file, and begins to look after it.
    ///
    /// # Errors
    /// Where the file does not read.
    pub(super) fn open(path: &Path) -> Result<Self, TokenFileError> {
        let failed = |mistake| TokenFileError {
            path: path.to_owned(),
            mistake,
        };
        let (written, tokens) = read(path).map_err(failed)?;
        let tokens = Arc::new(ArcSwap::from_pointee(tokens));
        let (stop, stopped) = channel();
        let (path, current) = (path.to_owned(), Arc::clone(&tokens));
        let look = move || {
            let mut known = written;
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                look_again(&path, &mut known, &current);
            }
        };
        let thread = std::thread::Builder::new()
            .name("millpond-tokens".to_owned())
            .spawn(look);
        thread.map_err(|error| failed(format!("no thread looks after it: {error}")))?;
        Ok(Self { tokens, _stop: stop })
    }

    /// The tokens that count now.
    pub(super) fn tokens(&self) -> Arc<Tokens> {
        self.tokens.load_full()
    }
}

fn look_again(path: &Path, known: &mut Option<SystemTime>, current: &ArcSwap<Tokens>) {
    let now = time_of_change(path);
    if now == *known {
        return;
    }
    match read(path) {
        Ok((written, tokens)) => {
            *known = written;
            current.store(Arc::new(tokens));
            tracing::info!(path = %path.display(), "read the tokens again");
        }
        Err(mistake) => {
            // The mistake is logged once, and the file read again when it changes again.
            *known = now;
            tracing::error!(path = %path.display(), mistake, "the tokens do not read; those of before count");
        }
    }
}

fn time_of_change(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn read(path: &Path) -> Result<(Option<SystemTime>, Tokens), String> {
    // The time is taken before the text: a change in between has the file read again.
    let written = time_of_change(path);
    let text = std::fs::read_to_string(path).map_err(|error| format!("could not read it: {error}"))?;
    Ok((written, Tokens::read(&text)?))
}
