//! DELETE, MKCOL, MOVE and COPY (RFC 4918): one change each, under the conditions of its request.
//!
//! A collection is removed, moved, copied and replaced with all that is in it, as RFC 4918 §9.6.1, §9.8.3 and §9.9.3 have it.
//! `Millpond-Only-Empty: ?1`, or `Depth: 0` on DELETE, demands that nothing but an empty collection is lost: a queue of
//! writes that was recorded elsewhere knows what it has seen, and cannot know what else was put there since. So does
//! the setting `deep_delete = false`, for all.

use super::put::{conditions, placed, text};
use super::writer::{LockScope, LockedWriter};
use super::{Origin, forwarded, misnamed, refused};
use crate::directory::{
    AllowedMounts, CopyMode, DirectoryError, Loss, PrereadDigest, Replacement, SourceOutcome, StagedCopy, Tag, Trash,
    TreePath, TreeWriter, WriteOutcome,
};
use crate::header::{Preconditions, boolean};
use crate::serve::Problem;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use std::sync::Arc;

/// Demands that no collection with members is lost.
const ONLY_EMPTY: HeaderName = HeaderName::from_static("millpond-only-empty");

/// How often a turn at a file system that hangs is waited for to undo a move: five minutes.
const MAX_UNDOING: usize = 60;

/// A MOVE or COPY, read.
struct Transfer {
    to: TreePath,
    loss: Loss,
    conditions: Preconditions,
    how: CopyMode,
}

impl Origin {
    /// The answer to DELETE.
    pub(super) async fn delete(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let conditions = conditions(&head.headers)?;
        self.demand(&conditions)?;
        let shallow = head.headers.get("depth").is_some_and(|depth| depth.as_bytes() == b"0");
        let loss = match shallow {
            true => Loss::Single,
            false => self.allowed_loss(head)?,
        };
        let removed = self.removed(path, loss, conditions).await;
        removed.map_err(|error| refused(&error))?;
        Ok(HttpResponse::NoContent().finish())
    }

    async fn removed(&self, path: &TreePath, loss: Loss, conditions: Preconditions) -> Result<(), DirectoryError> {
        let locked = match self.is_collection(path).await? {
            true => LockScope::Mounts(vec![path.clone()]),
            false => LockScope::Paths(vec![path.clone()]),
        };
        let of = path.clone();
        let work = move |writer: &TreeWriter, preread: &PrereadDigest, conditions: &Preconditions, (): &mut ()| {
            writer.remove(&of, loss, conditions, preread)
        };
        let locked_writer = self.locked_writer()?;
        let gone = locked_writer.change(path, &locked, conditions, (), work).await?;
        locked_writer.discard(gone);
        Ok(())
    }

    /// What may be lost of a collection, as the request and the settings say.
    fn allowed_loss(&self, head: &RequestHead) -> Result<Loss, Problem> {
        let demanded = match text(&head.headers, ONLY_EMPTY) {
            None => false,
            Some(field) => boolean(&field).ok_or_else(|| {
                let what = format!("{ONLY_EMPTY} is ?1 or ?0");
                Problem::of_origin(StatusCode::BAD_REQUEST, what)
            })?,
        };
        Ok(match demanded || !self.settings.deep_delete {
            true => Loss::Single,
            false => Loss::Everything,
        })
    }

    /// The answer to MKCOL.
    pub(super) async fn make_collection(
        &self,
        path: &TreePath,
        head: &RequestHead,
        payload: Payload,
    ) -> Result<HttpResponse, Problem> {
        let conditions = conditions(&head.headers)?;
        if !super::whole(payload, 0).await.is_ok_and(|body| body.is_empty()) {
            let what = "a collection is made without a body";
            return Err(Problem::of_origin(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let (of, locked) = (path.clone(), LockScope::Paths(vec![path.clone()]));
        let work = move |writer: &TreeWriter, _: &PrereadDigest, conditions: &Preconditions, _: &mut ()| {
            writer.make_collection(&of, conditions)
        };
        let locked_writer = self.locked_writer().map_err(|error| refused(&error))?;
        match locked_writer.change(path, &locked, conditions, (), work).await {
            Ok(()) => Ok(HttpResponse::Created().finish()),
            // RFC 4918 §9.3.1.
            Err(error @ DirectoryError::Exists) => {
                let problem = Problem::of_origin(StatusCode::METHOD_NOT_ALLOWED, error.to_string());
                Err(problem.allowing_only(self.methods()))
            }
            Err(error) => Err(refused(&error)),
        }
    }

    /// The answer to MOVE.
    pub(super) async fn relocate(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let Transfer {
            to, loss, conditions, ..
        } = self.transfer(head)?;
        let moved = self.moved(path, &to, loss, conditions).await;
        Ok(told(moved.map_err(|error| refused(&error))?))
    }

    async fn moved(
        &self,
        path: &TreePath,
        to: &TreePath,
        loss: Loss,
        conditions: Preconditions,
    ) -> Result<Result<WriteOutcome, Problem>, DirectoryError> {
        let (collection, over_collection) = (self.is_collection(path).await?, self.is_collection(to).await?);
        if !collection && to.has_slash() && !over_collection {
            return Ok(Err(no_collection()));
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
                locked_writer.change(path, &locked, conditions.clone(), (), work).await
            }
            // No rename gets there, and a file system that hangs is not looked at under the other's lock.
            false => Err(DirectoryError::CrossDevice),
        };
        let (done, gone) = match renamed {
            Err(DirectoryError::CrossDevice) => {
                let copied = self.copied(path, to, CopyMode::Move, conditions).await?;
                let (from, target) = (path.clone(), to.clone());
                let moving = async move { locked_writer.move_copied(&from, &target, loss, copied).await };
                // What is half done is finished, though its client may leave.
                return self.threads.spawn(moving).await.map_err(lost)?.map(Ok);
            }
            renamed => renamed?,
        };
        locked_writer.discard(gone);
        Ok(Ok(done))
    }

    /// The answer to COPY.
    pub(super) async fn copy(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let Transfer {
            to,
            loss,
            conditions,
            how,
        } = self.transfer(head)?;
        let copied = self.copied(path, &to, how, conditions).await;
        let copied = copied.map_err(|error| refused(&error))?;
        let over_collection = self.is_collection(&to).await.map_err(|error| refused(&error))?;
        if matches!(copied, StagedCopy::File(..)) && to.has_slash() && !over_collection {
            return Err(no_collection());
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
            StagedCopy::File(arrived, _) => {
                let (done, gone) = writer.place_copy(arrived, &target, loss, conditions, preread)?;
                Ok((done, gone, Some(Tag::Strong(arrived.digest))))
            }
            StagedCopy::Entry(made, _) => {
                let (done, replacement) = writer.place_entry(made, &target, loss)?;
                Ok((done, writer.commit_replacement(replacement), None))
            }
        };
        let locked_writer = self.locked_writer().map_err(|error| refused(&error))?;
        let done = locked_writer.change(&to, &locked, at_target(loss), copied, work).await;
        let (done, gone, tag) = done.map_err(|error| refused(&error))?;
        locked_writer.discard(gone);
        Ok(match tag {
            Some(tag) => placed((done, tag), self.clock.now(), false),
            None => told(Ok(done)),
        })
    }

    async fn copied(
        &self,
        path: &TreePath,
        to: &TreePath,
        how: CopyMode,
        conditions: Preconditions,
    ) -> Result<StagedCopy, DirectoryError> {
        let locked_writer = self.locked_writer()?;
        let (writer, from, target) = (locked_writer.writer, path.clone(), to.clone());
        // The copy is written to the other mount.
        let other = self.tree.mounts().mount_point_of(to.names());
        let copy = move |allowed: &AllowedMounts| writer.copy(&from, &target, how, &conditions, allowed);
        let copied = locked_writer
            .disk
            .across(path, AllowedMounts::default().with(other), copy)
            .await;
        copied.map(|(copied, _)| copied)
    }

    /// Where a MOVE or COPY goes, what it may replace, and its conditions.
    fn transfer(&self, head: &RequestHead) -> Result<Transfer, Problem> {
        let bad = |what| Problem::of_origin(StatusCode::BAD_REQUEST, what);
        let conditions = conditions(&head.headers)?;
        let field = |name| text(&head.headers, HeaderName::from_static(name));
        let overwrite = match field("overwrite").as_deref().map(str::trim) {
            None | Some("T" | "t") => true,
            Some("F" | "f") => false,
            Some(_) => return Err(bad("Overwrite is T or F")),
        };
        let how = match field("depth").map(|depth| depth.trim().to_ascii_lowercase()).as_deref() {
            None | Some("infinity") => CopyMode::Deep,
            // RFC 4918 §9.8.3: the collection without its members. A MOVE has no such thing (§9.9.2).
            Some("0") if head.method.as_str() == "COPY" => CopyMode::Shallow,
            Some(_) => return Err(bad("Depth is infinity; for COPY it may be 0")),
        };
        // Overwrite: F is a condition too, of what would be lost at the other end.
        if overwrite {
            self.demand(&conditions)?;
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

    /// Whether the path leads to a collection; a link to one is none.
    async fn is_collection(&self, path: &TreePath) -> Result<bool, DirectoryError> {
        let (tree, of) = (Arc::clone(&self.tree), path.clone());
        self.at_disk(path, move || tree.is_collection(&of)).await
    }

    /// The path of a Destination (RFC 4918 §10.3): a URL of ours or an absolute path.
    pub(super) fn destination(&self, head: &RequestHead) -> Result<TreePath, Problem> {
        let bad = |what: &str| Problem::of_origin(StatusCode::BAD_REQUEST, what);
        let field = text(&head.headers, HeaderName::from_static("destination"))
            .ok_or_else(|| bad("there is no Destination; it says where to"))?;
        let field = field.trim();
        let raw = match field.split_once("://") {
            // Read as it came: what resolves dots before us would hide them.
            Some((_, rest)) => {
                let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
                if !self.is_here(authority, head) {
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
        TreePath::parse(raw).map_err(|error| misnamed(error, head))
    }

    /// Whether that is a name of this server, as far as the request and the operator tell.
    fn is_here(&self, authority: &str, head: &RequestHead) -> bool {
        let host = text(&head.headers, header::HOST).or_else(|| Some(head.uri.authority()?.to_string()));
        let forwarded = forwarded::hosts(&head.headers, head.peer_addr, &self.settings.trusted_proxies);
        let mut names = host.into_iter().chain(forwarded);
        self.settings.public_url.allows(authority, forwarded::is_same_authority)
            || names.any(|name| forwarded::is_same_authority(&name, authority))
    }
}

/// What must be true of the path that a copy gets.
fn at_target(loss: Loss) -> Preconditions {
    match loss {
        Loss::Nothing => Preconditions::only_new(),
        _ => Preconditions::default(),
    }
}

/// A file was to get the path of a collection.
fn no_collection() -> Problem {
    let what = "a file's path does not end in a slash; name the file itself in the Destination";
    Problem::of_origin(StatusCode::CONFLICT, what)
}

fn told(done: Result<WriteOutcome, Problem>) -> HttpResponse {
    match done {
        Ok(WriteOutcome::Created(_)) => HttpResponse::Created().finish(),
        Ok(WriteOutcome::Replaced(_)) => HttpResponse::NoContent().finish(),
        Err(problem) => problem.response(),
    }
}

fn lost(error: tokio::task::JoinError) -> DirectoryError {
    DirectoryError::Disk {
        doing: "finish a move: its task was lost",
        source: std::io::Error::other(error),
    }
}

impl LockedWriter {
    /// Something goes where no rename(2) gets it, and has been copied: the copy gets its place, and then the original is removed
    /// if it is still what was copied. Else all is as it was. Each of the two is a change of its own, under the locks of its
    /// own mount.
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
                StagedCopy::File(arrived, _) => writer.place_file(arrived, &target, loss),
                StagedCopy::Entry(made, _) => writer.place_entry(made, &target, loss),
            };
        let over = LockScope::Mounts(vec![to.clone()]);
        let (done, replacement) = self.change(to, &over, Preconditions::default(), copied, place).await?;
        let (writer, source) = (Arc::clone(&self.writer), from.clone());
        let remove = move |writer: &TreeWriter, _: &PrereadDigest, _: &Preconditions, (): &mut ()| {
            writer.remove_source(&source, &state)
        };
        let removed = self
            .change(from, &locked(from), Preconditions::default(), (), remove)
            .await;
        let original = match removed {
            // Without a turn, which might not be had while it has no name.
            Ok(removed) => self.disk.blocking(move || Ok(writer.verify_source(removed))).await,
            Err(error) => Ok(SourceOutcome::InPlace(error)),
        };
        let (gone, done) = match original {
            Ok(SourceOutcome::Removed(gone)) => (gone, Ok(done)),
            Ok(SourceOutcome::InPlace(error)) => {
                self.discard(self.undone(to, &over, replacement).await);
                return Err(error);
            }
            // The copy stays: it is there twice, or the only one.
            Ok(SourceOutcome::Uncertain(error)) | Err(error) => (None, Err(error)),
        };
        self.discard(gone.into_iter().chain(self.writer.commit_replacement(replacement)));
        done
    }

    /// Takes a copy out again whose original is where it was; what is to be discarded.
    async fn undone(&self, to: &TreePath, over: &LockScope, replacement: Replacement) -> Option<Trash> {
        for _ in 0..MAX_UNDOING {
            let Ok(turn) = self.disk.turn(to).await else { continue };
            let Ok(held) = self.locks(over).await else { continue };
            let writer = Arc::clone(&self.writer);
            let undo = move || {
                let _held = (held, turn);
                Ok(writer.roll_back(replacement))
            };
            return self.disk.blocking(undo).await.ok().flatten();
        }
        tracing::error!(path = %to, "a move that failed could not be undone, for its file system does not answer; what it has copied is there twice");
        self.writer.commit_replacement(replacement)
    }
}
