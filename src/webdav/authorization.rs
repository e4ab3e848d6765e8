//! The rights that a request needs at the paths that it is about, before anything of the directory is revealed.
//!
//! ```text
//! GET HEAD PROPFIND     play at the path
//! COPY                  play at the path, write at the destination
//! MOVE                  write at both
//! anything else         write at the path
//! ```
//!
//! Prefixes of tokens are paths of the server, with the mount's name. Who a caller is, `crate::access` tells.

use super::DirectoryService;
use crate::access::{Caller, Right};
use crate::directory::TreePath;
use crate::proxy::Problem;
use actix_web::dev::RequestHead;
use std::borrow::Cow;

impl DirectoryService {
    /// The path as the server has it: with the mount's name.
    pub(super) fn server_path<'a>(&self, path: &'a TreePath) -> Cow<'a, TreePath> {
        match &self.settings.name {
            Some(name) => Cow::Owned(path.beneath(name)),
            None => Cow::Borrowed(path),
        }
    }

    /// Fails unless the caller may do what the request does, at its path and at its `Destination`.
    ///
    /// # Errors
    /// 401 and 403.
    pub(super) fn authorize(&self, path: &TreePath, caller: &Caller, head: &RequestHead) -> Result<(), Problem> {
        let right = match head.method.as_str() {
            "GET" | "HEAD" | "PROPFIND" | "COPY" => Right::Play,
            _ => Right::Write,
        };
        let other = match head.method.as_str() {
            "MOVE" | "COPY" => Some(self.destination(head)?),
            _ => None,
        };
        // A directory that cannot be changed says so to all who read it.
        if self.writer.is_none() && right == Right::Write && caller.may(Right::Play, &self.server_path(path)) {
            return Ok(());
        }
        caller.allow(right, &self.server_path(path))?;
        match other {
            Some(other) => caller.allow(Right::Write, &self.server_path(&other)),
            None => Ok(()),
        }
    }

    /// Whether the caller sees names that begin with a dot: everybody where the settings say so, else those who may
    /// write them.
    pub(super) fn shows_hidden(&self, path: &TreePath, caller: &Caller) -> bool {
        self.settings.hidden || (self.writer.is_some() && caller.may(Right::Write, &self.server_path(path)))
    }
}
