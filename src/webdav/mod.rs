//! Origin mode at our door: a directory read, listed and changed over HTTP and WebDAV.
//!
//! ```text
//! file        GET and HEAD of a file: decided like a stored object, sent by the same reads (body)
//! collection  GET and HEAD of a collection: page (for people), JSON, playlist; cursors keep readings for their pages
//! properties  PROPFIND, PROPPATCH; xml reads what they name
//! access      who asks, and whether that one may; forwarded knows what a proxy says of that
//! log         what is written down of each request
//! upload      PUT in several requests
//! put         PUT; change: DELETE, MKCOL, MOVE, COPY; writer makes each change under its locks
//! disk        waiting for file systems, which may hang
//! ```
//!
//! `crate::directory` knows the directory and the rules of writing; here its verdicts become HTTP.

mod access;
mod body;
mod change;
mod collection;
mod cursors;
mod disk;
mod file;
mod forwarded;
mod log;
mod page;
mod properties;
mod put;
mod upload;
mod writer;
mod xml;

pub use access::{Access, BadTokens};
pub use cursors::Cursors;
pub use log::AccessLog;

use self::collection::Opened;
use self::disk::Disk;
use self::writer::LockedWriter;
use crate::clock::SharedClock;
use crate::config::{Delivery, PublicUrl};
use crate::directory::{
    AllowedMounts, DigestCache, DigestQueue, DirectoryError, DirectoryWatcher, Found, Locks, PathError, Tree, TreePath,
    TreeWriter, Uploads,
};
use crate::header::print_date;
use crate::serve::{Problem, Request};
use crate::telemetry::Metrics;
use actix_http::Payload;
use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use futures::StreamExt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// The longest path that is served, in bytes as the file system has them, and the longest request target: each byte of a path
/// may come as three.
const MAX_PATH_BYTES: usize = 8 * 1024;
const MAX_TARGET_BYTES: usize = 4 * MAX_PATH_BYTES;

/// A cache asks each time, which costs a 304; while it cannot reach us it may use what it has.
const CACHE_CONTROL: &str = "max-age=0, stale-if-error=604800";

/// The same of what is shown to those alone who may change it.
const CACHE_CONTROL_PRIVATE: &str = "private, max-age=0";

const READING: &str = "GET, HEAD, OPTIONS, PROPFIND";
const WRITING: &str = "GET, HEAD, OPTIONS, PROPFIND, PUT, DELETE, MKCOL, MOVE, COPY, PROPPATCH";

/// How a directory is served.
#[derive(Debug, Clone)]
pub struct OriginSettings {
    /// Whether it may be changed.
    pub writable: bool,
    /// Whether changes without a condition are refused.
    pub demand_conditions: bool,
    /// Whether collections are removed and replaced with all that is in them.
    pub deep_delete: bool,
    /// Whether names that begin with a dot are shown to all who read.
    pub hidden: bool,
    /// The URL that clients use.
    pub public_url: PublicUrl,
    /// Proxies that are believed under which name they were asked, beside those on this machine.
    pub trusted_proxies: Vec<IpAddr>,
    /// The largest file that may be put, in bytes.
    pub largest_upload: Option<u64>,
}

/// A directory that is served, with what its workers share.
#[derive(Debug)]
pub struct Origin {
    /// The directory.
    pub tree: Arc<Tree>,
    /// What is known of its files' bytes.
    pub tags: Arc<DigestCache>,
    /// Its changes; `None` where it is read-only.
    pub writer: Option<Arc<TreeWriter>>,
    /// What is put in several requests; `None` where it is read-only.
    pub uploads: Option<Arc<Uploads>>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// Where requests are logged.
    pub log: Option<Arc<AccessLog>>,
    /// Readings of collections that are being paged through.
    pub cursors: Arc<Cursors>,
    /// Who changes what at the moment.
    pub locks: Arc<Locks>,
    /// Reads large files.
    pub digest_queue: DigestQueue,
    /// Tells what appears.
    pub watcher: DirectoryWatcher,
    /// The wall clock.
    pub clock: SharedClock,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where what waits for the disk is done.
    pub threads: tokio::runtime::Handle,
    /// How it is served.
    pub settings: OriginSettings,
}

impl Origin {
    /// The answer to a request.
    pub async fn answer(&self, mut request: actix_http::Request) -> HttpResponse {
        let begun = Instant::now();
        let payload = request.take_payload();
        let response = self.route(request.head(), payload).await;
        self.metrics.answered(response.status().as_u16());
        self.logged(request.head(), begun, response)
    }

    /// The answer to a request while the directory is not there: before it was opened for the first time.
    pub fn away(target: &str) -> HttpResponse {
        match target {
            "/-/healthz" => HttpResponse::Ok()
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .body("ok\n"),
            _ => refused(&DirectoryError::RootGone).response(),
        }
    }

    /// The answer to a request whose client waits before it sends a body; `None` where it may.
    pub async fn before_body(&self, request: &actix_http::Request) -> Option<HttpResponse> {
        let begun = Instant::now();
        let refusal = self.refusal(request.head()).await.err()?;
        self.metrics.answered(refusal.status().as_u16());
        Some(self.logged(request.head(), begun, refusal))
    }

    fn logged(&self, head: &RequestHead, begun: Instant, response: HttpResponse) -> HttpResponse {
        match &self.log {
            None => response,
            Some(log) => log.follow(self.caller_name(head), head, begun, &self.clock, response),
        }
    }

    async fn route(&self, head: &RequestHead, payload: Payload) -> HttpResponse {
        let target = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        if target.len() + query.len() > MAX_TARGET_BYTES {
            let what = "the request target is longer than 32768 bytes";
            return Problem::of_origin(StatusCode::URI_TOO_LONG, what).response();
        }
        if head.method.as_str() == "OPTIONS" {
            return self.options();
        }
        if let Some(own) = target.strip_prefix("/-/") {
            let Some(id) = own.strip_prefix(upload::PLACE) else {
                return self.own(own, head).await;
            };
            if let Err(error) = self.check_root().await {
                return refused(&error).response();
            }
            let answer = self.at_upload(id, head, payload).await;
            return answer.unwrap_or_else(|problem| problem.response());
        }
        let path = match TreePath::parse(target) {
            Ok(path) => path,
            Err(error) => return misnamed(error, head).response(),
        };
        if path.names().iter().map(|name| name.len() + 1).sum::<usize>() > MAX_PATH_BYTES {
            let what = "the path is longer than 8192 bytes";
            return Problem::of_origin(StatusCode::URI_TOO_LONG, what).response();
        }
        match self.admit(&path, head) {
            Ok(()) => self.at(&path, query, head, payload).await,
            Err(problem) => problem.response(),
        }
    }

    /// Whether the directory is still the one that was opened.
    async fn check_root(&self) -> Result<(), DirectoryError> {
        match self.tree.check_root_cached() {
            Err(DirectoryError::ChangedMeanwhile) => {}
            verdict => return verdict,
        }
        let tree = Arc::clone(&self.tree);
        self.blocking(move || tree.check_root()).await
    }

    async fn at(&self, path: &TreePath, query: &str, head: &RequestHead, payload: Payload) -> HttpResponse {
        if let Err(error) = self.check_root().await {
            return refused(&error).response();
        }
        let hidden = self.shows_hidden(path, head);
        if path.is_hidden() && !hidden {
            return refused(&DirectoryError::Absent).response();
        }
        match head.method.as_str() {
            "GET" | "HEAD" => self.read(path, query, head, hidden).await,
            "PROPFIND" => match whole(payload, properties::MAX_BODY_BYTES).await {
                Ok(body) => self.describe(path, &head.headers, &body, hidden).await,
                Err(problem) => problem.response(),
            },
            method if self.writer.is_some() => {
                let changed = match method {
                    "PUT" => self.put(path, head, payload).await,
                    "DELETE" => self.delete(path, head).await,
                    "MKCOL" => self.make_collection(path, head, payload).await,
                    "MOVE" => self.relocate(path, head).await,
                    "COPY" => self.copy(path, head).await,
                    "PROPPATCH" => match whole(payload, properties::MAX_BODY_BYTES).await {
                        Ok(body) => self.set_properties(path, &head.headers, &body).await,
                        Err(problem) => Err(problem),
                    },
                    method => return self.not_allowed(method),
                };
                changed.unwrap_or_else(|problem| problem.response())
            }
            method => self.not_allowed(method),
        }
    }

    /// Whether a client that waits may send its body; what is refused now costs none.
    async fn refusal(&self, head: &RequestHead) -> Result<(), HttpResponse> {
        if let Some(own) = head.uri.path().strip_prefix("/-/") {
            return match own.strip_prefix(upload::PLACE) {
                Some(id) => self.may_append(id, head).await.map_err(|problem| problem.response()),
                None => Ok(()),
            };
        }
        let path = match TreePath::parse(head.uri.path()) {
            Ok(path) => path,
            Err(error) => return Err(misnamed(error, head).response()),
        };
        if let Err(problem) = self.admit(&path, head) {
            return Err(problem.response());
        }
        if let Err(error) = self.check_root().await {
            return Err(refused(&error).response());
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
        self.writer.clone().ok_or_else(|| refused(&DirectoryError::ReadOnly))
    }

    async fn read(&self, path: &TreePath, query: &str, head: &RequestHead, hidden: bool) -> HttpResponse {
        let Some(request) = Request::read(head, Delivery::Follow) else {
            return self.not_allowed(head.method.as_str());
        };
        let (found, allowed) = match self.find(path).await {
            Ok(found) => found,
            Err(error) => return refused(&error).response(),
        };
        match found {
            Found::Collection(..) if !path.has_slash() => elsewhere(path, query),
            Found::Collection(handle, _) => {
                let headers = &head.headers;
                let opened = Opened {
                    path: path.clone(),
                    handle,
                    hidden,
                    turns: self.turns(path, &allowed),
                };
                self.send_collection(opened, &request, headers, query).await
            }
            Found::File(file, stamp) => match self.tagged(path, &allowed, file, stamp).await {
                Ok(tagged) => self.send_file(path, &request, tagged),
                Err(error) => refused(&error).response(),
            },
        }
    }

    /// What the path leads to: at once where the kernel knows, else from a thread that may wait for the disk.
    async fn find(&self, path: &TreePath) -> Result<(Found, AllowedMounts), DirectoryError> {
        // An open on another mount may wait for its server, whatever the kernel remembers of the path.
        if self.tree.mounts().permits(path).is_none()
            && let Some(found) = self.tree.find_cached(path)?
        {
            return Ok((found, AllowedMounts::default()));
        }
        let (tree, of) = (Arc::clone(&self.tree), path.clone());
        let look = move |allowed: &AllowedMounts| tree.find_through(&of, allowed);
        self.disk().across(path, AllowedMounts::default(), look).await
    }

    /// The turns of those who read what a path leads to; `None` on the directory's own file system.
    fn turns(&self, path: &TreePath, allowed: &AllowedMounts) -> Option<Arc<Semaphore>> {
        match allowed.last() {
            Some(mount) => self.tree.mounts().permits_at(mount),
            None => self.tree.mounts().permits(path),
        }
    }

    fn disk(&self) -> Disk {
        Disk {
            tree: Arc::clone(&self.tree),
            threads: self.threads.clone(),
        }
    }

    /// What changes the directory, where it may be changed.
    fn locked_writer(&self) -> Result<LockedWriter, DirectoryError> {
        Ok(LockedWriter {
            writer: self.writer.clone().ok_or(DirectoryError::ReadOnly)?,
            locks: Arc::clone(&self.locks),
            disk: self.disk(),
        })
    }

    /// Runs what may wait for the file system that the path is on.
    async fn at_disk<T: Send + 'static>(
        &self,
        path: &TreePath,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        self.disk().at(path, work).await
    }

    /// Runs what may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        self.disk().blocking(work).await
    }

    fn cache_control(&self, private: bool) -> &'static str {
        match private {
            true => CACHE_CONTROL_PRIVATE,
            false => CACHE_CONTROL,
        }
    }

    async fn own(&self, own: &str, head: &RequestHead) -> HttpResponse {
        let stands = match own {
            "readyz" => self.check_root().await,
            _ => Ok(()),
        };
        if let Err(error) = stands {
            return refused(&error).response();
        }
        match own {
            "healthz" | "readyz" => HttpResponse::Ok()
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .body("ok\n"),
            // What is counted tells of everything.
            "metrics" => match self.admit(&TreePath::root(), head) {
                Ok(_) => HttpResponse::Ok()
                    .insert_header((
                        header::CONTENT_TYPE,
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    ))
                    .body(self.metrics.text()),
                Err(problem) => problem.response(),
            },
            _ => refused(&DirectoryError::Absent).response(),
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
            // Some of Microsoft's clients take nothing for WebDAV that does not say so.
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
            false => format!("{method} is not served: the directory is read-only; start with --writable to change it"),
            true => format!("{method} is not served"),
        };
        Problem::of_origin(StatusCode::METHOD_NOT_ALLOWED, what)
            .allowing_only(self.methods())
            .response()
    }
}

/// All of a request's body, where it is no longer than that.
async fn whole(mut payload: Payload, most: usize) -> Result<Vec<u8>, Problem> {
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

/// The same path as a collection, relative so that it holds behind any proxy; the query is kept.
fn elsewhere(path: &TreePath, query: &str) -> HttpResponse {
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

/// A date as HTTP writes it, of before 1970 too.
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

/// What a path that names nothing is answered.
fn misnamed(error: PathError, head: &RequestHead) -> Problem {
    let reads = matches!(head.method.as_str(), "GET" | "HEAD" | "PROPFIND");
    let status = match error {
        PathError::Empty if reads => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::of_origin(status, error.to_string())
}

/// What a client is told when the tree does not do what it asks.
fn refused(error: &DirectoryError) -> Problem {
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
