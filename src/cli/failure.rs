//! Why a command was not carried out, in words that tell the mend.
//!
//! A text says what happened, where, and last what to do. The exit code tells two kinds apart: a command line that
//! makes no sense, and all else. Causes below are either in the text, where the mend stands behind them, or the
//! `source`, never both.

use millpond::store::StoreError;
use std::error::Error;
use std::io;
use std::process::ExitCode;

/// A failure of a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command line makes no sense; no request was made.
    #[error("{0}")]
    Usage(String),
    /// No server answers. The cause stands in the text, since the mend is to stand last.
    #[error("could not reach {address}: {cause}; is `millpond serve` running there? name it with --server")]
    Unreachable { address: String, cause: String },
    /// The server does not have the object.
    #[error("{name} is not stored at {address}; `millpond ls` lists what is")]
    Unknown { name: String, address: String },
    /// The server said no, in its own words.
    #[error("{address} answered {status}: {detail}")]
    Refused {
        address: String,
        status: u16,
        detail: String,
    },
    /// Something answers that is no millpond, or one of another age.
    #[error("what answers at {address} does not speak this millpond's API: {what}; name another with --server")]
    NotMillpond { address: String, what: String },
    /// An answer broke off.
    #[error("the answer of {address} was cut")]
    Cut { address: String, source: reqwest::Error },
    /// A verification ended without its summary: what it did not reach is not known to be good.
    #[error("the verification was cut short: no summary came from {by}")]
    NoSummary { by: String },
    /// The client itself could not be made.
    #[error("could not set up the client")]
    Setup(#[source] Box<dyn Error + Send + Sync>),
    /// Standard output could not be written.
    #[error("could not write to the standard output")]
    Output(#[source] io::Error),
    /// A data directory that is no directory: opening would make one.
    #[error("{0} is not a directory; name the data directory of `millpond serve` with --data")]
    NoDirectory(String),
    /// The store of a data directory failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Failure {
    pub(super) fn setup(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Setup(error.into())
    }

    pub(super) fn unreachable(address: String, error: &reqwest::Error) -> Self {
        Self::Unreachable {
            address,
            cause: innermost(error),
        }
    }

    /// Whether the next request would fail in the same way.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Unknown { .. } | Self::Refused { .. })
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(crate::MISUSE),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The operating system's own words, without the layers between.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
