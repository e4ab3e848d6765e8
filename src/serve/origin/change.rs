//! DELETE, MKCOL, MOVE and COPY (RFC 4918): one change each, under the conditions of its request.
//!
//! A collection is removed, moved, copied and replaced with all that is in it, as RFC 4918 §9.6.1, §9.8.3 and §9.9.3 have it.
//! `Millpond-Only-Empty: ?1`, or `Depth: 0` on DELETE, demands that nothing but an empty collection is lost: a queue of
//! writes that was recorded elsewhere knows what it has seen, and cannot know what else was put there since. So does
//! the setting `deep_delete = false`, for all.

use super::put::{conditions, placed, text};
use super::{Origin, forwarded, misnamed, refused};
use crate::header::{Preconditions, boolean};
use crate::origin::{Arrived, Changes, Copied, Copying, Done, Evidence, Gone, Loss, OriginError, Tag, TreePath};
use crate::serve::problem::Problem;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use std::sync::Arc;

/// Demands that no collection with members is lost.
const ONLY_EMPTY: HeaderName = HeaderName::from_static("millpond-only-empty");

/// How often a change is tried whose condition has to be read for again.
const MAX_UNREAD: usize = 8;

/// What is locked while a change is made.
#[derive(Debug, Clone)]
pub(super) enum Locked {
    Paths(Vec<TreePath>),
    /// A collection is moved or removed: paths beneath it change their meaning.
    Tree,
}

/// A MOVE or COPY, read.
struct Transfer {
    to: TreePath,
    loss: Loss,
    conditions: Preconditions,
    how: Copying,
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
        let locked = match self.is_collection(path).await {
            true => Locked::Tree,
            false => Locked::Paths(vec![path.clone()]),
        };
        let of = path.clone();
        let work = move |changes: &Changes, evidence: &Evidence, conditions: &Preconditions, _: &mut ()| {
            changes.remove(&of, loss, conditions, evidence)
        };
        let gone = self.change(path, &locked, conditions, (), work).await;
        self.discard(gone.map_err(|error| refused(&error))?)?;
        Ok(HttpResponse::NoContent().finish())
    }

    /// Makes a change under its locks. What its conditions name is read before, and again where it has changed in between.
    pub(super) async fn change<T: Send + 'static, S: Send + 'static>(
        &self,
        path: &TreePath,
        locked: &Locked,
        conditions: Preconditions,
        state: S,
        work: impl Fn(&Changes, &Evidence, &Preconditions, &mut S) -> Result<T, OriginError> + Clone + Send + 'static,
    ) -> Result<T, OriginError> {
        let changes = self.changes.clone().ok_or(OriginError::ReadOnly)?;
        let mut state = Some(state);
        for _ in 0..MAX_UNREAD {
            let (with, of, named) = (Arc::clone(&changes), path.clone(), conditions.clone());
            let evidence = match conditions.need_tag() {
                true => self.at_disk(path, move || Ok(with.read_ahead(&of, &named))).await?,
                false => Evidence::default(),
            };
            let held = match locked {
                Locked::Tree => self.locks.tree().await,
                Locked::Paths(paths) => self.locks.paths(&paths.iter().collect::<Vec<_>>()).await,
            };
            let (with, work, conditions) = (Arc::clone(&changes), work.clone(), conditions.clone());
            let mut mine = state.take().ok_or(OriginError::Changing)?;
            // The lock goes with the work, which goes on though its client may leave.
            let done = self.at_disk(path, move || {
                let _held = held;
                let done = work(&with, &evidence, &conditions, &mut mine);
                Ok((done, mine))
            });
            let (done, mine) = done.await?;
            match done {
                Err(OriginError::Unread) => state = Some(mine),
                done => return done,
            }
        }
        Err(OriginError::Changing)
    }

    /// Removes what was taken away. It is gone for everybody; no client needs to wait until its bytes are.
    fn discard(&self, gone: impl IntoIterator<Item = Gone>) -> Result<(), Problem> {
        for gone in gone {
            let changes = self.changes()?;
            self.threads.spawn_blocking(move || changes.staging.discard(&gone));
        }
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
        let (of, locked) = (path.clone(), Locked::Paths(vec![path.clone()]));
        let work = move |changes: &Changes, _: &Evidence, conditions: &Preconditions, _: &mut ()| {
            changes.make_collection(&of, conditions)
        };
        match self.change(path, &locked, conditions, (), work).await {
            Ok(()) => Ok(HttpResponse::Created().finish()),
            // RFC 4918 §9.3.1.
            Err(error @ OriginError::Exists) => {
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
        let (collection, over_collection) = (self.is_collection(path).await, self.is_collection(&to).await);
        if !collection && to.has_slash() && !over_collection {
            return Err(no_collection());
        }
        let locked = match collection || over_collection {
            true => Locked::Tree,
            false => Locked::Paths(vec![path.clone(), to.clone()]),
        };
        let (from, target) = (path.clone(), to.clone());
        let work = move |changes: &Changes, evidence: &Evidence, conditions: &Preconditions, _: &mut ()| {
            changes.rename(&from, &target, loss, conditions, evidence)
        };
        let (done, gone) = match self.change(path, &locked, conditions.clone(), (), work).await {
            Err(OriginError::OtherDisk) => self.move_by_copy(path, &to, loss, conditions, &locked).await?,
            done => {
                let (done, gone) = done.map_err(|error| refused(&error))?;
                (done, gone.into_iter().collect())
            }
        };
        self.discard(gone)?;
        Ok(moved(done))
    }

    /// Something goes where no rename(2) gets it: it is copied, and removed if it is still what was copied.
    async fn move_by_copy(
        &self,
        path: &TreePath,
        to: &TreePath,
        loss: Loss,
        conditions: Preconditions,
        locked: &Locked,
    ) -> Result<(Done, Vec<Gone>), Problem> {
        let copied = self.copied(path, to, Copying::Move, conditions).await?;
        let locked = match &copied {
            Copied::Collection(..) => &Locked::Tree,
            Copied::File(..) => locked,
        };
        let (from, target) = (path.clone(), to.clone());
        let work =
            move |changes: &Changes, evidence: &Evidence, conditions: &Preconditions, copied: &mut Copied| match copied
            {
                Copied::File(arrived, state) => {
                    // Before anything is replaced by what may be a stale copy.
                    changes.is_in_state(&from, state)?;
                    let gone = changes.clear(&target, loss)?;
                    let done = put_or_restore(changes, &target, arrived, conditions, evidence, gone.as_ref())?;
                    changes.remove_copied(&from, state)?;
                    Ok((done, gone.into_iter().collect()))
                }
                Copied::Collection(made, census) => {
                    let placed = changes.is_as_copied(&from, census);
                    let placed = placed.and_then(|()| changes.place_collection(made, &target, loss));
                    let (done, gone) = placed.inspect_err(|_| changes.staging.discard(made))?;
                    let only_it = Preconditions::default();
                    // Where it cannot be removed both are there, and nothing is lost.
                    let original = changes
                        .remove(&from, Loss::Everything, &only_it, &Evidence::default())
                        .inspect_err(|_| gone.iter().for_each(|gone| changes.staging.discard(gone)))?;
                    Ok((done, gone.into_iter().chain(original).collect()))
                }
            };
        let only_new = at_target(loss);
        let done = self.change(to, locked, only_new, copied, work).await;
        done.map_err(|error| refused(&error))
    }

    /// The answer to COPY.
    pub(super) async fn copy(&self, path: &TreePath, head: &RequestHead) -> Result<HttpResponse, Problem> {
        let Transfer {
            to,
            loss,
            conditions,
            how,
        } = self.transfer(head)?;
        let copied = self.copied(path, &to, how, conditions).await?;
        let over_collection = self.is_collection(&to).await;
        if matches!(copied, Copied::File(..)) && to.has_slash() && !over_collection {
            return Err(no_collection());
        }
        let locked = match over_collection || matches!(copied, Copied::Collection(..)) {
            true => Locked::Tree,
            false => Locked::Paths(vec![to.clone()]),
        };
        let target = to.clone();
        let work =
            move |changes: &Changes, evidence: &Evidence, conditions: &Preconditions, copied: &mut Copied| match copied
            {
                Copied::File(arrived, _) => {
                    let gone = changes.clear(&target, loss)?;
                    let replaced = gone.is_some();
                    let done = put_or_restore(changes, &target, arrived, conditions, evidence, gone.as_ref())?;
                    let done = match replaced {
                        true => Done::Replaced(*done.stamp()),
                        false => done,
                    };
                    Ok((done, gone, Some(Tag::Strong(arrived.digest))))
                }
                Copied::Collection(made, _) => {
                    let placed = changes.place_collection(made, &target, loss);
                    let (done, gone) = placed.inspect_err(|_| changes.staging.discard(made))?;
                    Ok((done, gone, None))
                }
            };
        let done = self.change(&to, &locked, at_target(loss), copied, work).await;
        let (done, gone, tag) = done.map_err(|error| refused(&error))?;
        self.discard(gone)?;
        Ok(match tag {
            Some(tag) => placed((done, tag), self.clock.now(), false),
            None => moved(done),
        })
    }

    async fn copied(
        &self,
        path: &TreePath,
        to: &TreePath,
        how: Copying,
        conditions: Preconditions,
    ) -> Result<Copied, Problem> {
        let (changes, from, target) = (self.changes()?, path.clone(), to.clone());
        let copied = self.at_disk(path, move || changes.copy(&from, &target, how, &conditions));
        copied.await.map_err(|error| refused(&error))
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
            None | Some("infinity") => Copying::Deep,
            // RFC 4918 §9.8.3: the collection without its members. A MOVE has no such thing (§9.9.2).
            Some("0") if head.method.as_str() == "COPY" => Copying::Shallow,
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

    async fn is_collection(&self, path: &TreePath) -> bool {
        let (tree, of) = (Arc::clone(&self.tree), path.clone());
        let look = move || tree.find(&of);
        matches!(self.at_disk(path, look).await, Ok(crate::origin::Found::Collection(..)))
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

/// Puts a copy in its place; where that fails, what was taken away for it is put back.
fn put_or_restore(
    changes: &Changes,
    target: &TreePath,
    arrived: &mut Arrived,
    conditions: &Preconditions,
    evidence: &Evidence,
    gone: Option<&Gone>,
) -> Result<Done, OriginError> {
    changes.put(target, arrived, conditions, evidence).inspect_err(|_| {
        if let Some(gone) = gone {
            changes.restore(gone, target);
        }
    })
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

fn moved(done: Done) -> HttpResponse {
    match done {
        Done::Made(_) => HttpResponse::Created().finish(),
        Done::Replaced(_) => HttpResponse::NoContent().finish(),
    }
}
