//! Fills under way, and why readers wait.
//!
//! The list is a copy of what each fill has told last. Asking for it changes nothing and delays no fill. It names
//! URLs, as the list of objects does, whose secrets are masked for who may not rule.

use super::guard::UrlVisibility;
use super::parameters::{NoParameters, Query};
use crate::api::FillSummaries;
use crate::proxy::Service;
use actix_web::web::{Data, Json};

pub(super) async fn list(
    service: Data<Service>,
    _: Query<NoParameters>,
    visibility: UrlVisibility,
) -> Json<FillSummaries> {
    let mut fills = service.fills.list();
    fills.iter_mut().for_each(|fill| visibility.shown(&mut fill.url));
    Json(FillSummaries { fills })
}
