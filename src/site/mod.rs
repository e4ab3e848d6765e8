//! The site of a server: its mounts, and the way of a request to one of them.
//!
//! ```text
//! /-/                        the server itself: the API (crate::admin), and uploads that are resumed
//! /NAME/                     a directory, or an upstream
//! /http/HOST/ /https/HOST/   any URL, where that is allowed
//! /                          the directory or upstream without a name
//! ```
//!
//! Every way into a server (connections of its own, the framework, HTTP/2) asks here: [`Site::answer`] for an answer,
//! [`Site::before_body`] whether a client that waits may send its body. A request for an upstream passes
//! [`Access::admit`] first, which takes off what is the server's own; a directory looks at the caller's rights by
//! itself, path by path. The access log is told of each answer here, since only here all of them come by.

mod access_log;

pub use access_log::AccessLog;

use self::access_log::LoggedCaller;

use crate::access::{Access, Admitted, Caller, Door};
use crate::clock::Instant;
use crate::clock::SharedClock;
use crate::http1::Response;
use crate::proxy::{Problem, RouteError, Routed, Service};
use crate::telemetry::Metrics;
use crate::upstream::Trust;
use crate::webdav::Mount;
use actix_web::HttpResponse;
use actix_web::dev::{Payload, RequestHead};
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use std::sync::Arc;

/// The path of uploads that are resumed; an id follows.
pub const UPLOADS: &str = "/-/uploads/";

/// The mounts of a server, and what they share.
#[derive(Debug)]
pub struct Site {
    /// The cache, where there is an upstream or any URL may be named.
    pub cache: Option<Arc<Service>>,
    /// The directories.
    pub mounts: Vec<Arc<Mount>>,
    /// The rules of access: who may do what.
    pub access: Arc<Access>,
    /// The URLs of the server's root.
    pub urls: Vec<String>,
    /// The access log, where there is one.
    pub log: Option<Arc<AccessLog>>,
    /// The wall clock.
    pub clock: SharedClock,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// The part of a server that a path is of.
enum Place<'a> {
    /// An upload of the mount.
    Upload(&'a Mount, &'a str),
    /// The mount, and the path beneath it; empty for the mount's name without a slash.
    Directory(&'a Mount, &'a str),
    /// An upstream's, or nobody's.
    Cache,
}

impl Site {
    /// Whether a GET of the path may be answered from the cache without more ado: it is no directory's, the answer is
    /// not logged, and every caller may read.
    pub fn is_freely_cached(&self, path: &str) -> bool {
        let is_plain = self.log.is_none() && self.access.is_free_to_play();
        is_plain && (self.mounts.is_empty() || matches!(self.place(path), Place::Cache))
    }

    /// The refusal of a request that names another server, or none; `None` where it names this one.
    pub fn refused_host(&self, door: Door, head: &RequestHead) -> Option<Response> {
        let begun = Instant::now();
        let problem = self.access.check_host(door, head).err()?;
        Some(self.logged(head, begun, problem.response().into()))
    }

    /// Whether a client that has closed its side of the connection still waits for its answer: of a directory it may, as a
    /// client of any file server; a player that closes its side has gone, and its fill is not to go on for it.
    pub fn may_half_close(&self, path: &str) -> bool {
        !self.mounts.is_empty() && matches!(self.place(path), Place::Directory(..) | Place::Upload(..))
    }

    /// The answer to a request, logged when it has been sent.
    pub async fn answer(&self, door: Door, head: &RequestHead, payload: Payload) -> Response {
        let begun = Instant::now();
        let response = match self.place(head.uri.path()) {
            _ if is_service_worker(head) => {
                let what = "no service worker is served: it would answer for everything of this server's";
                Problem::new(StatusCode::FORBIDDEN, what)
                    .without_story()
                    .response()
                    .into()
            }
            Place::Directory(mount, "") if matches!(head.method, Method::GET | Method::HEAD) => {
                redirect_to_mount(mount, head).into()
            }
            Place::Cache => self.fetch(door, head, payload).await,
            place => match self.access.caller(door, head) {
                Ok(caller) => self.answer_of_mount(&caller, place, head, payload).await,
                Err(problem) => problem.response().into(),
            },
        };
        self.logged(head, begun, response)
    }

    async fn answer_of_mount(
        &self,
        caller: &Caller,
        place: Place<'_>,
        head: &RequestHead,
        payload: Payload,
    ) -> Response {
        match place {
            Place::Upload(mount, id) => mount.answer_upload(caller, id, head, payload).await.into(),
            Place::Directory(mount, target) => mount.answer(caller, head, target, payload).await,
            Place::Cache => Problem::route(RouteError::Nowhere).without_story().response().into(),
        }
    }

    /// The refusal of a request whose client waits with its body (`Expect: 100-continue`); `None` where the body may
    /// come. A refusal now costs the client no transfer.
    pub async fn before_body(&self, door: Door, head: &RequestHead) -> Option<HttpResponse> {
        let begun = Instant::now();
        let refusal = match self.place(head.uri.path()) {
            _ if let Err(problem) = self.access.check_host(door, head) => Some(problem.response()),
            // The upstream judges requests with bodies.
            Place::Cache => None,
            place => match self.access.caller(door, head) {
                Err(problem) => Some(problem.response()),
                Ok(caller) => match place {
                    Place::Upload(mount, id) => mount.before_upload(&caller, id, head).await,
                    Place::Directory(mount, target) => mount.before_body(&caller, head, target).await,
                    Place::Cache => None,
                },
            },
        }?;
        self.metrics.answered(refusal.status().as_u16());
        Some(self.logged(head, begun, refusal.into()).into())
    }

    /// The answer that says why the server cannot do its work now; `None` where it can.
    pub async fn unready(&self) -> Option<HttpResponse> {
        for mount in &self.mounts {
            let unready = mount.unready().await;
            if unready.is_some() {
                return unready;
            }
        }
        None
    }

    /// The response, whose line is written to the access log when its body is over or dropped.
    pub fn logged(&self, head: &RequestHead, begun: Instant, response: Response) -> Response {
        match &self.log {
            None => response,
            Some(log) => {
                let caller = LoggedCaller {
                    address: self.access.client_address(head),
                    token: self.access.token_name(head),
                };
                log.log_when_sent(caller, head, begun, &self.clock, response)
            }
        }
    }

    fn place<'a>(&'a self, path: &'a str) -> Place<'a> {
        if let Some(id) = path.strip_prefix(UPLOADS)
            && let Some(mount) = self.mount_of_upload(id)
        {
            return Place::Upload(mount, id);
        }
        if path.starts_with("/-/") {
            return Place::Cache;
        }
        let beneath = |mount: &'a Arc<Mount>| {
            let rest = path.strip_prefix('/')?.strip_prefix(mount.name()?)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(Place::Directory(mount, rest))
        };
        if let Some(place) = self.mounts.iter().find_map(beneath) {
            return place;
        }
        let is_named = || self.cache.as_ref().is_some_and(|cache| cache.routes.has_name_for(path));
        match self.mounts.iter().find(|mount| mount.name().is_none()) {
            Some(mount) if !is_named() => Place::Directory(mount, path),
            _ => Place::Cache,
        }
    }

    /// The mount that has the upload; of an upload that none has, one that says so.
    fn mount_of_upload(&self, id: &str) -> Option<&Mount> {
        let having = self.mounts.iter().find(|mount| mount.has_upload(id));
        having.or_else(|| self.mounts.first()).map(|mount| &**mount)
    }

    /// The answer to a request for what an upstream has.
    async fn fetch(&self, door: Door, head: &RequestHead, payload: Payload) -> Response {
        let Admitted { head, caller } = match self.access.admit(door, head) {
            Ok(admitted) => admitted,
            Err(problem) => return problem.response().into(),
        };
        let Some(cache) = &self.cache else {
            return Problem::route(RouteError::Nowhere).without_story().response().into();
        };
        match cache.routes.resolve(head.uri.path(), head.uri.query()) {
            Ok(Routed::Fetch { target, delivery }) => {
                if target.trust == Trust::Public
                    && let Err(problem) = caller.allow_any_url()
                {
                    return problem.response().into();
                }
                cache
                    .fetch(&head, payload, (&target, delivery), caller.name.as_deref())
                    .await
            }
            // The scope of the API has all that it is.
            Ok(Routed::Own(_)) => Problem::new(StatusCode::NOT_FOUND, "there is no such resource")
                .without_story()
                .response()
                .into(),
            Err(error) => Problem::route(error).response().into(),
        }
    }
}

/// Whether a browser asks for the script of a service worker, which would go on for the whole origin when its page is gone.
pub fn is_service_worker(head: &RequestHead) -> bool {
    head.headers.contains_key("service-worker")
}

/// A redirect from a mount's name to its root: references of its listing are relative to that.
fn redirect_to_mount(mount: &Mount, head: &RequestHead) -> HttpResponse {
    let query = head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let there = format!("./{}/{query}", mount.name().unwrap_or_default());
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, there))
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("max-age=0")))
        .finish()
}
