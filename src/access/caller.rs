//! The caller of one request: what it may do, and where.
//!
//! Two sets of rights add up: those that count everywhere, which come from the caller's address, from `open`, from a
//! session or the control socket; and those of a token, which count beneath its prefix. What a caller may not do it is
//! told with the mend: 401 where a token would help, 403 where it has shown one, or where there are none.

use super::right::{Right, Rights};
use crate::directory::TreePath;
use crate::proxy::Problem;
use actix_web::http::StatusCode;

/// A caller, with its rights.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's name; `None` without one.
    pub name: Option<String>,
    /// Whether it comes by the control socket.
    pub is_control: bool,
    /// Whether it shows the cookie of an open session.
    pub has_session: bool,
    /// Rights at every path.
    pub(super) everywhere: Rights,
    /// Rights of a token, beneath its prefix.
    pub(super) beneath: Option<(Rights, TreePath)>,
    /// Whether the caller may name any URL, or the reason why not.
    pub(super) any_url: Result<(), &'static str>,
    /// Whether a token would help: there is a file of them.
    pub(super) has_tokens: bool,
    /// Why a change by this request is refused whose right is not a token's.
    pub(super) refused_change: Option<&'static str>,
}

impl Caller {
    /// The caller that comes by the control socket: whoever may open it owns the server's data.
    pub(super) fn control() -> Self {
        Self {
            name: None,
            is_control: true,
            has_session: false,
            everywhere: Rights::all(),
            beneath: None,
            any_url: Ok(()),
            has_tokens: false,
            refused_change: None,
        }
    }

    /// Whether the caller has that right to the path.
    pub fn may(&self, right: Right, path: &TreePath) -> bool {
        let beneath = |(rights, prefix): &(Rights, TreePath)| rights.has(right) && path.is_within(prefix);
        self.everywhere.has(right) || self.beneath.as_ref().is_some_and(beneath)
    }

    /// Whether the caller has that right at every path of the server: what the API tells is of all paths.
    pub fn may_everywhere(&self, right: Right) -> bool {
        self.may(right, &TreePath::root())
    }

    /// Fails unless the caller has that right to the path.
    ///
    /// # Errors
    /// 401 and 403.
    pub fn allow(&self, right: Right, path: &TreePath) -> Result<(), Problem> {
        match self.may(right, path) {
            true => Ok(()),
            false => Err(self.refusal(right)),
        }
    }

    /// Fails unless the caller may name any URL.
    ///
    /// # Errors
    /// 403, with the reason.
    pub fn allow_any_url(&self) -> Result<(), Problem> {
        self.any_url
            .map_err(|why| Problem::new(StatusCode::FORBIDDEN, why).without_story())
    }

    /// The refusal of what needs that right.
    pub fn refusal(&self, right: Right) -> Problem {
        let forbidden = |what: String| Problem::of_origin(StatusCode::FORBIDDEN, what);
        let name = right.name();
        match (&self.name, self.refused_change) {
            (Some(token), _) => forbidden(format!("the token {token} does not allow that here: it needs {name}")),
            (None, Some(why)) if matches!(right, Right::Write | Right::Rule) => forbidden(why.to_owned()),
            (None, _) if self.has_tokens => {
                let what = format!("this needs a token that allows it: one with {name}");
                Problem::of_origin(StatusCode::UNAUTHORIZED, what).challenging()
            }
            (None, _) => forbidden(match right {
                Right::Play => "this needs the right to play".to_owned(),
                Right::Look => "this is for programs on the server's own machine that no proxy stands before, and for holders of a token with look; name a file of tokens with --tokens (millpond token add FILE NAME --look makes one)".to_owned(),
                Right::Write => "this directory is changed with a token only, or through the control socket; name a file of tokens with --tokens (millpond token add FILE NAME --write makes one), or say --open where everybody who reaches the server may change it".to_owned(),
                Right::Rule => "this is for the commands on the server's own machine (without --server, or with --server DIR for a data directory that is not the default, they use its control socket), and for holders of a token with rule; name a file of tokens with --tokens (millpond token add FILE NAME --rule makes one)".to_owned(),
            }),
        }
    }
}
