//! MOVE and COPY (RFC 4918 §9.8, §9.9): one change each, under the preconditions of its request.
//!
//! A collection is moved, copied and replaced with all that is in it, as §9.8.3 and §9.9.3 have it; a request can
//! demand that only an empty one is replaced (`delete.rs`). A COPY is put together without a lock and then placed. A
//! MOVE is one rename(2) where source and destination are on one mount; elsewhere it is a copy and a removal:
//!
//! ```text
//! copy the source ──► place the copy ──► set the source aside ──► is it still what was copied?
//! (no lock)           (lock of target)   (lock of source)         yes: discard it, commit the replacement
//!                                                                 no:  restore it, roll the replacement back
//! ```
//!
//! No step holds the locks of two file systems, so one that hangs does not keep the other from being written to.
//! Source and copy are both there in between, and never neither.

use super::locked_writer::{LockScope, LockedWriter};
use super::put_request::{field_text, placed_response, read_preconditions};
use super::{DirectoryService, path_problem, problem_of};
use crate::access::{is_same_authority, named_hosts};
use crate::directory::{
    AllowedMounts, CopyMode, DirectoryError, Loss, PrereadDigest, Replacement, SourceOutcome, StagedCopy, Tag, Trash,
    TreePath, TreeWriter, WriteOutcome,
};
use crate::header::Preconditions;
use crate::proxy::Problem;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use std::sync::Arc;

/// The attempts to undo a move whose file system hangs. Each waits
/// [`MOUNT_PATIENCE`](super::disk_threads::MOUNT_PATIENCE) for a permit, so this is five minutes: a judgement.
const MAX_UNDO_ATTEMPTS: usize = 60;

/// The header of a MOVE or COPY, read.
struct Transfer {
    to: TreePath,
    loss: Loss,
    conditions: Preconditions,
    how: CopyMode,
}

impl DirectoryService {
    /// The answer to MOVE.
    pub(super) async fn move_entry(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let Transfer {
            to, loss, conditions, ..
        } = self.transfer(head)?;
        let moved = self.rename_or_move(path, &to, loss, conditions).await;
        Ok(write_response(moved.map_err(|error| problem_of(&error))?))
    }

    async fn rename_or_move(
        &self,
        path: &TreePath,
        to: &TreePath,
        loss: Loss,
        conditions: Preconditions,
    ) -> Result<Result<WriteOutcome, Problem>, DirectoryError> {
        let (collection, over_collection) = (self.is_collection(path).await?, self.is_collection(to).await?);
        if !collection && to.has_slash() && !over_collection {
            return Ok(Err(file_at_collection_path()));
        }
        let locked_writer = self.locked_writer()?;
        let mounts = self.tree.mounts();
        let renamed = match mounts.mount_point_of(path.names()) == mounts.mount_point_of(to.names()) {
            true => {
                let paths = vec![path.clone(), to.clone()];
                let locked = match collection || over_collection {
                    true => LockScope::Mounts(paths),
                    false => LockScope::Paths(paths),
                };
                let (from, target) = (path.clone(), to.clone());
                let work =
                    move |writer: &TreeWriter, preread: &PrereadDigest, conditions: &Preconditions, (): &mut ()| {
                        writer.rename(&from, &target, loss, conditions, preread)
                    };
                locked_writer.write(path, &locked, conditions.clone(), (), work).await
            }
            // Another mount: no rename(2) gets there, and a file system that hangs is not looked at under the other's
            // lock.
            false => Err(DirectoryError::CrossDevice),
        };
        let (done, trash) = match renamed {
            Err(DirectoryError::CrossDevice) => {
                let copied = self.stage_copy(path, to, CopyMode::Move, conditions).await?;
                let (from, target) = (path.clone(), to.clone());
                let moving = async move { locked_writer.move_copied(&from, &target, loss, copied).await };
                // A move that has begun is finished, though its client may leave.
                return self.threads.spawn(moving).await.map_err(task_lost)?.map(Ok);
            }
            renamed => renamed?,
        };
        locked_writer.discard(trash);
        Ok(Ok(done))
    }

    /// The answer to COPY.
    pub(super) async fn copy_entry(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let Transfer {
            to,
            loss,
            conditions,
            how,
        } = self.transfer(head)?;
        let copied = self.stage_copy(path, &to, how, conditions).await;
        let copied = copied.map_err(|error| problem_of(&error))?;
        let over_collection = self.is_collection(&to).await.map_err(|error| problem_of(&error))?;
        if matches!(copied, StagedCopy::File(..)) && to.has_slash() && !over_collection {
            return Err(file_at_collection_path());
        }
        let locked = match over_collection || matches!(copied, StagedCopy::Entry(..)) {
            true => LockScope::Mounts(vec![to.clone()]),
            false => LockScope::Paths(vec![to.clone()]),
        };
        let target = to.clone();
        let work = move |writer: &TreeWriter,
                         preread: &PrereadDigest,
                         conditions: &Preconditions,
                         copied: &mut StagedCopy| match copied {
            StagedCopy::File(received, _) => {
                let (done, trash) = writer.place_copy(received, &target, loss, conditions, preread)?;
                Ok((done, trash, Some(Tag::Strong(received.digest))))
            }
            StagedCopy::Entry(entry, _) => {
                let (done, replacement) = writer.place_entry(entry, &target, loss)?;
                Ok((done, writer.commit_replacement(replacement), None))
            }
        };
        let locked_writer = self.locked_writer().map_err(|error| problem_of(&error))?;
        let done = locked_writer
            .write(&to, &locked, target_preconditions(loss), copied, work)
            .await;
        let (done, trash, tag) = done.map_err(|error| problem_of(&error))?;
        locked_writer.discard(trash);
        Ok(match tag {
            Some(tag) => placed_response((done, tag), self.clock.now(), false),
            None => write_response(Ok(done)),
        })
    }

    async fn stage_copy(
        &self,
        path: &TreePath,
        to: &TreePath,
        how: CopyMode,
        conditions: Preconditions,
    ) -> Result<StagedCopy, DirectoryError> {
        let locked_writer = self.locked_writer()?;
        let (writer, from, target) = (locked_writer.writer, path.clone(), to.clone());
        // The copy is written to the destination's mount, so its permit is needed too.
        let other = self.tree.mounts().mount_point_of(to.names());
        let copy = move |allowed: &AllowedMounts| writer.copy(&from, &target, how, &conditions, allowed);
        let copied = locked_writer
            .disk
            .run_across(path, AllowedMounts::default().with(other), copy)
            .await;
        copied.map(|(copied, _)| copied)
    }

    /// The destination of a MOVE or COPY, what it may replace, and its preconditions.
    fn transfer(&self, head: &RequestHead) -> Result<Transfer, Problem> {
        let bad = |what| Problem::of_origin(StatusCode::BAD_REQUEST, what);
        let conditions = read_preconditions(&head.headers)?;
        let field = |name| field_text(&head.headers, HeaderName::from_static(name));
        let overwrite = match field("overwrite").as_deref().map(str::trim) {
            None | Some("T" | "t") => true,
            Some("F" | "f") => false,
            Some(_) => return Err(bad("Overwrite is T or F")),
        };
        let how = match field("depth").map(|depth| depth.trim().to_ascii_lowercase()).as_deref() {
            None | Some("infinity") => CopyMode::Deep,
            // RFC 4918 §9.8.3: the collection without its members. A MOVE knows no such depth (§9.9.2).
            Some("0") if head.method.as_str() == "COPY" => CopyMode::Shallow,
            Some(_) => return Err(bad("Depth is infinity; for COPY it may be 0")),
        };
        // `Overwrite: F` is a precondition itself: nothing can be lost at the destination.
        if overwrite {
            self.require_precondition(&conditions)?;
        }
        Ok(Transfer {
            to: self.destination(head)?,
            loss: match overwrite {
                true => self.allowed_loss(head)?,
                false => Loss::Nothing,
            },
            conditions,
            how,
        })
    }

    /// Whether the path leads to a collection. A link to one is none.
    pub(super) async fn is_collection(&self, path: &TreePath) -> Result<bool, DirectoryError> {
        let (tree, of) = (Arc::clone(&self.tree), path.clone());
        self.run_at(path, move || tree.is_collection(&of)).await
    }

    /// The path of a `Destination` (RFC 4918 §10.3): a URL of this server, or an absolute path.
    pub(super) fn destination(&self, head: &RequestHead) -> Result<TreePath, Problem> {
        let bad = |what: &str| Problem::of_origin(StatusCode::BAD_REQUEST, what);
        let field = field_text(&head.headers, HeaderName::from_static("destination"))
            .ok_or_else(|| bad("there is no Destination; it says where to"))?;
        let field = field.trim();
        let raw = match field.split_once("://") {
            // The path is taken as it came: a URL parser would resolve its dot segments, which are refused.
            Some((_, rest)) => {
                let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
                if !self.is_this_server(authority, head) {
                    let what = format!(
                        "the Destination is on {authority}, another server than this request's; behind a proxy name the URL that clients use with --public-url"
                    );
                    return Err(Problem::of_origin(StatusCode::BAD_GATEWAY, what));
                }
                path
            }
            None if field.starts_with('/') && !field.starts_with("//") => field,
            None => return Err(bad("the Destination is neither a URL nor an absolute path")),
        };
        if raw.contains(['?', '#']) {
            return Err(bad(
                "the Destination has a query or a fragment; write %3F or %23 for the signs themselves",
            ));
        }
        let prefix = self.settings.public_url.prefix();
        let raw = raw
            .strip_prefix(prefix)
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(raw);
        let raw = match &self.settings.name {
            None => raw,
            Some(name) => raw[1..]
                .strip_prefix(name.as_str())
                .filter(|rest| rest.starts_with('/'))
                .ok_or_else(|| {
                    let what = format!(
                        "the Destination is not beneath /{name}/: nothing is moved or copied from one mount to another"
                    );
                    Problem::of_origin(StatusCode::BAD_GATEWAY, what)
                })?,
        };
        let path = TreePath::parse(raw).map_err(|error| path_problem(error, head))?;
        match self.is_anothers(&path) {
            true => Err(Problem::of_origin(
                StatusCode::BAD_GATEWAY,
                "the Destination is in another mount: nothing is moved or copied from one to another",
            )),
            false => Ok(path),
        }
    }

    /// Whether the authority names this server, as far as the request and the operator tell.
    fn is_this_server(&self, authority: &str, head: &RequestHead) -> bool {
        let host = field_text(&head.headers, header::HOST).or_else(|| Some(head.uri.authority()?.to_string()));
        let forwarded = named_hosts(&head.headers, head.peer_addr, &self.settings.trusted_proxies);
        let mut names = host.into_iter().chain(forwarded);
        self.settings.public_url.allows(authority, is_same_authority)
            || names.any(|name| is_same_authority(&name, authority))
    }
}

/// The preconditions at the destination of a copy.
fn target_preconditions(loss: Loss) -> Preconditions {
    match loss {
        Loss::Nothing => Preconditions::only_new(),
        _ => Preconditions::default(),
    }
}

/// The refusal of a file at a path that ends in a slash.
fn file_at_collection_path() -> Problem {
    let what = "a file's path does not end in a slash; name the file itself in the Destination";
    Problem::of_origin(StatusCode::CONFLICT, what)
}

fn write_response(done: Result<WriteOutcome, Problem>) -> HttpResponse {
    match done {
        Ok(WriteOutcome::Created(_)) => HttpResponse::Created().finish(),
        Ok(WriteOutcome::Replaced(_)) => HttpResponse::NoContent().finish(),
        Err(problem) => problem.response(),
    }
}

fn task_lost(error: tokio::task::JoinError) -> DirectoryError {
    DirectoryError::Disk {
        doing: "finish a move: its task was lost",
        source: std::io::Error::other(error),
    }
}

impl LockedWriter {
    /// Moves something whose copy is put together: the copy is placed, then the source is removed if it still is what
    /// was copied; else the copy is rolled back. Both are changes of their own, under the locks of their own mounts.
    async fn move_copied(
        &self,
        from: &TreePath,
        to: &TreePath,
        loss: Loss,
        copied: StagedCopy,
    ) -> Result<WriteOutcome, DirectoryError> {
        let (state, collection) = (copied.state(), matches!(copied, StagedCopy::Entry(..)));
        let locked = |path: &TreePath| match collection {
            true => LockScope::Mounts(vec![path.clone()]),
            false => LockScope::Paths(vec![path.clone()]),
        };
        let target = to.clone();
        let place =
            move |writer: &TreeWriter, _: &PrereadDigest, _: &Preconditions, copied: &mut StagedCopy| match copied {
                StagedCopy::File(received, _) => writer.place_file(received, &target, loss),
                StagedCopy::Entry(entry, _) => writer.place_entry(entry, &target, loss),
            };
        let over = LockScope::Mounts(vec![to.clone()]);
        let (done, replacement) = self.write(to, &over, Preconditions::default(), copied, place).await?;
        let (writer, source) = (Arc::clone(&self.writer), from.clone());
        let remove = move |writer: &TreeWriter, _: &PrereadDigest, _: &Preconditions, (): &mut ()| {
            writer.remove_source(&source, &state)
        };
        let removed = self
            .write(from, &locked(from), Preconditions::default(), (), remove)
            .await;
        let original = match removed {
            // The comparison takes no permit: one might not be had while the source has no name.
            Ok(removed) => self.disk.run(move || Ok(writer.verify_source(removed))).await,
            Err(error) => Ok(SourceOutcome::InPlace(error)),
        };
        let (trash, done) = match original {
            Ok(SourceOutcome::Removed(trash)) => (trash, Ok(done)),
            Ok(SourceOutcome::InPlace(error)) => {
                self.discard(self.undo_copy(to, &over, replacement).await);
                return Err(error);
            }
            // The copy stays: it is either the second one, or the only one.
            Ok(SourceOutcome::Uncertain(error)) | Err(error) => (None, Err(error)),
        };
        self.discard(trash.into_iter().chain(self.writer.commit_replacement(replacement)));
        done
    }

    /// Takes a copy out again whose source is in its place. The trash that is left has to be discarded.
    async fn undo_copy(&self, to: &TreePath, over: &LockScope, replacement: Replacement) -> Option<Trash> {
        for _ in 0..MAX_UNDO_ATTEMPTS {
            let Ok(permit) = self.disk.permit(to).await else {
                continue;
            };
            let Ok(held) = self.lock(over).await else { continue };
            let writer = Arc::clone(&self.writer);
            let undo = move || {
                let _held = (held, permit);
                Ok(writer.roll_back(replacement))
            };
            return self.disk.run(undo).await.ok().flatten();
        }
        tracing::error!(path = %to, "a move that failed could not be undone, for its file system does not answer; what it has copied is there twice");
        self.writer.commit_replacement(replacement)
    }
}
