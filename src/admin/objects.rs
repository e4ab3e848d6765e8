//! Objects: listed, shown, pinned and purged.
//!
//! `GET /-/api/v1/objects?limit=N&after=ID&prefix=URL&url=URL`, `GET /-/api/v1/objects/{id}`, and `DELETE`
//! of the same; `PUT` and `DELETE /-/api/v1/objects/{id}/pin`; `GET /-/api/v1/stats`.

use super::{not_understood, on_disk};
use crate::key::ObjectId;
use crate::serve::{Problem, Service};
use crate::store::{Expired, PurgeMode, PurgeScope, Purged, summary_of};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use std::borrow::Cow;
use std::sync::Arc;
use url::Url;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub(super) async fn list(service: &Service, query: &str) -> HttpResponse {
    let (mut limit, mut after, mut prefix, mut only) = (DEFAULT_LIMIT, None, String::new(), None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let understood = match name.as_ref() {
            "limit" => value
                .parse()
                .ok()
                .filter(|n| (1..=MAX_LIMIT).contains(n))
                .map(|n| limit = n),
            "after" => ObjectId::parse(&value).map(|id| after = Some(id)),
            "prefix" => {
                prefix = value.clone().into_owned();
                Some(())
            }
            "url" => id_of(service, &value).map(|id| only = Some(id)),
            _ => None,
        };
        if understood.is_none() {
            let known = format!("limit=1..{MAX_LIMIT}, after=ID, prefix=URL and url=URL");
            return not_understood(&name, &value, &known);
        }
    }
    let store = Arc::clone(&service.store);
    let look = move || match only {
        Some(id) => Ok(store.show(id)?.into_iter().collect()),
        None => store.list(after, limit, &prefix),
    };
    on_disk(look, |objects: Vec<_>| {
        let next = (objects.len() == limit)
            .then(|| objects.last().map(|object| object.id.clone()))
            .flatten();
        HttpResponse::Ok().json(serde_json::json!({ "objects": objects, "next": next }))
    })
    .await
}

pub(super) async fn show(service: &Service, id: &str) -> HttpResponse {
    let Some(id) = ObjectId::parse(id) else { return no_id() };
    let store = Arc::clone(&service.store);
    on_disk(
        move || store.show(id),
        |found| found.map_or_else(unknown, |object| HttpResponse::Ok().json(object)),
    )
    .await
}

pub(super) async fn pin(service: &Service, id: &str, pinned: bool) -> HttpResponse {
    let Some(id) = ObjectId::parse(id) else { return no_id() };
    let store = Arc::clone(&service.store);
    on_disk(
        move || store.pin(id, pinned),
        |found| found.map_or_else(unknown, |object| HttpResponse::Ok().json(summary_of(&object))),
    )
    .await
}

pub(super) async fn purge(service: &Service, id: &str, query: &str) -> HttpResponse {
    let Some(id) = ObjectId::parse(id) else { return no_id() };
    let mut wanted: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let how = match how(&mut wanted) {
        Ok(how) => how,
        Err(other) => return not_understood("soft", &other, "true and false"),
    };
    on_disk(purging(service, Purge::One(id), how), |removed: Purged| {
        match removed.removed {
            0 => unknown(),
            _ => HttpResponse::Ok().json(removed),
        }
    })
    .await
}

pub(super) async fn purge_many(service: &Service, query: &str) -> HttpResponse {
    const KNOWN: &str = "url=URL, prefix=URL or tag=TAG, one of the three, and soft=true beside it";
    let mut wanted: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let how = match how(&mut wanted) {
        Ok(how) => how,
        Err(other) => return not_understood("soft", &other, "true and false"),
    };
    let [(name, value)] = &wanted[..] else {
        return Problem::new(StatusCode::BAD_REQUEST, format!("say what to remove: {KNOWN}")).response();
    };
    let named =
        |which: fn(String) -> PurgeScope| (!value.is_empty()).then(|| Purge::All(which(value.clone().into_owned())));
    let purge = match name.as_ref() {
        "url" => id_of(service, value).map(Purge::Url),
        "prefix" => named(PurgeScope::Prefix),
        "tag" => named(PurgeScope::Tag),
        _ => None,
    };
    match purge {
        Some(purge) => on_disk(purging(service, purge, how), |removed| HttpResponse::Ok().json(removed)).await,
        None => not_understood(name, value, KNOWN),
    }
}

/// Takes `soft` out of the query.
fn how(query: &mut Vec<(Cow<'_, str>, Cow<'_, str>)>) -> Result<PurgeMode, String> {
    let soft = query.iter().position(|(name, _)| name == "soft");
    match soft.map(|index| query.remove(index).1.into_owned()).as_deref() {
        None | Some("false") => Ok(PurgeMode::Remove),
        Some("true") => Ok(PurgeMode::Expire),
        Some(other) => Err(other.to_owned()),
    }
}

enum Purge {
    One(ObjectId),
    /// The object that the URL stands for, and its variants.
    Url(ObjectId),
    All(PurgeScope),
}

/// A request after a removal finds neither the object nor the fill that still serves its readers.
fn purging(
    service: &Service,
    purge: Purge,
    how: PurgeMode,
) -> impl FnOnce() -> Result<Purged, crate::store::StoreError> + Send + use<> {
    let (store, fills) = (Arc::clone(&service.store), service.fills.clone());
    move || {
        let which = match purge {
            Purge::Url(id) if store.has_variants(id)? => {
                let object = store.load_id(id)?;
                object.map_or(PurgeScope::Url(String::new()), |object| {
                    PurgeScope::Url(object.url().to_owned())
                })
            }
            // The store first: a fill that begins in between does not take what is gone for what is known.
            Purge::One(id) | Purge::Url(id) => {
                let removed = match how {
                    PurgeMode::Remove => store.purge(id),
                    PurgeMode::Expire => store.expire(id, Expired::Stale),
                };
                if how == PurgeMode::Remove {
                    fills.detach(id);
                }
                return removed;
            }
            Purge::All(which) => which,
        };
        let removed = store.purge_all(&which, how);
        if how == PurgeMode::Remove {
            fills.detach_all(&which);
        }
        removed
    }
}

pub(super) async fn stats(service: &Arc<Service>) -> HttpResponse {
    let store = Arc::clone(&service.store);
    let service = Arc::clone(service);
    on_disk(
        move || store.totals(),
        move |sums| {
            let (store, metrics) = (&service.store, &service.metrics);
            HttpResponse::Ok().json(serde_json::json!({
                "objects": sums.objects,
                "complete": sums.complete,
                "incomplete": sums.incomplete,
                "pinned": sums.pinned,
                "present_bytes": sums.present_bytes,
                "disk_bytes": store.used_bytes(),
                "quota_bytes": store.quota_bytes(),
                "free_bytes": store.room(),
                "fills": service.fills.len(),
                "hits": metrics.hits.get(),
                "misses": metrics.misses.get(),
                "sent_bytes": metrics.sent_bytes.get(),
                "evicted": store.evicted(),
                "punched_bytes": store.punched_bytes(),
                "bad_blocks": store.bad_blocks(),
            }))
        },
    )
    .await
}

fn id_of(service: &Service, url: &str) -> Option<ObjectId> {
    Url::parse(url).ok().map(|url| service.routes.key_of(url).id())
}

fn no_id() -> HttpResponse {
    Problem::new(StatusCode::BAD_REQUEST, "an id has 32 hexadecimal digits").response()
}

fn unknown() -> HttpResponse {
    Problem::new(StatusCode::NOT_FOUND, "there is no such object").response()
}
