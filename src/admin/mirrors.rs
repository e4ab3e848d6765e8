//! Mirrors in the API: how they stand, and the order to walk one.
//!
//! A walk is told as it goes, a line of JSON for each event, and the last one is `walked`. It goes on when its client leaves:
//! it is the mirror's, not the client's. An order while a walk is under way is told of that walk.

use super::guard::UrlVisibility;
use super::parameters::{NoParameters, Parameter, Parameters, Query, flag};
use super::{on_disk, problem};
use crate::api::{MirrorSummaries, WalkEvent};
use crate::mirror::{WalkOrder, Walking};
use crate::proxy::{Problem, Service};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Json};
use bytes::Bytes;
use futures::stream;
use std::sync::Arc;
use std::time::Duration;

/// How often progress is told: a line that moves some times a second moves smoothly. A judgement.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// The mirror that is walked.
#[derive(Debug, Default)]
pub(super) struct WalkParameters {
    mirror: String,
    order: WalkOrder,
}

impl Parameters for WalkParameters {
    const ALL: &'static [Parameter] = &[
        Parameter {
            name: "mirror",
            form: "NAME/PATH",
            what: "The mirror.",
        },
        Parameter {
            name: "dry_run",
            form: "true|false",
            what: "Lists and compares, and changes nothing.",
        },
        Parameter {
            name: "confirm_removals",
            form: "true|false",
            what: "Carries out removals that are held.",
        },
    ];

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "mirror" => value.clone_into(&mut self.mirror),
            "dry_run" => self.order.dry_run = flag(value)?,
            "confirm_removals" => self.order.confirms_removals = flag(value)?,
            _ => return None,
        }
        Some(())
    }
}

pub(super) async fn list(
    service: Data<Service>,
    _: Query<NoParameters>,
    visibility: UrlVisibility,
) -> Result<Json<MirrorSummaries>, Problem> {
    let mirrors = Arc::clone(&service.mirrors);
    let mut mirrors = on_disk(move || mirrors.summaries()).await?;
    mirrors.iter_mut().for_each(|mirror| visibility.shown(&mut mirror.url));
    Ok(Json(MirrorSummaries { mirrors }))
}

pub(super) async fn walk(
    service: Data<Service>,
    Query(parameters): Query<WalkParameters>,
) -> Result<HttpResponse, Problem> {
    let mirrors = &service.mirrors;
    let Some(mirror) = mirrors.named(&parameters.mirror) else {
        let there_is = match mirrors.names() {
            names if names.is_empty() => "no mirror".to_owned(),
            names => names.join(", "),
        };
        let detail = format!("there is no mirror {:?}; there is {there_is}", parameters.mirror);
        return Err(problem(StatusCode::NOT_FOUND, detail));
    };
    let walking = mirrors.walk(mirror, parameters.order);
    let body = stream::unfold(Some(walking), |walking| async move {
        let walking = walking?;
        let is_over = tokio::time::timeout(TOLD_EVERY, walking.ended()).await.is_ok();
        Some((
            Ok::<_, std::convert::Infallible>(line(&walking, is_over)),
            (!is_over).then_some(walking),
        ))
    });
    Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(body))
}

fn line(walking: &Walking, is_over: bool) -> Bytes {
    let report = walking.report();
    let event = match is_over {
        true => WalkEvent::Walked(report),
        false => WalkEvent::Progress(report),
    };
    let mut line = serde_json::to_vec(&event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
