//! The directory at our door: read, listed and changed over HTTP and WebDAV (RFC 4918, class 1).
//!
//! ```text
//! get_file         GET and HEAD of a file: decided like a stored object; file_source gives the bytes
//! listing          GET and HEAD of a collection: HTML (listing_html), JSON or a playlist; listing_cache keeps
//!                  readings for the pages that follow
//! propfind         PROPFIND; proppatch: PROPPATCH; request_xml reads their bodies, multistatus and escape write
//!                  the answers
//! put              PUT (put_request: its head, body_batches: its body); resumable_upload: PUT in several requests
//! delete mkcol     DELETE and MKCOL; move_copy: MOVE and COPY
//! authorization    the rights that a request needs
//! locked_writer    makes every change under its locks
//! disk_threads     threads and permits for file systems that may hang
//! open_file        files of such a mount, closed on those threads
//! mount            the directory opened, watched, and opened again after it was away
//! ```
//!
//! `crate::directory` knows the directory and the rules of writing; here its verdicts become HTTP (`problem_of`). A
//! request passes these checks in order: the length of its target, authorization, whether the root is still the
//! directory that was opened, hidden names, the method. So nothing of the directory is revealed to a caller without a
//! right to it.

mod authorization;
mod body_batches;
mod delete;
mod disk_threads;
mod escape;
mod file_source;
mod get_file;
mod listing;
mod listing_budget;
mod listing_cache;
mod listing_html;
mod listing_view;
mod locked_writer;
mod mkcol;
mod mount;
mod move_copy;
mod multistatus;
mod open_file;
mod propfind;
mod proppatch;
mod put;
mod put_request;
mod request_xml;
mod resumable_upload;

pub use listing_budget::ListingBudget;
pub use listing_cache::ListingCache;
pub use mount::{Mount, MountContext, MountWatch};
pub use propfind::PendingMembers;

use self::disk_threads::DiskThreads;
use self::listing::OpenCollection;
use self::locked_writer::LockedWriter;
use self::open_file::{MountThreads, OpenEntry};
use crate::access::Caller;
use crate::clock::SharedClock;
use crate::config::{Delivery, PublicUrl, TrustedProxies};
use crate::directory::{
    AllowedMounts, DigestCache, DigestQueue, DirectoryError, DirectoryWatcher, Locks, PathError, Tree, TreePath,
    TreeWriter, Uploads,
};
use crate::header::print_date;
use crate::http1::Response;
use crate::proxy::{Problem, Request};
use crate::telemetry::Metrics;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use futures::StreamExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// The longest path that is served, in bytes as the file system has them: a judgement, twice what Linux takes at once
/// (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 8 * 1024;

/// The longest request target, in bytes: an escaped byte is three in it, and a query may follow.
const MAX_TARGET_BYTES: usize = 4 * MAX_PATH_BYTES;

/// `Cache-Control` of files and redirects: a cache asks each time, which costs a 304; while it cannot reach this
/// server it may use a stored response for a week.
const CACHE_CONTROL: &str = "max-age=0, stale-if-error=604800";

/// The same for names that are shown only to callers who may write: no shared cache keeps them.
const CACHE_CONTROL_PRIVATE: &str = "private, max-age=0";

const READING: &str = "GET, HEAD, OPTIONS, PROPFIND";
const WRITING: &str = "GET, HEAD, OPTIONS, PROPFIND, PUT, DELETE, MKCOL, MOVE, COPY, PROPPATCH";

/// The settings by which a directory is served.
#[derive(Debug, Clone)]
pub struct DirectorySettings {
    /// The name of the mount, which is the first segment of its paths; `None` at `/`.
    pub name: Option<String>,
    /// The path that stands before each path of the tree that is printed, without a slash at its end: that of
    /// `public_url`, and the mount's name.
    pub prefix: String,
    /// PUT, DELETE and the other changing methods are allowed.
    pub writable: bool,
    /// A change without a precondition is refused (428).
    pub demand_conditions: bool,
    /// DELETE, MOVE and COPY may remove a collection that has members.
    pub deep_delete: bool,
    /// Names that begin with a dot are shown to every reader.
    pub hidden: bool,
    /// The URL under which clients reach this server.
    pub public_url: PublicUrl,
    /// Proxies, beside those on this machine, whose `Forwarded` fields name this server.
    pub trusted_proxies: TrustedProxies,
    /// Names at the root that other mounts have, or any URL: no path of this one begins with them. Only a mount at `/` has
    /// such neighbours beneath it.
    pub taken: Vec<String>,
    /// The largest file that may be put, in bytes.
    pub largest_upload: Option<u64>,
}

/// A directory that is served, with the state that its workers share.
#[derive(Debug)]
pub struct DirectoryService {
    /// The directory, opened for reading.
    pub tree: Arc<Tree>,
    /// The digests and entity tags of its files.
    pub tags: Arc<DigestCache>,
    /// The writer of the directory; `None` where it is read-only.
    pub writer: Option<Arc<TreeWriter>>,
    /// The resumable uploads; `None` where the directory is read-only.
    pub uploads: Option<Arc<Uploads>>,
    /// The memory of all answers to PROPFIND, of this directory and of others.
    pub listing_budget: Arc<ListingBudget<PendingMembers>>,
    /// Readings of collections that clients page through.
    pub listing_cache: Arc<ListingCache>,
    /// The locks of paths and mounts.
    pub locks: Arc<Locks>,
    /// The queue of large files that are to be hashed.
    pub digest_queue: DigestQueue,
    /// The watch on the directory; dropping it ends it.
    pub watcher: DirectoryWatcher,
    /// The wall clock.
    pub clock: SharedClock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The threads that may wait for the disk.
    pub threads: tokio::runtime::Handle,
    /// The settings.
    pub settings: DirectorySettings,
}

impl DirectoryService {
    /// The answer to a request for `target`, the path beneath the mount as it came.
    pub async fn answer(&self, caller: &Caller, head: &RequestHead, target: &str, payload: Payload) -> Response {
        let query = head.uri.query().unwrap_or_default();
        if target.len() + query.len() > MAX_TARGET_BYTES {
            let what = "the request target is longer than 32768 bytes";
            return Problem::of_origin(StatusCode::URI_TOO_LONG, what).response().into();
        }
        if head.method.as_str() == "OPTIONS" {
            return self.options().into();
        }
        let path = match TreePath::parse(target) {
            Ok(path) => path,
            Err(error) => return path_problem(error, head).response().into(),
        };
        if self.is_anothers(&path) {
            return problem_of(&DirectoryError::Absent).response().into();
        }
        if path.names().iter().map(|name| name.len() + 1).sum::<usize>() > MAX_PATH_BYTES {
            let what = "the path is longer than 8192 bytes";
            return Problem::of_origin(StatusCode::URI_TOO_LONG, what).response().into();
        }
        match self.authorize(&path, caller, head) {
            Ok(()) => self.answer_path(caller, (&path, query), head, payload).await,
            Err(problem) => problem.response().into(),
        }
    }

    /// The answer to a request before the directory was there for the first time.
    pub fn away() -> HttpResponse {
        problem_of(&DirectoryError::RootGone).response()
    }

    /// The answer that says why the directory cannot be served now; `None` where it can.
    pub async fn unready(&self) -> Option<HttpResponse> {
        let error = self.check_root().await.err()?;
        Some(problem_of(&error).response())
    }

    /// The refusal of a request whose client waits with its body (`Expect: 100-continue`); `None` where the body may
    /// come.
    pub async fn before_body(&self, caller: &Caller, head: &RequestHead, target: &str) -> Option<HttpResponse> {
        self.refusal(caller, head, target).await.err()
    }

    /// The answer to a request for an upload's URL.
    pub async fn upload_resource(
        &self,
        caller: &Caller,
        id: &str,
        head: &RequestHead,
        payload: Payload,
    ) -> HttpResponse {
        if head.method.as_str() == "OPTIONS" {
            return self.options();
        }
        if let Some(away) = self.unready().await {
            return away;
        }
        let answer = self.answer_upload(caller, id, head, payload).await;
        answer.unwrap_or_else(|problem| problem.response())
    }

    /// The refusal of a body for an upload, as [`DirectoryService::before_body`].
    pub async fn before_upload(&self, caller: &Caller, id: &str, head: &RequestHead) -> Option<HttpResponse> {
        let refusal = self.may_append(caller, id, head).await.err()?;
        Some(refusal.response())
    }

    /// Whether a path, however its letters were escaped, is that of another mount: nothing of this one is found there,
    /// and scopes of tokens mean the other's.
    fn is_anothers(&self, path: &TreePath) -> bool {
        let first = path.names().first();
        first.is_some_and(|name| self.settings.taken.contains(name))
    }

    /// Whether the root is still the directory that was opened: at once where the kernel has it in memory.
    async fn check_root(&self) -> Result<(), DirectoryError> {
        match self.tree.check_root_cached() {
            Err(DirectoryError::ChangedMeanwhile) => {}
            verdict => return verdict,
        }
        let tree = Arc::clone(&self.tree);
        self.run(move || tree.check_root()).await
    }

    async fn answer_path(
        &self,
        caller: &Caller,
        (path, query): (&TreePath, &str),
        head: &RequestHead,
        payload: Payload,
    ) -> Response {
        if let Err(error) = self.check_root().await {
            return problem_of(&error).response().into();
        }
        let hidden = self.shows_hidden(path, caller);
        if path.is_hidden() && !hidden {
            return problem_of(&DirectoryError::Absent).response().into();
        }
        match head.method.as_str() {
            "GET" | "HEAD" => self.read(path, query, head, hidden).await,
            "PROPFIND" => match read_body(payload, propfind::MAX_BODY_BYTES).await {
                Ok(body) => self.propfind(path, &head.headers, &body, hidden).await.into(),
                Err(problem) => problem.response().into(),
            },
            method if self.writer.is_some() => {
                let changed = match method {
                    "PUT" => self.put(path, head, payload).await,
                    "DELETE" => self.delete(path, head).await,
                    "MKCOL" => self.make_collection(path, head, payload).await,
                    "MOVE" => self.move_entry(path, head).await,
                    "COPY" => self.copy_entry(path, head).await,
                    "PROPPATCH" => match read_body(payload, propfind::MAX_BODY_BYTES).await {
                        Ok(body) => self.proppatch(path, &head.headers, &body).await,
                        Err(problem) => Err(problem),
                    },
                    method => return self.not_allowed(method).into(),
                };
                changed.unwrap_or_else(|problem| problem.response()).into()
            }
            method => self.not_allowed(method).into(),
        }
    }

    /// Whether a client that waits may send its body. A refusal now costs the client no transfer.
    async fn refusal(&self, caller: &Caller, head: &RequestHead, target: &str) -> Result<(), HttpResponse> {
        let path = match TreePath::parse(target) {
            Ok(path) => path,
            Err(error) => return Err(path_problem(error, head).response()),
        };
        if self.is_anothers(&path) {
            return Err(problem_of(&DirectoryError::Absent).response());
        }
        if let Err(problem) = self.authorize(&path, caller, head) {
            return Err(problem.response());
        }
        if let Err(error) = self.check_root().await {
            return Err(problem_of(&error).response());
        }
        match head.method.as_str() {
            "PUT" if self.writer.is_none() => Err(self.not_allowed("PUT")),
            "PUT" => match self.may_put(&path, head).await {
                Ok(_) => Ok(()),
                Err(problem) => Err(problem.response()),
            },
            _ => Ok(()),
        }
    }

    fn writer(&self) -> Result<Arc<TreeWriter>, Problem> {
        self.writer.clone().ok_or_else(|| problem_of(&DirectoryError::ReadOnly))
    }

    async fn read(&self, path: &TreePath, query: &str, head: &RequestHead, hidden: bool) -> Response {
        let Some(request) = Request::read(head, Delivery::Follow) else {
            return self.not_allowed(head.method.as_str()).into();
        };
        let (found, allowed) = match self.find(path).await {
            Ok(found) => found,
            Err(error) => return problem_of(&error).response().into(),
        };
        match found {
            OpenEntry::Collection(..) if !path.has_slash() => redirect_to_collection(path, query).into(),
            OpenEntry::Collection(handle, _) => {
                let headers = &head.headers;
                let opened = OpenCollection {
                    path: path.clone(),
                    handle,
                    hidden,
                    permits: self.permits(path, &allowed),
                };
                self.send_collection(opened, &request, headers, query).await.into()
            }
            OpenEntry::File(file, stamp) => match self.tag_file(path, &allowed, file, stamp).await {
                Ok(tagged) => self.send_file(path, &request, tagged),
                Err(error) => problem_of(&error).response().into(),
            },
        }
    }

    /// The file or collection at the path: at once where the kernel has it in memory, else from a thread that may
    /// wait for the disk.
    async fn find(&self, path: &TreePath) -> Result<(OpenEntry, AllowedMounts), DirectoryError> {
        // An open on another mount may wait for that file system's server, whatever the kernel remembers of the path.
        if self.tree.mounts().permits(path).is_none()
            && let Some(found) = self.tree.find_cached(path)?
        {
            let own = MountThreads {
                threads: self.threads.clone(),
                permits: None,
            };
            return Ok((OpenEntry::new(found, own), AllowedMounts::default()));
        }
        let (disk, of) = (self.disk(), path.clone());
        let look = move |allowed: &AllowedMounts| {
            let found = disk.tree.find_through(&of, allowed)?;
            Ok(OpenEntry::new(found, disk.of_mount(&of, allowed)))
        };
        self.disk().run_across(path, AllowedMounts::default(), look).await
    }

    /// The permits for reading what a path leads to; `None` on the directory's own file system.
    fn permits(&self, path: &TreePath, allowed: &AllowedMounts) -> Option<Arc<Semaphore>> {
        self.disk().of_mount(path, allowed).permits
    }

    fn disk(&self) -> DiskThreads {
        DiskThreads {
            tree: Arc::clone(&self.tree),
            threads: self.threads.clone(),
        }
    }

    /// The writer with its locks and threads.
    fn locked_writer(&self) -> Result<LockedWriter, DirectoryError> {
        Ok(LockedWriter {
            writer: self.writer.clone().ok_or(DirectoryError::ReadOnly)?,
            locks: Arc::clone(&self.locks),
            disk: self.disk(),
        })
    }

    /// Runs work that may wait for the path's file system, on a thread and with that mount's permit.
    async fn run_at<T: Send + 'static>(
        &self,
        path: &TreePath,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        self.disk().run_at(path, work).await
    }

    /// Runs work that may wait for the disk, on a thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        self.disk().run(work).await
    }

    fn cache_control(&self, private: bool) -> &'static str {
        match private {
            true => CACHE_CONTROL_PRIVATE,
            false => CACHE_CONTROL,
        }
    }

    fn options(&self) -> HttpResponse {
        let mut response = HttpResponse::NoContent();
        if let Some(limits) = self.upload_limits() {
            response
                .insert_header((HeaderName::from_static("accept-patch"), "application/partial-upload"))
                .insert_header((HeaderName::from_static("upload-limit"), limits));
        }
        response
            .insert_header((header::ALLOW, self.methods()))
            .insert_header((HeaderName::from_static("dav"), HeaderValue::from_static("1")))
            // Some Microsoft clients treat a server as WebDAV only if it sends this field.
            .insert_header((
                HeaderName::from_static("ms-author-via"),
                HeaderValue::from_static("DAV"),
            ))
            .insert_header((header::ACCEPT_RANGES, "bytes"))
            .finish()
    }

    fn methods(&self) -> &'static str {
        if self.writer.is_some() { WRITING } else { READING }
    }

    fn not_allowed(&self, method: &str) -> HttpResponse {
        let what = match self.settings.writable {
            false => format!(
                "{method} is not served: the directory is read-only; start with --writable, or say --directory NAME=DIR,writable, to change it"
            ),
            true => format!("{method} is not served"),
        };
        Problem::of_origin(StatusCode::METHOD_NOT_ALLOWED, what)
            .allowing_only(self.methods())
            .response()
    }
}

/// The whole body of a request, unless it is longer than `most` bytes.
async fn read_body(mut payload: Payload, most: usize) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|error| {
            let what = format!("the request's body did not come whole: {error}");
            Problem::of_origin(StatusCode::BAD_REQUEST, what)
        })?;
        if body.len() + piece.len() > most {
            let what = format!("the request's body is longer than {most} bytes");
            return Err(Problem::of_origin(StatusCode::PAYLOAD_TOO_LARGE, what));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// A redirect to the same path with a slash. The reference is relative, so that it holds behind any proxy; the query
/// is kept.
fn redirect_to_collection(path: &TreePath, query: &str) -> HttpResponse {
    let name = path.name().unwrap_or_default();
    let mut there = format!("./{}/", crate::directory::encode_segment(name));
    if !query.is_empty() {
        there.push('?');
        there.push_str(query);
    }
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, there))
        .insert_header((header::CACHE_CONTROL, CACHE_CONTROL))
        .finish()
}

/// An HTTP date. `print_date` begins with 1970; file times before that are formatted here.
fn http_date(time: SystemTime) -> String {
    if time >= UNIX_EPOCH {
        return print_date(time);
    }
    let format = time::format_description::parse_borrowed::<2>(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT",
    );
    let text = format
        .ok()
        .and_then(|format| time::OffsetDateTime::from(time).format(&format).ok());
    text.unwrap_or_else(|| print_date(UNIX_EPOCH))
}

/// The answer to a request path that names nothing in the tree.
fn path_problem(error: PathError, head: &RequestHead) -> Problem {
    let reads = matches!(head.method.as_str(), "GET" | "HEAD" | "PROPFIND");
    let status = match error {
        PathError::Empty if reads => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::of_origin(status, error.to_string())
}

/// The problem document of a directory's error.
fn problem_of(error: &DirectoryError) -> Problem {
    use DirectoryError as E;
    let status = match error {
        E::Absent => StatusCode::NOT_FOUND,
        E::Denied | E::ReadOnly | E::NotServed | E::Root => StatusCode::FORBIDDEN,
        E::NoParent | E::ParentIsFile | E::IsCollection | E::Exists | E::NotEmpty => StatusCode::CONFLICT,
        E::Link | E::Special | E::NameCollision(_) | E::IntoItself | E::CrossDevice => StatusCode::CONFLICT,
        E::Mounted => StatusCode::CONFLICT,
        E::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        E::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
        E::BadName | E::Unportable(_) | E::WrongDigest(_) => StatusCode::BAD_REQUEST,
        E::TooLong => StatusCode::INSUFFICIENT_STORAGE,
        E::InUse => StatusCode::SERVICE_UNAVAILABLE,
        E::TooManyUploads => {
            return Problem::later(Duration::from_secs(60), &error.to_string()).without_story();
        }
        E::ChangedMeanwhile | E::TagUnknown | E::NeedsRestaging => {
            return Problem::later(Duration::from_secs(1), &error.to_string()).without_story();
        }
        E::RootGone | E::MountHangs | E::LinkToMount(_) => {
            return Problem::later(Duration::from_secs(5), &error.to_string()).without_story();
        }
        E::Disk { source, .. } => {
            tracing::error!(%error, cause = %source, "the directory failed");
            let what = "the server's disk failed; its log says how";
            return Problem::of_origin(StatusCode::INTERNAL_SERVER_ERROR, what);
        }
    };
    Problem::of_origin(status, error.to_string())
}
