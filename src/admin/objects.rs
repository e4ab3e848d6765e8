//! Objects: listed, shown, pinned and purged.
//!
//! All of them ask the catalog, so all are done on a thread that may wait for the disk. A page is bounded, and
//! continues behind an id, not a position: objects that come and go in between move no other. A purge without any
//! condition is refused; what a purge means is `fill::Purge`'s, the store first and then the fills.

use super::guard::UrlVisibility;
use super::parameters::{NoParameters, ObjectPath, Parameter, Parameters, Query, flag, known};
use super::{on_disk, problem};
use crate::api::{ObjectPage, ObjectSummary, Purged, Stats};
use crate::fill::Purge;
use crate::key::ObjectId;
use crate::proxy::{Problem, Service};
use crate::store::{PurgeMode, PurgeScope, summary_of};
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use std::sync::Arc;
use url::Url;

/// The size of a page without `limit`. A judgement: some screens of a terminal.
const DEFAULT_LIMIT: usize = 100;

/// The largest page: a thousand objects of some hundred bytes each are made in memory. A judgement.
const MAX_LIMIT: usize = 1000;

/// Which objects are listed.
pub(super) struct ListParameters {
    limit: usize,
    after: Option<ObjectId>,
    prefix: String,
    url: Option<Url>,
}

impl Default for ListParameters {
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            after: None,
            prefix: String::new(),
            url: None,
        }
    }
}

impl Parameters for ListParameters {
    const ALL: &'static [Parameter] = &[
        Parameter {
            name: "limit",
            form: "1..1000",
            what: "The most objects of the page; 100 without it.",
        },
        Parameter {
            name: "after",
            form: "ID",
            what: "The page begins behind this id: the last page's `next`.",
        },
        Parameter {
            name: "prefix",
            form: "URL",
            what: "Objects whose URLs begin so.",
        },
        Parameter {
            name: "url",
            form: "URL",
            what: "The object of this URL alone.",
        },
    ];

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "limit" => self.limit = value.parse().ok().filter(|n| (1..=MAX_LIMIT).contains(n))?,
            "after" => self.after = Some(ObjectId::parse(value)?),
            "prefix" => value.clone_into(&mut self.prefix),
            "url" => self.url = Some(Url::parse(value).ok()?),
            _ => return None,
        }
        Some(())
    }
}

pub(super) async fn list(
    service: Data<Service>,
    Query(parameters): Query<ListParameters>,
    visibility: UrlVisibility,
) -> Result<Json<ObjectPage>, Problem> {
    let only = parameters.url.map(|url| service.routes.key_of(url).id());
    let store = Arc::clone(&service.store);
    let page = on_disk(move || {
        let objects = match only {
            Some(id) => store.show(id)?.into_iter().collect(),
            None => store.list(parameters.after, parameters.limit, &parameters.prefix)?,
        };
        let is_full = objects.len() == parameters.limit;
        let next = objects.last().filter(|_| is_full).map(|object| object.id.clone());
        Ok(ObjectPage { objects, next })
    });
    let mut page = page.await?;
    page.objects
        .iter_mut()
        .for_each(|object| visibility.shown(&mut object.url));
    Ok(Json(page))
}

pub(super) async fn show(
    service: Data<Service>,
    ObjectPath(id): ObjectPath,
    _: Query<NoParameters>,
    visibility: UrlVisibility,
) -> Result<Json<ObjectSummary>, Problem> {
    let store = Arc::clone(&service.store);
    let mut found = on_disk(move || store.show(id)).await?.ok_or_else(unknown)?;
    visibility.shown(&mut found.url);
    Ok(Json(found))
}

pub(super) async fn pin(
    service: Data<Service>,
    id: ObjectPath,
    _: Query<NoParameters>,
) -> Result<Json<ObjectSummary>, Problem> {
    set_pinned(&service, id, true).await
}

pub(super) async fn unpin(
    service: Data<Service>,
    id: ObjectPath,
    _: Query<NoParameters>,
) -> Result<Json<ObjectSummary>, Problem> {
    set_pinned(&service, id, false).await
}

async fn set_pinned(service: &Service, id: ObjectPath, pinned: bool) -> Result<Json<ObjectSummary>, Problem> {
    let (store, ObjectPath(id)) = (Arc::clone(&service.store), id);
    let found = on_disk(move || store.pin(id, pinned)).await?;
    found.map(|object| Json(summary_of(&object))).ok_or_else(unknown)
}

/// How one object is purged.
#[derive(Default)]
pub(super) struct PurgeParameters {
    soft: bool,
}

const SOFT: Parameter = Parameter {
    name: "soft",
    form: "true|false",
    what: "Keeps the bytes, and validates them before their next use.",
};

impl Parameters for PurgeParameters {
    const ALL: &'static [Parameter] = &[SOFT];

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        self.soft = flag(value).filter(|_| name == "soft")?;
        Some(())
    }
}

pub(super) async fn purge(
    service: Data<Service>,
    ObjectPath(id): ObjectPath,
    Query(parameters): Query<PurgeParameters>,
) -> Result<Json<Purged>, Problem> {
    let purged = carry_out(&service, Purge::Object(id), parameters.soft).await?;
    match purged.removed {
        0 => Err(unknown()),
        _ => Ok(Json(purged)),
    }
}

/// Which objects are purged, and how.
#[derive(Default)]
pub(super) struct PurgeManyParameters {
    which: Option<Which>,
    soft: bool,
}

enum Which {
    Url(Url),
    Scope(PurgeScope),
}

impl Parameters for PurgeManyParameters {
    const ALL: &'static [Parameter] = &[
        Parameter {
            name: "url",
            form: "URL",
            what: "The objects of this URL; one of url, prefix and tag has to be there.",
        },
        Parameter {
            name: "prefix",
            form: "URL",
            what: "Objects whose URLs begin so.",
        },
        Parameter {
            name: "tag",
            form: "TAG",
            what: "Objects to which the upstream has given this tag (Surrogate-Key, Cache-Tag).",
        },
        SOFT,
    ];

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        if name == "soft" {
            self.soft = flag(value)?;
            return Some(());
        }
        // An empty prefix means everything, and is mostly a variable of a script that was not set.
        if value.is_empty() || self.which.is_some() {
            return None;
        }
        self.which = Some(match name {
            "url" => Which::Url(Url::parse(value).ok()?),
            "prefix" => Which::Scope(PurgeScope::Prefix(value.to_owned())),
            "tag" => Which::Scope(PurgeScope::Tag(value.to_owned())),
            _ => return None,
        });
        Some(())
    }
}

pub(super) async fn purge_many(
    service: Data<Service>,
    Query(parameters): Query<PurgeManyParameters>,
) -> Result<Json<Purged>, Problem> {
    let purge = match parameters.which {
        Some(Which::Url(url)) => Purge::Url(service.routes.key_of(url).id()),
        Some(Which::Scope(scope)) => Purge::All(scope),
        None => {
            let detail = format!(
                "say what to remove by one of url, prefix and tag; there is {}",
                known::<PurgeManyParameters>()
            );
            return Err(problem(StatusCode::BAD_REQUEST, detail));
        }
    };
    carry_out(&service, purge, parameters.soft).await.map(Json)
}

async fn carry_out(service: &Service, purge: Purge, is_soft: bool) -> Result<Purged, Problem> {
    let mode = if is_soft { PurgeMode::Expire } else { PurgeMode::Remove };
    let fills = service.fills.clone();
    on_disk(move || fills.purge(purge, mode)).await
}

pub(super) async fn stats(service: Data<Service>, _: Query<NoParameters>) -> Result<Json<Stats>, Problem> {
    let store = Arc::clone(&service.store);
    let stored = on_disk(move || store.totals()).await?;
    let metrics = &service.metrics;
    Ok(Json(Stats {
        fills: service.fills.len() as u64,
        hits: metrics.hits.get(),
        misses: metrics.misses.get(),
        sent_bytes: metrics.sent_bytes.get(),
        ..stored
    }))
}

fn unknown() -> Problem {
    problem(StatusCode::NOT_FOUND, "there is no such object")
}
